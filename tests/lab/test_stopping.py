"""What the others do about a host whose agent ends, as docs/quickstart.md says it.

An agent that is stopped in order (SIGTERM) says goodbye: the others go on routing to its host for `goodbye_hold`, long
enough for a restart, and then forget it. One that dies (kill -9) says nothing: they keep it for `peer_timeout`. On its
own host, everything stays in the kernel either way.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby

import pytest

from tests.lab.harness import AT_ONCE, do, ip_json, lab_up, settle
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import repair, services
from weft.lab.lab import Lab

pytestmark = needs_root

HOLD = 4.0
TIMEOUT = 8.0
TWO_HOSTS = {
    "engine": "none",
    "agent": {"announce_interval": 0.5, "goodbye_hold": HOLD, "peer_timeout": TIMEOUT},
    "hosts": {"a": {"networks": {"web": "10.1.1.0/24"}}, "b": {"networks": {"web": "10.2.1.0/24"}}},
}
SUBNET = "10.2.1.0/24"
TARGET = "10.2.1.2"
PACE = 0.01
"""Seconds between two pings: 100 Hz."""
OUTAGE = 20
"""Pings without an answer, one after the other, that are no jitter: how often they went is no matter."""
LONG = 2.0
"""Seconds in which so many are sent, also by a busy machine."""
Answers = dict[int, float]
"""Sequence number → when its answer came, in seconds since 1970."""


@pytest.fixture(scope="module")
def _module_lab() -> Iterator[Lab]:
    with lab_up(TWO_HOSTS, "stopping") as found:
        yield found


@pytest.fixture
def lab(_module_lab: Lab) -> Lab:
    """Both agents run, everything answers, and a's has listened long enough to remove anything at all."""
    host = _module_lab.host("b")
    if not host.running("agent"):
        do(services.start(host, "agent"))
    settle(_module_lab)
    return _module_lab


@contextmanager
def pinging(lab: Lab) -> Iterator[Answers]:
    """Ping b's container from a's for the length of the `with`; what is yielded holds the answers at its end."""
    line = do(lab.container_command(lab.host("a"), "web1", ["ping", "-D", "-n", "-i", str(PACE), TARGET]))
    answers: Answers = {}
    with (
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as process,
        ThreadPoolExecutor(1) as reader,
    ):
        told_later = reader.submit(process.communicate)  # from the start: a pipe that is full would hold the ping up
        try:
            yield answers
        finally:
            os.killpg(process.pid, signal.SIGINT)  # nsenter, and the ping that is its child
            told = told_later.result(timeout=120)[0]
    found = re.findall(r"^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+)", told, re.MULTILINE)
    answers |= {int(number): float(moment) for moment, number in found}


def outages(answers: Answers) -> list[tuple[float, float]]:
    """From when to when nothing came back."""
    numbers = range(min(answers), max(answers))
    runs = [list(run) for lost, run in groupby(numbers, lambda number: number not in answers) if lost]
    return [(answers[run[0] - 1], answers[run[-1] + 1]) for run in runs if len(run) >= OUTAGE]


def routed(lab: Lab) -> bool:
    return bool(ip_json(lab, "a", f"route show {SUBNET}"))


def test_who_says_goodbye_is_routed_to_for_goodbye_hold_and_again_when_back(lab: Lab) -> None:
    host = lab.host("b")
    whole = do(repair.snapshot(host))
    with pinging(lab) as answers:
        stopped = time.time()
        do(services.stop(host, "agent"))
        until(lambda: not routed(lab), "a to forget b", HOLD + TIMEOUT + 5)
        forgotten = time.time()
        assert do(repair.snapshot(host)) == whole, "b's own tunnels, routes and rules stay"
        until(lambda: time.time() - forgotten > LONG, "pings to be lost")
        started = time.time()
        do(services.start(host, "agent"))
        until(lambda: routed(lab), "a to route to b again")
        settle(lab)
        settled = time.time()
        until(lambda: time.time() - settled > 0.2, "pings to be answered again")
    assert HOLD <= forgotten - stopped < TIMEOUT, "it was the goodbye that ended it, and no silence"
    ((lost, back),) = outages(answers)
    assert lost - stopped > HOLD - 0.5, "no packet is lost while the goodbye is held"
    assert back - started < AT_ONCE


def test_a_stop_that_is_shorter_than_goodbye_hold_loses_nothing(lab: Lab) -> None:
    with pinging(lab) as answers:
        do(services.stop(lab.host("b"), "agent"))
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped > 0.5, "a part of the time")
        do(services.start(lab.host("b"), "agent"))
        until(lambda: time.monotonic() - stopped > HOLD + 1, "the hold to be over", HOLD + 2)
        assert routed(lab)
    assert outages(answers) == []


def test_who_dies_is_routed_to_for_peer_timeout(lab: Lab) -> None:
    host = lab.host("b")
    whole = do(repair.snapshot(host))
    with pinging(lab) as answers:
        died = time.time()
        do(services.kill(host, "agent"))
        until(lambda: not routed(lab), "a to forget b", 2 * TIMEOUT)
        forgotten = time.time()
        assert do(repair.snapshot(host)) == whole
        until(lambda: time.time() - forgotten > LONG, "pings to be lost")
        do(services.start(host, "agent"))
        settle(lab)
    assert forgotten - died > TIMEOUT - 2, "the last HELLO was up to 0.5 s before, or somewhat more on a busy machine"
    ((lost, _),) = outages(answers)
    assert lost - died > TIMEOUT - 2
