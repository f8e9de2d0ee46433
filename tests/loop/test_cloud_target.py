"""The reconciler over a cloud's route table in virtual time: calls are counted, faults are met, nobody else's route is
touched, and no destination is ever absent while it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ipaddress import ip_network

import pytest

from tests.support.cloud import TABLE, CloudRig, host, subnet, view_of
from tests.support.virtual import reached, virtually
from weft.agent.status import Report
from weft.errors import TargetError
from weft.model import IPAddress, IPNetwork, View
from weft.objects import Failure, Op
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud import Contents
from weft.targets.cloud.memory import Fault, MemoryRoutes, Moment, Nature
from weft.targets.cloud.pace import NOT_LEADING, Pace
from weft.targets.cloud.target import DRY, FENCE, SOON, CloudOptions, CloudTarget

Wanted = dict[IPNetwork, IPAddress]
Turn = tuple[int, Mapping[IPNetwork, IPAddress]]
"""From this number in the history on, this was wanted."""
Chance = Callable[[str], Fault | None]
THREE: Wanted = {subnet(n): host(n) for n in range(3)}


def many(count: int) -> Wanted:
    return {subnet(n): host(n) for n in range(count)}


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def running(rig: CloudRig) -> AsyncIterator[CloudRig]:
    """The loop, while this lasts."""
    task = asyncio.create_task(rig.loop.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Calls.


def test_idle_it_reads_twice_a_minute_and_no_more() -> None:
    async def scenario() -> tuple[int, int]:
        async with running(CloudRig(THREE)) as rig:
            await reached(rig.is_right, "the routes")
            before, cycles = rig.calls(), rig.cycles
            await asyncio.sleep(600)
            return rig.calls() - before, rig.cycles - cycles

    calls, cycles = virtually(scenario())
    assert 19 <= calls <= 20
    assert cycles < 100, "it doesn't spin either"


def test_a_large_table_is_read_less_often() -> None:
    async def scenario() -> int:
        tables = MemoryRoutes(nature=Nature(page=10))
        async with running(CloudRig(many(100), tables)) as rig:
            await reached(rig.is_right, "the routes")
            await asyncio.sleep(600)
            before = rig.calls("list")
            await asyncio.sleep(3000)
            return rig.calls("list") - before

    assert virtually(scenario()) <= 100


def test_what_comes_is_one_call_and_nothing_is_read_for_it() -> None:
    async def scenario() -> tuple[dict[tuple[str, str], int], float]:
        async with running(CloudRig(THREE, MemoryRoutes(nature=Nature(latency=0.2)))) as rig:
            await reached(rig.is_right, "the routes")
            before = dict(rig.tables.calls)
            began = now()
            rig.want({**THREE, subnet(9): host(9)})
            await reached(lambda: len(rig.there()) == 4, "the fourth")
            took = now() - began
            await asyncio.sleep(1)
            return {
                name: n - before.get(name, 0) for name, n in rig.tables.calls.items() if n > before.get(name, 0)
            }, took

    calls, took = virtually(scenario())
    assert calls == {("insert", "ok"): 1}
    assert took <= 0.25


def test_what_somebody_deletes_is_found_by_the_next_reading_and_counts_as_a_repair() -> None:
    async def scenario() -> tuple[float, list[Report]]:
        async with running(CloudRig(many(200), options=CloudOptions(takes=50))) as rig:
            reports = keep_reports(rig)
            await reached(rig.is_right, "the routes")
            assert not any(report.repaired for report in reports), "the first filling is no repair"
            for number in range(120):
                rig.tables.tamper_delete(TABLE, subnet(number))
            began = now()
            await reached(rig.is_right, "the repair")
            return now() - began, reports

    took, reports = virtually(scenario())
    assert took <= 31
    assert sum(len(report.repaired) for report in reports) == 120, "in three cycles, and all of them are"


def keep_reports(rig: CloudRig) -> list[Report]:
    reports: list[Report] = []
    mend = rig.reconciler.mend

    async def mending(view: View) -> Report:
        reports.append(await mend(view))
        return reports[-1]

    rig.reconciler.mend = mending  # type: ignore[method-assign]
    return reports


# Batches.


def test_a_thousand_routes_are_a_thousand_calls_in_batches_and_statuses_say_who_waits() -> None:
    async def scenario() -> None:
        tables = MemoryRoutes(nature=Nature(latency=0.1), pace=Pace(10.0))
        async with running(CloudRig(many(1000), tables)) as rig:
            await reached(lambda: len(rig.there()) > 100, "the first hundred")
            states = {status.state for status in rig.reconciler.account.statuses.values()}
            assert states == {"pending"}
            assert len(rig.there()) + len(rig.reconciler.account.statuses) >= 1000
            assert not any(s.told for s in rig.reconciler.account.statuses.values())
            await reached(rig.is_right, "all of them", within=300)
            assert rig.calls("insert") == 1000
            assert now() <= 1000 / 10.0 * 1.1, "at the pace that is allowed"
            assert rig.reconciler.left == ()

    virtually(scenario())


def test_what_comes_in_the_middle_of_a_large_batch_does_not_wait_for_all_of_it() -> None:
    async def scenario() -> float:
        tables = MemoryRoutes(nature=Nature(latency=0.1), pace=Pace(10.0))
        async with running(CloudRig(many(1000), tables)) as rig:
            await reached(lambda: len(rig.there()) > 100, "the first hundred")
            began = now()
            moved = next(iter(rig.there()))
            rig.want({**many(1000), moved: host(77)})
            await reached(lambda: rig.there()[moved] == [host(77)], "a change, which goes first")
            return now() - began

    assert virtually(scenario()) < 12


def test_where_each_change_takes_long_a_batch_becomes_long_and_is_short_again_once_little_is_left() -> None:
    async def scenario() -> list[int]:
        class Slow(MemoryRoutes):
            async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
                sizes.append(len(ops))
                await asyncio.sleep(len(ops) / 10.0 + 12.0)
                return await super().apply(ops)

        sizes: list[int] = []
        async with running(CloudRig(many(1000), Slow())) as rig:
            await reached(rig.is_right, "all of them", within=600)
            rig.want({**many(1000), subnet(2000): host(1)})
            await reached(rig.is_right, "one more")
            rig.want(many(1200))
            await reached(rig.is_right, "and many more", within=600)
        return sizes

    assert virtually(scenario()) == [50, 240, 240, 240, 230, 1, 50, 151]


def test_changes_come_before_additions_before_removals() -> None:
    async def scenario() -> list[str]:
        rig = CloudRig({subnet(n): host(n) for n in range(4)}, options=CloudOptions(takes=2))
        for number in range(2):
            rig.tables.put(CloudRoute(TABLE, subnet(number), host(99)))
            rig.tables.put(CloudRoute(TABLE, subnet(number + 100), host(99)))
        done: list[str] = []
        for _ in range(4):
            report = await rig.loop.step()
            assert report is not None
            done.append(" ".join(op.action for op in report.done))
        return done

    assert virtually(scenario()) == ["change change", "add add", "remove", "remove"]


def test_a_thousand_routes_with_a_tenth_of_all_calls_failing() -> None:
    async def scenario() -> None:
        tables = MemoryRoutes(nature=Nature(latency=0.05), pace=Pace(50.0))
        tables.faults.by_chance(chance(random.Random(6), 0.1))
        async with running(CloudRig(many(1000), tables)) as rig:
            await reached(rig.is_right, "all of them", within=600)
            assert len(tables.faults.met) > 80
            assert rig.calls("insert") < 1300
            tables.faults.by_chance(None)
            await asyncio.sleep(61)
            assert rig.is_right()

    virtually(scenario())


def chance(randomness: random.Random, share: float) -> Chance:
    def strikes(_: str) -> Fault | None:
        kinds: tuple[Fault, ...] = ("refused", "lost", "busy")
        return randomness.choice(kinds) if randomness.random() < share else None

    return strikes


# Failures.


@pytest.mark.parametrize("kind", ["refused", "lost"])
@pytest.mark.parametrize("number", range(1, 9))
def test_any_call_may_fail_and_it_heals_without_a_gap(number: int, kind: Fault) -> None:
    """The calls: a list, two inserts, then a change (insert, delete) and a removal, and what follows the failure."""

    async def scenario() -> None:
        rig = CloudRig({subnet(1): host(1), subnet(2): host(2)})
        rig.tables.put(CloudRoute(TABLE, subnet(3), host(9)))
        rig.tables.put(CloudRoute(TABLE, subnet(4), host(4)))
        rig.tables.put_foreign(TABLE, subnet(5), "a route of somebody's")
        wanted = {subnet(1): host(1), subnet(2): host(2), subnet(3): host(3)}
        rig.world.wanted = wanted
        rig.tables.faults.at(kind, number)
        start = len(rig.tables.history)
        async with running(rig):
            await reached(rig.is_right, "healing", within=10)
            await asyncio.sleep(70)
        assert rig.is_right()
        assert rig.tables.faults.outstanding == 0, "the failure was not met"
        gaps = [m for m in list(rig.tables.history)[start:] if m.key == cloud_key(TABLE, subnet(3)) and not m.entries]
        assert gaps == []
        assert [e.whose for e in rig.tables.entries(TABLE, subnet(5))] == ["a route of somebody's"]

    virtually(scenario())


def test_after_a_failure_it_reads_soon_and_not_more_than_once_a_second() -> None:
    async def scenario() -> tuple[int, list[float]]:
        tables = MemoryRoutes()
        moments: list[float] = []
        async with running(CloudRig(THREE, tables)) as rig:
            await reached(rig.is_right, "the routes")
            await asyncio.sleep(5)
            read = tables.read

            async def reading() -> Contents:
                moments.append(now())
                return await read()

            tables.read = reading  # type: ignore[method-assign]
            before = rig.calls("insert")
            tables.faults.by_chance(only("insert"))
            rig.want({**THREE, subnet(9): host(9)})
            await asyncio.sleep(20)
            return rig.calls("insert") - before, moments

    inserts, moments = virtually(scenario())
    assert moments, "a failure asks for a reading"
    assert min(b - a for a, b in itertools.pairwise(moments)) >= SOON
    assert inserts <= len(moments) + 1, "and nothing is tried again on an old reading"
    assert inserts >= 4


def only(method: str) -> Chance:
    """Every call of this method is refused."""
    return lambda call: "refused" if call.startswith(f"{method} ") else None


def test_a_table_that_can_not_be_read_is_not_written_and_asked_again_with_backoff() -> None:
    async def scenario() -> None:
        rig = CloudRig(THREE)
        rig.tables.faults.by_chance(lambda _: "refused")
        async with running(rig):
            await asyncio.sleep(60)
            assert rig.calls("insert") == 0
            assert 3 <= rig.calls("list") <= 10
            (status,) = rig.reconciler.account.statuses.values()
            assert "it can't be read" in status.message
            rig.tables.faults.by_chance(None)
            await reached(rig.is_right, "the routes", within=40)

    virtually(scenario())


def test_a_route_that_is_refused_for_ever_costs_little_and_stops_nothing() -> None:
    async def scenario() -> tuple[int, int]:
        tables = MemoryRoutes(nature=Nature(limit=3))
        async with running(CloudRig(many(4), tables)) as rig:
            await reached(lambda: len(rig.there()) == 3, "what fits")
            await asyncio.sleep(300)
            before = rig.calls()
            await asyncio.sleep(600)
            (status,) = rig.reconciler.account.statuses.values()
            assert "raise its quota" in status.message
            assert status.told
            return rig.calls() - before, status.attempts

    calls, _ = virtually(scenario())
    assert calls <= 4.5 * 20, "an attempt, and a reading after it, each half a minute"


# Who leads.


def test_a_thousand_routes_that_are_refused_for_one_cause_take_turns_and_come_at_once_when_it_is_over() -> None:
    async def scenario() -> tuple[int, float]:
        tables = MemoryRoutes()
        tables.faults.by_chance(lambda call: "refused" if call.startswith("insert") else None)
        async with running(CloudRig(many(1000), tables)) as rig:
            await asyncio.sleep(120)
            before = rig.calls()
            await asyncio.sleep(360)
            calls = rig.calls() - before
            assert len(rig.reconciler.account.statuses) == 1000
            rig.want({**many(1000), subnet(2000): host(1)})
            tables.faults.clear()
            began = now()
            await reached(rig.is_right, "all of them", within=300)
            return calls, now() - began

    calls, seconds = virtually(scenario())
    assert calls <= 6 * (30 + 60), "a turn each two seconds, and a reading at most for each"
    assert seconds <= 60


def test_who_does_not_lead_makes_no_call_and_has_no_errors() -> None:
    async def scenario() -> None:
        leads = [False]
        rig = CloudRig(THREE, options=CloudOptions(lead=lambda: leads[0]))
        async with running(rig):
            await asyncio.sleep(300)
            assert rig.tables.faults.seen == 0
            assert rig.cycles < 50
            assert {s.state for s in rig.reconciler.account.statuses.values()} <= {"pending"}
            assert rig.target.contents is None
            answers = await rig.target.apply(rig.reconciler.left)
            assert answers == [Failure(NOT_LEADING)] * 3
            assert rig.tables.faults.seen == 0

    virtually(scenario())


def test_what_was_known_last_is_there_for_people_while_this_manager_leads_no_longer() -> None:
    async def scenario() -> None:
        leads = [True]
        rig = CloudRig(THREE, options=CloudOptions(lead=lambda: leads[0]))
        assert rig.target.last is None
        async with running(rig):
            await reached(rig.is_right, "the routes")
            leads[0] = False
            rig.loop.wake()
            await reached(lambda: rig.target.contents is None, "the lead to be seen to be lost")
            last = rig.target.last
            assert last is not None
            assert len(last.routes) == 3
            leads[0] = True
            rig.loop.wake()
            await reached(lambda: rig.target.contents is not None, "a new reading")
            assert rig.target.last is rig.target.contents

    virtually(scenario())


def test_who_begins_to_lead_reads_first() -> None:
    async def scenario(away: float) -> None:
        leads = [True]
        rig = CloudRig(THREE, options=CloudOptions(lead=lambda: leads[0]))
        async with running(rig):
            await reached(rig.is_right, "the routes")
            leads[0] = False
            rig.loop.wake()
            await asyncio.sleep(0.5)
            calls = rig.calls()
            other = CloudRoute(TABLE, subnet(1), host(55))  # the other leader's doing
            rig.tables.put(other)
            rig.tables.tamper_delete(TABLE, subnet(2))
            rig.want({**THREE, subnet(8): host(8)})
            await asyncio.sleep(away)
            assert rig.calls() == calls
            asked: list[str] = []
            rig.tables.faults.by_chance(asked.append)
            leads[0] = True
            rig.loop.wake()
            await reached(rig.is_right, "what this one knows", within=1)
            assert [call.split()[0] for call in asked[:2]] == ["list", "insert"]

    virtually(scenario(1.0))
    virtually(scenario(300.0))


def test_a_batch_is_cut_off_when_this_manager_leads_no_longer() -> None:
    async def scenario() -> None:
        leads = [True]
        tables = MemoryRoutes(nature=Nature(latency=1.0))
        rig = CloudRig(many(40), tables, CloudOptions(lead=lambda: leads[0]))
        async with running(rig):
            await reached(lambda: len(rig.there()) >= 8, "the first few")
            leads[0] = False
            await asyncio.sleep(FENCE)
            seen, there = tables.faults.seen, len(rig.there())
            await asyncio.sleep(100)
            assert tables.faults.seen == seen
            assert len(rig.there()) == there
            assert {s.state for s in rig.reconciler.account.statuses.values()} == {"pending"}
            leads[0] = True
            rig.loop.wake()
            await reached(rig.is_right, "the rest")

    virtually(scenario())


# Dry run.


def test_a_dry_run_reads_writes_nothing_and_says_what_it_would_do() -> None:
    async def scenario() -> None:
        rig = CloudRig(THREE, options=CloudOptions(dry_run=True))
        rig.tables.put(CloudRoute(TABLE, subnet(1), host(9)))
        rig.tables.put(CloudRoute(TABLE, subnet(7), host(7)))
        async with running(rig):
            await asyncio.sleep(1)
            assert plan_of(rig.reconciler.left) == {"change": 1, "add": 2, "remove": 1}
            assert {s.state for s in rig.reconciler.account.statuses.values()} == {"pending"}
            cycles = rig.cycles
            rig.want({**THREE, subnet(4): host(4)})
            await asyncio.sleep(600)
            assert plan_of(rig.reconciler.left) == {"change": 1, "add": 3, "remove": 1}
            assert rig.cycles - cycles < 60, "it doesn't spin"
            assert rig.calls("insert", "delete") == 0
            assert rig.calls("list") <= 21
            assert await rig.target.apply(rig.reconciler.left[:1]) == [Failure(DRY)]
            rig.want({subnet(1): host(9), subnet(7): host(7)})
            await asyncio.sleep(1)
            assert rig.reconciler.left == ()
            assert not rig.reconciler.account.statuses

    virtually(scenario())


def plan_of(ops: Sequence[Op]) -> dict[str, int]:
    return {action: sum(op.action == action for op in ops) for action in ("change", "add", "remove")}


# Others' routes, and sources that haven't spoken.


def test_what_is_somebody_elses_is_a_conflict_until_it_goes() -> None:
    async def scenario() -> None:
        rig = CloudRig(THREE)
        rig.tables.put_foreign(TABLE, subnet(1), "route vpn of somebody's")
        async with running(rig):
            await asyncio.sleep(100)
            status = rig.reconciler.account.statuses[cloud_key(TABLE, subnet(1))]
            assert status.state == "conflict"
            assert "route vpn of somebody's" in status.message
            rig.tables.tamper_delete(TABLE, subnet(1))
            await reached(rig.is_right, "ours in its place", within=31)

    virtually(scenario())


def test_what_bears_our_mark_outside_of_what_may_be_routed_is_another_clusters() -> None:
    """Two clusters in one VPC, both with flannel's default prefix: only their networks tell their routes apart."""

    async def scenario() -> None:
        spans: list[tuple[IPNetwork, ...]] = [(ip_network("10.0.0.0/17"), ip_network("10.0.128.0/17"))]
        rig = CloudRig({subnet(1): host(1)}, options=CloudOptions(inside=lambda: spans[0]))
        theirs = CloudRoute(TABLE, ip_network("10.9.1.0/24"), host(9))
        for route in (
            theirs,
            CloudRoute(TABLE, subnet(200), host(7)),
            CloudRoute(TABLE, ip_network("fd00::/64"), None),
        ):
            rig.tables.put(route)
        rig.tables.put(CloudRoute(TABLE, ip_network("10.0.0.0/16"), host(1)))
        async with running(rig):
            await reached(
                lambda: subnet(1) in rig.there() and len(rig.there()) == 3, "ours, and what isn't wanted gone"
            )
            assert rig.there() == {
                subnet(1): [host(1)],
                theirs.dst: [host(9)],
                ip_network("fd00::/64"): [None],
            }, "a route across adjacent networks of ours is ours, and goes"
            contents = rig.target.contents
            assert contents is not None
            (problem,) = contents.problems
            assert not problem.wrong
            assert "10.9.1.0/24" in problem.message.replace("-", ".").replace("0.24", "0/24")
            rig.want({subnet(1): host(1), theirs.dst: host(1)})
            await asyncio.sleep(100)
            assert rig.there()[theirs.dst] == [host(9)], "it is not taken over either"
            assert rig.reconciler.account.statuses[theirs.key].state == "conflict"
            readings = rig.target.readings
            spans[0] = (*spans[0], ip_network("10.9.0.0/16"))
            rig.loop.wake()
            await reached(lambda: rig.there()[theirs.dst] == [host(1)], "it to be ours once it may be", within=1)
            assert rig.target.readings == readings, "no call is made for that"

    virtually(scenario())


