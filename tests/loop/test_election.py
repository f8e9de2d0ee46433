"""Which of several managers writes, over the memory store in virtual time: processes and answers stall, etcd goes,
clocks jump and drift, people delete keys. At no instant do two believe that they lead."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.contender import Contender, Leader
from weft.agent.election import LIFE, SHARE, Election, Standing
from weft.agent.reconcile import Clock
from weft.errors import StoreForbidden, StoreUnreachable
from weft.stores import Delete, Entry, Guard, Put, Snapshot
from weft.stores.memory import MemoryServer, MemoryStore, _Lease

KEY = "/coreos.com/network/weft/route-manager/1234abcd"
WALL = 1.8e9
GONE = StoreUnreachable("memory: nobody answers")
GRAIN = 0.05
MARGIN = LIFE / SHARE


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)


class Stalling(MemoryStore):
    """A client in a process that may be stopped, on a network that takes its time. `delay`: of each question and of
    each answer."""

    def __init__(self, server: MemoryServer, delay: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(server)
        self.delay = delay
        self.running = asyncio.Event()
        self.running.set()

    async def _way(self) -> None:
        seconds = self.delay()
        if seconds:
            await asyncio.sleep(seconds)
        await self.running.wait()

    async def get(self, key: str) -> Entry | None:
        await self._way()
        answer = await super().get(key)
        await self._way()
        return answer

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
        await self._way()
        async with contextlib.aclosing(super().watch(prefix)) as sets:
            async for snapshot in sets:
                await self._way()
                yield snapshot

    async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        await self._way()
        answer = await super().commit(changes, guards)
        await self._way()
        return answer

    async def grant(self, seconds: int) -> int:
        await self._way()
        answer = await super().grant(seconds)
        await self._way()
        return answer

    async def keep_alive(self, lease: int) -> int:
        await self._way()
        answer = await super().keep_alive(lease)
        await self._way()
        return answer

    async def remaining(self, lease: int) -> int:
        await self._way()
        answer = await super().remaining(lease)
        await self._way()
        return answer


@dataclass(eq=False)
class Manager:
    """One process. `rate`: of its clock against the true time; `jump`: of its wall clock, seconds."""

    name: str
    store: Stalling
    election: Election
    wall: list[float]
    seen: list[Standing] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        async for standing in self.election.standings():
            self.seen.append(standing)

    def stall(self) -> None:
        """SIGSTOP."""
        self.store.running.clear()

    def go_on(self) -> None:
        self.store.running.set()

    async def die(self) -> None:
        """kill -9."""
        self.store.fail(GONE)
        await self.election.close()

    @property
    def leads(self) -> bool:
        return self.election.leads()


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.loop = asyncio.get_running_loop()
        assert isinstance(self.loop, VirtualLoop)
        self.loop.clocks.append(self.server)
        self.managers: list[Manager] = []
        self.led: list[str] = []
        self.watching = asyncio.ensure_future(self._judge())

    async def _judge(self) -> None:
        while True:
            self._judge_now()
            await asyncio.sleep(GRAIN)

    def _judge_now(self) -> None:
        leaders = [manager.name for manager in self.managers if manager.leads]
        assert len(leaders) < 2, f"{leaders} lead at {self.loop.time():.2f} s"
        if leaders and self.led[-1:] != leaders:
            self.led.extend(leaders)

    def manager(self, delay: Callable[[], float] = lambda: 0.0, rate: float = 1.0, place: str = "") -> Manager:
        name = f"m{len(self.managers)}"
        store, wall = Stalling(self.server, delay), [0.0]
        clock = Clock(lambda: self.loop.time() * rate, lambda: WALL + self.loop.time() + wall[0])
        me = Contender(name, 100 + len(self.managers), f"run-of-{name}", place, 1 if place else 0)
        made = Manager(name, store, Election(store, KEY, me, LIFE, clock), wall)
        made.task = asyncio.ensure_future(made.follow())
        self.managers.append(made)
        return made

    async def leader(self, among: Sequence[Manager] = (), within: float = 60.0) -> Manager:
        """Who leads, as soon as somebody does."""
        some = among or self.managers
        await reached(lambda: self.watching.done() or any(one.leads for one in some), "a leader", within)
        self.check()
        return next(one for one in some if one.leads)

    async def pass_by(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        await reached(lambda: self.watching.done() or self.loop.time() >= until, "time", seconds + 1)
        self.check()

    def check(self) -> None:
        if self.watching.done():
            self.watching.result()
        self._judge_now()

    def value(self) -> Leader:
        return msgspec.json.decode(self.server.entries[KEY].value, type=Leader)

    async def end(self) -> None:
        self.check()
        self.watching.cancel()
        for manager in self.managers:
            manager.go_on()
            await manager.election.close()
            if manager.task is not None:
                await manager.task
        await asyncio.gather(self.watching, return_exceptions=True)


def in_a_world(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def test() -> None:
        async def whole() -> None:
            world = World()
            try:
                await scenario(world)
            finally:
                await world.end()

        virtually(whole())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


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


@in_a_world
async def test_a_key_that_somebody_deletes_is_written_anew_by_who_led(world: World) -> None:
    for delay in (0.0, 2.0):
        one = world.manager(lambda delay=delay: delay)  # type: ignore[misc]
        await world.leader([one])
        two = world.manager()
        await world.pass_by(20)
        world.server.change(Delete(KEY))
        await reached(lambda: KEY in world.server.entries, "the key", 10)
        assert world.value().host == one.name
        await world.leader([one], within=10)
        await two.election.close()
        await one.election.resign()
        await world.pass_by(LIFE + 1)


@in_a_world
async def test_a_lease_that_etcd_ends_too_early_makes_no_second_leader(world: World) -> None:
    """etcd 3.4: a leader that was stopped revokes, once it goes on, what was renewed meanwhile."""
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(20)
    one.stall()
    (lease,) = world.server.leases
    world.server.end_lease(lease)
    began = world.loop.time()
    await world.leader([two])
    assert LIFE - 0.1 <= world.loop.time() - began <= LIFE + 2
    one.go_on()
    await world.pass_by(60)
    assert world.led == ["m0", "m1"]


@in_a_world
async def test_it_leads_on_when_etcd_ends_its_lease_too_early(world: World) -> None:
    one = world.manager()
    await world.leader()
    world.manager()
    await world.pass_by(20)
    (lease,) = world.server.leases
    world.server.end_lease(lease)
    await world.pass_by(0.2)
    assert one.leads
    assert KEY in world.server.entries


@in_a_world
async def test_what_was_seen_of_a_lease_long_ago_says_nothing_of_its_end(world: World) -> None:
    """It was renewed since then. Somebody deletes the key, and its holder can't hear of it."""
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(5)

    async def lost(lease: int) -> int:
        raise GONE

    two.store.remaining = lost  # type: ignore[method-assign]
    await world.pass_by(20)
    one.stall()
    world.server.change(Delete(KEY))
    began = world.loop.time()
    await world.leader([two])
    assert world.loop.time() - began > LIFE - MARGIN


