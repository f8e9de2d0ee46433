"""All other hosts' leases as nodes, kept from one set of leases to the next. Pure; called by `agent/flannel.py`.

A lease that is the same as last time gives the very node that it gave then: no work here, and `acceptance.py` and
`plan.py` see by pointers that nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.core.edits import edits
from weft.core.flannel import Version, node, reachable
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
    terms: tuple[object, ...] = ()
    """What leases were read by."""

    def after(
        self, leases: tuple[Lease, ...], config: Config, version: Version, direct: Mapping[IPAddress, str]
    ) -> Roster:
        """The roster of these leases; the same as that after an empty one. `direct`: as `reachable` takes it."""
        terms = (config, version, direct)
        if self.terms != terms:
            return Roster(terms=terms).after(leases, config, version, direct)
        nodes, claims, problems = self.nodes.copy(), self.claims.copy(), self.problems.copy()
        for there, here in reversed(edits(self.leases, leases)):
            read = [node(lease, config, version) for lease in leases[here]]
            nodes[there] = read
            judged = [reachable([one] if one is not None else [], config, direct) for one in read]
            claims[there] = [next(iter(kept), None) for kept, _ in judged]
            problems[there] = [next(iter(found), None) for _, found in judged]
        return Roster(leases, nodes, claims, problems, terms)
