"""The peers of one VNI → what they claim, as nodes that acceptance can judge: each with the overlay addresses that it
may have, and the subnets that routing.yaml gives it or that it announces. Pure; called by `stacks.py`.

Stacks of one host and VNI share a VTEP, so peers at one endpoint become one node: two could not be told apart on the
wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import NamedTuple

from weft.backends.tunnel import vtep_mac
from weft.core.stacks_here import Home, meet
from weft.core.stacks_ways import Book, End, Note, Way
from weft.model import IPAddress, IPNetwork, Mac, Network, Node, Peer, Problem
from weft.wire.routing import FILE

STATIC, DISCOVERED = "static-config", "discovery"
"""Where a route comes from, in the document's words. A network's `note` says it."""
ZERO_MAC = Mac(bytes(6))
FIRST_SECOND = 1.0
"""Seconds since 1970: no network that a peer announces is as old as those of routing.yaml, which are from 0."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator allows. `allowed`: where networks of others may lie. `dynamic`: stacks that routing.yaml doesn't
    list are routed to as they announce it. `max_networks`: of one peer; who announces more is not believed at all.
    `multipath`: a subnet behind several routers of one stack is shared among them. `flood`: peers are found by ARP."""

    allowed: tuple[IPNetwork, ...]
    dynamic: bool = True
    max_networks: int = 256
    multipath: bool = True
    flood: bool = False


class _Said(NamedTuple):
    """What one peer came to. `node` None: nothing is routed to it. `notes`: texts, and whether that is wrong."""

    peer: Node
    way: Way
    node: Node | None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What peers are read by. `links`: subnets of this host's other interfaces."""

    home: Home
    options: Options
    underlay: int
    links: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Claims:
    """`nodes`: sorted by id. `members`: node's id → the peers that it is made of. `stale`: (node's id, stack) of which
    no peer is active. `notes`: of peers, in no order. `said`, `merged`: memory, so that of peers that say the same the
    node is the very same."""

    nodes: tuple[Node, ...] = ()
    members: Mapping[str, tuple[Peer, ...]] = field(default_factory=dict)
    stale: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[Note, ...] = ()
    terms: Terms | None = None
    said: Mapping[str, _Said] = field(default_factory=dict)
    merged: Mapping[End, tuple[tuple[Node, ...], Node]] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """What there is to say of peers."""
        for note in self.notes:
            peer = self.said[note.peer].peer
            stack = peer.stack or peer.id
            who = stack if stack == peer.id else f"{stack} ({peer.id})"
            yield Problem(peer.id, f"stack {who} {note.text}", note.wrong)


def read_claims(peers: Sequence[Peer], terms: Terms, previous: Claims) -> Claims:
    """What these peers claim, none of them this host's own, and all of its VNI. `previous` is a memory: the result is
    the same without it."""
    known = previous if previous.terms == terms else Claims()
    peers = sorted(peers, key=lambda peer: peer.node.id)
    ends = {peer.node.id: End.of(peer.node, terms.underlay) for peer in peers}
    book = Book(terms.home, ends)
    ways = book.ways([peer.node for peer in peers])
    notes = book.notes
    said: dict[str, _Said] = {}
    together: dict[End, list[Peer]] = {}
    for peer in peers:
        name = peer.node.id
        before = known.said.get(name)
        is_same = before is not None and before.way == ways[name] and before.peer == peer.node
        one = before if before is not None and is_same else _judge(peer.node, ways[name], terms)
        said[name] = one
        notes.extend(one.notes)
        if one.node is not None:
            together.setdefault(ends[name], []).append(peer)
    merged = {
        end: _joined([said[p.node.id].node for p in crowd], known.merged.get(end), terms.underlay)
        for end, crowd in together.items()
    }
    members = {merged[end][1].id: tuple(crowd) for end, crowd in together.items()}
    notes.extend(_several_macs(merged.values()))
    nodes = tuple(sorted((node for _, node in merged.values()), key=lambda node: node.id))
    return Claims(nodes, members, frozenset(_stale(members)), tuple(notes), terms, said, merged)


def _judge(peer: Node, way: Way, terms: Terms) -> _Said:
    """One peer by itself."""
    announced = sum(len(network.subnets) for network in peer.networks)
    flooded = peer.mac == ZERO_MAC or (terms.options.flood and bool(way.overlay))
    inside = _inside(peer, terms)
    if inside is not None:
        return _refused(peer, way, f"can't be reached: its host_ip lies in VXLAN_SUBNET {inside}, inside of the tunnel")
    if flooded and not way.overlay:
        return _refused(peer, way, "can't be reached: it tells neither a MAC address nor a vxlan_ip that it can have")
    if way.listed is None and announced > terms.options.max_networks:
        most = f"{announced} networks, and {terms.options.max_networks} are the most that are taken (MAX_NETWORKS)"
        return _refused(peer, way, f"is not routed to: it announces {most}")
    networks, notes = _networks(peer, way, terms)
    if flooded and not any(address.version == 6 for address in way.overlay):
        kept = tuple(_without_ipv6(networks))
        if kept != networks:
            text = "has no IPv6 address on the overlay, and tells no MAC address: its IPv6 networks are not routed"
            notes.append(Note(peer.id, text))
        networks = kept
    return _Said(peer, way, replace(peer, networks=networks, overlay=way.overlay), tuple(notes))


