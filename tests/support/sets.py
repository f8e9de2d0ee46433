"""Read a source of full sets (an Engine, a Discovery) as a test wants to: wait for a set that fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from tests.support.eventually import patience
from weft.model import Known

T = TypeVar("T")


class Sets(Generic[T]):
    """All sets that a source has yielded so far."""

    def __init__(self) -> None:
        self.seen: list[Known[T]] = []
        self.ended = False
        self._more = asyncio.Event()

    async def wait(self, fits: Callable[[Known[T]], bool], what: str, timeout: float = 10.0) -> Known[T]:
        """The latest set, as soon as it fits; AssertionError after patience(`timeout`)."""
        try:
            async with asyncio.timeout(patience(timeout)):
                while not (self.seen and fits(self.seen[-1])):
                    assert not self.ended, f"the source ended before {what}; last set: {self.seen[-1:]}"
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"waited {patience(timeout)} s for {what}; last set: {self.seen[-1:]}") from None
        return self.seen[-1]

    async def _read(self, source: AsyncIterator[Known[T]]) -> None:
        try:
            async for known in source:
                self.seen.append(known)
                self._more.set()
        finally:
            self.ended = True
            self._more.set()


@asynccontextmanager
async def reading(source: AsyncIterator[Known[T]]) -> AsyncIterator[Sets[T]]:
    """Read `source` in the background for the length of the `with`. An error of the source is raised at its end."""
    sets: Sets[T] = Sets()
    task = asyncio.create_task(sets._read(source))
    try:
        yield sets
    finally:
        task.cancel()
        await asyncio.wait({task})
        if isinstance(source, AsyncGenerator):
            await source.aclose()
        if not task.cancelled():
            task.result()
