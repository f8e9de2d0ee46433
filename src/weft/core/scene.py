"""How this host reaches those who take part (`registrar.py`): its Views, one for each device, and what goes with them:
the paths that are probed, the entries that flannel's device must hold, who may not talk with whom. Pure; called by
`agent/registrar.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.backends.lease import LEASE
from weft.backends.tunnel import OVERHEAD, REGISTRAR_METRICS, device_name, link_local
from weft.core.flannel import inside
from weft.core.registrar import ROLE, Cast, Groups, Home, Options, Party, node
from weft.core.sight import Chart, Course, Place
from weft.core.stale import Wanted
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
    View,
)
from weft.wire.flannel import Lease, Vtep

DIRECT = Course("direct", "")


@dataclass(frozen=True, slots=True)
class Scene:
    """What the Views are made of. `nodes`: accepted ones (`node` made them). `networks`: this host's, all of them.
    `direct`: endpoint on one of this host's segments → the interface to it, where flannel needs no tunnel for such
    (DirectRouting)."""

    options: Options
    home: Home
    cast: Cast
    nodes: tuple[Node, ...]
    networks: tuple[Network, ...]
    courses: Mapping[str, Course]
    direct: Mapping[IPAddress, str] = field(default_factory=dict)

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
        mtu=scene.home.party.mtu,
        port=scene.home.port,
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
            way = scene.direct.get(one.endpoints[0], "")
            relay = _relay(scene, one, True)
            nodes.append(replace(one, networks=networks, overlay=overlay, direct=way, relay=relay))
    profile = Profile(
        role=ROLE,
        mark=scene.options.host,
        underlay=scene.home.party.endpoint.version,
        metric=REGISTRAR_METRICS.start,
        device=device_of(lease, version),
        gateway="overlay",
        shared=True,
        sources=scene.home.inner,
    )
    return View(me=me, networks=tuple(_of_version(scene.networks, version)), nodes=tuple(nodes), profile=profile)


def _own(scene: Scene) -> View:
    mine, options = scene.home.party, scene.options
    me = replace(
        node(mine),
        endpoints=(scene.home.local,),
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


def passable(scene: Scene, found: Chart) -> Chart:
    """A chart without relays that are reached by another device than the node itself: what goes out of weft's own
    device is not told to flannel's, nor the other way round. The direct way stays, and why is said."""
    courses, problems = dict(found.courses), []
    for name, course in found.courses.items():
        through = scene.cast.parties.get(course.relay)
        if through is None or scene.beside_flannel(through) == scene.beside_flannel(scene.cast.parties[name]):
            continue
        ours, theirs = ("flannel's device", "weft's own")
        if scene.beside_flannel(through):
            ours, theirs = theirs, ours
        why = f"{name} is behind {ours}, its relay {course.relay} behind {theirs}: nothing is relayed between the two"
        why = f"{why} ({course.rule}). Run flannel on all three hosts, or on none"
        courses[name] = Course("none", course.rule, problem=why, asked=course.asked)
        problems.append(Problem(name, why))
    return replace(found, courses=courses, problems=(*found.problems, *problems)) if problems else found


def _relay(scene: Scene, one: Node, beside_flannel: bool) -> Relay | None:
    """The relay's end in this layout; None: none is wanted, or it isn't reached by the same device."""
    through = scene.courses.get(one.id, DIRECT).relay
    if not through:
        return None
    other = next((n for n in scene.nodes if n.id == through), None)
    if other is None:
        return None
    party = scene.cast.parties[through]
    if scene.beside_flannel(party) != beside_flannel:
        return None
    if not beside_flannel:
        return Relay(through, other.endpoints, party.mac, other.overlay)
    return Relay(through, other.endpoints, other.mac, other.overlay, scene.direct.get(other.endpoints[0], ""))


def _of_version(networks: Iterable[Network], version: int) -> Iterator[Network]:
    for network in networks:
        subnets = tuple(s for s in network.subnets if s.version == version)
        if subnets:
            yield network if subnets == network.subnets else replace(network, subnets=subnets)


