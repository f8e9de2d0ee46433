"""VXLAN (RFC 7348): this host's device, and what reaches one peer through it.

A packet's walk. A container sends to 10.2.0.5. The host's route for 10.2.0.0/24 names a next-hop object: gateway G on
vxlan4096. The neighbour entry for G gives the peer's VTEP MAC, the FDB entry for that MAC gives the peer's underlay
address, and the device wraps the frame in UDP to it. On the peer the inner frame's MAC is the device's own, so the
packet is routed on, into the bridge of 10.2.0.0/24. Three static entries per peer, nothing learned, nothing flooded.

G is the peer's underlay address for IPv4 over IPv4 (what people expect to read in `ip route`), else the link-local
address that follows from the peer's MAC: an IPv6 route needs an IPv6 gateway, an IPv4 route may have one (RFC 8950).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from weft.backends import hostgw
from weft.backends.tunnel import NEXT_HOP_BASE, OVERHEAD, Tunnel, device_of, link_local, spread
from weft.model import IPAddress, IPNetwork, Network, Node, View
from weft.objects import Address, Fdb, Link, Neighbour, NextHop, Object, Route, Vxlan, Why


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """The device, and this host's own addresses on it."""
    settings = Why("settings", view.me.id, "this host's end of the overlay")
    link = device(view)
    yield link, settings
    source = Why("engine", view.me.id, "source of this host's own packets")
    for address in view.me.overlay:
        yield Address(link.name, ip_interface(address)), source


def device(view: View) -> Link:
    """This host's VXLAN device. Raises ValueError if this host has no endpoint of the underlay's family."""
    local = view.me.endpoint(view.profile.underlay)
    if local is None:
        raise ValueError(f"this host has no IPv{view.profile.underlay} endpoint")
    profile = view.profile
    return Link(
        name=device_of(view),
        mac=view.me.mac,
        mtu=view.me.mtu - OVERHEAD[profile.underlay],
        vxlan=Vxlan(view.me.vni, view.me.port, local, learning=profile.learning, gbp=profile.gbp),
        alias=f"weft:{profile.role}:{profile.mark or view.me.id}",
    )


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """FDB entry, then per gateway that is needed a neighbour and a next hop, then a route per subnet; routes alone to a
    node that is reached without a tunnel.

    The node has an endpoint of the tunnel's family: acceptance saw to it."""
    if node.direct:
        yield from hostgw.reach(node, tunnel, slot)
        return
    endpoint = node.endpoint(tunnel.underlay)
    if endpoint is None:
        raise ValueError(f"node {node.id} has no IPv{tunnel.underlay} endpoint")
    why = Why(node.source, node.id, f"tunnel to node {node.id}")
    yield Fdb(tunnel.device, node.mac, endpoint), why
    gateways: list[IPAddress] = []
    for network in node.networks:
        asked = Why(node.source, node.id, f"network {network.name} of node {node.id}")
        for subnet in network.subnets:
            gateway = _gateway(node, endpoint, subnet, tunnel)
            if gateway not in gateways:
                gateways.append(gateway)
                yield Neighbour(tunnel.device, gateway, node.mac), why
                if tunnel.nexthop_objects:
                    yield NextHop(_next_hop_id(slot, gateway), tunnel.device, gateway), why
            yield _route(subnet, gateway, tunnel, _route_mtu(node, tunnel), slot), asked


def _gateway(node: Node, endpoint: IPAddress, subnet: IPNetwork, tunnel: Tunnel) -> IPAddress:
    """flannel's nodes are gateways by their own address in the overlay."""
    if tunnel.gateway == "overlay":
        own = next((a for a in node.overlay if a.version == subnet.version), None)
        if own is not None:
            return own
    return endpoint if subnet.version == endpoint.version == 4 else link_local(node.mac)


def subnets(networks: tuple[Network, ...]) -> list[IPNetwork]:
    """Every subnet of these networks that may be told to others."""
    return [subnet for network in networks if network.exposed for subnet in network.subnets]


def _route(subnet: IPNetwork, gateway: IPAddress, tunnel: Tunnel, mtu: int, slot: int) -> Route:
    source = tunnel.source(subnet.version)
    if tunnel.nexthop_objects:
        hop = _next_hop_id(slot, gateway)
        return Route(subnet, tunnel.device, nexthop=hop, metric=tunnel.metric, src=source, mtu=mtu)
    metric = spread(tunnel.metric, subnet)
    return Route(subnet, tunnel.device, via=gateway, onlink=True, metric=metric, src=source, mtu=mtu)


def _next_hop_id(slot: int, gateway: IPAddress) -> int:
    return NEXT_HOP_BASE + 2 * slot + (gateway.version == 6)


def _route_mtu(node: Node, tunnel: Tunnel) -> int:
    """A peer whose uplink carries less than ours: the route says so, and the kernel answers what is too big with
    "fragmentation needed" at once, instead of a router on the way fragmenting the outer packet. 0: as the device."""
    return node.mtu - OVERHEAD[tunnel.underlay] if 0 < node.mtu < tunnel.mtu else 0
