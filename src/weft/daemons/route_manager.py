"""`weft route-manager`: flannel's leases, and whoever else is in etcd → a cloud's route tables. Wiring; called by
`cli/route_manager.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path

from weft import __version__
from weft.agent.contender import Contender, contender_here
from weft.agent.cycles import Cycles
from weft.agent.election import LIFE, Election, Standing
from weft.agent.loop import Loop
from weft.agent.peer_events import PeerEvents
from weft.agent.reconcile import Reconciler
from weft.agent.route_log import RouteLog, Unheard
from weft.agent.route_manager import FLANNEL, ROLE, RouteWorld, Tables, Wishes
from weft.agent.route_sources import EtcdNodes, FlannelLeases, Leases, RegistrarNetworks
from weft.core.registry import Prefixes
from weft.core.table_routes_guard import parse_max_delete
from weft.daemons.process import run_until_signalled, spare_the_collector
from weft.daemons.route_manager_once import delete_all, once
from weft.daemons.serving import serve_health
from weft.errors import WeftError
from weft.model import Known, Node, Peer, View
from weft.settings.route_manager import RouteManagerSettings
from weft.stores import Store
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.targets.cloud import LOCAL, Contents, RouteTables
from weft.targets.cloud.plugins import open_tables
from weft.targets.cloud.target import CloudOptions, CloudTarget
from weft.web.api import Api
from weft.web.local import LocalServer
from weft.web.looping import Looping
from weft.web.pages import Pages
from weft.web.route_manager import Leadership, RoomRow, RouteManagerPages

log = logging.getLogger("weft")

REGISTRAR, AGENTS = "registrar", "agents"
ATTEMPTS = 3
"""What failed so many times, who is to end leaves undone."""
UNREACHABLE = 60.0
"""Seconds for which a leader's tables can't be read, before it lets others try."""


class RouteManager:
    """The parts, and how they hang together."""

    def __init__(self, settings: RouteManagerSettings, store: Store, tables: RouteTables, me: Contender) -> None:
        sources = {FLANNEL: True, REGISTRAR: settings.registrar_prefix, AGENTS: settings.agent_prefix}
        alone = settings.dry_run or settings.delete_all_routes or settings.backend in LOCAL
        self.settings = settings
        self.store = store
        self.tables = tables
        self.me = me
        self.key = f"{settings.etcd_prefix}/weft/route-manager/{settings.election_name or settings.backend}"
        """Of the election: one for each table."""
        self.election: Election | None = None
        if settings.leader_election and not alone:
            self.election = Election(store, self.key, me)
        self.target = CloudTarget(tables, CloudOptions.of(settings, self.leads, lambda: self.world.allowed))
        wishes = Wishes(
            f"{me.host} (pid {me.pid})",
            tuple(source for source, asked in sources.items() if asked),
            settings.allowed,
            settings.aggregate,
            parse_max_delete(settings.max_delete),
            settings.delete_all_routes,
            0.0 if settings.once or settings.dry_run else settings.grace,
        )
        held = Tables(
            lambda: tables.tables, lambda: self.target.contents, lambda: tables.room, time.monotonic, self.held
        )
        self.world = RouteWorld(wishes, held, self.leads)
        self.loop = Loop(self.world, Reconciler((self.target,)), settings.sync_interval, self._cycled)
        self.loop.aloud = False
        self.lines = RouteLog(tables.called)
        self.events = PeerEvents(Unheard())
        self.cycles = Cycles()
        self.looping = Looping(ROLE, self.loop, self.events, self.cycles)
        self.standing = Standing()
        self._stood_back = False
        self._was_read = False
        self.settled = False
        """`is_settled` at the end of the last cycle: in the middle of one, half of what it looks at is older."""
        self.stirred = asyncio.Event()
        """After each cycle: for who waits for an end."""

    def leads(self) -> bool:
        """Whether this manager may write now."""
        return self.election is None or self.election.leads()

    def start(self) -> None:
        """Follow the sources."""
        settings, grace = self.settings, self.settings.grace
        if self.election is not None:
            self.loop.follow("election", self.election.standings, self._keep_standing, last_restart=1.0)
        if settings.delete_all_routes:
            return
        leases = FlannelLeases(self.store, settings.etcd_prefix, grace)
        self.loop.follow(FLANNEL, leases.sets, self._keep_leases, last_restart=1.0)
        if settings.registrar_prefix:
            prefixes = Prefixes(settings.registrar_prefix, settings.etcd_prefix)
            networks = RegistrarNetworks(self.store, prefixes, grace)
            self.loop.follow(REGISTRAR, networks.sets, self._keep_registered, last_restart=1.0)
        if settings.agent_prefix:
            nodes = EtcdNodes(self.store, settings.agent_prefix, grace)
            self.loop.follow(AGENTS, nodes.sets, self._keep_nodes, last_restart=1.0)

    async def close(self) -> None:
        self.target.close()
        if self.election is not None:
            await self.election.resign()
        await self.tables.close()

    def is_settled(self) -> bool:
        """Nothing is left to be tried: it is done, or has failed often enough."""
        reconciler = self.loop.reconciler
        broken = reconciler.account.statuses.get(("target", self.target.name))
        if broken is not None:
            return min(broken.attempts, self.target.readings) >= ATTEMPTS
        if self.world.waiting() or self.loop.view is None or not self.loop.view.synced:
            return False
        if self.settings.dry_run:
            return True
        statuses = reconciler.account.statuses
        if reconciler.left or (self.world.unfinished and (reconciler.account.last.done or not statuses)):
            return False
        return all(status.attempts >= ATTEMPTS or status.state == "conflict" for status in statuses.values())

    @property
    def leader(self) -> str:
        """Another one's name, "" if there is none."""
        leader = self.standing.leader
        return leader.name if leader is not None and leader.instance != self.me.instance else ""

    def _keep_standing(self, standing: Standing) -> None:
        """Who was the one that writes, and can't ask etcd any more, writes nothing until it can: another may."""
        self.standing = standing
        frozen = "; nothing is written until then" * (bool(standing.problem) and not standing.leads)
        self.world.report("election", standing.problem + frozen)
        self.world.writes = self.leader
        if standing.leads or self.leader:
            self._stood_back = False
            self.world.report("cloud", "")

    def _keep_leases(self, leases: Leases) -> None:
        self.world.hear_leases(leases.known, leases.spans)
        self._heard()

    def _keep_registered(self, known: Known[Node]) -> None:
        self.world.hear(REGISTRAR, known)
        self._heard()

    def _keep_nodes(self, known: Known[Node]) -> None:
        self.world.hear(AGENTS, known)
        self._heard()

    def _heard(self) -> None:
        self.lines.heard(self.loop.reconciler.clock.now())
        known = self.world.peers
        self.events(tuple(Peer(node, 0.0) for node in known.items) if known is not None else ())

    def _cycled(self, view: View | None) -> None:
        """After each cycle: what was done, and whether another one follows."""
        reconciler = self.loop.reconciler
        going_on = self.world.unfinished and bool(reconciler.account.last.done)
        if view is not None and self.target.contents is not None:
            self._was_read = True
            self._say(bool(reconciler.left) or going_on)
        if not self._was_read:  # there was a View that asks for nothing
            self.loop.ready.clear()
        if view is not None and going_on:
            self.loop.wake()
        self._let_others_try()
        self.cycles.observe(self.loop)
        self.settled = self.is_settled()
        self.stirred.set()

    def _let_others_try(self) -> None:
        """Who alone can't reach the provider (its credentials, its cable) is to lead no longer than need be."""
        reconciler = self.loop.reconciler
        status = reconciler.account.statuses.get(("target", self.target.name))
        if self.election is None or status is None or not self.leads() or self._stood_back:
            return
        if reconciler.clock.wall() - status.since >= UNREACHABLE:
            self._stood_back = True
            self.world.report("cloud", f"{status.message}; another manager may try, if there is one")
            self.election.stand_back(2 * LIFE)

    def _say(self, unfinished: bool) -> None:
        if self.settings.delete_all_routes:
            self.lines.deleted(self.loop.reconciler)
        elif not self.settings.dry_run:
            self.lines.cycled(self.loop.reconciler, unfinished)

    # What is asked over HTTP.

    def rooms(self) -> list[RoomRow]:
        """Quotas, as they were read last."""
        return [RoomRow(table, room.what, room.limit, room.free) for table, room in self.tables.room.items()]

    def held(self) -> Contents | None:
        """What the tables held when they were read last; None: another manager knows better."""
        return self.target.last if not self.leader else None

    def leadership(self) -> Leadership:
        """Who writes."""
        return Leadership(self.leads(), self.world.name if self.leads() else self.leader, self.election is not None)


