"""Wait for a condition with a deadline: tests wait so, instead of sleeping for a time that is too long or too short."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL = 0.005


def until(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Ask `condition` until it answers something true, and return that; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}; last answer: {answer!r}")
        pause.wait(POLL)
    return answer


async def soon(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """The same while the event loop runs on."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not (answer := condition()):
        if loop.time() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}; last answer: {answer!r}")
        tick = loop.create_future()
        loop.call_later(POLL, tick.set_result, None)
        await tick
    return answer