def test_nothing_is_removed_before_every_source_has_spoken_and_batches_keep_to_that() -> None:
    async def scenario() -> None:
        rig = CloudRig(many(120), options=CloudOptions(takes=50))
        for number in range(100, 200):
            rig.tables.put(CloudRoute(TABLE, subnet(number), host(number)))
        rig.world.synced = False
        async with running(rig):
            await reached(lambda: len(rig.there()) == 200, "the additions")
            await asyncio.sleep(60)
            assert len(rig.there()) == 200
            rig.world.synced = True
            rig.loop.wake()
            await reached(rig.is_right, "the removals")

    virtually(scenario())


def test_it_settles_what_it_brought_about_itself_in_batches() -> None:
    """What this run has brought about may go before every source has spoken; what it hasn't yet may not."""

    async def scenario() -> None:
        rig = CloudRig(many(120), options=CloudOptions(takes=50))
        rig.tables.put(CloudRoute(TABLE, subnet(500), host(1)))
        rig.world.synced = False
        async with running(rig):
            await reached(lambda: len(rig.there()) == 121, "the additions")
            rig.want(many(60))
            await reached(lambda: len(rig.there()) == 61, "its own go, the former run's stays")
            await asyncio.sleep(60)
            assert subnet(500) in rig.there()

    virtually(scenario())


