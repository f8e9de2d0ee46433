"""`weft flanneld` while its etcd is away: killed, cut off, without a leader, compacted; or not there at the start."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.cells import (
    PERIOD,
    cells,
    changes,
    etcdctl,
    inside,
    leases,
    log_of,
    pinging,
    routed,
    status,
    strange,
    well,
    whole,
)
from tests.lab.harness import AT_ONCE, do, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import repair, services
from weft.lab.lab import Lab
from weft.lab.topology import ServiceName

pytestmark = [needs_root, needs_etcd]

RETRIES = 6.5
"""Seconds of an outage in which several attempts fail. How long the pauses between them are is tested in virtual time
(tests/loop/test_loop_rest.py)."""


STATUS = ("env", "ETCDCTL_API=3", "etcdctl", "endpoint", "status")
SERVICES: tuple[ServiceName, ...] = ("etcd", "flanneld")


@pytest.fixture(scope="module")
def lab_of_one() -> Iterator[Lab]:
    with lab_up(cells("ab"), "one") as found:
        settle(found)
        yield found


@pytest.fixture(scope="module")
def lab_of_three() -> Iterator[Lab]:
    with lab_up(cells("abc", store=""), "three") as found:
        settle(found)
        yield found


@pytest.fixture
def one(lab_of_one: Lab) -> Iterator[Lab]:
    """Two hosts, and a third with the only etcd."""
    yield lab_of_one
    mend(lab_of_one)


@pytest.fixture
def three(lab_of_three: Lab) -> Iterator[Lab]:
    """Three hosts, each with a member of one cluster."""
    yield lab_of_three
    mend(lab_of_three)


def mend(lab: Lab) -> None:
    """After a test that failed half-way: everything runs again, and the strange leases are gone."""
    services_of = [(host, name) for name in SERVICES for host in lab.hosts if host.host.runs(name)]
    for host, name in services_of:
        if not host.running(name):
            do(services.start(host, name))
    store = next(host.name for host in lab.hosts if host.host.etcd is not None)
    etcdctl(lab, "del", "--prefix", "/coreos.com/network/subnets/10.5.20", at=store)


@contextlib.contextmanager
def undisturbed(lab: Lab, strangers: int) -> Iterator[None]:
    """While this lasts no ping is lost (100 Hz), and nothing of weft's is written on host a but so many strange leases,
    which come and go; at its end a is as before, and all is well."""
    before = whole(lab, "a")
    with changes(lab, "a") as told, pinging(lab, "a", "b", PERIOD["100 Hz"]) as ping:
        yield
        until(lambda: well(lab, "ab"), "the daemons to be well", 20)
        until(lambda: whole(lab, "a") == before, "host a to be as before")
    assert ping.lost() == []
    assert len(told.deleted()) == 4 * strangers, "of each its route, next hop, neighbour and FDB entry"
    assert all(re.search(r"10\.5\.20\d\.0|192\.168\.77\.20\d|02:00:00:00:00:", line) for line in told.lines)


def seconds_until(condition: Callable[[], object], what: str) -> float:
    began = time.monotonic()
    until(condition, what, 20)
    took = time.monotonic() - began
    print(f"{what}: {took * 1000:.0f} ms")
    return took


def shown(lab: Lab) -> str:
    """What a person reads on host a; the exit code tells, too, that something is wrong."""
    return on(lab, "a", "weft show status", check=False)


def passed(seconds: float, since: float) -> None:
    until(lambda: time.monotonic() - since > seconds, f"{seconds} s to pass", seconds + 1)


# -- one node -------------------------------------------------------------------------------------------------------


def test_an_etcd_that_is_killed_and_comes_back_costs_nothing(one: Lab) -> None:
    (key, value, subnet), (old_key, old_value, old_subnet) = strange(1), strange(2)
    log = len(log_of(one, "a"))
    with undisturbed(one, strangers=2):
        etcdctl(one, "put", old_key, old_value)
        until(lambda: routed(one, "a", old_subnet), "a route to the lease")
        do(services.kill(one.host("store"), "etcd"))
        killed = time.monotonic()
        seconds_until(lambda: status(one, "a")["health"] == "degraded", "health degraded")
        until(lambda: "etcd could not be asked" in shown(one), "the command line to say so")
        passed(RETRIES, killed)
        assert routed(one, "a", old_subnet)
        do(services.start(one.host("store"), "etcd"))
        etcdctl(one, "put", key, value)
        etcdctl(one, "del", old_key)
        assert seconds_until(lambda: routed(one, "a", subnet), "new lease routed after etcd's return") < AT_ONCE
        assert seconds_until(lambda: not routed(one, "a", old_subnet), "old one's route gone") < AT_ONCE
        etcdctl(one, "del", key)
        until(lambda: not routed(one, "a", subnet), "the new one's to go")
    lines = log_of(one, "a")[log:]
    warnings = [line for line in lines if " WARNING " in line]
    assert 1 <= len(warnings) <= 2, "that the watch was lost, and that nobody answers"
    assert all("source etcd: " in line for line in warnings)
    assert sum("no longer: source etcd: " in line for line in lines) == 1


def test_the_kernel_is_mended_while_etcd_is_away(one: Lab) -> None:
    host, before = one.host("a"), whole(one, "a")
    do(services.kill(one.host("store"), "etcd"))
    until(lambda: status(one, "a")["health"] == "degraded", "the daemon to know")
    for fault in repair.FAULTS:
        assert do(repair.mended(host, fault)) < 1000 * AT_ONCE
    on(one, "a", "rm /run/flannel/subnet.env")
    until(lambda: whole(one, "a") == before, "subnet.env to be back")
    assert status(one, "a")["health"] == "degraded"


@pytest.mark.parametrize("how", ["the cable to etcd", "the daemon stopped"])
def test_what_was_changed_and_compacted_behind_its_back_is_right_soon(one: Lab, how: str) -> None:
    (key, value, subnet), (old_key, old_value, old_subnet) = strange(3), strange(4)
    with undisturbed(one, strangers=2):
        etcdctl(one, "put", old_key, old_value)
        until(lambda: routed(one, "a", old_subnet), "a route to the lease")
        with blinded(one, how):
            etcdctl(one, "put", key, value)
            etcdctl(one, "del", old_key)
            answer = json.loads(etcdctl(one, "put", "/elsewhere", "x", "-w", "json"))
            etcdctl(one, "compact", str(answer["header"]["revision"]))
            assert not routed(one, "a", subnet), "it must not have heard of it"
        assert seconds_until(lambda: routed(one, "a", subnet), f"{how}: new lease routed after the return") < AT_ONCE
        assert seconds_until(lambda: not routed(one, "a", old_subnet), "old one's route gone") < AT_ONCE
        etcdctl(one, "del", key)
        until(lambda: not routed(one, "a", subnet), "the new one's to go")


@contextlib.contextmanager
def blinded(lab: Lab, how: str) -> Iterator[None]:
    """Host a's daemon sees nothing of etcd."""
    mark = lab.host("a").running("flanneld")
    assert mark is not None
    if how == "the cable to etcd":
        do(lab.cut("store", "lan", keep_carrier=True))
        try:
            yield
        finally:
            do(lab.heal("store", "lan"))
        return
    on(lab, "a", f"kill -STOP {mark.pid}")
    try:
        yield
    finally:
        on(lab, "a", f"kill -CONT {mark.pid}")


