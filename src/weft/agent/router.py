"""What `weft router` knows: this host's stacks, the file that `weft discovery` writes, this host's facts; and the Views
of it, one for each VNI.

The counterpart of `world.py`. Each source replaces its set here and wakes the loop (`agent/loop.py`), which asks for a
View; `daemons/router.py` wires it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from weft.agent.broken import Broken
from weft.backends.tunnel import Tunnel, device_name
from weft.backends.vxlan import gateway_of
from weft.core.identity import Identity, Self, describe
from weft.core.stacks import Fate, Options, Overlay, Scene, Survey, survey
from weft.model import (
    DiscoveryData,
    Host,
    IPAddress,
    IPNetwork,
    Known,
    Network,
    Node,
    Peer,
    Problem,
    Profile,
    TextFile,
    View,
)
from weft.wire.routes_json import RuntimeRoute, encode_routes
from weft.wire.routing import StackConfig

ROLE = "router"
NOTHING = DiscoveryData(complete=False)
"""What `discovery/file.py` says as long as there is no discovery.json that it can read."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator set. `identity`: `id` is PEER_ID ("": the stacks' ids), `port` VXLAN_PORT, with HOST_IP,
    INTERFACE, underlay and MTU; its VNI is not looked at. `mark`: on this daemon's links, the same as long as it lives
    here. `routes_file`: path of routes.json, "" for none. `metric`: of our routes."""

    identity: Identity
    mark: str
    options: Options
    routes_file: str = "/var/lib/docker-router/routes.json"
    metric: int = 7600


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route that is wanted. `next_hop`: of several ends there is a row for each. `source`: static-config or
    discovery. `stack`: whose subnet it is, `node`: through whom."""

    destination: IPNetwork
    next_hop: IPAddress
    interface: str
    source: str
    stack: str
    node: str


