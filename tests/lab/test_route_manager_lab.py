"""`weft route-manager` in the lab of examples/route-manager.yaml: flannel allocates subnets, the route table of a local
cloud carries the packets, one of two managers writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness import do, example, failing, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]
API = "http://10.240.0.1:8080"
PREFIX = "/coreos.com/network"
LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (.*)")
"""Of a log as Go writes it."""
THEIRS = {"to-the-office": ("192.168.0.0/16", "b"), "flannel-default-of-old": ("172.30.0.0/24", "10.240.0.11")}
"""Routes that the administrator made by hand."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("route-manager"), "cloud") as found:
        settle(found)
        yield found


def test_each_lease_is_a_route_and_packets_go_by_it(lab: Lab) -> None:
    listed = on(lab, "cloud", ["python", "-m", "weft.lab.compute", "routes", "--at", API]).splitlines()
    assert listed[0].split() == ["NAME", "NETWORK", "DEST_RANGE", "NEXT_HOP", "PRIORITY"]
    rows = {line.split()[0]: line.split()[1:] for line in listed[1:]}
    for host, address in (("a", "10.240.0.11"), ("b", "10.240.0.12")):
        assert rows[called(lab, host)] == ["default", subnet(lab, host), address, "1000"]
    leader = leading(lab)
    until(lambda: "reconciler done" in log(lab, leader), "the end of the first reconciliation")
    said = log(lab, leader)
    assert said.index("reconciler starting...") < said.index("reconciler done")
    for host in ("a", "b"):
        assert any(line.endswith(f": inserted {called(lab, host)}") for line in said)
    (other,) = {"a", "b"} - {leader}
    assert not any("inserted" in line for line in log(lab, other)), "one of them writes"
    assert "nothing is to be done" in weft(lab, leader, "route-manager", "-dry-run")
    assert f"lease {subnet(lab, 'b')}" in weft(lab, leader, "explain", subnet(lab, "b"))


def test_packets_go_on_while_the_clouds_api_is_down_and_it_forgets_nothing(lab: Lab) -> None:
    cloud, before = lab.host("cloud"), documents(lab)
    do(services.kill(cloud, "compute"))
    assert failing(lab, 1) == []
    do(services.start(cloud, "compute"))
    assert documents(lab) == before
    assert failing(lab, 1) == []


def test_a_lease_that_is_deleted_takes_its_route_along_and_comes_back_with_it(lab: Lab) -> None:
    b = lab.host("b")
    do(services.stop(b, "flanneld"))
    key, name, leader = lease(lab, "b"), called(lab, "b"), leading(lab)
    etcdctl(lab, "del", key)
    until(lambda: f"monitor: deleted {name}" in log(lab, leader), "the route to go")
    until(lambda: len(failing(lab, 1)) == 2, "packets to have no way")
    do(services.start(b, "flanneld"))
    assert lease(lab, "b") == key, "the same subnet, as subnet.env says"
    until(lambda: f"monitor: inserted {name}" in log(lab, leader), "the route to come back")
    settle(lab)


def test_when_the_one_that_writes_is_killed_the_other_goes_on(lab: Lab) -> None:
    leader = leading(lab)
    (other,) = {"a", "b"} - {leader}
    do(services.kill(lab.host(leader), "route-manager"))
    etcdctl(lab, "put", f"{PREFIX}/subnets/172.16.250.0-24", '{"PublicIP": "10.240.0.11", "BackendType": "alloc"}')
    assert failing(lab, 1) == [], "nobody writes, and nothing is lost"
    until(lambda: "inserted flannel-default-172-16-250-0-24" in " ".join(log(lab, other)), "the other to go on", 30)
    assert leading(lab) == other
    etcdctl(lab, "del", f"{PREFIX}/subnets/172.16.250.0-24")
    until(lambda: "monitor: deleted flannel-default-172-16-250-0-24" in log(lab, other), "its route to go")
    do(services.start(lab.host(leader), "route-manager"))
    assert failing(lab) == []
    for host in ("a", "b"):
        gaps = f"{API}/lab/gaps?dst={subnet(lab, host)}&start={written(lab, called(lab, host))}"
        assert json.loads(on(lab, "cloud", ["curl", "-sS", gaps])) == [], "its route was there all the time"