@in_a_world
async def test_an_etcd_that_was_restored_makes_no_second_leader(world: World) -> None:
    one = world.manager()
    two = world.manager()
    await world.leader([one])
    await world.pass_by(20)
    one.stall()
    world.server.fail(GONE)
    await world.pass_by(0.1)
    world.server.entries, world.server.leases, world.server.revision = {}, {}, 1
    world.server.fail(None)
    began = world.loop.time()
    await world.leader([two])
    assert world.loop.time() - began > LIFE - MARGIN
    one.go_on()
    await world.pass_by(60)
    assert world.led == ["m0", "m1"]


@in_a_world
async def test_the_history_of_the_store_becomes_shorter_unnoticed_by_the_watch(world: World) -> None:
    one = world.manager()
    await world.leader()
    await one.election.resign()
    two = world.manager()
    await world.leader([two])
    world.server.entries, world.server.leases, world.server.revision = {}, {}, 1
    world.server.compact()
    await world.pass_by(LIFE + 5)
    assert two.leads
    assert world.value().host == two.name


@in_a_world
async def test_who_led_once_hears_of_a_shorter_history(world: World) -> None:
    for _ in range(10):
        world.server.change(Put("/another", b""))
    one = world.manager()
    await world.leader()
    two = world.manager()
    await world.pass_by(5)
    one.stall()
    await world.leader([two])
    one.go_on()
    await world.pass_by(5)
    entry = world.server.entries[KEY]
    world.server.entries, world.server.revision = {KEY: msgspec.structs.replace(entry, modified=1, created=1)}, 1
    world.server.compact()
    await world.pass_by(1)
    await two.die()
    await world.leader([one], within=LIFE + 1)


