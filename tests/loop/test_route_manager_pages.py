"""What `weft route-manager` says of itself on /health."""

from __future__ import annotations

import asyncio

import msgspec

from tests.support.eventually import soon
from weft.agent.contender import Contender, Leader
from weft.daemons.route_manager import RouteManager
from weft.errors import StoreUnreachable
from weft.settings.route_manager import RouteManagerSettings
from weft.stores import Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.targets.cloud.memory import MemoryRoutes
from weft.web.route_manager import RouteManagerPages


async def test_who_stands_by_is_well_and_who_is_cut_off_from_etcd_is_not() -> None:
    """It could not take over, and doesn't know whether anybody leads."""
    server, asked = MemoryServer(), RouteManagerSettings(backend="google")
    server.change(Put("/coreos.com/network/config", b'{"Network": "10.0.0.0/16"}'))
    manager = RouteManager(asked, MemoryStore(server), MemoryRoutes(("default",)), Contender("here", 1, "x"))
    other = MemoryStore(server)
    value = msgspec.json.encode(Leader("there", 2, "y"))
    await other.commit([Put(manager.key, value, await other.grant(10_000))])
    pages = RouteManagerPages(manager.looping, manager.tables, manager.rooms, manager.leadership)
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
