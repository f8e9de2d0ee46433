"""What probing one path comes to: a BFD session's states made into a judgement that routes may follow.

A session that is not Up is not always a broken path: the other end may have said goodbye, begun anew, or not run at
all. And a path that lets small packets through may lose large ones. No I/O; `agent/prober.py` holds one Probe for each
path, and its times are seconds of one steady clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft.core.bfd import Refusal, Session
from weft.model import IPAddress
from weft.wire.bfd import PORT, SIZE, Diagnostic, State

FIRST = 3.0
"""Seconds that a new path has to come up before it counts as down: three slow packets."""
GOODBYE = 60.0
"""Seconds that a goodbye is believed. After a host was shut down, its path is down too."""
REFUSED = 5.0
"""Seconds that a host's "port unreachable" tells of it; hosts send at most one per second."""
ANSWER = 1.5
"""Seconds to wait for the answer to a large packet: either end looks every half second, at the least."""
MISSES = 3
MISSES_WITH_LOSS = 6
"""Unanswered large packets in a row that tell of their size, where small ones are all heard, and where they aren't."""
STEADY = 1.1
"""Packets heard in an interval where none is lost: 1.14 or so, since they come 12.5 % early on average."""
RETURNS = 2
"""Answered ones in a row that tell that large packets get through again."""
_HEADERS = {4: 28, 6: 48}
_FASTEST = 0.2
_STEP = 0.025
_JITTER = 0.875
"""Of the interval, that packets are apart on average (RFC 5880 §6.8.7)."""
_LARGE_SHARE = 0.1
_LARGE_PERIOD = 10.0
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two packets of a session, and between two large ones."""

    interval: float
    period: float


MOST, LEAST, PAIRS = 120, 40, 1200
"""Packets per second of a host where nobody said how many: a cluster's hosts together send a number that grows with its
square, so each spends less where there are more."""


def usual(sessions: int) -> int:
    """The budget where nobody said one."""
    return min(MOST, max(LEAST, PAIRS // max(sessions, 1)))


def pace(sessions: int, budget: int = 0) -> Pace:
    """How often each of so many sessions may send, if all that they send and hear shall be `budget` packets per second
    (0: as is usual for so many). Of a large packet there are four in a period: either end's, and their answers. In
    steps, so that one more session does not change the interval of all others each time."""
    budget = budget or usual(sessions)
    period = max(_LARGE_PERIOD, 4 * sessions / (_LARGE_SHARE * budget))
    small = budget - 4 * sessions / period
    steps = -(-2 * sessions // (_JITTER * small * _STEP))
    return Pace(max(_FASTEST, round(steps * _STEP, 3)), period)


@dataclass(frozen=True, slots=True)
class Track:
    """Where a session runs: what model.Path says without whose path it is."""

    device: str
    local: IPAddress
    remote: IPAddress

    def __str__(self) -> str:
        return f"{self.remote} over {self.device}" if self.device else f"{self.remote}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state`, `full` and `reason` as in model.Reach; `at`: when the state or `full` last changed."""

    state: Literal["unknown", "up", "down"]
    at: float
    full: bool | None = None
    reason: str = ""


