"""Between nodes that meet: who is in the right, on every host alike. Pure; called by `acceptance.py` for the few that
`ground.py` finds.

Two with one endpoint or one MAC can't be told apart on the wire, so one stays: whose MAC follows from who or where it
is, and of such the first by id that has a subnet left. A subnet that holds a tunnel's endpoint would lead the outer
packets into the tunnel. Of subnets that overlap, the older claim holds; nodes that are routers of one stack may all
have its subnets.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from weft.backends.tunnel import vtep_mac
from weft.core.ground import Stake, point, span
from weft.model import IPNetwork, Network, Node, Problem


def called(network: str, subnet: IPNetwork) -> str:
    """In words. A network that was announced without a name is called as its subnet is."""
    return f"network {subnet}" if network == str(subnet) else f"network {network} {subnet}"


def owner(node: Node, network: Network) -> str:
    """Whose it is, in words: stacks of one host and VNI are one node, which has the first one's name."""
    return f"node {node.id}" if network.stack in ("", node.stack, node.id) else f"stack {network.stack}"


def settle(nodes: Sequence[Node]) -> tuple[list[Node], list[Problem]]:
    """What is left of these nodes, sorted by id, where nobody else meets them; and what was refused, naming both."""
    kept, twice = _unique_tunnels(nodes)
    settled, refused = _settle(kept)
    return settled, [*twice, *refused]


class _Claim(NamedTuple):
    """One subnet of one node; sorts by address, larger subnets first. `last` is negated for that. `party`: who may
    share it, a stack or else the node alone; `owner`: who is to be named."""

    first: int
    negated_last: int
    since: float
    node: str
    network: str
    subnet: IPNetwork
    party: tuple[str, str]
    owner: str

    @classmethod
    def of(cls, node: Node) -> Iterator[_Claim]:
        for network in node.networks:
            since = network.since if network.since >= 0 else float("inf")
            party = (network.stack, "" if network.stack else node.id)
            for subnet in network.subnets:
                first, last = span(subnet)
                yield cls(first, -last, since, node.id, network.name, subnet, party, owner(node, network))


def _unique_tunnels(nodes: Sequence[Node]) -> tuple[list[Node], list[Problem]]:
    """Refuse a node that has an earlier node's endpoint or VTEP MAC: two can't be told apart on the wire. A MAC that
    weft derives is its owner's, whatever name a thief takes. Who has no subnet that may be routed to (a lease of a
    former config's) comes last: nothing is lost with it."""
    kept: list[Node] = []
    problems: list[Problem] = []
    owners: dict[int, str] = {}
    for node in sorted(nodes, key=lambda node: (not _has_derived_mac(node), not node.networks)):
        marks = Stake.of(node).marks
        other = next((owners[mark] for mark in marks if mark in owners), None)
        if other is not None:
            text = f"node {node.id} is not routed to: node {other} has the same endpoint, VTEP MAC or WireGuard key"
            problems.append(Problem(node.id, text))
            continue
        owners.update(dict.fromkeys(marks, node.id))
        kept.append(node)
    return sorted(kept, key=lambda node: node.id), problems


def _has_derived_mac(node: Node) -> bool:
    """Its MAC follows from its own name (`weft agent`) or endpoint (docker-router's stacks)."""
    return any(node.mac == vtep_mac(name, node.vni) for name in (node.id, *map(str, node.endpoints)))


def _settle(nodes: list[Node]) -> tuple[list[Node], list[Problem]]:
    """No subnet may hold a tunnel's endpoint, and of subnets that overlap the older claim holds."""
    claims = sorted(claim for node in nodes for claim in _Claim.of(node))
    refused = dict(_swallowing(claims, nodes))
    for cluster in _clusters(claims):
        held = _Held()
        for claim in sorted((c for c in cluster if c not in refused), key=lambda c: (c.since, c.node, c.network)):
            rival = held.rival(claim)
            if rival is None:
                held.add(claim)
            else:
                name = "" if rival.network == str(rival.subnet) else f" ({rival.network})"
                refused[claim] = f"it overlaps {rival.subnet}, the older claim of {rival.owner}{name}"
    problems = [
        Problem(claim.node, f"{claim.owner}'s {called(claim.network, claim.subnet)} is refused: {why}")
        for claim, why in sorted(refused.items(), key=lambda item: (item[0].node, item[0].network, str(item[0].subnet)))
    ]
    gone = {(claim.node, claim.network, claim.subnet) for claim in refused}
    return [_without(node, gone) for node in nodes], problems


class _Held:
    """Claims that hold, of which no two of different parties overlap. Both steps take time that grows with the
    logarithm of their number, for somebody may claim 10.0.0.0/8 among ten thousand."""

    def __init__(self) -> None:
        self._by_prefix: dict[tuple[int, int], _Claim] = {}
        self._lengths: set[int] = set()
        self._firsts: list[tuple[int, int, _Claim]] = []

    def rival(self, claim: _Claim) -> _Claim | None:
        """A held claim of another party that overlaps this one: of two subnets, one lies in the other."""
        width = claim.subnet.max_prefixlen
        for length in self._lengths:
            if length <= claim.subnet.prefixlen:
                around = self._by_prefix.get((claim.first >> (width - length) << (width - length), length))
                if around is not None and around.party != claim.party:
                    return around
        at = bisect_left(self._firsts, (claim.first,))
        while at < len(self._firsts) and self._firsts[at][0] <= -claim.negated_last:
            if self._firsts[at][2].party != claim.party:
                return self._firsts[at][2]
            at += 1
        return None

    def add(self, claim: _Claim) -> None:
        length = claim.subnet.prefixlen
        self._by_prefix[claim.first, length] = claim
        self._lengths.add(length)
        insort(self._firsts, (claim.first, len(self._firsts), claim))


def _swallowing(claims: list[_Claim], nodes: list[Node]) -> Iterator[tuple[_Claim, str]]:
    """Claims that hold a node's endpoint. Both lists are walked once, side by side."""
    points = sorted((point(address), node.id) for node in nodes for address in node.endpoints)
    at = 0
    for claim in claims:
        while at < len(points) and points[at][0] < claim.first:
            at += 1
        if at < len(points) and points[at][0] <= -claim.negated_last:
            yield claim, f"it holds the endpoint of node {points[at][1]}"


def _clusters(claims: list[_Claim]) -> Iterator[list[_Claim]]:
    """Groups of claims, sorted by address, whose ranges overlap, each with more than one party in it."""
    group: list[_Claim] = []
    end = -1
    for claim in claims:
        if claim.first > end:
            if len({c.party for c in group}) > 1:
                yield group
            group = []
        group.append(claim)
        end = max(end, -claim.negated_last)
    if len({c.party for c in group}) > 1:
        yield group


def _without(node: Node, gone: set[tuple[str, str, IPNetwork]]) -> Node:
    networks = []
    for network in node.networks:
        kept = tuple(s for s in network.subnets if (node.id, network.name, s) not in gone)
        if len(kept) == len(network.subnets):
            networks.append(network)
        elif kept:
            networks.append(replace(network, subnets=kept))
    return node if tuple(networks) == node.networks else replace(node, networks=tuple(networks))
