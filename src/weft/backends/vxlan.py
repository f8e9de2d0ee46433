"""VXLAN (RFC 7348): this host's device, and what reaches one peer through it.

A packet's walk. A container sends to 10.2.0.5. The host's route for 10.2.0.0/24 names a next-hop object: gateway G on
vxlan4096. The neighbour entry for G gives the peer's VTEP MAC, the FDB entry for that MAC gives the peer's underlay
address, and the device wraps the frame in UDP to it. On the peer the inner frame's MAC is the device's own, so the
packet is routed on, into the bridge of 10.2.0.0/24. Three static entries per peer, nothing learned, nothing flooded.

A peer that told no MAC is flooded to: an all-zero FDB entry leads to its endpoint (one for all peers there), the kernel
asks for G, the peer's own overlay address, by ARP or neighbour discovery, and finds the MAC behind it by learning, or
floods every frame without that. So are all peers that have an overlay address where the settings ask for it.

G is the peer's underlay address for IPv4 over IPv4 (what people expect to read in `ip route`), else the link-local
address that follows from the peer's MAC: an IPv6 route needs an IPv6 gateway, an IPv4 route may have one (RFC 8950).

Through a relay, the next-hop object alone is another one: G is then the relay's, whose entries stand already, and the
relay routes the packet on. The peer's own entries stay, for on them it is probed whether the direct way is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from weft.backends import hostgw
from weft.backends.tunnel import NEXT_HOP_BASE, OVERHEAD, Tunnel, device_of, link_local, probed, route_mtu, spread
from weft.model import IPAddress, IPNetwork, Network, Node, Relay, View
from weft.objects import ZERO_MAC, Address, Fdb, Link, Neighbour, NextHop, Object, Route, Sysctl, Vxlan, Why


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """The device, its settings, and this host's own addresses on it."""
    settings = Why("settings", view.me.id, "this host's end of the overlay")
    link = device(view)
    yield link, settings
    if probed(view) and view.host.sysctls:
        # A peer's probe has its endpoint as source, to which the way back is the uplink: a strict filter (RHEL has that
        # on all devices; of the two values the greater holds) would drop it. 2: there must be a way back by any device.
        yield Sysctl(f"net/ipv4/conf/{link.name}/rp_filter", "2", link.name), settings
        # A relay sends packets out of the device that they came in by; nobody is to take another way on its word.
        yield Sysctl(f"net/ipv4/conf/{link.name}/send_redirects", "0", link.name), settings
    source = Why("engine", view.me.id, "source of this host's own packets")
    for address in view.me.overlay:
        space = _space(address, view.profile.spaces)
        if space is None:
            yield Address(link.name, ip_interface(address)), source
        else:
            yield Address(link.name, ip_interface((address, space.prefixlen))), settings
            # The kernel would make it with metric 0, and take this host's own network away if it is the same.
            yield Route(space, link.name, metric=view.profile.metric), settings


def _space(address: IPAddress, spaces: tuple[IPNetwork, ...]) -> IPNetwork | None:
    """The most specific network that the address is in."""
    return max((space for space in spaces if address in space), key=lambda space: space.prefixlen, default=None)


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
    node that is reached without a tunnel. No neighbour of a node that is flooded to, and nothing at all if it told
    neither a MAC nor an overlay address.

    Neighbours of all gateways that the node may be, needed or not, where it is probed at them, or may be the relay of
    another node; and of its addresses in the overlay: all where they are the hosts' own, else one for each lease, for a
    registrar's routes lead through one of them, whichever this node's own do (lease.py).

    The node has an endpoint of the tunnel's family: acceptance saw to it."""
    if node.direct:
        yield from hostgw.reach(node, tunnel, slot)
        return
    endpoint = node.endpoint(tunnel.underlay)
    if endpoint is None:
        raise ValueError(f"node {node.id} has no IPv{tunnel.underlay} endpoint")
    why = Why(node.source, node.id, f"tunnel to node {node.id}")
    flooded = is_flooded(node, tunnel)
    if flooded and not node.overlay:
        return
    yield Fdb(tunnel.device, ZERO_MAC if flooded else node.mac, node.outer or endpoint), why
    apart = tunnel.probed or node.relay is not None
    if apart and not flooded:
        for known in _gateways(node, tunnel):
            yield Neighbour(tunnel.device, known, node.mac), why
    through, way = _way(node)
    gateways: list[IPAddress] = []
    for network in node.networks:
        asked = Why(node.source, node.id, f"network {network.name} of node {node.id}{through}")
        for subnet in network.subnets:
            gateway = gateway_of(way, subnet.version, tunnel)
            if gateway is None:
                continue
            if gateway not in gateways:
                gateways.append(gateway)
                if not apart and not flooded:
                    yield Neighbour(tunnel.device, gateway, node.mac), why
                if tunnel.nexthop_objects:
                    hop = NextHop(_next_hop_id(slot, gateway), tunnel.device, gateway)
                    yield hop, Why(node.source, node.id, f"tunnel to node {node.id}{through}")
            yield _route(subnet, gateway, tunnel, route_mtu(node, tunnel), slot), asked
    if tunnel.gateway == "overlay" and len(node.overlay) > len(gateways) and not flooded:
        routed = {subnet.network_address for network in node.networks for subnet in network.subnets}
        for address in node.overlay:
            if (tunnel.spaced or address in routed) and address not in gateways:
                yield Neighbour(tunnel.device, address, node.mac), why


def _way(node: Node) -> tuple[str, Node | Relay]:
    """Where packets for the node's networks go: what to say of it, and whose end that is."""
    relay = node.relay
    return ("", node) if relay is None else (f", through node {relay.id}", relay)


def _gateways(end: Node | Relay, tunnel: Tunnel) -> Iterator[IPAddress]:
    """All that it may be, each once."""
    found = (gateway_of(end, version, tunnel) for version in (4, 6))
    yield from dict.fromkeys(gateway for gateway in found if gateway is not None)


def is_flooded(end: Node | Relay, tunnel: Tunnel) -> bool:
    """Whether it is found by flooding: it told no MAC, or the settings want it so and it has an address to ask for."""
    return end.mac == ZERO_MAC or (tunnel.flood and bool(end.overlay))


def gateway_of(end: Node | Relay, version: int, tunnel: Tunnel) -> IPAddress | None:
    """Of routes of this IP version. flannel's nodes, and whoever is flooded to, are gateways by their own address in
    the overlay, the latter by that alone: None without one."""
    flooded = is_flooded(end, tunnel)
    if tunnel.gateway == "overlay" or flooded:
        own = next((a for a in end.overlay if a.version == version), None)
        if own is not None:
            return own
    if flooded:
        return next(iter(end.overlay), None) if version == 4 else None
    endpoint = next((a for a in end.endpoints if a.version == tunnel.underlay), None)
    return endpoint if endpoint is not None and version == endpoint.version == 4 else link_local(end.mac)


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