class Probe:
    """One path. `now`: when probing begins. `spread`: 0 to 1, random: keeps the large packets of many paths apart."""

    __slots__ = (
        "_awaited",
        "_first",
        "_goodbye_until",
        "_hold_until",
        "_large",
        "_mistrusted_at",
        "_refused_at",
        "_spread",
        "judge_at",
        "large_at",
        "period",
        "session",
        "track",
        "trouble",
        "verdict",
    )

    def __init__(self, track: Track, session: Session, now: float, spread: float = 0.0) -> None:
        self.track = track
        self.session = session
        self.verdict = Verdict("unknown", now)
        self.trouble = ""
        """Why nothing can be sent or heard here at the moment; set by whoever does that."""
        self.period = 10.0
        """Seconds between two large packets."""
        self.judge_at = -_NEVER
        """When `judge` is to be called, besides the session's deadline."""
        self.large_at = now + spread
        """When `large_due` is to be asked."""
        self._first = now + FIRST
        self._goodbye_until = -_NEVER
        self._hold_until = -_NEVER
        self._refused_at = -_NEVER
        self._mistrusted_at = -_NEVER
        self._awaited = False
        self._spread = spread
        self._large = _Large(0)

    # What comes in. ---------------------------------------------------------------------------------------------

    def hear(self, datagram: bytes, now: float) -> Refusal:
        """A datagram has come for this path's session; the answer says whether it was heeded."""
        if self.session.repeated(datagram, now):
            return ""
        session = self.session
        self.judge_at = -_NEVER
        was_up = session.state == State.UP
        was_known = session.remote and now >= self._goodbye_until
        usual = session.detection
        refusal = session.hear(datagram, now)
        if refusal:
            if refusal in ("authentication", "sequence"):
                self._mistrusted_at = now
            return refusal
        self._goodbye_until = now + GOODBYE if session.remote_state == State.ADMIN_DOWN else -_NEVER
        if was_up and session.state != State.UP:
            self._lost(now, usual)
        elif not was_known and self.verdict.state == "unknown":
            self._hold_until = now + FIRST
        if was_up != (session.state == State.UP):
            self._large.begin(now, session.heard)
        return ""

    def refused(self, now: float) -> None:
        """The other host says that nothing listens there: packets get to it and back."""
        self._refused_at = now

    def _lost(self, now: float, usual: float) -> None:
        """The session has left Up. If the other end only began anew, it is back soon (two of the usual detection times
        and a slow packet later at most, when its new sequence number is believed): until then nothing has changed."""
        if self.session.restarted:
            self._hold_until = now + 2 * usual + 2.0

    # The judgement. ---------------------------------------------------------------------------------------------

    def judge(self, now: float) -> bool:
        """Heed the time; whether the verdict is another than before. Nothing may lie unread when this is called."""
        was_up = self.session.state == State.UP
        self.session.expire(now)
        if was_up and self.session.state != State.UP:
            self._lost(now, self.session.detection)
        self._judge_large(now)
        state, reason = self._state(now)
        self.judge_at = _NEVER if state == "up" and self.session.state == State.UP and not self._awaited else now
        full = self._large.full
        if state == "up" and full is False:
            reason = self._large.reason
        old = self.verdict
        if (state, full, reason) == (old.state, old.full, old.reason):
            return False
        same = (state, full) == (old.state, old.full)
        self.verdict = Verdict(state, old.at if same else now, full, reason)
        return True

    def _state(self, now: float) -> tuple[Literal["unknown", "up", "down"], str]:
        if self.session.state == State.UP:
            self._hold_until = -_NEVER
            return "up", ""
        if now < self._goodbye_until:
            return "unknown", "the other end has ended probing; it said goodbye"
        if now < self._hold_until:
            return self.verdict.state, self.verdict.reason
        if now < self._refused_at + REFUSED and self.session.heard_at < self._refused_at:
            return "unknown", f"the host answers, but refuses UDP port {PORT}: does weft run there, is a firewall shut?"
        if self.verdict.state == "unknown" and now < self._first:
            return "unknown", self.trouble
        return "down", self._why(now)

    def _why(self, now: float) -> str:
        if self.trouble:
            return self.trouble
        if now < self._mistrusted_at + max(FIRST, self.session.detection):
            return f"authentication: what comes from {self.track} is not made with our key; is it the same on both?"
        if self.session.remote:
            if self.session.remote_diagnostic == Diagnostic.TIME_EXPIRED or self.session.state == State.INIT:
                return f"one way only: {self.track} is heard, but hears nothing from here"
            return f"the other end, {self.track}, says that it is down"
        return f"nothing is heard from {self.track}"

    # Large packets (RFC 9764). ----------------------------------------------------------------------------------

    def size(self, mtu: int) -> None:
        """IP packets of `mtu` octets shall get through; 0: of no size in particular."""
        if mtu != self._large.mtu:
            self._large = _Large(mtu)
            self._awaited = False
            self.judge_at = -_NEVER
            self.large_at = self._first - FIRST + self._spread if mtu else _NEVER

    @property
    def mtu(self) -> int:
        """The size that is probed; 0: none is."""
        return self._large.mtu

    @property
    def payload(self) -> int:
        """Octets of UDP that make an IP packet of the size that is probed."""
        return self._large.mtu - _HEADERS[self.track.remote.version]

    def large_due(self, now: float) -> bool:
        """Whether a large packet is to be sent now (`session.compose_padded(payload)`, then `large_sent`)."""
        ready = self.session.state == State.UP and not self.session.polling and not self._awaited
        return ready and now >= self.large_at and self.payload >= 2 * SIZE + 4

    def large_sent(self, now: float) -> None:
        self._awaited = True
        self.judge_at = -_NEVER
        self.session.answered = 0
        self.large_at = now + ANSWER

    def too_large(self, now: float, reason: str) -> None:
        """This host itself can't send one of that size."""
        self._awaited = False
        self.judge_at = -_NEVER
        self._large.fail(reason)
        self.large_at = now + self.period

    def _judge_large(self, now: float) -> None:
        if not self._awaited:
            return
        if self.session.state != State.UP or self.session.polling:  # whose answer comes now can't be told
            self._awaited = False
            self._large.misses = 0
            self.large_at = now + ANSWER
        elif self.session.answered:
            self._awaited = False
            first = self._large.full is None
            settled = self._large.pass_()
            self._large.begin(now, self.session.heard)
            self.large_at = now + (self.period if settled else ANSWER) * (0.5 + self._spread if first else 1.0)
        elif now >= self.large_at:
            self._awaited = False
            self._large.misses += 1
            if self._large.misses >= (MISSES if self._steady(now) else MISSES_WITH_LOSS):
                self._large.fail(f"packets of {self._large.mtu} octets to {self.track} are lost, small ones are not")
            if self._large.full is False:
                self._large.misses = 0
                self._large.begin(now, self.session.heard)
                self.large_at = now + self.period

    def _steady(self, now: float) -> bool:
        """Small packets have come as often as they should since a large one was answered."""
        usual = self.session.detection / max(self.session.remote_multiplier, 1)
        expected = (now - self._large.began) / usual if usual else _NEVER
        return self.session.heard - self._large.heard_before >= STEADY * expected


class _Large:
    """What is known about packets of one size."""

    __slots__ = ("began", "full", "heard_before", "misses", "mtu", "passes", "reason")

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.full: bool | None = None
        self.reason = ""
        self.misses = 0
        self.passes = 0
        self.heard_before = 0
        self.began = 0.0

    def begin(self, now: float, heard: int) -> None:
        """Small packets are counted from here."""
        self.began = now
        self.heard_before = heard

    def pass_(self) -> bool:
        """One was answered; whether that settles it."""
        self.misses = 0
        self.passes += 1
        if self.full is False and self.passes < RETURNS:
            return False
        self.full = True
        return True

    def fail(self, reason: str) -> None:
        self.full = False
        self.reason = reason
        self.passes = 0
