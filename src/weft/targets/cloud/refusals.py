"""What a provider refuses again and again, and when it is worth another call. Used by `target.py`.

A permission that is missing, or a quota that is used up, hinders a thousand routes alike. The loop would ask for each
of them every half minute, for ever, and use up a whole project's calls. So what was refused a few times waits for a
turn, of which there is one every few seconds for all of it together; until then the answer is the last one. Once one of
them is taken, whatever hindered them may be over, and all are asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.objects import Failure, Key, Op

EAGER = 3
"""Refusals of one op in a row, after which it waits for a turn."""
TURN = 2.0
"""Seconds between two turns."""
FORGOTTEN = 300.0
"""Seconds after which is forgotten what the loop didn't ask for any more; what it wants, it asks for far more often."""


@dataclass(slots=True)
class _Refused:
    """`asked_at`: by the loop, last."""

    op: Op
    failure: Failure
    times: int
    asked_at: float


class Refusals:
    """Times are those of one clock that never jumps."""

    def __init__(self) -> None:
        self._refused: dict[Key, _Refused] = {}
        self._next_turn = 0.0

    def answer(self, op: Op, now: float) -> Failure | None:
        """What the provider said last to the very same, while it is nobody's turn; None: ask it."""
        known = self._refused.get(op.object.key)
        if known is None or known.op.action != op.action or known.op.object != op.object:
            return None
        known.asked_at = now
        if known.times < EAGER:
            return None
        if now >= self._next_turn:
            self._next_turn = now + TURN
            return None
        return known.failure

    def note(self, op: Op, failure: Failure | None, now: float) -> None:
        """What the provider said."""
        known = self._refused.pop(op.object.key, None)
        if failure is not None:
            same = known is not None and known.op.action == op.action and known.op.object == op.object
            times = known.times if known is not None and same else 0
            self._refused[op.object.key] = _Refused(op, failure, times + 1, now)
        elif known is not None and known.times >= EAGER:
            self._refused.clear()

    def forget(self, now: float) -> None:
        """What nobody asked for in a long time."""
        self._refused = {key: one for key, one in self._refused.items() if now < one.asked_at + FORGOTTEN}

    def clear(self) -> None:
        self._refused.clear()
