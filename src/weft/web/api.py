"""What a running agent tells about itself: values for `weft show`, `weft explain`, `weft plan`. Called by `local.py`.

Every answer is a msgspec Struct that becomes JSON as it stands (`weft show … --json`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from weft import __version__
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.status import Status
from weft.core.commands import text
from weft.core.diff import Changes
from weft.core.explain import explain
from weft.model import IPAddress, Network, Node, Reach, mac_text
from weft.objects import Address, Fdb, Key, Link, Neighbour, NextHop, NextHopGroup, Object, Route
from weft.objects.cloud import CloudRoute


class PeerRow(msgspec.Struct):
    """One node that was heard, whether it is routed to or not. `last_seen`: seconds since 1970, 0 if unknown. `way`: by
    which way it is reached and which rule decided, "" where there is no choice. `liveness`: what probing the tunnel
    came to (up, down, unknown), "" where it isn't probed; `full`: whether packets of full size get through."""

    node: str
    endpoints: list[str]
    networks: list[str]
    mac: str
    vni: int
    mtu: int
    source: str
    version: str
    last_seen: float
    routed: bool
    problems: list[str]
    way: str
    liveness: str = ""
    full: bool | None = None


class EntryRow(msgspec.Struct):
    """What is behind a VXLAN device: a VTEP at `dst`. `mac` all zero: it is flooded to. `address`: whose neighbour
    entry leads to that MAC, "" for none of ours."""

    mac: str
    dst: str
    address: str


class VxlanRow(msgspec.Struct):
    """A VXLAN device of ours, as the kernel has it. `mtu` in octets."""

    device: str
    vni: int
    local: str
    port: int
    mac: str
    mtu: int
    learning: bool
    up: bool
    addresses: list[str]
    entries: list[EntryRow]
    routes: int


class NetworkRow(msgspec.Struct):
    """One network of this host."""

    name: str
    subnets: list[str]
    bridge: str
    exposed: bool
    note: str


class RouteRow(msgspec.Struct):
    """One route that weft wants here. `state`: done, pending, error, conflict. `via`: the gateways, sorted; several
    share its flows, none is a route to the device itself. `device`: of a cloud's route, the table that it is in."""

    destination: str
    node: str
    network: str
    route: str
    state: str
    message: str
    via: list[str]
    device: str


class StatusRow(msgspec.Struct):
    """One object that is not done."""

    object: str
    state: str
    since: float
    attempts: int
    message: str


class AgentStatus(msgspec.Struct):
    """`health`: ok, or degraded when something is wrong. `waiting_for`: sources that have not vouched for their set yet
    (nothing is removed until then)."""

    health: str
    node: str
    version: str
    device: str
    endpoints: list[str]
    uptime: float
    peers: int
    routes: int
    objects: dict[str, int]
    datagrams: dict[str, int]
    cycles: int
    last_cycle_ms: float
    waiting_for: list[str]
    problems: list[str]
    not_done: list[StatusRow]


class EventRow(msgspec.Struct):
    """One op that was carried out or refused. `at`: seconds since 1970."""

    at: float
    action: str
    object: str
    why: str
    error: str


class PlanAnswer(msgspec.Struct):
    """What would be done now: shell lines, lines held back until every source has spoken, conflicts."""

    changes: list[str]
    held: list[str]
    conflicts: list[str]


class ExplainLine(msgspec.Struct):
    text: str
    why: str
    state: str


class ExplainAnswer(msgspec.Struct):
    asked: str
    found: bool
    lines: list[ExplainLine]


class Voice(Protocol):
    """What a discovery tells about itself (`agent.announcer.Announcer`)."""

    def last_seen(self) -> Mapping[str, float]: ...

    def counters(self) -> Mapping[str, int]: ...

    def within(self) -> Mapping[str, str]:
        """By node, the id under which it is planned, where that is another one."""
        ...

    def rules(self) -> Mapping[str, str]:
        """By node, the rule that decided by which way it is reached; none where there is no choice."""
        ...

    def probed(self) -> Mapping[str, Reach]:
        """By node, what probing the tunnel to it came to; none where nobody probes."""
        ...


