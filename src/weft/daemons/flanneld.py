"""`weft flanneld`: flannel's leases in etcd → kernel, firewall, subnet.env. Wiring; called by `cli/flanneld.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

from weft import __version__
from weft.agent.flannel import FlannelWorld
from weft.agent.leases import Keeper, KeeperOptions
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.core.flannel import ROLE, Options, Version, inside
from weft.core.interface import Choice
from weft.core.tenancy import Tenancy
from weft.daemons.backends import Prepared, prepare
from weft.daemons.process import claim, claim_file, log_to_stderr, run_until_signalled, spare_the_collector
from weft.errors import SettingsError, WireError
from weft.model import Host, IPNetwork, View
from weft.settings.flanneld import FlanneldSettings
from weft.stores import Store
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.targets.files import FileTarget
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.host import HostFacts
from weft.targets.kernel.target import KernelTarget
from weft.targets.kernel.ways import Directions, Ways, way_to
from weft.web.api import Api
from weft.web.health import HealthServer
from weft.web.local import LocalServer
from weft.wire.flannel import BackendData, Config
from weft.wire.flannel_config import parse_config
from weft.wire.subnet_env import SubnetEnv, parse_subnet_env

log = logging.getLogger("weft")

INTERVAL = 30.0
"""Seconds between full comparisons, or more if -iptables-resync says so; what changes is noticed at once anyway."""


class Flanneld:
    """The parts, and how they hang together. `reached_by`: the interface that `-iface-can-reach` came to."""

    def __init__(self, settings: FlanneldSettings, store: Store, reached_by: str | None) -> None:
        margin = settings.subnet_lease_renew_margin * 60.0
        self.keeper = Keeper(store, KeeperOptions(settings.etcd_prefix, margin, _config_of(settings)))
        host = socket.gethostname()
        owner = f"weft:{ROLE}:{settings.etcd_prefix}:{host}"
        self.kernel = KernelTarget(owner)
        self._shared: tuple[tuple[IPNetwork, ...], bool] = ((), False)
        self.firewall = FirewallTarget(owns=self._owns)
        self.ways = Ways()
        self._owner = owner
        self._configured = asyncio.Event()
        self._backend: Prepared | None = None
        self.settings = settings
        self.world = FlannelWorld(
            options=Options(
                prefix=settings.etcd_prefix,
                host=host,
                metric=settings.metric,
                forward=settings.iptables_forward_rules,
                masquerade=settings.ip_masq,
                subnet_file=settings.subnet_file,
            ),
            choice=lambda versions: _choice(settings, versions, reached_by),
            published=self.keeper.existing,
            previous=_previous(settings),
            chains=lambda: self.firewall.chains,
            refused=lambda: self.firewall.refused,
        )
        targets = (self.kernel, self.firewall, FileTarget((settings.subnet_file,)))
        self.loop = Loop(self.world, Reconciler(targets), max(INTERVAL, settings.iptables_resync), self._cycled)

    def start(self) -> None:
        """Follow the sources."""
        self.loop.follow("host", HostFacts().hosts, self._keep_host)
        self.loop.follow("backend", self._prepared, self._keep_prepared)
        self.loop.follow("etcd", self.keeper.tenancies, self._keep_tenancy, last_restart=1.0)
        self.loop.follow("ways", self.ways.directions, self._keep_directions)

    def unready(self) -> str:
        """Why nothing can be relied on yet, "" once the first plan was carried out."""
        return "" if self.loop.ready.is_set() else "waiting for " + ", ".join(self.world.waiting() or ["the kernel"])

    async def close(self) -> None:
        await self.keeper.close()
        for target in self.loop.reconciler.targets:
            target.close()

    async def _prepared(self) -> AsyncIterator[BackendData | None]:
        """What the backend needs before there can be a lease: once, when the config is known. If what is to be done
        after the first plan fails, that alone is tried again."""
        await self._configured.wait()
        config = self.world.config
        if config is not None and self._backend is None:
            self._backend = await prepare(config, self._owner, self.settings.extension_shell)
            self.world.former = frozenset(self._backend.former)
            if self._backend.target is not None:
                self.loop.join(self._backend.target)
            yield self._backend.data
        if self._backend is not None and self._backend.after is not None:
            await self.loop.ready.wait()
            await self._backend.after(self.world.tenancy)
            yield self._backend.data
        await asyncio.Event().wait()

    def _keep_prepared(self, data: BackendData | None) -> None:
        self.world.prepared = data

    def _share(self, spans: tuple[IPNetwork, ...]) -> None:
        """Routes of ours out of others' links are those into the networks that the leases are taken from; flannel's own
        are those that lead to a lease by its public address: looked for again once all leases are known."""
        tenancy = self.world.tenancy
        sought = tenancy is not None and tenancy.complete and bool(self.world.asked())
        if (spans, sought) != self._shared:
            self._shared = spans, sought
            self.kernel.share(
                lambda subnet: any(inside(subnet, span) for span in spans),
                lambda route: self.world.is_lease(route.dst, route.via),
            )

    def _owns(self, label: str) -> bool:
        """Whether chains with this in their names are ours: they go with the device, where there is one."""
        if label in self.world.devices() and self.kernel.taken(label):
            return False
        return label in self.world.labels() or label in self.kernel.devices

    def _keep_host(self, host: Host) -> None:
        self.world.host = host

    def _keep_tenancy(self, tenancy: Tenancy) -> None:
        self.world.tenancy = tenancy

    def _keep_directions(self, directions: Directions) -> None:
        self.world.answered = self.ways.answered
        self.world.direct = {address: way.dev for address, way in directions.items() if way.gateway is None}

    def _cycled(self, view: View | None) -> None:
        """After each cycle: the lease is to say what this host is now."""
        if self.world.config is not None:
            self._configured.set()
        candidate = self.world.candidate()
        if candidate is not None:
            self._share(self.world.spans())
            self.kernel.expect(self.world.devices())
            self.keeper.tell(candidate)
        self.ways.ask(self.world.asked())
        self.world.report("firewall", self.firewall.problem)


async def run(settings: FlanneldSettings) -> int:
    """Run until SIGTERM or SIGINT, or until another daemon turns out to have this host's public address (exit code 1);
    what was set up in the kernel stays. Raises WeftError if it can't start."""
    log_to_stderr(settings.log_level)
    spare_the_collector()
    async with AsyncExitStack() as stack:
        stack.enter_context(claim(f"{ROLE}{settings.etcd_prefix}"))
        stack.enter_context(claim_file(settings.subnet_file))
        store = EtcdStore(_etcd(settings))
        stack.push_async_callback(store.close)
        daemon = Flanneld(settings, store, await _reached_by(settings))
        stack.push_async_callback(daemon.close)
        server = LocalServer(Api(daemon.loop, daemon.world), Path(settings.socket))
        await server.start()
        stack.push_async_callback(server.stop)
        if settings.healthz_port:
            health = HealthServer(settings.healthz_ip, settings.healthz_port, daemon.unready)
            await health.start()
            stack.push_async_callback(health.stop)
        log.info("weft %s flanneld on %s%s", __version__, settings.etcd_endpoints, settings.etcd_prefix)
        if settings.ip_blackhole_route:
            log.warning("-ip-blackhole-route has no effect: weft sets no such route")
        daemon.start()
        second = await _until_signalled_or_second(daemon)
    if second:
        log.error("%s", second)
        return 1
    log.info("stopped; tunnels and routes stay up, `weft cleanup` removes them")
    return 0


