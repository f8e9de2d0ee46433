"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do. What waits a
day for a renewal is tested in milliseconds, and nothing depends on how fast the machine is.

    def test_it() -> None:
        virtually(scenario())

Only for code that does no I/O of its own (memory stores and targets): a socket would be outrun.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
GRAIN = 1e-4
"""Seconds by which a clock is moved past its event, since sums of seconds are not exact."""
GLANCE, GLANCES = 0.05, 20_000
"""`reached` looks so often, in seconds; over a long time, so many times at most."""


class Clock(Protocol):
    """Something that has a time of its own, which must go with the loop's: `stores.memory.MemoryServer`."""

    now: float

    def next_event(self) -> float | None:
        """When it wants to be moved at the latest; None: any time."""
        ...

    def advance(self, seconds: float) -> None: ...


class _Jumping(selectors.DefaultSelector):
    """Never waits: time goes on instead. `now`: seconds since the loop was made."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.clocks: list[Clock] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            self._jump(timeout)
        return events

    def _jump(self, timeout: float | None) -> None:
        events = [moment - self.now + GRAIN for clock in self.clocks if (moment := clock.next_event()) is not None]
        if timeout is None and not events:
            raise AssertionError("everybody waits, and nothing will ever happen")
        self.now += max(min([*events, *([timeout] if timeout is not None else [])]), 0.0)
        for clock in self.clocks:
            clock.advance(self.now - clock.now)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. `clocks` are moved with it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.clocks = self._jumping.clocks

    def time(self) -> float:
        return self._jumping.now


def virtually(scenario: Coroutine[Any, Any, T], at_most: float = 10 * 86400.0) -> T:
    """Run it to its end in a loop of its own; AssertionError if that takes more than `at_most` seconds of its time."""

    async def bounded() -> T:
        async with asyncio.timeout(at_most):
            return await scenario

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())


async def reached(condition: Any, what: str, within: float = 60.0) -> None:
    """Wait until `condition()` is true; AssertionError after `within` virtual seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    pause = max(GLANCE, within / GLANCES)
    while not condition():
        if loop.time() >= deadline:
            raise AssertionError(f"waited {within} s for {what}")
        await asyncio.sleep(pause)
