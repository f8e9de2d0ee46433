"""What `weft registrar` knows: this host's facts and networks, the registry in etcd, the ways to the others and what
probing them came to; and the Views of it.

The counterpart of `world.py` and `flannel.py` for hosts that are registered in etcd. Each source replaces its set here
and wakes the loop (`agent/loop.py`), which asks for a View; `daemons/registrar.py` wires it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from weft.agent.broken import Broken
from weft.backends.lease import LEASE
from weft.backends.tunnel import device_name
from weft.core import registrar
from weft.core import scene as scenery
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.backend_entries import backend_entries
from weft.core.extra_routes import Extra, extra_faults, extra_routes
from weft.core.registrar import Cast, Home, Options
from weft.core.registry import Announcement, Registry
from weft.core.scene import Scene
from weft.core.sight import Chart, Course, Mode, Sight
from weft.core.topology import chart, recall
from weft.model import (
    DETECTION,
    Host,
    IPAddress,
    IPNetwork,
    Known,
    Network,
    Node,
    Path,
    Problem,
    Reach,
    StaticRoute,
    Uplink,
    View,
    Way,
)
from weft.objects import FOUND_METRIC, Object, Route
from weft.settings.gateways import ExtraRoute, MapEntry
from weft.wire.flannel import Config, Lease, Vtep, VxlanBackend
from weft.wire.registrar import Note, Status

Reaches = Mapping[tuple[str, str], Reach]
NO_CHART = Chart(courses={})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked for. `address`: this host's for the others, None: find it out. `etcd`: the addresses of
    etcd's members. `remarks`: entries of the two lists that can't be used."""

    options: Options
    address: IPAddress | None = None
    etcd: tuple[IPAddress, ...] = ()
    allowed: tuple[IPNetwork, ...] = ()
    entries: tuple[MapEntry, ...] = ()
    mode: Mode = "auto"
    extra: tuple[ExtraRoute, ...] = ()
    remarks: tuple[Problem, ...] = ()


