"""A peer's word is a claim (law 8): what of it may reach a plan. Pure; called by `agent/world.py` for each View.

Each claim is judged first by itself (this host's settings, underlay and networks), then against the other claims: of
two nodes that claim overlapping subnets, the claim that is older holds, on every host alike, because a network's age
(the engine's own creation time) travels with the claim. What is refused becomes a Problem that names both owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import NamedTuple

from weft.backends.tunnel import OVERHEAD
from weft.core.dispute import called, owner, settle
from weft.core.edits import altered, resorted
from weft.core.ground import Ground, Stake
from weft.core.layered import Layered
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

    `underlay`: the family that tunnels run over, 0 where there are none (a cloud's routes): either will do.
    `networks`: all of this host's own, the private ones too. `no_ipv6`: why none can be routed here, "" if it can.
    `macless`: a node that tells no MAC can be reached all the same, by flooding."""

    me: Node
    underlay: int
    allowed: tuple[IPNetwork, ...]
    networks: tuple[Network, ...]
    uplinks: tuple[Uplink, ...]
    no_ipv6: str = ""
    macless: bool = False


class Verdict(NamedTuple):
    """What one node's claims came to, judged by themselves. `stake`: what is left to compare with other nodes'."""

    claim: Node
    node: Node | None
    problems: tuple[Problem, ...] = ()
    stake: Stake = Stake()
    without_way: int = 0
    """How many of its subnets this host has no way to carry."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next judgement needs not find out again. `parties`: nodes that meet another (`ground.py`), and
    `disputes` what came of it; `faults`: the verdicts' own problems."""

    claims: tuple[Node, ...]
    verdicts: Layered[str, Verdict]
    ground: Ground
    parties: frozenset[str]
    faults: tuple[Problem, ...]
    disputes: tuple[Problem, ...]
    without_way: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """`nodes`: sorted by id, only with subnets that may be routed to."""

    policy: Policy
    nodes: tuple[Node, ...]
    problems: tuple[Problem, ...]
    memory: Memory


def accept(claims: Sequence[Node], policy: Policy, previous: Accepted | None = None) -> Accepted:
    """Judge all claims; of two with one id, the last. `previous` is only a memory: the result is the same without it,
    and is there in microseconds where few claims changed and none of those meets another node's."""
    claims = claims if isinstance(claims, tuple) else tuple(claims)
    if previous is None or previous.policy != policy:
        return _judge_all(claims, policy, {})
    amended = _amend(claims, previous)
    return amended if amended is not None else _judge_all(claims, policy, previous.memory.verdicts)


def _judge_all(claims: tuple[Node, ...], policy: Policy, known: Mapping[str, Verdict]) -> Accepted:
    verdicts: dict[str, Verdict] = {}
    for claim in sorted(claims, key=_id):
        verdicts[claim.id] = _verdict(claim, policy, known.get(claim.id))
    ground, parties = Ground.of((name, verdict.stake) for name, verdict in verdicts.items())
    judged = [verdict.node for verdict in verdicts.values() if verdict.node is not None]
    settled, disputes = settle([node for node in judged if node.id in parties])
    nodes = [node for node in judged if node.id not in parties] + settled
    if settled:
        nodes.sort(key=_id)
    without_way = sum(verdict.without_way for verdict in verdicts.values())
    memory = Memory(claims, Layered(verdicts), ground, parties, _faults(verdicts), tuple(disputes), without_way)
    return Accepted(policy, tuple(nodes), _problems(memory, policy), memory)


def _amend(claims: tuple[Node, ...], previous: Accepted) -> Accepted | None:
    """`previous` with what changed since. None if that is not all there is to it: a node meets another, or met one, or
    ids are there twice, or most is new."""
    memory, policy = previous.memory, previous.policy
    gone, came = altered(memory.claims, claims)
    if 2 * len(came) > len(claims) or len(memory.verdicts) != len(memory.claims):
        return None
    old = {claim.id: memory.verdicts[claim.id] for claim in gone}
    if not memory.parties.isdisjoint(old):
        return None
    ground = memory.ground.copy()
    for verdict in old.values():
        ground.leave(verdict.stake)
    new = [_verdict(claim, policy, old.get(claim.id)) for claim in came]
    for verdict in new:
        if not ground.take(verdict.stake):
            return None
    verdicts = memory.verdicts.after(old, {verdict.claim.id: verdict for verdict in new})
    if len(verdicts) != len(claims):
        return None
    nodes = resorted(previous.nodes, {**dict.fromkeys(old), **{v.claim.id: v.node for v in new}}, _id)
    moved = (*old.values(), *new)
    faults = _faults(verdicts) if any(verdict.problems for verdict in moved) else memory.faults
    without_way = memory.without_way + sum(v.without_way for v in new) - sum(v.without_way for v in old.values())
    now = Memory(claims, verdicts, ground, memory.parties, faults, memory.disputes, without_way)
    return Accepted(policy, nodes, _problems(now, policy), now)


