"""`weft registrar`: Docker networks and etcd → etcd, kernel and firewall, beside flannel or alone. Wiring; called by
`cli/registrar.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from weft import __version__
from weft.agent.attempts import FILE, Attempts
from weft.agent.chronicle import Chronicle
from weft.agent.healing import Healer, Means
from weft.agent.journal import HealthFile, HealthFileOptions, Journal, Scribe
from weft.agent.liveness import Liveness, LivenessOptions
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.registrar import Reaches, RegistrarWorld, Wishes
from weft.agent.registration import Registration, RegistrationOptions, init_config
from weft.agent.telling import Teller
from weft.agent.tending import Tending
from weft.agent.vitals import Pulse
from weft.backends.tunnel import device_name, vtep_mac
from weft.core.health import Container, judge
from weft.core.ladder import LadderOptions
from weft.core.registrar import ROLE, Options
from weft.core.registry import Prefixes, Registry
from weft.core.ruleset import SHARED
from weft.daemons.process import claim, log_to_stderr, run_until_signalled, spare_the_collector
from weft.engines import ENGINES
from weft.engines.containers import Containers
from weft.errors import WeftError
from weft.model import Host, IPAddress, Known, Network, Problem, Reach, View
from weft.settings.gateways import parse_extra_routes, parse_gateway_map
from weft.settings.registrar import RegistrarSettings, bfd_key
from weft.stores import Store
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.host import HostFacts
from weft.targets.kernel.target import KernelTarget
from weft.targets.kernel.ways import Directions, Ways
from weft.web.api import Api
from weft.web.health import HealthServer, Pages
from weft.web.local import LocalServer
from weft.web.registrar import RegistrarPages

log = logging.getLogger("weft")

AFTER_A_FAULT = 10.0
"""Seconds."""


class Registrar:
    """The parts, and how they hang together. `etcd`: the addresses of etcd's members."""

    def __init__(self, settings: RegistrarSettings, store: Store, etcd: tuple[IPAddress, ...]) -> None:
        name = settings.name
        self.settings = settings
        prefixes = Prefixes(settings.flannel_config_prefix, settings.flannel_prefix)
        self.registration = Registration(store, RegistrationOptions(prefixes, settings.interval))
        self.teller = Teller(self.registration.tell)
        self.engine = ENGINES[settings.engine](settings.of_the_engine)
        self.containers = Containers(settings.flannel_container_name, settings.of_the_engine.docker_host)
        device = device_name(settings.weft_vni)
        mac = vtep_mac(name, settings.weft_vni)
        self.kernel = KernelTarget(f"weft:{ROLE}:{name}", mac, device=device)
        self.firewall = FirewallTarget(
            owns=lambda label: label.startswith(SHARED) or label == device or label in self.kernel.devices
        )
        self.ways = Ways()
        self.liveness = Liveness(LivenessOptions(settings.bfd_packets, bfd_key(settings)))
        self.world = RegistrarWorld(
            _wishes(settings, etcd),
            clock=time.monotonic,
            chains=lambda: self.firewall.chains,
            refused=lambda: self.firewall.refused,
            standing=lambda: self.loop.reconciler.actual(),
        )
        self.loop = Loop(self.world, Reconciler((self.kernel, self.firewall)), settings.interval, self._cycled)
        self.scribe = Scribe()
        self.journal = Journal(Path(settings.run_dir), self.scribe)
        self.chronicle = Chronicle(self.journal)
        every = min(settings.interval, settings.monitoring_interval)
        self.health = HealthFile(HealthFileOptions(Path(settings.run_dir), name, every), self.scribe, self.journal)
        self.settled = asyncio.Event()
        """A plan was carried out, and etcd has what this host wants to have there."""
        self.pulse = Pulse(self.loop, settings.interval, self.settled)
        means = Means(settings.docker_host, settings.flannel_container_name, settings.restart_flannel)
        healer = Healer(means, Attempts(Path(settings.run_dir) / FILE))
        ladder = LadderOptions(settings.cycle_interface, means.words)
        self.tending = Tending(self.world, healer, ladder, self.journal, self._is_pending)
        self._again: asyncio.TimerHandle | None = None
        self._probing = True

    def start(self, probing: bool = True) -> None:
        """Follow the sources."""
        follow = self.loop.follow
        follow("host", HostFacts().hosts, self._keep_host)
        follow("engine", self.engine.networks, self._keep_engine)
        follow("etcd", self.registration.registries, self._keep_registry, last_restart=1.0, in_bursts=True)
        follow("ways", self.ways.directions, self._keep_ways)
        if self.settings.engine == "docker":
            follow("container", self.containers.containers, self._keep_container)
        self._probing = probing
        if probing:
            follow("liveness", self.liveness.reaches, self._keep_reaches, in_bursts=True)

    async def close(self) -> None:
        self.teller.close()
        await self.liveness.close()
        await self.registration.close()
        await self.containers.close()
        await self.engine.close()
        for target in self.loop.reconciler.targets:
            target.close()
        self.scribe.close()

    def _keep_host(self, host: Host) -> None:
        self.world.host = host

    def _keep_engine(self, known: Known[Network]) -> None:
        self.world.engine = known

    def _keep_registry(self, registry: Registry) -> None:
        self.world.registry = registry

    def _keep_ways(self, directions: Directions) -> None:
        self.world.ways, self.world.answered = directions, self.ways.answered

    def _keep_reaches(self, reaches: Reaches) -> None:
        self.chronicle.reaches(reaches)
        before, self.world.reaches = self.world.reaches, reaches
        if any(reach.state == "down" and before.get(path) != reach for path, reach in reaches.items()):
            self.loop.wake()  # packets are being lost

    def _keep_container(self, container: Container) -> None:
        self.chronicle.container(container)
        self.pulse.container = self.tending.container = container

    def _cycled(self, view: View | None) -> None:
        """After each cycle: tell the others what changed in it, probe who is known, note what was done."""
        announcement = self.world.announcement()
        if announcement is not None:
            self.teller.tell(announcement)
        if self._probing:
            self.liveness.probe(self.world.paths())
        self.ways.ask(self.world.asked())
        self.world.report("firewall", self.firewall.problem)
        self.world.report("disk", self.scribe.problem)
        self.chronicle.courses(self.world.chart.courses)
        self.chronicle.work(self.loop.reconciler)
        self._come_again(view)
        if self.loop.ready.is_set() and self.world.is_registered():
            self.settled.set()
        self.health.wake()

    def _is_pending(self) -> bool:
        """What another has, and kernel settings that a container may not write, stay so: nothing waits for them."""
        statuses = self.loop.reconciler.account.statuses.items()
        open_ = (key for key, status in statuses if status.state != "conflict" and key[0] != "sysctl")
        return not self.loop.ready.is_set() or next(open_, None) is not None

    def _come_again(self, view: View | None) -> None:
        """When a course is to be looked at again although nothing happens; without a View there is no new chart, and
        the old one's date has passed for good."""
        if self._again is not None:
            self._again.cancel()
        again = self.world.chart.again
        if again is not None and view is not None:
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(max(again - self.world.clock(), 0.01), self.loop.wake)

    # What is asked over HTTP.

    def last_seen(self) -> dict[str, float]:
        """Host → when it last said that it is there (seconds since 1970)."""
        return {name: float(at) for name, at in self.registration.last_seen().items()}

    def counters(self) -> dict[str, int]:
        """Liveness packets, by what became of them."""
        return dict(self.liveness.counters())

    def within(self) -> dict[str, str]:
        """None: every node is planned under its own name."""
        return {}

    def rules(self) -> dict[str, str]:
        """By node, the rule that decided by which way it is reached."""
        return dict(self.world.rules())

    def probed(self) -> dict[str, Reach]:
        """By node, what probing the tunnel to it came to."""
        return {reach.path.node: reach for reach in self.world.reaches.values() if reach.path.kind == "tunnel"}

    def unready(self) -> str:
        """Why nothing can be relied on yet, "" once the first plan was carried out."""
        return "" if self.loop.ready.is_set() else "waiting for " + ", ".join(self.world.waiting() or ["the kernel"])


