"""What every discovery that talks has around its talk: loops that never end, a clock, and the sets that come of both.
Held by multicast, gossip, dns and etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from weft.model import Known, Node


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` for all that is measured, `wall` (seconds since 1970) for what is shown to people and other hosts."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class News:
    """`known`: the peers as they are now. `version`: equal as long as they are; compared whenever `tell` is called."""

    def __init__(self, version: Callable[[], object], known: Callable[[], Known[Node]]) -> None:
        self._version = version
        self._known = known
        self._told = version()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False

    async def sets(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set now and after each change; changes that come while the last one is worked on are told
        together. Ends after `end`. Raises what ended a loop."""
        seen: object = None
        while not self.closed:
            for task in self._tasks:
                if task.done():
                    task.result()
            version = self._version()
            if version == seen:
                await self._changed.wait()
                continue
            seen = version
            yield self._known()

    def tell(self) -> None:
        """Let everybody who iterates over the sets know that there is something new, if there is."""
        version = self._version()
        if version != self._told:
            self._told = version
            self._wake()

    @property
    def idle(self) -> bool:
        """Whether nothing was ever started."""
        return not self._tasks and not self.closed

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A loop, which is never to return."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(lambda _: self._wake())
        self._tasks.append(task)

    async def end(self) -> None:
        """Of the loops and of all sets."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def rest(wake: asyncio.Event, seconds: float) -> None:
    """So long (infinity: for ever), or until something wakes us."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds if seconds < math.inf else None):
            await wake.wait()
