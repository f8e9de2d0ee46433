"""How long a member is suspected before it counts as dead, and how well this host itself does: Lifeguard's two ideas.

A suspicion that nobody confirms lasts long, since the fault may be the accuser's; each other member that fails to reach
the suspect itself brings its end nearer. And a host whose own probes fail, or that had to defend itself, gives the
others more time. Used by `core/swim.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

from weft.core.swim_values import CONFIRMATIONS, MAX_HEALTH, Pace

CALL = 0.3
"""Of the least time, before its end: the suspect and some others are asked once more. The suspect's answer may have
passed by one member of thousands, and that one alone would bury it."""


@dataclass(slots=True)
class Suspicion:
    """Of one member. `least`, `most`: seconds. `wanted`: confirmations that bring it down to `least`. `until`: when
    the member is dead, unless it answers. `called`: everything was tried once more (`CALL`)."""

    begun: float
    least: float
    most: float
    wanted: int
    by: list[str] = field(default_factory=list)
    until: float = 0.0
    called: bool = False

    @classmethod
    def begin(cls, now: float, pace: Pace, members: int, by: str) -> Suspicion:
        """`members`: of the cluster; where there is nobody who could confirm it, nobody is waited for."""
        wanted = max(0, min(CONFIRMATIONS, members - 2))
        begun = cls(now, pace.least(members), pace.most(members), wanted, [by])
        begun._settle()
        return begun

    def _settle(self) -> None:
        """Lifeguard, section IV-B."""
        share = log(min(len(self.by), self.wanted + 1)) / log(self.wanted + 1) if self.wanted else 1.0
        self.until = self.begun + self.most - (self.most - self.least) * share

    def confirm(self, by: str) -> bool:
        """Somebody else says so too; whether that is worth passing on."""
        if by in self.by or len(self.by) > self.wanted:
            return False
        self.by.append(by)
        self._settle()
        return True

    @property
    def next_event(self) -> float:
        return self.until if self.called else self.until - CALL * self.least

    def call(self, now: float) -> None:
        """It is asked now, and has the time to answer."""
        self.called = True
        self.until = max(self.until, now + CALL * self.least)

    def begin_anew(self, now: float) -> None:
        """As if it had been said just now."""
        self.begun, self.called = now, False
        self._settle()


@dataclass(slots=True)
class LocalHealth:
    """0: well. All patience is multiplied by one more than this."""

    score: int = 0

    def change(self, by: int) -> None:
        self.score = min(max(self.score + by, 0), MAX_HEALTH)

    @property
    def factor(self) -> int:
        return self.score + 1
