"""What is unwise in a flannel config that is valid all the same. Pure; `weft flannel-config check` and `set` print it.

flannel takes all of this without a word, and the host that suffers from it says something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_interface

from weft.backends.tunnel import OVERHEAD
from weft.model import IPNetwork
from weft.wire.flannel import NAMES, Config, Pool4, Pool6, VxlanBackend
from weft.wire.flannel_config import WHERE, parse_config
from weft.wire.go_json import Fields, read

MEMBERS = (
    *("EnableIPv4", "EnableIPv6", "EnableNFTables", "Network", "SubnetLen", "SubnetMin", "SubnetMax"),
    *("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend"),
)
BACKEND_MEMBERS = {
    "vxlan": ("Type", "VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting", "MacPrefix"),
    "host-gw": ("Type",),
    "alloc": ("Type",),
    "wireguard": ("Type", "ListenPort", "ListenPortV6", "MTU", "PSK", "PersistentKeepaliveInterval", "Mode"),
    "extension": ("Type", "PreStartupCommand", "PostStartupCommand", "SubnetAddCommand", "SubnetRemoveCommand"),
}

FEW_HOSTS = 8
FEW_CONTAINERS = 30
IPV6_MTU = 1280
"""Octets that every IPv6 link must carry (RFC 8200 section 5)."""

_SPECIAL: tuple[tuple[IPNetwork, str], ...] = (
    (IPv4Network("0.0.0.0/8"), "no host can have an address in it"),
    (IPv4Network("127.0.0.0/8"), "it is every host's own loopback"),
    (IPv4Network("169.254.0.0/16"), "it is for link-local addresses, and clouds have their metadata there"),
    (IPv4Network("224.0.0.0/4"), "it is for multicast"),
    (IPv4Network("240.0.0.0/4"), "it is reserved, and many systems drop such packets"),
    (IPv4Network("172.17.0.0/16"), "Docker gives it to docker0 unless --bip says otherwise"),
    (IPv4Network("172.18.0.0/15"), "Docker takes subnets for its own networks from there"),
    (IPv4Network("172.20.0.0/14"), "Docker takes subnets for its own networks from there"),
    (IPv4Network("172.24.0.0/13"), "Docker takes subnets for its own networks from there"),
    (IPv4Network("192.168.0.0/16"), "Docker takes subnets for its own networks from there, and so do home routers"),
    (IPv6Network("::/8"), "no host can have an address in it"),
    (IPv6Network("fe80::/10"), "it is for link-local addresses"),
    (IPv6Network("ff00::/8"), "it is for multicast"),
)
_PRIVATE = tuple(
    IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")
)


def check_config(text: bytes | str) -> list[str]:
    """One sentence for each thing that may not be meant so. Raises WireError if the config is not valid."""
    config, fields = parse_config(text), read(text, WHERE)
    return [
        *_unknown(fields, MEMBERS),
        *_unknown(fields.part("Backend"), BACKEND_MEMBERS[NAMES[type(config.backend)]]),
        *_unused(config, fields),
        *(warning for pool in (config.ipv4, config.ipv6) if pool for warning in _pool(pool, fields)),
        *(_vxlan(config, config.backend, fields.part("Backend")) if isinstance(config.backend, VxlanBackend) else ()),
    ]


def _unknown(fields: Fields, known: tuple[str, ...]) -> Iterator[str]:
    folded = {name.casefold(): name for name in known}
    for name in fields:
        if name.casefold() in folded:
            continue
        close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
        guess = f"; did you mean {folded[close[0]]}?" if close else ""
        yield f"{name} means nothing in {fields.where}, and is passed over{guess}"


def _unused(config: Config, fields: Fields) -> Iterator[str]:
    if config.ipv6 is None and "IPv6Network" in fields:
        yield 'IPv6Network is there and hosts get no IPv6: add "EnableIPv6": true, or leave it out'
    if config.ipv4 is None and "Network" in fields:
        yield "Network is there and EnableIPv4 is false, so hosts get no IPv4"


def _pool(pool: Pool4 | Pool6, fields: Fields) -> Iterator[str]:
    name = "Network" if isinstance(pool, Pool4) else "IPv6Network"
    written = fields.text(name)
    if ip_interface(written).ip != pool.network.network_address:
        yield f"{name} {written} has bits beyond its prefix; it is read as {pool.network}"
    yield from _room(pool)
    for special, why in _SPECIAL:
        if pool.network.version == special.version and pool.network.overlaps(special):
            yield f"{name} {pool.network} overlaps with {special}: {why}"
    if isinstance(pool, Pool4) and not any(pool.network.subnet_of(private) for private in _PRIVATE):
        yield f"{name} {pool.network} is not private: hosts on the internet with these addresses can't be reached"


def _room(pool: Pool4 | Pool6) -> Iterator[str]:
    size = 1 << pool.network.max_prefixlen - pool.length
    hosts = (int(pool.last) - int(pool.first)) // size + 1
    if hosts <= FEW_HOSTS:
        yield f"from {pool.first} to {pool.last} there is room for {hosts} hosts and no more"
    # Its network and broadcast addresses and the bridge's own are not for containers.
    if size - 3 <= FEW_CONTAINERS:
        yield f"a lease of /{pool.length} has room for {size - 3} containers and no more"
    if pool.first == pool.network.network_address:
        yield f"SubnetMin {pool.first} is the whole network's own address; flannel leaves that subnet out by default"


def _vxlan(config: Config, backend: VxlanBackend, written: Fields) -> Iterator[str]:
    if backend.gbp:
        yield "GBP must be on at every host alike: packets with a group policy are dropped by devices without it"
    if backend.learning:
        yield "Learning lets any host that reaches the VXLAN port redirect others' traffic; flannel needs none of it"
    if backend.vni > 0xFFFF:
        yield f"VNI {backend.vni} does not fit into 16 bits: older flannel can't read leases that say so"
    if backend.mtu == 0 and written.value("MTU") is not None:
        yield "MTU 0: weft takes the uplink's, flannel gets a negative one from it; leave it out"
    if backend.mtu and config.ipv6 and backend.mtu - OVERHEAD[6] < IPV6_MTU:
        inner = backend.mtu - OVERHEAD[6]
        yield f"MTU {backend.mtu} is the underlay's: {inner} are left inside of VXLAN, and IPv6 needs {IPV6_MTU}"