async def run(settings: RouteManagerSettings) -> int:
    """Run until SIGTERM or SIGINT, or until what was asked for is done (exit code 1: not all of it); routes stay.
    Raises WeftError if it can't start."""
    spare_the_collector()
    async with AsyncExitStack() as closing:
        store = EtcdStore(_etcd(settings))
        closing.push_async_callback(store.close)
        manager = RouteManager(settings, store, open_tables(settings), contender_here())
        closing.push_async_callback(manager.close)
        if settings.delete_all_routes:
            return await delete_all(manager)
        if settings.dry_run or settings.once:
            return await once(manager)
        log.info("starting fleet route manager...")
        log.info("weft %s, %s; etcd %s%s", __version__, settings.backend, settings.etcd_endpoint, settings.etcd_prefix)
        await _serve(manager, closing)
        manager.start()
        await run_until_signalled(manager.loop)
    log.info("stopped; routes stay, `weft route-manager -delete-all-routes` deletes them")
    return 0


async def _serve(manager: RouteManager, closing: AsyncExitStack) -> None:
    """`weft show` and /health: routes are kept without them, too."""
    settings = manager.settings
    server = LocalServer(Api(manager.loop, manager.world, lambda: not manager.leads()), Path(settings.socket))
    try:
        await server.start()
    except WeftError as error:
        log.warning("%s; `weft show` has no answer (-socket names another place)", error)
    else:
        closing.push_async_callback(server.stop)
    pages = RouteManagerPages(manager.looping, manager.tables, manager.rooms, manager.leadership, manager.held)
    place = (settings.health_ip, settings.health_port)
    await serve_health(closing, place, Pages(ROLE, pages.page, pages.metrics), manager.loop, "-health-port")


def _etcd(settings: RouteManagerSettings) -> EtcdOptions:
    return EtcdOptions(
        endpoints=(settings.etcd_endpoint,),
        cafile=settings.etcd_cafile,
        certfile=settings.etcd_certfile,
        keyfile=settings.etcd_keyfile,
        username=settings.etcd_username,
        password=settings.etcd_password,
    )
