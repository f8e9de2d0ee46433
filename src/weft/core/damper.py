"""An edge that comes back is not trusted at once, and one that comes and goes ever less. Pure; called by `topology.py`.

Going down counts at once: packets are being lost. So does the first answer of all. Coming back counts after a hold;
each fall doubles the hold of the next return, quiet time while up halves it. What is not known yet counts as up: a
relay for lack of news would be worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weft.core.sight import Edge


@dataclass(frozen=True, slots=True)
class Damper:
    """Seconds. `hold`: of the first return, `longest`: of any. `calm`: so long up halves the next hold."""

    hold: float = 2.0
    longest: float = 60.0
    calm: float = 60.0

    def step(self, edge: Edge | None, state: Literal["unknown", "up", "down"], now: float) -> Edge:
        """The edge after a finding."""
        if edge is None:
            return Edge(up=state != "down", state=state, turned=now, proved=state == "up")
        if state == edge.state:
            return self._elapsed(edge, now)
        if state == "down" and (edge.up or edge.state != "unknown"):
            edge = self._fallen(edge, now)
        first = state == "up" and not edge.proved
        edge = replace(edge, state=state, back=None, proved=edge.proved or first)
        if state == "up" and not edge.up:
            edge = replace(edge, up=True, turned=now) if first else replace(edge, back=now + edge.hold)
        return edge

    def _fallen(self, edge: Edge, now: float) -> Edge:
        quiet = int(max(0.0, now - edge.turned) // self.calm) if edge.up else 0
        hold = min(self.longest, max(self.hold, edge.hold * 2 / 2 ** min(quiet, 32))) if edge.proved else 0.0
        return replace(edge, up=False, turned=now if edge.up else edge.turned, hold=hold)

    def _elapsed(self, edge: Edge, now: float) -> Edge:
        if edge.back is None or now < edge.back:
            return edge
        return replace(edge, up=True, turned=now, back=None)
