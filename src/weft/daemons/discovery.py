"""`weft discovery`: any discovery → discovery.json, with no privilege at all. Wiring; called by `cli/discovery.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address

from weft import __version__
from weft.agent.announcer import Announcer
from weft.agent.cycles import Cycles
from weft.agent.discovering import REFRESH, ROLE, Clocks, DiscoveryWorld, Member
from weft.agent.folder import FolderClaim
from weft.agent.journal import Journal, Scribe
from weft.agent.loop import Loop
from weft.agent.peer_events import Aloud, PeerEvents
from weft.agent.reconcile import Reconciler
from weft.agent.routing_file import RoutingFile
from weft.agent.stacks import common_vni, identity_of, static_peers
from weft.core.identity import Self
from weft.daemons import telemetry
from weft.daemons.privileges import drop, forbid_dumps
from weft.daemons.process import run_until_signalled, spare_the_collector
from weft.daemons.serving import serve_health
from weft.discovery import DISCOVERIES, Discovery, Place
from weft.discovery.options import NO_KEY_WARNING, OPEN
from weft.errors import DiscoveryError
from weft.model import Host, Known, Node, View
from weft.settings.discovery import DiscoverySettings, shared_key
from weft.settings.means import Means
from weft.targets.files import FileTarget
from weft.targets.kernel.host import HostFacts
from weft.telemetry.sender import Telemetry
from weft.web.discovery import DiscoveryPages
from weft.web.looping import Looping
from weft.web.pages import Pages
from weft.wire.discovery_data import FILE
from weft.wire.routing import StackConfig

log = logging.getLogger("weft")

LOCK = "discovery.lock"


class DiscoveryDaemon:
    """The parts, and how they hang together. `stacks`: of this host, at the start."""

    def __init__(
        self, settings: DiscoverySettings, stacks: tuple[StackConfig, ...], tracer: Telemetry | None = None
    ) -> None:
        self.settings = settings
        self._means = settings.means
        self._static = static_peers(settings.static_peers, settings.vxlan_port, common_vni(stacks))
        self._instance = secrets.token_hex(8)
        self.scribe = Scribe("DATA_DIR", 0o640)
        self.journal = Journal(settings.data, self.scribe)
        self.events = PeerEvents(Aloud(self.journal), self._departed)
        self.cycles = Cycles(tracer)
        self.routing = RoutingFile(settings)
        self.world = DiscoveryWorld(
            name=",".join(stack.stack_id for stack in stacks),
            mode=settings.discovery_mode,
            folder=settings.data,
            timeout=settings.peer_timeout,
            members={stack.stack_id: self._member(number, stack) for number, stack in enumerate(stacks)},
            clocks=Clocks(time.monotonic, time.time),
            changed=self.events,
        )
        target = FileTarget((str(settings.data / FILE),), lock=str(settings.data / LOCK))
        interval = min(REFRESH, settings.peer_timeout / 4)
        self.loop = Loop(self.world, Reconciler((target,)), interval, self._cycled)
        self.looping = Looping(ROLE, self.loop, self.events, self.cycles, tracer)
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Follow the sources."""
        self.loop.follow("host", HostFacts().hosts, self._keep_host)
        self.loop.follow("routing.yaml", self.routing.contents, self._keep_stacks)
        for stack, member in self.world.members.items():
            self.loop.follow(f"discovery of {stack}", member.announcer.peers, self._keeper(member), in_bursts=True)

    async def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        await asyncio.gather(*(member.announcer.close() for member in self.world.members.values()))
        for target in self.loop.reconciler.targets:
            target.close()
        self.scribe.close()

    def counters(self) -> dict[str, int]:
        """Of all discoveries together."""
        total: dict[str, int] = {}
        for member in self.world.members.values():
            for name, count in member.announcer.counters().items():
                total[name] = total.get(name, 0) + count
        return total

    def _departed(self) -> set[str]:
        return {name for member in self.world.members.values() for name in member.announcer.departed()}

    def _member(self, number: int, stack: StackConfig) -> Member:
        identity = identity_of(self.settings, stack, __version__, self.settings.discovery_mode)

        def make(here: Self) -> Discovery:
            version = self.settings.version or here.underlay
            source = here.node.endpoint(version) if here.node is not None else None
            if source is None:
                raise DiscoveryError(f"this host has no IPv{version} address to speak from")
            key = next(iter(self._means.gossip.keys), None)
            place = Place(identity.id, here.uplink, source, f"{self._instance}{number:x}", key)
            return DISCOVERIES[self.settings.discovery_mode](self._means_of(number), place)

        return Member(stack, identity, Announcer(make))

    def _means_of(self, number: int) -> Means:
        """Several stacks of one process: each gossips at a port of its own."""
        settings = self.settings
        if settings.discovery_mode == "gossip":
            return replace(self._means, port=self._means.port + number)
        if settings.discovery_mode == "static":
            return replace(self._means, peers=self._static)
        return self._means

    def _keep_host(self, host: Host) -> None:
        self.world.host = host

    def _keep_stacks(self, stacks: tuple[StackConfig, ...]) -> None:
        """What a stack announces may change while this runs; which stacks there are, and their VNIs, may not."""
        told = {stack.stack_id: stack for stack in stacks}
        same = {name: member.stack.vni for name, member in self.world.members.items()}
        if self.routing.problem or {name: stack.vni for name, stack in told.items()} == same:
            self.world.report("routing.yaml", self.routing.problem)
        else:
            now = ", ".join(sorted(told))
            self.world.report("routing.yaml", f"it lists other stacks or VNIs than at the start ({now}): restart this")
        for name, member in self.world.members.items():
            if name in told:
                member.stack = replace(told[name], vni=member.stack.vni)

    def _keeper(self, member: Member) -> Callable[[Known[Node]], None]:
        def keep(known: Known[Node]) -> None:
            member.known = known

        return keep

    def _cycled(self, _: View | None) -> None:
        """After each cycle: the others hear what this host is now."""
        for stack, member in self.world.members.items():
            member.announcer.tell(self.world.here(stack))
        self.world.report("disk", self.scribe.problem)
        self.cycles.observe(self.loop)
        if self._again is not None:
            self._again.cancel()
        if self.world.next_change is not None:
            wait = max(self.world.next_change - self.world.clocks.now(), 0.01)
            self._again = asyncio.get_running_loop().call_later(wait, self.loop.wake)