def set_up_log(settings: RegistrarSettings) -> None:
    """DEBUG=true logs everything."""
    log_to_stderr("debug" if settings.debug else "info")


async def run(settings: RegistrarSettings, once: float | None = None) -> int:
    """Run until SIGTERM or SIGINT; what was set up stays. `once`: register, carry out one plan and end, within so many
    seconds; 1 if that didn't come to pass. Raises WeftError if it can't start."""
    spare_the_collector()
    async with AsyncExitStack() as stack:
        stack.enter_context(claim(ROLE))
        store = EtcdStore(etcd_options(settings))
        stack.push_async_callback(store.close)
        daemon = Registrar(settings, store, await _addresses(settings))
        stack.push_async_callback(daemon.close)
        log.info("weft %s registrar, host %s; etcd %s", __version__, settings.name, settings.etcd_endpoints)
        if once is not None:
            return await _once(daemon, once)
        server = LocalServer(Api(daemon.loop, daemon), Path(settings.weft_socket))
        await server.start()
        stack.push_async_callback(server.stop)
        if settings.health_port:
            answers = RegistrarPages(
                settings.name, daemon.pulse, daemon.health, daemon.journal, daemon.chronicle, daemon.liveness
            )
            pages = Pages(ROLE, answers.page, answers.metrics)
            health = HealthServer(str(settings.health_ip), settings.health_port, daemon.unready, pages)
            try:
                await health.start()
            except WeftError as error:  # flannel-registrar had no such port: who only changes the image must not fail
                daemon.world.report("health", f"{error}; set HEALTH_PORT to a free one, or to 0")
            else:
                stack.push_async_callback(health.stop)
        judging = _going_on("health", lambda: daemon.health.run(lambda: judge(daemon.pulse.vitals())))
        for work in (judging, _going_on("ladder", daemon.tending.run)):
            stack.callback(asyncio.ensure_future(work).cancel)
        daemon.start()
        await run_until_signalled(daemon.loop)
    log.info("stopped; routes stay, registrations for %d s; `weft cleanup` removes them", settings.lease_seconds)
    return 0


