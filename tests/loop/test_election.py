"""Which of several managers writes, over the memory store in virtual time: processes and answers stall, etcd goes,
clocks jump and drift, people delete keys. At no instant do two believe that they lead."""

from __future__ import annotations

import asyncio

from tests.loop.elections import GONE, KEY, MARGIN, WALL, World, in_a_world
from tests.support.virtual import reached
from weft.agent.election import LIFE, Standing
from weft.stores.memory import MemoryStore


@in_a_world
async def test_the_first_one_leads_at_once_and_says_who_it_is(world: World) -> None:
    one = world.manager()
    assert not one.leads
    await world.leader(within=0.1)
    await world.pass_by(100)
    assert one.leads
    value = world.value()
    assert (value.host, value.pid, value.resigned) == ("m0", 100, False)
    assert abs(value.since - WALL) < 1
    assert len(world.server.entries[KEY].value) < 200
    assert one.seen[-1] == Standing(True, value)
    assert one.election.leader == value
    assert value.name == "m0 (pid 100)"
    assert len(one.seen) == 2


@in_a_world
async def test_others_stand_by_and_know_who_leads(world: World) -> None:
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(300)
    assert (one.leads, two.leads) == (True, False)
    assert two.seen[-1] == Standing(False, world.value())
    assert len(world.server.leases) == 1
    assert len(world.server.commits) == 1, "a leader writes its key once"


@in_a_world
async def test_when_it_resigns_another_takes_over_at_once(world: World) -> None:
    one = world.manager()
    await world.leader()
    two, _three = world.manager(), world.manager()
    await world.pass_by(10)
    await one.election.resign()
    assert not one.leads
    began = world.loop.time()
    heir = await world.leader()
    assert heir is not one
    assert world.loop.time() - began < 0.3
    assert one.task is not None
    await one.task
    assert world.value().host in (two.name, "m2")


@in_a_world
async def test_when_it_resigns_alone_the_key_goes_by_itself(world: World) -> None:
    one = world.manager()
    await world.leader()
    await one.election.resign()
    assert world.value().resigned
    two = world.manager()
    await world.leader([two], within=0.2)
    await two.die()
    await world.pass_by(LIFE + 1)
    assert KEY not in world.server.entries


@in_a_world
async def test_who_does_not_lead_resigns_without_a_word(world: World) -> None:
    await world.leader([world.manager()])
    two = world.manager()
    await world.pass_by(5)
    await two.election.resign()
    assert world.value().host == "m0"
    assert len(world.server.commits) == 1


@in_a_world
async def test_when_it_dies_another_takes_over_within_the_life_of_its_lease(world: World) -> None:
    for second in range(4):
        one = world.manager()
        await world.leader([one])
        two = world.manager()
        await world.pass_by(20 + second)
        await one.die()
        began = world.loop.time()
        await world.leader([two])
        assert LIFE - MARGIN - 0.1 <= world.loop.time() - began <= LIFE + 0.3
        await two.election.resign()
        await world.pass_by(0.5)


@in_a_world
async def test_who_stands_back_is_followed_by_another_and_leads_again_when_that_one_goes(world: World) -> None:
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(20)
    one.election.stand_back(2 * LIFE)
    began = world.loop.time()
    assert await world.leader([two]) is two
    assert world.loop.time() - began <= LIFE + 0.3
    await world.pass_by(100)
    assert two.leads
    await two.election.resign()
    assert await world.leader([one], within=1) is one


@in_a_world
async def test_who_stands_back_alone_leads_again_after_that(world: World) -> None:
    one = world.manager()
    await world.leader()
    one.election.stand_back(2 * LIFE)
    await world.pass_by(2 * LIFE - 1)
    assert not one.leads
    assert await world.leader(within=2) is one


@in_a_world
async def test_a_stopped_process_has_lost_it_when_it_goes_on(world: World) -> None:
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(10)
    one.stall()
    assert await world.leader([two]) is two
    assert not one.leads
    one.go_on()
    assert not one.leads
    await world.pass_by(60)
    assert two.leads
    assert one.seen[-1].leader == world.value()


@in_a_world
async def test_a_short_stall_changes_nothing(world: World) -> None:
    one = world.manager()
    await world.leader()
    world.manager()
    for _ in range(5):
        one.stall()
        await world.pass_by(LIFE - 2 * MARGIN - 0.5)
        assert one.leads
        one.go_on()
        await world.pass_by(5)
    assert world.led == ["m0"]


@in_a_world
async def test_while_etcd_is_away_nobody_leads_after_the_life_of_the_lease(world: World) -> None:
    one, two = world.manager(), world.manager()
    leader = await world.leader()
    await world.pass_by(20)
    world.server.fail(GONE)
    began = world.loop.time()
    await reached(lambda: not leader.leads, "no leader")
    assert LIFE - 2 * MARGIN - 0.1 <= world.loop.time() - began <= LIFE - MARGIN + 0.1
    assert leader.seen[-1].leads is False
    assert leader.seen[-1].leader is not None
    assert "nobody answers" in leader.seen[-1].problem
    await world.pass_by(600)
    assert not one.leads
    assert not two.leads
    world.server.fail(None)
    began = world.loop.time()
    await world.leader()
    assert world.loop.time() - began <= LIFE + 2
    await reached(lambda: one.seen[-1].problem == two.seen[-1].problem == "", "no more problems")


@in_a_world
async def test_an_outage_shorter_than_the_lease_is_not_noticed(world: World) -> None:
    await world.leader([world.manager()])
    world.manager()
    await world.pass_by(20)
    for _ in range(5):
        world.server.fail(GONE)
        await world.pass_by(LIFE - 2 * MARGIN - 1)
        world.server.fail(None)
        await world.pass_by(5)
    assert world.led == ["m0"]
    assert world.managers[0].leads


@in_a_world
async def test_an_answer_that_took_long_is_counted_from_the_question(world: World) -> None:
    """The renewal is done, and its answer comes 20 s later: by then the lease is somebody else's."""
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(10)
    keep_alive = MemoryStore.keep_alive

    async def late(lease: int) -> int:
        answer = await keep_alive(one.store, lease)
        await asyncio.sleep(20)
        return answer

    one.store.keep_alive = late  # type: ignore[method-assign]
    await world.leader([two])
    await world.pass_by(60)
    assert world.led == ["m0", "m1"]


@in_a_world
async def test_an_answer_in_time_is_counted_from_the_question_too(world: World) -> None:
    """It comes when the term is not over yet, and is the last one to come."""
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(10)
    keep_alive = MemoryStore.keep_alive

    async def late(lease: int) -> int:
        answer = await keep_alive(one.store, lease)
        await asyncio.sleep(LIFE - 2 * MARGIN - 1)
        assert one.leads
        one.store.fail(GONE)
        return answer

    one.store.keep_alive = late  # type: ignore[method-assign]
    await world.leader([two])
    assert "nobody answers" in one.seen[-1].problem


@in_a_world
async def test_a_wall_clock_that_jumps_makes_no_second_leader(world: World) -> None:
    """A machine that was paused from outside may not know it but by its wall clock."""
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(10)
    one.wall[0] += 3600
    assert not one.leads
    await world.pass_by(4)
    assert one.leads
    one.wall[0] -= 7200
    two.wall[0] += 86400
    await world.pass_by(60)
    assert world.led == ["m0"]
    await one.die()
    await world.leader([two])