def _rehearse(settings: DiscoverySettings, stacks: tuple[StackConfig, ...]) -> None:
    """What can't be used is said now, and not each time that a discovery is made. Raises SettingsError. None of them
    opens anything before it is asked for peers."""
    static_peers(settings.static_peers, settings.vxlan_port, common_vni(stacks))
    with contextlib.suppress(DiscoveryError):  # that is of the place, which isn't known yet
        DISCOVERIES[settings.discovery_mode](settings.means, Place("", "", IPv4Address("192.0.2.1"), "rehearsal"))


async def run(settings: DiscoverySettings) -> int:
    """Run until SIGTERM or SIGINT; then it says goodbye, and the file stays. Raises WeftError if it can't start."""
    spare_the_collector()
    stacks = RoutingFile(settings).read()
    _rehearse(settings, stacks)
    async with AsyncExitStack() as closing:
        traces, said = telemetry.start(os.environ, f"weft-{ROLE}")
        if traces is not None:
            closing.callback(traces.close)
        given_up = (*said, *drop(frozenset()), *forbid_dumps())
        folder = FolderClaim(settings.data, [stack.stack_id for stack in stacks])
        closing.enter_context(folder)
        daemon = DiscoveryDaemon(settings, stacks, traces.telemetry if traces else None)
        daemon.world.report("folder", folder.problem)
        closing.push_async_callback(daemon.close)
        for problem in given_up:
            daemon.world.report(problem.subject, problem.message)
        pages = DiscoveryPages(daemon.looping, daemon.world, daemon.counters)
        answers = Pages(ROLE, pages.page, pages.metrics)
        await serve_health(closing, (settings.health_ip, settings.health_port), answers, daemon.loop)
        names = ", ".join(f"{stack.stack_id} (VNI {stack.vni})" for stack in stacks)
        log.info(
            "weft %s discovery of %s by %s; writing %s", __version__, names, settings.discovery_mode, settings.data
        )
        if settings.discovery_mode in OPEN and not shared_key(settings):
            log.warning("%s", NO_KEY_WARNING.format(port=settings.discovery_port, key="KEY"))
        daemon.start()
        await run_until_signalled(daemon.loop)
    log.info("stopped; %s stays, and so do all routes", settings.data / FILE)
    return 0
