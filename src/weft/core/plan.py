"""plan(view) → Plan: the kernel objects that a host must have, each with WHY. Pure; called by `agent/reconcile.py`.

A Plan is made of parts, one for this host and one per peer. A part is made anew only if what it was made from changed:
`previous` is the memory, and the result is the same without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import NamedTuple
from zlib import crc32

from weft.backends import BACKENDS, vxlan
from weft.backends.tunnel import SLOTS, Tunnel
from weft.core.firewall import wanted as firewall
from weft.model import Host, Network, Node, Profile, View
from weft.objects import Address, Key, Object, Sysctl, Why

HERE = ""
"""The name of this host's own part: no node has an empty id."""


class Wanted(NamedTuple):
    """One object of a plan, and who asked for it."""

    object: Object
    why: Why


class Part(NamedTuple):
    """What one node (or this host) asks for. `made_from`: equal means that the part would come out the same."""

    made_from: object
    wanted: dict[Key, Wanted]


@dataclass(frozen=True, slots=True)
class Plan:
    """`wanted` is all parts together; where two parts ask for one key, the part that sorts first has it."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    wanted: Mapping[Key, Wanted] = field(default_factory=dict)


class _Here(NamedTuple):
    """What this host's own part is made from."""

    me: Node
    networks: tuple[Network, ...]
    host: Host
    profile: Profile


class _There(NamedTuple):
    """What a peer's part is made from."""

    node: Node
    tunnel: Tunnel
    slot: int


def plan(view: View, previous: Plan | None = None) -> Plan:
    """The objects that `view` demands. Raises ValueError if this host has no endpoint of the underlay's family."""
    old = previous if previous is not None else Plan()
    parts = {HERE: _part(old.parts.get(HERE), _Here(view.me, view.networks, view.host, view.profile))}
    tunnel = Tunnel.of(view)
    for node, slot in _slots(view.nodes):
        parts[node.id] = _part(old.parts.get(node.id), _There(node, tunnel, slot))
    return Plan(parts, _index(parts, old))


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


def _part(old: Part | None, made_from: _Here | _There) -> Part:
    if old is not None and old.made_from == made_from:
        return old
    asked = _here(made_from) if isinstance(made_from, _Here) else _there(made_from)
    wanted: dict[Key, Wanted] = {}
    for thing, why in asked:
        wanted.setdefault(thing.key, Wanted(thing, why))
    return Part(made_from, wanted)


def _there(peer: _There) -> Iterable[tuple[Object, Why]]:
    return BACKENDS[peer.node.backend].reach(peer.node, peer.tunnel, peer.slot)


def _here(here: _Here) -> Iterator[tuple[Object, Why]]:
    """Forwarding, the device, this host's addresses on it, the firewall."""
    view = View(here.me, here.networks, host=here.host, profile=here.profile)
    subnets = vxlan.subnets(here.networks)
    why = Why("settings", here.me.id, "this host's end of the overlay")
    yield from ((sysctl, why) for sysctl in _forwarding(here, {subnet.version for subnet in subnets}))
    device = vxlan.device(view)
    yield device, why
    for address in here.me.overlay:
        own = Why("engine", here.me.id, "source of this host's own packets")
        yield Address(device.name, ip_interface(address)), own
    for thing in firewall(device.name, subnets, here.host.chains):
        yield thing, Why("engine", here.me.id, "the exposed networks of this host")


def _forwarding(here: _Here, versions: set[int]) -> Iterator[Sysctl]:
    yield Sysctl("net/ipv4/ip_forward", "1")
    if 6 in versions:
        for uplink in here.host.uplinks:
            # With forwarding on, a host forgets its router-advertised default route unless accept_ra is 2.
            if uplink.accepts_ra:
                yield Sysctl(f"net/ipv6/conf/{uplink.name}/accept_ra", "2")
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")


def _slots(nodes: Iterable[Node]) -> Iterator[tuple[Node, int]]:
    """Each node with a number of its own, from a hash of its id; of two that meet, the one that sorts first stays."""
    taken: set[int] = set()
    for node in nodes:
        slot = crc32(node.id.encode()) % SLOTS
        while slot in taken:
            slot = (slot + 1) % SLOTS
        taken.add(slot)
        yield node, slot


def _index(parts: Mapping[str, Part], old: Plan) -> dict[Key, Wanted]:
    """All parts' objects in one dict, from the old plan's where few parts changed (copying needs no hashing)."""
    stale = [name for name, part in old.parts.items() if parts.get(name) is not part]
    fresh = [name for name, part in parts.items() if old.parts.get(name) is not part]
    overlapping = sum(len(part.wanted) for part in old.parts.values()) != len(old.wanted)
    if overlapping or len(stale) + len(fresh) > len(parts) // 2:
        stale, fresh, index = [], list(parts), {}
    else:
        index = dict(old.wanted)
    for name in stale:
        for key in old.parts[name].wanted:
            del index[key]
    before = len(index)
    for name in fresh:
        index.update(parts[name].wanted)
    if len(index) != before + sum(len(parts[name].wanted) for name in fresh):
        index = {}
        for name in sorted(parts, reverse=True):
            index.update(parts[name].wanted)
    return index
