"""flannel's formats: what it and `weft flanneld` write into etcd and subnet.env. Pure; used by `agent/` and `cli/`.

Sources: flannel's subnet and backend packages as described in its documentation (Documentation/configuration.md,
reservations.md), and values seen in etcd beside a running flanneld.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeAlias

from weft.model import Mac


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """`mtu` 0: of the uplink less the tunnel's overhead. `port`: as it is to be used (the file's 0 is 8472 here)."""

    vni: int = 1
    port: int = 8472
    mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False
    mac_prefix: str = ""


@dataclass(frozen=True, slots=True)
class HostGwBackend:
    """Routes straight to the other hosts, which must be on the same segment."""


@dataclass(frozen=True, slots=True)
class AllocBackend:
    """A lease and subnet.env, no data plane."""


@dataclass(frozen=True, slots=True)
class WireguardBackend:
    """`psk`: base64, "" for none. `keepalive`: seconds, 0 for none."""

    listen_port: int = 51820
    listen_port_v6: int = 51821
    mtu: int = 0
    psk: str = ""
    keepalive: int = 0
    mode: Literal["separate", "auto", "ipv4", "ipv6"] = "separate"


@dataclass(frozen=True, slots=True)
class ExtensionBackend:
    """Commands of the operator's; "" for none."""

    pre_startup: str = ""
    post_startup: str = ""
    subnet_add: str = ""
    subnet_remove: str = ""


Backend: TypeAlias = VxlanBackend | HostGwBackend | AllocBackend | WireguardBackend | ExtensionBackend
NAMES: dict[type[Backend], str] = {
    VxlanBackend: "vxlan",
    HostGwBackend: "host-gw",
    AllocBackend: "alloc",
    WireguardBackend: "wireguard",
    ExtensionBackend: "extension",
}


@dataclass(frozen=True, slots=True)
class Pool4:
    """Where IPv4 leases come from: subnets of `length` from `first` to `last`, both included, inside `network`."""

    network: IPv4Network
    length: int
    first: IPv4Address
    last: IPv4Address


@dataclass(frozen=True, slots=True)
class Pool6:
    """The same for IPv6."""

    network: IPv6Network
    length: int
    first: IPv6Address
    last: IPv6Address


@dataclass(frozen=True, slots=True)
class Config:
    """flannel's network config, checked and with every default in it. At least one pool is there."""

    ipv4: Pool4 | None
    ipv6: Pool6 | None
    backend: Backend = field(default_factory=VxlanBackend)
    nftables: bool = False


@dataclass(frozen=True, slots=True)
class Vtep:
    """BackendData of vxlan, for one family's tunnel."""

    vni: int
    mac: Mac


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """BackendData of wireguard. `key`: base64; `port` 0: not told (older flannel), so the config's."""

    key: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """One key under `<prefix>/subnets/`: who holds which subnet, and how it is reached.

    `backend`: "" for udp and alloc, which name none. `data` is for the tunnel over IPv4, `data6` for that over IPv6.
    """

    subnet: IPv4Network | None
    subnet6: IPv6Network | None = None
    public_ip: IPv4Address | None = None
    public_ip6: IPv6Address | None = None
    backend: str = ""
    data: Vtep | WireguardPeer | None = None
    data6: Vtep | WireguardPeer | None = None
