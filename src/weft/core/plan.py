"""plan(view) → Plan: the kernel objects that a host must have, each with WHY. Pure; called by `agent/reconcile.py`.

A Plan is made of parts, one for this host and one per peer. A part is made anew only if what it was made from changed:
`previous` is the memory, and the result is the same without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from weft.backends import BACKENDS, multipath, vxlan
from weft.backends.tunnel import SLOTS, Tunnel, device_of, spread
from weft.core.edits import altered
from weft.core.firewall import Diversion, Site, Span, wanted_by_shared, wanted_by_span, wanted_for
from weft.core.firewall import wanted as firewall
from weft.core.layered import Layered
from weft.core.ruleset import shared_label
from weft.core.slots import Slots
from weft.model import DETECTION, Host, IPNetwork, Multipath, Node, View
from weft.objects import FOUND_METRIC, Key, Object, Route, Sysctl, Why
from weft.objects.cloud import CloudRoute
from weft.objects.outside import File

RELAYS = "registrar"
"""The role of the daemon whose hosts forward for each other."""
HERE = ""
"""The name of this host's own part: no node has an empty id."""
SEVERAL = "\nmultipath"
"""The name of the part of subnets that several nodes take packets for. Ids of nodes are others' words, but printable
ones (`wire.texts.label`): none has a line's end in it, so no peer's part can take this one's place."""


def part_of(node: str, device: str) -> str:
    """The name of a node's part in an overlay behind the first."""
    return f"{node}\n{device}"


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
    `contested`. `overlays`: one for each of the view. `moved`: keys of all parts that are not the same part in the
    previous plan: the only ones whose objects may differ from there."""

    parts: Layered[str, Part] = field(default_factory=Layered)
    wanted: Layered[Key, Wanted] = field(default_factory=Layered)
    contested: frozenset[Key] = frozenset()
    overlays: tuple[Overlay, ...] = ()
    moved: frozenset[Key] = field(default=frozenset(), compare=False)


def plan(view: View, previous: Plan | None = None) -> Plan:
    """The objects that `view` demands. Raises ValueError if this host has no endpoint of the underlay's family."""
    old = previous if previous is not None else Plan()
    views = (view, *view.beside)
    tunnels = [Tunnel.of(overlay) for overlay in views]
    devices = tuple(tunnel.device for tunnel in tunnels)
    alike = tunnels == [overlay.tunnel for overlay in old.overlays]
    asked: dict[str, Part | None] = {} if alike else dict.fromkeys(old.parts)
    overlays: list[Overlay] = []
    for one, before in zip(views, old.overlays if alike else map(Overlay.empty, tunnels), strict=True):
        tunnel = before.tunnel
        suffix = part_of("", tunnel.device) if overlays else ""
        asked[HERE + suffix] = _own_part(one, devices, old.parts.get(HERE + suffix))
        asked[SEVERAL + suffix] = _part_of_several(one, tunnel, old.parts.get(SEVERAL + suffix))
        overlays.append(_add_nodes(asked, one.nodes if one.profile.plane else (), before, suffix, old.parts))
    return _apart(_with_parts(old, asked, tuple(overlays)))


def _apart(made: Plan) -> Plan:
    """Next-hop ids are one space for all overlays, so parts of two may have come to one id, which can be the one's hop
    or the other's: the later part gets another. It keeps that until it changes, also if the other one goes."""
    hops = [key for key in made.contested if key[0] == "nexthop"]
    wanted = made.wanted
    asked: dict[str, Part | None] = {}
    for name in sorted(made.parts) if hops else ():
        part = made.parts[name]
        if any(key in part.wanted and part.wanted[key].object != wanted[key].object for key in hops):
            asked[name] = _remade(part, wanted)
    if not asked:
        return made
    new = _with_parts(made, asked, made.overlays)
    return _apart(replace(new, moved=made.moved | new.moved))


def _remade(part: Part, wanted: Mapping[Key, Wanted]) -> Part:
    """The same with other next-hop ids: none that anybody has."""
    what, tunnel, number = cast("tuple[Node | tuple[Multipath, ...], Tunnel, int]", part.made_from)
    while True:
        number += 1
        if isinstance(what, Node):
            new = _part((what, tunnel, number % SLOTS), BACKENDS[what.backend].reach(what, tunnel, number % SLOTS))
        else:
            new = _part((what, tunnel, number), multipath.reach(what, tunnel, number))
        if not any(key[0] == "nexthop" and key in wanted for key in new.wanted):
            return new


def _own_part(view: View, devices: tuple[str, ...], before: Part | None) -> Part:
    """`devices`: of all overlays, this one's among them."""
    here: tuple[object, ...] = (view.me, view.networks, view.host, view.profile, view.files)
    here = (*here, view.routes, view.apart, view.diverted, view.table_routes, devices)
    return before if before is not None and before.made_from == here else _part(here, _here(view, devices))


def _part_of_several(view: View, tunnel: Tunnel, before: Part | None) -> Part | None:
    """None: there is nothing of the kind."""
    if not view.multipath or not view.profile.plane:
        return None
    there = (view.multipath, tunnel)
    if before is not None and before.made_from[:2] == there:
        return before
    return _part((*there, 0), multipath.reach(*there, 0))


