"""The registry and flannel's leases → who takes part, and this host's Views. Pure; called by `agent/registrar.py`.

Two layouts, by pairs of hosts. Where both have a lease of flannel's (its backend vxlan), flannel's own device leads
there: routes alone are added. Where one has none, both have weft's own VXLAN device, and that is laid out as `weft
agent` does it. Every host sees the same registry, so both ends of a pair come to the same layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.backends.lease import LEASE
from weft.backends.tunnel import OVERHEAD, REGISTRAR_METRICS, device_name, vtep_mac
from weft.core.flannel import inside
from weft.core.identity import overlay
from weft.core.registry import Registered, Registry
from weft.core.sight import Course, Place
from weft.model import (
    Host,
    IPAddress,
    IPInterface,
    IPNetwork,
    Mac,
    Network,
    Node,
    Path,
    Problem,
    Profile,
    Relay,
    Uplink,
    View,
    Way,
)
from weft.wire.flannel import Lease, Vtep
from weft.wire.registrar import Note

ROLE = "registrar"
PORT = 8472
"""UDP port of VXLAN in flannel's modes, the kernel's default."""
NO_MAC = Mac(bytes(6))
DIRECT = Course("direct", "")
Groups = tuple[tuple[str, tuple[IPNetwork, ...]], ...]


@dataclass(frozen=True, slots=True)
class Options:
    """What in the settings a View depends on. `mtu`: of the tunnel, octets, 0: what the underlay lets through."""

    host: str
    vni: int = 7600
    mtu: int = 0
    version: str = ""
    groups: Groups = ()


@dataclass(frozen=True, slots=True)
class Party:
    """One host that takes part. `lease`: flannel's for its address, if its backend is vxlan. `mac`, `vni`, `port`: of
    weft's own device; no MAC: it tells none. `note`: what it tells beside that, if it runs weft: then it answers to
    liveness."""

    id: str
    endpoint: IPAddress
    networks: tuple[Network, ...] = ()
    lease: Lease | None = None
    mac: Mac = NO_MAC
    vni: int = 0
    port: int = 0
    mtu: int = 0
    note: Note | None = None
    registered: bool = True


@dataclass(frozen=True, slots=True)
class Home:
    """This host's place: the address that the others send to, the uplink that has it, and as a party. `overlay`: what
    weft's own device has: an address of the underlay's family always, without which a device hears nothing wherever
    rp_filter is on (fib_frontend.c, __fib_validate_source)."""

    party: Party
    uplink: Uplink | None = None
    overlay: tuple[IPAddress, ...] = ()

    @property
    def mtu(self) -> int:
        """Of the underlay, octets."""
        return self.uplink.mtu if self.uplink is not None else 1500


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody: by id, this host left out; and what was wrong with those who aren't among them."""

    parties: Mapping[str, Party] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


# ---- who takes part ----


def public_address(
    asked: IPAddress | None,
    host: Host,
    etcd: Sequence[IPAddress],
    ways: Mapping[IPAddress, Way],
    leases: Sequence[Lease],
) -> IPAddress | None:
    """This host's address for the others: as it is set, else the one that reaches etcd, else the one that flannel has
    a lease for, else that of the default route's interface. None: there is none of these."""
    if asked is not None:
        return asked
    own = [a.ip for uplink in host.uplinks for a in uplink.addresses if not a.ip.is_link_local]
    for endpoint in etcd:
        way = ways.get(endpoint)
        if way is not None and way.source is not None and not way.source.is_loopback:
            return way.source
        if endpoint in own:
            return endpoint
    leased = {lease.public_ip for lease in leases} | {lease.public_ip6 for lease in leases}
    by_default = sorted((r.metric, u.name, r.version) for u in host.uplinks for r in u.defaults)
    named = [
        a.ip for _, name, v in by_default for u in host.uplinks if u.name == name for a in u.addresses if a.version == v
    ]
    return next((a for a in own if a in leased), next(iter(named), None))


def uplink_of(address: IPAddress, host: Host) -> Uplink | None:
    """The interface that has this address; behind NAT, that of the default route."""
    having = (u for u in host.uplinks if any(a.ip == address for a in u.addresses))
    routed = (u for u in host.uplinks if any(r.version == address.version for r in u.defaults))
    return next(having, next(routed, None))


