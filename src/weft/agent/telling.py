"""When the others hear what changed of this host's announcement. `daemons/registrar.py` has it between its cycles and
`registration.py`.

Each of N hosts that come one after the other is one more whom everybody reaches. Told at once, that would be N notes of
each host, which every host reads: for fifty hosts that start together, minutes of work. So good news is gathered; what
others must act on (somebody is no longer reached, a network came) goes out at once, and the good news with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from weft.core.registry import Announcement

GATHER = 0.5
"""Seconds that good news waits for more of its kind."""
PER_HOST = 0.1
"""Seconds per host between two notes with nothing but good news: so all hosts together write ten a second, however
many they are."""


class Teller:
    """`tell`: is given each announcement that is due."""

    def __init__(self, tell: Callable[[Announcement], None]) -> None:
        self._tell = tell
        self._told: Announcement | None = None
        self._wanted: Announcement | None = None
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, wanted: Announcement) -> None:
        """This is what the others are to know; any number of times."""
        self._wanted = wanted
        told = self._told
        if told is not None and _only_good_news(told, wanted):
            if wanted != told and self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_at(max(loop.time() + GATHER, self._not_before), self._now)
            return
        self._now()

    def close(self) -> None:
        """Nothing is told any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> None:
        self.close()
        wanted = self._wanted
        if wanted is not None and wanted != self._told:
            self._told = wanted
            self._not_before = asyncio.get_running_loop().time() + PER_HOST * len(wanted.note.reaches)
            self._tell(wanted)


def _only_good_news(told: Announcement, wanted: Announcement) -> bool:
    """Whether nothing but this is new: somebody is reached who was not before."""
    before, now = told.note, wanted.note
    if not set(now.reaches).issuperset(before.reaches) or not set(before.misses).issuperset(now.misses):
        return False
    return replace(wanted, note=replace(now, reaches=before.reaches, misses=before.misses)) == told