@pytest.mark.parametrize("whose", ["of one that resigned", "of one that stands by"])
def test_a_key_that_came_back_with_an_older_etcd_is_nobodys_for_the_life_of_a_lease(whose: str) -> None:
    """A backup holds the key of who led then, which may be free for the taking by what it says. Who leads now, and is
    cut off, knows nothing of it."""

    @in_a_world
    async def scenario(world: World) -> None:
        for _ in range(10):
            world.server.change(Put("/another", b""))
        one = world.manager()
        await world.leader()
        kept, entry = world.value(), world.server.entries[KEY]
        two = world.manager()
        await world.pass_by(5)
        if whose == "of one that resigned":
            await one.election.resign()
            kept = msgspec.structs.replace(kept, resigned=True)
        else:
            one.stall()
        await world.leader([two])
        one.go_on()
        await world.pass_by(5)
        third = world.manager() if whose == "of one that resigned" else one
        await world.pass_by(5)
        two.stall()
        world.server.leases[entry.lease] = _Lease(LIFE, world.server.now + LIFE)
        value = msgspec.json.encode(kept)
        world.server.entries, world.server.revision = {KEY: Entry(KEY, value, 1, 1, 1, entry.lease)}, 1
        world.server.compact()
        await world.leader([third], within=3 * LIFE)
        two.go_on()
        await world.pass_by(LIFE)

    scenario()


