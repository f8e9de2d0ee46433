"""Several `weft flanneld` that could get into each other's way: two networks on one host, one public address on two
hosts; and `weft cleanup`, which waits for all of them to be gone.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import cast

import pytest

from tests.lab.cells import DEVICE, PREFIX, cells, changes, etcdctl, inside, log_of, pinging, status, well, whole
from tests.lab.harness import bridge_json, do, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import patience, until
from tests.support.needs import needs_root
from weft.lab import repair, services
from weft.lab.lab import Lab
from weft.lab.topology import ServiceName
from weft.wire.subnet_env import parse_subnet_env

pytestmark = [needs_root, needs_etcd]

SECOND = cast(ServiceName, "second")
"""A service that the lab's file doesn't know."""
NETWORKS = {"first": "flannel.1", "second": "flannel.2"}
SOCKET = "/run/weft/second.sock"
ENV = "/run/flannel/second.env"
PATIENCE = 30.0
"""Seconds in which a daemon finds out whether another one with its address lives: marks are renewed every 20."""


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """Hosts a and b have two networks, c has one, d runs nothing by itself."""
    document = cells("abc")
    document["hosts"]["d"] = {"daemon": "none"}
    with lab_up(document, "daemons") as found:
        config = {"Network": "10.6.0.0/16", "Backend": {"Type": "vxlan", "VNI": 2}}
        etcdctl(found, "put", "/second/config", json.dumps(config))
        settle(found)
        yield found


@pytest.fixture(scope="module")
def double(module_lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """On d, a daemon that claims c's address; it takes its time to find out, so it does beside the other tests."""
    host, other = module_lab.host("d"), module_lab.host("c")
    assert other.host.flanneld is not None
    address = other.host.ports[0].addresses[0].ip
    command = services.weft("flanneld", *other.host.flanneld.flags, f"-public-ip={address}")
    line = host.inside(command)
    with subprocess.Popen(line, env=host.service_environment, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.fixture
def lab(module_lab: Lab, double: subprocess.Popen[str]) -> Lab:
    """All daemons run, and say that all is well."""
    for name in "ab":
        host = module_lab.host(name)
        if not host.running("flanneld"):
            do(services.start(host, "flanneld"))
        if not host.running(SECOND):
            start(module_lab, name)
    until(lambda: well(module_lab) and all(second_is_well(module_lab, host) for host in "ab"), "all daemons to be well")
    return module_lab


def start(lab: Lab, name: str, *flags: str, service: ServiceName = SECOND) -> None:
    """Start a host's daemon for its second network."""
    host = lab.host(name)
    assert host.host.flanneld is not None
    own = ("-etcd-prefix=/second", f"-subnet-file={ENV}", f"-socket={SOCKET}", *flags)
    command = services.weft("flanneld", *host.host.flanneld.flags, *own)
    do(host.start(service, command, services.flanneld_environment(host, host.host.flanneld)))


def second_is_well(lab: Lab, host: str) -> bool:
    said = status(lab, host, SOCKET)
    return bool(said["health"] == "ok" and said["peers"] == 1)


def address(lab: Lab, host: str) -> str:
    """The host's own address in its second network."""
    with open(inside(lab.host(host), ENV), "rb") as file:
        said = parse_subnet_env(file.read())
    assert said.subnet is not None
    return str(said.subnet[0])


def everything(lab: Lab, host: str) -> frozenset[str]:
    """Everything of both networks."""
    asked = "ip -o link show dev flannel.2; ip -o -4 address show dev flannel.2; bridge fdb show dev flannel.2"
    told = on(lab, host, ["sh", "-c", f"{asked}; cat {ENV}"], check=False)
    return whole(lab, host) | {re.sub(r"^\d+: ", "", line) for line in told.splitlines()}


# -- two networks on one host -----------------------------------------------------------------------------------------


def test_two_networks_work_side_by_side(lab: Lab) -> None:
    for name, device in NETWORKS.items():
        (link,) = ip_json(lab, "a", f"link show dev {device}")
        assert link["linkinfo"]["info_data"]["id"] == (1 if name == "first" else 2)
        assert len(bridge_json(lab, "a", f"fdb show dev {device}")) == (2 if name == "first" else 1)
    told = on(lab, "a", f"ping -n -c 20 -i 0.01 {address(lab, 'b')}")
    assert " 0% packet loss" in told
    with pinging(lab, "a", "b") as ping:
        pass
    assert ping.lost() == []
    assert "1 peers, 1 routes on flannel.2" in on(lab, "a", f"weft show --socket {SOCKET} status")


@pytest.mark.parametrize("ending", ["TERM", "KILL"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_restart_of_one_disturbs_nothing_of_the_other(lab: Lab, network: str, ending: str) -> None:
    host, before = lab.host("a"), everything(lab, "a")
    with changes(lab, "a") as told, pinging(lab, "a", "b") as ping:
        if network == "first":
            do(host.signal("flanneld", ending))
            do(services.start(host, "flanneld"))
        else:
            do(host.signal(SECOND, ending))
            start(lab, "a")
        until(lambda: well(lab) and second_is_well(lab, "a"), "both daemons to be well")
    assert ping.lost() == []
    assert told.lines == []
    assert everything(lab, "a") == before


@pytest.mark.parametrize("network", NETWORKS)
def test_a_device_that_is_deleted_is_mended_by_its_own_daemon(lab: Lab, network: str) -> None:
    before = everything(lab, "a")
    with changes(lab, "a") as told:
        on(lab, "a", f"ip link delete {NETWORKS[network]}")
        until(lambda: everything(lab, "a") == before, "all to be there again")
    assert told.deleted()
    (other,) = (device for name, device in NETWORKS.items() if name != network)
    assert [line for line in told.lines if other in line] == []


def test_a_network_with_the_same_vni_is_a_conflict_that_costs_the_first_one_nothing(lab: Lab) -> None:
    service = cast(ServiceName, "third")
    etcdctl(lab, "put", "/third/config", json.dumps({"Network": "10.7.0.0/16", "Backend": {"Type": "vxlan"}}))
    before, log = everything(lab, "a"), len(log_of(lab, "a"))
    socket, path = "/run/weft/third.sock", "/run/flannel/third.env"
    with changes(lab, "a") as told, pinging(lab, "a", "b") as ping:
        start(lab, "a", "-etcd-prefix=/third", f"-subnet-file={path}", f"-socket={socket}", service=service)
        try:
            rows = until(lambda: status(lab, "a", socket).get("not_done", []), "the conflict to be told")
            cycles = until(lambda: status(lab, "a", socket)["cycles"], "its cycles")
            ping.goes_on(1000)
            assert status(lab, "a", socket)["cycles"] - cycles < 20, "it tries again now and then"
        finally:
            do(lab.host("a").signal(service, "TERM"))
    assert {row["state"] for row in rows} == {"conflict"}
    assert any(DEVICE in row["object"] and "marked weft:flanneld" in row["message"] for row in rows)
    assert ping.lost() == []
    assert told.lines == []
    assert log_of(lab, "a")[log:] == [], "the first one has nothing to mend"
    assert everything(lab, "a") == before


def test_a_second_daemon_on_the_same_prefix_and_host_is_refused(lab: Lab) -> None:
    host = lab.host("a")
    assert host.host.flanneld is not None
    command = host.inside(services.weft("flanneld", *host.host.flanneld.flags, "-socket=/run/weft/other.sock"))
    done = subprocess.run(command, env=host.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"a weft flanneld{PREFIX} is running in this network namespace already" in done.stderr
    assert status(lab, "a")["health"] == "ok"


# -- cleanup ----------------------------------------------------------------------------------------------------------


def test_cleanup_refuses_while_one_of_two_daemons_runs(lab: Lab) -> None:
    host, before = lab.host("a"), everything(lab, "a")
    do(services.stop(host, "flanneld"))
    done = subprocess.run(
        host.inside(["weft", "cleanup"]), env=host.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "a weft flanneld/second is running in this network namespace; stop it first" in done.stderr
    assert everything(lab, "a") == before


def test_cleanup_removes_everything_of_ours_and_nothing_else(lab: Lab) -> None:
    host, before = lab.host("a"), everything(lab, "a")
    theirs = (
        "ip link add other type vxlan id 77 dstport 4799 local 192.168.77.11",
        "ip link set other up",
        "ip route add 10.66.0.0/16 via 192.168.77.12",
        "bridge fdb append 02:00:00:00:00:66 dev other dst 192.168.77.66 self permanent",
        "ip neighbour add 10.67.0.1 lladdr 02:00:00:00:00:66 dev other nud permanent",
        "ip nexthop add id 66 via 192.168.77.12 dev eth0",
        "iptables -I FORWARD -s 10.66.0.0/16 -j ACCEPT",
    )
    for command in theirs:
        on(lab, "a", command)
    foreign = others(lab)
    try:
        do(services.stop(host, "flanneld"))
        do(host.signal(SECOND, "TERM"))
        assert everything(lab, "a") >= before
        told = on(lab, "a", "weft cleanup --dry-run")
        assert everything(lab, "a") >= before
        assert all(re.search(rf"ip link del.* {re.escape(device)}\b", told) for device in NETWORKS.values())
        on(lab, "a", "weft cleanup")
        links = {link["ifname"] for link in ip_json(lab, "a", "link show type vxlan")}
        assert links == {"other"}
        assert not on(lab, "a", "ip route show proto 76")
        assert not on(lab, "a", "ip nexthop show proto 76")
        assert "WEFT" not in on(lab, "a", "iptables-save")
        assert others(lab) == foreign
        assert "nothing of weft's" in on(lab, "a", "weft cleanup")
        assert do(repair.snapshot(lab.host("b"))) >= {"device flannel.1"}
    finally:
        for command in ("ip link delete other", "ip route delete 10.66.0.0/16", "ip nexthop delete id 66"):
            on(lab, "a", command)
        on(lab, "a", "iptables -D FORWARD -s 10.66.0.0/16 -j ACCEPT")
    do(services.start(host, "flanneld"))
    start(lab, "a")
    until(lambda: everything(lab, "a") == before, "the same state as before")


def others(lab: Lab) -> list[str]:
    """Other people's objects on host a."""
    asked = (
        "ip -o link show dev other",
        "ip route show 10.66.0.0/16",
        "bridge fdb show dev other",
        "ip neighbour show dev other nud permanent",
        "ip nexthop show id 66",
    )
    rules = [line for line in on(lab, "a", "iptables-save").splitlines() if "10.66.0.0/16" in line]
    found = [*(on(lab, "a", command) for command in asked), *rules]
    assert len(found) == 6
    assert all(found)
    return found


# -- one public address on two hosts ----------------------------------------------------------------------------------


def test_a_second_daemon_with_a_public_address_that_is_taken_says_so_and_stops(
    lab: Lab, double: subprocess.Popen[str]
) -> None:
    said = double.communicate(timeout=patience(PATIENCE))[1]
    assert double.returncode == 1
    assert re.search(r"ERROR another daemon with the public address 192\.168\.77\.13 .* on c .* lives: this one", said)
    assert "Traceback" not in said
    assert status(lab, "c")["health"] == "ok"
    assert status(lab, "c")["problems"] == []
    assert not ip_json(lab, "d", "link show type vxlan")
