"""`weft lab`: the verbs. Each finds its lab, calls weft.lab and prints; nothing is worked out here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from weft.cli.client import as_json
from weft.errors import LabError, TopologyError
from weft.lab import fields, matrix, removal, report, services, state
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.topology import SERVICES, ServiceName

F = TypeVar("F", bound=Callable[..., Any])
SERVICE = click.Choice(SERVICES)


def _which(command: F) -> F:
    return click.option("--lab", "name", metavar="NAME", help="Which lab; not needed while only one is up.")(command)


def _json(command: F) -> F:
    return click.option("--json", "json_", is_flag=True, help="Print JSON.")(command)


def _progress(text: str) -> None:
    click.echo(text, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """Try a topology on this machine: hosts as network namespaces, with a Docker Engine and an agent in each.

    Needs root. Nothing appears in the machine's own network namespace. The topology file: docs/lab.md.
    """


@lab.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="The lab's name; default: the file's `name`, then the file's own.")
@_json
def up(file: Path, name: str | None, json_: bool) -> int:
    """Bring up the lab that FILE describes; undo everything if that fails or is interrupted."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TopologyError(f"{file} can't be read: {error}") from error
    if name and isinstance(document, dict):
        document["name"] = name
    found = asyncio.run(Lab.up(document, file.stem, str(file.resolve()), _progress))
    if json_:
        as_json(asyncio.run(report.status(found)))
    else:
        click.echo(
            f"lab {found.name} is up: `weft lab ping --wait 30`, `weft lab status`, `weft lab down {found.name}`"
        )
    return 0


@lab.command()
@click.argument("name", required=False)
@click.option("--lab", "named", metavar="NAME", help="The same as the argument.")
@click.option("--all", "all_", is_flag=True, help="Remove every lab on this machine.")
def down(name: str | None, named: str | None, all_: bool) -> int:
    """Remove a lab, also one that crashed or was interrupted. NAME is not needed while there is only one."""
    known = state.labs()
    wanted = known if all_ else [name or named or state.only()]
    for one in wanted:
        if one not in known:
            raise LabError(f"no lab {one!r} is up; {fields.nearest(one, known)}")
        asyncio.run(removal.remove(one))
        click.echo(f"lab {one} is gone")
    return 0


@lab.command("list")
@_json
def list_(json_: bool) -> int:
    """List the labs on this machine."""
    found = report.listing()
    if json_:
        as_json(found)
        return 0
    for one in found:
        left = "" if one["whole"] else f"  (not whole: `weft lab down {one['lab']}` removes it)"
        click.echo(f"{one['lab']}: {', '.join(one['hosts']) or 'no hosts'}{left}")
    return 0


@lab.command()
@_which
@_json
def status(name: str | None, json_: bool) -> int:
    """Show a lab: cables, services, networks. Exit code 1 if something that should run doesn't."""
    found = asyncio.run(report.status(Lab.load(name)))
    if json_:
        as_json(found)
    else:
        click.echo("\n".join(report.status_lines(found)))
    hosts = found["hosts"].values()
    return int(not all(h["running"] and all(h[s] is None or h[s]["running"] for s in SERVICES) for h in hosts))


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("where", metavar="HOST[/CONTAINER]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_which
def exec_(where: str, command: tuple[str, ...], name: str | None) -> None:
    """Run a command in a host, or in a container of it; its exit code is ours.

    In a host, `weft` asks that host's agent and `docker` its engine: weft lab exec a -- weft show peers
    """
    found = Lab.load(name)
    host_name, _, container = where.partition("/")
    host = found.host(host_name)
    if container:
        line, settings = asyncio.run(found.container_command(host, container, list(command))), {}
    else:
        line, settings = host.inside(list(command)), services.daemon_environment(host)
    os.execvpe(line[0], line, host.environment | settings)


@lab.command()
@_which
@_json
@click.option("--count", default=3, show_default=True, type=click.IntRange(1, 10000), help="Pings per pair.")
@click.option("--interval", default=0.2, show_default=True, type=click.FloatRange(0), help="Seconds between them.")
@click.option("--timeout", default=1.0, show_default=True, type=click.FloatRange(0), help="Seconds for an answer.")
@click.option("--wait", metavar="SECONDS", type=click.FloatRange(0), help="First wait until every pair answers.")
def ping(name: str | None, json_: bool, count: int, interval: float, timeout: float, wait: float | None) -> int:
    """Ping from every container to every other one, by each address. Exit code 1 if any pair loses a ping."""
    found = Lab.load(name)

    async def measure() -> list[matrix.Tally]:
        if wait is not None:
            await matrix.settle(found, wait)
        return await matrix.ping(found, count, interval, timeout)

    tallies = asyncio.run(measure())
    if json_:
        as_json(report.tallies_json(tallies))
    else:
        click.echo("\n".join(report.tallies_lines(found.topology, tallies)))
    return int(not all(tally.ok for tally in tallies))


@lab.command()
@click.argument("host")
@click.argument("segment")
@click.option(
    "--keep-carrier", is_flag=True, help="Frames vanish and the interface stays up, as behind a broken switch."
)
@_which
def cut(host: str, segment: str, keep_carrier: bool, name: str | None) -> int:
    """Pull the cable between HOST (or a router) and SEGMENT."""
    asyncio.run(Lab.load(name).cut(host, segment, keep_carrier))
    return 0


@lab.command()
@click.argument("host")
@click.argument("segment")
@_which
def heal(host: str, segment: str, name: str | None) -> int:
    """Plug the cable between HOST and SEGMENT in again."""
    asyncio.run(Lab.load(name).heal(host, segment))
    return 0


def _service_verb(name: str, does: Callable[[LabHost, ServiceName], Coroutine[None, None, None]], text: str) -> None:
    """Add a verb that does something to one service of one host."""

    @lab.command(name, help=text)
    @click.argument("host")
    @click.argument("service", type=SERVICE)
    @_which
    def change(host: str, service: ServiceName, name: str | None) -> int:
        asyncio.run(does(Lab.load(name).host(host), service))
        return 0


_service_verb("kill", services.kill, "End a service on HOST as a crash would (SIGKILL).")
_service_verb("stop", services.stop, "End a service on HOST in order (SIGTERM).")
_service_verb("start", services.start, "Start a service on HOST again.")
_service_verb("restart", services.restart, "Stop a service on HOST in order, and start it again.")


@lab.command()
@click.argument("host")
@click.argument("service", type=SERVICE, required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added.")
@click.option("-n", "--lines", default=200, show_default=True, type=click.IntRange(0), help="Lines from the end.")
@_which
def logs(host: str, service: ServiceName | None, follow: bool, lines: int, name: str | None) -> None:
    """Print the log of a service on HOST; of its daemon (agent, flanneld, registrar, discovery, router) without one."""
    found = Lab.load(name).host(host)
    there = found.host.services
    which = service or (there[-1] if there else "agent")
    path = found.log(which)
    if not path.exists():
        raise LabError(f"{which} on {host} has written no log yet; `weft lab status` shows what runs there")
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)])
