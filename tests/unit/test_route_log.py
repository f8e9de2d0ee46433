"""flannel-route-manager's log lines."""

from __future__ import annotations

import logging
from ipaddress import ip_address, ip_network

import pytest

from weft.agent.reconcile import Moments, Reconciler
from weft.agent.route_log import RouteLog
from weft.agent.status import Report
from weft.daemons.process import GoLines
from weft.objects import Op, Why
from weft.objects.cloud import CloudRoute

WHY = Why("flannel", "10.244.72.0/24", "the lease")
ROUTE = CloudRoute("default", ip_network("10.244.72.0/24"), ip_address("10.240.0.5"))
MOVED = CloudRoute("default", ip_network("10.244.72.0/24"), ip_address("10.240.0.6"))


class Log:
    """A RouteLog, the loop's account, and what was said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "weft")
        self._caplog = caplog
        self.reconciler = Reconciler(())
        self.now = 0.0
        self.lines = RouteLog(lambda route: "flannel-default-" + str(route.dst).replace(".", "-").replace("/", "-"))

    def heard(self, later: float = 0.0) -> None:
        """A source told something, before the next cycle reads or so much later."""
        self.lines.heard(self.now + later)

    def cycle(self, *ops: Op, unfinished: bool = False) -> list[str]:
        """One cycle that did this: what was said of it."""
        self._caplog.clear()
        self.now += 1
        self.reconciler.moments = Moments(read=self.now)
        self.reconciler.account.cycles += 1
        self.reconciler.account.last = Report(done=ops)
        self.lines.cycled(self.reconciler, unfinished)
        return self._caplog.messages


def test_the_documents_walk_through(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    log.heard()
    assert log.cycle(Op("add", ROUTE, WHY)) == [
        "reconciler starting...",
        "reconciler: inserted flannel-default-10-244-72-0-24",
        "reconciler done",
    ]
    assert log.cycle() == []
    log.heard()
    assert log.cycle(Op("remove", ROUTE, WHY)) == ["monitor: deleted flannel-default-10-244-72-0-24"]
    log.heard()
    assert log.cycle(Op("add", ROUTE, WHY)) == ["monitor: inserted flannel-default-10-244-72-0-24"]


def test_what_a_full_comparison_mends_is_the_reconcilers(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    assert log.cycle() == ["reconciler starting...", "reconciler done"]
    log.heard()
    assert log.cycle() == []
    assert log.cycle(Op("add", ROUTE, WHY)) == [
        "reconciler: inserted flannel-default-10-244-72-0-24",
        "reconciler done",
    ]


def test_a_batch_in_several_cycles_is_one_work(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    first = log.cycle(Op("add", ROUTE, WHY), unfinished=True)
    assert first[-1] == "reconciler: inserted flannel-default-10-244-72-0-24"
    log.heard()
    assert log.cycle(Op("add", MOVED, WHY))[-1] == "reconciler done"
    log.heard()
    assert log.cycle(Op("add", ROUTE, WHY), unfinished=True)[0].startswith("monitor: ")
    assert log.cycle(Op("add", ROUTE, WHY))[0].startswith("monitor: ")
    assert log.cycle(Op("add", ROUTE, WHY))[0].startswith("reconciler: ")


def test_a_change_tells_from_where_to_where(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    log.cycle()
    name = "reconciler: replaced flannel-default-10-244-72-0-24: "
    assert log.cycle(Op("change", MOVED, WHY, ROUTE))[0] == name + "10.240.0.5 → 10.240.0.6"
    lost = CloudRoute("default", ROUTE.dst, None)
    assert log.cycle(Op("change", ROUTE, WHY, lost))[0] == name + "an unknown instance → 10.240.0.5"
    twice = CloudRoute("default", ROUTE.dst, ROUTE.via, "it is there twice")
    assert log.cycle(Op("change", ROUTE, WHY, twice))[0] == name + "it is there twice"


def test_what_is_heard_while_a_cycle_works_is_the_next_ones(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    log.cycle()
    log.heard()
    log.heard(later=1.5)
    assert log.cycle(Op("remove", ROUTE, WHY)) == ["monitor: deleted flannel-default-10-244-72-0-24"]
    assert log.cycle(Op("add", ROUTE, WHY)) == ["monitor: inserted flannel-default-10-244-72-0-24"]
    assert log.cycle(Op("add", ROUTE, WHY))[0].startswith("reconciler: ")


def test_one_cycle_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    log.cycle(Op("add", ROUTE, WHY))
    caplog.clear()
    log.lines.cycled(log.reconciler, False)
    assert caplog.messages == []


def test_deleted_as_in_the_document(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog)
    caplog.clear()
    log.lines.tell([Op("remove", ROUTE, WHY)], "%s: ")
    assert caplog.messages == ["deleted: flannel-default-10-244-72-0-24"]


def test_lines_look_like_gos() -> None:
    def line(level: int, under_journald: bool = False) -> str:
        record = logging.LogRecord("weft", level, "", 0, "reconciler %s", ("done",), None)
        record.created = 1413184660.0
        return GoLines(under_journald).format(record)

    stamp, _, rest = line(logging.INFO).partition(" ")
    assert (stamp.count("/"), rest[2], rest[8:]) == (2, ":", " reconciler done")
    assert line(logging.WARNING, True) == "warning: reconciler done"
    assert line(logging.INFO, True) == "reconciler done"
