"""All other hosts' leases as nodes, kept from one set of leases to the next. Pure; called by `agent/flannel.py`.

A lease that is the same as last time gives the very node that it gave then: no work here, and `acceptance.py` and
`plan.py` see by pointers that nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.core.edits import edits
from weft.core.flannel import Versions, node, reachable
from weft.model import IPAddress, Node, Problem
from weft.wire.flannel import Config, Lease


@dataclass(frozen=True, slots=True)
class Roster:
    """Column by column, one entry for each lease. `nodes`: what it says, None if it has no part in this overlay.
    `claims`: the node where this host can reach it, and `problems`: why it can't."""

    leases: tuple[Lease, ...] = ()
    nodes: list[Node | None] = field(default_factory=list)
    claims: list[Node | None] = field(default_factory=list)
    problems: list[Problem | None] = field(default_factory=list)
    terms: tuple[Config, Versions] | None = None
    direct: Mapping[IPAddress, str] = field(default_factory=dict)
    """What leases were read by; `direct` as `reachable` takes it."""

    def after(
        self, leases: tuple[Lease, ...], config: Config, of: Versions, direct: Mapping[IPAddress, str]
    ) -> Roster:
        """The roster of these leases; the same as that after an empty one."""
        terms = (config, of)
        if self.terms != terms:
            return Roster(terms=terms).after(leases, config, of, direct)
        nodes, claims, problems = self.nodes.copy(), self.claims.copy(), self.problems.copy()
        for there, here in reversed(edits(self.leases, leases)):
            read = [node(lease, config, of) for lease in leases[here]]
            judged = [_judged(one, config, direct) for one in read]
            nodes[there] = read
            claims[there] = [claim for claim, _ in judged]
            problems[there] = [problem for _, problem in judged]
        for at in _led_elsewhere(nodes, self.direct, direct):
            claims[at], problems[at] = _judged(nodes[at], config, direct)
        return Roster(leases, nodes, claims, problems, terms, direct)


def _judged(one: Node | None, config: Config, direct: Mapping[IPAddress, str]) -> tuple[Node | None, Problem | None]:
    kept, problems = reachable([one] if one is not None else [], config, direct)
    return next(iter(kept), None), next(iter(problems), None)


def _led_elsewhere(
    nodes: list[Node | None], before: Mapping[IPAddress, str], now: Mapping[IPAddress, str]
) -> list[int]:
    if now is before:
        return []
    ends = [one.endpoints[0] if one is not None else None for one in nodes]
    return [at for at, end in enumerate(ends) if end is not None and now.get(end) != before.get(end)]
