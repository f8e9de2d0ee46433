"""Elections whose key or etcd is not as it was left: deleted keys, leases that ended too early, restored etcds, lost
answers. At no instant do two believe that they lead."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loop.elections import GONE, KEY, MARGIN, World, in_a_world
from tests.support.virtual import reached
from weft.agent.contender import Leader
from weft.agent.election import LIFE
from weft.errors import StoreForbidden
from weft.stores import Delete, Entry, Guard, Put
from weft.stores.memory import _Lease


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