async def _going_on(name: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Work that has no end; a fault in it is told, and it is begun anew."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s: a fault in weft itself; please report it", name)
        await asyncio.sleep(AFTER_A_FAULT)


async def _once(daemon: Registrar, seconds: float) -> int:
    """Until this host stands in etcd as it is, and one plan was carried out."""
    daemon.start(probing=False)
    running = asyncio.ensure_future(daemon.loop.run())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await daemon.settled.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    problems = [problem for problem in daemon.world.problems() if problem.wrong]
    failed = daemon.loop.reconciler.account.statuses
    if daemon.settled.is_set():
        return int(bool(failed))
    reasons = [p.message for p in problems] or [f"waited for {', '.join(daemon.world.waiting()) or 'etcd'} in vain"]
    log.error("not done within %g s: %s", seconds, "; ".join(reasons))
    return 1


async def write_config(settings: RegistrarSettings, text: str) -> str:
    """Write flannel's network config, if there is none. Raises StoreError, and WeftError if there is one."""
    store = EtcdStore(etcd_options(settings))
    try:
        return await init_config(store, settings.flannel_prefix, text)
    finally:
        await store.close()


def _wishes(settings: RegistrarSettings, etcd: tuple[IPAddress, ...]) -> Wishes:
    entries, bad = parse_gateway_map(settings.host_gateway_map)
    extra, worse = parse_extra_routes(settings.flannel_routes_extra)
    options = Options(settings.name, settings.weft_vni, settings.flannel_mtu, __version__, settings.groups)
    return Wishes(
        options,
        address=settings.flanneld_public_ip,
        etcd=etcd,
        allowed=settings.allowed,
        entries=entries,
        mode=settings.host_gateway_mode,
        extra=extra,
        remarks=tuple(Problem("settings", p.message) for p in (*bad, *worse)),
    )


async def _addresses(settings: RegistrarSettings) -> tuple[IPAddress, ...]:
    """Of etcd's members; a name that can't be looked up has none, and one on this host's loopback tells nothing."""
    found: list[IPAddress] = []
    for endpoint in settings.endpoints:
        name = urlsplit(endpoint).hostname or ""
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            try:
                found.append(ip_address(name))
            except ValueError:
                async with asyncio.timeout(settings.etcd_timeout):
                    answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
                found.extend(ip_address(answer[4][0]) for answer in answers)
    return tuple(address for address in dict.fromkeys(found) if not address.is_loopback)


def etcd_options(settings: RegistrarSettings) -> EtcdOptions:
    """How etcd is asked."""
    return EtcdOptions(
        endpoints=settings.endpoints,
        cafile=settings.etcd_cafile,
        certfile=settings.etcd_certfile,
        keyfile=settings.etcd_keyfile,
        username=settings.etcd_username,
        password=settings.etcd_password,
        timeout=settings.etcd_timeout,
    )
