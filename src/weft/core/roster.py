"""All other hosts' leases as nodes, kept from one set of leases to the next. Pure; called by `agent/flannel.py`.

A lease that is the same as last time gives the very node that it gave then: no work here, and `acceptance.py` and
`plan.py` see by pointers that nothing changed. Several leases with one end (a registrar adds some for its host's Docker
networks) are one node: two could not be told apart on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.core.edits import Kept, altered
from weft.core.flannel import End, Versions, end, merged, node, oldest_first, reachable
from weft.core.layered import Layered
from weft.model import IPAddress, Node, Problem
from weft.wire.flannel import Config, Lease


@dataclass(frozen=True, slots=True)
class Roster:
    """`said`: what each lease says, but for those that have no part in this overlay. `hosts`: the same by the end that
    they have in common, the oldest first. `nodes`: one for each host. `claims`: nodes as this host can reach them, and
    `faults`: those that it can't, and why."""

    said: Kept[Lease, Node] = field(default_factory=Kept)
    hosts: Layered[End, tuple[Node, ...]] = field(default_factory=Layered)
    nodes: Kept[Node, Node] = field(default_factory=Kept)
    claims: Kept[Node, Node] = field(default_factory=Kept)
    faults: Kept[Node, tuple[Node, Problem]] = field(default_factory=Kept)
    terms: tuple[Config, Versions] | None = None
    direct: Mapping[IPAddress, str] = field(default_factory=dict)
    """What leases were read by; `direct` as `reachable` takes it."""

    def after(self, leases: tuple[Lease, ...], config: Config, of: Versions, direct: Mapping[IPAddress, str]) -> Roster:
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

        said = self.said.after(leases, lambda lease: node(lease, config, of))
        hosts, crowd = self._hosts_after(said.made)

        def join(one: Node) -> Node | None:
            of_host = hosts[end(one)]
            if len(of_host) == 1:
                return one
            return merged(of_host) if one is of_host[0] else None

        nodes = self.nodes.after(said.made, join).anew(_places(said.made, crowd), join)
        again = _led_elsewhere(nodes.made, self.direct, direct)
        claims = self.claims.after(nodes.made, claim).anew(again, claim)
        faults = self.faults.after(nodes.made, fault).anew(again, fault)
        return Roster(said, hosts, nodes, claims, faults, terms, direct)

    def _hosts_after(self, said: tuple[Node, ...]) -> tuple[Layered[End, tuple[Node, ...]], list[Node]]:
        """`hosts` when leases say this, and the nodes of hosts that are several, or were, and are not as before."""
        gone, came = altered(self.said.made, said)
        changed: dict[End, tuple[Node, ...]] = {}
        for one in gone:
            key = end(one)
            changed[key] = tuple(other for other in changed.get(key, self.hosts.get(key, ())) if other is not one)
        for one in came:
            key = end(one)
            there = changed.get(key, self.hosts.get(key, ()))
            changed[key] = tuple(sorted((*there, one), key=oldest_first)) if there else (one,)
        left = {key: nodes for key, nodes in changed.items() if nodes}
        crowd = [
            one for key, nodes in left.items() if len(nodes) > 1 or len(self.hosts.get(key, ())) > 1 for one in nodes
        ]
        return self.hosts.after(changed.keys() - left.keys(), left), crowd


def _places(nodes: tuple[Node, ...], sought: list[Node]) -> list[int]:
    """Where in `nodes` these very ones are."""
    if not sought:
        return []
    marks = set(map(id, sought))
    return [at for at, one in enumerate(nodes) if id(one) in marks]


def _led_elsewhere(nodes: tuple[Node, ...], before: Mapping[IPAddress, str], now: Mapping[IPAddress, str]) -> list[int]:
    """The places of nodes to whose end leads another way than before."""
    if now is before:
        return []
    return [at for at, one in enumerate(nodes) if now.get(one.endpoints[0]) != before.get(one.endpoints[0])]
