"""Break one thing of weft's on a host and time how long it takes until everything is as it was.

The demo, the lab tests and scripts/bench call this.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from weft.errors import LabError
from weft.lab import netns, shell
from weft.lab.engine import Engine
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.topology import ContainerNetwork
from weft.lab.watch import Kind, Recorder

QUIET = 0.03
"""Seconds without a notification after which it is worth looking whether all is as before."""
PATIENCE = 20.0
OURS = ("proto", "76")
Lines = frozenset[str]
"""The state of a host's kernel as iproute2 and iptables print it, a line each."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to break. `kind`: the notification that tells that it is broken."""

    name: str
    kind: Kind
    inflict: Callable[[LabHost], Awaitable[None]]


async def mended(host: LabHost, fault: Fault) -> float:
    """Inflict a fault; milliseconds from the kernel's word that the object is gone until everything is as before.

    Where the kernel tells nobody (see `is_told`): from the end of the command that broke it until it was seen whole
    again, which is some 50 ms too much. LabError if the host isn't whole to begin with, if it is not mended in 20 s, or
    if the kernel should have told and that was missed."""
    before = await snapshot(host)
    told = await is_told(fault)
    with Recorder(netns.path(host.namespace)) as recorder:
        await fault.inflict(host)
        inflicted = time.monotonic()
        while time.monotonic() < inflicted + PATIENCE:
            while await recorder.more(QUIET):
                pass
            if await snapshot(host) == before:
                seconds = _between(recorder, host, fault) if told else time.monotonic() - inflicted
                return seconds * 1000
    lost = "; ".join(sorted(before - await snapshot(host))) or "something new stands there"
    raise LabError(f"{fault.name} on {host.name} was not mended within {PATIENCE:g} s: {lost}")


async def is_told(fault: Fault) -> bool:
    """Whether the kernel tells that this went and came: rules of iptables-legacy change without a word."""
    return fault.kind != "rule" or "legacy" not in await shell.run(["iptables", "--version"])


def _between(recorder: Recorder, host: LabHost, fault: Fault) -> float:
    """Seconds from the first word that the object is gone to the last word that something came."""
    gone, came = recorder.first(fault.kind, gone=True), recorder.last_came()
    if gone is None or came is None or came < gone:
        missed = "went" if gone is None else "came back"
        raise LabError(
            f"{fault.name} on {host.name} is as before, and no notification ({fault.kind}) told that it {missed}:"
            f" this repair can't be timed; {len(recorder.events)} other events were heard"
        )
    return came - gone


@dataclass(frozen=True, slots=True)
class Spread:
    """How a new network got known: milliseconds that the engine took to create it, and by host, how long after the
    engine's answer the route to it was there (negative: before Docker had answered)."""

    created: float
    routed: dict[str, float]


async def spread(lab: Lab, host: LabHost, network: ContainerNetwork) -> Spread:
    """Create a Docker network (and its containers) on `host` and time when the kernels of the other hosts that have an
    agent or a registrar route to it."""
    told = [one for one in lab.hosts if one.host.runs("agent") or one.host.runs("registrar")]
    others = [other for other in told if other.name != host.name]
    async with AsyncExitStack() as stack:
        recorders = {other: stack.enter_context(Recorder(netns.path(other.namespace))) for other in others}
        engine = await stack.enter_async_context(Engine(host.docker_socket))
        begun = time.monotonic()
        await engine.create_network(network.name, network.subnets, dict(network.labels))
        created = time.monotonic()
        routed = {other.name: await _first_route(other, recorder) - created for other, recorder in recorders.items()}
        for container in network.containers:
            await engine.run(network, container)
    return Spread((created - begun) * 1000, {name: seconds * 1000 for name, seconds in routed.items()})


async def _first_route(host: LabHost, recorder: Recorder) -> float:
    deadline = time.monotonic() + PATIENCE
    while (moment := recorder.first("route", gone=False)) is None:
        if time.monotonic() > deadline:
            raise LabError(f"host {host.name} has no route to the new network after {PATIENCE:g} s")
        await recorder.more(0.1)
    return moment


# -- what there is --------------------------------------------------------------------------------------------------


async def snapshot(host: LabHost) -> Lines:
    """Everything of weft's on a host: device, entries, next hops, routes, firewall. LabError if there is no device."""
    device = await vxlan(host)
    asked = (
        ["ip", "-n", host.namespace, "neighbour", "show", "nud", "permanent"],
        ["ip", "-n", host.namespace, "-6", "neighbour", "show", "nud", "permanent"],
        ["bridge", "-n", host.namespace, "fdb", "show", "dev", device or "lo"],
        ["ip", "-n", host.namespace, "nexthop", "show", *OURS],
        ["ip", "-n", host.namespace, "route", "show", *OURS],
        ["ip", "-n", host.namespace, "-6", "route", "show", *OURS],
    )
    lines = {f"device {device}"}
    for text in await asyncio.gather(*(shell.run(command) for command in asked), *_firewall(host)):
        lines |= {line.strip() for line in text.splitlines()}
    return frozenset(lines)


