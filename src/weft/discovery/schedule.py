"""When to say something: the times of HELLOs and queries.

Sans I/O: `discovery/conversation.py` asks `due(now)`, and sleeps until `next`.
"""

from __future__ import annotations

from random import Random

INFINITY = float("inf")
QUERIES = (0.0, 1.0, 3.0)
"""Seconds after joining the group at which everybody is asked: datagrams get lost."""
REPEAT = 1.0
"""A change is told again after this many seconds: a lost one would otherwise cost a whole interval."""
CHANGE_GAP = 0.02
"""Seconds at least between HELLOs: changes that come faster are told together."""
ANSWER_GAP = 0.25
"""Seconds at least between a HELLO and the next answer to a query, however many ask."""
ANSWER_SPREAD = 0.1
ANSWER_SPREAD_PER_PEER = 0.0001
"""Answers are spread over 0.1 s, or 0.1 ms for each known peer: 10,000 at once would not fit a receive buffer."""


class Schedule:
    """HELLOs come each `interval` seconds ± 10 %, so that hosts that started together don't stay in step."""

    def __init__(self, interval: float, random: Random) -> None:
        self._interval = interval
        self._random = random
        self._hello = INFINITY
        self._repeat = INFINITY
        self._queries: list[float] = []
        self._last_hello = -INFINITY

    @property
    def next(self) -> float:
        """Nothing is due before this."""
        return min(self._hello, self._repeat, *self._queries, INFINITY)

    def joined(self, now: float) -> None:
        """The group can be heard from now on: ask who is there."""
        self._queries = [now + delay for delay in QUERIES]

    def lost(self) -> None:
        """Nobody would hear it: say nothing until `joined`, which asks and thereby tells as well."""
        self._queries = []
        self._hello = self._repeat = INFINITY

    def changed(self, now: float) -> None:
        """There is something new to tell."""
        self._want(now, CHANGE_GAP)
        self._repeat = now + REPEAT

    def asked(self, now: float, peers: int) -> None:
        """Somebody asked, and everybody hears it: answer a little later."""
        spread = max(ANSWER_SPREAD, ANSWER_SPREAD_PER_PEER * peers)
        self._want(now + self._random.uniform(0, spread), ANSWER_GAP)

    def _want(self, at: float, gap: float) -> None:
        self._hello = min(self._hello, max(at, self._last_hello + gap))

    def due(self, now: float) -> tuple[bool, bool]:
        """Whether a HELLO (or, from one who does not announce, a QUERY) is to be sent now, and whether it asks."""
        asks = any(at <= now for at in self._queries)
        if not asks and now < min(self._hello, self._repeat):
            return False, False
        self._queries = [at for at in self._queries if at > now]
        if self._repeat <= now:
            self._repeat = INFINITY
        self._last_hello = now
        self._hello = now + self._interval * self._random.uniform(0.9, 1.1)
        return True, asks
