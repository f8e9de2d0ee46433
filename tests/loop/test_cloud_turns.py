"""A cloud's route table where others lead, calls fail for ever, or this process stood still: who has a turn, and when
there are no more."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from tests.loop.test_cloud_target import many, now, running
from tests.support.cloud import TABLE, CloudRig, host
from tests.support.virtual import VirtualLoop, reached, virtually
from weft.model import View
from weft.objects.cloud import CloudRoute
from weft.targets.cloud.memory import MemoryRoutes, Nature
from weft.targets.cloud.pace import Pace
from weft.targets.cloud.target import CloudOptions

GOOD = ip_network("172.16.0.0/24")


def test_who_lost_the_lead_in_the_middle_of_much_rests() -> None:
    """What was to have its turn next must not keep the loop awake: it has none while another manager leads."""

    async def scenario() -> int:
        leads = [True]
        rig = CloudRig(many(1000), MemoryRoutes(nature=Nature(latency=1.0)), CloudOptions(lead=lambda: leads[0]))
        view = rig.world.view

        def viewed() -> View | None:
            return view() if leads[0] else None

        rig.world.view = viewed  # type: ignore[method-assign]
        async with running(rig):
            await reached(lambda: len(rig.there()) >= 8, "the first few")
            leads[0] = False
            await asyncio.sleep(5)
            cycles = rig.cycles
            await asyncio.sleep(300)
            assert not rig.reconciler.account.statuses
            return rig.cycles - cycles

    assert virtually(scenario()) <= 20


@pytest.mark.parametrize("what", ["add", "change", "remove"])
def test_a_thousand_that_fail_for_ever_let_others_by(what: str) -> None:
    """At ten calls a second each of the thousand is tried once within 100 s; what can be done doesn't wait for more."""

    async def scenario() -> float:
        tables = MemoryRoutes(nature=Nature(latency=0.05), pace=Pace(10.0))
        bad = many(1000)
        names = {tables.called(CloudRoute(TABLE, dst, via)) for dst, via in bad.items()}
        tables.faults.by_chance(lambda call: "refused" if call.split()[1] in names else None)
        if what != "add":
            tables.put(CloudRoute(TABLE, GOOD, host(9)))
        rig = CloudRig(bad | ({GOOD: host(3)} if what != "remove" else {}), tables)
        right = [host(3)] if what != "remove" else None
        async with running(rig):
            await reached(lambda: rig.there().get(GOOD) == right, what, within=600)
            return now()

    assert virtually(scenario()) <= (5 if what == "change" else 120)


def test_a_change_that_failed_once_is_not_put_behind_what_is_new() -> None:
    async def scenario() -> float:
        tables = MemoryRoutes(pace=Pace(10.0))
        tables.put(CloudRoute(TABLE, GOOD, host(9)))
        tables.faults.at("refused", 2)
        rig = CloudRig(many(1000) | {GOOD: host(3)}, tables)
        async with running(rig):
            await reached(lambda: rig.there().get(GOOD) == [host(3)], "the change", within=600)
            assert tables.faults.met
            assert tables.faults.met[0][0].startswith("insert")
            return now()

    assert virtually(scenario()) <= 15


def test_after_a_stall_nothing_is_written_before_the_fence_was_looked_at() -> None:
    """A process that was stopped (SIGSTOP, a machine that slept) has many timers due at once when it goes on; those of
    calls that waited for their turn may come before the one that looks after the fence."""

    async def scenario(standing: float) -> int:
        term = 10.0
        tables = MemoryRoutes(nature=Nature(latency=0.01), pace=Pace(10.0))
        rig = CloudRig(many(300), tables, CloudOptions(lead=lambda: now() < term))
        async with running(rig):
            await reached(lambda: len(rig.there()) >= 40, "a batch in full swing")
            await asyncio.sleep(standing)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop._jumping.now += 60.0
            before = tables.faults.seen
            await asyncio.sleep(20)
            return tables.faults.seen - before

    assert sum(virtually(scenario(n / 40)) for n in range(8)) == 0


def test_who_lost_the_lead_while_the_tables_could_not_be_read_rests() -> None:
    async def scenario() -> int:
        leads = [True]
        rig = CloudRig(many(3), options=CloudOptions(lead=lambda: leads[0]))
        view = rig.world.view

        def viewed() -> View | None:
            return view() if leads[0] else None

        rig.world.view = viewed  # type: ignore[method-assign]
        async with running(rig):
            await reached(rig.is_right, "the routes")
            rig.tables.faults.by_chance(lambda _: "refused")
            await asyncio.sleep(200)
            assert ("target", "memory") in rig.reconciler.account.statuses
            leads[0] = False
            rig.loop.wake()
            await asyncio.sleep(100)
            cycles = rig.cycles
            await asyncio.sleep(300)
            assert not rig.reconciler.account.statuses
            return rig.cycles - cycles

    assert virtually(scenario()) <= 20


def test_tables_that_can_be_read_again_wake_nobody_before_there_is_a_plan() -> None:
    """etcd is away, so nobody knows what is wanted."""

    async def scenario() -> int:
        rig = CloudRig({})
        rig.tables.faults.by_chance(lambda _: "refused")
        async with running(rig):
            await asyncio.sleep(100)
            assert ("target", "memory") in rig.reconciler.account.statuses
            rig.world.wanted = None
            rig.tables.faults.by_chance(None)
            await asyncio.sleep(100)
            cycles = rig.cycles
            await asyncio.sleep(300)
            return rig.cycles - cycles

    assert virtually(scenario()) <= 30
