"""What probing came to, node by node: which edges of this host's count as up. Pure; called by `topology.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from weft.core.damper import Damper
from weft.core.sight import Edge, Past, Place, Sight
from weft.model import Reach

DAMPER = Damper()
BEST = {"up": 0, "unknown": 1, "down": 2}


@dataclass(frozen=True, slots=True)
class Findings:
    """`tunnels`, `underlays`: the best finding per node, where there is one. `edges`: per node that can be probed.
    `up`: ids that are reached directly, as far as is known; `doubted`: of these, those that nothing was heard of yet
    and whose own word is that they don't reach this host. `again`: when an edge that is held back will count."""

    tunnels: Mapping[str, Reach]
    underlays: Mapping[str, Reach]
    edges: Mapping[str, Edge]
    up: frozenset[str]
    doubted: frozenset[str]
    again: float | None

    def state(self, node: str) -> Literal["unknown", "up", "down"]:
        """Of its tunnel, undamped."""
        reach = self.tunnels.get(node)
        return reach.state if reach is not None else "unknown"


def find(sight: Sight, past: Past) -> Findings:
    """A node that publishes no note is not probed by anybody, so it counts as up, unless it did before and was down: it
    is only its registrar that went, and the way is as it was."""
    tunnels = _best(reach for reach in sight.reach if reach.path.kind == "tunnel")
    underlays = _best(reach for reach in sight.reach if reach.path.kind == "underlay")
    edges: dict[str, Edge] = {}
    up: set[str] = set()
    doubted: set[str] = set()
    for place in sight.places:
        known = past.edges.get(place.id)
        if place.reaches is None and (known is None or known.up):
            up.add(place.id)
            continue
        edge = edges[place.id] = _edge(place, tunnels.get(place.id), past, sight.now)
        if edge.up:
            up.add(place.id)
            if edge.state == "unknown" and sight.me.id in place.misses:
                doubted.add(place.id)
    again = min((edge.back for edge in edges.values() if edge.back is not None), default=None)
    return Findings(tunnels, underlays, edges, frozenset(up), frozenset(doubted), again)


def _edge(place: Place, reach: Reach | None, past: Past, now: float) -> Edge:
    return DAMPER.step(past.edges.get(place.id), reach.state if reach is not None else "unknown", now)


def _best(found: Iterable[Reach]) -> dict[str, Reach]:
    """Of a node's tunnels of both families, the one that answers."""
    best: dict[str, Reach] = {}
    for reach in found:
        known = best.get(reach.path.node)
        if known is None or BEST[reach.state] < BEST[known.state]:
            best[reach.path.node] = reach
    return best
