"""Wait for a condition with a deadline: tests wait so, instead of sleeping for a time that is too long or too short.

A deadline is given as it would be generous on an idle machine; `patience` makes it one for a busy one. Who waits goes
on as soon as the condition holds, so that costs nobody but those who fail anyway.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL = 0.005
SLOWER = 4.0
"""Times that a machine with other work to do may be slower than an idle one."""


def patience(seconds: float) -> float:
    """A deadline, in seconds, for what takes at most `seconds` where nothing else is going on."""
    return seconds * SLOWER


def until(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Ask `condition` until it answers something true, and return that; AssertionError after patience(`timeout`)."""
    began = time.monotonic()
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > began + patience(timeout):
            raise AssertionError(f"waited {patience(timeout)} s for {what}; last answer: {answer!r}")
        pause.wait(POLL)
    return answer


async def soon(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """The same while the event loop runs on."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not (answer := condition()):
        if loop.time() > began + patience(timeout):
            raise AssertionError(f"waited {patience(timeout)} s for {what}; last answer: {answer!r}")
        tick = loop.create_future()
        loop.call_later(POLL, tick.set_result, None)
        await tick
    return answer