# -- one of three -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["leader", "follower"])
def test_a_member_that_is_killed_costs_nothing(three: Lab, whose: str) -> None:
    victim = leader(three) if whose == "leader" else next(host for host in "cba" if host != leader(three))
    other = next(host for host in "abc" if host != victim)
    (key, value, subnet), (late_key, late_value, late_subnet) = strange(5), strange(6)
    with undisturbed(three, strangers=2):
        do(services.kill(three.host(victim), "etcd"))
        until(lambda: put(three, key, value, other), "the others to take a lease", 20)
        assert seconds_until(lambda: routed(three, "a", subnet), f"{whose} killed: new lease routed") < AT_ONCE
        assert seconds_until(lambda: well(three, "ab"), "all well with two of three") < AT_ONCE
        do(services.start(three.host(victim), "etcd"))
        until(lambda: put(three, late_key, late_value, victim), "the member to take part again", 20)
        etcdctl(three, "del", key, at=victim)
        assert seconds_until(lambda: routed(three, "a", late_subnet), "late lease routed") < AT_ONCE
        etcdctl(three, "del", late_key, at=victim)
        until(lambda: not routed(three, "a", late_subnet), "the late one's route to go")


def test_a_cluster_without_a_leader_freezes_everything(three: Lab) -> None:
    key, value, subnet = strange(7)
    victims = [host for host in "abc" if host != leader(three)]
    with undisturbed(three, strangers=1):
        for host in victims:
            do(services.kill(three.host(host), "etcd"))
        seconds_until(lambda: status(three, "a")["health"] == "degraded", "no leader: health degraded")
        do(services.start(three.host(victims[0]), "etcd"))
        until(lambda: put(three, key, value, victims[0]), "the two to have a leader", 20)
        assert seconds_until(lambda: routed(three, "a", subnet), "new lease routed after the leader's return") < AT_ONCE
        do(services.start(three.host(victims[1]), "etcd"))
        etcdctl(three, "del", key, at=victims[0])
        until(lambda: not routed(three, "a", subnet), "its route to go")


