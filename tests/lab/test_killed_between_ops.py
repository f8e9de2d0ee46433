"""An agent that dies (SIGKILL) after any step of its work is succeeded by one that ends in the same state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.harness import do, failing, ip_json, lab_up, on, settle
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import repair, services
from weft.lab.lab import Lab

pytestmark = [needs_root, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LEAST = 12
"""Steps that the smallest agent takes at least: sysctl, device, address, chains, jumps, and four for the peer."""
MOST = 60
TWO_HOSTS = {
    "engine": "none",
    "hosts": {"a": {"networks": {"web": "10.1.1.0/24"}}, "b": {"networks": {"web": "10.2.1.0/24"}}},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(TWO_HOSTS, "killed") as found:
        yield found


def test_wherever_it_dies_the_next_agent_ends_in_the_same_state(lab: Lab) -> None:
    settle(lab)
    host = lab.host("a")
    whole = do(repair.snapshot(host))
    died = 0
    for steps in range(1, MOST):
        do(services.kill(host, "agent"))
        on(lab, "a", "weft cleanup")
        assert do(repair.vxlan(host)) == ""
        command = [sys.executable, "-m", "tests.lab.fused_agent", str(steps)]
        environment = host.environment | services.agent_environment(host) | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        do(host.start("agent", command, environment))
        until(lambda: host.running("agent") is None or is_whole(lab, whole), "an end", 20)
        if host.running("agent"):
            break  # it needed fewer steps than the fuse has: all have been seen
        died += 1
        do(services.start(host, "agent"))
        until(lambda: is_whole(lab, whole), f"the state to be whole after a death at step {steps}", 20)
    assert LEAST <= died < MOST - 1
    assert failing(lab) == []


def is_whole(lab: Lab, whole: repair.Lines) -> bool:
    """The route is the last thing that an agent makes: before it is there, the rest need not be looked at."""
    return bool(ip_json(lab, "a", "route show proto 76")) and do(repair.snapshot(lab.host("a"))) == whole
