"""flannel's network config, `<prefix>/config`: read with flannel's rules and in its words, written so that it reads the
same. Used by `agent/` for what is in etcd, and by `weft flannel-config`.

Source: flannel's Documentation/configuration.md and backends.md, and what flanneld says of configs that it refuses. Its
error texts stand here as they are, because people search for them; what to do about it comes after.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeVar, get_args

import msgspec

from weft.errors import WireError
from weft.wire.flannel import (
    NAMES,
    AllocBackend,
    Backend,
    Config,
    ExtensionBackend,
    HostGwBackend,
    Pool4,
    Pool6,
    VxlanBackend,
    WireguardBackend,
    wireguard_key,
)
from weft.wire.go_json import Fields, read

WHERE = "the flannel config"
VXLAN_PORT = 8472
"""flannel's default, and the Linux kernel's; not 4789, the one that IANA gave out later."""

Mode = Literal["separate", "auto", "ipv4", "ipv6"]
_MAC_PREFIX = re.compile(r"[\dA-Fa-f][02468ACEace][-:][\dA-Fa-f]{2}", re.ASCII)
_MODES: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}

AnyNetwork = TypeVar("AnyNetwork", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class Family:
    """What is different for IPv4 and IPv6. `longest`: a lease's prefix; `usual`: its length where the network has room
    for four such; `smallest`: the network's prefix from which nothing is left to split."""

    prefix: str
    bits: int
    longest: int
    usual: int
    smallest: int
    example: str
    too_long: str
    too_small: str


IPV4 = Family(
    prefix="",
    bits=32,
    longest=30,
    usual=24,
    smallest=28,
    example="10.5.0.0/16",
    too_long="SubnetLen must be less than /31",
    too_small="network is too small. Minimum useful network prefix is /28",
)
IPV6 = Family(
    prefix="IPv6",
    bits=128,
    longest=126,
    usual=64,
    smallest=124,
    example="fc00:5::/48",
    too_long="SubnetLen must be less than /127",
    too_small="IPv6Network is too small. Minimum useful network prefix is /124",
)


def parse_config(text: bytes | str) -> Config:
    """Read a config as flannel does, host bits of its networks masked, every default filled in. WireError, in flannel's
    words, for what flannel refuses, and in ours for what it takes and can't run with."""
    fields = read(text, WHERE)
    ipv4 = fields.flag("EnableIPv4", True)
    ipv6 = fields.flag("EnableIPv6", False)
    if not ipv4 and not ipv6:
        raise WireError(f"{WHERE}: EnableIPv4 and EnableIPv6 are both false: let one be true")
    return Config(
        ipv4=_pool4(fields) if ipv4 else None,
        ipv6=_pool6(fields) if ipv6 else None,
        backend=_backend(fields),
        nftables=fields.flag("EnableNFTables"),
    )


