"""A peer's word is a claim (law 8): what of it may reach a plan. Pure; called by `agent/world.py` for each View.

Each claim is judged first by itself (this host's settings, underlay and networks), then against the other claims: of
two nodes that claim overlapping subnets, the claim that is older holds, on every host alike, because a network's age
(the engine's own creation time) travels with the claim. What is refused becomes a Problem that names both owners.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import NamedTuple

from weft.backends.tunnel import OVERHEAD
from weft.model import IPNetwork, Network, Node, Problem, Uplink

NEVER = tuple(
    ip_network(n)
    for n in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/96", "fe80::/10", "ff00::/8")
)
"""Loopback, link-local, multicast and reserved space: nobody's container network, whatever `allowed` says."""


LEAST_MTU = 576 + max(OVERHEAD.values())
"""Octets: every IPv4 host takes 576 (RFC 791), and the tunnel must carry that."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What claims are judged by. Equal policies give equal verdicts, so verdicts are kept while it stays the same.

    `networks`: all of this host's own, the private ones too. `no_ipv6`: why none can be routed here, "" if it can."""

    me: Node
    underlay: int
    allowed: tuple[IPNetwork, ...]
    networks: tuple[Network, ...]
    uplinks: tuple[Uplink, ...]
    no_ipv6: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one node's claims came to, judged by themselves. `claims` and `marks` are what is left to compare with other
    nodes': its subnets, and its endpoints and MAC as numbers that are quick to hash."""

    claim: Node
    node: Node | None
    problems: tuple[Problem, ...]
    claims: tuple[_Claim, ...] = ()
    marks: tuple[tuple[int, int], ...] = ()
    without_way: int = 0
    """How many of its subnets this host has no way to carry."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`nodes`: sorted by id, only with subnets that may be routed to. `verdicts` speed up the next judgement."""

    policy: Policy
    nodes: tuple[Node, ...]
    problems: tuple[Problem, ...]
    verdicts: dict[str, Verdict]


class _Claim(NamedTuple):
    """One subnet of one node; sorts by address, larger subnets first. `last` is negated for that."""

    version: int
    first: int
    negated_last: int
    since: float
    node: str
    network: str
    subnet: IPNetwork

    @classmethod
    def of(cls, node: Node) -> Iterator[_Claim]:
        for network in node.networks:
            since = network.since if network.since >= 0 else float("inf")
            for subnet in network.subnets:
                first = int(subnet.network_address)
                last = first + (1 << (subnet.max_prefixlen - subnet.prefixlen)) - 1
                yield cls(subnet.version, first, -last, since, node.id, network.name, subnet)


def accept(claims: Sequence[Node], policy: Policy, previous: Accepted | None = None) -> Accepted:
    """Judge all claims. `previous` is only a memory: the result is the same without it."""
    known = previous.verdicts if previous is not None and previous.policy == policy else {}
    verdicts: dict[str, Verdict] = {}
    for claim in sorted(claims, key=lambda n: n.id):
        verdict = known.get(claim.id)
        if verdict is None or (verdict.claim is not claim and verdict.claim != claim):
            verdict = _judge(claim, policy)
        verdicts[claim.id] = verdict
    problems = [problem for verdict in verdicts.values() for problem in verdict.problems]
    without_way = sum(verdict.without_way for verdict in verdicts.values())
    if without_way:
        problems.append(Problem(policy.me.id, f"{without_way} IPv6 networks of peers are not routed: {policy.no_ipv6}"))
    routable = [verdict for verdict in verdicts.values() if verdict.node is not None]
    routable, twice = _unique_tunnels(routable)
    nodes, disputed = _settle(routable)
    return Accepted(policy, tuple(nodes), (*problems, *twice, *disputed), verdicts)


