"""Who is to end (-once, -dry-run, -delete-all-routes) ends, whatever is away, and says with its exit code what came of
it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from weft.agent import status
from weft.agent.contender import Contender, Leader
from weft.agent.election import Standing
from weft.agent.route_sources import FlannelLeases, Leases
from weft.daemons import route_manager_once as ends
from weft.daemons.route_manager import RouteManager
from weft.errors import StoreUnreachable
from weft.model import Problem
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.stores import Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.targets.cloud import Contents, target
from weft.targets.cloud.memory import MemoryRoutes, Nature

A, B = "192.0.2.1", "192.0.2.2"
PREFIX = "/coreos.com/network"
AWAY = StoreUnreachable("etcd is away")


class Place(MemoryRoutes):
    """Also says something of its routes' hops with each reading, as Google does. `words`: what."""

    words: tuple[Problem, ...] = ()

    async def read(self) -> Contents:
        found = await super().read()
        return Contents(found.routes, found.foreign, self.words, found.calls)


@dataclass
class Rig:
    server: MemoryServer = field(default_factory=MemoryServer)
    cloud: Place = field(default_factory=lambda: Place(("default",), Nature()))

    def __post_init__(self) -> None:
        self.put("config", '{"Network": "10.0.0.0/16"}')

    def put(self, key: str, value: str) -> None:
        self.server.change(Put(f"{PREFIX}/{key}", value.encode()))

    def lease(self, subnet: str, via: str = A) -> None:
        self.put(f"subnets/{subnet.replace('/', '-')}", f'{{"PublicIP": "{via}"}}')

    def manager(self, **flags: object) -> RouteManager:
        # Another name than that of a table in this process: those know no elections.
        settings = RouteManagerSettings(**{"backend": "google", "sync_interval": 1.0, **flags})  # type: ignore[arg-type]
        return RouteManager(settings, MemoryStore(self.server), self.cloud, Contender("here", 1, "me"))

    async def ends(self, **flags: object) -> int:
        manager = self.manager(**flags)
        try:
            async with asyncio.timeout(20):
                work = ends.delete_all if manager.settings.delete_all_routes else ends.once
                return await work(manager)
        finally:
            await manager.close()

    def has(self) -> dict[str, str]:
        entries = [entry for entries in self.cloud._tables["default"].values() for entry in entries]
        return {str(entry.dst): str(entry.via) for entry in entries}


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(ends, "PATIENCE", 1.5)
    monkeypatch.setattr(ends, "GLANCE", 0.3)
    monkeypatch.setattr(status, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(target, "SOON", 0.1)
    return Rig()


async def first_set(manager: RouteManager) -> Leases:
    async with contextlib.aclosing(FlannelLeases(manager.store, PREFIX, 60.0).sets()) as sets:
        return await anext(sets)


@pytest.mark.parametrize("flags", [{"once": True}, {"once": True, "leader_election": False}, {"dry_run": True}])
async def test_etcd_is_away(rig: Rig, caplog: pytest.LogCaptureFixture, flags: dict[str, object]) -> None:
    """Its sources are asked again and again, and each attempt makes a cycle: that is not what is waited for."""
    rig.server.fail(AWAY)
    assert await rig.ends(**flags) == 1
    assert "not done: waited for flannel" in caplog.text
    assert "etcd is away" in caplog.text


async def test_deleting_all_needs_no_etcd(rig: Rig) -> None:
    rig.cloud.put(CloudRoute("default", ip_network("10.0.0.0/24"), ip_address(A)))
    rig.server.fail(AWAY)
    assert await rig.ends(delete_all_routes=True) == 0
    assert rig.has() == {}


@pytest.mark.parametrize("flags", [{"once": True}, {"dry_run": True}, {"delete_all_routes": True}])
async def test_the_cloud_is_away(rig: Rig, caplog: pytest.LogCaptureFixture, flags: dict[str, object]) -> None:
    rig.lease("10.0.0.0/24")
    rig.cloud.faults.next("refused", 100)
    assert await rig.ends(**flags) == 1
    assert "target memory: it can't be read" in caplog.text
    assert len(rig.cloud.faults.met) >= 3, "one reading that fails is no reason to give up"


async def test_a_cloud_that_is_away_for_a_moment_is_waited_for(rig: Rig) -> None:
    rig.lease("10.0.0.0/24")
    rig.cloud.faults.next("refused", 2)
    assert await rig.ends(once=True) == 0
    assert rig.has() == {"10.0.0.0/24": A}


async def test_another_one_leads(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    other = '{"host": "vm-9", "pid": 1, "instance": "other", "since": 1.0}'
    rig.server.change(Put(f"{PREFIX}/weft/route-manager/google", other.encode()))
    assert await rig.ends(once=True) == 1
    assert "vm-9 (pid 1) writes" in caplog.text


async def test_who_speaks_last_is_waited_for(rig: Rig) -> None:
    """A source may speak while a cycle works with what the others told: its end is not the end."""
    rig.lease("10.0.0.0/24")
    manager = rig.manager(once=True, leader_election=False, registrar_prefix="/registrar")
    leases = await first_set(manager)
    manager._keep_leases(leases)
    await manager.loop.step()
    assert rig.has() == {"10.0.0.0/24": A}
    manager.world.hear("registrar", leases.known)
    assert manager.world.waiting() == []
    assert not manager.is_settled(), "no plan has been made yet with what it said"
    await manager.close()


WORDS = (Problem(A, "the instance 192.0.2.1 may not forward packets"),)


async def test_what_is_said_of_hops_is_no_failure_of_a_deletion(rig: Rig) -> None:
    rig.cloud.put(CloudRoute("default", ip_network("10.0.0.0/24"), ip_address(A)))
    rig.cloud.words = WORDS
    assert await rig.ends(delete_all_routes=True) == 0
    assert rig.has() == {}


async def test_what_is_said_of_a_hop_that_was_left_is_no_failure(rig: Rig) -> None:
    rig.cloud.put(CloudRoute("default", ip_network("10.0.0.0/24"), ip_address(A)))
    rig.cloud.words = WORDS
    rig.lease("10.0.0.0/24", B)
    assert await rig.ends(once=True) == 0
    assert rig.has() == {"10.0.0.0/24": B}


async def test_a_conflict_elsewhere_ends_no_work_that_goes_on(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for number in (0, 1, 2):
        rig.lease(f"10.0.{number}.0/24")
        rig.cloud.put(CloudRoute("default", ip_network(f"10.0.{number}.0/24"), ip_address(A)))
    rig.lease("10.0.9.0/24")
    rig.cloud.put_foreign("default", ip_network("10.0.9.0/24"), "somebody else's")
    assert await rig.ends(once=True, aggregate=True) == 1
    assert rig.has().keys() == {"10.0.0.0/23", "10.0.2.0/24", "10.0.9.0/24"}
    assert "reconciler done" in caplog.text


async def test_a_lease_that_cannot_be_routed_to_is_one(rig: Rig) -> None:
    rig.lease("10.0.0.0/24", "127.0.0.1")
    assert await rig.ends(once=True) == 1


async def test_a_daemon_that_cannot_read_the_tables_says_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Also if it never could: wrong credentials are what a first start is most likely to have."""
    caplog.set_level(logging.INFO)
    rig.lease("10.0.0.0/24")
    rig.cloud.faults.by_chance(lambda _: "refused")
    manager = rig.manager(leader_election=False)
    manager._keep_leases(await first_set(manager))
    for _ in range(3):
        await manager.loop.step()
    assert "it can't be read" in caplog.text
    assert "reconciler" not in caplog.text, "nothing was compared yet"
    assert ("target", "memory") in manager.loop.reconciler.account.statuses
    assert manager.world.waiting() == ["tables"]
    assert not manager.loop.ready.is_set()
    rig.cloud.faults.clear()
    manager.target._asked_at = None
    manager.loop.reconciler._now_due([("target", "memory")])
    await manager.loop.step()
    assert rig.has() == {"10.0.0.0/24": A}
    assert manager.loop.ready.is_set()
    manager.target._contents = None
    manager._cycled(None)
    assert manager.loop.ready.is_set(), "who led once and freezes is not starting"
    await manager.close()


def test_who_wrote_before_stands_by_for_nobody() -> None:
    """While etcd is away, the last that is known is that this one leads; it doesn't any more, and nobody else does."""
    manager = Rig().manager()
    manager.standing = Standing(False, Leader("here", 1, "me"))
    assert (manager.leadership().leading, manager.leader, manager.leadership().leader) == (False, "", "")
    manager.standing = Standing(False, Leader("there", 2, "other"))
    assert manager.leadership().leader == "there (pid 2)"
