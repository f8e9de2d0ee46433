"""What the registrar notes in its events log: what was done and why, which ways changed, who was lost and found. Called
by `daemons/registrar.py` when its sources and its loop have something new.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from weft.agent.journal import Journal
from weft.agent.reconcile import Reconciler
from weft.core.commands import text
from weft.core.health import Container
from weft.core.sight import Course
from weft.model import Reach

log = logging.getLogger("weft")

MOST = 50
"""Objects of one cycle that are noted one by one."""


class Chronicle:
    """`repairs`: objects that had been right and were put right again (`Report.repaired`). `seconds`: of all cycles
    that did something."""

    def __init__(self, journal: Journal) -> None:
        self.repairs = 0
        self.seconds = 0.0
        self._journal = journal
        self._cycles = 0
        self._courses: dict[str, Course] = {}
        self._reaches: Mapping[tuple[str, str], Reach] = {}
        self._container: Container | None = None

    def reaches(self, now: Mapping[tuple[str, str], Reach]) -> None:
        """What probing came to."""
        for path, reach in now.items():
            before = self._reaches.get(path)
            if before is not None and before.state != reach.state:
                node, kind = path
                self._journal.note("liveness", node, f"{kind}: {before.state} → {reach.state}", reach.reason)
        self._reaches = now

    def container(self, now: Container) -> None:
        """flannel's container."""
        before, self._container = self._container, now
        if before is not None and before.state != now.state:
            self._journal.note("container", now.name, f"{before.state} → {now.state}", now.error)

    def courses(self, now: Mapping[str, Course]) -> None:
        """By which way the others are reached."""
        for name, course in now.items():
            before = self._courses.get(name)
            if before is None and course.kind != "direct":
                self._journal.note("course", name, _way(course), course.rule)
                log.info("%s is reached %s: %s", name, _way(course), course.rule)
            elif before is not None and (before.kind, before.relay) != (course.kind, course.relay):
                self._journal.note("course", name, f"{_way(before)} → {_way(course)}", course.rule)
                log.info("%s is reached %s, until now %s: %s", name, _way(course), _way(before), course.rule)
        self._courses = dict(now)

    def work(self, reconciler: Reconciler) -> None:
        """What the last cycle did."""
        account = reconciler.account
        done = account.last.done if account.cycles != self._cycles else ()
        self._cycles = account.cycles
        if not done:
            return
        repaired = {op.object.key for op in account.last.repaired}
        self.repairs += len(repaired)
        self.seconds += account.last.seconds
        for op in done[:MOST]:
            kind = "repair" if op.object.key in repaired else "change"
            self._journal.note(kind, text(op.object), op.action, str(op.why))
        if len(done) > MOST:
            kind = "repair" if repaired else "change"
            self._journal.note(kind, "", f"{len(done) - MOST} more", "too many to be listed")


def _way(course: Course) -> str:
    return f"through {course.relay}" if course.relay else {"direct": "directly"}.get(course.kind, course.kind)
