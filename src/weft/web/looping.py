"""What docker-router's two daemons tell alike on /health and /metrics: the first four members of the document's answer,
and how the loop does. Used by `router.py` and `discovery.py`.

The status follows from what is known, as the registrar's does (`core/health.py`):

    starting    nothing was carried out yet                                          503
    critical    the daemon can't do its work; `message` says what is missing         503
    degraded    something is wrong, and everything else is done                      200
    healthy     nothing is                                                           200
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

import msgspec

from weft import __version__
from weft.agent.cycles import BOUNDS, Cycles
from weft.agent.loop import Loop
from weft.agent.peer_events import PeerEvents
from weft.core.health import Status
from weft.objects import Key
from weft.web.metrics import Histogram, Metric, by, counter, gauge

SETTLE = 5.0
"""Seconds that an object may take to be as planned before that is worth a word."""
MOST_PROBLEMS = 50


class LoopHealth(msgspec.Struct, frozen=True, kw_only=True):
    """GET /health as documented (status, peer_count, route_count, uptime in seconds, in this order), and what that has
    no place for. `waiting_for`: sources that have not spoken, or do not vouch for their set. `not_done`: objects that
    are not as planned."""

    status: Status
    peer_count: int
    route_count: int
    uptime: int
    message: str
    name: str
    version: str
    waiting_for: list[str]
    problems: list[str]
    not_done: int
    last_cycle_ms: float


class Exports(Protocol):
    """Where traces go (`telemetry.sender.Telemetry`)."""

    @property
    def sent(self) -> int: ...

    @property
    def dropped(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Looping:
    """The parts that both daemons have. `daemon`: router or discovery. `traces`: None where there are none."""

    daemon: str
    loop: Loop[Any]
    events: PeerEvents
    cycles: Cycles
    traces: Exports | None = None
    wall: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    started: float = field(default_factory=time.monotonic)

    @property
    def version(self) -> str:
        return __version__

    @property
    def uptime(self) -> int:
        """Seconds."""
        return int(self.now() - self.started)

    def problems(self) -> list[str]:
        """What is wrong, each sentence once."""
        told = dict.fromkeys(problem.message for problem in self.loop.world.problems() if problem.wrong)
        told.update(dict.fromkeys(self._lasting()))
        return list(told)

    def status(self, critical: str) -> tuple[Status, str]:
        """The verdict and its sentence. `critical`: why this daemon can't do its work, "" if it can."""
        problems = self.problems()
        if critical:
            return "critical", critical
        if not self.loop.ready.is_set():
            waiting = ", ".join(self.loop.world.waiting()) or "the first plan"
            return "starting", f"waiting for {waiting}" + (f": {problems[0]}" if problems else "")
        if problems:
            return "degraded", problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        return "healthy", "all is well"

    def undone(self) -> Mapping[str, int]:
        """Objects that are not as planned, by state."""
        return Counter(status.state for status in self.loop.reconciler.account.statuses.values())

    def failing(self, kind: str, target: str) -> str:
        """What is wrong with the first object of this kind (the first word of its key) that is not done for a while, or
        with the target that holds them; "" if all is well."""
        statuses = self.loop.reconciler.account.statuses
        found = (key for key in statuses if (key[0] == kind or key == ("target", target)) and self._lasts(key))
        return next((self._sentence(key) for key in found), "")

    def metrics(self) -> Iterator[Metric | Histogram]:
        """Of the loop, and who came and went."""
        cycles, account = self.cycles, self.loop.reconciler.account
        yield gauge("weft_info", "Version of weft.", [((("daemon", self.daemon), ("version", __version__)), 1)])
        yield gauge("weft_uptime_seconds", "Seconds since the start.", [((), self.uptime)])
        yield gauge("weft_problems", "What is wrong (GET /health lists it).", [((), len(self.problems()))])
        yield counter("weft_peer_events_total", "Peers that came, changed, …", by("event", self.events.counts))
        yield gauge("weft_objects_not_done", "Objects that are not as planned, by state.", by("state", self.undone()))
        done = [((("action", action), ("kind", kind)), count) for (action, kind), count in sorted(cycles.done.items())]
        yield counter("weft_changes_total", "Objects that were changed, by action and kind.", done)
        vain = [((("action", a), ("kind", kind)), count) for (a, kind), count in sorted(cycles.refused.items())]
        yield counter("weft_changes_refused_total", "Changes that were tried in vain.", vain)
        yield counter("weft_repairs_total", "Objects that somebody changed and weft mended.", [((), cycles.repairs)])
        yield counter("weft_cycles_total", "Cycles of the loop.", [((), account.cycles)])
        yield gauge("weft_last_cycle_seconds", "Seconds that the last cycle took.", [((), cycles.last)])
        yield Histogram(
            "weft_cycle_seconds", "Seconds that a cycle took.", _summed(cycles), cycles.count, cycles.seconds
        )
        if self.traces is not None:
            traces = (("sent", self.traces.sent), ("dropped", self.traces.dropped))
            yield counter("weft_traces_total", "Cycles that were told to OpenTelemetry.", by("outcome", dict(traces)))

    def verdict(self, status: Status) -> Metric:
        """1 for the status that holds."""
        samples = [((("status", one),), float(one == status)) for one in get_args(Status)]
        return gauge("weft_health_status", "1 for the status that holds.", samples)

    def _lasting(self) -> Iterator[str]:
        """One sentence for each object that is not as planned and not mended by the next attempt."""
        return (self._sentence(key) for key in self.loop.reconciler.account.statuses if self._lasts(key))

    def _sentence(self, key: Key) -> str:
        status = self.loop.reconciler.account.statuses[key]
        return f"{self.loop.reconciler.name(key)}: {status.message}"

    def _lasts(self, key: Key) -> bool:
        status = self.loop.reconciler.account.statuses[key]
        return status.state == "conflict" or (status.attempts > 1 and self.wall() - status.since >= SETTLE)


def _summed(cycles: Cycles) -> tuple[tuple[float, int], ...]:
    """Each bucket with those before it, as Prometheus wants them."""
    total, summed = 0, []
    for bound, number in zip(BOUNDS, cycles.buckets, strict=True):
        total += number
        summed.append((bound, total))
    return tuple(summed)
