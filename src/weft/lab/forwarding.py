"""A VPC's gateway: the kernel forwards as the local cloud's route table says, and by nothing else. `gateway` runs this
beside the API, in the namespace of the host that is the router of the network.

The kernel's routes are known by their protocol: while the API is away packets go on as before, as in a cloud, and its
next run finds them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from weft.errors import LabError
from weft.lab import shell
from weft.lab.compute.engine import Compute
from weft.lab.compute.resources import Route, path_of
from weft.lab.compute.table import Table
from weft.model import IPAddress, IPNetwork

log = logging.getLogger("weft")
PROTOCOL = "79"
"""Of the kernel's routes that are the table's. Weft's own have 76."""
LOOK = 0.02
"""Seconds between two looks at the table, which is in this very process."""
Ways = Mapping[tuple[IPNetwork, int], tuple[IPAddress, ...]]
"""Destination and metric → where to; of several to one destination the lowest metric wins, as in the cloud."""


def ways(table: Table, routes: Iterable[Route], network: str) -> Ways:
    """What the routes of `network` come to; those into itself and to the internet need nothing."""
    found: dict[tuple[IPNetwork, int], set[IPAddress]] = {}
    for route in routes:
        hop = _hop(table, route)
        if hop is not None and path_of(route.network).rpartition("/")[2] == network:
            metric = (route.priority or 0) + 1  # IPv6 takes 0 for another word
            found.setdefault((ip_network(route.dest_range), metric), set()).add(hop)
    return {key: tuple(sorted(hops, key=int)) for key, hops in found.items()}


def _hop(table: Table, route: Route) -> IPAddress | None:
    """The address that the route leads to, if it is one of an instance."""
    if route.next_hop_ip:
        return ip_address(route.next_hop_ip)
    if not route.next_hop_instance:
        return None
    words = path_of(route.next_hop_instance).split("/")  # projects/P/zones/Z/instances/I
    found = table.instance(words[-3], words[-1])
    version = ip_network(route.dest_range).version
    return next((one for one in found.addresses if one.version == version), None) if found else None


def changes(wanted: Ways, there: Ways) -> list[str]:
    """Lines for `ip -batch`: what is new or other first, and nothing absent in between."""
    lines = []
    for (dst, metric), hops in wanted.items():
        if there.get((dst, metric)) != hops:
            to = f"via {hops[0]}" if len(hops) == 1 else " ".join(f"nexthop via {hop}" for hop in hops)
            lines.append(f"route replace {dst} proto {PROTOCOL} metric {metric} {to}")
    gone = there.keys() - wanted.keys()
    return lines + [f"route del {dst} proto {PROTOCOL} metric {metric}" for dst, metric in sorted(gone, key=str)]


async def follow(engine: Compute, network: str, keep: Callable[[Compute], None]) -> None:
    """Keep the kernel as the table is, for ever; `keep` is told of every change. LabError if routes can't be read."""
    seen: object = None
    while True:
        engine.advance()
        now = (len(engine.history.changes), engine.table)
        if now != seen:
            wanted = ways(engine.table, engine.routes().values(), network)
            keep(engine)
            await _lay(changes(wanted, await _present()))
            seen = now
        await asyncio.sleep(LOOK)


async def _present() -> Ways:
    """What is in the kernel of it."""
    found: dict[tuple[IPNetwork, int], tuple[IPAddress, ...]] = {}
    for version in ("-4", "-6"):
        told: list[dict[str, Any]] = json.loads(
            await shell.run(["ip", version, "-json", "route", "show", "proto", PROTOCOL]) or "[]"
        )
        for one in told:
            hops = [ip_address(hop["gateway"]) for hop in one.get("nexthops", [one])]
            found[ip_network(one["dst"]), int(one.get("metric", 0))] = tuple(sorted(hops, key=int))
    return found


async def _lay(lines: list[str]) -> None:
    """One that the kernel refuses leaves the others alone."""
    try:
        if lines:
            await shell.run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")
    except LabError as error:
        log.warning("the gateway: %s", error)
