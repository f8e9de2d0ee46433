"""WireGuard: this host's device, and what reaches one peer through it. As flannel's backend of that name lays it out.

A packet's walk. A container sends to 10.5.20.7. The host's route for 10.5.20.0/24 names the device and no gateway; the
device looks for the peer whose allowed IPs hold 10.5.20.7, and sends the packet, encrypted for its public key, to its
endpoint. The peer's device takes it only if its source is among our allowed IPs over there. So there is one object per
peer, and a route per subnet; what is allowed is what is announced and accepted, nothing else.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from weft.backends.tunnel import Tunnel, device_of
from weft.model import IPAddress, IPNetwork, Node, View, WireguardEnd
from weft.objects import Object, Route, Why
from weft.objects.wireguard import Secret, WireguardDevice, WireguardPeer

OVERHEAD = 80
"""Octets that WireGuard adds over IPv6: IP 40, UDP 8, its header 16, the tag 16 (its paper, 5.4.6). Over IPv4 it is 20
less; flannel takes 80 always, and both ends of a tunnel had better agree."""
KEY_OCTETS = 32


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """The device. Raises ValueError if this host has no key."""
    yield device(view, _end(view.profile.wireguard)), Why("settings", view.me.id, "this host's end of the overlay")


def device(view: View, end: WireguardEnd) -> WireguardDevice:
    """This host's device, with this host's own addresses in the overlay on it."""
    addresses = (ip_interface(address) for address in view.me.overlay)
    return WireguardDevice(
        name=device_of(view),
        public_key=end.key,
        listen_port=end.port,
        mtu=view.me.mtu - OVERHEAD,
        alias=f"weft:{view.profile.role}:{view.profile.mark or view.me.id}",
        addresses=tuple(sorted(addresses, key=lambda a: (a.version, a.packed))),
        fwmark=end.fwmark,
    )


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """The peer, then a route per subnet. Nothing for a node without a key, or with this host's own: it can't be a peer.

    A node without an endpoint of a family that is used is a peer all the same: it may come to us."""
    end = _end(tunnel.wireguard)
    if not is_key(node.key) or node.key == end.key:
        return
    subnets = [subnet for network in node.networks for subnet in network.subnets]
    told = Why(node.source, node.id, f"tunnel to node {node.id}")
    yield (
        WireguardPeer(
            dev=tunnel.device,
            public_key=node.key,
            endpoint=_endpoint(node, tunnel, end),
            allowed_ips=in_order(subnets),
            keepalive=end.keepalive,
            psk=Secret(end.psk) if end.psk else None,
        ),
        told,
    )
    mtu = node.mtu - OVERHEAD if 0 < node.mtu < tunnel.mtu else 0
    for network in node.networks:
        asked = Why(node.source, node.id, f"network {network.name} of node {node.id}")
        for subnet in network.subnets:
            source = tunnel.source(subnet.version)
            yield Route(subnet, tunnel.device, metric=tunnel.metric, src=source, mtu=mtu), asked


def _end(end: WireguardEnd | None) -> WireguardEnd:
    if end is None:
        raise ValueError("this host has no WireGuard key")
    return end


def is_key(text: str) -> bool:
    """Whether this is a public key as `wg` and flannel write it: 32 octets in base64."""
    try:
        return len(b64decode(text, validate=True)) == KEY_OCTETS
    except (Base64Error, ValueError):
        return False


def in_order(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Allowed IPs, each once and sorted, so that two equal sets are equal values."""
    return tuple(sorted(set(networks), key=lambda n: (n.version, n.network_address.packed, n.prefixlen)))


def _endpoint(node: Node, tunnel: Tunnel, end: WireguardEnd) -> tuple[IPAddress, int] | None:
    addresses = (node.endpoint(version) for version in end.families(tunnel.underlay))
    address = next((a for a in addresses if a is not None), None)
    return (address, node.port or end.port) if address is not None else None