def _add_nodes(
    asked: dict[str, Part | None], nodes: tuple[Node, ...], before: Overlay, suffix: str, old: Mapping[str, Part]
) -> Overlay:
    """Put the parts of `nodes` that may differ from those of the overlay as it was before into `asked`, with None for
    what goes."""
    tunnel = before.tunnel
    gone, came = altered(before.nodes, nodes)
    slots = before.slots.after(gone, came) if 2 * len(came) <= len(nodes) else None
    if slots is None:
        gone, came, slots = list(before.nodes), list(nodes), Slots.of(nodes, tunnel.device)
    for name in {node.id for node in gone}.difference(node.id for node in came):
        asked[name + suffix] = None
    for node in came:
        there = (node, tunnel, slots.slot(node))
        part = old.get(node.id + suffix)
        if part is None or part.made_from != there:
            part = _part(there, BACKENDS[node.backend].reach(*there))
        asked[node.id + suffix] = part
    return Overlay(tunnel, nodes, slots)


def _part(made_from: tuple[object, ...], asked: Iterable[tuple[Object, Why]]) -> Part:
    wanted: dict[Key, Wanted] = {}
    for thing, why in asked:
        wanted.setdefault(thing.key, Wanted(thing, why))
    return Part(made_from, wanted)


def _here(view: View, devices: tuple[str, ...]) -> Iterator[tuple[Object, Why]]:
    """Forwarding, this host's end of the overlay, routes beside those to nodes, the firewall; files for other programs
    and a cloud's routes, which alone are the business of a daemon that keeps nothing of the kernel's."""
    if view.profile.plane:
        yield from _kernels(view, devices)
    for file in view.files:
        yield File(file.path, file.text, file.mode), Why("settings", view.me.id, "other programs read it")
    for one in view.table_routes:
        yield CloudRoute(one.table, one.dst, one.via), Why(one.source, one.peer, one.rule)


def _kernels(view: View, devices: tuple[str, ...]) -> Iterator[tuple[Object, Why]]:
    subnets = vxlan.subnets(view.networks)
    settings = Why("settings", view.me.id, "this host's end of the overlay")
    exposed = Why("engine", view.me.id, "the exposed networks of this host")
    for sysctl in _forwarding(view.host, {subnet.version for subnet in subnets}):
        yield sysctl, settings
    yield from BACKENDS[view.me.backend].here(view)
    for route in view.routes:
        metric = FOUND_METRIC if route.source == DETECTION else spread(view.profile.metric, route.dst)
        yield Route(route.dst, route.dev, via=route.via, metric=metric), Why(route.source, view.me.id, route.rule)
    for thing in _firewall(view, subnets, devices):
        yield thing, exposed


def _firewall(view: View, subnets: list[IPNetwork], devices: tuple[str, ...]) -> Iterator[Object]:
    """`devices`: of all overlays; what isn't about one of them is said once, with the first."""
    profile, host, device = view.profile, view.host, device_of(view)
    site = Site(
        dev=device,
        own=tuple(subnets),
        chains=host.chains,
        refused=host.refused,
        apart=view.apart if device == devices[0] else (),
        transit=devices if profile.role == RELAYS else (),
        heard=view.me.overlay if profile.shared else (),
        label=shared_label(profile.role, device) if profile.shared else "",
    )
    if profile.span:
        spans = [Span(span, profile.forward, profile.masquerade, profile.clamp) for span in profile.span]
        yield from wanted_by_span(site, spans)
    elif profile.shared:
        told = dict.fromkeys((*subnets, *vxlan.subnets(view.me.networks)))
        yield from wanted_by_shared(replace(site, own=tuple(told)), profile.underlay)
    else:
        yield from firewall(site)
    moved = (Diversion(endpoint, gateway, view.me.port) for endpoint, gateway in view.diverted)
    yield from wanted_for(moved, site)


def _forwarding(host: Host, versions: set[int]) -> Iterator[Sysctl]:
    yield Sysctl("net/ipv4/ip_forward", "1")
    if 6 in versions:
        for uplink in host.uplinks:
            # With forwarding on, a host forgets its router-advertised default route unless accept_ra is 2.
            if uplink.accepts_ra:
                yield Sysctl(f"net/ipv6/conf/{uplink.name}/accept_ra", "2")
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")


def _with_parts(old: Plan, asked: Mapping[str, Part | None], overlays: tuple[Overlay, ...]) -> Plan:
    """The plan in which these parts are other ones than in `old`, or are gone."""
    new = {name: part for name, part in asked.items() if part is not old.parts.get(name)}
    stale = [part for part in map(old.parts.get, new) if part is not None]
    fresh = {name: part for name, part in new.items() if part is not None}
    parts = old.parts.after(new.keys() - fresh.keys(), fresh)
    moved = frozenset(key for part in (*stale, *fresh.values()) for key in part.wanted)
    if len(stale) + len(fresh) > len(parts) // 2:
        parts = Layered(parts.flat())
        return Plan(parts, *_joined(parts), overlays, moved)
    return Plan(parts, *_index(parts, old, stale, list(fresh.values())), overlays, moved)


def _index(
    parts: Layered[str, Part], old: Plan, stale: list[Part], fresh: list[Part]
) -> tuple[Layered[Key, Wanted], frozenset[Key]]:
    """All parts' objects in one dict, and the keys that several ask for: those of the old plan, in which the parts
    `stale` were and `fresh` are in their place."""
    free = {key for part in stale for key in part.wanted}
    asked = [key for part in fresh for key in part.wanted]
    meeting = [key for key in asked if key not in free and key in old.wanted]
    if meeting or len(set(asked)) < len(asked) or not old.contested.isdisjoint(free):
        return _joined(parts)
    came = {key: want for part in fresh for key, want in part.wanted.items()}
    return old.wanted.after(free - came.keys(), came), old.contested


def _joined(parts: Mapping[str, Part]) -> tuple[Layered[Key, Wanted], frozenset[Key]]:
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
    return Layered(index), frozenset(contested)
