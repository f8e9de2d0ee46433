"""The stacks of this host and what a discovery says of the others → one overlay per VNI: this host's end, whom to reach
and by which of their addresses, and which subnets lie behind whom. Pure; called by `agent/router.py`.

Peers become claims (`stacks_peers.py`), claims are judged as every daemon's are (`acceptance.py`); what is left here is
what nodes have in common: several routers of one stack with the same subnet, and the same subnet in two VNIs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from weft.backends.tunnel import OVERHEAD, no_ipv6
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.dispute import called, owner
from weft.core.ground import span
from weft.core.stacks_here import Home, collisions, homes, odds
from weft.core.stacks_peers import DISCOVERED as DISCOVERED
from weft.core.stacks_peers import STATIC as STATIC
from weft.core.stacks_peers import Claims, Terms, read_claims
from weft.core.stacks_peers import Options as Options
from weft.model import DiscoveryData, Host, IPNetwork, Multipath, Network, Node, Peer, Problem, Relay
from weft.wire.routing import StackConfig


@dataclass(frozen=True, slots=True)
class Scene:
    """What everything follows from. `me`: this host as far as it is the same in all VNIs; `peer_id`: its name among the
    others, "": its stacks'. `underlay`: 4 or 6."""

    stacks: tuple[StackConfig, ...]
    me: Node
    underlay: int
    host: Host
    data: DiscoveryData
    options: Options
    peer_id: str = ""


