"""Why is (or isn't) there a way to an address? Pure; called by `web/api.py` for `weft explain`.

The answer follows the packet: the route, its next hop (or its group, and each of its next hops), the neighbour behind
that, the FDB entry behind its MAC; each object with who asked for it. In a cloud it is one route in each table. Where
there is no way, it says what is known instead: a refused claim, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from weft.backends.tunnel import device_of
from weft.core.commands import text
from weft.core.plan import SEVERAL, Plan, Wanted, part_of
from weft.model import IPAddress, IPNetwork, Node, View
from weft.objects import ZERO_MAC, Key, Neighbour, NextHop, NextHopGroup, Object, Route
from weft.objects.cloud import CloudRoute


@dataclass(frozen=True, slots=True)
class Line:
    """One object on the way (or a remark, with `key` None), and who asked for it."""

    text: str
    why: str = ""
    key: Key | None = None


def explain(
    asked: str, view: View, plan: Plan, claims: Sequence[Node] = (), rules: Mapping[str, str] | None = None
) -> tuple[bool, list[Line]]:
    """Whether there is a way to `asked` (an address, a prefix, or a node's id), and the lines that say why.

    `claims`: all nodes as they describe themselves, refused ones too. `rules`: by node, the rule that decided by which
    way it is reached, where there is a choice. Raises ValueError if `asked` is none of these."""
    node = next((n for n in claims if n.id == asked), None)
    decided = {name: Line(f"{name}: {rule}") for name, rule in (rules or {}).items() if rule}
    if node is not None:
        found, lines = _node(node, view, plan)
        return found, [*(decided[name] for name in (node.id,) if name in decided), *lines]
    if asked == view.me.id:
        return True, [Line(f"{asked} is this host")]
    try:
        target = ip_network(asked, strict=False)
    except ValueError as error:
        known = ", ".join(sorted(n.id for n in claims)) or "none yet"
        raise ValueError(f"{asked!r} is no address, no prefix and no known node; nodes: {known}") from error
    local = [
        Line(f"{subnet} is this host's network {network.name}" + (f" on {network.bridge}" if network.bridge else ""))
        for one in (view, *view.beside)
        for network in one.networks
        for subnet in network.subnets
        if _holds(subnet, target)
    ]
    if local:
        return True, list(dict.fromkeys(local))
    there = [node for node in claims if any(e in target for e in node.endpoints)]
    behind = [n.id for n in claims for w in n.networks for s in w.subnets if _holds(s, target)]
    said = [decided[name] for name in dict.fromkeys((*(n.id for n in there), *behind)) if name in decided]
    way = [*_way(target, plan), *_in_tables(target, plan)]
    if way:
        return True, [*way, *said]
    refused = list(_refusals(target, view, claims))
    endpoints = [
        Line(f"{asked} is the tunnel endpoint of node {node.id}: the underlay leads there, not the overlay")
        for node in there
    ]
    others = [Line(f"{asked} is in {what}") for what in _of_another_daemon(target, view)]
    if refused or endpoints or others:
        return bool(endpoints or others), [*endpoints, *others, *said, *refused]
    routed = {str(w.object.dst) for w in plan.wanted.values() if isinstance(w.object, Route | CloudRoute)}
    subnets = sorted(routed)
    shown = ", ".join(subnets[:8]) + (f" and {len(subnets) - 8} more" if len(subnets) > 8 else "")
    return False, [Line(f"no node announces a network that holds {asked}; routed to: {shown or 'nothing'}")]


def _node(node: Node, view: View, plan: Plan) -> tuple[bool, list[Line]]:
    names = (node.id, *(part_of(node.id, device_of(beside)) for beside in view.beside))
    parts = [plan.parts[name] for name in names if name in plan.parts]
    problems = [Line(p.message) for p in view.problems if p.subject == node.id]
    wanted = {key: want for part in parts for key, want in part.wanted.items()}
    wanted |= {route.key: want for route, want in _cloud_routes(plan) if want.why.peer == node.id}
    if not parts and not wanted:
        return False, problems or [Line(f"node {node.id} is known, but not routed to")]
    for name in plan.parts:
        if name.startswith(SEVERAL):
            wanted |= {key: want for key, want in _of_end(node, plan, name).items() if key not in wanted}
    return True, [*map(_line, wanted.values()), *problems]


def _of_end(node: Node, plan: Plan, name: str) -> dict[Key, Wanted]:
    """What a node has a share in, as one of several ends of a subnet."""
    shared = plan.parts[name].wanted.items()
    return {key: want for key, want in shared if node.id in want.why.peer.split(", ")}


def _of_another_daemon(target: IPNetwork, view: View) -> Iterator[str]:
    """Where another daemon's device leads there by itself."""
    for node in view.nodes if view.profile.shared else ():
        for network in node.networks:
            for subnet in network.subnets:
                if _holds(subnet, target):
                    yield f"{subnet}, which {device_of(view)} of flannel's leads to: node {node.id}"


def _way(target: IPNetwork, plan: Plan) -> Iterator[Line]:
    """The most specific planned route that holds the target, and what it leads through."""
    routes = [want.object for want in plan.wanted.values() if isinstance(want.object, Route)]
    route = max((r for r in routes if _holds(r.dst, target)), key=lambda r: r.dst.prefixlen, default=None)
    if route is None:
        return
    yield _line(plan.wanted[route.key])
    hop = plan.wanted.get(("nexthop", route.nexthop))
    if hop is None:
        on_link = target.network_address if target.prefixlen == target.max_prefixlen else None
        yield from _behind(route.via or on_link, plan.wanted[route.key], route.dev, plan)
        return
    yield _line(hop)
    members = hop.object.members if isinstance(hop.object, NextHopGroup) else ()
    for one in [plan.wanted[("nexthop", member)] for member in members]:
        yield _line(one)
        yield from _behind_hop(one, plan)
    yield from _behind_hop(hop, plan)


def _cloud_routes(plan: Plan) -> Iterator[tuple[CloudRoute, Wanted]]:
    for want in plan.wanted.values():
        if isinstance(want.object, CloudRoute):
            yield want.object, want


def _in_tables(target: IPNetwork, plan: Plan) -> Iterator[Line]:
    """In each of a cloud's tables, the most specific planned route that holds the target."""
    best: dict[str, CloudRoute] = {}
    for route, _ in _cloud_routes(plan):
        if _holds(route.dst, target):
            best[route.table] = max(best.get(route.table, route), route, key=lambda one: one.dst.prefixlen)
    yield from (_line(plan.wanted[route.key]) for route in best.values())


def _behind_hop(hop: Wanted, plan: Plan) -> Iterator[Line]:
    if isinstance(hop.object, NextHop):
        yield from _behind(hop.object.via, hop, hop.object.dev, plan)


def _behind(via: IPAddress | None, before: Wanted, device: str, plan: Plan) -> Iterator[Line]:
    """What leads to this address on the device. Without a neighbour entry it is asked for, by flooding to the endpoint
    of whoever the object `before` is of."""
    neighbour = plan.wanted.get(("neighbour", device, via.packed)) if via is not None else None
    if neighbour is not None and isinstance(neighbour.object, Neighbour):
        entry = plan.wanted.get(("fdb", device, neighbour.object.mac))
        yield from (_line(step) for step in (neighbour, entry) if step is not None)
        return
    parts = (plan.parts.get(name) for name in (before.why.peer, part_of(before.why.peer, device)))
    things = [want for part in parts if part is not None for want in part.wanted.values()]
    yield from (_line(w) for w in things if w.object.key[:3] == ("fdb", device, ZERO_MAC))


def _refusals(target: IPNetwork, view: View, claims: Iterable[Node]) -> Iterator[Line]:
    claimants = {n.id for n in claims for w in n.networks for s in w.subnets if _holds(s, target)}
    for problem in view.problems:
        if problem.subject in claimants:
            yield Line(problem.message)


def _holds(subnet: IPNetwork, target: IPNetwork) -> bool:
    return subnet.version == target.version and target.subnet_of(subnet)  # type: ignore[arg-type]


def _line(want: Wanted) -> Line:
    thing: Object = want.object
    return Line(text(thing), str(want.why), thing.key)