def lease_of(address: IPAddress, leases: Iterable[Lease], registered: frozenset[IPNetwork]) -> Lease | None:
    """flannel's lease of the host with this address, if its backend is vxlan. Of several, the oldest one that isn't
    registered as a Docker network too: older registrars left such beside it."""
    found = [
        lease
        for lease in leases
        if address in (lease.public_ip, lease.public_ip6)
        and lease.backend == "vxlan"
        and isinstance(lease.data or lease.data6, Vtep)
    ]
    return min(found, key=lambda lease: (lease.subnet in registered, lease.created), default=None)


def cast(registry: Registry, me: str, mine: IPAddress) -> Cast:
    """Every other host. Those who run flannel alone are among them: a relay may be one, and their leases are theirs."""
    problems: list[Problem] = []
    parties: dict[str, Party] = {}
    registered = frozenset(s for host in registry.hosts for n in host.networks for s in n.subnets)
    for host in registry.hosts:
        if host.host == me:
            continue
        party = _party(host, registry, registered)
        if isinstance(party, Problem):
            problems.append(party)
        else:
            parties[host.host] = party
    known = {party.endpoint for party in parties.values()} | {mine}
    for lease in registry.leases:
        address = lease.public_ip or lease.public_ip6
        own = lease_of(address, registry.leases, registered) if address is not None and address not in known else None
        if address is not None and own is not None:
            known.add(address)
            parties[f"flannel host {address}"] = Party(f"flannel host {address}", address, lease=own, registered=False)
    return Cast(parties, tuple(problems))


def _party(host: Registered, registry: Registry, registered: frozenset[IPNetwork]) -> Party | Problem:
    note = host.note
    address = host.status.public_ip if host.status is not None else None
    if address is None and note is not None and note.endpoints:
        address = note.endpoints[0]
    if address is None:
        text = f"host {host.host} registered networks, but not its public address: nothing can be routed to it"
        return Problem(host.host, f"{text}; is its registrar running (its key under _host_status is missing)?")
    lease = lease_of(address, registry.leases, registered)
    if note is None:
        if lease is None:
            text = f"host {host.host} ({address}) has no lease of flannel's, and its registrar tells no VTEP of its own"
            return Problem(host.host, f"{text}: nothing leads there; start flannel on it, or weft's registrar")
        return Party(host.host, address, host.networks, lease)
    return Party(host.host, address, host.networks, lease, note.mac or NO_MAC, note.vni, note.port, note.mtu, note)


def home(options: Options, address: IPAddress, networks: Sequence[Network], host: Host, registry: Registry) -> Home:
    """This host. `networks`: its exposed ones."""
    own = frozenset(subnet for network in networks for subnet in network.subnets)
    registered = own | frozenset(s for other in registry.hosts for n in other.networks for s in n.subnets)
    uplink = uplink_of(address, host)
    mtu = options.mtu + OVERHEAD[address.version] if options.mtu else uplink.mtu if uplink is not None else 1500
    party = Party(
        options.host,
        address,
        tuple(networks),
        lease_of(address, registry.leases, registered),
        vtep_mac(options.host, options.vni),
        options.vni,
        PORT,
        mtu,
        Note(),
    )
    own_addresses = tuple(overlay(host, networks))
    if not any(a.version == address.version for a in own_addresses):
        own_addresses = (*own_addresses, address)
    return Home(party, uplink, own_addresses)


def node(party: Party) -> Node:
    """A party as acceptance judges it, whatever layout leads there: its networks, and what flannel leased to it."""
    lease = party.lease
    leased = tuple(s for s in (lease.subnet, lease.subnet6) if s is not None) if lease is not None else ()
    networks = party.networks + ((Network(LEASE, leased, since=0.0),) if leased else ())
    return Node(
        id=party.id,
        endpoints=(party.endpoint,),
        port=0,
        vni=0,
        mac=_vtep(lease) if lease is not None else party.mac,
        mtu=party.mtu,
        networks=networks,
        overlay=tuple(subnet.network_address for subnet in leased),
        backend=LEASE,
        source="etcd",
    )


def _vtep(lease: Lease) -> Mac:
    data = lease.data or lease.data6
    return data.mac if isinstance(data, Vtep) else NO_MAC


def without_own(networks: Sequence[Network], uplinks: Sequence[Uplink]) -> Iterator[tuple[Network, str]]:
    """This host's exposed networks that can't be told to anybody, and why: they overlap what the underlay has."""
    for network in networks:
        clash = next(_clashes(network, uplinks), "") if network.exposed else ""
        if clash:
            yield network, clash


