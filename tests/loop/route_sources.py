"""An etcd in memory and the sources of a route manager, in virtual time: for the tests of those sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Generic, TypeVar

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.loop import Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.agent.route_sources import EtcdNodes, FlannelLeases, Leases, RegistrarNetworks
from weft.core.registry import Prefixes
from weft.errors import StoreUnreachable
from weft.model import Known, Node, Problem
from weft.stores import Delete, Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.wire.flannel import Lease, lease_key, lease_value

FLANNEL = "/coreos.com/network"
REGISTRAR = "/flannel/network/subnets"
AGENTS = "/docker-router/discovery"
CONFIG = '{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}'
GRACE = 60.0
WALL = 1.8e9
GONE = StoreUnreachable("memory: nobody answers")
T = TypeVar("T")


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)

    def put(self, key: str, value: bytes | str, lease: int = 0) -> None:
        """As if by etcdctl, or another program."""
        self.change(Put(key, value if isinstance(value, bytes) else value.encode(), lease))

    def lease_of(self, subnet: str, ip: str, seconds: int = 86400) -> int:
        """As flannel with backend udp or alloc writes it; `seconds` 0: a reservation."""
        lease = Lease(IPv4Network(subnet), None, IPv4Address(ip))
        hangs_on = self.grant(seconds) if seconds else 0
        self.put(f"{FLANNEL}/subnets/{lease_key(lease)}", lease_value(lease), hangs_on)
        return hangs_on

    def delete(self, key: str) -> None:
        self.change(Delete(key))


class World:
    """What a loop needs of one to follow sources."""

    name = device = ""
    engine = peers = None

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.told: list[str] = []

    def view(self) -> None:
        return None

    def report(self, source: str, message: str) -> None:
        self.told.extend([message] if message else [])
        self.broken[source] = message

    def problems(self) -> AsyncIterator[Problem]:
        raise AssertionError

    def waiting(self) -> list[str]:
        return []


@dataclass
class Ear(Generic[T]):
    """What a source told."""

    seen: list[T] = field(default_factory=list)

    def known(self) -> Known[Node]:
        last: Any = self.seen[-1] if self.seen else Known()
        return last.known if isinstance(last, Leases) else last

    def routes(self) -> dict[str, str]:
        return {str(s): str(o.endpoints[0]) for o in self.known().items for n in o.networks for s in n.subnets}

    def texts(self) -> list[str]:
        return [problem.message for problem in self.known().problems]

    async def has(self, within: float = 5.0, **routes: str) -> float:
        """Returns when these are the routes, named as their third octets ("_1"); the seconds that took."""
        wanted = {f"10.244.{key[1:]}.0/24": ip for key, ip in routes.items()}
        began = asyncio.get_running_loop().time()
        await reached(lambda: self.seen and self.routes() == wanted, f"{wanted}, not {self.routes()}", within)
        return asyncio.get_running_loop().time() - began


class Case:
    def __init__(self) -> None:
        self.server = Server()
        self.loop = asyncio.get_running_loop()
        assert isinstance(self.loop, VirtualLoop)
        self.loop.clocks.append(self.server)
        self.store = MemoryStore(self.server)
        self.world = World()
        self.clocks = Clock(self.loop.time, lambda: WALL + self.loop.time())
        self.following: Loop[Any] = Loop(self.world, Reconciler(()), 30.0)

    def leases(self, grace: float = GRACE) -> Ear[Leases]:
        ear = Ear[Leases]()
        source = FlannelLeases(self.store, FLANNEL, grace, self.clocks)
        self.following.follow("flannel", source.sets, ear.seen.append)
        return ear

    def registrars(self) -> Ear[Known[Node]]:
        ear = Ear[Known[Node]]()
        source = RegistrarNetworks(self.store, Prefixes(REGISTRAR, FLANNEL), GRACE, self.clocks)
        self.following.follow("registrar", source.sets, ear.seen.append)
        return ear

    def nodes(self) -> Ear[Known[Node]]:
        ear = Ear[Known[Node]]()
        source = EtcdNodes(self.store, AGENTS, GRACE, self.clocks)
        self.following.follow("etcd", source.sets, ear.seen.append)
        return ear

    async def pass_by(self, seconds: float) -> None:
        """So much virtual time."""
        await asyncio.sleep(seconds)


def in_a_world(scenario: Callable[[Case], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def test() -> None:
        async def whole() -> None:
            case = Case()
            try:
                await scenario(case)
            finally:
                case.following.stop()

        virtually(whole())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test
