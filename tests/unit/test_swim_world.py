"""A whole cluster in virtual time: news, deaths, loss, stalls, partitions, churn. The long versions with figures are in
`benchmarks/gossip.py`."""

from __future__ import annotations

import pytest

from benchmarks.gossip import changes, deaths, false_deaths, idle, share
from benchmarks.gossip_world import Sim, World
from weft.core.swim import INLINE, MEMORY
from weft.core.swim_values import FAST, LAN, Pace, State


def world_of(members: int, pace: Pace = LAN, loss: float = 0.0, seed: int = 1) -> tuple[World, list[Sim]]:
    world = World(pace, seed=seed, loss=loss)
    sims = world.cluster(members)
    world.run(3)
    return world, sims


def knows(sim: Sim, other: Sim, payload: bytes) -> bool:
    return sim.swim.table.members[other.id].payload == payload


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_change_is_known_to_fifty_in_half_a_second(loss: float) -> None:
    assert share(changes(50, 20, loss), 0.99) <= 0.5


@pytest.mark.parametrize(("pace", "bar"), [(LAN, 5.0), (FAST, 1.5)])
def test_a_killed_one_of_fifty_is_found(pace: Pace, bar: float) -> None:
    assert max(deaths(pace, 50, 15)) <= bar


@pytest.mark.parametrize("members", [2, 3])
def test_a_killed_one_of_few_is_found(members: int) -> None:
    assert max(deaths(LAN, members, 10)) <= 5.0


def test_nobody_who_only_sleeps_is_declared_dead() -> None:
    count, detail = false_deaths(20_000)
    assert count == 0, detail


def test_what_it_costs_when_nothing_happens() -> None:
    fifty, hundred = idle(LAN, 50, 30)[0], idle(LAN, 100, 30)[0]
    assert fifty <= 300
    assert hundred == pytest.approx(fifty, rel=0.02)


def test_the_halves_of_a_torn_cluster_find_each_other_again_and_nobody_flaps() -> None:
    world, sims = world_of(20, loss=0.02)
    half, rest = sims[:10], sims[10:]
    for sim in half:
        sim.side = 1
    assert world.run(30, lambda: all(len(sim.swim.table.live) == 9 for sim in sims))
    world.run(60)
    before = sum(sim.swim.tally.deaths for sim in sims)
    for sim in half:
        sim.side = 0
    assert world.run(30, world.agree)
    assert sum(sim.swim.tally.deaths for sim in sims) == before, rest


def test_who_is_cut_off_declares_nobody_dead_and_comes_back() -> None:
    world, sims = world_of(10)
    sims[0].side = 1
    assert world.run(10, lambda: all(len(sim.swim.table.live) == 8 for sim in sims[1:]))
    world.run(120)
    assert sims[0].swim.isolated
    assert len(sims[0].swim.table.live) == 9
    sims[0].side = 0
    assert world.run(20, world.agree)
    assert not sims[0].swim.isolated


def test_who_leaves_is_gone_at_once_and_may_come_back() -> None:
    world, sims = world_of(20)
    world.leave(sims[3])
    assert world.run(1, lambda: all(s.swim.table.members[sims[3].id].state is State.LEFT for s in world.up()))
    assert not any(sim.swim.tally.deaths for sim in sims)
    del world.sims[sims[3].swim.address]
    world.add(sims[0], sims[3].number)
    assert world.run(5, world.agree)


def test_who_is_restarted_with_its_clock_an_hour_back_is_believed() -> None:
    world, sims = world_of(10)
    victim = sims[4]
    world.kill(victim)
    del world.sims[victim.swim.address]
    world.run(1)
    again = world.add(None, victim.number)
    again.swim.incarnation -= 3_600_000
    again.swim.announce(world.payload(victim.number), world.now)
    world._sync(again, sims[0].swim.address)
    assert world.run(10, world.agree)
    assert again.swim.incarnation > victim.swim.incarnation


def test_a_payload_that_is_too_large_to_go_along_is_fetched() -> None:
    world, sims = world_of(20, loss=0.05)
    payload = world.change(sims[0], 50 * INLINE)
    assert world.run(5, lambda: all(knows(sim, sims[0], payload) for sim in sims[1:]))


def test_a_payload_whose_teller_dies_is_fetched_from_its_owner() -> None:
    world, sims = world_of(3)
    first, second, third = sims
    second.side = 1
    payload = world.change(first, 50 * INLINE)
    third.swim.apply(first.swim.me(), second.swim.address, world.now)
    world._after(third)
    assert not knows(third, first, payload)
    second.side = 0
    assert world.run(30, lambda: knows(third, first, payload) and knows(second, first, payload))


def test_many_join_one_seed_at_the_same_time() -> None:
    world = World(seed=3, loss=0.02)
    seed = world.add()
    for _ in range(60):
        world.add(seed)
    assert world.run(10, world.agree)
    assert not any(sim.swim.tally.deaths for sim in world.up())


def test_churn() -> None:
    world, sims = world_of(20, loss=0.02, seed=5)
    for number in range(20, 60):
        world.kill(world.random.choice([sim for sim in world.up() if sim is not sims[0]]))
        world.add(sims[0], number)
        world.run(world.random.random())
    assert world.run(30, world.agree)
    assert len(list(world.up())) == 20


def test_the_dead_are_forgotten_in_the_end() -> None:
    world, sims = world_of(3)
    world.kill(sims[2])
    assert world.run(10, lambda: len(sims[0].swim.table.live) == 1)
    world.run(MEMORY + 60)
    assert list(sims[0].swim.table.members) == [sims[1].id]
    assert sims[0].swim.table.dead() == []


def test_a_time_in_which_nobody_ran_is_held_against_nobody() -> None:
    """The machine that they all run on was paused."""
    world, sims = world_of(5)
    world.kill(sims[4])
    world.run(1.5)
    for sim in sims[:4]:
        world.stall(sim, 20 + sim.number / 4)
    world.run(60)
    assert all(len(sim.swim.table.live) == 3 for sim in sims[:4])
    assert sum(sim.swim.tally.deaths for sim in sims[:4]) <= 4, "more than the killed one"
