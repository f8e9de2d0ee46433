"""`weft agent`: engine and discovery → kernel and firewall. Wiring only; called by `cli/agent.py`."""

from __future__ import annotations

import logging
import secrets
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from weft import __version__
from weft.agent.announcer import Announcer
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.world import World
from weft.backends.tunnel import device_name, vtep_mac
from weft.core.identity import Identity, Self
from weft.daemons.process import claim, log_to_stderr, run_until_signalled, spare_the_collector
from weft.discovery import DISCOVERIES, Discovery, Place
from weft.discovery.options import NO_KEY_WARNING, OPEN
from weft.engines import ENGINES, Engine
from weft.errors import DiscoveryError, NotYet
from weft.model import Host, Known, Network, Node, Profile, View
from weft.settings import Settings, means, shared_key
from weft.targets.firewall import FirewallTarget
from weft.targets.kernel.host import HostFacts
from weft.targets.kernel.target import KernelTarget
from weft.web.api import Api, PlanAnswer, answer
from weft.web.local import LocalServer

log = logging.getLogger("weft")

ROLE = "agent"


def node_id(settings: Settings) -> str:
    """This host's id: as set, else its host name."""
    return settings.node or socket.gethostname()


def mark(settings: Settings) -> str:
    """What stands in the ifalias of this agent's device."""
    return f"weft:{ROLE}:{node_id(settings)}"


class Agent:
    """The parts, and how they hang together."""

    def __init__(self, settings: Settings, announcing: bool = True) -> None:
        node = node_id(settings)
        device = device_name(settings.vni)
        underlay = {"auto": 0, "ipv4": 4, "ipv6": 6}[settings.underlay]
        self.settings = settings
        self.engine: Engine = ENGINES[settings.engine](settings)
        self.kernel = KernelTarget(mark(settings), vtep_mac(node, settings.vni), device=device)
        # Chains of a device of ours that is to go (the VNI was changed) go with it.
        self.firewall = FirewallTarget(owns=lambda dev: dev == device or dev in self.kernel.devices)
        self.world = World(
            Identity(
                id=node,
                vni=settings.vni,
                port=settings.port,
                version=__version__,
                interface=settings.interface,
                endpoints=settings.endpoint,
                underlay=underlay,
                mtu=settings.mtu,
                source=settings.discovery,
            ),
            Profile(ROLE, underlay=underlay or 4, learning=settings.learning, metric=settings.metric),
            settings.allowed,
            chains=lambda: self.firewall.chains,
            refused=lambda: self.firewall.refused,
        )
        self.announcer = Announcer(self._discovery, announcing)
        self.loop = Loop(self.world, Reconciler((self.kernel, self.firewall)), settings.interval, self._cycled)
        self._key = shared_key(settings)
        self._instance = secrets.token_hex(8)

    def start(self) -> None:
        """Follow the sources."""
        self.loop.follow("host", HostFacts().hosts, self._keep_host)
        self.loop.follow("engine", self.engine.networks, self._keep_engine)
        self.loop.follow("discovery", self.announcer.peers, self._keep_peers)

    async def close(self) -> None:
        await self.announcer.close()
        await self.engine.close()
        for target in self.loop.reconciler.targets:
            target.close()

    def _discovery(self, here: Self) -> Discovery:
        source = here.node.endpoint(here.underlay) if here.node is not None else None
        if source is None:
            raise DiscoveryError(f"this host has no IPv{here.underlay} endpoint to speak from")
        place = Place(self.world.identity.id, here.uplink, source, self._instance, self._key)
        return DISCOVERIES[self.settings.discovery](means(self.settings), place)

    def _keep_host(self, host: Host) -> None:
        self.world.host = host

    def _keep_engine(self, known: Known[Network]) -> None:
        self.world.engine = known

    def _keep_peers(self, known: Known[Node]) -> None:
        self.world.peers = known

    def _cycled(self, view: View | None) -> None:
        """After each cycle, peers hear of what changed in it."""
        self.announcer.tell(self.world.me())
        self.world.report("firewall", self.firewall.problem)


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; what was set up in the kernel stays. Raises WeftError if it can't start."""
    log_to_stderr(settings.log_level)
    spare_the_collector()
    async with AsyncExitStack() as stack:
        stack.enter_context(claim(ROLE))
        agent = Agent(settings)
        stack.push_async_callback(agent.close)
        server = LocalServer(Api(agent.loop, agent.announcer), Path(settings.socket))
        await server.start()
        stack.push_async_callback(server.stop)
        log.info("weft %s agent, node %s; answering on %s", __version__, agent.world.identity.id, settings.socket)
        if settings.discovery in OPEN and shared_key(settings) is None:
            log.warning("%s", NO_KEY_WARNING.format(port=settings.discovery_port, key="WEFT_KEY"))
        agent.start()
        await run_until_signalled(agent.loop)
    log.info("stopped; tunnels and routes stay up, `weft cleanup` removes them")
    return 0


async def dry_run(settings: Settings, seconds: float) -> PlanAnswer:
    """What an agent would do now, after listening for so long; it tells nobody anything and changes nothing."""
    agent = Agent(settings, announcing=False)
    try:
        agent.start()
        await agent.loop.listen(seconds)
        changes = await agent.loop.preview()
        if changes is None:
            reasons = "; ".join(p.message for p in agent.world.problems()) or "this host's networks can't be found out"
            raise NotYet(f"no plan can be made: {reasons}")
        return answer(changes, agent.loop.reconciler)
    finally:
        agent.loop.stop()
        await agent.close()
