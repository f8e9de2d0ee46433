"""All other hosts' leases as nodes, kept from one set of leases to the next. Pure; called by `agent/flannel.py`.

A lease that is the same as last time gives the very node that it gave then: no work here, and `acceptance.py` and
`plan.py` see by pointers that nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.core.edits import Kept
from weft.core.flannel import Versions, node, reachable
from weft.model import IPAddress, Node, Problem
from weft.wire.flannel import Config, Lease


@dataclass(frozen=True, slots=True)
class Roster:
    """`nodes`: what leases say, but for those that have no part in this overlay. `claims`: nodes as this host can reach
    them, and `faults`: those that it can't, and why."""

    nodes: Kept[Lease, Node] = field(default_factory=Kept)
    claims: Kept[Node, Node] = field(default_factory=Kept)
    faults: Kept[Node, tuple[Node, Problem]] = field(default_factory=Kept)
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
        found: dict[int, Problem] = {}

        def claim(one: Node) -> Node | None:
            kept, problems = reachable([one], config, direct)
            found.update((id(one), problem) for problem in problems)
            return next(iter(kept), None)

        def fault(one: Node) -> tuple[Node, Problem] | None:
            return (one, found[id(one)]) if id(one) in found else None

        nodes = self.nodes.after(leases, lambda lease: node(lease, config, of))
        again = _led_elsewhere(nodes.made, self.direct, direct)
        claims = self.claims.after(nodes.made, claim).anew(again, claim)
        faults = self.faults.after(nodes.made, fault).anew(again, fault)
        return Roster(nodes, claims, faults, terms, direct)


def _led_elsewhere(
    nodes: tuple[Node, ...], before: Mapping[IPAddress, str], now: Mapping[IPAddress, str]
) -> list[int]:
    """The places of nodes to whose end leads another way than before."""
    if now is before:
        return []
    return [at for at, one in enumerate(nodes) if now.get(one.endpoints[0]) != before.get(one.endpoints[0])]
