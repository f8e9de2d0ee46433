"""How often a provider's API is called, and what happens when it says "not now". Used by every backend in this folder.

    pace = Pace(settings.requests_per_second)
    answer = await pace.call(lambda: session.get(...))     # raises ProviderBusy where the API can't answer now
    answers = await each(ops, self._one, at_once=8)        # one coroutine per op, one answer each

`call` waits for its turn, and asks again a few times with backoff what ended in `ProviderBusy`. What it calls may
therefore have been done already the time before: an insert that is answered 500 and asked again must understand 409.

Between a call's turn and the time when it was put in the queue, this process may have stood still for a minute, and
another manager may lead. So whoever has a turn looks at the fence first (`fenced`), not only the batch as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from weft.errors import ProviderBusy, TargetError
from weft.objects import Failure, Op

log = logging.getLogger("weft")

T = TypeVar("T")
One = Callable[[Op], Awaitable[Failure | None]]

BURST = 20
ATTEMPTS = 4
"""How often one call is made, at most, before the op fails: the loop tries it again later, with what was read anew."""
FIRST_DELAY, LAST_DELAY = 0.5, 8.0
LONGEST_WAIT = 15.0
"""Seconds that a call waits for a provider that asked to be left alone. For longer, it fails at once: a cycle that
stands still tells nobody why."""
LONGEST_HOLD = 600.0
AT_ONCE = 8


NOT_LEADING = "another manager leads; this one writes nothing"


def always() -> bool:
    """This manager leads."""
    return True


_lead: ContextVar[Callable[[], bool]] = ContextVar("lead", default=always)


@contextmanager
def fenced(lead: Callable[[], bool]) -> Iterator[None]:
    """What is called within, by any `Pace`, is called only while `lead()` says so; also in tasks that begin within."""
    token = _lead.set(lead)
    try:
        yield
    finally:
        _lead.reset(token)


def look_at_the_fence() -> None:
    """Raises TargetError if nothing may be called any more. To be asked as late as can be."""
    if not _lead.get()():
        raise TargetError(NOT_LEADING)


def backoff(attempt: int, after: float | None, jitter: float) -> float:
    """Seconds until the next attempt, after `attempt` (from 1) failed ones. `after`: what the provider asked for
    (Retry-After), which is never undercut; `jitter`: 0 to 1, so that not everybody comes back at once."""
    most = min(FIRST_DELAY * 2 ** min(attempt - 1, 20), LAST_DELAY)
    return most * (0.5 + jitter / 2) if after is None else after + FIRST_DELAY * jitter


class Pace:
    """A token bucket for all calls of one provider: `per_second` of them, and `burst` at once after a pause. Turns come
    first come, first served."""

    def __init__(self, per_second: float, burst: int = BURST, jitter: Callable[[], float] = random.random) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._tokens = float(burst)
        self._counted_at: float | None = None
        self._held_until = 0.0
        self._jitter = jitter
        self._queue = asyncio.Lock()

    async def call(self, once: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
        """What `once` answers, in its turn. ProviderBusy of it is asked again, `attempts` times in all; the last one is
        raised. What else it raises is raised at once. Raises TargetError where another manager leads by then."""
        made = 0
        while True:
            await self.turn()
            look_at_the_fence()
            made += 1
            try:
                return await once()
            except ProviderBusy as busy:
                delay = backoff(made, busy.after, self._jitter())
                if busy.throttled:
                    self.hold(delay)
                if made >= attempts:
                    raise
                if not busy.throttled:
                    await self._pause(delay, busy)

    async def turn(self) -> None:
        """Wait until a call may be made. Raises ProviderBusy at once if the provider asked for a longer pause than
        anybody should wait for. Cancelled, it takes nobody's turn away."""
        async with self._queue:
            while True:
                now = asyncio.get_running_loop().time()
                held = self._held_until - now
                if held > LONGEST_WAIT:
                    raise ProviderBusy(
                        f"the provider asked to be left alone; it is asked again in {held:.0f} s", held, throttled=True
                    )
                if held <= 0 and self._count(now) >= 1:
                    self._tokens -= 1
                    return
                await asyncio.sleep(max(held, (1 - self._tokens) / self._per_second if held <= 0 else 0.0, 0.001))

    def hold(self, seconds: float) -> None:
        """Nobody calls for so long, and there is no burst afterwards: the limit is on all of us."""
        now = asyncio.get_running_loop().time()
        self._held_until = max(self._held_until, now + min(seconds, LONGEST_HOLD))
        self._tokens = min(self._count(now), 0.0)
        self._counted_at = self._held_until

    def _count(self, now: float) -> float:
        """Tokens there are now."""
        since = now if self._counted_at is None else self._counted_at
        self._tokens = min(self._burst, self._tokens + max(now - since, 0.0) * self._per_second)
        self._counted_at = max(now, since)
        return self._tokens

    async def _pause(self, seconds: float, busy: ProviderBusy) -> None:
        if seconds > LONGEST_WAIT:
            raise busy
        await asyncio.sleep(seconds)


async def each(ops: Sequence[Op], one: One, at_once: int = AT_ONCE) -> list[Failure | None]:
    """Carry out `one` for every op, `at_once` of them side by side; one answer each, in the order of `ops`.

    Changes begin first, then additions; removals begin once all of those have ended: what is there stays until what
    takes its place is there. TargetError of one op is its Failure, and so is a fault of weft's own. If the provider
    can't answer any more (as many ProviderBusy one after the other as work side by side), the rest isn't tried.
    Cancelled, it ends the ones under way first."""
    round_ = _Round(ops, one, at_once)
    makes = [n for action in ("change", "add") for n, op in enumerate(ops) if op.action == action]
    breaks = [n for n, op in enumerate(ops) if op.action == "remove"]
    await round_.run(makes)
    await round_.run(breaks)
    return round_.answers


class _Round:
    """One call of `each`."""

    def __init__(self, ops: Sequence[Op], one: One, at_once: int) -> None:
        self.answers: list[Failure | None] = [None] * len(ops)
        self._ops = ops
        self._one = one
        self._at_once = at_once
        self._busy_in_a_row = 0
        self._gave_up = ""

    async def run(self, numbers: Sequence[int]) -> None:
        left = iter(numbers)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._at_once, len(numbers))):
                group.create_task(self._work(left))

    async def _work(self, left: Iterator[int]) -> None:
        for number in left:
            if self._gave_up:
                self.answers[number] = Failure(f"not tried, after others failed: {self._gave_up}")
            else:
                self.answers[number] = await self._carry_out(self._ops[number])

    async def _carry_out(self, op: Op) -> Failure | None:
        try:
            answer = await self._one(op)
        except ProviderBusy as error:
            self._busy_in_a_row += 1
            if self._busy_in_a_row >= max(self._at_once, 2):
                self._gave_up = str(error)
            return Failure(str(error))
        except TargetError as error:
            answer = Failure(str(error))
        except Exception as error:  # a fault of weft's own in one op must not take the others with it
            log.exception("%s %s: a fault in weft itself; please report it", op.action, op.object.key)
            answer = Failure(f"a fault in weft itself: {error!r}")
        self._busy_in_a_row = 0
        return answer
