"""`weft registrar` beside flannel on Docker hosts: what is new, what goes, what breaks, and who else claims it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.flannel_lab import address, answers, pinged
from tests.lab.harness import do, failing, lab_up, on, settle
from tests.lab.registrar_lab import (
    PATIENT,
    amiss,
    changed,
    docker,
    etcdctl,
    foreign,
    health,
    keys,
    log_of,
    networks,
    never_more,
    owned,
    routed,
    routes,
    service,
    show,
)
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_docker
from weft.lab import shell
from weft.lab.lab import Lab

pytestmark = [needs_docker, needs_etcd]

CONFIG = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.10.0", "SubnetMax": "10.5.19.0", "Backend": {"Type": "vxlan"}}
DOCUMENT: dict[str, Any] = {
    "daemon": ["flanneld", "registrar"],
    "registrar": {"INTERVAL": 10, **PATIENT},
    "segments": {"lan": {"subnet": "192.168.77.0/24"}},
    "hosts": {
        "store": {"daemon": "none", "engine": "none", "etcd": {"config": CONFIG}, "segments": {"lan": "192.168.77.9"}},
        "a": {"networks": {"web": "10.9.1.0/24", "caddy": "10.5.40.0/24"}, "segments": {"lan": "192.168.77.11"}},
        "b": {"networks": {"web": "10.9.2.0/24"}, "segments": {"lan": "192.168.77.12"}},
        "c": {"networks": {"web": "10.9.3.0/24"}, "segments": {"lan": "192.168.77.13"}},
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "beside") as found:
        settle(found)
        never_more(lambda: amiss(found), 20)
        yield found


def test_every_network_is_registered_and_reaches_every_other_one(lab: Lab) -> None:
    assert failing(lab) == []
    assert networks(lab) == {
        "a/web": "10.9.1.0/24",
        "a/caddy": "10.5.40.0/24",
        "b/web": "10.9.2.0/24",
        "c/web": "10.9.3.0/24",
    }
    assert 0 not in owned(lab).values()


def test_a_new_network_is_routed_elsewhere_and_one_that_goes_is_not(lab: Lab) -> None:
    docker(lab, "a", "network", "create", "--subnet", "10.9.50.0/24", "Shop_1.x")
    try:
        for host in "bc":
            until(lambda host=host: routed(lab, host, "10.9.50.0/24"), "a route", 5)  # type: ignore[misc]
        assert networks(lab)["a/Shop_1.x"] == "10.9.50.0/24"
    finally:
        docker(lab, "a", "network", "rm", "Shop_1.x")
    for host in "bc":
        until(lambda host=host: not routed(lab, host, "10.9.50.0/24"), "the route to go", 5)  # type: ignore[misc]
    assert "a/Shop_1.x" not in networks(lab)


def test_a_registrar_that_is_killed_and_comes_back_loses_no_packet_and_nothing_of_flannels_changes(lab: Lab) -> None:
    before = {host: foreign(lab, host) for host in "abc"}
    held = {"b": routes(lab, "b")}
    with pinged(lab, "a/web1", address(lab, "b/web1")) as pings:
        for host in "ab":
            service(lab, host, "kill")
        assert changed(lab, held) == {}
        for host in "ab":
            service(lab, host, "start")
        never_more(lambda: amiss(lab), 20)
        service(lab, "b", "restart")
        never_more(lambda: amiss(lab), 20)
        never_more(lambda: changed(lab, held), 20)
    assert pings.lost == 0
    assert {host: foreign(lab, host) for host in "abc"} == before


def test_etcd_goes_and_comes_back_and_what_is_new_meanwhile_is_told_then(lab: Lab) -> None:
    held = {host: routes(lab, host) for host in "abc"}
    with pinged(lab, "a/web1", address(lab, "b/web1")) as pings:
        service(lab, "store", "kill", "etcd")
        docker(lab, "a", "network", "create", "--subnet", "10.9.51.0/24", "meanwhile")
        until(lambda: any(i["type"] == "etcd" for i in health(lab, "a").get("issues", ())), "health to name etcd", 30)
        service(lab, "store", "start", "etcd")
        until(lambda: routed(lab, "b", "10.9.51.0/24"), "a route to what is new", 30)
    assert pings.lost == 0
    docker(lab, "a", "network", "rm", "meanwhile")
    never_more(lambda: changed(lab, held), 30)
    never_more(lambda: amiss(lab), 30)


def test_of_two_hosts_with_one_subnet_the_older_claim_holds_and_both_are_named(lab: Lab) -> None:
    target = address(lab, "a/web1")
    docker(lab, "b", "network", "create", "--subnet", "10.9.1.0/24", "thief")
    try:

        def named() -> list[str]:
            issues = health(lab, "c").get("issues", ())
            return [issue["message"] for issue in issues if "10.9.1.0/24" in issue["message"]]

        until(lambda: len(named()) == 1, "health to name the subnet, once", 15)
        (text,) = named()
        assert "node b's network thief 10.9.1.0/24 is refused" in text
        assert "node a (web)" in text
        until(lambda: "10.9.1.0/24" in log_of(lab, "c"), "the log to name it")
        until(lambda: "10.9.1.0/24" in json.dumps(show(lab, "c", "status")), "the status to name it")
        assert answers(lab, "c/web1", target), "the older one's"
    finally:
        docker(lab, "b", "network", "rm", "thief")
    never_more(lambda: amiss(lab), 20)


def test_a_host_that_reboots_is_as_before(lab: Lab) -> None:
    held = {host: routes(lab, host) for host in "abc"}
    for name in ("registrar", "flanneld", "docker"):
        service(lab, "b", "kill", name)
    _forget_the_kernels_state(lab, "b")
    assert routes(lab, "b") == {}
    for name in ("flanneld", "docker", "registrar"):
        service(lab, "b", "start", name)
    settle(lab)
    never_more(lambda: changed(lab, held), 30)
    never_more(lambda: amiss(lab), 30)


def test_a_host_that_is_gone_for_good_leaves_nothing_in_etcd(lab: Lab) -> None:
    service(lab, "c", "stop")
    assert networks(lab)["c/web"] == "10.9.3.0/24", "a restart loses nothing"
    (lease,) = {number for key, number in owned(lab).items() if key.startswith("c/")}
    etcdctl(lab, "lease", "revoke", f"{lease:x}")  # what its end comes to, without the wait
    assert not [key for key in keys(lab) if "c" in key.split("/")]
    until(lambda: not routed(lab, "a", "10.9.3.0/24"), "the route to go", 5)
    service(lab, "c", "start")
    until(lambda: routed(lab, "a", "10.9.3.0/24"), "the route to come back", 10)
    settle(lab)


def _forget_the_kernels_state(lab: Lab, host: str) -> None:
    """Interfaces, routes and rules that a reboot takes away."""
    namespace = lab.host(host).namespace
    found = json.loads(do(shell.run(["ip", "-n", namespace, "-j", "link", "show"])))
    made = [link["ifname"] for link in found if link["ifname"] not in ("lo", "eth0")]
    for name in made:
        on(lab, host, f"ip link delete {name}", check=False)  # the end of a veth pair may be gone with the other one
    for table in ("filter", "nat", "mangle", "raw"):
        on(lab, host, f"iptables -t {table} -F")
        on(lab, host, f"iptables -t {table} -X")
    on(lab, host, "ip route flush proto 76", check=False)
