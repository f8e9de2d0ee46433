"""What discovery counts and what it complains about: counters for metrics, and Problems that fade by themselves.

Used by `discovery/peers.py` and `discovery/conversation.py`; `Multicast` hands both out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from weft.model import Problem


class Refused(StrEnum):
    """Why a datagram was not believed."""

    MALFORMED = "malformed"
    UNSEALED = "unsealed"
    SEALED = "sealed"
    WRONG_KEY = "wrong_key"
    SPOOFED = "spoofed"
    REPLAYED = "replayed"
    REPEATED = "repeated"
    """Not wrong: overtaken by a newer one, or heard twice because it was sent to the group and to us directly."""
    DUPLICATE = "duplicate"
    LIMIT = "limit"


@dataclass(slots=True)
class Counters:
    """Datagrams since the start: by message type, and refused ones by reason."""

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    refused: Counter[Refused] = field(default_factory=Counter)
    own: int = 0
    """Our own, come back: proof that the group is heard here."""

    def flat(self) -> dict[str, int]:
        """`sent.HELLO`, `received.own`, `refused.malformed`, …: sorted, and only what was counted."""
        named = (("sent", self.sent), ("received", self.received), ("refused", self.refused))
        counted = {f"{what}.{kind}": count for what, counter in named for kind, count in counter.items()}
        return dict(sorted({**counted, "received.own": self.own}.items()))


class Complaints:
    """Problems by kind and subject, each until a given time; a repetition only puts that time off.

    So a sender that does the same wrong thing a thousand times a second makes one Problem, one log line and no wake-up
    of anything else. At most `limit` stand at a time: more are counted (in Counters) and not told.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._standing: dict[tuple[str, str], Problem] = {}
        self._until: dict[tuple[str, str], float] = {}
        self.version = 0
        """Differs from before whenever `problems` does."""
        self.next_expiry = float("inf")
        """Nothing fades before this."""

    def report(self, kind: str, subject: str, message: str, until: float = float("inf"), *, wrong: bool = True) -> None:
        """Say it, or go on saying it. What fades keeps its first wording, so that two offenders in turn don't make it
        flap; what stands until it is cleared has the latest one."""
        key = (kind, subject)
        problem = self._standing.get(key)
        if problem is None and len(self._standing) >= self._limit:
            return
        if problem is None or (problem.message != message and until == float("inf")):
            self._standing[key] = Problem(subject, message, wrong)
            self.version += 1
        self._until[key] = until
        self.next_expiry = min(self.next_expiry, until)

    def clear(self, kind: str, subject: str) -> None:
        """It is over."""
        if self._standing.pop((kind, subject), None) is not None:
            del self._until[kind, subject]
            self.version += 1

    def expire(self, now: float) -> None:
        """Let fade what nobody did again."""
        if now < self.next_expiry:
            return
        for kind, subject in [key for key, until in self._until.items() if until <= now]:
            self.clear(kind, subject)
        self.next_expiry = min(self._until.values(), default=float("inf"))

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._standing.values(), key=lambda p: (p.subject, p.message)))