# Stopping.


@pytest.mark.parametrize("at", [0.0, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55])
def test_cancelled_in_the_middle_the_next_run_ends_up_right(at: float) -> None:
    async def scenario() -> None:
        tables = MemoryRoutes(nature=Nature(latency=0.1))
        for number in range(20):
            tables.put(CloudRoute(TABLE, subnet(number), host(number + 1)))
        rig = CloudRig(many(20), tables)
        task = asyncio.create_task(rig.loop.run())
        await asyncio.sleep(at)
        task.cancel()
        began = now()
        await asyncio.gather(task, return_exceptions=True)
        assert now() == began, "it ends at once"
        seen = tables.faults.seen
        await asyncio.sleep(10)
        assert tables.faults.seen == seen, "nothing goes on behind"
        async with running(CloudRig(many(20), tables)) as again:
            await reached(again.is_right, "the next run")
        assert all(moment.entries for moment in tables.history), "no destination was ever absent"

    virtually(scenario())


def test_cut_off_in_one_cycle_the_next_one_of_the_same_loop_is_right_too() -> None:
    async def scenario() -> None:
        tables = MemoryRoutes(nature=Nature(latency=0.1))
        rig = CloudRig(many(20), tables)
        step = asyncio.create_task(rig.loop.step())
        await asyncio.sleep(0.25)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        assert 0 < len(rig.there()) < 20
        async with running(rig):
            await reached(rig.is_right, "the rest", within=5)

    virtually(scenario())


