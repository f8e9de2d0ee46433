"""A source that follows etcd, and keeps for a grace time what ran out there. Three kinds are in `route_sources.py`.

One loop: a new set from a watch, an answer on what became of a lease, or a date that came, and everything is looked at
anew. What a store may have changed while it can't be asked is not known, so all stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.agent.reconcile import Clock
from weft.core.edits import Kept
from weft.core.lapsing import NEVER, Claim, Lapsing, Moment
from weft.errors import StoreError, StoreUnreachable
from weft.model import Known, Node, Problem
from weft.stores import Snapshot, Store

AT_ONCE = 32
"""Leases that a store is asked about side by side."""
SHORTEST = 0.001


class Part:
    """What one source makes of the keys below its prefixes. Whatever it can't read is a problem, and stops nobody."""

    prefixes: tuple[str, ...] = ()

    @property
    def next_event(self) -> float:
        """When `expire` is to be called, by `Clock.now`."""
        return NEVER

    def take(self, snapshots: Sequence[Snapshot], moment: Moment) -> tuple[Claim, ...]:
        """The claims that stand there, sorted by key; `snapshots`: one of each prefix."""
        raise NotImplementedError

    def expire(self, moment: Moment) -> tuple[Claim, ...]:
        """The same when a date has come."""
        raise NotImplementedError

    def lost(self) -> None:
        """The store can't be asked any more."""

    def departed(self) -> Collection[str]:
        """Keys of claims whose owners said that they leave."""
        return ()

    def hanging(self) -> Mapping[str, int]:
        """By key, the etcd leases that claims hung on which are gone now, where that is not what they tell."""
        return {}

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know."""
        yield from ()


@dataclass(slots=True)
class _Side:
    """One watched prefix. `highest`: the last revision that it told."""

    prefix: str
    snapshot: Snapshot | None = None
    highest: int = 0


class Feed:
    """The watches of one source, and its memory, which outlives them. `grace`: seconds."""

    def __init__(self, store: Store, part: Part, grace: float, clocks: Clock | None = None) -> None:
        self._store = store
        self._part = part
        self._clocks = clocks or Clock()
        self._sides = tuple(_Side(prefix) for prefix in part.prefixes)
        self._lapsing = Lapsing(grace)
        self._nodes: Kept[Claim, Node] = Kept()
        self._woken = asyncio.Event()
        self._changed = False
        self._forgetful = False

    async def sets(self) -> AsyncGenerator[Known[Node], None]:
        """Full sets, each time something changes; complete, since none is told before etcd has told all. Raises
        StoreError when the store can't be asked any more; called again, it goes on with what is true by then."""
        for side in self._sides:
            side.snapshot = None
        watches = [asyncio.ensure_future(self._follow(side)) for side in self._sides]
        asking: asyncio.Future[Mapping[str, bool]] | None = None
        said: Known[Node] | None = None
        try:
            while True:
                if all(side.snapshot is not None for side in self._sides):
                    if asking is not None and asking.done():
                        answer, asking = asking, None
                        self._lapsing = self._lapsing.judged(answer.result(), self._moment())
                    self._look()
                    if self._lapsing.missed and asking is None:
                        asking = asyncio.ensure_future(self._became())
                        asking.add_done_callback(lambda _: self._woken.set())
                    if (now := self._known()) != said:
                        said = now
                        yield now
                if any(watch.done() for watch in watches):
                    break
                await self._something()
            for watch in watches:
                if watch.done():
                    watch.result()
        finally:
            self._part.lost()
            tasks: list[asyncio.Future[Any]] = [*watches, *([asking] if asking is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, side: _Side) -> None:
        try:
            async with contextlib.aclosing(self._store.watch(side.prefix)) as sets:
                async for snapshot in sets:
                    self._forgetful = self._forgetful or snapshot.revision < side.highest
                    side.highest, side.snapshot = snapshot.revision, snapshot
                    self._changed = True
                    self._woken.set()
        finally:
            self._woken.set()

    async def _something(self) -> None:
        """Wait for a new set, an answer, or the next date."""
        soonest = min(self._lapsing.next_end, self._part.next_event)
        wait = max(soonest - self._clocks.now(), SHORTEST) if soonest != NEVER else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._woken.wait()
        self._woken.clear()

    def _look(self) -> None:
        moment = self._moment()
        if self._changed:
            snapshots = [side.snapshot for side in self._sides if side.snapshot is not None]
            claims, forgetful = self._part.take(snapshots, moment), self._forgetful
            self._changed = self._forgetful = False
        elif moment.now >= self._part.next_event:
            claims, forgetful = self._part.expire(moment), False
        else:
            claims, forgetful = self._lapsing.live, False
        if claims is not self._lapsing.live or forgetful:
            before = self._lapsing.hanging(self._part.hanging())
            self._lapsing = before.after(claims, moment, forgetful, self._part.departed())
        self._lapsing = self._lapsing.ended(moment.now)

    async def _became(self) -> Mapping[str, bool]:
        """Of the claims that are missed: whether the etcd lease of each is gone too. Raises StoreUnreachable."""
        missed = self._lapsing.missed
        leases = sorted({claim.lease for claim in missed})
        gone: dict[int, bool] = {}
        for start in range(0, len(leases), AT_ONCE):
            some = leases[start : start + AT_ONCE]
            gone.update(zip(some, await asyncio.gather(*map(self._is_gone, some)), strict=True))
        return {claim.key: gone[claim.lease] for claim in missed}

    async def _is_gone(self, lease: int) -> bool:
        """A store that refuses to say is taken to say so: then the grace time holds."""
        try:
            return await self._store.remaining(lease) == 0
        except StoreUnreachable:
            raise
        except StoreError:
            return True

    def _known(self) -> Known[Node]:
        self._nodes = self._nodes.after(self._lapsing.claims, lambda claim: claim.node)
        return Known(self._nodes.made, True, (*self._part.problems(), *self._lapsing.problems))

    def _moment(self) -> Moment:
        return Moment(self._clocks.now(), self._clocks.wall())