def _judge(claim: Node, policy: Policy) -> Verdict:
    """One node's claims by themselves."""
    refusal = _unreachable(claim, policy)
    if refusal:
        elsewhere = claim.vni != policy.me.vni  # another overlay on the same underlay: its own business
        text = f"node {claim.id} is not routed to: {refusal}"
        return Verdict(claim, None, (Problem(claim.id, text, wrong=not elsewhere),))
    problems: list[Problem] = []
    networks: list[Network] = []
    without_way = 0
    for network in claim.networks:
        good: list[IPNetwork] = []
        for subnet in network.subnets:
            fault = _fault(subnet, policy)
            if policy.no_ipv6 and subnet.version == 6:
                without_way += 1
            elif fault:
                text = f"node {claim.id}'s network {network.name} {subnet} is refused: {fault}"
                problems.append(Problem(claim.id, text))
            else:
                good.append(subnet)
        if good:
            networks.append(network if len(good) == len(network.subnets) else replace(network, subnets=tuple(good)))
    node = claim if not problems and not without_way else replace(claim, networks=tuple(networks))
    marks: list[tuple[int, int]] = [(a.version, int(a)) for a in node.endpoints]
    if any(node.mac):
        marks.append((0, int.from_bytes(node.mac, "big")))
    return Verdict(claim, node, tuple(problems), tuple(_Claim.of(node)), tuple(marks), without_way)


def _unreachable(claim: Node, policy: Policy) -> str:
    """Why no tunnel can lead to this node, or ""."""
    me = policy.me
    endpoint = claim.endpoint(policy.underlay)
    if claim.vni != me.vni:
        return f"its VNI is {claim.vni}, this host's is {me.vni}"
    if claim.backend != me.backend:
        return f"its backend is {claim.backend}, this host's is {me.backend}"
    if claim.port != me.port:
        return f"it speaks VXLAN on port {claim.port}, this host on {me.port}"
    if endpoint is None:
        return f"it has no IPv{policy.underlay} endpoint, and this host's tunnels run over IPv{policy.underlay}"
    if endpoint in me.endpoints:
        return f"it claims this host's own endpoint {endpoint}"
    if endpoint.is_loopback or endpoint.is_unspecified or endpoint.is_multicast:
        return f"{endpoint} can't be a tunnel's endpoint"
    if claim.mtu and claim.mtu < LEAST_MTU:
        return f"it says that its uplink's MTU is {claim.mtu}; {LEAST_MTU} is the least that is believed"
    if me.backend == "vxlan" and (not any(claim.mac) or claim.mac[0] & 1):
        return "it tells no unicast VTEP MAC"
    if any(claim.mac) and claim.mac == me.mac:
        return "it claims this host's own VTEP MAC"
    return ""


def _fault(subnet: IPNetwork, policy: Policy) -> str:
    """Why a subnet may not be routed to any peer, or ""."""
    if subnet.prefixlen == 0:
        return "a default route is never taken from a peer"
    if any(_overlap(subnet, never) for never in NEVER):
        return "it lies in space that no container network can have"
    if not any(a.version == subnet.version and subnet.subnet_of(a) for a in policy.allowed):  # type: ignore[arg-type]
        return "it lies outside the allowed networks (setting `allowed`)"
    for network in policy.networks:
        for mine in network.subnets:
            if _overlap(subnet, mine):
                return f"it overlaps {mine}, network {network.name} of this host ({policy.me.id})"
    for name, address in _underlay(policy):
        if _overlap(subnet, address):
            return f"it overlaps the underlay {address} on {name} of this host ({policy.me.id})"
    return ""


def _underlay(policy: Policy) -> Iterator[tuple[str, IPNetwork]]:
    """Connected networks of this host that are not container networks."""
    for uplink in policy.uplinks:
        for interface in uplink.addresses:
            if not interface.ip.is_link_local:
                yield uplink.name, interface.network


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if one.version != other.version:
        return False
    return one.network_address in other or other.network_address in one


def _unique_tunnels(verdicts: list[Verdict]) -> tuple[list[Verdict], list[Problem]]:
    """Refuse a node that has an earlier node's endpoint or VTEP MAC: two can't be told apart on the wire."""
    marks = [mark for verdict in verdicts for mark in verdict.marks]
    if len(set(marks)) == len(marks):
        return verdicts, []
    kept: list[Verdict] = []
    problems: list[Problem] = []
    owners: dict[tuple[int, int], str] = {}
    for verdict in verdicts:
        name = verdict.claim.id
        other = next((owners[mark] for mark in verdict.marks if mark in owners), None)
        if other is not None:
            text = f"node {name} is not routed to: node {other} has the same endpoint or VTEP MAC"
            problems.append(Problem(name, text))
            continue
        owners.update(dict.fromkeys(verdict.marks, name))
        kept.append(verdict)
    return kept, problems


