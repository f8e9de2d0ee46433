"""What the loop did, added up: for /metrics, and for whoever follows each cycle (OpenTelemetry). docker-router's two
daemons have it observe the loop after each cycle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from weft.agent.loop import Loop
from weft.agent.reconcile import Moments
from weft.agent.status import Report
from weft.objects import Op, Route

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; of the histogram."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle that planned something. `offset`: seconds to add to its moments, for seconds since 1970. `undone`:
    objects that are not as planned."""

    moments: Moments
    offset: float
    report: Report
    peers: int
    routes: int
    undone: int


class Tracer(Protocol):
    """Who follows the loop. Neither may wait, nor raise."""

    def cycle(self, cycle: Cycle) -> None:
        """It has ended."""
        ...

    def event(self, name: str, at: float, attributes: Mapping[str, str | int | float]) -> None:
        """Something happened (`at`: seconds since 1970) that the next cycle answers to."""
        ...


class Cycles:
    """`done`, `refused`: ops by action and kind of object. `seconds`: of all cycles together, `last`: of the last one.
    `buckets`: how many took no longer than each of BOUNDS, and longer than the one before."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self.done: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.count = 0
        self.seconds = 0.0
        self.last = 0.0
        self.repairs = 0
        self.buckets = [0] * len(BOUNDS)
        self._tracer = tracer

    def observe(self, loop: Loop[Any]) -> None:
        """After a cycle. Cheap when there was none."""
        account = loop.reconciler.account
        if account.cycles == self.count:
            return
        self.count = account.cycles
        report = account.last
        self.seconds += report.seconds
        self.last = report.seconds
        self.repairs += len(report.repaired)
        at = next((at for at, bound in enumerate(BOUNDS) if report.seconds <= bound), None)
        if at is not None:
            self.buckets[at] += 1
        self.done.update(map(_kind, report.done))
        self.refused.update(map(_kind, report.refused))
        if self._tracer is not None:
            self._tracer.cycle(_cycle(loop))

    def event(self, name: str, at: float, attributes: Mapping[str, str | int | float]) -> None:
        """Something happened that the next cycle answers to; for the tracer, if there is one."""
        if self._tracer is not None:
            self._tracer.event(name, at, attributes)

    def of(self, kind: str) -> Mapping[str, int]:
        """How often something of this kind (`route`) was added, changed and removed."""
        return {action: self.done[action, kind] for action in ("add", "change", "remove")}


def _kind(op: Op) -> tuple[str, str]:
    return op.action, type(op.object).__name__.lower()


def _cycle(loop: Loop[Any]) -> Cycle:
    reconciler = loop.reconciler
    known = loop.world.peers
    return Cycle(
        moments=reconciler.moments,
        offset=reconciler.clock.wall() - reconciler.clock.now(),
        report=reconciler.account.last,
        peers=len(known.items) if known is not None else 0,
        routes=sum(isinstance(want.object, Route) for want in reconciler.plan.wanted.values()),
        undone=len(reconciler.account.statuses),
    )