def _clashes(network: Network, uplinks: Sequence[Uplink]) -> Iterator[str]:
    """An interface that has the very subnet is the network's own bridge, where nobody knows the bridge's name."""
    for subnet in network.subnets:
        for uplink in uplinks:
            for address in uplink.addresses:
                own = uplink.name == network.bridge or (not network.bridge and address.network == subnet)
                if not own and _meets(address.network, subnet):
                    yield f"{subnet} overlaps {address.network} on {uplink.name}, this host's underlay"


def _meets(one: IPNetwork, other: IPNetwork) -> bool:
    return inside(one, other) or inside(other, one)


# ---- the Views ----


@dataclass(frozen=True, slots=True)
class Scene:
    """What the Views are made of. `nodes`: accepted ones (`node` made them). `networks`: this host's, all of them."""

    options: Options
    home: Home
    cast: Cast
    nodes: tuple[Node, ...]
    networks: tuple[Network, ...]
    courses: Mapping[str, Course]

    @property
    def leased(self) -> bool:
        return self.home.party.lease is not None

    def beside_flannel(self, party: Party) -> bool:
        """Whether flannel's device leads to this party."""
        return self.leased and party.lease is not None

    @property
    def own_device(self) -> bool:
        """Whether weft's own device is needed: somebody who registered has no lease of flannel's."""
        return not self.leased or any(p.lease is None for p in self.cast.parties.values())


def device_of(lease: Lease, version: int) -> str:
    """The name of flannel's device."""
    data = lease.data6 if version == 6 else lease.data
    vni = data.vni if isinstance(data, Vtep) else 1
    return f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"


def views(scene: Scene) -> list[View]:
    """One View for each device, the first of them in front. At least one."""
    lease = scene.home.party.lease
    found: list[View] = []
    if lease is not None:
        versions = [
            v for v, subnet, data in ((4, lease.subnet, lease.data), (6, lease.subnet6, lease.data6)) if subnet and data
        ]
        found.extend(_beside_flannel(scene, lease, version) for version in versions)
    if scene.own_device:
        found.append(_own(scene))
    return [replace(view, apart=apart(scene)) for view in found]


def _beside_flannel(scene: Scene, lease: Lease, version: int) -> View:
    data = lease.data6 if version == 6 else lease.data
    own = node(scene.home.party)
    me = replace(
        own,
        mtu=scene.home.mtu,
        port=PORT,
        vni=data.vni if isinstance(data, Vtep) else 0,
        networks=tuple(_of_version(own.networks, version)),
        overlay=tuple(
            s.network_address for s in (lease.subnet, lease.subnet6) if s is not None and s.version == version
        ),
    )
    nodes = []
    for one in scene.nodes:
        party = scene.cast.parties[one.id]
        if scene.beside_flannel(party):
            networks = tuple(_of_version(one.networks, version))
            overlay = tuple(a for a in one.overlay if a.version == version)
            nodes.append(replace(one, networks=networks, overlay=overlay, relay=_relay(scene, one, True)))
    profile = Profile(
        role=ROLE,
        mark=scene.options.host,
        underlay=scene.home.party.endpoint.version,
        metric=REGISTRAR_METRICS.start,
        device=device_of(lease, version),
        gateway="overlay",
        shared=True,
    )
    return View(me=me, networks=tuple(_of_version(scene.networks, version)), nodes=tuple(nodes), profile=profile)


def _own(scene: Scene) -> View:
    mine, options = scene.home.party, scene.options
    me = replace(
        node(mine),
        mac=mine.mac,
        vni=mine.vni,
        port=mine.port,
        mtu=mine.mtu,
        networks=mine.networks,
        overlay=scene.home.overlay,
        backend="vxlan",
    )
    nodes = []
    for one in scene.nodes:
        party = scene.cast.parties[one.id]
        if not scene.beside_flannel(party):
            networks = tuple(n for n in one.networks if n.name != LEASE)
            course = scene.courses.get(one.id, DIRECT)
            nodes.append(
                replace(
                    one,
                    mac=party.mac,
                    vni=party.vni,
                    port=party.port,
                    networks=networks,
                    overlay=(),
                    backend="vxlan",
                    relay=_relay(scene, one, False),
                    outer=course.gateway if course.kind == "fdb" else None,
                )
            )
    profile = Profile(
        role=ROLE,
        mark=options.host,
        underlay=mine.endpoint.version,
        metric=REGISTRAR_METRICS.start,
        device=device_name(options.vni),
    )
    return View(me=me, networks=scene.networks, nodes=tuple(nodes), profile=profile)