async def _until_signalled_or_second(daemon: Flanneld) -> str:
    """Why another daemon must go on in this one's place; "" after a signal."""
    running = asyncio.ensure_future(run_until_signalled(daemon.loop, ready_when_done=True))
    stopped = asyncio.ensure_future(daemon.keeper.stopped())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        stopped.cancel()
        running.result()
        return ""
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return stopped.result()


def _etcd(settings: FlanneldSettings) -> EtcdOptions:
    return EtcdOptions(
        endpoints=(settings.etcd_endpoints,),
        cafile=settings.etcd_cafile,
        certfile=settings.etcd_certfile,
        keyfile=settings.etcd_keyfile,
        username=settings.etcd_username,
        password=settings.etcd_password,
    )


def _choice(settings: FlanneldSettings, versions: tuple[Version, ...], reached_by: str | None) -> Choice:
    return Choice(
        names=settings.iface,
        patterns=settings.iface_regex,
        reached_by=reached_by,
        public_ip=settings.public_ip,
        public_ip6=settings.public_ipv6,
        versions=versions,
    )


async def _reached_by(settings: FlanneldSettings) -> str | None:
    """The interface by which the address of -iface-can-reach is reached, "" for none, None if it wasn't asked for."""
    if not settings.iface_can_reach:
        return None
    try:
        way = await way_to(ip_address(settings.iface_can_reach))
    except ValueError as error:
        raise SettingsError(f"-iface-can-reach = {settings.iface_can_reach!r}: {error}") from error
    return way.dev if way is not None else ""


def _config_of(settings: FlanneldSettings) -> Config | None:
    """The network config of -net-config-path, None if it is etcd's. Raises SettingsError."""
    if not settings.net_config_path:
        return None
    try:
        return parse_config(Path(settings.net_config_path).read_bytes())
    except (OSError, WireError) as error:
        raise SettingsError(f"-net-config-path = {settings.net_config_path!r} can't be used: {error}") from error


def _previous(settings: FlanneldSettings) -> SubnetEnv:
    """What a former run wrote into subnet.env: this host had that subnet."""
    try:
        return parse_subnet_env(Path(settings.subnet_file).read_bytes())
    except OSError:
        return SubnetEnv()
