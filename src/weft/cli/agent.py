"""`weft agent`, `weft plan` and `weft settings`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from weft.cli.client import as_json, ask_at, config_option, running, table
from weft.errors import AgentUnreachable, NotYet, TargetError
from weft.settings import Settings, describe, load

EXIT_CHANGES = 2

FLAGS = ("node", "interface", "endpoint", "vni", "port", "mtu", "engine", "networks", "peers", "socket", "log_level")
"""Settings that have a flag of their own; the others are set in the environment or the file."""


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    texts = {key: (variable, text) for key, variable, _, text in describe()}
    for key in reversed(FLAGS):
        variable, text = texts[key]
        flag = "--" + key.replace("_", "-")
        command = click.option(flag, key, metavar="VALUE", help=f"{text}  [{variable}]")(command)
    return config_option(command)


def _load(config: Path | None, flags: dict[str, str | None]) -> Settings:
    return load(os.environ, {key: text for key, text in flags.items() if text is not None}, config)


@click.command()
@_settings_options
def agent(config: Path | None, **flags: str | None) -> int:
    """Run on a host: connect its container networks with the other hosts'.

    Needs root (CAP_NET_ADMIN) and, for engine docker, Docker's socket. SIGTERM and SIGINT end it and leave the tunnels
    up; `weft cleanup` takes them down. All settings: `weft settings`.
    """
    from weft.daemons.agent import run

    return asyncio.run(run(_load(config, flags)))


@click.command()
@_settings_options
@click.option("--wait", default=3.0, show_default=True, help="Seconds to listen for peers if no agent runs here.")
@click.option("--json", "json_", is_flag=True, help="Print changes, held removals and conflicts as JSON.")
def plan(config: Path | None, wait: float, json_: bool, **flags: str | None) -> int:
    """Print what the agent would change now, as ip, bridge and iptables lines; change nothing.

    The running agent is asked; if there is none, Docker and the kernel are read and the other hosts are asked for what
    they announce. Exit code 0: nothing to do, 2: changes are pending, 3: it could not be found out.
    """
    settings = _load(config, flags)
    try:
        answer = ask_at(running(settings.socket), "plan")
    except AgentUnreachable:
        from weft.daemons.agent import dry_run

        try:
            answer = msgspec.to_builtins(asyncio.run(dry_run(settings, wait)))
        except TargetError as error:
            raise NotYet(f"no plan can be made: {error}") from error
    if json_:
        as_json(answer)
    else:
        for line in answer["changes"]:
            click.echo(line)
        for line in answer["held"]:
            click.echo(f"# held until every source has spoken: {line}")
        for line in answer["conflicts"]:
            click.echo(f"# conflict, left alone: {line}", err=True)
    return EXIT_CHANGES if answer["changes"] else 0


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.option("--markdown", is_flag=True, help="Print docs/settings.md.")
def settings(json_: bool, markdown: bool) -> None:
    """List every setting: its variable, its default, what it is."""
    rows = describe()
    if json_:
        as_json([dict(zip(("key", "variable", "default", "text"), row, strict=True)) for row in rows])
    elif markdown:
        sys.stdout.write(as_markdown(rows))
    else:
        table(["SETTING", "ENVIRONMENT", "DEFAULT", "WHAT"], [list(row) for row in rows])


def as_markdown(rows: list[tuple[str, str, str, str]]) -> str:
    """The page docs/settings.md."""
    head = (
        "# Settings\n\nMade by `weft settings --markdown`. Which wins: a flag, the environment, the YAML file\n"
        "(`--config` or `WEFT_CONFIG`), the default. An unknown key or a bad value is an error that names it.\n\n"
        "| setting | environment | default | what it is |\n|---|---|---|---|\n"
    )
    return head + "".join(f"| `{k}` | `{v}` | {f'`{d}`' if d else ''} | {t} |\n" for k, v, d, t in rows)