def _inside(peer: Node, terms: Terms) -> IPNetwork | None:
    """The overlay's subnet that the tunnel's own packets to this peer would be sent into: nothing that is preferred
    leads them out of another link."""
    endpoint = peer.endpoint(terms.underlay)
    space = next((one for one in terms.home.spaces if endpoint is not None and endpoint in one), None)
    if space is None or endpoint is None:
        return None
    if any(endpoint in link and link.prefixlen >= space.prefixlen for link in terms.links):
        return None
    return space


def _refused(peer: Node, way: Way, why: str) -> _Said:
    return _Said(peer, way, None, (Note(peer.id, why),))


def _networks(peer: Node, way: Way, terms: Terms) -> tuple[tuple[Network, ...], list[Note]]:
    """What lies behind a peer: by routing.yaml, where that lists its stack, else by its own word."""
    if way.listed is not None:
        one = Network(f"{peer.stack} ({FILE})", way.listed, since=0.0, note=STATIC, stack=peer.stack)
        return (one,) if way.listed else (), []
    if not terms.options.dynamic:
        text = f"announces networks that are not routed: {FILE} doesn't list it, and DYNAMIC_ROUTES is false"
        return (), [Note(peer.id, text, wrong=False)] if peer.networks else []
    own = terms.home.me.networks if peer.stack in terms.home.stacks else ()
    mine = [subnet for network in own if network.stack == peer.stack for subnet in network.subnets]
    found: list[Network] = []
    for network in peer.networks:
        subnets = network.subnets
        if mine:  # another router of a stack that is here, too: what both have is nearer here
            subnets = tuple(subnet for subnet in subnets if not any(meet(subnet, one) for one in mine))
        if subnets:
            since = max(network.since, FIRST_SECOND)
            found.append(replace(network, subnets=subnets, since=since, note=DISCOVERED, stack=peer.stack))
    return tuple(found), []


def _without_ipv6(networks: Iterable[Network]) -> Iterator[Network]:
    for network in networks:
        subnets = tuple(subnet for subnet in network.subnets if subnet.version == 4)
        if len(subnets) == len(network.subnets):
            yield network
        elif subnets:
            yield replace(network, subnets=subnets)


# -- several peers, one end ------------------------------------------------------------------------------------------


def _joined(
    nodes: Sequence[Node | None], before: tuple[tuple[Node, ...], Node] | None, underlay: int
) -> tuple[tuple[Node, ...], Node]:
    """The peers of one end and the node that they are."""
    of_end = tuple(node for node in nodes if node is not None)
    if before is not None and len(before[0]) == len(of_end) and all(map(is_, before[0], of_end)):
        return before
    return of_end, _merged(of_end, underlay) if len(of_end) > 1 else of_end[0]


def _merged(nodes: Sequence[Node], underlay: int) -> Node:
    """`nodes` are sorted by id: the first one's is theirs."""
    first = nodes[0]
    by_family: dict[int, IPAddress] = {a.version: a for node in reversed(nodes) for a in reversed(node.endpoints)}
    listed_first = sorted(nodes, key=lambda node: not any(network.note == STATIC for network in node.networks))
    return replace(
        first,
        endpoints=tuple(dict.fromkeys((first.endpoints[0], *(by_family[v] for v in sorted(by_family))))),
        mac=_mac(nodes, underlay),
        mtu=min((node.mtu for node in nodes if node.mtu), default=0),
        networks=_together(nodes),
        overlay=tuple(dict.fromkeys(address for node in listed_first for address in node.overlay)),
    )


def _mac(nodes: Sequence[Node], underlay: int) -> Mac:
    """weft's own follows from the first endpoint, which is the shared one unless the host has IPv4 and IPv6; any other
    is another program's, or somebody's who isn't there."""
    told = dict.fromkeys(node.mac for node in nodes if node.mac != ZERO_MAC)
    first = (node.endpoints[0] for node in nodes)
    derived = [vtep_mac(str(end), nodes[0].vni) for end in (End.of(nodes[0], underlay).endpoint, *first)]
    return next((mac for mac in (*derived, *told) if mac in told), ZERO_MAC)


def _together(nodes: Sequence[Node]) -> tuple[Network, ...]:
    """All their networks; a subnet that several have is the oldest's."""
    oldest: dict[IPNetwork, tuple[float, int]] = {}
    networks = [network for node in nodes for network in node.networks]
    for number, network in enumerate(networks):
        for subnet in network.subnets:
            oldest[subnet] = min(oldest.get(subnet, (network.since, number)), (network.since, number))
    found: list[Network] = []
    for number, network in enumerate(networks):
        subnets = tuple(subnet for subnet in network.subnets if oldest[subnet][1] == number)
        if subnets:
            found.append(network if len(subnets) == len(network.subnets) else replace(network, subnets=subnets))
    return tuple(found)


def _several_macs(merged: Iterable[tuple[tuple[Node, ...], Node]]) -> Iterator[Note]:
    for nodes, one in merged:
        for node in nodes:
            if node.mac not in (ZERO_MAC, one.mac):
                text = f"tells another MAC address than others at its endpoint {one.endpoints[0]}; theirs holds"
                yield Note(node.id, text)


def _stale(members: Mapping[str, tuple[Peer, ...]]) -> Iterator[tuple[str, str]]:
    for name, peers in members.items():
        active = {peer.node.stack for peer in peers if peer.status == "active"}
        yield from ((name, peer.node.stack) for peer in peers if peer.node.stack not in active)
