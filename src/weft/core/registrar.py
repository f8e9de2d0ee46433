"""The registry and flannel's leases → who takes part, of which `scene.py` makes Views. Pure; called by
`agent/registrar.py`.

Two layouts, by pairs of hosts. Where both have a lease of flannel's (its backend vxlan), flannel's own device leads
there: routes alone are added. Where one has none, both have weft's own VXLAN device, and that is laid out as `weft
agent` does it. Every host sees the same registry, so both ends of a pair come to the same layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.backends.lease import LEASE
from weft.backends.tunnel import OVERHEAD, vtep_mac
from weft.core.flannel import inside
from weft.core.identity import overlay
from weft.core.registry import Registered, Registry
from weft.model import (
    Host,
    IPAddress,
    IPNetwork,
    Mac,
    Network,
    Node,
    Problem,
    Uplink,
    Way,
    mac_text,
)
from weft.wire.flannel import Lease, Vtep, VxlanBackend
from weft.wire.registrar import Note

ROLE = "registrar"
PORT = 8472
"""UDP port of VXLAN in flannel's modes, the kernel's default."""
NO_MAC = Mac(bytes(6))
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
    rp_filter is on (fib_frontend.c, __fib_validate_source); behind NAT the public one, at which it is probed.
    `port`: UDP port of the tunnels that lead to the others, by flannel's config where that is flannel's. `inner`: this
    host's own addresses among its containers, at most one per family."""

    party: Party
    uplink: Uplink | None = None
    overlay: tuple[IPAddress, ...] = ()
    port: int = PORT
    inner: tuple[IPAddress, ...] = ()

    @property
    def local(self) -> IPAddress:
        """What this host itself sends from: behind NAT it has not got the address that the others send to."""
        own = [a.ip for a in self.uplink.addresses] if self.uplink is not None else []
        alike = (ip for ip in own if ip.version == self.party.endpoint.version and not ip.is_link_local)
        return self.party.endpoint if self.party.endpoint in own else next(alike, self.party.endpoint)


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
    former = _former(registry.hosts)
    for host in registry.hosts:
        if host.host == me or host.host in former:
            continue
        party = _party(host, registry, registered)
        if isinstance(party, Problem):
            problems.append(party)
        else:
            parties[host.host] = party
    known = {party.endpoint for party in parties.values()} | {mine}
    theirs = [party.lease for party in parties.values()]
    theirs.append(lease_of(mine, registry.leases, registered))
    known.update(a for lease in theirs if lease for a in (lease.public_ip, lease.public_ip6) if a is not None)
    for lease in registry.leases:
        address = lease.public_ip or lease.public_ip6
        own = lease_of(address, registry.leases, registered) if address is not None and address not in known else None
        if address is not None and own is not None:
            known.add(address)
            parties[f"flannel host {address}"] = Party(f"flannel host {address}", address, lease=own, registered=False)
    return Cast(parties, tuple(problems))


def _former(hosts: Iterable[Registered]) -> frozenset[str]:
    """Names that a machine had before it was renamed, whose keys have not run out yet: the newest heartbeat tells. Its
    VTEP is the new name's, so what goes to the former one is lost."""
    of: dict[tuple[str, IPAddress], list[tuple[int, str]]] = {}
    for host in hosts:
        if host.note is not None and host.note.machine and host.status is not None and host.status.public_ip:
            place = host.note.machine, host.status.public_ip
            of.setdefault(place, []).append((host.status.timestamp, host.host))
    return frozenset(name for names in of.values() for _, name in sorted(names)[:-1])


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
    lease = lease_of(address, registry.leases, registered)
    backend = registry.config.backend if registry.config is not None and lease is not None else None
    if isinstance(backend, VxlanBackend) and backend.mtu:
        mtu = min(mtu, backend.mtu)  # flannel's device is as small, whatever the interface lets through
    party = Party(
        options.host,
        address,
        tuple(networks),
        lease,
        vtep_mac(options.host, options.vni),
        options.vni,
        PORT,
        mtu,
        Note(),
    )
    port = backend.port if isinstance(backend, VxlanBackend) else PORT
    found = Home(party, uplink, tuple(overlay(host, networks)), port, _inner(lease, networks, host))
    if found.local != address or not any(a.version == address.version for a in found.overlay):
        return replace(found, overlay=(*found.overlay, address))
    return found


def _inner(lease: Lease | None, networks: Sequence[Network], host: Host) -> tuple[IPAddress, ...]:
    """A bridge in the lease comes first; flannel's own device doesn't count."""
    leased = tuple(s for s in (lease.subnet, lease.subnet6) if s is not None) if lease is not None else ()
    bridges = replace(host, uplinks=tuple(u for u in host.uplinks if not u.name.startswith("flannel")))
    return tuple(overlay(bridges, (Network(LEASE, leased, since=float("-inf")), *networks)))


def no_way(party: Party, me: Party) -> str:
    """Why no device leads from this host to another, and what would help; "" if one does."""
    if me.lease is not None and party.lease is not None:
        return ""
    who = f"host {party.id} ({party.endpoint})"
    if not any(party.mac) or party.mac[0] & 1:
        text = f"{who} tells no VTEP of weft's, and flannel has no lease for this host ({me.endpoint})"
        return f"{text}: nothing leads there; start flannel on this host, or weft's registrar on that one"
    if party.mac == me.mac:
        return f"{who} tells this host's own VTEP {mac_text(me.mac)}: nothing is sent there; give it another HOST_NAME"
    if (party.vni, party.port) != (me.vni, me.port):
        theirs, mine = (f"VNI {of.vni} on UDP {of.port}" for of in (party, me))
        return f"{who} has {theirs}, this host {mine}: nothing gets through; give both the same WEFT_VNI"
    return ""


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


def sealed(host: Host, device: str) -> Iterator[Problem]:
    """Settings of weft's own device that can't be set, if so."""
    if host.sysctls:
        return
    settings = f"net.ipv4.conf.{device}.rp_filter (to 2) and send_redirects (to 0)"
    text = f"{settings} can't be set: /proc/sys is read-only here, as Docker has it, or this user may not"
    remedy = "Add security_opt: [systempaths=unconfined] to the Compose file, or set them on the host"
    effect = "nothing is lost by it here, where no rp_filter is strict (1)"
    if host.strict:
        effect = "rp_filter is strict (1) here, so probes and answers that come by another way are dropped"
    yield Problem("settings", f"{text}; {effect}. {remedy}", wrong=host.strict)


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
