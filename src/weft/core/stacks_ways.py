"""By which of its overlay addresses each peer of a VNI is reached: routing.yaml's vxlan_gateway, else the vxlan_ip that
it announces, if nobody else has it. Pure; called by `stacks_peers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from weft.core.stacks_here import Home
from weft.model import IPAddress, IPNetwork, Node
from weft.wire.routing import FILE, RemoteStack


class End(NamedTuple):
    """Where a tunnel to a peer ends. Equal for peers that share a VTEP."""

    endpoint: IPAddress
    port: int
    backend: str

    @classmethod
    def of(cls, node: Node, underlay: int) -> End:
        return cls(node.endpoint(underlay) or node.endpoints[0], node.port, node.backend)


class Way(NamedTuple):
    """`overlay`: the peer's addresses, routing.yaml's first. `listed`: the subnets that routing.yaml routes to it, None
    where it doesn't list the peer's stack."""

    overlay: tuple[IPAddress, ...] = ()
    listed: tuple[IPNetwork, ...] | None = None


class Note(NamedTuple):
    """Something to say about one peer."""

    peer: str
    text: str
    wrong: bool = True


class Book:
    """Who has which overlay address. `ends`: by peer."""

    def __init__(self, home: Home, ends: Mapping[str, End]) -> None:
        self.notes: list[Note] = []
        self._home, self._ends = home, ends
        self._spaces = {space.version: space for space in home.spaces}
        self._taken: dict[IPAddress, tuple[End | None, str]] = dict.fromkeys(home.me.overlay, (None, "this host"))
        self._given: dict[str, dict[int, IPAddress]] = {}

    def ways(self, nodes: Sequence[Node]) -> dict[str, Way]:
        """Of each of these peers, by its id."""
        by_stack: dict[str, list[Node]] = {}
        for node in nodes if self._home.listed else ():
            if node.stack in self._home.listed:
                by_stack.setdefault(node.stack, []).append(node)
        for stack, routers in sorted(by_stack.items()):
            routers.sort(key=lambda node: node.id)
            for version in (4, 6):
                self._deal(self._home.listed[stack], routers, version)
        overlays = {node.id: self._overlay(node) for node in sorted(nodes, key=_oldest_first)}
        found: dict[str, Way] = {}
        for node in nodes:
            remote = self._home.listed.get(node.stack) if node.stack else None
            listed = self._listed(remote, self._given.get(node.id, {})) if remote is not None else None
            if remote is not None and node.id not in self._given:
                self._say(node, f"is not routed to: {FILE} names no vxlan_gateway for it that another router hasn't")
            found[node.id] = Way(overlays[node.id], listed)
        return found

    def _say(self, node: Node, text: str, wrong: bool = True) -> None:
        self.notes.append(Note(node.id, text, wrong))

    def _deal(self, remote: RemoteStack, routers: Sequence[Node], version: int) -> None:
        """Give a stack's gateways of one family to its routers: to whom announces one, then to whom announces none,
        then to the others."""
        told = {node.id: _told(node, version) for node in routers}
        gateways = [a for a in remote.gateways if a.version == version and self._is_free(a, remote, routers)]
        open_ = list(routers)
        for gateway in list(gateways):
            right = next((node for node in open_ if gateway in told[node.id]), None)
            if right is not None:
                gateways.remove(gateway)
                open_.remove(right)
                self._give(right, gateway)
        for node, gateway in zip(sorted(open_, key=lambda node: bool(told[node.id])), list(gateways), strict=False):
            gateways.remove(gateway)
            self._give(node, gateway)
            if told[node.id]:
                said = ", ".join(map(str, told[node.id]))
                self._say(node, f"announces vxlan_ip {said}; {FILE} says vxlan_gateway {gateway}, and that holds")
        for gateway in gateways:
            text = f"has no router at {gateway} that is known, which {FILE} names; it is reached through the others"
            self._say(routers[0], text, wrong=False)

    def _is_free(self, gateway: IPAddress, remote: RemoteStack, routers: Sequence[Node]) -> bool:
        other = self._taken.get(gateway)
        if other is not None:
            self._say(routers[0], f"can't have vxlan_gateway {gateway}, as {FILE} says: it is {other[1]}'s")
        return other is None

    def _give(self, node: Node, gateway: IPAddress) -> None:
        self._given.setdefault(node.id, {})[gateway.version] = gateway
        self._taken[gateway] = self._ends[node.id], f"stack {node.stack}"

    def _overlay(self, node: Node) -> tuple[IPAddress, ...]:
        given = self._given.get(node.id, {})
        found = list(given.values())
        for address in node.overlay:
            if address.version in given:
                continue
            why = self._fault(address, node)
            if not why:
                self._taken[address] = self._ends[node.id], f"stack {node.stack or node.id}"
                found.append(address)
            elif node.stack:  # of whoever is no stack's router, the overlay addresses are containers' gateways
                self._say(node, f"announces vxlan_ip {address}, which is not taken: {why}")
        return tuple(found)

    def _fault(self, address: IPAddress, node: Node) -> str:
        """Why a peer can't have an address that it announces, or ""."""
        space = self._spaces.get(address.version)
        if space is None:
            return "" if node.stack else "it is none of the overlay's"
        if address not in space:
            return f"it is not in this host's VXLAN_SUBNET {space}"
        if address in (space.network_address, space.broadcast_address) and space.num_addresses > 2:
            return f"it is no host's in {space}"
        end, who = self._taken.get(address, (self._ends[node.id], ""))
        return "" if end == self._ends[node.id] else f"it is {who}'s"

    def _listed(self, remote: RemoteStack, given: Mapping[int, IPAddress]) -> tuple[IPNetwork, ...]:
        """The subnets of a stack that go through a router with these gateways: those of a family in which the stack has
        gateways through those alone."""
        versions = {gateway.version for gateway in remote.gateways}
        return tuple(s for s in remote.subnets if given and (s.version in given or s.version not in versions))


def _told(node: Node, version: int) -> list[IPAddress]:
    return [address for address in node.overlay if address.version == version]


def _oldest_first(node: Node) -> tuple[float, str]:
    """Of two that announce one address, whose networks are older has it, on every host alike."""
    return min((network.since for network in node.networks), default=float("inf")), node.id