def _id(node: Node) -> str:
    return node.id


def _faults(verdicts: Mapping[str, Verdict]) -> tuple[Problem, ...]:
    return tuple(problem for name in sorted(verdicts) for problem in verdicts[name].problems)


def _problems(memory: Memory, policy: Policy) -> tuple[Problem, ...]:
    if not memory.without_way:
        return memory.faults + memory.disputes
    text = f"{memory.without_way} IPv6 networks of peers are not routed: {policy.no_ipv6}"
    return (*memory.faults, Problem(policy.me.id, text), *memory.disputes)


def _verdict(claim: Node, policy: Policy, known: Verdict | None) -> Verdict:
    """The verdict that is known, where it is one about this very claim."""
    return known if known is not None and known.claim == claim else _judge(claim, policy)


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
                text = f"{owner(claim, network)}'s {called(network.name, subnet)} is refused: {fault}"
                problems.append(Problem(claim.id, text))
            else:
                good.append(subnet)
        if good:
            networks.append(network if len(good) == len(network.subnets) else replace(network, subnets=tuple(good)))
    node = claim if not problems and not without_way else replace(claim, networks=tuple(networks))
    return Verdict(claim, node, tuple(problems), Stake.of(node), without_way)


def _unreachable(claim: Node, policy: Policy) -> str:
    """Why no tunnel can lead to this node, or ""."""
    me = policy.me
    endpoint = claim.endpoint(policy.underlay) if policy.underlay else next(iter(claim.endpoints), None)
    if claim.vni != me.vni:
        return f"its VNI is {claim.vni}, this host's is {me.vni}"
    if claim.backend != me.backend:
        return f"its backend is {claim.backend}, this host's is {me.backend}"
    if me.backend == "vxlan" and claim.port != me.port:  # with WireGuard, each peer has a port of its own
        return f"it speaks VXLAN on port {claim.port}, this host on {me.port}"
    if endpoint is None:
        return f"it has no IPv{policy.underlay} endpoint, and this host's tunnels run over IPv{policy.underlay}"
    if endpoint in me.endpoints:
        return f"it claims this host's own endpoint {endpoint}"
    reserved = endpoint.version == 4 and endpoint.is_reserved
    if endpoint.is_loopback or endpoint.is_unspecified or endpoint.is_multicast or reserved:
        return f"{endpoint} can't be a tunnel's endpoint"
    if any(endpoint in subnet for network in me.networks for subnet in network.subnets):
        return f"its endpoint {endpoint} lies in this host's own network"
    if claim.mtu and claim.mtu < LEAST_MTU:
        return f"it says that its uplink's MTU is {claim.mtu}; {LEAST_MTU} is the least that is believed"
    if me.backend == "vxlan" and (claim.mac[0] & 1 or not (policy.macless or any(claim.mac))):
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
    if not any(_within(subnet, allowed) for allowed in policy.allowed):
        return "it lies outside the allowed networks (setting `allowed`)"
    for network in policy.networks:
        for mine in network.subnets:
            if _overlap(subnet, mine):
                name = "" if network.name == str(mine) else f", network {network.name}"
                return f"it overlaps {mine}{name} of this host ({policy.me.id})"
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


def _within(subnet: IPNetwork, other: IPNetwork) -> bool:
    """`subnet_of`, which keeps the broadcast address of each subnet for ever: 350 octets."""
    same = subnet.version == other.version and subnet.prefixlen >= other.prefixlen
    return same and subnet.network_address in other


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if one.version != other.version:
        return False
    return one.network_address in other or other.network_address in one