@dataclass(frozen=True, slots=True)
class Overlay:
    """One VNI. `me`: this host's end; `spaces`: subnets of the overlay's own addresses; `networks`: of this host's
    stacks; `nodes`: accepted, sorted by id. `owners`: whose stack's the subnets of `multipath` are."""

    me: Node
    spaces: tuple[IPNetwork, ...]
    networks: tuple[Network, ...]
    nodes: tuple[Node, ...]
    multipath: tuple[Multipath, ...] = ()
    owners: Mapping[IPNetwork, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one peer. `node`: the id of the node that it is part of, "" if nothing is routed to it; `reason`:
    why not, or what is not as it was announced."""

    peer: Peer
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """`overlays`: in the order of the stacks. `claims`, `accepted`: by VNI, for the fates, and as the next survey's
    memory."""

    scene: Scene
    overlays: tuple[Overlay, ...] = ()
    problems: tuple[Problem, ...] = ()
    claims: Mapping[int, Claims] = field(default_factory=dict)
    accepted: Mapping[int, Accepted] = field(default_factory=dict)

    def fates(self) -> tuple[Fate, ...]:
        """Of every peer, sorted by VNI and id."""
        routed = {
            (overlay.me.vni, peer.node.id): node.id
            for overlay in self.overlays
            for node in overlay.nodes
            for peer in self.claims[overlay.me.vni].members[node.id]
        }
        said: dict[str, list[str]] = {}
        for problem in self.problems:
            said.setdefault(problem.subject, []).append(problem.message)
        found: list[Fate] = []
        for peer in sorted(self.scene.data.peers, key=lambda peer: (peer.node.vni, peer.node.id)):
            node = routed.get((peer.node.vni, peer.node.id), "")
            reasons = [*said.get(peer.node.id, ()), *(said.get(node, ()) if node != peer.node.id else ())]
            if _is_here(peer.node, self.scene):
                reasons.append(f"its endpoint is this host's own: it is another stack of {self.scene.me.endpoints[0]}")
            found.append(Fate(peer, node, "; ".join(reasons)))
        return tuple(found)


def survey(scene: Scene, previous: Survey | None = None) -> Survey:
    """What this host is to route. `previous` is only a memory: the result is the same without it."""
    found, problems = homes(scene.stacks, scene.me, scene.peer_id)
    problems = (*problems, *odds(found, [peer.node for peer in scene.data.here]), *collisions(found, scene.host))
    lacking = no_ipv6(scene.host, scene.me.mtu - OVERHEAD[scene.underlay])
    if lacking:
        found = tuple(replace(home, me=_of_ipv4(home.me)) for home in found)
    links = tuple(dict.fromkeys(address.network for link in scene.host.uplinks for address in link.addresses))
    peers, elsewhere = _by_vni(scene, found)
    claims: dict[int, Claims] = {}
    accepted: dict[int, Accepted] = {}
    overlays: list[Overlay] = []
    later: list[Problem] = []
    taken = _Taken()
    for home in found:
        vni = home.vni
        before = previous.claims.get(vni) if previous is not None else None
        claims[vni] = read_claims(peers[vni], Terms(home, scene.options, scene.underlay, links), before or Claims())
        policy = _policy(home, found, scene, lacking)
        accepted[vni] = accept(claims[vni].nodes, policy, previous.accepted.get(vni) if previous is not None else None)
        nodes, refused = taken.after(vni, accepted[vni].nodes)
        if home is not found[-1]:
            taken.take(vni, nodes)
        several = _Several.of(nodes, accepted[vni].memory.parties, claims[vni].stale)
        overlays.append(several.overlay(home, nodes, scene.options.multipath))
        later.extend((*claims[vni].problems(), *accepted[vni].problems, *refused))
    return Survey(scene, tuple(overlays), (*problems, *elsewhere, *later), claims, accepted)


def _of_ipv4(me: Node) -> Node:
    return replace(me, overlay=tuple(address for address in me.overlay if address.version == 4))


def _is_here(node: Node, scene: Scene) -> bool:
    return node.endpoint(scene.underlay) in scene.me.endpoints


def _by_vni(scene: Scene, found: Sequence[Home]) -> tuple[dict[int, list[Peer]], list[Problem]]:
    """Peers that are to be routed to, and what there is to say of those in other VNIs."""
    peers: dict[int, list[Peer]] = {home.vni: [] for home in found}
    elsewhere: list[Problem] = []
    mine = ", ".join(map(str, peers))
    for peer in scene.data.peers:
        node = peer.node
        if _is_here(node, scene):
            continue
        if node.vni in peers:
            peers[node.vni].append(peer)
        else:
            text = f"stack {node.stack or node.id} is not routed to: its VNI is {node.vni}, this host's is {mine}"
            elsewhere.append(Problem(node.id, text, wrong=False))
    return peers, elsewhere


def _policy(home: Home, found: Sequence[Home], scene: Scene, lacking: str) -> Policy:
    """Nobody gets what is this host's in any VNI, nor the overlays' own subnets."""
    networks = [network for one in found for network in one.me.networks]
    spaces = tuple(space for one in found for space in one.spaces)
    return Policy(
        me=home.me,
        underlay=scene.underlay,
        allowed=scene.options.allowed,
        networks=(*networks, Network("VXLAN_SUBNET", spaces)),
        uplinks=scene.host.uplinks,
        no_ipv6=lacking,
        macless=True,
    )


# -- the same subnet in two VNIs -------------------------------------------------------------------------------------


class _Taken:
    """Subnets that are routed in one VNI, so in no other: the kernel has one route to each."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, str]] = []

    def take(self, vni: int, nodes: Iterable[Node]) -> None:
        """From now on these are taken. Of two that overlap, the larger one is kept."""
        for node in nodes:
            for network in node.networks:
                self._spans.extend(
                    (*span(subnet), f"{owner(node, network)}'s {subnet} in VNI {vni}") for subnet in network.subnets
                )
        kept: list[tuple[int, int, str]] = []
        for one in sorted(self._spans, key=lambda item: (item[0], -item[1], item[2])):
            if not kept or one[0] > kept[-1][1]:
                kept.append(one)
        self._spans = kept

    def after(self, vni: int, nodes: tuple[Node, ...]) -> tuple[tuple[Node, ...], list[Problem]]:
        """What is left of these nodes, and what is refused."""
        if not self._spans:
            return nodes, []
        problems: list[Problem] = []
        left: list[Node] = []
        for node in nodes:
            lost: set[tuple[str, IPNetwork]] = set()
            for network in node.networks:
                for subnet in network.subnets:
                    other = self._other(subnet)
                    if other:
                        lost.add((network.stack, subnet))
                        text = f"{owner(node, network)}'s {called(network.name, subnet)} in VNI {vni} is refused"
                        problems.append(Problem(node.id, f"{text}: it overlaps {other}, which comes first"))
            left.append(_without(node, lost))
        return tuple(left), problems

    def _other(self, subnet: IPNetwork) -> str:
        """Whose it is, or a part of it; "" if it is free."""
        first, last = span(subnet)
        at = bisect_right(self._spans, last, key=lambda item: item[0])
        return self._spans[at - 1][2] if at and self._spans[at - 1][1] >= first else ""


# -- several routers of one stack ------------------------------------------------------------------------------------


class _Holder(NamedTuple):
    """One router behind which a subnet lies. Sorts by whether nothing was heard of it for long, then by id."""

    is_stale: bool
    id: str
    node: Node
    network: Network


@dataclass(frozen=True, slots=True)
class _Several:
    """By stack and subnet, the routers behind which it lies, by their ids."""

    holders: Mapping[tuple[str, IPNetwork], Mapping[str, _Holder]]

    @classmethod
    def of(cls, nodes: Sequence[Node], parties: frozenset[str], stale: frozenset[tuple[str, str]]) -> _Several:
        """Of the nodes that have something in common with others (`parties`); the others have all to themselves."""
        holders: dict[tuple[str, IPNetwork], dict[str, _Holder]] = {}
        for node in nodes if parties else ():
            if node.id in parties:
                for network in node.networks:
                    for subnet in network.subnets:
                        holder = _Holder((node.id, network.stack) in stale, node.id, node, network)
                        holders.setdefault((network.stack, subnet), {}).setdefault(node.id, holder)
        return cls({key: by_id for key, by_id in holders.items() if len(by_id) > 1})

    def overlay(self, home: Home, nodes: tuple[Node, ...], multipath: bool) -> Overlay:
        """A subnet behind several is all active ones' together (all stale ones', where none is active), or the first
        one's."""
        lost: dict[str, set[tuple[str, IPNetwork]]] = {}
        found: list[Multipath] = []
        owners: dict[IPNetwork, str] = {}
        for (stack, subnet), by_id in self.holders.items():
            several = sorted(by_id.values(), key=lambda holder: holder[:2])
            ends = [one for one in several if one.is_stale == several[0].is_stale]
            shared = multipath and len(ends) > 1
            if shared:
                found.append(_multipath(subnet, ends))
                owners[subnet] = stack
            for one in several if shared else several[1:]:
                lost.setdefault(one.id, set()).add((stack, subnet))
        left = tuple(_without(node, lost.get(node.id, set())) for node in nodes) if lost else nodes
        in_order = tuple(sorted(found, key=lambda one: span(one.subnet)))
        return Overlay(home.me, home.spaces, home.me.networks, left, in_order, owners)


def _multipath(subnet: IPNetwork, ends: Sequence[_Holder]) -> Multipath:
    first = ends[0]
    relays = tuple(Relay(one.id, one.node.endpoints, one.node.mac, one.node.overlay) for one in ends)
    mtu = min((one.node.mtu for one in ends if one.node.mtu), default=0)
    return Multipath(
        subnet, relays, first.network.note, f"network {first.network.name} of stack {first.network.stack}", mtu
    )


def _without(node: Node, lost: set[tuple[str, IPNetwork]]) -> Node:
    """`node` without these subnets of these stacks."""
    return replace(node, networks=tuple(_left(node.networks, lost))) if lost else node


def _left(networks: Iterable[Network], lost: set[tuple[str, IPNetwork]]) -> Iterator[Network]:
    for network in networks:
        kept = tuple(subnet for subnet in network.subnets if (network.stack, subnet) not in lost)
        if kept:
            yield network if len(kept) == len(network.subnets) else replace(network, subnets=kept)