@in_a_world
async def test_who_never_saw_the_key_waits_too_when_the_history_becomes_shorter(world: World) -> None:
    world.server.change(Put("/another", b""))
    two = world.manager()
    forbidden = StoreForbidden("memory: read only")

    async def refused(changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        raise forbidden

    commit, two.store.commit = two.store.commit, refused  # type: ignore[method-assign]
    await world.pass_by(5)
    two.store.fail(GONE)
    one = world.manager()
    await world.leader([one])
    one.stall()
    world.server.entries, world.server.leases, world.server.revision = {}, {}, 1
    two.store.fail(None)
    two.store.commit = commit  # type: ignore[method-assign]
    await world.leader([two])


def test_what_a_dead_process_of_this_machine_left_is_not_waited_for() -> None:
    code = "import msgspec; from weft.agent.contender import *; print(msgspec.json.encode(contender_here()).decode())"
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    left = msgspec.json.decode(ran.stdout, type=Leader)

    @in_a_world
    async def scenario(world: World) -> None:
        world.server.change(Put(KEY, msgspec.json.encode(left), world.server.grant(LIFE)))
        await world.leader([world.manager()], within=0.2)

    scenario()


@pytest.mark.parametrize("answer", [False, True])
def test_an_answer_that_is_lost_is_found_again(answer: bool) -> None:
    @in_a_world
    async def scenario(world: World) -> None:
        (world.server.lose_answer if answer else world.server.fail_next)(GONE, 1 if answer else 3)
        one = world.manager()
        await world.leader(within=5)
        assert not world.server.outstanding
        await world.pass_by(60)
        assert one.leads
        assert len(world.server.commits) == 1

    scenario()


@in_a_world
async def test_of_many_that_start_together_one_leads(world: World) -> None:
    for _ in range(20):
        world.manager()
    await world.leader(within=1)
    await world.pass_by(60)
    assert len(world.led) == 1
    assert all(manager.seen[-1].leader == world.value() for manager in world.managers)


@in_a_world
async def test_a_key_without_a_lease_is_told_and_not_stolen(world: World) -> None:
    world.server.change(Put(KEY, b"somebody else's"))
    one = world.manager()
    await world.pass_by(100)
    assert not one.leads
    assert "held by somebody whose value can't be read without an etcd lease" in one.seen[-1].problem
    world.server.change(Delete(KEY))
    await world.leader(within=LIFE + 1)
    assert one.seen[-1].problem == ""


@in_a_world
async def test_a_key_of_ours_that_lost_its_lease_gets_one(world: World) -> None:
    one = world.manager()
    await world.leader()
    await world.pass_by(5)
    world.server.change(Put(KEY, world.server.entries[KEY].value))
    await world.pass_by(1)
    assert one.leads
    assert world.server.entries[KEY].lease
    world.server.end_lease(world.server.entries[KEY].lease)
    world.server.change(Put(KEY, msgspec.json.encode(one.election.leader)))
    await world.pass_by(LIFE)
    assert one.leads
    assert world.server.entries[KEY].lease
    assert len(world.server.commits) < 6


@in_a_world
async def test_a_key_of_ours_without_a_lease_while_we_have_none_gets_one(world: World) -> None:
    one = world.manager()
    await world.leader()
    await world.pass_by(5)
    one.stall()
    await world.pass_by(2 * MARGIN)
    world.server.end_lease(world.server.entries[KEY].lease)
    world.server.change(Put(KEY, msgspec.json.encode(one.election.leader)))
    one.go_on()
    await world.pass_by(1)
    assert one.leads
    assert world.server.entries[KEY].lease


@in_a_world
async def test_a_store_that_forbids_is_told(world: World) -> None:
    one = world.manager()
    one.store.fail(StoreForbidden("memory: permission denied"))
    await world.pass_by(30)
    assert not one.leads
    assert "permission denied" in one.seen[-1].problem


@in_a_world
async def test_a_fault_of_its_own_is_logged_and_not_the_end(world: World) -> None:
    one = world.manager()
    await world.leader()

    async def broken(lease: int) -> int:
        raise ZeroDivisionError

    keep_alive, one.store.keep_alive = one.store.keep_alive, broken  # type: ignore[method-assign]
    await world.pass_by(4)
    one.store.keep_alive = keep_alive  # type: ignore[method-assign]
    await world.pass_by(60)
    assert one.leads
    assert world.led == ["m0"]


# ---- at no instant two ----


@dataclass
class Weather:
    """What happens to everybody, drawn by lot."""

    world: World
    dice: random.Random

    def delay(self) -> float:
        """Of a question or an answer: mostly little, at times more than a lease lives."""
        return self.dice.choice((0.0, 0.0, 0.01, 0.2, 1.0, self.dice.uniform(5, 12), self.dice.uniform(0, 25)))

    async def blow(self, seconds: float) -> None:
        until = self.world.loop.time() + seconds
        while self.world.loop.time() < until:
            await self.world.pass_by(self.dice.expovariate(0.5))
            await self.strike()
        self.world.server.fail(None)
        for manager in self.world.managers:
            manager.store.fail(None)
            manager.store.delay = lambda: 0.0
            manager.go_on()

    async def strike(self) -> None:
        server, manager = self.world.server, self.dice.choice(self.world.managers)
        match self.dice.randrange(10):
            case 0:
                server.fail(GONE if self.dice.random() < 0.5 else None)
            case 1 | 2:
                manager.stall()
            case 3 | 4 | 5:
                for one in self.world.managers:
                    one.go_on()
                    one.store.fail(None)
            case 6:
                manager.wall[0] += self.dice.uniform(-100, 100)
            case 7:
                manager.store.fail(GONE)
            case 8:
                server.compact()
            case 9:
                (server.lose_answer if self.dice.random() < 0.5 else server.fail_next)(GONE)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_at_no_instant_do_two_lead_whatever_happens(seed: int, count: int) -> None:
    async def scenario(world: World) -> None:
        dice = random.Random(seed)
        weather = Weather(world, dice)
        for _ in range(count):
            world.manager(weather.delay, dice.uniform(0.99, 1.01))
        await weather.blow(60.0)
        await world.leader(within=3 * LIFE)
        await world.pass_by(2 * LIFE)
        await world.leader(within=0.1)
        assert len({one.seen[-1].leader for one in world.managers}) == 1

    in_a_world(scenario)()
