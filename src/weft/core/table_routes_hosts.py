"""What the sources tell of hosts → one node per host, and after acceptance the destinations that it takes packets for.
Pure; called by `agent/route_manager.py`.

A cloud has no tunnels: whatever a host's backend, VNI or MAC, a route leads to its address. So several leases with one
address are one host with several subnets, and so are a lease and what the registrar tells of the same host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from weft.model import IPAddress, IPNetwork, Mac, Network, Node, Problem

BACKEND = "cloud"
ANY = 0
"""Of `acceptance.Policy.underlay`: a host may have an address of either family."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A subnet that a host takes packets for. `via`: its address. `source`, `peer`, `rule`: who says so, of whom, in
    which words."""

    dst: IPNetwork
    via: IPAddress
    source: str
    peer: str
    rule: str


@dataclass(frozen=True, slots=True)
class Hosts:
    """`nodes`: one for each host, sorted by id. `told`: by host and subnet, the claim that tells of it and its network;
    of several, the oldest one. `problems`: of claims that can't be used."""

    nodes: tuple[Node, ...] = ()
    told: Mapping[tuple[str, IPNetwork], tuple[Node, Network]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def nobody(name: str) -> Node:
    """Who judges and plans: a manager has no subnet of its own, and needs no address."""
    return Node(name, (), 0, 0, Mac(bytes(6)), 0, backend=BACKEND)


def gather(claims: Iterable[Node]) -> Hosts:
    """The hosts that these nodes of all sources are. A subnet that two sources tell of one host is one claim; networks
    that are not exposed are left out."""
    problems: list[Problem] = []
    usable = []
    for claim in claims:
        kept, problem = _usable(claim)
        problems.extend(problem)
        usable.extend(kept)
    nodes: dict[str, Node] = {}
    told: dict[tuple[str, IPNetwork], tuple[Node, Network]] = {}
    for group in sorted(_by_host(sorted(usable, key=_age)), key=lambda group: _age(group[0])):
        name = _free_name(group[0], nodes)
        subnets: dict[IPNetwork, tuple[Node, Network]] = {}
        for claim in group:
            for network in claim.networks:
                for subnet in network.subnets:
                    subnets.setdefault(subnet, (claim, network))
        told.update(((name, subnet), said) for subnet, said in subnets.items())
        nodes[name] = _merged(name, group, subnets)
    return Hosts(tuple(nodes[name] for name in sorted(nodes)), told, tuple(problems))


def destinations(accepted: Iterable[Node], hosts: Hosts) -> tuple[Destination, ...]:
    """What the accepted nodes of `hosts` are to be sent, a destination for each subnet, sorted by host."""
    found = []
    for node in accepted:
        for subnet in dict.fromkeys(subnet for network in node.networks for subnet in network.subnets):
            claim, network = hosts.told[node.id, subnet]
            rule = _rule(claim, network, subnet)
            found.append(Destination(subnet, _hop(subnet.version, claim, node), claim.source, node.id, rule))
    return tuple(found)


def _rule(claim: Node, network: Network, subnet: IPNetwork) -> str:
    what = f"lease {subnet}" if network.name == "lease" else f"network {network.name}"
    return f"{what} of {' and '.join(map(str, claim.endpoints))}"


def _hop(version: int, claim: Node, host: Node) -> IPAddress:
    """Of the subnet's own family, as the claim tells it or else what is known of the host; or else of the other one:
    an instance takes packets of both."""
    return claim.endpoint(version) or host.endpoint(version) or claim.endpoints[0]


def _usable(claim: Node) -> tuple[list[Node], list[Problem]]:
    good = tuple(address for address in claim.endpoints if not _is_no_hop(address))
    bad = [str(address) for address in claim.endpoints if address not in good]
    problems = []
    if bad:
        text = f"{claim.source}'s {claim.id}: no route can lead to {' and '.join(bad)}"
        problems.append(Problem(claim.id, text + ("; its other address is taken" if good else "")))
    elif not good:
        problems.append(Problem(claim.id, f"{claim.source}'s {claim.id} is not routed to: it tells no address"))
    if not good:
        return [], problems
    networks = tuple(network for network in claim.networks if network.exposed)
    as_told = not bad and len(networks) == len(claim.networks)
    return [claim if as_told else replace(claim, endpoints=good, networks=networks)], problems


def _is_no_hop(address: IPAddress) -> bool:
    reserved = address.version == 4 and address.is_reserved
    nowhere = address.is_unspecified or address.is_loopback or address.is_link_local
    return reserved or nowhere or address.is_multicast


def _age(claim: Node) -> tuple[float, str, str]:
    """The oldest first."""
    return min((network.since for network in claim.networks), default=float("inf")), claim.source, claim.id


def _by_host(claims: Sequence[Node]) -> Iterator[list[Node]]:
    """Claims that have an address in common, with each other or through others."""
    groups: dict[IPAddress, list[Node]] = {}
    for claim in claims:
        met = {id(group): group for group in (groups.get(address) for address in claim.endpoints) if group is not None}
        group = [*chain.from_iterable(met.values()), claim]
        groups.update(dict.fromkeys(chain.from_iterable(one.endpoints for one in group), group))
    for group in {id(group): group for group in groups.values()}.values():
        yield sorted(group, key=_age)


def _free_name(first: Node, taken: Mapping[str, object]) -> str:
    """Two sources may know two hosts by one name."""
    if first.id not in taken:
        return first.id
    return f"{first.id} ({first.source}: {' and '.join(map(str, first.endpoints))})"


def _merged(name: str, group: Sequence[Node], subnets: Mapping[IPNetwork, tuple[Node, Network]]) -> Node:
    """As acceptance sees a host: each subnet by itself, so that one that is refused takes no other along."""
    networks = tuple(replace(network, subnets=(subnet,)) for subnet, (_, network) in subnets.items())
    sources = dict.fromkeys(claim.source for claim in group)
    return replace(
        nobody(name),
        endpoints=tuple(dict.fromkeys(address for claim in group for address in claim.endpoints)),
        networks=networks,
        version=group[0].version,
        source=" and ".join(sources),
    )
