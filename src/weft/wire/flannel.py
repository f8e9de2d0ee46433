"""flannel's formats: what it and `weft flanneld` write into etcd and subnet.env. Pure; used by `agent/` and `cli/`.

Here are the types, and the codec of leases: `<prefix>/subnets/10.5.98.0-24` and its value. `wire/flannel_config.py`
reads and writes the config, `wire/flannel_advice.py` says what is unwise in one, `wire/subnet_env.py` is Docker's file.

Sources: flannel's subnet and backend packages as described in its documentation (Documentation/configuration.md,
reservations.md), and values seen in etcd beside a running flanneld.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeAlias

import msgspec

from weft.errors import WireError
from weft.model import Mac, mac_text, parse_mac
from weft.wire import go_json


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """`mtu`: of the underlay, as flannel means it: the device gets 50 or 70 less; 0: the uplink's. `port`: as it is to
    be used (the file's 0 is 8472 here). `mac_prefix`: two octets such as 0E-2A for the head of each host's VtepMAC, ""
    for none."""

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
    """`psk`: base64, "" for none. `keepalive`: seconds, 0 for none. `mtu`: of the underlay, the device gets 80 less;
    0: the uplink's."""

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
    """BackendData of vxlan, for one family's tunnel. `vni`: older flannel tells its lower 16 bits only."""

    vni: int
    mac: Mac


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """BackendData of wireguard. `key`: base64; `port` 0: not told (older flannel), so the config's."""

    key: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class ExtensionData:
    """BackendData of extension: what the host's PreStartupCommand printed, standard input of the others' commands."""

    text: str


BackendData: TypeAlias = Vtep | WireguardPeer | ExtensionData


@dataclass(frozen=True, slots=True)
class Lease:
    """One key under `<prefix>/subnets/`: who holds which subnet, and how it is reached.

    `backend`: "" for udp and alloc, which name none. `data` is for the tunnel over IPv4, `data6` for that over IPv6.
    `flaw`: why there is no `data` or `data6` although there is something to read; the subnet is held all the same.
    `created`: the store's revision at which the key was made, by which the older of two that overlap is known; it is no
    part of what a lease says.
    """

    subnet: IPv4Network | None
    subnet6: IPv6Network | None = None
    public_ip: IPv4Address | None = None
    public_ip6: IPv6Address | None = None
    backend: str = ""
    data: BackendData | None = None
    data6: BackendData | None = None
    flaw: str = ""
    created: int = field(default=0, compare=False)


_KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?\Z", re.ASCII)
_LONGEST_KEY = 128
"""Twice what a key can need; a longer one is not searched, which takes time that grows with its square."""
_NO_IPV4 = "0.0.0.0"
_encode = msgspec.json.Encoder().encode


def lease_key(lease: Lease) -> str:
    """`10.5.98.0-24`, or `10.5.10.0-24&fc00:5:0:42::-64`: the part of the key after `<prefix>/subnets/`."""
    four = str(lease.subnet) if lease.subnet is not None else f"{_NO_IPV4}/0"
    both = f"{four}&{lease.subnet6}" if lease.subnet6 is not None else four
    return both.replace("/", "-")


def parse_key(text: str) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets that a key names, whatever stands before them; at least one is there. WireError if it names none.

    `0.0.0.0-0&…` is how flannel writes that there is no IPv4 subnet. Lengths past /31 and /127 are none, as in flannel.
    """
    last = text.rpartition("/")[2]
    found = _KEY.search(last) if len(last) <= _LONGEST_KEY else None
    if found is None:
        raise WireError(f"{text[:200]!r} is not the key of a subnet; one is 10.5.98.0-24 or 10.5.98.0-24&fc00:5::-64")
    four, length, six, length6 = found.groups()
    try:
        subnet = IPv4Network(f"{four}/{_length(length, 31)}")
        subnet6 = IPv6Network(f"{six}/{_length(length6, 127)}") if six else None
    except ValueError as error:
        raise WireError(f"{text[:200]!r} is not the key of a subnet: {error}") from error
    ours = (subnet if subnet.prefixlen else None, subnet6 if subnet6 and subnet6.prefixlen else None)
    if ours == (None, None):
        raise WireError(f"{text[:200]!r} is the key of no subnet, but of everything")
    return ours


def _length(text: str, longest: int) -> int:
    length = int(text)
    if length > longest:
        raise ValueError(f"/{length} is too long a prefix for a lease, which needs addresses of its own")
    return length


def lease_value(lease: Lease) -> bytes:
    """What flannel writes for such a lease, octet for octet."""
    members: dict[str, object] = {
        "PublicIP": str(lease.public_ip) if lease.public_ip is not None else _NO_IPV4,
        "PublicIPv6": str(lease.public_ip6) if lease.public_ip6 is not None else None,
    }
    if lease.backend:
        members["BackendType"] = lease.backend
    if lease.data is not None:
        members["BackendData"] = _data_members(lease.data)
    if lease.data6 is not None:
        members["BackendV6Data"] = _data_members(lease.data6)
    return _encode(members)


def _data_members(data: BackendData) -> object:
    if isinstance(data, Vtep):
        return {"VNI": data.vni, "VtepMAC": mac_text(data.mac)}
    if isinstance(data, WireguardPeer):
        return {"PublicKey": data.key, "Port": data.port} if data.port else {"PublicKey": data.key}
    return data.text


def parse_lease(key: str, value: bytes, created: int = 0) -> Lease:
    """Read one entry. WireError, whose text says that it is ignored, where flannel ignores an entry too: a key that
    names no subnet, a value that is no object, PublicIP null, bad, or missing with no PublicIPv6 in its place.

    BackendData that can't be read is a flaw of the lease, no error: its subnet and its owner are known.
    """
    where = key.encode(errors="backslashreplace").decode()  # it may hold octets that are no text
    try:
        subnet, subnet6 = parse_key(key)
        fields = go_json.read(value, f"the lease {where}")
        public_ip, public_ip6 = _public_ips(fields)
        backend = fields.text("BackendType")
    except WireError as error:
        raise WireError(f"{error}; this entry is ignored") from error
    data, flaw = _data(fields, "BackendData", backend)
    data6, flaw6 = _data(fields, "BackendV6Data", backend)
    return Lease(subnet, subnet6, public_ip, public_ip6, backend, data, data6, flaw or flaw6, created)


def _public_ips(fields: go_json.Fields) -> tuple[IPv4Address | None, IPv6Address | None]:
    """At least one; 0.0.0.0 stands for none, "" too where flannel takes a null only."""
    try:
        six = fields.text("PublicIPv6")
        public_ip6 = IPv6Address(six) if six and six != "::" else None
        if public_ip6 is not None and public_ip6.scope_id is not None:
            raise ValueError("an address with a zone is nobody else's")
    except ValueError as error:
        raise WireError(f"{fields.where}: PublicIPv6 must be null or an IPv6 address: {error}") from error
    missing = "PublicIP" not in fields
    try:
        public_ip = IPv4Address(_NO_IPV4 if missing else fields.text("PublicIP"))
    except ValueError as error:
        raise WireError(f"{fields.where}: PublicIP must be an IPv4 address: {error}") from error
    if public_ip.is_unspecified and public_ip6 is None:
        raise WireError(f"{fields.where}: PublicIP is {'missing' if missing else _NO_IPV4}, and there is no PublicIPv6")
    return None if public_ip.is_unspecified else public_ip, public_ip6


def _data(fields: go_json.Fields, name: str, backend: str) -> tuple[BackendData | None, str]:
    """What a host tells of its end, and why it can't be read, if it can't. Backends that we lack tell us nothing."""
    if backend not in _READERS or fields.value(name) is None:
        return None, ""
    try:
        return _READERS[backend](fields, name), ""
    except WireError as error:
        return None, str(error)


def _vtep(fields: go_json.Fields, name: str) -> Vtep:
    data = fields.part(name)
    text = data.text("VtepMAC")
    try:
        mac = parse_mac(text.replace("-", ":"))
    except ValueError as error:
        raise WireError(f"{data.where}: VtepMAC: {error}") from error
    if mac[0] & 1 or not any(mac):
        raise WireError(f"{data.where}: VtepMAC {text} is not the address of one device")
    return Vtep(data.number("VNI", highest=0xFFFFFF), mac)


def _wireguard_peer(fields: go_json.Fields, name: str) -> WireguardPeer:
    data = fields.part(name)
    return WireguardPeer(wireguard_key(data, "PublicKey"), data.number("Port", highest=0xFFFF))


def _extension_data(fields: go_json.Fields, name: str) -> ExtensionData:
    return ExtensionData(fields.text(name))


_READERS: dict[str, Callable[[go_json.Fields, str], BackendData]] = {
    "vxlan": _vtep,
    "wireguard": _wireguard_peer,
    "extension": _extension_data,
}


def wireguard_key(fields: go_json.Fields, name: str) -> str:
    """A member that is a key of WireGuard's: 32 octets in base64. WireError, without its text, if it is another."""
    text = fields.text(name)
    try:
        octets = b64decode(text, validate=True)
    except ValueError:
        octets = b""
    if len(octets) != 32:
        raise WireError(f"{fields.where}: {name} must be a WireGuard key, 32 octets in base64 (`wg genkey` makes one)")
    return text
