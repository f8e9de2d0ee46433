"""The demonstration: three Docker hosts find each other, get broken and mend themselves. scripts/demo runs this.

Exit code 0 if everything worked, 1 if not; what it prints is what it measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from statistics import median

import yaml

from weft.errors import LabError, WeftError
from weft.lab import matrix, repair, report, shell
from weft.lab.lab import Lab
from weft.lab.topology import Container, ContainerNetwork

NEW_NETWORK = ContainerNetwork(
    "shiny", (ip_network("10.1.77.0/24"),), containers=(Container("shiny1", (ip_interface("10.1.77.2/24"),)),)
)
TIMES = 5
"""How often each fault is inflicted."""
PATIENCE = 30.0
"""Seconds until every container must reach every other one."""
SERVING = 10.0
"""Seconds until the server in a container must listen."""
BOLD, DIM, GREEN, RED, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else [""] * 5
)


def say(text: str = "") -> None:
    """A line of the story, at once."""
    print(text, flush=True)


def chapter(text: str) -> None:
    """What comes next."""
    say(f"\n{BOLD}{text}{PLAIN}")


async def demonstrate(file: Path, name: str, keep: bool) -> None:
    """The whole story. LabError if a part of it doesn't hold; the lab is removed unless `keep`."""
    chapter("Three hosts, each with a Docker Engine, two networks of its own and one weft agent")
    begun = time.monotonic()
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    lab = await Lab.up({**document, "name": name}, name, str(file), lambda text: say(f"  {DIM}{text}{PLAIN}"))
    try:
        say(f"  up after {time.monotonic() - begun:.1f} s")
        await _connected(lab)
        await _repairs(lab)
        await _new_network(lab)
    except BaseException:
        if not keep:
            await lab.down()
        raise
    if keep:
        _hints(lab)
    else:
        chapter("Clean up")
        await lab.down()
        say(f"  nothing is left; all of it took {time.monotonic() - begun:.1f} s")


async def _connected(lab: Lab) -> None:
    chapter("Every container reaches every other one by its own address   (weft lab ping)")
    waited = await matrix.settle(lab, PATIENCE)
    tallies = await matrix.ping(lab)
    for line in report.tallies_lines(lab.topology, tallies):
        say(f"  {line}")
    if waited is None or not all(tally.ok for tally in tallies):
        raise LabError(f"not every pair answers after {PATIENCE:g} s; see `weft lab logs HOST`")
    say(f"  {GREEN}✓{PLAIN} all of them, {waited:.1f} s after the last host was up")


async def _repairs(lab: Lab) -> None:
    host = lab.hosts[0]
    chapter(f"Break host {host.name}, one thing after the other   (until everything is as before; each {TIMES} times)")
    for fault in repair.FAULTS:
        took = [await repair.mended(host, fault) for _ in range(TIMES)]
        how = "" if await repair.is_told(fault) else "   (seen from outside: iptables-legacy tells nobody)"
        figures = f"{median(took):7.1f} ms median{max(took):8.1f} ms worst"
        say(f"  {GREEN}✓{PLAIN} {fault.name + ' deleted':<28}{figures}{how}")
    tallies = await matrix.ping(lab, count=1)
    if not all(tally.ok for tally in tallies):
        raise LabError(
            "after the repairs not every pair answers: " + list(report.tallies_lines(lab.topology, tallies))[-1]
        )
    say(f"  {GREEN}✓{PLAIN} {report.summary(tallies)}")


async def _new_network(lab: Lab) -> None:
    host, other = lab.hosts[0], lab.hosts[1]
    (subnet,) = NEW_NETWORK.subnets
    chapter(f"A new Docker network on {host.name}   (docker network create --subnet {subnet} {NEW_NETWORK.name})")
    seen = await repair.spread(lab, host, NEW_NETWORK)
    say(f"    Docker needs {seen.created:.0f} ms to create it")
    for name, after in seen.routed.items():
        when = f"{after:.1f} ms after Docker's answer" if after > 0 else "before Docker has answered"
        say(f"  {GREEN}✓{PLAIN} host {name} routes to it {when}")
    ((container, address),) = ((c.name, c.addresses[0].ip) for c in NEW_NETWORK.containers)
    _, caller = next(other.host.containers())
    fetch = await lab.container_command(
        other, caller.name, ["timeout", "5", "wget", "-q", "-O", "-", f"http://{address}/"]
    )
    answer = (await _first_answer(fetch)).strip()
    if answer != container:
        raise LabError(
            f"{other.name}/{caller.name} asked http://{address}/ and got {answer!r} instead of {container!r}"
        )
    say(f"  {GREEN}✓{PLAIN} {other.name}/{caller.name} fetches http://{address}/ from {host.name}/{container}")


async def _first_answer(fetch: Sequence[str]) -> str:
    """The container is there before the server in it listens."""
    deadline = asyncio.get_running_loop().time() + SERVING
    while True:
        try:
            return await shell.run(fetch)
        except LabError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)


def _hints(lab: Lab) -> None:
    chapter(f"Lab {lab.name} stays up. Try:")
    a, b = lab.hosts[:2]
    _, inner = next(a.host.containers())
    _, target = next(b.host.containers())
    for command, what in (
        ("weft lab ping", "the matrix again"),
        (f"weft lab exec {a.name} -- weft show peers", "what an agent knows"),
        (f"weft lab exec {a.name} -- weft explain {target.addresses[0].ip}", "and why"),
        (
            f"weft lab exec {a.name}/{inner.name} -- wget -qO- http://{target.addresses[0].ip}/",
            "container to container",
        ),
        (f"weft lab exec {a.name} -- docker network create more", "it is known everywhere at once"),
        (f"weft lab exec {a.name} -- ip link delete vxlan4096", "it is back before you look"),
        (f"weft lab cut {b.name} lan; weft lab heal {b.name} lan", "pull a cable"),
        (f"weft lab kill {b.name} agent; weft lab start {b.name} agent", "traffic flows on"),
        (f"weft lab logs {a.name} -f", "what the agent says"),
        (f"weft lab down {lab.name}", "remove everything"),
    ):
        say(f"  {command:<66}{DIM}# {what}{PLAIN}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Three Docker hosts, connected by weft.")
    parser.add_argument("file", type=Path, help="the topology: examples/three-hosts.yaml")
    parser.add_argument("--keep", action="store_true", help="leave the lab up, with hints what to try")
    parser.add_argument("--name", default="demo", help="the lab's name (default: demo)")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(demonstrate(given.file, given.name, given.keep))
    except WeftError as error:
        print(f"{RED}demo: {error}{PLAIN}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; the lab is removed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
