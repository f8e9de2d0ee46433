"""What the sources tell of hosts → one node per host, and after acceptance the destinations that it takes packets for.
Pure; called by `agent/route_manager.py`.

A cloud has no tunnels: whatever a host's backend, VNI or MAC, a route leads to its address. So several leases with one
address are one host with several subnets, and so are a lease and what the registrar tells of the same host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple, TypeAlias

from weft.core.ground import point
from weft.model import IPAddress, IPNetwork, Mac, Network, Node, Problem

BACKEND = "cloud"
FLANNEL = "flannel"
"""The source of leases and reservations: its networks are called by what they are."""
ANY = 0
"""Of `acceptance.Policy.underlay`: a host may have an address of either family."""
Told: TypeAlias = Mapping[IPNetwork, tuple[Node, Network]]
"""By subnet of one host, the claim that tells of it and its network; of several, the oldest one."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A subnet that a host takes packets for. `via`: its address. `source`, `peer`, `rule`: who says so, of whom, in
    which words."""

    dst: IPNetwork
    via: IPAddress
    source: str
    peer: str
    rule: str


class _Claim(NamedTuple):
    """What a source tells. `kept`: as far as it can be used; None: not at all. `marks`: its addresses."""

    claim: Node
    kept: Node | None
    problems: tuple[Problem, ...]
    age: tuple[float, str, str]
    marks: tuple[int, ...]


class _Host(NamedTuple):
    node: Node
    told: Told


@dataclass(frozen=True, slots=True)
class Hosts:
    """`nodes`: one for each host, sorted by id. `told`: by id, who tells of it. `problems`: of claims that can't be
    used. The rest is a memory: of what is the very same as before, nothing is made anew."""

    nodes: tuple[Node, ...] = ()
    told: Mapping[str, Told] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    claims: Mapping[int, _Claim] = field(default_factory=dict, compare=False, repr=False)
    groups: Mapping[tuple[int, ...], _Host] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """`destinations`: sorted by host. `made`: by host, of what."""

    destinations: tuple[Destination, ...] = ()
    made: Mapping[str, tuple[Node, Told, tuple[Destination, ...]]] = field(default_factory=dict, repr=False)


def nobody(name: str) -> Node:
    """Who judges and plans: a manager has no subnet of its own, and needs no address."""
    return Node(name, (), 0, 0, Mac(bytes(6)), 0, backend=BACKEND)


def gather(claims: Iterable[Node], before: Hosts | None = None) -> Hosts:
    """The hosts that these nodes of all sources are. A subnet that two sources tell of one host is one claim; networks
    that are not exposed are left out. `before`: only a memory."""
    old = before if before is not None else Hosts()
    known: dict[int, _Claim] = {}
    for claim in claims:
        known[id(claim)] = old.claims.get(id(claim)) or _claim(claim)
    usable = sorted((one for one in known.values() if one.kept is not None), key=_age)
    hosts: dict[str, _Host] = {}
    groups: dict[tuple[int, ...], _Host] = {}
    for group in _by_host(usable):
        key = tuple(id(one.claim) for one in group)
        name = _free_name(group[0].claim, hosts)
        host = old.groups.get(key)
        if host is None or host.node.id != name:
            host = _host(name, [one.kept for one in group if one.kept is not None])
        hosts[name] = groups[key] = host
    names = sorted(hosts)
    return Hosts(
        tuple(hosts[name].node for name in names),
        {name: hosts[name].told for name in names},
        tuple(chain.from_iterable(one.problems for one in known.values())),
        known,
        groups,
    )


def destinations(accepted: Iterable[Node], hosts: Hosts, before: Asked | None = None) -> Asked:
    """What the accepted nodes of `hosts` are to be sent: a destination for each subnet. `before`: only a memory."""
    old = before.made if before is not None else {}
    made = {}
    for node in accepted:
        told = hosts.told[node.id]
        same = old.get(node.id)
        if same is None or same[0] is not node or same[1] is not told:
            same = node, told, tuple(_destinations(node, told))
        made[node.id] = same
    return Asked(tuple(chain.from_iterable(found for _, _, found in made.values())), made)


def _destinations(node: Node, told: Told) -> Iterator[Destination]:
    for network in node.networks:
        for subnet in network.subnets:
            claim, said = told[subnet]
            via, rule = _hop(subnet.version, claim, node), _rule(claim, said, subnet)
            yield Destination(subnet, via, claim.source, node.id, rule)


def _rule(claim: Node, network: Network, subnet: IPNetwork) -> str:
    what = f"{network.name} {subnet}" if claim.source == FLANNEL else f"network {network.name}"
    return f"{what} of {' and '.join(map(str, claim.endpoints))}"


def _hop(version: int, claim: Node, host: Node) -> IPAddress:
    """Of the subnet's own family, as the claim tells it or else what is known of the host; or else of the other one:
    an instance takes packets of both."""
    return claim.endpoint(version) or host.endpoint(version) or claim.endpoints[0]


def _claim(claim: Node) -> _Claim:
    good = tuple(address for address in claim.endpoints if not _is_no_hop(address))
    bad = [str(address) for address in claim.endpoints if address not in good]
    problems: list[Problem] = []
    if bad:
        text = f"{claim.source}'s {claim.id}: no route can lead to {' and '.join(bad)}"
        problems.append(Problem(claim.id, text + ("; its other address is taken" if good else "")))
    elif not good:
        problems.append(Problem(claim.id, f"{claim.source}'s {claim.id} is not routed to: it tells no address"))
    networks = tuple(network for network in claim.networks if network.exposed)
    as_told = not bad and len(networks) == len(claim.networks)
    kept = claim if as_told else replace(claim, endpoints=good, networks=networks)
    since = min((network.since for network in networks), default=float("inf"))
    marks = tuple(map(point, good))
    return _Claim(claim, kept if good else None, tuple(problems), (since, claim.source, claim.id), marks)


def _is_no_hop(address: IPAddress) -> bool:
    reserved = address.version == 4 and address.is_reserved
    nowhere = address.is_unspecified or address.is_loopback or address.is_link_local
    return reserved or nowhere or address.is_multicast


def _age(claim: _Claim) -> tuple[float, str, str]:
    """The oldest first."""
    return claim.age


def _by_host(claims: Sequence[_Claim]) -> list[list[_Claim]]:
    """Claims that have an address in common, with each other or through others; the oldest first."""
    groups: dict[int, list[_Claim]] = {}
    for claim in claims:
        met = {id(group): group for group in (groups.get(mark) for mark in claim.marks) if group is not None}
        group = [*chain.from_iterable(met.values()), claim]
        groups.update(dict.fromkeys(chain.from_iterable(one.marks for one in group), group))
    found = [sorted(group, key=_age) for group in {id(group): group for group in groups.values()}.values()]
    return sorted(found, key=lambda group: group[0].age)


def _free_name(first: Node, taken: Mapping[str, object]) -> str:
    """Two sources may know two hosts by one name."""
    if first.id not in taken:
        return first.id
    return f"{first.id} ({first.source}: {' and '.join(map(str, first.endpoints))})"


def _host(name: str, claims: Sequence[Node]) -> _Host:
    """As acceptance sees a host: each subnet by itself, so that one that is refused takes no other along."""
    told: dict[IPNetwork, tuple[Node, Network]] = {}
    for claim in claims:
        for network in claim.networks:
            for subnet in network.subnets:
                told.setdefault(subnet, (claim, network))
    node = replace(
        nobody(name),
        endpoints=tuple(dict.fromkeys(address for claim in claims for address in claim.endpoints)),
        networks=tuple(replace(network, subnets=(subnet,)) for subnet, (_, network) in told.items()),
        version=claims[0].version,
        source=" and ".join(dict.fromkeys(claim.source for claim in claims)),
    )
    return _Host(node, told)