def test_while_a_slow_api_is_waited_for_the_event_loop_answers_others() -> None:
    async def scenario() -> None:
        tables = MemoryRoutes(nature=Nature(latency=30.0))
        async with running(CloudRig(THREE, tables)) as rig:
            await asyncio.sleep(31)
            answered = 0
            for _ in range(100):
                await asyncio.sleep(0.1)
                answered += 1
                assert rig.reconciler.account.cycles == 0, "the cycle is still under way"
            assert answered == 100

    virtually(scenario())


def test_a_backend_that_breaks_its_word_is_told_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Short(MemoryRoutes):
        async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
            return (await super().apply(ops))[1:]

    async def scenario() -> None:
        rig = CloudRig(THREE, Short())
        await rig.loop.step()
        messages = {status.message for status in rig.reconciler.account.statuses.values()}
        assert messages == {"memory gave 2 answers to 3 changes; please report it"}
        await asyncio.sleep(2)
        await rig.loop.step()
        assert rig.is_right(), "a reading found that they were done"

    virtually(scenario())


async def test_it_closes_without_a_timer_left_behind() -> None:
    target = CloudTarget(MemoryRoutes())
    target.watch(lambda: pytest.fail("woken after close"))
    await target.read()
    target.close()
    assert target.lines([]) == []
    assert target.kinds == (CloudRoute,)


