"""plan(view) → Plan: the kernel objects that a host must have, each with WHY. Pure; called by `agent/reconcile.py`.

A Plan is made of parts, one for this host and one per peer. A part is made anew only if what it was made from changed:
`previous` is the memory, and the result is the same without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from weft.backends import BACKENDS, vxlan
from weft.backends.tunnel import SLOTS, Tunnel, device_of
from weft.core.firewall import wanted as firewall
from weft.core.firewall import wanted_by_span
from weft.model import Host, IPNetwork, Node, View
from weft.objects import File, Key, Object, Sysctl, Why

HERE = ""
"""The name of this host's own part: no node has an empty id."""


class Wanted(NamedTuple):
    """One object of a plan, and who asked for it."""

    object: Object
    why: Why


class Part(NamedTuple):
    """What one node (or this host) asks for. `made_from`: equal means that the part would come out the same."""

    made_from: tuple[object, ...]
    wanted: dict[Key, Wanted]


@dataclass(frozen=True, slots=True)
class Plan:
    """`wanted` is all parts together; where two parts ask for one key, the part that sorts first has it. `tunnels`: one
    for each overlay of the view."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    wanted: Mapping[Key, Wanted] = field(default_factory=dict)
    tunnels: tuple[Tunnel, ...] = ()


def plan(view: View, previous: Plan | None = None) -> Plan:
    """The objects that `view` demands. Raises ValueError if this host has no endpoint of the underlay's family."""
    old = previous if previous is not None else Plan()
    parts: dict[str, Part] = {}
    tunnels: list[Tunnel] = []
    for overlay in (view, *view.beside):
        tunnel = Tunnel.of(overlay)
        if tunnel in old.tunnels:  # the same object: comparing 10,000 parts is then comparing pointers
            tunnel = old.tunnels[old.tunnels.index(tunnel)]
        tunnels.append(tunnel)
        _add_parts(parts, old.parts, overlay, tunnel)
    return Plan(parts, _index(parts, old), tuple(tunnels))


def _add_parts(parts: dict[str, Part], old: Mapping[str, Part], view: View, tunnel: Tunnel) -> None:
    """The parts of one overlay. Of the overlays behind the first, parts are named with their device."""
    suffix = f"@{tunnel.device}" if parts else ""
    here = (view.me, view.networks, view.host, view.profile, view.files)
    before = old.get(HERE + suffix)
    parts[HERE + suffix] = before if before is not None and before.made_from == here else _part(here, _here(view))
    for node, slot in _slots(view.nodes, tunnel.device):
        name = node.id + suffix
        there = (node, tunnel, slot)
        before = old.get(name)
        if before is None or before.made_from != there:
            before = _part(there, BACKENDS[node.backend].reach(node, tunnel, slot))
        parts[name] = before


def changed(old: Plan, new: Plan) -> set[Key]:
    """Keys of all parts that are not the same part in both plans: the only ones whose objects may differ."""
    keys: set[Key] = set()
    for name, part in new.parts.items():
        before = old.parts.get(name)
        if before is not part:
            keys.update(part.wanted)
            keys.update(before.wanted if before is not None else ())
    for name, part in old.parts.items():
        if name not in new.parts:
            keys.update(part.wanted)
    return keys


def _part(made_from: tuple[object, ...], asked: Iterable[tuple[Object, Why]]) -> Part:
    wanted: dict[Key, Wanted] = {}
    for thing, why in asked:
        wanted.setdefault(thing.key, Wanted(thing, why))
    return Part(made_from, wanted)


def _here(view: View) -> Iterator[tuple[Object, Why]]:
    """Forwarding, this host's end of the overlay, the firewall, files for other programs."""
    subnets = vxlan.subnets(view.networks)
    settings = Why("settings", view.me.id, "this host's end of the overlay")
    exposed = Why("engine", view.me.id, "the exposed networks of this host")
    for sysctl in _forwarding(view.host, {subnet.version for subnet in subnets}):
        yield sysctl, settings
    yield from BACKENDS[view.me.backend].here(view)
    for thing in _firewall(view, subnets):
        yield thing, exposed
    for file in view.files:
        yield File(file.path, file.text), Why("settings", view.me.id, "other programs read it")


def _firewall(view: View, subnets: list[IPNetwork]) -> Iterable[Object]:
    device, chains = device_of(view), view.host.chains
    if view.profile.span:
        return wanted_by_span(device, view.profile, subnets, chains)
    return firewall(device, subnets, chains)


def _forwarding(host: Host, versions: set[int]) -> Iterator[Sysctl]:
    yield Sysctl("net/ipv4/ip_forward", "1")
    if 6 in versions:
        for uplink in host.uplinks:
            # With forwarding on, a host forgets its router-advertised default route unless accept_ra is 2.
            if uplink.accepts_ra:
                yield Sysctl(f"net/ipv6/conf/{uplink.name}/accept_ra", "2")
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")


def _slots(nodes: Iterable[Node], device: str) -> Iterator[tuple[Node, int]]:
    """Each node with a number of its own, from a hash of its id and the device (next-hop ids are one space for all
    devices of a host); of two that meet, the one that sorts first stays."""
    taken: set[int] = set()
    salt = crc32(device.encode())
    for node in nodes:
        slot = crc32(node.id.encode(), salt) % SLOTS
        while slot in taken:
            slot = (slot + 1) % SLOTS
        taken.add(slot)
        yield node, slot


def _index(parts: Mapping[str, Part], old: Plan) -> dict[Key, Wanted]:
    """All parts' objects in one dict, from the old plan's where few parts changed (copying needs no hashing)."""
    stale = [part for name, part in old.parts.items() if parts.get(name) is not part]
    fresh = [part for name, part in parts.items() if old.parts.get(name) is not part]
    disputed = sum(len(part.wanted) for part in old.parts.values()) != len(old.wanted)
    if disputed or len(stale) + len(fresh) > len(parts) // 2:
        return _joined(parts)
    index = dict(old.wanted)
    for part in stale:
        for key in part.wanted:
            del index[key]
    for part in fresh:
        before = len(index)
        index.update(part.wanted)
        if len(index) != before + len(part.wanted):
            return _joined(parts)
    return index


def _joined(parts: Mapping[str, Part]) -> dict[Key, Wanted]:
    """All parts' objects; of two for one key, the part's that sorts first."""
    index: dict[Key, Wanted] = {}
    for name in sorted(parts):
        for key, want in parts[name].wanted.items():
            index.setdefault(key, want)
    return index