def test_all_routes_are_deleted_on_request_and_nobody_elses(lab: Lab) -> None:
    for host in ("a", "b"):
        do(services.stop(lab.host(host), "route-manager"))
    names = sorted(called(lab, host) for host in ("a", "b"))
    told = weft(lab, "a", "route-manager", "-delete-all-routes")
    lines = [match[1] for match in map(LINE.fullmatch, told.splitlines()) if match]
    assert lines[0] == "deleting all routes"
    assert sorted(lines[1:]) == [f"deleted: {name}" for name in names]
    assert {name: hop for name, hop in table(lab).items() if not name.startswith("default-route")} == THEIRS
    assert len(failing(lab, 1)) == 2
    assert not touched(lab, *THEIRS)


# -- helpers ----------------------------------------------------------------------------------------------------------


def weft(lab: Lab, host: str, *words: str) -> str:
    """`weft WORDS` as a person says it on that host: both of its outputs."""
    settings = [f"{name}={value}" for name, value in services.daemon_environment(lab.host(host)).items()]
    return on(lab, host, ["env", *settings, "sh", "-c", 'exec "$@" 2>&1', "sh", "weft", *words])


def etcdctl(lab: Lab, *words: str) -> str:
    return on(lab, "cloud", ["env", "ETCDCTL_API=3", "etcdctl", *words])


def subnet(lab: Lab, host: str) -> str:
    """Of the host's lease."""
    (network,) = Lab.load(lab.name).host(host).host.networks
    return str(network.subnets[0])


def lease(lab: Lab, host: str) -> str:
    """The key of the host's lease, which is there."""
    key = f"{PREFIX}/subnets/{subnet(lab, host).replace('/', '-')}"
    assert etcdctl(lab, "get", "--keys-only", key).strip() == key
    return key


def called(lab: Lab, host: str) -> str:
    """The name of the route to the host's lease, as the document has it."""
    return "flannel-default-" + re.sub(r"[./]", "-", subnet(lab, host))


def log(lab: Lab, host: str) -> list[str]:
    """What its manager wrote, without the times."""
    lines = lab.host(host).log("route-manager").read_text().splitlines()
    return [match[1] for match in map(LINE.fullmatch, lines) if match]


def leading(lab: Lab) -> str:
    """The host whose manager writes, by its own word; between two of them there may be none for a moment."""

    def found() -> str:
        running = [host for host in ("a", "b") if lab.host(host).running("route-manager")]
        told = {host: on(lab, host, "curl -sS http://127.0.0.1:9479/health", check=False) for host in running}
        return next((host for host, text in told.items() if text and json.loads(text)["leading"]), "")

    return until(found, "one of them to lead", 30)


def history(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(on(lab, "cloud", f"curl -sS {API}/lab/history"))["changes"]
    return found


def written(lab: Lab, name: str) -> float:
    """When the route of that name was inserted last."""
    return max(float(one["at"]) for one in history(lab) if one["name"] == name and one["after"])


def touched(lab: Lab, *names: str) -> list[dict[str, Any]]:
    """What calls did to these."""
    return [one for one in history(lab) if one["name"] in names and one["operation"]]


def documents(lab: Lab) -> dict[str, dict[str, Any]]:
    """Routes as the API has them, by name: ids and dates, too."""
    last = {one["name"]: one["after"] for one in history(lab)}
    return {name: route for name, route in last.items() if route}


def table(lab: Lab) -> dict[str, tuple[str, str]]:
    """Name → destination and next hop."""
    listed = on(lab, "cloud", ["python", "-m", "weft.lab.compute", "routes", "--at", API]).splitlines()[1:]
    return {name: (dst, hop.rpartition("/")[2]) for name, _, dst, hop, _ in map(str.split, listed)}
