"""Subnets that several nodes take packets for: one next-hop group for each set of ends. Pure; called by `core/plan.py`.

Routes on a group spread their flows over its members, and all of them follow when the group is replaced: an end that
goes costs one request, and the flows over the others lose nothing. So a group's id follows from the first of its
subnets and not from its ends. How a flow is told from another is the host's own choice (net.ipv4 and net.ipv6
fib_multipath_hash_policy), which is left as it is.

Members are next hops of their own, beside those of the node that the end is: a part of the plan holds all that it
needs. Their ids and the groups' are below those of the nodes (`slots.py`), each from a hash of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from weft.backends.tunnel import NEXT_HOP_BASE, Tunnel, narrowed, spread
from weft.backends.vxlan import gateway_of, is_flooded
from weft.model import IPAddress, IPNetwork, Multipath, Relay
from weft.objects import Neighbour, NextHop, NextHopGroup, Object, Route, Why

FIRST_ID = 0x60000000
IDS = NEXT_HOP_BASE - FIRST_ID
"""How many there are."""


class _End(NamedTuple):
    """One way to a subnet. `name`: no other has it."""

    relay: Relay
    gateway: IPAddress

    @property
    def name(self) -> str:
        return f"{self.relay.id}/{self.gateway.version}"


class _Way(NamedTuple):
    """A subnet with the ends that can be reached for it, sorted by id."""

    asked: Multipath
    ends: tuple[_End, ...]


def reach(several: Sequence[Multipath], tunnel: Tunnel, attempt: int) -> Iterator[tuple[Object, Why]]:
    """A neighbour and a next hop for each end, a group for each set of ends, a route for each subnet. An end that was
    told neither a MAC nor an overlay address can't be one; a subnet without an end gets nothing. `attempt`: from 0,
    another one has other ids.

    A kernel without next-hop objects can't replace several at once: there, a route through the first end."""
    ways = [way for way in (_Way(one, _ends(one, tunnel)) for one in sorted(several, key=_order)) if way.ends]
    ends = {end.name: (end, way.asked) for way in reversed(ways) for end in way.ends}
    for name in sorted(ends):
        end, asked = ends[name]
        if not is_flooded(end.relay, tunnel):
            yield Neighbour(tunnel.device, end.gateway, end.relay.mac), _why(asked, end)
    if not tunnel.nexthop_objects:
        yield from _single(ways, tunnel)
        return
    groups: dict[tuple[str, ...], list[_Way]] = {}
    for way in ways:
        groups.setdefault(tuple(end.name for end in way.ends), []).append(way)
    names = {members: f"group {alike[0].asked.subnet}" for members, alike in groups.items()}
    ids = _ids([*sorted(ends), *sorted(names.values())], f"{tunnel.device}{'+' * attempt}")
    for name in sorted(ends):
        end, asked = ends[name]
        yield NextHop(ids[name], tunnel.device, end.gateway), _why(asked, end)
    for members, alike in groups.items():
        group = NextHopGroup(ids[names[members]], tunnel.device, tuple(sorted(ids[member] for member in members)))
        yield group, _why_all(alike[0])
        for way in alike:
            mtu = narrowed(way.asked.mtu, tunnel)
            source = tunnel.source(way.asked.subnet.version)
            route = Route(way.asked.subnet, tunnel.device, nexthop=group.id, metric=tunnel.metric, src=source, mtu=mtu)
            yield route, _why_all(way)


def _single(ways: Sequence[_Way], tunnel: Tunnel) -> Iterator[tuple[Object, Why]]:
    for way in ways:
        subnet, first = way.asked.subnet, way.ends[0]
        route = Route(
            subnet,
            tunnel.device,
            via=first.gateway,
            onlink=True,
            metric=spread(tunnel.metric, subnet),
            src=tunnel.source(subnet.version),
            mtu=narrowed(way.asked.mtu, tunnel),
        )
        others = len(way.ends) - 1
        rule = (
            f"{way.asked.rule}, through {first.relay.id} alone: this kernel has no next-hop objects, so {others} other"
        )
        yield route, Why(way.asked.source, first.relay.id, f"{rule} end{'s' * (others != 1)} can't share its flows")


def _ends(asked: Multipath, tunnel: Tunnel) -> tuple[_End, ...]:
    found = ((relay, gateway_of(relay, asked.subnet.version, tunnel)) for relay in asked.ends)
    return tuple(_End(relay, gateway) for relay, gateway in found if gateway is not None)


def _ids(names: Sequence[str], salt: str) -> dict[str, int]:
    """An id for each name; other ones for another salt. Where two meet, the earlier one stays, and the other takes the
    next free one."""
    taken: dict[int, str] = {}
    start = crc32(salt.encode())
    for name in names:
        place = crc32(name.encode(), start) % IDS
        while place in taken:
            place = (place + 1) % IDS
        taken[place] = name
    return {name: FIRST_ID + place for place, name in taken.items()}


def _order(asked: Multipath) -> tuple[int, bytes, int]:
    subnet: IPNetwork = asked.subnet
    return subnet.version, subnet.network_address.packed, subnet.prefixlen


def _why(asked: Multipath, end: _End) -> Why:
    return Why(asked.source, end.relay.id, f"one end of {asked.rule}")


def _why_all(way: _Way) -> Why:
    return Why(way.asked.source, ", ".join(end.relay.id for end in way.ends), way.asked.rule)
