"""What routes are made of, from a real etcd: what runs out and what is deleted, a member that is killed, data that is
lost, and endpoints as the original had them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from tests.support.etcd import Etcd, Member, cluster, needs_etcd
from tests.support.eventually import soon
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.route_sources import FlannelLeases, Leases
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.targets.memory import MemoryTarget

pytestmark = needs_etcd
GRACE = 1.5
_numbers = count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


async def started(member: Member) -> None:
    """It takes connections again. Started from this thread: a member dies with the thread that started it."""
    member.start(wait=False)
    await soon(member.listens, "etcd to take connections", 20)


@dataclass
class World:
    """What a loop needs of one to follow a source."""

    name: str = ""
    device: str = ""
    engine: None = None
    peers: None = None
    broken: dict[str, str] = field(default_factory=dict)

    def view(self) -> None:
        return None

    def report(self, source: str, message: str) -> None:
        self.broken[source] = message

    def problems(self) -> Iterator[Any]:
        yield from ()

    def waiting(self) -> list[str]:
        return []


@dataclass
class Manager:
    """A source, followed as the daemon does it."""

    etcd: Etcd
    prefix: str
    seen: list[tuple[float, Leases]] = field(default_factory=list)
    world: World = field(default_factory=World)
    stores: list[EtcdStore] = field(default_factory=list)
    loops: list[Loop[World]] = field(default_factory=list)

    def start(self, *endpoints: str, grace: float = GRACE) -> None:
        self.stores.append(EtcdStore(EtcdOptions(endpoints or self.etcd.endpoints, timeout=3)))
        self.loops.append(Loop(self.world, Reconciler((MemoryTarget(),)), 30.0))
        source = FlannelLeases(self.stores[-1], self.prefix, grace)
        self.loops[-1].follow("flannel", source.sets, self.keep, last_restart=0.5)

    def keep(self, leases: Leases) -> None:
        self.seen.append((asyncio.get_running_loop().time(), leases))

    def put(self, subnet: str, ip: str, seconds: int = 600) -> str:
        """A lease as flannel's alloc backend writes it; etcd's id of what it hangs on."""
        lease = self.etcd.ctl("lease", "grant", str(seconds)).split()[1]
        value = f'{{"PublicIP":"{ip}","PublicIPv6":null}}'
        self.etcd.ctl("put", "--lease", lease, f"{self.prefix}/subnets/{subnet.replace('/', '-')}", value)
        return lease

    def routes(self) -> dict[str, str]:
        known = self.seen[-1][1].known if self.seen else None
        return {node.id: str(node.endpoints[0]) for node in known.items} if known else {}

    async def has(self, within: float = 5.0, **routes: str) -> None:
        wanted = {f"10.244.{key[1:]}.0/24": ip for key, ip in routes.items()}
        await soon(lambda: self.seen and self.routes() == wanted, f"{wanted}", within)

    async def close(self) -> None:
        for loop in self.loops:
            loop.stop()
        for store in self.stores:
            await store.close()


@pytest.fixture
async def manager(etcd: Etcd) -> AsyncIterator[Manager]:
    made = Manager(etcd, f"/test-{next(_numbers)}")
    yield made
    await made.close()


async def test_what_runs_out_is_kept_for_the_grace_time_and_what_is_deleted_is_not(manager: Manager) -> None:
    expiring = manager.put("10.244.1.0/24", "10.0.0.1", seconds=1)
    manager.put("10.244.2.0/24", "10.0.0.2")
    manager.start()
    await manager.has(_1="10.0.0.1", _2="10.0.0.2")
    manager.etcd.ctl("del", f"{manager.prefix}/subnets/10.244.2.0-24")
    await manager.has(_1="10.0.0.1", within=1.0)
    await soon(lambda: any("ran out" in p.message for p in manager.seen[-1][1].known.problems), "a word on it")
    assert expiring not in manager.etcd.ctl("lease", "list")
    began = manager.seen[-1][0]
    assert manager.routes() == {"10.244.1.0/24": "10.0.0.1"}
    await manager.has()
    assert GRACE - 0.2 <= manager.seen[-1][0] - began <= GRACE + 1


async def test_a_member_that_is_killed_and_comes_back_costs_nobody_a_route(manager: Manager) -> None:
    manager.put("10.244.1.0/24", "10.0.0.1")
    manager.start()
    await manager.has(_1="10.0.0.1")
    (member,) = manager.etcd.members
    member.kill()
    await soon(lambda: manager.world.broken.get("flannel"), "a word on it")
    await started(member)
    await asyncio.to_thread(manager.put, "10.244.2.0/24", "10.0.0.2")
    await manager.has(_1="10.0.0.1", _2="10.0.0.2")
    assert manager.world.broken["flannel"] == ""
    assert all("10.244.1.0/24" in [n.id for n in leases.known.items] for _, leases in manager.seen)


async def test_an_etcd_that_lost_its_data_is_told_and_costs_nobody_a_route(manager: Manager) -> None:
    for number in range(5):
        manager.put(f"10.244.{number}.0/24", "10.0.0.1")
    manager.start()
    await soon(lambda: len(manager.routes()) == 5, "leases")
    (member,) = manager.etcd.members
    member.kill()
    shutil.rmtree(member.folder / "data")
    await started(member)
    await soon(
        lambda: any("history is shorter" in p.message for p in manager.seen[-1][1].known.problems), "a word on it"
    )
    await asyncio.to_thread(manager.put, "10.244.0.0/24", "10.0.0.9")
    await soon(lambda: manager.routes().get("10.244.0.0/24") == "10.0.0.9", "the new lease")
    assert len(manager.routes()) == 5


async def _old_etcd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks HTTP/1.1, as etcd did whose API is v2."""
    await reader.read(1000)
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("old", [False, True], ids=["nobody", "API v2"])
async def test_an_endpoint_of_old_beside_a_good_one_does_no_harm(manager: Manager, place: str, old: bool) -> None:
    """The original's default is port 4001, where nobody listens any more."""
    server = await asyncio.start_server(_old_etcd, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if not old:
        server.close()
        await server.wait_closed()
    manager.put("10.244.1.0/24", "10.0.0.1")
    both = [endpoint, *manager.etcd.endpoints]
    manager.start(*(both if place == "first" else reversed(both)))
    await manager.has(_1="10.0.0.1", within=8.0)
    await asyncio.to_thread(manager.put, "10.244.2.0/24", "10.0.0.2")
    await manager.has(_1="10.0.0.1", _2="10.0.0.2", within=2.0)
    server.close()