def put(lab: Lab, key: str, value: str, at: str) -> str:
    """What etcdctl says; nothing if the member there has no leader yet."""
    return on(lab, at, ["env", "ETCDCTL_API=3", "etcdctl", "put", key, value], check=False)


def leader(lab: Lab) -> str:
    """The host whose member leads; on a busy machine there may be an election just now."""

    def found() -> str:
        said = {host: on(lab, host, [*STATUS, "-w", "json"], check=False) for host in "abc"}
        members = {host: member["Status"] for host, text in said.items() if text for member in json.loads(text)}
        return next((h for h, told in members.items() if told["leader"] == told["header"]["member_id"]), "")

    return until(found, "a leader", 20)


# -- not there at the start -------------------------------------------------------------------------------------------


class Supervisor:
    """What a daemon tells its supervisor (sd_notify(3)). `had_file`: whether subnet.env was there when READY came."""

    def __init__(self, subnet_env: Path) -> None:
        self.said: list[str] = []
        self.had_file: list[bool] = []
        self._subnet_env = subnet_env

    def hear(self, sock: socket.socket) -> None:
        while message := sock.recv(4096).decode():
            if "READY=1" in message.splitlines():
                self.had_file.append(self._subnet_env.exists())
            self.said += message.splitlines()


@contextlib.contextmanager
def supervised(lab: Lab, host: str) -> Iterator[Supervisor]:
    """Start flanneld, and listen."""
    machine = lab.host(host)
    assert machine.host.flanneld is not None
    supervisor = Supervisor(Path(inside(machine, "/run/flannel/subnet.env")))
    path = machine.folder / "supervisor.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        reader = threading.Thread(target=supervisor.hear, args=(sock,), daemon=True)
        reader.start()
        environment = services.flanneld_environment(machine, machine.host.flanneld) | {"NOTIFY_SOCKET": str(path)}
        try:
            do(machine.start("flanneld", services.flanneld(machine.host.flanneld), environment))
            yield supervisor
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", str(path))
            reader.join(10)
            path.unlink()


def test_a_start_without_etcd_keeps_the_former_state_and_waits(one: Lab) -> None:
    host = one.host("a")
    before = leases(one)
    with undisturbed(one, strangers=0):
        do(services.kill(one.host("store"), "etcd"))
        do(services.kill(host, "flanneld"))
        log, state = len(log_of(one, "a")), whole(one, "a")
        with supervised(one, "a") as supervisor:
            until(lambda: any("etcd could not be asked" in line for line in supervisor.said), "systemd to be told why")
            assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in supervisor.said)
            assert "READY=1" not in supervisor.said
            said = status(one, "a")
            assert said["health"] == "degraded"
            assert {"leases", "lease"} <= set(said["waiting_for"])
            assert "waiting for" in shown(one)
            assert "etcd could not be asked" in shown(one)
            assert whole(one, "a") == state
            on(one, "a", "rm /run/flannel/subnet.env")  # so that READY can be seen to come after it was written
            do(services.start(one.host("store"), "etcd"))
            seconds_until(lambda: "READY=1" in supervisor.said, "READY after etcd's return")
            until(lambda: well(one, "ab"), "all to be well")
        assert supervisor.said.count("READY=1") == 1
        assert supervisor.had_file == [True]
        warnings = [line for line in log_of(one, "a")[log:] if " WARNING " in line]
        assert len(warnings) == 1
        assert "etcd could not be asked" in warnings[0]
    assert {key: value | {"revision": 0} for key, value in leases(one).items()} == {
        key: value | {"revision": 0} for key, value in before.items()
    }