def _firewall(host: LabHost) -> list[Awaitable[str]]:
    return [_rules(host, tool) for tool in ("iptables-save", "ip6tables-save") if shutil.which(tool)]


async def _rules(host: LabHost, tool: str) -> str:
    """Every rule of a chain of ours, with its number in it, and every rule elsewhere that leads to one. Where among
    other people's rules that stands may differ: they come and go."""
    found: list[str] = []
    for line in (await shell.run(["nsenter", f"--net={netns.path(host.namespace)}", tool])).splitlines():
        if line.startswith("-A WEFT-"):
            number = sum(other.split()[2] == line.split()[1] for other in found) + 1
            found.append(f"{tool} {line} # {number}")
        elif line.startswith("-A ") and "-j WEFT-" in line:
            found.append(f"{tool} {line}")
    return "\n".join(found)


async def vxlan(host: LabHost) -> str:
    """The name of the host's VXLAN device, weft's own before others, the first by name; empty if it has none."""
    found = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", "link", "show", "type", "vxlan"]) or "[]")
    up = [link for link in found if link and "UP" in link["flags"]]
    names = sorted((not str(link.get("ifalias", "")).startswith("weft:"), str(link["ifname"])) for link in up)
    return names[0][1] if names else ""


# -- what can be broken -----------------------------------------------------------------------------------------------


async def _ip_json(host: LabHost, *words: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", *words]) or "[]")
    if not found:
        raise LabError(
            f"host {host.name} has nothing to break: `ip {' '.join(words)}` shows none; is its agent running?"
        )
    return found


async def _delete_route(host: LabHost) -> None:
    route = (await _ip_json(host, "route", "show", *OURS))[0]
    await shell.run(["ip", "-n", host.namespace, "route", "delete", str(route["dst"]), *OURS])


async def _delete_neighbour(host: LabHost) -> None:
    device = await vxlan(host)
    entry = (await _ip_json(host, "neighbour", "show", "dev", device, "nud", "permanent"))[0]
    await shell.run(["ip", "-n", host.namespace, "neighbour", "delete", str(entry["dst"]), "dev", device])


async def _delete_fdb(host: LabHost) -> None:
    device = await vxlan(host)
    entries = json.loads(await shell.run(["bridge", "-n", host.namespace, "-j", "fdb", "show", "dev", device]))
    entry = entries[0]
    words = [entry["mac"], "dev", device, "dst", entry["dst"], "self"]
    await shell.run(["bridge", "-n", host.namespace, "fdb", "delete", *words])


async def _delete_next_hop(host: LabHost) -> None:
    hop = (await _ip_json(host, "nexthop", "show", *OURS))[0]
    await shell.run(["ip", "-n", host.namespace, "nexthop", "delete", "id", str(hop["id"])])


async def _delete_device(host: LabHost) -> None:
    await shell.run(["ip", "-n", host.namespace, "link", "delete", await vxlan(host)])


async def _delete_chain(host: LabHost) -> None:
    """The chain that lets the overlay through FORWARD, with all that leads into it, in one transaction."""
    enter = ["nsenter", f"--net={netns.path(host.namespace)}"]
    saved = (await shell.run([*enter, "iptables-save", "-t", "filter"])).splitlines()
    chains = [line[1:].split()[0] for line in saved if line.startswith(":WEFT-")]
    if not chains:
        raise LabError(f"host {host.name} has no firewall chain of weft's to break; is its agent running?")
    jumps = [line for line in saved if line.startswith("-A ") and line.endswith(f"-j {chains[0]}")]
    script = ["*filter", *("-D" + line.removeprefix("-A") for line in jumps), f"-F {chains[0]}", f"-X {chains[0]}"]
    await shell.run([*enter, "iptables-restore", "--noflush"], "\n".join([*script, "COMMIT", ""]))


FAULTS = (
    Fault("a route", "route", _delete_route),
    Fault("a neighbour", "neighbour", _delete_neighbour),
    Fault("an FDB entry", "fdb", _delete_fdb),
    Fault("a next-hop object", "next hop", _delete_next_hop),
    Fault("the VXLAN device", "link", _delete_device),
    Fault("the firewall chain", "rule", _delete_chain),
)