@dataclass(slots=True)
class RouterWorld(Broken):
    """`stacks`, `host`, `data` are None until their source has spoken; each may be replaced at any time, by what is
    good: a routing.yaml or discovery.json that can't be read is told with `report`, and what was read before stays.
    `chains`, `refused`: ask the firewall target."""

    wishes: Wishes
    stacks: tuple[StackConfig, ...] | None = None
    host: Host | None = None
    data: DiscoveryData | None = None
    chains: Callable[[], frozenset[tuple[int, str, str]]] = frozenset
    refused: Callable[[], tuple[tuple[int, str], ...]] = tuple
    _endpoints: tuple[IPAddress, ...] = ()
    _faults: tuple[Problem, ...] = ()
    _survey: Survey | None = None
    _drawn: tuple[Survey, Host, bool, tuple[View, ...]] | None = None
    _routes: tuple[tuple[View, ...], tuple[RouteRow, ...], str] | None = None

    @property
    def name(self) -> str:
        """This host's name among the others: the peer's, or its stacks'."""
        return self.wishes.identity.id or "+".join(stack.stack_id for stack in self.stacks or ())

    @property
    def device(self) -> str:
        """The devices of all VNIs, in the order of the stacks."""
        vnis = dict.fromkeys(stack.vni for stack in self.stacks or () if stack.vni is not None)
        return ", ".join(map(device_name, vnis))

    @property
    def engine(self) -> Known[Network] | None:
        """The networks of this host's stacks."""
        if self.stacks is None:
            return None
        return Known(tuple(network for stack in self.stacks for network in stack.networks), complete=True)

    @property
    def peers(self) -> Known[Node] | None:
        """Everybody in discovery.json but this host."""
        if self.data is None:
            return None
        return Known(tuple(peer.node for peer in self.data.peers), self.data.complete, self.data.problems)

    def hear(self, said: DiscoveryData) -> tuple[Peer, ...]:
        """discovery.json says this now; all peers that there are with it. As long as it isn't complete, whoever is
        missing in it stays as he was: as when discovery was started anew, and knows nobody yet."""
        if self.data is not None and not said.complete:
            named = {peer.node.id for peer in said.peers}
            peers = [*said.peers, *(peer for peer in self.data.peers if peer.node.id not in named)]
            said = replace(said, peers=tuple(sorted(peers, key=lambda peer: peer.node.id)))
        self.data = said
        return said.peers

    def view(self) -> View | None:
        """What to plan from, the first VNI in front; None as long as nothing may be planned. Before there is a
        discovery.json, this host's own end is set up."""
        views = self._views()
        if not views:
            return None
        first, *rest = views
        files: tuple[TextFile, ...] = ()
        if self.wishes.routes_file and self.data not in (None, NOTHING):  # until then, the last run's routes are there
            files = (TextFile(self.wishes.routes_file, self._route_rows(views)[1]),)
        return replace(first, beside=tuple(rest), files=files, problems=tuple(self.problems()))

    def _views(self) -> tuple[View, ...]:
        found = self._look()
        host, stacks = self.host, self.stacks
        if found is None or host is None or stacks is None:
            return ()
        host = replace(host, chains=self.chains(), refused=self.refused())
        synced = not self.waiting()
        if self._drawn is None or self._drawn[0] is not found or self._drawn[1:3] != (host, synced):
            views = tuple(self._overlay_view(found, overlay, host, synced) for overlay in found.overlays)
            self._drawn = found, host, synced, views
        return self._drawn[3]

    def _look(self) -> Survey | None:
        """What follows from all that is known now; None while too little is."""
        here = self._me()
        if here is None or here.node is None or self.host is None or not self.stacks:
            return None
        scene = Scene(
            stacks=self.stacks,
            me=here.node,
            underlay=here.underlay,
            host=self.host,
            data=self.data if self.data is not None else DiscoveryData(),
            options=self.wishes.options,
            peer_id=self.wishes.identity.id,
        )
        if self._survey is None or not _same(self._survey.scene, scene):
            self._survey = survey(scene, self._survey)
        return self._survey

    def _me(self) -> Self | None:
        """This host as far as it is the same in all VNIs."""
        if self.host is None:
            return None
        own = {address.ip for uplink in self.host.uplinks for address in uplink.addresses}
        told = (address for peer in self._own_peers() for address in peer.node.endpoints if address in own)
        here = describe(self.wishes.identity, self.host, (), (*told, *self._endpoints))
        self._endpoints = here.node.endpoints if here.node is not None else self._endpoints
        self._faults = (replace(here.problem, subject=self.name),) if here.problem is not None else ()
        return here

    def _own_peers(self) -> tuple[Peer, ...]:
        """What discovery tells the others of this host. Where that has several addresses to choose from, the tunnels
        end at the one that is announced: to any other, nobody sends."""
        return self.data.here if self.data is not None else ()

    def _overlay_view(self, found: Survey, overlay: Overlay, host: Host, synced: bool) -> View:
        options = self.wishes.options
        profile = Profile(
            role=ROLE,
            mark=self.wishes.mark,
            underlay=found.scene.underlay,
            learning=options.flood,
            metric=self.wishes.metric,
            gateway="overlay",
            spaces=overlay.spaces,
            flood=options.flood,
        )
        return View(
            me=overlay.me,
            networks=overlay.networks,
            nodes=overlay.nodes,
            host=host,
            profile=profile,
            synced=synced,
            multipath=overlay.multipath,
        )

    def _route_rows(self, views: tuple[View, ...]) -> tuple[tuple[RouteRow, ...], str]:
        """The routes, and routes.json with them."""
        if self._routes is None or self._routes[0] is not views:
            overlays = self._drawn[0].overlays if views and self._drawn is not None else ()  # none: no uplink just now
            pairs = zip(views, overlays, strict=True)
            rows = tuple(row for view, overlay in pairs for row in sorted(_rows(view, overlay), key=_by_destination))
            text = encode_routes(RuntimeRoute(r.destination, r.next_hop, r.interface, r.source) for r in rows)
            self._routes = views, rows, text
        return self._routes[1], self._routes[2]

    def fates(self) -> tuple[Fate, ...]:
        """What became of every peer in discovery.json, sorted by VNI and id. Empty while nothing can be planned."""
        found = self._look()
        return found.fates() if found is not None else ()

    def routes(self) -> tuple[RouteRow, ...]:
        """The routes that are wanted, by VNI, destination and next hop."""
        return self._route_rows(self._views())[0]

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        found = self._look()
        yield from self.broken.values()
        yield from self._faults
        if self.data is not None:
            yield from self.data.problems
        if found is not None:
            yield from found.problems

    def waiting(self) -> list[str]:
        """Sources that have not vouched for their set yet: nothing is removed until then."""
        waiting = ["host"] if self.host is None else []
        waiting.extend(["routing"] if self.stacks is None else [])
        waiting.extend(["discovery"] if self.data is None or not self.data.complete else [])
        return waiting


def _same(one: Scene, other: Scene) -> bool:
    """Whether the same follows from both. discovery.json is compared by who made it: it may be large, and its times are
    always others."""
    if one.data is not other.data or one.stacks is not other.stacks:
        return False
    return replace(one, data=other.data) == other


def _rows(view: View, overlay: Overlay) -> Iterator[RouteRow]:
    tunnel = Tunnel.of(view)
    for node in view.nodes:
        for network in node.networks:
            for subnet in network.subnets:
                gateway = gateway_of(node, subnet.version, tunnel)
                if gateway is not None:
                    yield RouteRow(subnet, gateway, tunnel.device, network.note, network.stack or node.id, node.id)
    for several in view.multipath:
        for end in several.ends:
            gateway = gateway_of(end, several.subnet.version, tunnel)
            if gateway is not None:
                yield RouteRow(
                    several.subnet, gateway, tunnel.device, several.source, overlay.owners[several.subnet], end.id
                )


def _by_destination(row: RouteRow) -> tuple[int, IPNetwork, int, IPAddress]:
    return row.destination.version, row.destination, row.next_hop.version, row.next_hop