def _relay(scene: Scene, one: Node, beside_flannel: bool) -> Relay | None:
    """The relay's end in this layout; None: none is wanted, or it isn't reached by the same device."""
    through = scene.courses.get(one.id, DIRECT).relay
    other = next((n for n in scene.nodes if n.id == through), None)
    if other is None:
        return None
    party = scene.cast.parties[through]
    if scene.beside_flannel(party) != beside_flannel:
        return None
    return Relay(through, other.endpoints, other.mac if beside_flannel else party.mac, other.overlay)


def _of_version(networks: Iterable[Network], version: int) -> Iterator[Network]:
    for network in networks:
        subnets = tuple(s for s in network.subnets if s.version == version)
        if subnets:
            yield network if subnets == network.subnets else replace(network, subnets=subnets)


# ---- isolation ----


def apart(scene: Scene) -> tuple[tuple[IPNetwork, IPNetwork], ...]:
    """Pairs of subnets of two different groups, one of them this host's."""
    groups = scene.options.groups
    mine = [(s, g) for n in scene.home.party.networks for s in n.subnets if (g := group_of(n, s, groups))]
    theirs = [(s, g) for one in scene.nodes for n in one.networks for s in n.subnets if (g := group_of(n, s, groups))]
    pairs = {
        (own, other)
        for own, group in mine
        for other, another in (*mine, *theirs)
        if group != another and own.version == other.version and own != other
    }
    ordered = {tuple(sorted(pair, key=lambda s: (s.version, s.network_address.packed, s.prefixlen))) for pair in pairs}
    return tuple(
        sorted(
            ((a, b) for a, b in ordered), key=lambda pair: tuple((s.network_address.packed, s.prefixlen) for s in pair)
        )
    )


def group_of(network: Network, subnet: IPNetwork, groups: Groups) -> str:
    """The group that a label, or else the setting ISOLATE, puts a subnet into; "" for none."""
    named = (name for name, subnets in groups if any(inside(subnet, of) for of in subnets))
    return network.group or next(named, "")


# ---- liveness ----


def paths(scene: Scene) -> Iterator[Path]:
    """The direct way through the tunnel to every node that answers."""
    mine, lease = scene.home.party, scene.home.party.lease
    for one in scene.nodes:
        party = scene.cast.parties[one.id]
        if party.note is None:
            continue
        mtu = min(mtu for mtu in (mine.mtu, party.mtu) if mtu) - OVERHEAD[mine.endpoint.version]
        if lease is not None and party.lease is not None:
            version = 4 if lease.subnet is not None and party.lease.subnet is not None else 6
            local, remote = (
                next(
                    (s.network_address for s in (of.subnet, of.subnet6) if s is not None and s.version == version), None
                )
                for of in (lease, party.lease)
            )
            if local is not None and remote is not None:
                yield Path(one.id, "tunnel", device_of(lease, version), local, remote, mtu)
        else:
            yield Path(one.id, "tunnel", device_name(mine.vni), mine.endpoint, party.endpoint, mtu)


def underlay_path(one: Node, mine: Party) -> Path:
    """The way to a node's endpoint itself: asked where the tunnel is down, to tell a dead host from a closed port."""
    return Path(one.id, "underlay", "", mine.endpoint, one.endpoints[0])


def place(one: Node, party: Party) -> Place:
    """A node as the topology sees it."""
    note = party.note
    return Place(
        id=one.id,
        endpoints=one.endpoints,
        subnets=tuple(s for n in one.networks for s in n.subnets),
        carries="all" if note is not None else "flannel" if party.lease is not None else "none",
        reaches=frozenset(note.reaches) if note is not None else None,
        misses=frozenset(note.misses) if note is not None else frozenset(),
        via=dict(note.via) if note is not None else {},
        segments=note.segments if note is not None else (),
    )


def own_place(mine: Party, host: Host, networks: Sequence[Network]) -> Place:
    """This host."""
    return Place(mine.id, (mine.endpoint,), segments=segments(host, networks))


def segments(host: Host, networks: Sequence[Network]) -> tuple[IPInterface, ...]:
    """This host's own addresses that lie on a segment with other hosts; `networks`: its containers'."""
    inner = [subnet for network in networks for subnet in network.subnets]
    found = (a for u in host.uplinks for a in u.addresses if a.network.num_addresses > 1 and not a.ip.is_link_local)
    return tuple(
        sorted((a for a in found if not any(inside(a.network, s) for s in inner)), key=lambda a: (a.version, a))
    )