def _never() -> bool:
    return False


class Api:
    """Answers from one running loop and the discovery that it hears. `standing_by`: nothing is planned, and that is as
    it should be: another daemon writes."""

    def __init__(self, loop: Loop[Any], voice: Voice, standing_by: Callable[[], bool] = _never) -> None:
        self._loop = loop
        self._voice = voice
        self._standing_by = standing_by
        self._started = time.monotonic()

    def peers(self) -> list[PeerRow]:
        """Every node that was heard, sorted by id."""
        known = self._loop.world.peers
        views = (self._loop.view, *self._loop.view.beside) if self._loop.view else ()
        routed = {n.id for view in views for n in view.nodes}
        problems: dict[str, list[str]] = {}
        for problem in self._loop.world.problems():
            problems.setdefault(problem.subject, []).append(problem.message)
        claims, within = known.items if known is not None else (), self._voice.within()
        rows = []
        for node in claims:
            row = _peer(node, self._voice)
            row.routed, row.problems = within.get(node.id, node.id) in routed, problems.get(node.id, [])
            rows.append(row)
        return rows

    def networks(self) -> list[NetworkRow]:
        """This host's networks, sorted by name; empty before the engine has answered."""
        engine = self._loop.world.engine
        return [_network(n) for n in engine.items] if engine is not None else []

    def routes(self) -> list[RouteRow]:
        """Every route that is wanted here, sorted by destination."""
        rows = []
        for key, want in self._loop.reconciler.plan.wanted.items():
            if isinstance(want.object, Route | CloudRoute):
                status = self._status(key)
                rows.append(
                    RouteRow(
                        str(want.object.dst),
                        want.why.peer,
                        want.why.rule,
                        text(want.object),
                        status.state,
                        status.message,
                        list(map(str, self._gateways(want.object))),
                        want.object.dev if isinstance(want.object, Route) else want.object.table,
                    )
                )
        return sorted(rows, key=lambda row: row.destination)

    def _gateways(self, route: Route | CloudRoute) -> list[IPAddress]:
        """Those of the next-hop objects that are wanted for it."""
        if isinstance(route, CloudRoute) or not route.nexthop:
            return [route.via] if route.via is not None else []
        wanted = self._loop.reconciler.plan.wanted
        ids = [route.nexthop]
        if (group := wanted.get(("nexthop", route.nexthop))) and isinstance(group.object, NextHopGroup):
            ids = list(group.object.members)
        hops = [wanted[key].object for key in (("nexthop", one) for one in ids) if key in wanted]
        return sorted((hop.via for hop in hops if isinstance(hop, NextHop)), key=lambda via: (via.version, int(via)))

    def vxlan(self) -> list[VxlanRow]:
        """Our VXLAN devices with what is on them, sorted by name: as they were read last."""
        things = list(self._loop.reconciler.actual())
        links = sorted((thing for thing in things if isinstance(thing, Link)), key=lambda link: link.name)
        return [_vxlan(link, things) for link in links]

    def status(self) -> AgentStatus:
        """How this agent is, and what is not as it should be."""
        loop, account = self._loop, self._loop.reconciler.account
        problems = [p.message for p in loop.world.problems() if p.wrong]
        not_done = [self._row(key, status) for key, status in account.statuses.items()]
        counts = Counter(type(thing).__name__.lower() for thing in loop.reconciler.actual())
        node = loop.view.me if loop.view is not None else None
        planned = node is not None or self._standing_by()
        return AgentStatus(
            health="ok" if not problems and not not_done and planned else "degraded",
            node=loop.world.name,
            version=__version__,
            device=loop.world.device,
            endpoints=[str(e) for e in node.endpoints] if node is not None else [],
            uptime=time.monotonic() - self._started,
            peers=len({n.id for view in (loop.view, *loop.view.beside) for n in view.nodes}) if loop.view else 0,
            routes=counts["route"] + counts["cloudroute"],
            objects=dict(sorted(counts.items())),
            datagrams={name: count for name, count in sorted(self._voice.counters().items()) if count},
            cycles=account.cycles,
            last_cycle_ms=account.last.seconds * 1000,
            waiting_for=loop.world.waiting(),
            problems=problems,
            not_done=not_done,
        )

    def events(self) -> list[EventRow]:
        """The last ops that were carried out or refused, oldest first."""
        return [EventRow(e.at, e.action, e.what, e.why, e.failure) for e in self._loop.reconciler.account.events]

    async def plan(self) -> PlanAnswer | None:
        """None while nothing can be planned."""
        changes = await self._loop.preview()
        return answer(changes, self._loop.reconciler) if changes is not None else None

    def explain(self, asked: str) -> ExplainAnswer:
        """Raises ValueError if `asked` is no address, prefix or node."""
        view, world = self._loop.view, self._loop.world
        if view is None:
            waiting = [p.message for p in world.problems()] or ["nothing is planned yet"]
            return ExplainAnswer(asked, False, [ExplainLine(message, "", "") for message in waiting])
        claims = world.peers.items if world.peers is not None else ()
        found, said = explain(asked, view, self._loop.reconciler.plan, claims, self._voice.rules())
        shown = [ExplainLine(s.text, s.why, self._status(s.key).state if s.key is not None else "") for s in said]
        return ExplainAnswer(asked, found, shown)

    def _status(self, key: Key) -> Status:
        return self._loop.reconciler.account.statuses.get(key) or Status("done", 0.0)

    def _row(self, key: Key, status: Status) -> StatusRow:
        return StatusRow(self._loop.reconciler.name(key), status.state, status.since, status.attempts, status.message)


