"""The members that one member suspects, and those of whom it knows not all that they tell: what becomes of either in
time. Parts of `core/swim.py`'s Swim.
"""

from __future__ import annotations

from weft.core.swim_suspicion import Suspicion
from weft.core.swim_table import Member
from weft.core.swim_values import NEVER, Pace

FETCH = (1.0, 30.0)
"""Seconds between attempts to fetch a payload from its owner: the first, and the longest; doubling between."""


class Suspects:
    """`next_event`: nobody is to be called or buried before this."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._members: dict[str, Member] = {}
        self.next_event = NEVER

    def begin(self, member: Member, now: float, members: int, by: str) -> None:
        """`members`: of the whole cluster."""
        member.suspicion = Suspicion.begin(now, self._pace, members, by)
        self._members[member.id] = member
        self.next_event = min(self.next_event, member.suspicion.next_event)

    def confirm(self, member: Member, by: str) -> bool:
        """Somebody else says so too; whether that is worth passing on."""
        told = member.suspicion is not None and member.suspicion.confirm(by)
        if told:
            self.settle()
        return told

    def clear(self, member: Member) -> None:
        member.suspicion = None
        self._members.pop(member.id, None)

    def put_off(self, seconds: float) -> None:
        """Time that does not count."""
        for suspicion in self._suspicions():
            suspicion.begin_anew(suspicion.begun + seconds)
        self.settle()

    def begin_anew(self, now: float) -> None:
        """All of them get all the time there is to contradict."""
        for suspicion in self._suspicions():
            suspicion.begin_anew(now)
        self.settle()

    def hold(self, now: float) -> None:
        """Nobody is judged now."""
        self.next_event = now + self._pace.interval

    def due(self, now: float) -> tuple[list[Member], list[Member]]:
        """Those to be asked once more, who have their last time to answer from now on; and the dead."""
        called, dead = [], []
        for member in list(self._members.values()):
            suspicion = member.suspicion
            if suspicion is None or suspicion.next_event > now:
                continue
            if suspicion.called:
                dead.append(member)
            else:
                suspicion.call(now)
                called.append(member)
        return called, dead

    def settle(self) -> None:
        self.next_event = min((suspicion.next_event for suspicion in self._suspicions()), default=NEVER)

    def _suspicions(self) -> list[Suspicion]:
        return [member.suspicion for member in self._members.values() if member.suspicion is not None]


class Absent:
    """Members whose payload is fetched: from who told of it first, then from themselves."""

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, float]] = {}
        self.next_event = NEVER

    def add(self, member: str, now: float) -> None:
        self._due[member] = (now + FETCH[0], FETCH[0])
        self._settle()

    def drop(self, member: str) -> None:
        if self._due.pop(member, None) is not None:
            self._settle()

    def due(self, now: float) -> list[str]:
        """Whose payload is to be asked for again."""
        late = [(member, gap) for member, (at, gap) in self._due.items() if at <= now]
        for member, gap in late:
            gap = min(2 * gap, FETCH[1])
            self._due[member] = (now + gap, gap)
        self._settle()
        return [member for member, _ in late]

    def _settle(self) -> None:
        self.next_event = min((at for at, _ in self._due.values()), default=NEVER)
