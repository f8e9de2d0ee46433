"""flannel's leases → nodes and Views: what `weft flanneld` plans from. Pure; called by `agent/flannel.py`.

flannel has an overlay per IP version, each with a device of its own: IPv4 leases over IPv4 (`flannel.<VNI>`), IPv6
leases over IPv6 (`flannel-v6.<VNI>`). So a dual-stack host has two Views side by side, and a lease with two subnets is
a node in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from zlib import crc32

from weft.backends import wireguard
from weft.backends.tunnel import OVERHEAD, vtep_mac
from weft.core.interface import External
from weft.model import Host, IPAddress, IPNetwork, Mac, Network, Node, Problem, Profile, TextFile, View
from weft.wire.flannel import (
    NAMES,
    Config,
    HostGwBackend,
    Lease,
    Vtep,
    VxlanBackend,
    WireguardBackend,
    WireguardPeer,
)

ROLE = "flanneld"
Version: TypeAlias = Literal[4, 6]
NO_MAC = Mac(bytes(6))


@dataclass(frozen=True, slots=True)
class Options:
    """What in the settings a plan depends on. `prefix`: of the keys in etcd, by which several daemons on one host are
    told apart; `host`: this host's name."""

    prefix: str
    host: str = ""
    metric: int = 7600
    forward: bool = True
    masquerade: bool = False
    subnet_file: str = "/run/flannel/subnet.env"


@dataclass(frozen=True, slots=True)
class Home:
    """This host's place in the overlay: its interface, its lease and the MACs of its devices, by IP version."""

    external: External
    lease: Lease
    macs: Mapping[Version, Mac]


def versions(config: Config) -> tuple[Version, ...]:
    """The IP versions of the overlay, IPv4 first."""
    return (*((4,) if config.ipv4 else ()), *((6,) if config.ipv6 else ()))


def device(config: Config, version: Version, prefix: str) -> str:
    """The device's name, as flannel has it; for backends without one, what stands for it in the firewall's chains."""
    if isinstance(config.backend, VxlanBackend):
        return f"flannel.{config.backend.vni}" if version == 4 else f"flannel-v6.{config.backend.vni}"
    return f"flannel-{crc32(prefix.encode()):08x}" + ("" if version == 4 else "-6")


def wants_ways(config: Config) -> bool:
    """Whether it matters which hosts are on a segment of this one's."""
    backend = config.backend
    return isinstance(backend, HostGwBackend) or (isinstance(backend, VxlanBackend) and backend.direct_routing)


def own_mac(config: Config, options: Options, public_ip: IPAddress | None) -> Mac:
    """The MAC of this host's device where its lease tells none yet: it follows from the public address, with the
    config's MacPrefix (two octets) at its head."""
    vni = config.backend.vni if isinstance(config.backend, VxlanBackend) else 0
    mac = vtep_mac(f"{options.prefix} {public_ip}", vni)
    prefix = config.backend.mac_prefix if isinstance(config.backend, VxlanBackend) else ""
    head = bytes.fromhex(prefix.replace("-", "").replace(":", ""))
    return Mac(head + mac[len(head) :])


def mtu(config: Config, external: External) -> int:
    """Octets that a container's packet may have, what subnet.env says: the uplink's (or the config's) less what the
    tunnel adds, the least of both IP versions."""
    backend = config.backend
    outer = getattr(backend, "mtu", 0) or external.mtu
    if isinstance(backend, VxlanBackend):
        return min(outer - OVERHEAD[version] for version in versions(config))
    return outer - wireguard.OVERHEAD if isinstance(backend, WireguardBackend) else outer


def node(lease: Lease, config: Config, version: Version) -> Node | None:
    """What a lease says about its host's end of the overlay of this IP version; None if it has no part in it."""
    subnet: IPNetwork | None = lease.subnet if version == 4 else lease.subnet6
    endpoint: IPAddress | None = lease.public_ip if version == 4 else lease.public_ip6
    if subnet is None or endpoint is None:
        return None
    data = lease.data if version == 4 else lease.data6
    name = _name(lease)
    return Node(
        id=name,
        endpoints=(endpoint,),
        port=_port(config),
        vni=data.vni if isinstance(data, Vtep) else 0,
        mac=data.mac if isinstance(data, Vtep) else NO_MAC,
        mtu=0,
        networks=(Network("lease", (subnet,), since=0.0),),
        overlay=(subnet.network_address,),
        backend=lease.backend or "alloc",
        source="etcd",
        key=data.key if isinstance(data, WireguardPeer) else "",
    )


def me(config: Config, home: Home, version: Version) -> Node:
    """This host's end. Raises ValueError if its interface or its lease has nothing of this IP version."""
    external, lease = home.external, home.lease
    local = external.ip if version == 4 else external.ip6
    subnet: IPNetwork | None = lease.subnet if version == 4 else lease.subnet6
    if local is None or subnet is None:
        raise ValueError(f"this host has no IPv{version} address or lease")
    backend = config.backend
    return Node(
        id=_name(lease),
        endpoints=(local,),
        port=_port(config),
        vni=backend.vni if isinstance(backend, VxlanBackend) else 0,
        mac=home.macs.get(version, NO_MAC),
        mtu=getattr(backend, "mtu", 0) or external.mtu,
        networks=(Network("lease", (subnet,), since=0.0),),
        overlay=(subnet.network_address,),
        backend=NAMES[type(backend)],
        source="etcd",
    )


def profile(config: Config, options: Options, version: Version) -> Profile:
    """How the overlay of this IP version is laid out."""
    pool = config.ipv4 if version == 4 else config.ipv6
    vxlan = config.backend if isinstance(config.backend, VxlanBackend) else VxlanBackend()
    return Profile(
        role=ROLE,
        mark=f"{options.prefix}:{options.host}",
        underlay=version,
        learning=vxlan.learning,
        gbp=vxlan.gbp,
        metric=options.metric,
        device=device(config, version, options.prefix),
        gateway="overlay",
        span=(pool.network,) if pool is not None else (),
        forward=options.forward,
        masquerade=options.masquerade,
    )


def reachable(
    nodes: Iterable[Node], config: Config, direct: Mapping[IPAddress, str]
) -> tuple[list[Node], list[Problem]]:
    """Nodes of this host's backend, with the uplink over which each is reached without a tunnel where the backend asks
    for that. `direct`: endpoint on one of this host's segments → the interface to it. With host-gw, others can't be
    reached at all."""
    backend, ways = NAMES[type(config.backend)], wants_ways(config)
    kept: list[Node] = []
    problems: list[Problem] = []
    for one in nodes:
        way = direct.get(one.endpoints[0], "") if ways else ""
        why = ""
        if one.backend != backend:
            why = f"its backend is {one.backend}, this host's is {backend}"
        elif not way and isinstance(config.backend, HostGwBackend):
            why = f"{one.endpoints[0]} is not on a segment of this host's; host-gw needs that, vxlan does not"
        if why:
            problems.append(Problem(one.id, f"lease {one.id} is not routed to: {why}"))
        else:
            kept.append(replace(one, direct=way) if way else one)
    return kept, problems


def together(views: list[View], host: Host, files: tuple[TextFile, ...], synced: bool) -> View:
    """One View of the overlays, the first in front."""
    first, *rest = (replace(view, host=host, synced=synced) for view in views)
    return replace(first, files=files, beside=tuple(rest))


def _name(lease: Lease) -> str:
    """`10.5.98.0/24`: how people speak of a lease."""
    return str(lease.subnet if lease.subnet is not None else lease.subnet6)


def _port(config: Config) -> int:
    return config.backend.port if isinstance(config.backend, VxlanBackend) else 0