@dataclass(slots=True)
class RegistrarWorld(Broken):
    """`host`, `engine`, `registry` are None until their source has spoken. `ways`: the kernel's answers for the
    addresses in `answered`. `clock`: seconds, never set back. `chains`, `refused`: ask the firewall target. `standing`:
    asks for the routes of ours that the kernel has: those of a former run may have been found to be needed."""

    wishes: Wishes
    clock: Callable[[], float]
    chains: Callable[[], frozenset[tuple[int, str, str]]] = frozenset
    refused: Callable[[], tuple[tuple[int, str], ...]] = tuple
    standing: Callable[[], Iterable[Object]] = tuple
    host: Host | None = None
    engine: Known[Network] | None = None
    registry: Registry | None = None
    reaches: Reaches = field(default_factory=dict)
    ways: Mapping[IPAddress, Way] = field(default_factory=dict)
    answered: frozenset[IPAddress] = frozenset()
    chart: Chart = NO_CHART
    scene: Scene | None = None
    _address: IPAddress | None = None
    _first: IPAddress | None = None
    _accepted: Accepted | None = None
    _faults: tuple[Problem, ...] = ()
    _cast: tuple[object, IPAddress | None, Cast] = (None, None, Cast())

    @property
    def name(self) -> str:
        """This host's name among the others."""
        return self.wishes.options.host

    @property
    def device(self) -> str:
        """The device that leads to the others: flannel's, or weft's own."""
        lease = self.scene.home.party.lease if self.scene is not None else None
        if lease is None:
            return device_name(self.wishes.options.vni)
        return scenery.device_of(lease, 4 if lease.subnet is not None else 6)

    @property
    def peers(self) -> Known[Node] | None:
        """Every other host, as it registered itself."""
        if self.registry is None:
            return None
        nodes = tuple(registrar.node(party) for party in self._cast[2].parties.values())
        return Known(nodes, self.registry.complete, self._cast[2].problems)

    def address(self) -> IPAddress | None:
        """This host's address for the others; None: it isn't known (yet). The one that was found first stays as long as
        this host has it, and is taken again when it comes back: all others, and flannel's lease, know it by that."""
        if self.host is None:
            return None
        own = {a.ip for uplink in self.host.uplinks for a in uplink.addresses}
        known = next((a for a in (self._first, self._address) if a is not None and a in own), None)
        if known is not None:
            self._address = known
            return known
        if self.wishes.address is None and (self.registry is None or not self.answered.issuperset(self.wishes.etcd)):
            return None  # flannel's leases and the ways to etcd decide
        leases = self.registry.leases if self.registry is not None else ()
        self._address = registrar.public_address(self.wishes.address, self.host, self.wishes.etcd, self.ways, leases)
        missing = (
            f"no address of this host is known to lead to the others: set FLANNELD_PUBLIC_IP (etcd: {self._etcd()})"
        )
        self.report("address", "" if self._address is not None else missing)
        self._first = self._first or self._address
        return self._address

    def networks(self) -> tuple[Network, ...]:
        """This host's networks; one that overlaps the underlay is told to nobody."""
        if self.engine is None or self.host is None:
            return ()
        faults = dict(registrar.without_own(self.engine.items, self._segments()))
        if not faults:
            return self.engine.items
        return tuple(replace(n, exposed=False, note=faults[n]) if n in faults else n for n in self.engine.items)

    def view(self) -> View | None:
        """What to plan from; None as long as nothing may be planned."""
        address = self.address()
        if self.host is None or self.registry is None or address is None:
            return None
        if self.engine is None or not self.engine.complete:
            return None
        networks = self.networks()
        exposed = tuple(n for n in networks if n.exposed and n.subnets)
        home = registrar.home(self.wishes.options, address, exposed, self.host, self.registry)
        if self._cast[0] is not self.registry or self._cast[1] != address:
            self._cast = self.registry, address, registrar.cast(self.registry, self.name, address)
        cast = self._cast[2]
        if self._is_anothers(address, cast):
            return None
        accepted = self._accept(home, cast, networks)
        without = {name: why for name, party in cast.parties.items() if (why := registrar.no_way(party, home.party))}
        nodes = tuple(one for one in accepted.nodes if one.id not in without) if without else accepted.nodes
        scene = Scene(self.wishes.options, home, cast, nodes, networks, {}, self._direct())
        unreached = (Problem(name, why) for name, why in without.items() if cast.parties[name].registered)
        self._faults = (*unreached, *scenery.half_apart(scene))
        sight = self._sight(scene)
        past = self.chart.past if self.chart is not NO_CHART else recall(sight.places, self._former())
        self.chart = scenery.passable(scene, chart(sight, past))
        self.scene = replace(scene, courses=self.chart.courses)
        first, *rest = (self._whole(view) for view in scenery.views(self.scene))
        routes = (*self.chart.routes, *extra_routes(self._extra()))
        problems = (*cast.problems, *self._faults, *accepted.problems)
        return replace(first, beside=tuple(rest), routes=routes, problems=problems)

    def _is_anothers(self, address: IPAddress, cast: Cast) -> bool:
        """FLANNELD_PUBLIC_IP came with another host's file: that host's lease would be taken for this one's."""
        own = {a.ip for uplink in (self.host.uplinks if self.host is not None else ()) for a in uplink.addresses}
        whose = next((p.id for p in cast.parties.values() if p.endpoint == address and p.registered), "")
        is_so = bool(whose) and address not in own
        text = f"FLANNELD_PUBLIC_IP = {address} is host {whose}'s, and no interface here has it: nothing is done before"
        self.report("public address", f"{text} it is this host's own, or left out" if is_so else "")
        return is_so

    def _former(self) -> Iterator[StaticRoute]:
        """Routes through a gateway of the underlay that a former run found to be needed."""
        for thing in self.standing():
            if isinstance(thing, Route) and thing.via is not None and thing.metric == FOUND_METRIC:
                yield StaticRoute(thing.dst, thing.via, thing.dev, DETECTION, "found before the restart")

    def _direct(self) -> dict[IPAddress, str]:
        """Endpoints that flannel reaches without its tunnel."""
        asked = self._routed_directly()
        ways = ((address, self.ways.get(address)) for address in asked)
        return {address: way.dev for address, way in ways if way is not None and way.gateway is None}

    def _routed_directly(self) -> frozenset[IPAddress]:
        """Endpoints that flannel may reach so: all of them, where its config says DirectRouting."""
        config = self.registry.config if self.registry is not None else None
        if config is None or not isinstance(config.backend, VxlanBackend) or not config.backend.direct_routing:
            return frozenset()
        return frozenset(party.endpoint for party in self._cast[2].parties.values())

    def _accept(self, home: Home, cast: Cast, networks: tuple[Network, ...]) -> Accepted:
        me = registrar.node(home.party)
        assert self.host is not None
        config = self.registry.config if self.registry is not None else None
        leased = home.party.lease
        lacking = ""
        if leased is not None and leased.subnet6 is None:
            lacking = "flannel has no IPv6 here (EnableIPv6 in its config), and its device leads to these hosts"
        own_lease = tuple(n for n in me.networks if n.name == LEASE)
        mine, underlay = (*networks, *own_lease), home.party.endpoint.version
        policy = Policy(me, underlay, self._allowed(config), mine, self._segments(), lacking)
        claims = tuple(registrar.node(party) for party in cast.parties.values())
        self._accepted = accept(claims, policy, self._accepted)
        return self._accepted

    def _allowed(self, config: Config | None) -> tuple[IPNetwork, ...]:
        """What the settings allow, and flannel's own networks."""
        return (*self.wishes.allowed, *_spans(config))

    def _segments(self) -> tuple[Uplink, ...]:
        """The interfaces whose networks nobody else may have; flannel's own is none of them."""
        uplinks = self.host.uplinks if self.host is not None else ()
        return tuple(u for u in uplinks if not u.name.startswith(("flannel.", "flannel-v6.")))

    def _sight(self, scene: Scene) -> Sight:
        assert self.host is not None
        return Sight(
            me=scenery.own_place(scene.home.party, self.host, scene.networks),
            uplinks=self._segments(),
            places=tuple(scenery.place(one, scene.cast.parties[one.id]) for one in scene.nodes),
            reach=tuple(self.reaches.values()),
            ways=self.ways,
            answered=self.answered,
            entries=self.wishes.entries,
            mode=self.wishes.mode,
            span=_spans(self.registry.config if self.registry is not None else None),
            port=scene.home.port,
            now=self.clock(),
        )

    def _whole(self, view: View) -> View:
        assert self.host is not None
        assert self.registry is not None
        host = replace(self.host, chains=self.chains(), refused=self.refused())
        asked = self.chart.unanswered | self._gateways() | self._routed_directly()
        synced = self.registry.complete and asked <= self.answered
        return replace(view, host=host, synced=synced, diverted=self._diverted(view))

    def _diverted(self, view: View) -> tuple[tuple[IPAddress, IPAddress], ...]:
        """Where another daemon's tunnel packets go in place of an endpoint."""
        if not view.profile.shared:
            return ()
        courses = ((node, self.chart.courses.get(node.id)) for node in view.nodes)
        return tuple((n.endpoints[0], c.gateway) for n, c in courses if c is not None and c.kind == "fdb" and c.gateway)

    def _extra(self) -> Extra:
        names = frozenset(uplink.name for uplink in self.host.uplinks) if self.host is not None else frozenset[str]()
        return Extra(self.wishes.extra, names, self.scene.nodes if self.scene is not None else (), self.ways)

    def _elsewhere(self) -> Iterator[Problem]:
        """FLANNELD_PUBLIC_IP may be that of a router before this host, or have been copied from another host's file."""
        asked = self.wishes.address
        own = {a.ip for uplink in self.host.uplinks for a in uplink.addresses} if self.host is not None else {asked}
        if asked is not None and asked not in own:
            text = f"FLANNELD_PUBLIC_IP = {asked} is no address of this host's: right behind NAT alone"
            yield Problem("settings", f"{text}, where UDP {registrar.PORT} to it has to be passed on here", wrong=False)

    # What the daemon's other parts ask of it.

    def announcement(self) -> Announcement | None:
        """What this host is to have in etcd; None while that isn't known."""
        scene = self.scene
        if scene is None or self.host is None or self.registry is None:
            return None
        mine, options = scene.home.party, scene.options
        entries, _ = self._entries(scene)
        note = Note(
            version=options.version,
            endpoints=(mine.endpoint,),
            mac=mine.mac,
            vni=mine.vni,
            port=mine.port,
            mtu=mine.mtu,
            overlay=scene.home.overlay,
            reaches=tuple(sorted(self.chart.reaches)),
            misses=tuple(sorted(self.chart.misses)),
            via=tuple(sorted(self.chart.via.items())),
            segments=scenery.segments(self.host, scene.networks),
        )
        primary = next((a.ip for u in self.host.uplinks if u.defaults for a in u.addresses), mine.endpoint)
        status = Status(options.host, registrar.node(mine).mac, primary, mine.endpoint)
        return Announcement(options.host, mine.networks, status, note, entries)

    def is_registered(self) -> bool:
        """Whether etcd has this host's networks, all of them and no other."""
        wanted = self.announcement()
        found = self.registry.host(self.name) if self.registry is not None else None
        if wanted is None or found is None:
            return False
        if found.status is None or found.status.public_ip != wanted.note.endpoints[0]:
            return False  # another host has this name
        there, here = ({s for n in of.networks for s in n.subnets} for of in (found, wanted))
        return there == here

    def _entries(self, scene: Scene) -> tuple[tuple[Lease, ...], tuple[Problem, ...]]:
        assert self.registry is not None
        mine = scene.home.party
        vtep = mine.lease.data if mine.lease is not None and isinstance(mine.lease.data, Vtep) else None
        return backend_entries(mine.networks, self.registry, mine.lease, mine.endpoint, vtep)

    def paths(self) -> tuple[Path, ...]:
        """What is to be probed."""
        scene = self.scene
        if scene is None:
            return ()
        lost = {node for (node, kind), reach in self.reaches.items() if kind == "tunnel" and reach.state == "down"}
        beside = (scenery.underlay_path(n, scene.home.party) for n in scene.nodes if n.id in lost)
        return (*scenery.paths(scene), *beside)

    def asked(self) -> frozenset[IPAddress]:
        """Addresses to which the ways matter."""
        return frozenset((*self.wishes.etcd, *self.chart.ask, *self._gateways(), *self._routed_directly()))

    def _gateways(self) -> frozenset[IPAddress]:
        """Of the routes of FLANNEL_ROUTES_EXTRA."""
        return frozenset(extra.gateway for extra in self.wishes.extra)

    def detour(self, node: str) -> Literal["", "found", "asked"]:
        """Whether a node is reached by another way than directly, found by itself or asked for by an operator."""
        course = self.chart.courses.get(node)
        if course is None or course.kind not in ("relay", "fdb"):
            return ""
        return "asked" if course.asked else "found"

    def rules(self) -> Mapping[str, str]:
        """By node, the rule that decided by which way it is reached."""
        return {name: _words(course) for name, course in self.chart.courses.items()}

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        yield from self.broken.values()
        yield from self.wishes.remarks
        yield from self._elsewhere()
        yield from extra_faults(self._extra(), self.answered)
        if self.host is not None and self.scene is not None and self.scene.own_device:
            yield from registrar.sealed(self.host, device_name(self.wishes.options.vni))
        if self.engine is not None:
            yield from self.engine.problems
        if self.host is not None and self.engine is not None:
            for network, why in registrar.without_own(self.engine.items, self._segments()):
                yield Problem(f"network {network.name}", f"network {network.name} is not registered: {why}")
        if self.registry is not None:
            yield from self.registry.problems
        yield from self._cast[2].problems
        yield from self._faults
        yield from self.conflicts()
        yield from self.chart.problems
        if self.scene is not None:
            yield from self._entries(self.scene)[1]

    def conflicts(self) -> tuple[Problem, ...]:
        """Claims that were refused."""
        return self._accepted.problems if self._accepted is not None else ()

    def others(self) -> frozenset[str]:
        """Hosts that are routed to."""
        scene = self.scene
        return frozenset(n.id for n in scene.nodes if scene.cast.parties[n.id].registered) if scene else frozenset()

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet."""
        waiting = ["host"] if self.host is None else []
        waiting.extend(["engine"] if self.engine is None or not self.engine.complete else [])
        waiting.extend(["etcd"] if self.registry is None or not self.registry.complete else [])
        known = self.host is not None and self.registry is not None
        waiting.extend(["address"] if known and self.address() is None else [])
        return waiting

    def _etcd(self) -> str:
        return ", ".join(map(str, self.wishes.etcd)) or "no address"


def _spans(config: Config | None) -> tuple[IPNetwork, ...]:
    pools = (config.ipv4, config.ipv6) if config is not None else ()
    return tuple(pool.network for pool in pools if pool is not None)


def _words(course: Course) -> str:
    return f"{course.rule}; {course.problem}" if course.problem else course.rule
