"""plan(view) → Plan: the kernel objects that a host must have, each with WHY. Pure; called by `agent/reconcile.py`.

A Plan is made of parts, one for this host and one per peer. A part is made anew only if what it was made from changed:
`previous` is the memory, and the result is the same without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from weft.backends import BACKENDS, vxlan
from weft.backends.tunnel import Tunnel, device_of
from weft.core.edits import altered
from weft.core.firewall import wanted as firewall
from weft.core.firewall import wanted_by_span
from weft.core.slots import Slots
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
class Overlay:
    """One overlay as it was planned: what the parts of its nodes were made from."""

    tunnel: Tunnel
    nodes: tuple[Node, ...]
    slots: Slots

    @classmethod
    def empty(cls, tunnel: Tunnel) -> Overlay:
        return cls(tunnel, (), Slots.of((), tunnel.device))


@dataclass(frozen=True, slots=True)
class Plan:
    """`wanted` is all parts together; where two parts ask for one key, the part that sorts first has it, and the key is
    `contested`. `overlays`: one for each of the view."""

    parts: dict[str, Part] = field(default_factory=dict)
    wanted: dict[Key, Wanted] = field(default_factory=dict)
    contested: frozenset[Key] = frozenset()
    overlays: tuple[Overlay, ...] = ()


def plan(view: View, previous: Plan | None = None) -> Plan:
    """The objects that `view` demands. Raises ValueError if this host has no endpoint of the underlay's family."""
    old = previous if previous is not None else Plan()
    views = (view, *view.beside)
    tunnels = [Tunnel.of(overlay) for overlay in views]
    alike = tunnels == [overlay.tunnel for overlay in old.overlays]
    parts = old.parts.copy() if alike else {}
    overlays: list[Overlay] = []
    for one, before in zip(views, old.overlays if alike else map(Overlay.empty, tunnels), strict=True):
        suffix = f"@{before.tunnel.device}" if overlays else ""  # of the overlays behind the first
        parts[HERE + suffix] = _own_part(one, old.parts.get(HERE + suffix))
        overlays.append(_add_nodes(parts, one.nodes, before, suffix, old.parts))
    return Plan(parts, *_index(parts, old), tuple(overlays))


def _own_part(view: View, before: Part | None) -> Part:
    here = (view.me, view.networks, view.host, view.profile, view.files)
    return before if before is not None and before.made_from == here else _part(here, _here(view))


def _add_nodes(
    parts: dict[str, Part], nodes: tuple[Node, ...], before: Overlay, suffix: str, old: Mapping[str, Part]
) -> Overlay:
    """Make `parts`, which hold those of the overlay as it was before, hold those of `nodes`."""
    tunnel = before.tunnel
    gone, came = altered(before.nodes, nodes)
    slots = before.slots.after(gone, came) if 2 * len(came) <= len(nodes) else None
    if slots is None:
        gone, came, slots = list(before.nodes), list(nodes), Slots.of(nodes, tunnel.device)
    for name in {node.id for node in gone}.difference(node.id for node in came):
        del parts[name + suffix]
    for node in came:
        there = (node, tunnel, slots.slot(node))
        part = old.get(node.id + suffix)
        if part is None or part.made_from != there:
            part = _part(there, BACKENDS[node.backend].reach(*there))
        parts[node.id + suffix] = part
    return Overlay(tunnel, nodes, slots)


def changed(old: Plan, new: Plan) -> set[Key]:
    """Keys of all parts that are not the same part in both plans: the only ones whose objects may differ."""
    stale, fresh = _altered(old, new.parts)
    return {key for part in (*stale, *fresh) for key in part.wanted}


def _altered(old: Plan, parts: Mapping[str, Part]) -> tuple[list[Part], list[Part]]:
    return altered(tuple(old.parts.values()), tuple(parts.values()))


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


def _index(parts: Mapping[str, Part], old: Plan) -> tuple[dict[Key, Wanted], frozenset[Key]]:
    """All parts' objects in one dict, and the keys that several ask for: from the old plan's where few parts changed
    (copying needs no hashing)."""
    stale, fresh = _altered(old, parts)
    if len(stale) + len(fresh) > len(parts) // 2:
        return _joined(parts)
    free = {key for part in stale for key in part.wanted}
    asked = [key for part in fresh for key in part.wanted]
    meeting = [key for key in asked if key not in free and key in old.wanted]
    if meeting or len(set(asked)) < len(asked) or not old.contested.isdisjoint(free):
        return _joined(parts)
    index = old.wanted.copy()
    for key in free.difference(asked):
        del index[key]
    for part in fresh:
        index.update(part.wanted)
    return index, old.contested


def _joined(parts: Mapping[str, Part]) -> tuple[dict[Key, Wanted], frozenset[Key]]:
    """All parts' objects; of two for one key, the part's that sorts first."""
    index: dict[Key, Wanted] = {}
    contested: set[Key] = set()
    for name in sorted(parts):
        wanted = parts[name].wanted
        before = len(index)
        for key, want in wanted.items():
            index.setdefault(key, want)
        if len(index) != before + len(wanted):
            contested.update(key for key, want in wanted.items() if index[key] is not want)
    return index, frozenset(contested)