# The figure to reach.


def test_a_thousand_random_changes_with_a_tenth_of_all_calls_failing() -> None:
    """No wanted destination is absent at any instant, and nobody else's route is touched. The cloud's own history says
    so: each state of each destination is judged by what was wanted when it began."""
    gone, foreign, met, changes = virtually(_thousand_changes(random.Random(20261120)))
    assert gone == []
    assert foreign == []
    assert met > 100
    assert changes > 700


async def _thousand_changes(randomness: random.Random) -> tuple[list[Moment], list[object], int, int]:
    tables = MemoryRoutes(nature=Nature(latency=0.02), pace=Pace(100.0))
    others = [ip_network(f"172.16.{n}.0/24") for n in range(20)]
    for dst in others:
        tables.put_foreign(TABLE, dst, "a route of somebody's")
    wanted: Wanted = many(60)
    rig = CloudRig(wanted, tables, CloudOptions(takes=20))
    turns: list[Turn] = [(len(tables.history), wanted)]
    start = len(tables.history)
    begins = begins_of(rig, turns)
    async with running(rig):
        await reached(rig.is_right, "the beginning")
        tables.faults.by_chance(chance(randomness, 0.1))
        for _ in range(1000):
            wanted = _changed(wanted, randomness)
            turns.append((len(tables.history), wanted))
            rig.want(wanted)
            await asyncio.sleep(randomness.expovariate(1 / 0.15))
        tables.faults.by_chance(None)
        await reached(rig.is_right, "the end", within=120)
        await asyncio.sleep(61)
        assert rig.is_right()
    moments = list(tables.history)[start:]
    touched: list[object] = [m for m in moments if m.entries and m.entries[0].dst in others]
    touched.extend(dst for dst in others if [e.whose for e in tables.entries(TABLE, dst)] != ["a route of somebody's"])
    return _absent(list(tables.history), turns, begins), touched, len(tables.faults.met), len(moments)