def parse_networks(text: bytes | str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks that a config gives leases from, and nothing else of it: one that no `weft flanneld` can run with
    (backend udp) tells them all the same. WireError if it is no config or a network can't be read."""
    fields = read(text, WHERE)
    found: list[IPv4Network | IPv6Network] = []
    if fields.flag("EnableIPv4", True):
        found.append(_network(fields, IPV4, IPv4Network))
    if fields.flag("EnableIPv6", False):
        found.append(_network(fields, IPV6, IPv6Network))
    return tuple(found)


def _pool4(fields: Fields) -> Pool4:
    network = _network(fields, IPV4, IPv4Network)
    length, first, last = _bounds(fields, IPV4, int(network.network_address), network.prefixlen)
    return Pool4(network, length, IPv4Address(first), IPv4Address(last))


def _pool6(fields: Fields) -> Pool6:
    network = _network(fields, IPV6, IPv6Network)
    length, first, last = _bounds(fields, IPV6, int(network.network_address), network.prefixlen)
    return Pool6(network, length, IPv6Address(first), IPv6Address(last))


def _network(fields: Fields, family: Family, kind: type[AnyNetwork]) -> AnyNetwork:
    name = f"{family.prefix}Network"
    network: AnyNetwork | None = None
    if name in fields:
        text = _address_text(fields, name, "invalid CIDR address")
        try:
            # Python would take a lone address, a netmask and a zone too.
            if "%" in text or not text.rpartition("/")[2].isdecimal():
                raise ValueError("it has no prefix length")
            network = kind(text, strict=False)
        except ValueError as error:
            raise WireError(f"{WHERE}: {name}: invalid CIDR address: {text}; write it as {family.example}") from error
    # A /0 is none: flannel takes it for a config that has no network.
    if network is None or network.prefixlen == 0:
        raise WireError(
            f'please define a correct {name} parameter in the flannel config, such as "{name}": "{family.example}"'
        )
    return network


def _bounds(fields: Fields, family: Family, base: int, prefix: int) -> tuple[int, int, int]:
    """A lease's length, and the first and the last lease's first address. Which check comes first is flannel's too."""
    length = _length(fields, family, prefix)
    size = 1 << family.bits - length
    end = base + (1 << family.bits - prefix)
    low, high = f"{family.prefix}SubnetMin", f"{family.prefix}SubnetMax"
    # The first subnet is left out: its first address is the whole network's.
    first = _bound(fields, family, low) or base + size
    if not base <= first < end:
        raise WireError(f"{low} is not in the range of the {family.prefix}Network: {_shown(first, family)}")
    last = _bound(fields, family, high) or end - size
    if not base <= last < end:
        raise WireError(f"{high} is not in the range of the {family.prefix}Network: {_shown(last, family)}")
    for name, value in ((low, first), (high, last)):
        if value % size:
            raise WireError(
                f"{name} is not on a SubnetLen boundary: {_shown(value, family)}; "
                f"the /{length} that it lies in begins at {_shown(value - value % size, family)}"
            )
    if first > last:
        raise WireError(
            f"{low} {_shown(first, family)} comes after {high} {_shown(last, family)}: that leaves no lease"
        )
    return length, first, last


def _length(fields: Fields, family: Family, prefix: int) -> int:
    name = f"{family.prefix}SubnetLen"
    length = fields.number(name, highest=0xFFFFFFFF)
    if length == 0:
        if prefix > family.smallest:
            raise WireError(f"{family.too_small}: it is /{prefix}")
        return family.usual if prefix <= family.usual - 2 else prefix + 2
    if length > family.longest:
        raise WireError(f"{family.too_long}: {name} is {length}")
    if length < prefix + 2:
        raise WireError(
            f"network must be able to accommodate at least four subnets: {name} is {length} and the network is a "
            f"/{prefix}; make it {prefix + 2} or longer"
        )
    return length


def _bound(fields: Fields, family: Family, name: str) -> int:
    """SubnetMin or SubnetMax; 0 if it is not set."""
    # flannel's IPv6 bounds are pointers, which take a null; its IPv4 ones take it for an address.
    if name not in fields or (family is IPV6 and fields.value(name) is None):
        return 0
    text = _address_text(fields, name, "invalid IP address format")
    try:
        if "%" in text:
            raise ValueError("it has a zone")
        return int(IPv4Address(text) if family is IPV4 else IPv6Address(text))
    except ValueError as error:
        raise WireError(f"{WHERE}: {name}: invalid IP address format: {text}") from error


def _address_text(fields: Fields, name: str, refusal: str) -> str:
    if fields.value(name) is None:
        raise WireError(f"{WHERE}: {name}: {refusal}: null; leave it out instead")
    return fields.text(name)


def _shown(value: int, family: Family) -> str:
    return str(IPv4Address(value) if family is IPV4 else IPv6Address(value))


def _backend(fields: Fields) -> Backend:
    if "Backend" not in fields:
        raise WireError(_unsupported("udp", "flannel takes a config without Backend to mean udp"))
    part = fields.part("Backend")
    # flannel's table of backends is asked in lower case.
    kind = part.text("Type").lower()
    if kind not in _READERS:
        raise WireError(_unsupported(kind, "" if kind else "Backend has no Type"))
    return _READERS[kind](part)


_INSTEAD = {
    "udp": ("vxlan", ", which the kernel does and udp's daemon did"),
    "ipip": ("vxlan", " with DirectRouting, or host-gw where all hosts are on one segment"),
    "ipsec": ("wireguard", ", which encrypts too"),
}


def _unsupported(kind: str, why: str) -> str:
    instead, why_that = _INSTEAD.get(kind, ("vxlan", ", host-gw on one segment, or wireguard to encrypt"))
    return (
        f"unknown or unsupported backend: {kind or 'none'} (flannel: unknown backend type: {kind}). "
        + (f"{why}. " if why else "")
        + f'Use {instead}{why_that}: "Backend": {{"Type": "{instead}"}}; {", ".join(sorted(_READERS))} are there'
    )


def _vxlan(part: Fields) -> VxlanBackend:
    return VxlanBackend(
        vni=part.number("VNI", 1, highest=0xFFFFFF),
        port=part.number("Port", highest=0xFFFF) or VXLAN_PORT,
        mtu=part.number("MTU", highest=0xFFFF),
        gbp=part.flag("GBP"),
        learning=part.flag("Learning"),
        direct_routing=part.flag("DirectRouting"),
        mac_prefix=_mac_prefix(part),
    )


def _mac_prefix(part: Fields) -> str:
    text = part.text("MacPrefix")
    if text and not _MAC_PREFIX.fullmatch(text):
        raise part.wrong("MacPrefix", "two octets, the first one even, such as 0E-2A")
    return text


def _wireguard(part: Fields) -> WireguardBackend:
    return WireguardBackend(
        listen_port=part.number("ListenPort", 51820, highest=0xFFFF),
        listen_port_v6=part.number("ListenPortV6", 51821, highest=0xFFFF),
        mtu=part.number("MTU", highest=0xFFFF),
        psk=wireguard_key(part, "PSK") if part.text("PSK") else "",
        keepalive=part.number("PersistentKeepaliveInterval", highest=0xFFFF),
        mode=_mode(part),
    )


def _mode(part: Fields) -> Mode:
    found = part.text("Mode", "separate")
    if found not in _MODES:
        raise WireError(f"{part.where}: no valid Mode configured: {found!r}; there are {', '.join(_MODES)}")
    return _MODES[found]


def _extension(part: Fields) -> ExtensionBackend:
    return ExtensionBackend(
        pre_startup=part.text("PreStartupCommand"),
        post_startup=part.text("PostStartupCommand"),
        subnet_add=part.text("SubnetAddCommand"),
        subnet_remove=part.text("SubnetRemoveCommand"),
    )


_READERS: dict[str, Callable[[Fields], Backend]] = {
    "vxlan": _vxlan,
    "host-gw": lambda part: HostGwBackend(),
    "alloc": lambda part: AllocBackend(),
    "wireguard": _wireguard,
    "extension": _extension,
}


def config_text(config: Config) -> str:
    """JSON that flannel and `parse_config` read back to this config: what counts is spelt out, always in one order, and
    what has no value is left out, since flannel takes an MTU of 0 at its word."""
    members: dict[str, object] = {}
    if config.ipv4 is not None:
        members |= _pool_members("", config.ipv4)
    else:
        members["EnableIPv4"] = False
    if config.ipv6 is not None:
        members |= {"EnableIPv6": True, **_pool_members("IPv6", config.ipv6)}
    if config.nftables:
        members["EnableNFTables"] = True
    members["Backend"] = {"Type": NAMES[type(config.backend)], **_backend_members(config.backend)}
    return msgspec.json.format(msgspec.json.encode(members), indent=2).decode() + "\n"


def _pool_members(prefix: str, pool: Pool4 | Pool6) -> dict[str, object]:
    return {
        f"{prefix}Network": str(pool.network),
        f"{prefix}SubnetLen": pool.length,
        f"{prefix}SubnetMin": str(pool.first),
        f"{prefix}SubnetMax": str(pool.last),
    }


def _backend_members(backend: Backend) -> dict[str, object]:
    always: dict[str, object] = {}
    if_set: dict[str, object] = {}
    if isinstance(backend, VxlanBackend):
        always = {"VNI": backend.vni, "Port": backend.port}
        if_set = {
            "MTU": backend.mtu,
            "GBP": backend.gbp,
            "Learning": backend.learning,
            "DirectRouting": backend.direct_routing,
            "MacPrefix": backend.mac_prefix,
        }
    elif isinstance(backend, WireguardBackend):
        always = {"ListenPort": backend.listen_port, "ListenPortV6": backend.listen_port_v6, "Mode": backend.mode}
        if_set = {"MTU": backend.mtu, "PSK": backend.psk, "PersistentKeepaliveInterval": backend.keepalive}
    elif isinstance(backend, ExtensionBackend):
        if_set = {
            "PreStartupCommand": backend.pre_startup,
            "PostStartupCommand": backend.post_startup,
            "SubnetAddCommand": backend.subnet_add,
            "SubnetRemoveCommand": backend.subnet_remove,
        }
    return always | {name: value for name, value in if_set.items() if value}