def _settle(verdicts: list[Verdict]) -> tuple[list[Node], list[Problem]]:
    """Between nodes: no subnet may hold a tunnel's endpoint (the outer packets would be routed into the tunnel), and of
    subnets that overlap the older claim holds."""
    nodes = [verdict.node for verdict in verdicts if verdict.node is not None]
    claims = sorted(claim for verdict in verdicts for claim in verdict.claims)
    refused = dict(_swallowing(claims, verdicts))
    for cluster in _clusters(claims):
        held = _Held()
        for claim in sorted((c for c in cluster if c not in refused), key=lambda c: (c.since, c.node, c.network)):
            rival = held.rival(claim)
            if rival is None:
                held.add(claim)
            else:
                refused[claim] = f"it overlaps {rival.subnet}, the older claim of node {rival.node} ({rival.network})"
    if not refused:
        return nodes, []
    problems = [
        Problem(claim.node, f"node {claim.node}'s network {claim.network} {claim.subnet} is refused: {why}")
        for claim, why in sorted(refused.items(), key=lambda item: (item[0].node, item[0].network, str(item[0].subnet)))
    ]
    gone = {(claim.node, claim.network, claim.subnet) for claim in refused}
    return [_without(node, gone) for node in nodes], problems


class _Held:
    """Claims that hold, of which no two of different nodes overlap. Both steps take time that grows with the logarithm
    of their number, for somebody may claim 10.0.0.0/8 among ten thousand."""

    def __init__(self) -> None:
        self._by_prefix: dict[tuple[int, int], _Claim] = {}
        self._lengths: set[int] = set()
        self._firsts: list[tuple[int, int, _Claim]] = []

    def rival(self, claim: _Claim) -> _Claim | None:
        """A held claim of another node that overlaps this one: of two subnets, one lies in the other."""
        width = claim.subnet.max_prefixlen
        for length in self._lengths:
            if length <= claim.subnet.prefixlen:
                around = self._by_prefix.get((claim.first >> (width - length) << (width - length), length))
                if around is not None and around.node != claim.node:
                    return around
        at = bisect_left(self._firsts, (claim.first,))
        while at < len(self._firsts) and self._firsts[at][0] <= -claim.negated_last:
            if self._firsts[at][2].node != claim.node:
                return self._firsts[at][2]
            at += 1
        return None

    def add(self, claim: _Claim) -> None:
        length = claim.subnet.prefixlen
        self._by_prefix[claim.first, length] = claim
        self._lengths.add(length)
        insort(self._firsts, (claim.first, len(self._firsts), claim))


def _swallowing(claims: list[_Claim], verdicts: list[Verdict]) -> Iterator[tuple[_Claim, str]]:
    """Claims that hold a node's endpoint. Both lists are walked once, side by side."""
    points = sorted((*mark, verdict.claim.id) for verdict in verdicts for mark in verdict.marks if mark[0])
    at = 0
    for claim in claims:
        while at < len(points) and points[at][:2] < claim[:2]:
            at += 1
        if at < len(points) and points[at][0] == claim.version and points[at][1] <= -claim.negated_last:
            yield claim, f"it holds the endpoint of node {points[at][2]}"


def _clusters(claims: list[_Claim]) -> Iterator[list[_Claim]]:
    """Groups of claims, sorted by address, whose ranges overlap, each with more than one node in it."""
    group: list[_Claim] = []
    version, end = 0, -1
    for claim in claims:
        if claim.first > end or claim.version != version:
            if len(group) > 1 and len({c.node for c in group}) > 1:
                yield group
            group, version, end = [], claim.version, -1
        group.append(claim)
        end = max(end, -claim.negated_last)
    if len(group) > 1 and len({c.node for c in group}) > 1:
        yield group


def _without(node: Node, gone: set[tuple[str, str, IPNetwork]]) -> Node:
    networks = []
    for network in node.networks:
        kept = tuple(s for s in network.subnets if (node.id, network.name, s) not in gone)
        if kept:
            networks.append(network if len(kept) == len(network.subnets) else replace(network, subnets=kept))
    return node if tuple(networks) == node.networks else replace(node, networks=tuple(networks))
