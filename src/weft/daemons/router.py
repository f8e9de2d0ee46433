"""`weft router`: discovery.json and routing.yaml → kernel, firewall and routes.json, with NET_ADMIN alone.

Wiring; called by `cli/router.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from weft import __version__
from weft.agent.chronicle import Chronicle
from weft.agent.cycles import Cycles
from weft.agent.journal import Journal, Scribe
from weft.agent.loop import Loop
from weft.agent.peer_events import PeerEvents
from weft.agent.reconcile import Reconciler
from weft.agent.router import RouterWorld, Wishes
from weft.agent.routing_file import RoutingFile
from weft.agent.stacks import identity_of
from weft.backends.tunnel import device_of
from weft.core.stacks import Options
from weft.daemons import telemetry
from weft.daemons.confinement import confine, legacy_rules
from weft.daemons.privileges import drop
from weft.daemons.process import run_until_signalled, spare_the_collector
from weft.daemons.serving import serve_health
from weft.daemons.vnis import ROLE, Vnis, claim_name
from weft.discovery.file import DiscoveryFile
from weft.errors import WeftError
from weft.model import DiscoveryData, Host, Mac, Reach, View
from weft.settings.router import RouterSettings
from weft.targets.files import FileTarget
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.host import HostFacts
from weft.targets.kernel.statistics import Statistics
from weft.targets.kernel.target import KernelTarget
from weft.telemetry.sender import Telemetry
from weft.web.api import Api
from weft.web.local import LocalServer
from weft.web.looping import Looping
from weft.web.pages import Pages
from weft.web.router import RouterPages
from weft.wire.discovery_data import FILE
from weft.wire.routing import StackConfig

log = logging.getLogger("weft")

ROUTES = "routes.json"


class RouterDaemon:
    """The parts, and how they hang together. `routes_file`: where routes.json goes."""

    def __init__(
        self,
        settings: RouterSettings,
        stacks: tuple[StackConfig, ...],
        routes_file: Path,
        tracer: Telemetry | None = None,
    ) -> None:
        name = name_of(settings, stacks)
        self.settings = settings
        self.scribe = Scribe()
        self.journal = Journal(Path(settings.run_dir), self.scribe)
        self.chronicle = Chronicle(self.journal)
        self.events = PeerEvents(self.journal)
        self.cycles = Cycles(tracer)
        self.routing = RoutingFile(settings)
        self.file = DiscoveryFile(str(settings.data / FILE), settings.watch_discovery, settings.route_refresh_interval)
        self.kernel = KernelTarget(f"weft:{ROLE}:{name}")
        self.firewall = FirewallTarget(owns=self._owns)
        self.vnis = Vnis()
        self._devices: dict[str, Mac] = {}
        self._said: DiscoveryData | None = None
        self._left_out: Mapping[int, str] = {}
        self.world = RouterWorld(
            _wishes(settings, name, routes_file),
            stacks=stacks,
            chains=lambda: self.firewall.chains,
            refused=lambda: self.firewall.refused,
        )
        targets = (self.kernel, self.firewall, FileTarget((str(routes_file),)))
        reconciler, often = Reconciler(targets), settings.route_refresh_interval
        self.loop = Loop(self.world, reconciler, often, self._cycled, for_files=False)  # packets need no routes.json
        self.looping = Looping(ROLE, self.loop, self.events, self.cycles, tracer)
        self.statistics = Statistics()

    def claim(self) -> None:
        """Raises WeftError if another router looks after one of the VNIs."""
        for why in self._hold(self.world.stacks or ()).values():
            raise WeftError(why)

    def start(self) -> None:
        """Follow the sources."""
        self.loop.follow("host", HostFacts().hosts, self._keep_host)
        self.loop.follow("routing.yaml", self.routing.contents, self._keep_stacks)
        self.loop.follow("discovery.json", self.file.contents, self._keep_data)

    async def close(self) -> None:
        for target in self.loop.reconciler.targets:
            target.close()
        self.statistics.close()
        self.scribe.close()
        self.vnis.close()

    def _keep_host(self, host: Host) -> None:
        self.world.host = host

    def _keep_stacks(self, stacks: tuple[StackConfig, ...]) -> None:
        self._left_out = self._hold(stacks)
        kept = tuple(stack for stack in stacks if stack.vni not in self._left_out)
        self.world.stacks = kept if self._left_out else stacks
        self.world.report("routing.yaml", self.routing.problem)
        self.world.report("vni", "; ".join(self._left_out.values()))

    def _hold(self, stacks: tuple[StackConfig, ...]) -> Mapping[int, str]:
        """Look after the VNIs of these stacks; which can't be had, and why."""
        refused = self.vnis.hold(stack.vni for stack in stacks if stack.vni)
        self.kernel.expect(self._devices, self.vnis.devices)
        return refused

    def _keep_data(self, data: DiscoveryData) -> None:
        self.world.report("discovery.json", self.file.problem)
        if data is not self._said:
            self._said = data
            self.events(self.world.hear(data))
            self.cycles.event("discovery.json", time.time(), {"peers": len(data.peers), "made": data.last_update})

    def _owns(self, label: str) -> bool:
        """Chains of a device that is somebody else's are his."""
        return label in self.kernel.devices or (label in self._devices and not self.kernel.taken(label))

    def _cycled(self, view: View | None) -> None:
        """After each cycle: what is expected to be ours, and what was done."""
        if view is not None:
            self._devices = {device_of(overlay): overlay.me.mac for overlay in (view, *view.beside)}
            self.kernel.expect(self._devices, self.vnis.devices)
        if self._left_out:
            before = self._left_out
            self._keep_stacks(self.routing.stacks)
            if self._left_out != before:
                self.loop.wake()
        self.world.report("firewall", self.firewall.problem)
        self.world.report("disk", self.scribe.problem)
        self.chronicle.work(self.loop.reconciler)
        self.cycles.observe(self.loop)

    # What is asked over HTTP.

    def last_seen(self) -> dict[str, float]:
        """Peer → when discovery last heard it (seconds since 1970)."""
        return {peer.node.id: peer.last_seen for peer in self.world.data.peers} if self.world.data else {}

    def counters(self) -> dict[str, int]:
        """None: a router talks to nobody."""
        return {}

    def within(self) -> dict[str, str]:
        """Peer → the node that it is part of: stacks of one host and VNI are one."""
        return {fate.peer.node.id: fate.node for fate in self.world.fates() if fate.node}

    def rules(self) -> dict[str, str]:
        """What became of each peer, where that is not what it announced."""
        return {fate.peer.node.id: fate.reason for fate in self.world.fates() if fate.reason}

    def probed(self) -> dict[str, Reach]:
        """None: nobody is probed."""
        return {}


