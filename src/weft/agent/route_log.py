"""flannel-route-manager's log, line by line as it was, for whoever follows it. Used by `daemons/route_manager.py`.

reconciler starting...
reconciler: inserted flannel-default-10-244-72-0-24     found by a full comparison
reconciler done
monitor: deleted flannel-default-10-244-72-0-24         after a lease came, changed or went
deleted: flannel-default-10-244-72-0-24                 -delete-all-routes
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from weft.agent.reconcile import Reconciler
from weft.objects import Op
from weft.objects.cloud import CloudRoute

log = logging.getLogger("weft")

WORDS = {"add": "inserted", "change": "replaced", "remove": "deleted"}


class Unheard:
    """Takes what is said of the hosts (`agent.peer_events.Notes`): their routes have lines of their own."""

    def note(self, kind: str, subject: str, done: str, reason: str) -> None:
        """One event."""
        log.debug("%s %s %s: %s", kind, subject, done, reason)


class RouteLog:
    """`called`: what people know a route by."""

    def __init__(self, called: Callable[[CloudRoute], str]) -> None:
        self._called = called
        self._news: list[float] = []
        self._began = False
        self._done = False
        self._seen = 0

    def heard(self, now: float) -> None:
        """A source told something (`now`: by the loop's clock): what the next cycles do is the monitor's doing, once
        the reconciler has been through. A cycle that read the tables before that knows nothing of it yet."""
        self._news.append(now)

    def cycled(self, reconciler: Reconciler, unfinished: bool) -> None:
        """After each cycle; twice for one says it once. `unfinished`: there is more to do that nothing has hindered
        yet."""
        account = reconciler.account
        if account.cycles == self._seen:
            return
        self._seen = account.cycles
        if not self._began:
            self._began = True
            log.info("reconciler starting...")
        later = [at for at in self._news if at > reconciler.moments.read]
        who = "monitor" if len(later) < len(self._news) and self._done else "reconciler"
        self.tell(account.last.done, f"{who}: %s ")
        if not unfinished:
            if who == "reconciler" and (account.last.done or not self._done):
                log.info("reconciler done")
            self._done = True
            self._news = later

    def deleted(self, reconciler: Reconciler) -> None:
        """The same for -delete-all-routes."""
        if reconciler.account.cycles != self._seen:
            self._seen = reconciler.account.cycles
            self.tell(reconciler.account.last.done, "%s: ")

    def tell(self, done: Iterable[Op], form: str) -> None:
        """A line for each op on a route. `form`: what stands before its name, with the deed in it."""
        for op in done:
            if isinstance(op.object, CloudRoute):
                line = (form % WORDS[op.action]) + self._called(op.object)
                log.info("%s%s", line, _moved(op))


def _moved(op: Op) -> str:
    if op.action != "change" or not isinstance(op.object, CloudRoute) or not isinstance(op.old, CloudRoute):
        return ""
    if op.old.via == op.object.via:
        return f": {op.old.flaw}" if op.old.flaw else ""
    return f": {op.old.via or 'an unknown instance'} → {op.object.via}"
