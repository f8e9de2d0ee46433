"""What this host's end of the overlay is, for a backend: a frozen value made once per plan from the View."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address
from typing import Literal
from zlib import crc32

from weft.model import Host, IPAddress, IPNetwork, Mac, Node, View, WireguardEnd
from weft.objects import METRIC_CLASSES
from weft.objects import REGISTRAR_METRICS as REGISTRAR_METRICS

REGISTRAR = "registrar"
"""Of the daemons' roles (`Profile.role`), the one whose routes have `REGISTRAR_METRICS`."""

OVERHEAD = {4: 50, 6: 70}
"""Octets that VXLAN adds by underlay family: IP (20 or 40) + UDP 8 + VXLAN 8 + inner Ethernet 14 (RFC 7348)."""

LEAST_MTU_OF_IPV6 = 1280
"""Octets (RFC 8200): below that the kernel has no IPv6 on a device."""

NEXT_HOP_BASE = 0x70000000
NEXT_HOP_LAST = 0x7FFFFFFF
SLOTS = (NEXT_HOP_LAST - NEXT_HOP_BASE + 1) // 2
"""Each node has two next-hop ids: base + 2 × slot for an IPv4 gateway, one more for an IPv6 gateway."""


def spread(metric: int, subnet: IPNetwork) -> int:
    """The metric of a route that names its gateway itself."""
    return metric + crc32(subnet.network_address.packed) % METRIC_CLASSES


@dataclass(frozen=True, slots=True)
class Tunnel:
    """`mtu`: of the uplink, octets. `sources`: preferred sources of routes, at most one per family. `gateway`: which
    address of a peer routes go through (`model.Profile`); through that of its overlay, the kernel finds the source
    itself: this host's own such address, the only one that the device has. `probed`: the peers are probed at their own
    gateways, so those must be known also while no route leads through them. `flood`: as of `model.Profile`. `spaced`:
    overlay addresses are the hosts' own, in networks of the overlay's: each is known, whatever routes there are."""

    device: str
    underlay: int
    mtu: int
    metric: int
    sources: tuple[IPAddress, ...]
    nexthop_objects: bool
    gateway: Literal["endpoint", "overlay"] = "endpoint"
    wireguard: WireguardEnd | None = None
    probed: bool = False
    flood: bool = False
    spaced: bool = False

    @classmethod
    def of(cls, view: View) -> Tunnel:
        """What `view` makes of it."""
        return cls(
            device=device_of(view),
            underlay=view.profile.underlay,
            mtu=view.me.mtu,
            metric=view.profile.metric,
            sources=view.me.overlay if view.profile.gateway == "endpoint" else view.profile.sources,
            nexthop_objects=view.host.nexthop_objects,
            gateway=view.profile.gateway,
            wireguard=view.profile.wireguard,
            probed=probed(view),
            flood=view.profile.flood,
            spaced=bool(view.profile.spaces),
        )

    def source(self, version: int) -> IPAddress | None:
        return next((a for a in self.sources if a.version == version), None)


def probed(view: View) -> bool:
    """Whether this host probes its peers through its own device: the registrar does."""
    return view.profile.role == REGISTRAR and not view.profile.shared


def route_mtu(node: Node, tunnel: Tunnel) -> int:
    """A peer whose uplink carries less than ours: the route says so, and the kernel answers what is too big with
    "fragmentation needed" at once, instead of a router on the way fragmenting the outer packet. 0: as the device."""
    return narrowed(node.mtu, tunnel)


def narrowed(mtu: int, tunnel: Tunnel) -> int:
    """The same of an uplink's MTU, 0 if it isn't known."""
    return mtu - OVERHEAD[tunnel.underlay] if 0 < mtu < tunnel.mtu else 0


def no_ipv6(host: Host, device_mtu: int) -> str:
    """Why no IPv6 can be routed over this host's device; "" if it can."""
    if not host.ipv6:
        return "this host has no IPv6 (see net.ipv6.conf.default.disable_ipv6)"
    if device_mtu < LEAST_MTU_OF_IPV6:
        return f"the tunnel's MTU is {device_mtu}, and IPv6 needs {LEAST_MTU_OF_IPV6}"
    return ""


def device_of(view: View) -> str:
    """The name of this host's device, and of its firewall chains."""
    return view.profile.device or device_name(view.me.vni)


def device_name(vni: int) -> str:
    """`vxlan4096`: 13 characters at most, of the 15 that the kernel allows."""
    return f"vxlan{vni}"


def vtep_mac(node_id: str, vni: int) -> Mac:
    """A locally administered unicast MAC that follows from the node: a restart, or a device made anew, changes nothing
    for the peers and nothing needs to be stored (IEEE 802: bit 1 of the first octet set, bit 0 clear)."""
    digest = blake2b(f"{vni}/{node_id}".encode(), digest_size=6, person=b"weft vtep").digest()
    return Mac(bytes([digest[0] & 0xFC | 0x02]) + digest[1:])


def link_local(mac: Mac) -> IPv6Address:
    """The modified EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    eui = bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + eui)
