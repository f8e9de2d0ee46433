"""Status per object, and the Report of one cycle. Kept by `reconcile.py`, read by the web API and the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from weft.objects import Failure, Key, Op

FIRST_RETRY = 0.1
LAST_RETRY = 30.0

State = Literal["done", "pending", "error", "conflict"]


@dataclass(frozen=True, slots=True)
class Status:
    """How one object stands. `since`: seconds since 1970 of the last change of state. `retry_at`: clock of the loop."""

    state: State
    since: float
    attempts: int = 0
    message: str = ""
    retry_at: float = 0.0

    @property
    def told(self) -> bool:
        """Whether it is worth a line in the log: not what one more attempt mends."""
        return self.state == "conflict" or self.attempts > 1


@dataclass(frozen=True, slots=True)
class Report:
    """What one cycle did. `failed`: objects that began to fail, told when the second attempt failed too; `recovered`:
    those of them that are right again. `repaired`: of `done`, what had been right before, by the same plan.
    `refused`: what was tried in vain."""

    done: tuple[Op, ...] = ()
    failed: Mapping[Key, str] = field(default_factory=dict)
    recovered: tuple[Key, ...] = ()
    held: int = 0
    seconds: float = 0.0
    repaired: tuple[Op, ...] = ()
    refused: tuple[Op, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.done or self.failed or self.recovered)

    def sentence(self) -> str:
        """One line: counts by action and kind, and why, at most three reasons."""
        counts = Counter((op.action, type(op.object).__name__.lower()) for op in self.done)
        what = [f"{action} {number} {kind}" for (action, kind), number in counts.items()]
        reasons = list(dict.fromkeys(str(op.why) for op in self.done))
        why = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        said = [", ".join(what) + (f": {why}" if why else "")] if what else []
        said.extend(f"{len(self.failed)} failed" for _ in range(bool(self.failed)))
        said.extend(f"{len(self.recovered)} recovered" for _ in range(bool(self.recovered)))
        if self.held:
            said.append(f"{self.held} removals wait until every source has spoken")
        return f"{'; '.join(said)} ({self.seconds * 1000:.1f} ms)"


def next_status(before: Status | None, failure: Failure | None, wall: float, now: float) -> Status:
    """The status after an attempt. What failed is tried again at once (a device that goes takes a request along that
    was under way to it, and the second cycle knows), then after 0.1 s, doubling up to 30 s."""
    if failure is None:
        return Status("done", wall)
    state: State = "conflict" if failure.conflict else "error"
    attempts = (before.attempts if before is not None else 0) + 1
    since = before.since if before is not None and before.state == state else wall
    delay = min(FIRST_RETRY * 2 ** min(attempts - 2, 20), LAST_RETRY) if attempts > 1 else 0.0
    return Status(state, since, attempts, failure.message, now + delay)
