"""lease: routes to other networks of hosts that have a flannel lease, through flanneld's own device. The registrar's.

A packet's walk. A container sends to 10.9.1.5, in a Docker network of the host whose lease is 10.5.20.0/24. The route
is `10.9.1.0/24 via 10.5.20.0 dev flannel.1 onlink`; the neighbour 10.5.20.0 and the FDB entry behind it are flanneld's,
which keeps them as long as that host has its lease. So nothing but routes is written here: no entry that flanneld would
find strange, none to be kept right beside its own. Each names its gateway itself, since a next-hop object would be on a
device that comes and goes as flanneld likes, and takes its routes along without a word.

Through a relay, the gateway is the relay's lease. Packets for the lease itself follow flanneld's route, so it is
covered by its two halves, which are more specific. Its network address, where it is probed whether the direct way is
back, keeps a route of its own, always: the probe's way must never depend on which of several routes the kernel was told
of first.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import NamedTuple

from weft.backends.tunnel import Tunnel, route_mtu, spread
from weft.model import IPAddress, IPNetwork, Network, Node, Relay, View
from weft.objects import Object, Route, Why

LEASE = "lease"
"""The name of the network that is a node's lease: its own daemon's, routed directly by flanneld."""


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """Nothing: the device is flanneld's."""
    yield from ()


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """A route per subnet, and where there is a lease what `_lease` says.

    A subnet of an IP version that the node has no address of in the overlay can't be routed: nothing for it."""
    for network in node.networks:
        for subnet in network.subnets:
            direct = _hop(node, subnet.version, tunnel)
            relayed = _hop(node.relay, subnet.version, tunnel) if node.relay is not None else None
            if direct is None:
                continue
            if network.name == LEASE:
                yield from _lease(node, subnet, direct, relayed, tunnel)
            else:
                yield _route(subnet, relayed or direct, node, tunnel), _why(node, network, relayed)
                if relayed is not None:
                    yield from _halves(node, network, subnet, relayed, tunnel)


class _Hop(NamedTuple):
    """Where routes lead next: through flannel's device to `address` of the overlay, or where flanneld needs no tunnel
    (DirectRouting) and has no entries on its device, straight to the endpoint `via`."""

    dev: str
    via: IPAddress
    address: IPAddress
    tunnelled: bool = True


def _hop(end: Node | Relay, version: int, tunnel: Tunnel) -> _Hop | None:
    """None: that end has no address of this IP version in the overlay."""
    address = next((a for a in end.overlay if a.version == version), None)
    if address is None:
        return None
    endpoint = next((a for a in end.endpoints if a.version == version), None)
    if end.direct and endpoint is not None:
        return _Hop(end.direct, endpoint, address, False)
    return _Hop(tunnel.device, address, address)


def _lease(
    node: Node, subnet: IPNetwork, direct: _Hop, relayed: _Hop | None, tunnel: Tunnel
) -> Iterator[tuple[Object, Why]]:
    """The direct way to the address where the node is probed. With a relay, that way for the rest, as two halves; of a
    lease of two addresses there are none but the probed one."""
    probe = Why(node.source, node.id, f"address at which node {node.id} is probed directly")
    yield _route(ip_network(direct.address), direct, node, tunnel, own=True), probe
    if relayed is not None and subnet.prefixlen < subnet.max_prefixlen - 1:
        asked = Why(node.source, node.id, f"half of the lease of node {node.id}{_through(node)}")
        for half in subnet.subnets():
            yield _route(half, relayed, node, tunnel), asked


def _halves(
    node: Node, network: Network, subnet: IPNetwork, relayed: _Hop, tunnel: Tunnel
) -> Iterator[tuple[Object, Why]]:
    """Relayed, a network needs more specific routes as a lease does: flanneld takes the entry that a registrar has made
    for it beside the leases for a lease, and its own route leads directly."""
    if subnet.prefixlen < subnet.max_prefixlen:
        asked = Why(node.source, node.id, f"half of network {network.name} of node {node.id}{_through(node)}")
        for half in subnet.subnets():
            yield _route(half, relayed, node, tunnel), asked


def _route(subnet: IPNetwork, hop: _Hop, node: Node, tunnel: Tunnel, own: bool = False) -> Route:
    """`own`: what this host sends itself is to have the device's own address."""
    metric = spread(tunnel.metric, subnet)
    mtu = route_mtu(node, tunnel) if hop.tunnelled else 0
    source = tunnel.source(subnet.version) if node.relay is not None and not own else None
    return Route(subnet, hop.dev, via=hop.via, onlink=hop.tunnelled, metric=metric, src=source, mtu=mtu)


def _why(node: Node, network: Network, relayed: _Hop | None) -> Why:
    through = _through(node) if relayed is not None else ""
    return Why(node.source, node.id, f"network {network.name} of node {node.id}{through}")


def _through(node: Node) -> str:
    return f", through node {node.relay.id}" if node.relay is not None else ""
