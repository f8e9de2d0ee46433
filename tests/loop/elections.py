"""Managers that hold elections over one etcd in memory, in virtual time, and who looks that two never lead: for the
tests of elections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.contender import Contender, Leader
from weft.agent.election import LIFE, SHARE, Election, Standing
from weft.agent.reconcile import Clock
from weft.errors import StoreUnreachable
from weft.stores import Delete, Entry, Guard, Put, Snapshot
from weft.stores.memory import MemoryServer, MemoryStore

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
