"""What `weft lab ping`, `status` and `list` show, as values for JSON and as lines for people.

The demo prints them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from weft.errors import LabError
from weft.lab import matrix, state
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.matrix import Tally
from weft.lab.topology import SERVICES, ServiceName, Topology, Tunnel


def tallies_json(tallies: Sequence[Tally]) -> dict[str, Any]:
    """All pairs; `rtt_ms` is the mean, null if no ping was answered."""
    return {
        "ok": all(tally.ok for tally in tallies),
        "pairs": [
            {
                "source": tally.pair.source,
                "target": tally.pair.target,
                "address": str(tally.pair.address),
                "sent": tally.sent,
                "answered": len(tally.rtts),
                "loss": round(tally.loss, 4),
                "rtt_ms": None if tally.rtt is None else round(tally.rtt, 3),
                "refusal": tally.refusal,
            }
            for tally in tallies
        ],
    }


def tallies_lines(topology: Topology, tallies: Sequence[Tally]) -> Iterator[str]:
    """One table per IP version, the pairs that fail with their reasons, and a summary."""
    names = [matrix.label(host, container) for host in topology.hosts for _, container in host.containers()]
    for version in (4, 6):
        cells = {
            (tally.pair.source, tally.pair.target): _cell(tally)
            for tally in tallies
            if tally.pair.address.version == version
        }
        if cells:
            yield f"IPv{version}, milliseconds (row pings column; · is not for weft to connect)"
            yield from _table([name for name in names if any(name in pair for pair in cells)], cells)
            yield ""
    for tally in tallies:
        if not tally.ok:
            reason = f": {tally.refusal}" if tally.refusal else ""
            lost = f"{tally.sent - len(tally.rtts)} of {tally.sent} lost"
            yield f"! {tally.pair.source} → {tally.pair.target} ({tally.pair.address}): {lost}{reason}"
    yield summary(tallies)


def _cell(tally: Tally) -> str:
    if tally.ok and tally.rtt is not None:
        return f"{tally.rtt:.2f}"
    return "lost" if not tally.rtts else f"-{tally.loss:.0%}"


def _table(names: list[str], cells: dict[tuple[str, str], str]) -> Iterator[str]:
    first = max(map(len, names)) + 4
    numbers = range(1, len(names) + 1)
    yield " " * first + "".join(f"{number:>7}" for number in numbers)
    for number, source in enumerate(names, start=1):
        row = "".join(f"{cells.get((source, target), '·'):>7}" for target in names)
        yield f"{number:>2}  {source:<{first - 4}}{row}"


def summary(tallies: Sequence[Tally]) -> str:
    """`24 of 24 pairs answer; round trip 0.31 ms median, 1.20 ms worst`."""
    if not tallies:
        return "there is no pair to ping: the lab has fewer than two containers that may reach each other"
    good = [tally for tally in tallies if tally.ok]
    trips = [rtt for tally in tallies for rtt in tally.rtts]
    times = f"; round trip {median(trips):.2f} ms median, {max(trips):.2f} ms worst" if trips else ""
    return f"{len(good)} of {len(tallies)} pairs answer{times}"


async def status(lab: Lab) -> dict[str, Any]:
    """The whole lab: cables, services with their pids, networks with their containers."""
    cut = await lab.cables_cut()
    plugs = {
        member.name: [
            {
                "segment": port.segment.name,
                "interface": port.interface,
                "addresses": [str(address) for address in port.addresses],
                "cut": (member.name, port.segment.name) in cut,
            }
            for port in member.ports
        ]
        for member in lab.topology.members
    }
    for host in lab.topology.hosts:
        plugs[host.name] += [_end(tunnel, (host.name, tunnel.device) in cut) for tunnel in host.tunnels]
    return {
        "lab": lab.name,
        "segments": {
            segment.name: {"subnets": [str(subnet) for subnet in segment.subnets], "mtu": segment.mtu}
            for segment in lab.topology.segments
        },
        "routers": {router.name: {"ports": plugs[router.name]} for router in lab.topology.routers},
        "hosts": {host.name: _host(host) | {"ports": plugs[host.name]} for host in lab.hosts},
    }


def _end(tunnel: Tunnel, cut: bool) -> dict[str, Any]:
    """A tunnel's end, as a port is told; the tunnel stands in place of the segment."""
    addresses = [str(address) for address in tunnel.addresses]
    return {"segment": tunnel.device, "interface": tunnel.device, "addresses": addresses, "cut": cut}


def _host(host: LabHost) -> dict[str, Any]:
    found: dict[str, Any] = {"namespace": host.namespace, "running": _lives(host)}
    for service in SERVICES:
        found[service] = _service(host, service) if found["running"] else None
    found["networks"] = {
        network.name: {
            "subnets": [str(subnet) for subnet in network.subnets],
            "exposed": host.host.exposes(network),
            "containers": {c.name: [str(address.ip) for address in c.addresses] for c in network.containers},
        }
        for network in host.host.networks
    }
    return found


def _lives(host: LabHost) -> bool:
    with contextlib.suppress(LabError):
        return bool(host.init())
    return False


def _service(host: LabHost, service: ServiceName) -> dict[str, Any] | None:
    if not host.host.runs(service):
        return None
    mark = host.running(service)
    return {"running": mark is not None, "pid": mark.pid if mark else None, "log": str(host.log(service))}


def status_lines(found: dict[str, Any]) -> Iterator[str]:
    """`status` for people."""
    yield f"lab {found['lab']}"
    for name, segment in found["segments"].items():
        yield f"segment {name}: {', '.join(segment['subnets'])}, MTU {segment['mtu']}"
    for kind in ("routers", "hosts"):
        for name, member in found[kind].items():
            yield f"{kind[:-1]} {name}: {'; '.join(_plug(plug) for plug in member['ports'])}"
            if kind == "hosts":
                yield from _host_lines(member)


def _plug(plug: dict[str, Any]) -> str:
    state_ = ", CUT" if plug["cut"] else ""
    return f"{plug['interface']} {', '.join(plug['addresses'])} on {plug['segment']}{state_}"


def _host_lines(member: dict[str, Any]) -> Iterator[str]:
    if not member["running"]:
        yield "    NOT RUNNING"
    for service in SERVICES:
        if told := member[service]:
            yield f"    {service} " + (f"runs, pid {told['pid']} there" if told["running"] else "DOES NOT RUN")
    for name, network in member["networks"].items():
        ends = "; ".join(f"{c} {', '.join(a)}".rstrip() for c, a in network["containers"].items()) or "no containers"
        private = "" if network["exposed"] else " (private)"
        where = ", ".join(network["subnets"]) or "without a lease yet"
        yield f"    network {name} {where}{private}: {ends}"


def listing() -> list[dict[str, Any]]:
    """Every lab on this machine; `whole` False for what a crash or an interruption left."""
    found = []
    for name in state.labs():
        try:
            lab = Lab.load(name)
            whole = all(_lives(host) for host in lab.hosts)
            found.append({"lab": name, "hosts": [host.name for host in lab.hosts], "whole": whole})
        except LabError:
            found.append({"lab": name, "hosts": [], "whole": False})
    return found
