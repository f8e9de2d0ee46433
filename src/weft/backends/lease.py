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
from dataclasses import replace
from ipaddress import ip_network

from weft.backends import hostgw
from weft.backends.tunnel import Tunnel, route_mtu, spread
from weft.model import IPAddress, IPNetwork, Network, Node, View
from weft.objects import Object, Route, Why

LEASE = "lease"
"""The name of the network that is a node's lease: its own daemon's, routed directly by flanneld."""


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """Nothing: the device is flanneld's."""
    yield from ()


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """A route per subnet, and where there is a lease what `_lease` says. To a node that flanneld reaches without a
    tunnel (DirectRouting), and has no entries for, routes straight there.

    A subnet of an IP version that the node has no address of in the overlay can't be routed: nothing for it."""
    if node.direct and node.relay is None:
        apart = tuple(network for network in node.networks if network.name != LEASE)
        yield from hostgw.reach(replace(node, networks=apart), tunnel, slot)
        return
    for network in node.networks:
        for subnet in network.subnets:
            own = _of_version(node.overlay, subnet.version)
            gateway = _of_version(node.relay.overlay, subnet.version) if node.relay is not None else None
            if own is None:
                continue
            if network.name == LEASE:
                yield from _lease(node, subnet, own, gateway, tunnel)
            else:
                yield _route(subnet, gateway or own, node, tunnel), _why(node, network, gateway)
                if gateway is not None:
                    yield from _halves(node, network, subnet, gateway, tunnel)


def _lease(
    node: Node, subnet: IPNetwork, own: IPAddress, gateway: IPAddress | None, tunnel: Tunnel
) -> Iterator[tuple[Object, Why]]:
    """The direct way to the address where the node is probed. With a relay's `gateway`, that way for the rest, as two
    halves; of a lease of two addresses there are none but the probed one."""
    probe = Why(node.source, node.id, f"address at which node {node.id} is probed directly")
    yield _route(ip_network(own), own, node, tunnel), probe
    if gateway is not None and subnet.prefixlen < subnet.max_prefixlen - 1:
        asked = Why(node.source, node.id, f"half of the lease of node {node.id}{_through(node)}")
        for half in subnet.subnets():
            yield _route(half, gateway, node, tunnel), asked


def _halves(
    node: Node, network: Network, subnet: IPNetwork, gateway: IPAddress, tunnel: Tunnel
) -> Iterator[tuple[Object, Why]]:
    """Relayed, a network needs more specific routes as a lease does: flanneld takes the entry that a registrar has made
    for it beside the leases for a lease, and its own route leads directly."""
    if subnet.prefixlen < subnet.max_prefixlen:
        asked = Why(node.source, node.id, f"half of network {network.name} of node {node.id}{_through(node)}")
        for half in subnet.subnets():
            yield _route(half, gateway, node, tunnel), asked


def _route(subnet: IPNetwork, gateway: IPAddress, node: Node, tunnel: Tunnel) -> Route:
    metric = spread(tunnel.metric, subnet)
    return Route(subnet, tunnel.device, via=gateway, onlink=True, metric=metric, mtu=route_mtu(node, tunnel))


def _why(node: Node, network: Network, gateway: IPAddress | None) -> Why:
    through = _through(node) if gateway is not None else ""
    return Why(node.source, node.id, f"network {network.name} of node {node.id}{through}")


def _through(node: Node) -> str:
    return f", through node {node.relay.id}" if node.relay is not None else ""


def _of_version(addresses: tuple[IPAddress, ...], version: int) -> IPAddress | None:
    return next((a for a in addresses if a.version == version), None)
