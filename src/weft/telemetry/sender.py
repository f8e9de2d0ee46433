"""The daemon's end: each cycle becomes one packet to the helper process. Made by `daemons/telemetry.py`.

Nothing here waits, raises or keeps anything: the socket's own buffer is the queue, and what doesn't fit is counted and
dropped. A helper that has ended is told once; the daemon goes on without.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Mapping

from weft.agent.cycles import Cycle
from weft.telemetry.spans import LONGEST, Happening, Span, Trace, Value, encode

log = logging.getLogger("weft")

MOST_EVENTS = 20
"""Of one cycle; the oldest go."""
LONGEST_SENTENCE = 500
SECOND = 1_000_000_000
"""Nanoseconds."""


class Telemetry:
    """A `cycles.Tracer`. `sent`, `dropped`: cycles, since the start."""

    def __init__(self, end: socket.socket) -> None:
        self.sent = 0
        self.dropped = 0
        self._end: socket.socket | None = end
        end.setblocking(False)
        self._events: list[Happening] = []

    def cycle(self, cycle: Cycle) -> None:
        """It has ended."""
        events, self._events = tuple(self._events), []
        if self._end is None:
            self.dropped += 1
            return
        message = encode(trace_of(cycle, events))
        try:
            if len(message) <= LONGEST and self._end.send(message) == len(message):
                self.sent += 1
                return
        except BlockingIOError:  # the helper, or who it tells, doesn't keep up
            self.dropped += 1
            return
        except OSError as error:
            log.warning("traces are no longer sent: the process that exports them has ended (%s)", error.strerror)
            self.close()
        self.dropped += 1

    def event(self, name: str, at: float, attributes: Mapping[str, Value]) -> None:
        """Something happened (`at`: seconds since 1970) that the next cycle answers to."""
        self._events = [*self._events[1 - MOST_EVENTS :], Happening(name, round(at * SECOND), dict(attributes))]

    def close(self) -> None:
        """The helper tells what it has, and ends."""
        if self._end is not None:
            self._end.close()
            self._end = None


def trace_of(cycle: Cycle, events: tuple[Happening, ...]) -> Trace:
    """The cycle's span, and those of its three parts: reading the targets, planning, carrying out."""
    began, read, planned, applied = (
        round((moment + cycle.offset) * SECOND)
        for moment in (cycle.moments.began, cycle.moments.read, cycle.moments.planned, cycle.moments.applied)
    )
    report = cycle.report
    done = Counter(f"weft.{op.action}.{type(op.object).__name__.lower()}" for op in report.done)
    refused = f"{len(report.refused)} changes were refused" if report.refused else ""
    error = next(iter(report.failed.values()), refused)
    attributes: dict[str, Value] = {
        "weft.changes": len(report.done),
        "weft.refused": len(report.refused),
        "weft.held": report.held,
        "weft.repaired": len(report.repaired),
        "weft.recovered": len(report.recovered),
        "weft.not_done": cycle.undone,
        "weft.peers": cycle.peers,
        "weft.routes": cycle.routes,
    }
    if report:
        attributes["weft.sentence"] = report.sentence()[:LONGEST_SENTENCE]
    return Trace(
        Span("weft.cycle", began, applied, attributes, events, error[:LONGEST_SENTENCE]),
        (
            Span("weft.read", began, read),
            Span("weft.plan", read, planned),
            Span("weft.apply", planned, applied, dict(sorted(done.items())), error=error[:LONGEST_SENTENCE]),
        ),
    )
