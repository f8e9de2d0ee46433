"""flannel's leases → nodes and Views: what `weft flanneld` plans from. Pure; called by `agent/flannel.py`.

flannel has an overlay per IP version, each with a device of its own: IPv4 leases over IPv4 (`flannel.<VNI>`), IPv6
leases over IPv6 (`flannel-v6.<VNI>`). So a dual-stack host has two Views side by side, and a lease with two subnets is
a node in each. With the extension backend, and where WireGuard's mode says so, one overlay carries both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from zlib import crc32

from weft.backends import wireguard
from weft.backends.tunnel import OVERHEAD, vtep_mac
from weft.core.interface import External
from weft.core.tenancy import name
from weft.model import (
    Host,
    IPAddress,
    IPNetwork,
    Mac,
    Network,
    Node,
    Problem,
    Profile,
    TextFile,
    View,
    WireguardEnd,
)
from weft.wire.flannel import (
    NAMES,
    BackendData,
    Config,
    ExtensionBackend,
    ExtensionData,
    HostGwBackend,
    Lease,
    Vtep,
    VxlanBackend,
    WireguardBackend,
    WireguardPeer,
)

ROLE = "flanneld"
Version: TypeAlias = Literal[4, 6]
Versions: TypeAlias = tuple[Version, ...]
"""The IP versions that one overlay carries; it runs over the first of them."""
NO_MAC = Mac(bytes(6))
WIREGUARD_DEVICES = ("flannel-wg", "flannel-wg-v6")
"""flannel's names; the second where IPv6 has a device of its own."""


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
    """This host's place in the overlay: its interface, its lease, the MACs of its devices by IP version, and its
    WireGuard public key (base64, "" without)."""

    external: External
    lease: Lease
    macs: Mapping[Version, Mac]
    key: str = ""


def versions(config: Config) -> Versions:
    """The IP versions that leases have, IPv4 first."""
    return (*((4,) if config.ipv4 else ()), *((6,) if config.ipv6 else ()))


def overlays(config: Config) -> tuple[Versions, ...]:
    """What each overlay of this config carries."""
    backend, both = config.backend, versions(config)
    together = isinstance(backend, ExtensionBackend)
    if isinstance(backend, WireguardBackend) and backend.mode != "separate":
        together, both = True, both[::-1] if backend.mode == "ipv6" else both
    return (both,) if together else tuple((version,) for version in both)


def device(config: Config, of: Versions, prefix: str) -> str:
    """The device's name, as flannel has it; for backends without one, what stands for it in the firewall's chains."""
    first = of in overlays(config)[:1] and of != (6,)
    if isinstance(config.backend, VxlanBackend):
        return f"flannel.{config.backend.vni}" if of[0] == 4 else f"flannel-v6.{config.backend.vni}"
    return (WIREGUARD_DEVICES if isinstance(config.backend, WireguardBackend) else stand_ins(prefix))[not first]


def stand_ins(prefix: str) -> tuple[str, str]:
    """What stands for the devices of backends without any."""
    name = f"flannel-{crc32(prefix.encode()):08x}"
    return name, f"{name}-6"


def inside(subnet: IPNetwork, span: IPNetwork) -> bool:
    """Whether a subnet lies in a network, or is it."""
    if subnet.version != span.version or subnet.prefixlen < span.prefixlen:
        return False
    shift = subnet.max_prefixlen - span.prefixlen
    return int(subnet.network_address) >> shift == int(span.network_address) >> shift


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


def node(lease: Lease, config: Config, of: Versions) -> Node | None:
    """What a lease says about its host's end of this overlay; None if it has no part in it. The revision at which its
    key was made is its age: of leases that overlap, the older one holds on every host alike."""
    ends = [
        (subnet, endpoint)
        for version, subnet, endpoint in ((4, lease.subnet, lease.public_ip), (6, lease.subnet6, lease.public_ip6))
        if version in of and subnet is not None and endpoint is not None
    ]
    if not ends:
        return None
    subnets: tuple[IPNetwork, ...] = tuple(subnet for subnet, _ in ends)
    data = lease.data6 if of == (6,) else lease.data or lease.data6
    return Node(
        id=name(lease),
        endpoints=tuple(endpoint for _, endpoint in ends),
        port=data.port if isinstance(data, WireguardPeer) else _port(config, of),
        vni=_vni(data, config),
        mac=data.mac if isinstance(data, Vtep) else NO_MAC,
        mtu=0,
        networks=(Network("lease", subnets, since=float(lease.created)),),
        overlay=tuple(subnet.network_address for subnet in subnets),
        backend=lease.backend or "alloc",
        source="etcd",
        key=_key(data),
    )


MERGED = frozenset({"vxlan", "host-gw", "wireguard"})
"""Backends of which two leases with one end are one host's: its own, and those that a registrar added for its Docker
networks."""
End: TypeAlias = tuple[object, ...]


