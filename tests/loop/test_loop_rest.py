"""What comes in bursts makes few cycles; a single change, and a repair in the middle of a burst, wait for nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from tests.support.virtual import virtually
from weft.agent.loop import LONGEST_REST, REST, Loop
from weft.agent.reconcile import Reconciler
from weft.agent.world import World
from weft.core.identity import Identity
from weft.errors import StoreUnreachable
from weft.model import Profile
from weft.targets import Reading
from weft.targets.memory import KERNEL_KINDS, MemoryTarget


class Slow(MemoryTarget):
    """Takes its time to be read, and remembers when."""

    def __init__(self, seconds: float) -> None:
        super().__init__(KERNEL_KINDS)
        self.seconds = seconds
        self.times: list[float] = []

    async def read(self, full: bool = False) -> Reading:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        return await super().read(full)


def loop_of(target: Slow) -> Loop[World]:
    clock = asyncio.get_running_loop().time
    world = World(Identity("a", 7600, 4789, "test"), Profile(), ())
    reconciler = Reconciler((target,))
    reconciler.clock.now = clock
    return Loop(world, reconciler, 3600.0)


async def burst() -> AsyncIterator[int]:
    await asyncio.sleep(10)
    for number in range(200):
        yield number
        await asyncio.sleep(0.01)
    await asyncio.sleep(3600)


def cycles_of(seconds: float, in_bursts: bool) -> list[float]:
    """When there were cycles from the beginning of a burst of 2 s on, each of so many seconds."""

    async def scenario() -> list[float]:
        target = Slow(seconds)
        loop = loop_of(target)
        loop.follow("burst", burst, lambda _: None, in_bursts=in_bursts)
        running = asyncio.ensure_future(loop.run())
        await asyncio.sleep(20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [at for at in target.times if at > 5]

    return virtually(scenario())


def test_a_burst_is_few_cycles_and_its_first_and_last_word_counts() -> None:
    times = cycles_of(0.01, in_bursts=True)
    assert times[0] - 10 < 0.01, "the first one at once"
    assert len(times) <= 2 / (REST * 0.01) + 2
    assert 2 - 0.02 < times[-1] - 10 < 2 + LONGEST_REST, "and one behind the last"
    assert len(cycles_of(0.01, in_bursts=False)) > 5 * len(times)


def test_however_long_a_cycle_takes_the_rest_has_an_end() -> None:
    times = cycles_of(0.3, in_bursts=True)
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.3 + LONGEST_REST + 0.02


def test_a_repair_does_not_wait() -> None:
    async def scenario() -> None:
        target = Slow(0.04)
        loop = loop_of(target)
        running = asyncio.ensure_future(loop.run())
        await asyncio.sleep(10)
        loop.wake_after_rest()
        await asyncio.sleep(0.05)
        loop.wake_after_rest()  # that one has to wait
        await asyncio.sleep(0.05)
        now = asyncio.get_running_loop().time()
        loop.wake()
        await asyncio.sleep(5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [round(at - now, 1) for at in target.times[1:]] == [-0.1, 0.0], "and what waited went with it"

    virtually(scenario())


def test_a_source_that_fails_for_long_is_asked_as_often_as_it_was_told() -> None:
    """etcd's, each second at the latest: what it says after an outage is known soon."""

    async def scenario() -> list[float]:
        asked: list[float] = []

        async def away() -> AsyncIterator[int]:
            asked.append(asyncio.get_running_loop().time())
            raise StoreUnreachable("nobody answers")
            yield 0

        loop = loop_of(Slow(0.0))
        loop.follow("etcd", away, lambda _: None, last_restart=1.0)
        running = asyncio.ensure_future(loop.run())
        await asyncio.sleep(60)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return asked

    asked = virtually(scenario())
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(asked)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.0]
    assert set(pauses[4:]) == {1.0}