async def run(settings: RouterSettings) -> int:
    """Run until SIGTERM or SIGINT; what was set up stays. Raises WeftError if it can't start."""
    spare_the_collector()
    stacks = RoutingFile(settings).read()
    async with AsyncExitStack() as closing:
        traces, said = telemetry.start(os.environ, f"weft-{ROLE}")
        given_up = list(said)
        if traces is not None:
            closing.callback(traces.close)
        if settings.privileges == "drop":
            given_up.extend(drop(frozenset({"NET_ADMIN"})))
        daemon = RouterDaemon(settings, stacks, _routes_file(settings), traces.telemetry if traces else None)
        closing.push_async_callback(daemon.close)
        daemon.claim()
        closing.enter_context(claim_name(name_of(settings, stacks)))
        server = LocalServer(Api(daemon.loop, daemon), Path(settings.weft_socket))
        await server.start()
        closing.push_async_callback(server.stop)
        pages = RouterPages(daemon.looping, daemon.world, daemon.statistics.of)
        answers = Pages(ROLE, pages.page, pages.metrics)
        await serve_health(closing, (settings.health_ip, settings.health_port), answers, daemon.loop)
        if settings.privileges == "drop":
            given_up.extend((*legacy_rules(), *confine()))
        for problem in given_up:
            daemon.world.report(problem.subject, problem.message)
        names = ", ".join(f"{stack.stack_id} (VNI {stack.vni})" for stack in stacks)
        log.info("weft %s router of %s; reading %s", __version__, names, settings.data)
        daemon.start()
        await run_until_signalled(daemon.loop)
    log.info("stopped; tunnels and routes stay up, `weft cleanup` removes them")
    return 0


def name_of(settings: RouterSettings, stacks: tuple[StackConfig, ...]) -> str:
    """What is on this router's devices. Of several stacks the first one's, so that it stays the same when others come
    and go, and no other router of this host has it."""
    return settings.peer_id or stacks[0].stack_id


def _wishes(settings: RouterSettings, mark: str, routes_file: Path) -> Wishes:
    identity = identity_of(settings, None, __version__, ROLE)
    options = Options(
        settings.allowed,
        settings.dynamic_routes,
        settings.max_networks,
        settings.multipath,
        settings.vxlan_fdb == "flood",
    )
    return Wishes(identity, mark, options, str(routes_file), settings.metric)


def _routes_file(settings: RouterSettings) -> Path:
    """Into the shared folder, where that can be written: the document's own Compose file mounts it read-only."""
    if os.access(settings.data, os.W_OK, effective_ids=True):
        return settings.data / ROUTES
    path = Path(settings.run_dir) / ROUTES
    log.info("%s can't be written: %s is written instead", settings.data, path)
    return path