def leased_entries(scene: Scene, lost: frozenset[str]) -> Wanted:
    """What flannel's device must hold by the leases, for IPv4. `lost`: nodes that don't answer."""
    lease = scene.home.party.lease
    fdb: dict[Mac, IPAddress] = {}
    neighbours: dict[IPAddress, Mac] = {}
    routes: dict[IPNetwork, IPAddress] = {}
    silent = {scene.cast.parties[one.id].endpoint for one in scene.nodes if one.id in lost}
    for one in scene.nodes if lease is not None else ():
        theirs = scene.cast.parties[one.id].lease
        if theirs is not None and theirs.subnet is not None and isinstance(theirs.data, Vtep):
            fdb[theirs.data.mac] = one.endpoints[0]
            neighbours[theirs.subnet.network_address] = theirs.data.mac
            routes[theirs.subnet] = theirs.subnet.network_address
    device = device_of(lease, 4) if lease is not None else device_name(scene.options.vni)
    return Wanted(device, fdb, neighbours, routes, frozenset(silent))


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


def half_apart(scene: Scene) -> Iterator[Problem]:
    """Networks that ISOLATE means and does not hold whole: they are in no group, and nothing is kept from them."""
    groups = scene.options.groups
    everybody = (scene.home.party.networks, *(one.networks for one in scene.nodes)) if groups else ()
    for network in (network for networks in everybody for network in networks):
        for subnet in network.subnets:
            parts = [(name, of) for name, subnets in groups for of in subnets if inside(of, subnet) and of != subnet]
            if parts and not group_of(network, subnet, groups):
                name, part = parts[0]
                text = (
                    f"ISOLATE: group {name} has {part}, a part of network {network.name} {subnet}, which is in no group"
                )
                yield Problem("settings", f"{text}: write {name}={subnet}")


# ---- liveness ----


def paths(scene: Scene) -> Iterator[Path]:
    """The direct way to every node that answers, as packets take it."""
    mine = scene.home.party
    for one in scene.nodes:
        party = scene.cast.parties[one.id]
        if party.note is None:
            continue
        outer = min(mtu for mtu in (mine.mtu, party.mtu) if mtu)
        mtu = outer - OVERHEAD[mine.endpoint.version]
        if mine.lease is not None and party.lease is not None:
            yield from _path_of_leases(one, mine.lease, party.lease, scene.direct.get(party.endpoint, ""), (outer, mtu))
        elif mine.endpoint.version == 6:  # a socket on the device finds no other way to an address of the underlay
            ends = link_local(mine.mac), link_local(party.mac)
            yield Path(one.id, "tunnel", device_name(mine.vni), *ends, mtu)
        else:
            yield Path(one.id, "tunnel", device_name(mine.vni), mine.endpoint, party.endpoint, mtu)


def _path_of_leases(one: Node, mine: Lease, theirs: Lease, way: str, sizes: tuple[int, int]) -> Iterator[Path]:
    """Through flannel's device; where `way` leads there without it, by the routes. `sizes`: MTU of the underlay, and of
    the tunnel."""
    version = 4 if mine.subnet is not None and theirs.subnet is not None else 6
    local, remote = (
        next((s.network_address for s in (of.subnet, of.subnet6) if s is not None and s.version == version), None)
        for of in (mine, theirs)
    )
    if local is not None and remote is not None:
        device, mtu = ("", sizes[0]) if way else (device_of(mine, version), sizes[1])
        yield Path(one.id, "tunnel", device, local, remote, mtu)


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
    subnets = tuple(subnet for network in mine.networks for subnet in network.subnets)
    return Place(mine.id, (mine.endpoint,), subnets, segments=segments(host, networks))


def segments(host: Host, networks: Sequence[Network]) -> tuple[IPInterface, ...]:
    """This host's own addresses that lie on a segment with other hosts; `networks`: its containers'."""
    inner = [subnet for network in networks for subnet in network.subnets]
    found = (a for u in host.uplinks for a in u.addresses if a.network.num_addresses > 1 and not a.ip.is_link_local)
    return tuple(
        sorted((a for a in found if not any(inside(a.network, s) for s in inner)), key=lambda a: (a.version, a))
    )