def begins_of(rig: CloudRig, turns: Sequence[Turn]) -> list[tuple[int, int]]:
    """How long the history was when each cycle knew what is wanted, and which turn that was."""
    begins: list[tuple[int, int]] = []
    view = rig.world.view

    def viewed() -> View | None:
        begins.append((len(rig.tables.history), len(turns) - 1))
        return view()

    rig.world.view = viewed  # type: ignore[method-assign]
    return begins


def _changed(wanted: Mapping[IPNetwork, IPAddress], randomness: random.Random) -> Wanted:
    """One more, one less, or one that another host has now."""
    new, kind = dict(wanted), randomness.random()
    if kind < 0.35:
        new[subnet(randomness.randrange(200))] = host(randomness.randrange(250))
    elif kind < 0.55 and new:
        del new[randomness.choice(list(new))]
    elif new:
        new[randomness.choice(list(new))] = host(randomness.randrange(250))
    return new


def _absent(history: Sequence[Moment], turns: Sequence[Turn], begins: Sequence[tuple[int, int]]) -> list[Moment]:
    """Moments from which on a destination had no route that was wanted then, and at every moment since the cycle began
    that did it. What is wanted again while its removal is under way comes back in the next cycle."""
    found: list[Moment] = []
    for number, moment in enumerate(history):
        _, first = begins[max(bisect_right(begins, number, key=lambda begin: begin[0]) - 1, 0)]
        last = bisect_right(turns, number, key=lambda turn: turn[0])
        since = (wanted for _, wanted in turns[first:last])
        if not moment.entries and all(moment.key in {cloud_key(TABLE, dst) for dst in wanted} for wanted in since):
            found.append(moment)
    return found


async def test_a_reading_that_is_cut_off_leaves_the_next_one_due() -> None:
    tables = MemoryRoutes()
    tables.faults.next("refused")
    target = CloudTarget(tables)
    with pytest.raises(TargetError, match="made to fail"):
        await target.read()
    with pytest.raises(TargetError, match="made to fail"):
        await target.read()
    assert target.readings == 1, "the second one asks nobody: not more than once a second"
    assert view_of({}).table_routes == ()
