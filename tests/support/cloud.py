"""A route manager without its sources: a world that says what is wanted, the loop, a cloud in memory. For tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from tests.build import view
from weft.agent.loop import Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.model import IPAddress, IPNetwork, Known, Network, Node, Problem, Profile, TableRoute, View
from weft.targets.cloud.memory import MemoryRoutes, Moment
from weft.targets.cloud.target import CloudOptions, CloudTarget

TABLE = "memory"


def subnet(number: int) -> IPNetwork:
    return ip_network(f"10.{number >> 8}.{number & 255}.0/24")


def host(number: int) -> IPAddress:
    return ip_address(f"192.0.2.{number % 250 + 1}")


def view_of(wanted: Mapping[IPNetwork, IPAddress], synced: bool = True, table: str = TABLE) -> View:
    """A View that asks for these routes, and for nothing of the kernel."""
    routes = tuple(TableRoute(table, dst, via, "etcd", str(via), "its lease") for dst, via in wanted.items())
    plain = view(profile=Profile(plane=False), synced=synced)
    return View(plain.me, profile=plain.profile, synced=synced, table_routes=routes)


class CloudWorld:
    """Knows what is `wanted`: destination → next hop. None: nothing may be planned."""

    def __init__(self, wanted: Mapping[IPNetwork, IPAddress] | None = None) -> None:
        self.wanted = wanted
        self.synced = True
        self.told: dict[str, str] = {}

    @property
    def name(self) -> str:
        return "a"

    @property
    def device(self) -> str:
        return ""

    @property
    def engine(self) -> Known[Network] | None:
        return None

    @property
    def peers(self) -> Known[Node] | None:
        return None

    def view(self) -> View | None:
        return view_of(self.wanted, self.synced) if self.wanted is not None else None

    def report(self, source: str, message: str) -> None:
        self.told[source] = message

    def problems(self) -> Iterator[Problem]:
        return iter(())

    def waiting(self) -> list[str]:
        return []


class CloudRig:
    """A loop over one cloud, for an event loop (a virtual one, mostly). `interval`: of its full comparisons."""

    def __init__(
        self,
        wanted: Mapping[IPNetwork, IPAddress] | None = None,
        tables: MemoryRoutes | None = None,
        options: CloudOptions | None = None,
        interval: float = 30.0,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self.tables = tables if tables is not None else MemoryRoutes()
        self.target = CloudTarget(self.tables, options)
        self.reconciler = Reconciler((self.target,), Clock(clock, clock))
        self.world = CloudWorld(wanted)
        self.cycles = 0
        self.loop = Loop(self.world, self.reconciler, interval, self._count, for_files=False)

    def _count(self, _: View | None) -> None:
        self.cycles += 1

    def want(self, wanted: Mapping[IPNetwork, IPAddress]) -> None:
        self.world.wanted = dict(wanted)
        self.loop.wake()

    def there(self) -> dict[IPNetwork, list[IPAddress | None]]:
        """What the cloud has of ours: destination → next hops."""
        state: dict[IPNetwork, list[IPAddress | None]] = {}
        for moment in latest(self.tables.history):
            for entry in moment.entries:
                if not entry.whose:
                    state.setdefault(entry.dst, []).append(entry.via)
        return state

    def is_right(self) -> bool:
        """The cloud is as wanted, and the loop knows it."""
        if self.loop._busy.locked() or self.reconciler.account.statuses:
            return False
        return self.there() == {dst: [via] for dst, via in (self.world.wanted or {}).items()}

    def calls(self, *methods: str) -> int:
        return sum(n for (method, _), n in self.tables.calls.items() if not methods or method in methods)


def latest(history: Iterable[Moment]) -> list[Moment]:
    return list({moment.key: moment for moment in history}.values())
