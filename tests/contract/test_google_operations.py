"""Google's operations, followed to their end: one by one, in lists, without permission to list, lost, too late."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.support.eventually import soon
from tests.support.google import World, manager
from weft.errors import TargetError
from weft.lab.compute.operations import Timing
from weft.lab.compute.table import ServiceAccount, small
from weft.objects import Op, Why
from weft.objects.cloud import CloudRoute
from weft.targets.cloud import google_operations
from weft.targets.cloud.google import GoogleRoutes
from weft.targets.cloud.google_operations import Operation

WHY = Why("flannel", "host-1", "lease")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def adds(count: int, via: str = "10.128.0.2") -> list[Op]:
    return [
        Op("add", CloudRoute("default", ip_network(f"10.244.{n}.0/24"), ip_address(via)), WHY) for n in range(count)
    ]


async def end_of(tables: GoogleRoutes, name: str) -> Operation:
    site = await tables._at()
    return await site.operations.end_of(Operation(name=name, status="RUNNING"))


async def test_a_few_are_waited_for_and_many_are_listed(world: World) -> None:
    with world.cloud(timing=Timing(pending=0.02, running=0.05)) as gce:
        async with manager(gce) as tables:
            assert await tables.apply(adds(2)) == [None, None]
            assert len(gce.history.called("globalOperations.wait")) == 2
            assert gce.history.called("globalOperations.list") == []
            assert await tables.apply(adds(60)[2:]) == [None] * 58
            asked = len(gce.history.called("globalOperations.wait", "globalOperations.list", "globalOperations.get"))
            assert asked < 40, "far fewer calls than operations"
            for call in gce.history.called("globalOperations.list"):
                assert call.query["filter"].startswith("name eq operation-")


async def test_without_permission_to_list_each_is_asked_after(world: World) -> None:
    account = ServiceAccount(denied=("compute.globalOperations.list",))
    with world.cloud(small(account=account)) as gce:
        async with manager(gce) as tables:
            assert await tables.apply(adds(12)) == [None] * 12
            assert gce.history.called("globalOperations.get")


async def test_without_any_permission_it_is_not_said_to_be_done(world: World) -> None:
    account = ServiceAccount(denied=("compute.globalOperations.list", "compute.globalOperations.get"))
    with world.cloud(small(account=account)) as gce:
        async with manager(gce) as tables:
            answers = await tables.apply(adds(6))
            assert all(answer is not None and "compute.globalOperations.get" in answer.message for answer in answers)


@pytest.mark.parametrize("few", [4, 0])
async def test_one_that_nobody_knows_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(google_operations, "FEW", few)
    with world.cloud() as gce:
        async with manager(gce) as tables:
            with pytest.raises(TargetError, match="404"):
                await end_of(tables, "operation-1-a")


@pytest.mark.parametrize("few", [4, 0])
async def test_one_that_does_not_end_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(google_operations, "FEW", few)
    monkeypatch.setattr(google_operations, "LONGEST", 0.05)
    with world.cloud(timing=Timing(running=30.0, wait=0.01)) as gce:
        async with manager(gce) as tables:
            [answer] = await tables.apply(adds(1))
            assert answer is not None
            assert "not done after" in answer.message


async def test_one_that_hangs_holds_nobody_up_for_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the API lets whoever waits for it wait."""
    with world.cloud(timing=Timing(running=1e6)) as gce:
        monkeypatch.setattr(google_operations, "LONGEST", 0.5)
        async with manager(gce) as tables:
            began = asyncio.get_running_loop().time()
            answers = await tables.apply(adds(1))
            took = asyncio.get_running_loop().time() - began
            assert [failure is not None and "not done after" in failure.message for failure in answers] == [True]
            assert took < 30, "LONGEST_WAIT is 120"
            gce.compute.timing = Timing(pending=0.01, running=0.02)
            assert await tables.apply(adds(2)[1:]) == [None]


@pytest.mark.parametrize("few", [4, 0])
async def test_whatever_asks_after_it_may_fail(world: World, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(google_operations, "FEW", few)
    with world.cloud() as gce:
        async with manager(gce) as tables:
            fault = gce.faults.fail("globalOperations.*", 503, times=6)
            assert await tables.apply(adds(1)) == [None]
            assert fault.taken == 6


async def test_cut_off_it_is_read_again_before_anything_else_is_written(world: World) -> None:
    with world.cloud(timing=Timing(pending=0.0, running=0.3)) as gce:
        async with manager(gce) as tables:
            await tables.read()
            under_way = asyncio.create_task(tables.apply(adds(3)))
            await soon(lambda: len(gce.compute.operations()) == 3, "three that were accepted")
            under_way.cancel()
            with pytest.raises(asyncio.CancelledError):
                await under_way
            await soon(lambda: all(one.status == "DONE" for one in gce.compute.operations().values()), "their end")
            before = len(gce.history.called("routes.list"))
            assert await tables.apply(adds(3)) == [None] * 3
            assert len(gce.history.called("routes.list")) == before + 1
            assert len(gce.history.called("routes.insert")) == 3
