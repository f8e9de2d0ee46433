"""What `weft route-manager` says of itself on /health."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.support.eventually import soon
from weft.agent.contender import Contender, Leader
from weft.agent.election import LIFE, Standing, boot_clock
from weft.daemons import route_manager as daemon
from weft.daemons.route_manager import RouteManager
from weft.errors import StoreUnreachable
from weft.settings.route_manager import RouteManagerSettings
from weft.stores import Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.targets.cloud.memory import MemoryRoutes, Nature
from weft.web import route_manager as pages_of
from weft.web.route_manager import RouteManagerPages


async def test_who_stands_by_is_well_and_who_is_cut_off_from_etcd_is_not() -> None:
    """It could not take over, and doesn't know whether anybody leads."""
    server, asked = MemoryServer(), RouteManagerSettings(backend="google")
    server.change(Put("/coreos.com/network/config", b'{"Network": "10.0.0.0/16"}'))
    manager = RouteManager(asked, MemoryStore(server), MemoryRoutes(("default",)), Contender("here", 1, "x"))
    other = MemoryStore(server)
    value = msgspec.json.encode(Leader("there", 2, "y"))
    await other.commit([Put(manager.key, value, await other.grant(10_000))])
    pages = RouteManagerPages(manager.looping, manager.tables, manager.rooms, manager.leadership, manager.held)
    manager.start()
    task = asyncio.create_task(manager.loop.run())
    try:
        await soon(lambda: pages.page().status == "healthy", "the other's key to be seen")
        assert pages.page().message == "standing by: there (pid 2) writes"
        server.fail(StoreUnreachable("etcd is gone"))
        await soon(lambda: pages.page().status == "degraded", "the outage to be said")
        said = pages.page()
        assert said.message.startswith("standing by, there (pid 2) was seen to write last: ")
        assert "etcd is gone" in said.message
        assert not said.leading
        server.fail(None)
        await soon(lambda: pages.page().status == "healthy", "its end to be seen")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await manager.close()
        await other.close()


async def test_who_led_and_cannot_ask_etcd_says_that_it_freezes_and_what_it_knew_last() -> None:
    server, asked = MemoryServer(), RouteManagerSettings(backend="google")
    server.change(Put("/coreos.com/network/config", b'{"Network": "10.0.0.0/16"}'))
    server.change(Put("/coreos.com/network/subnets/10.0.1.0-24", b'{"PublicIP": "192.0.2.1"}'))
    manager = RouteManager(asked, MemoryStore(server), MemoryRoutes(("default",)), Contender("here", 1, "x"))
    pages = RouteManagerPages(manager.looping, manager.tables, manager.rooms, manager.leadership, manager.held)
    manager.start()
    task = asyncio.create_task(manager.loop.run())
    try:
        await soon(lambda: pages.page().tables == {"default": 1}, "the route")
        assert manager.election is not None
        await manager.election.close()  # as when its term has passed
        manager._keep_standing(Standing(False, None, "who leads is not known: etcd is gone; it is asked again"))
        manager.loop.wake()
        await soon(lambda: manager.target.contents is None, "the loop to see that")
        said = pages.page()
        assert (said.status, said.leading, said.tables) == ("degraded", False, {"default": 1})
        assert "etcd is gone; it is asked again; nothing is written until then" in "".join(said.problems)
        manager._keep_standing(Standing(False, Leader("there", 2, "y")))
        assert pages.page().tables == {"default": 0}, "the other knows better"
        assert "standing by: there (pid 2) writes" in [problem.message for problem in manager.world.problems()]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await manager.close()


async def test_a_leader_that_cannot_reach_the_cloud_lets_others_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "UNREACHABLE", 0.0)
    server, asked = MemoryServer(), RouteManagerSettings(backend="google")
    cloud = MemoryRoutes(("default",))
    cloud.faults.by_chance(lambda call: "refused" if call.startswith("list") else None)
    manager = RouteManager(asked, MemoryStore(server), cloud, Contender("here", 1, "x"))
    manager.start()
    task = asyncio.create_task(manager.loop.run())
    try:
        await soon(lambda: "cloud" in manager.world.broken, "it to be told")
        assert manager.world.broken["cloud"].message.endswith("; another manager may try, if there is one")
        election = manager.election
        assert election is not None
        assert election._not_before - boot_clock().now() > LIFE, "nothing is renewed for longer than its key lives"
        manager._keep_standing(Standing(False, Leader("there", 2, "y")))
        assert "cloud" not in manager.world.broken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await manager.close()


async def test_an_api_that_hangs_is_said_while_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that never ends holds the cycle up for minutes."""
    monkeypatch.setattr(pages_of, "SLOW", 0.1)
    server, asked = MemoryServer(), RouteManagerSettings(backend="google")
    server.change(Put("/coreos.com/network/config", b'{"Network": "10.0.0.0/16"}'))
    cloud = MemoryRoutes(("default",), Nature(latency=0.0))
    manager = RouteManager(asked, MemoryStore(server), cloud, Contender("here", 1, "x"))
    pages = RouteManagerPages(manager.looping, manager.tables, manager.rooms, manager.leadership, manager.held)
    manager.start()
    task = asyncio.create_task(manager.loop.run())
    try:
        await soon(lambda: pages.page().status == "healthy", "the first plan")
        cloud.nature = Nature(latency=3600.0)
        server.change(Put("/coreos.com/network/subnets/10.0.1.0-24", b'{"PublicIP": "192.0.2.1"}'))
        await soon(lambda: pages.page().status == "degraded", "the hanging API to be said")
        assert "has not answered for 0 s" in pages.page().message
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await manager.close()
