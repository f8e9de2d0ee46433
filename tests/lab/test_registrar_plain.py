"""`weft registrar` without any flannel: tunnels of its own between hosts that register themselves in etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.flannel_lab import address, answers, counting, pinged
from tests.lab.harness import AT_ONCE, do, failing, ip_json, lab_up, settle
from tests.lab.registrar_lab import PATIENT, amiss, between, keys, networks, never_more, routed, routes, service, show
from tests.lab.test_plain_lab import weft_lab
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import repair
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

DEVICE = "vxlan7600"
DOCUMENT: dict[str, Any] = {
    "engine": "none",
    "daemon": "registrar",
    "registrar": PATIENT,
    "segments": {"lan": {"subnet": "192.168.77.0/24"}},
    "hosts": {
        "store": {"daemon": "none", "etcd": {}, "segments": {"lan": "192.168.77.9"}},
        "a": {"networks": {"web": "10.9.1.0/24", "db": "10.9.11.0/24"}, "segments": {"lan": "192.168.77.11"}},
        "b": {"networks": {"web": "10.9.2.0/24"}, "segments": {"lan": "192.168.77.12"}},
        "c": {"networks": {"web": "10.9.3.0/24"}, "segments": {"lan": "192.168.77.13"}},
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "alone") as found:
        settle(found)
        never_more(lambda: amiss(found), 20)
        yield found


def test_every_container_reaches_every_other_one_through_vxlan_alone(lab: Lab) -> None:
    assert failing(lab) == []
    with counting(lab, "b", "input", "udp dport 8472", "iif eth0 ip protocol icmp") as counters:
        assert answers(lab, "a/web1", address(lab, "b/web1"))
        wrapped, bare = counters.read()
    assert wrapped >= 1
    assert bare == 0


def test_the_device_is_wefts_own_and_so_is_all_on_it(lab: Lab) -> None:
    (link,) = ip_json(lab, "a", f"link show dev {DEVICE}")
    vxlan = link["linkinfo"]["info_data"]
    assert (vxlan["id"], vxlan["port"], vxlan["local"]) == (7600, 8472, "192.168.77.11")
    assert link["ifalias"] == "weft:registrar:a"
    assert set(routes(lab, "a")) >= {"10.9.2.0/24", "10.9.3.0/24"}
    assert networks(lab) == {
        "a/db": "10.9.11.0/24",
        "a/web": "10.9.1.0/24",
        "b/web": "10.9.2.0/24",
        "c/web": "10.9.3.0/24",
    }
    status = json.loads(keys(lab)["_host_status/a"])
    assert (status["public_ip"], status["vtep_mac"]) == ("192.168.77.11", link["address"]), "found by way of etcd"


def test_hosts_reach_containers_too(lab: Lab) -> None:
    assert answers(lab, "a", address(lab, "b/web1"))
    assert answers(lab, "b", address(lab, "a/db1"))


@pytest.mark.parametrize(
    "fault", [one for one in repair.FAULTS if one.name != "a next-hop object"], ids=lambda f: f.name
)
def test_what_is_deleted_comes_back(lab: Lab, fault: repair.Fault) -> None:
    assert do(repair.mended(lab.host("a"), fault)) < 1000 * AT_ONCE
    settle(lab, 10)


def test_a_direct_path_that_dies_turns_to_a_relay_and_back(lab: Lab) -> None:
    """a and b no longer hear each other; both hear c."""
    target = address(lab, "b/web1")
    with between(lab, "a", "b"), pinged(lab, "a/web1", target) as pings:
        until(lambda: "c" in relay(lab, "a", "b"), "the relay", 10)
        until(lambda: "c" in relay(lab, "b", "a"), "the relay back", 10)
        until(lambda: answers(lab, "a/web1", target), "an answer by way of c")
        with counting(lab, "c", "forward", f"ip daddr {target} icmp type echo-request") as counters:
            assert answers(lab, "a/web1", target)
            assert counters.read()[0] >= 1
    assert pings.lost * 0.005 < AT_ONCE, f"{pings.lost} of {pings.sent} pings at 200 Hz"
    with pinged(lab, "a/web1", target) as pings:
        never_more(lambda: amiss(lab), 60)
    assert pings.lost == 0


def test_all_restarts_lose_no_packet(lab: Lab) -> None:
    with pinged(lab, "a/web1", address(lab, "b/web1")) as pings:
        for host, verb in (("a", "kill"), ("b", "stop"), ("c", "kill")):
            service(lab, host, verb)
            service(lab, host, "start")
        never_more(lambda: amiss(lab), 30)
    assert pings.lost == 0


def test_what_leaves_the_settings_leaves_the_others_hosts(lab: Lab) -> None:
    """ENGINE=static, whose networks are the lab's own word."""
    service(lab, "b", "stop")
    assert routed(lab, "a", "10.9.2.0/24"), "for as long as its lease lasts"
    service(lab, "b", "start")
    never_more(lambda: amiss(lab), 30)


def test_the_lab_knows_its_registrars(lab: Lab) -> None:
    told = json.loads(weft_lab("status", "--lab", lab.name, "--json").stdout)
    assert told["hosts"]["a"]["registrar"]["running"]
    assert told["hosts"]["a"]["agent"] is None
    assert told["hosts"]["store"]["registrar"] is None
    assert "weft" in weft_lab("logs", "--lab", lab.name, "a").stdout
    assert weft_lab("exec", "--lab", lab.name, "a", "--", "weft", "show", "status").returncode == 0
    assert "b" in weft_lab("exec", "--lab", lab.name, "a", "--", "weft", "explain", "10.9.2.2").stdout


def relay(lab: Lab, host: str, peer: str) -> str:
    """How it is reached, where that is through somebody."""
    said = next(one["way"] for one in show(lab, host, "peers") if one["node"] == peer)
    return "" if said.startswith("directly") else str(said)
