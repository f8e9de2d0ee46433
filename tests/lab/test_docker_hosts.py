"""Three Docker hosts (examples/three-hosts.yaml): what the demonstration shows, and what Docker does to us."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from tests.lab.harness import AT_ONCE, EXAMPLES, do, example, failing, ip_json, lab_up, on, settle, unique
from tests.support.eventually import until
from tests.support.needs import needs_docker
from weft.lab import netns, repair, services, state
from weft.lab.lab import Lab
from weft.lab.topology import Container, ContainerNetwork

pytestmark = needs_docker

PORT = 8000
QUICK = {"announce_interval": 0.5, "peer_timeout": 2}
"""Nothing is removed before every peer had the time to speak: with the defaults that would be minutes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("three-hosts", agent=QUICK), "docker") as found:
        settle(found)
        yield found


def test_every_container_reaches_every_other_one(lab: Lab) -> None:
    assert failing(lab) == []


def test_a_container_is_seen_under_its_own_address(lab: Lab) -> None:
    with stream(lab, "b", "web1") as listener, stream(lab, "a", "web1") as caller:
        listener.bind(("10.2.1.2", PORT))
        listener.listen(1)
        caller.connect(("10.2.1.2", PORT))
        connection, (source, _) = listener.accept()
        connection.close()
    assert source == "10.1.1.2"


def test_a_private_network_is_told_to_nobody(lab: Lab) -> None:
    assert ip_json(lab, "a", "route show 10.3.9.0/24") == []
    assert "100% packet loss" in on(lab, "a/web1", "ping -c1 -W1 10.3.9.2", check=False)


@pytest.mark.parametrize("fault", repair.FAULTS, ids=lambda fault: re.sub(r"^(an?|the) ", "", fault.name))
def test_what_somebody_deletes_is_back(lab: Lab, fault: repair.Fault) -> None:
    assert 0 < do(repair.mended(lab.host("a"), fault)) < 1000 * AT_ONCE


def test_a_new_network_is_routed_to_by_the_others_and_a_removed_one_no_more(lab: Lab) -> None:
    subnet = ip_network("10.1.77.0/24")
    shiny = ContainerNetwork("shiny", (subnet,), containers=(Container("shiny1", (ip_interface("10.1.77.2/24"),)),))
    seen = do(repair.spread(lab, lab.host("a"), shiny))
    try:
        assert set(seen.routed) == {"b", "c"}
        assert max(seen.routed.values()) < 1000 * AT_ONCE
        answered = lambda: " 0% packet loss" in on(lab, "c/shop1", "ping -c1 -W2 10.1.77.2", check=False)  # noqa: E731
        until(answered, "the new container to answer")
    finally:
        on(lab, "a", "docker rm -f shiny1")
        on(lab, "a", "docker network rm shiny")
    until(lambda: not any(ip_json(lab, host, f"route show {subnet}") for host in "bc"), "the routes to go")


RECIPE = "FORWARD -s 10.1.1.0/24 -d 10.2.1.0/24 -j DROP"


@pytest.fixture
def forbidden(lab: Lab) -> Iterator[None]:
    """The administrator of b lets nothing of a's network web into his own: flannel-registrar's recipe."""
    on(lab, "b", f"iptables -A {RECIPE}")
    until(lambda: "-ADM -s 10.1.1.0/24" in on(lab, "b", "iptables -S"), "the rule to be repeated")
    yield
    on(lab, "b", f"iptables -D {RECIPE}")
    until(lambda: "-ADM" not in on(lab, "b", "iptables -S"), "the rule to be gone")
    assert failing(lab) == []


@pytest.mark.usefixtures("forbidden")
@pytest.mark.parametrize("ending", ["TERM", "KILL"])
def test_a_docker_engine_restart_mends_itself(lab: Lab, ending: str) -> None:
    host = lab.host("b")
    whole, apart = do(repair.snapshot(host)), failing(lab)
    assert apart
    assert all({"10.1.1", "10.2.1"} & {address.rpartition(".")[0] for address in pair.split()} for pair in apart)
    do(host.signal("docker", ending))
    assert {route["dst"] for route in ip_json(lab, "a", "route show proto 76")} >= {"10.2.1.0/24", "10.2.2.0/24"}
    do(services.start(host, "docker"))
    until(lambda: len(on(lab, "b", "docker ps -q").split()) == 2, "the containers to be back", 20)
    until(lambda: do(repair.snapshot(host)) == whole, "routes and rules as before", 20)
    until(lambda: failing(lab) == apart, "all others to answer, and these not to", 20)


def test_dockers_own_rules_gone_and_back_leave_ours_in_front(lab: Lab) -> None:
    """What a reload of another firewall does: Docker's hook vanishes with our jump in it."""
    before = on(lab, "a", "iptables -S DOCKER-USER")
    assert before.index("-j WEFT-") < before.index("-j RETURN")
    on(lab, "a", "iptables -F DOCKER-USER")
    on(lab, "a", "iptables -A DOCKER-USER -j RETURN")
    until(lambda: on(lab, "a", "iptables -S DOCKER-USER") == before, "our jump in front of the RETURN")
    assert failing(lab) == []


@pytest.mark.timeout(500)
def test_the_demonstration_runs_and_leaves_nothing() -> None:
    name = unique("demo")
    command = [sys.executable, "-m", "weft.lab.demo", str(EXAMPLES / "three-hosts.yaml"), "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{fault.name} deleted" in done.stdout for fault in repair.FAULTS)
    assert "host c routes to it" in done.stdout
    assert "nothing is left" in done.stdout
    assert name not in state.labs()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/weft-lab/{name}"))
    assert not [space for space in netns.names() if name in space]


def stream(lab: Lab, host: str, container: str) -> socket.socket:
    """A TCP socket in a container."""
    space = do(lab.container_namespace(lab.host(host), lab.container(host, container)[1]))
    sock = netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(10)
    return sock