def answer(changes: Changes, reconciler: Reconciler) -> PlanAnswer:
    """Changes as what `weft plan` prints."""
    return PlanAnswer(
        changes=reconciler.lines(changes.ops),
        held=reconciler.lines(changes.held),
        conflicts=[f"{reconciler.name(key)}: {who}" for key, who in changes.conflicts.items()],
    )


def _peer(node: Node, voice: Voice) -> PeerRow:
    reach = voice.probed().get(node.id)
    return PeerRow(
        node=node.id,
        endpoints=[str(e) for e in node.endpoints],
        networks=[str(s) for n in node.networks for s in n.subnets],
        mac=mac_text(node.mac),
        vni=node.vni,
        mtu=node.mtu,
        source=node.source,
        version=node.version,
        last_seen=voice.last_seen().get(node.id, 0.0),
        routed=False,
        problems=[],
        way=voice.rules().get(node.id, ""),
        liveness=reach.state if reach is not None else "",
        full=reach.full if reach is not None else None,
    )


def _vxlan(link: Link, things: Sequence[Object]) -> VxlanRow:
    neighbours = {t.mac: str(t.address) for t in things if isinstance(t, Neighbour) and t.dev == link.name}
    entries = [
        EntryRow(mac_text(thing.mac), str(thing.dst), neighbours.get(thing.mac, ""))
        for thing in things
        if isinstance(thing, Fdb) and thing.dev == link.name
    ]
    return VxlanRow(
        device=link.name,
        vni=link.vxlan.vni,
        local=str(link.vxlan.local),
        port=link.vxlan.port,
        mac=mac_text(link.mac),
        mtu=link.mtu,
        learning=link.vxlan.learning,
        up=link.up,
        addresses=sorted(str(t.address) for t in things if isinstance(t, Address) and t.dev == link.name),
        entries=sorted(entries, key=lambda entry: (entry.dst, entry.mac)),
        routes=sum(isinstance(thing, Route) and thing.dev == link.name for thing in things),
    )


def _network(network: Network) -> NetworkRow:
    return NetworkRow(network.name, [str(s) for s in network.subnets], network.bridge, network.exposed, network.note)