def end(one: Node) -> End:
    """What two nodes of one host have in common, made of what is quick to compare: how it is reached."""
    if one.backend not in MERGED:
        return (one.id,)
    return (one.mac, one.key, one.backend, one.vni, one.port, *map(int, one.endpoints))


def oldest_first(one: Node) -> tuple[float, str]:
    """The order of nodes of one `end`, on every host alike."""
    return one.networks[0].since, one.id


def merged(nodes: Sequence[Node]) -> Node:
    """The one node that several with one `end` are: the oldest, with the others' networks named after their ids.

    `nodes`: the oldest first. The others' addresses stay addresses of its own: a registrar on this host has routes
    through that of the host's lease, whichever of them is the oldest."""
    first, *others = nodes
    more = tuple(replace(network, name=one.id) for one in others for network in one.networks)
    addresses = tuple(address for one in nodes for address in one.overlay)
    return replace(first, networks=(*first.networks, *more), overlay=addresses)


def me(config: Config, home: Home, of: Versions) -> Node:
    """This host's end. Raises ValueError if its interface or its lease has nothing of these IP versions."""
    external, lease = home.external, home.lease
    ends = [
        (subnet, local)
        for version, subnet, local in ((4, lease.subnet, external.ip), (6, lease.subnet6, external.ip6))
        if version in of and subnet is not None and local is not None
    ]
    if not ends:
        raise ValueError(f"this host has no IPv{of[0]} address or lease")
    backend = config.backend
    subnets: tuple[IPNetwork, ...] = tuple(subnet for subnet, _ in ends)
    return Node(
        id=name(lease),
        endpoints=tuple(local for _, local in ends),
        port=_port(config, of),
        vni=backend.vni if isinstance(backend, VxlanBackend) else 0,
        mac=home.macs.get(of[0], NO_MAC),
        mtu=getattr(backend, "mtu", 0) or external.mtu,
        networks=(Network("lease", subnets, since=0.0),),
        overlay=tuple(subnet.network_address for subnet in subnets),
        backend=NAMES[type(backend)],
        source="etcd",
        key=home.key,
    )


def profile(config: Config, options: Options, of: Versions, key: str = "") -> Profile:
    """How an overlay is laid out. `key`: this host's WireGuard public key, base64."""
    pools = (config.ipv4 if version == 4 else config.ipv6 for version in sorted(of))
    vxlan = config.backend if isinstance(config.backend, VxlanBackend) else VxlanBackend()
    return Profile(
        role=ROLE,
        mark=f"{options.prefix}:{options.host}",
        underlay=of[0],
        learning=vxlan.learning,
        gbp=vxlan.gbp,
        metric=options.metric,
        device=device(config, of, options.prefix),
        gateway="overlay",
        span=tuple(pool.network for pool in pools if pool is not None),
        forward=options.forward,
        masquerade=options.masquerade,
        clamp=isinstance(config.backend, VxlanBackend | WireguardBackend),
        wireguard=_wireguard(config, of, key),
    )


def _wireguard(config: Config, of: Versions, key: str) -> WireguardEnd | None:
    backend = config.backend
    if not isinstance(backend, WireguardBackend):
        return None
    return WireguardEnd(key, _port(config, of), backend.psk, backend.keepalive, backend.mode)


def reachable(
    nodes: Iterable[Node], config: Config, direct: Mapping[IPAddress, str]
) -> tuple[list[Node], list[Problem]]:
    """Nodes of this host's backend, with the uplink over which each is reached without a tunnel where the backend asks
    for that. `direct`: endpoint on one of this host's segments → the interface to it. With host-gw, others can't be
    reached at all."""
    backend, ways = NAMES[type(config.backend)], wants_ways(config)
    needs_key = isinstance(config.backend, WireguardBackend)
    kept: list[Node] = []
    problems: list[Problem] = []
    for one in nodes:
        way = direct.get(one.endpoints[0], "") if ways else ""
        why = ""
        if one.backend != backend:
            theirs = "alloc (or udp: a lease names neither)" if one.backend == "alloc" else one.backend
            why = f"its backend is {theirs}, this host's is {backend}"
        elif needs_key and not wireguard.is_key(one.key):
            why = "it tells no WireGuard public key"
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


def _port(config: Config, of: Versions) -> int:
    backend = config.backend
    if isinstance(backend, WireguardBackend):
        return backend.listen_port_v6 if of == (6,) else backend.listen_port
    return backend.port if isinstance(backend, VxlanBackend) else 0


def _vni(data: BackendData | None, config: Config) -> int:
    """Older flannel tells its lower 16 bits only."""
    told = data.vni if isinstance(data, Vtep) else 0
    ours = config.backend.vni if isinstance(config.backend, VxlanBackend) else 0
    return ours if told == ours & 0xFFFF else told


def _key(data: BackendData | None) -> str:
    """What a node's backend goes by: a public key, or an extension's own text."""
    if isinstance(data, WireguardPeer):
        return data.key
    return data.text if isinstance(data, ExtensionData) else ""
