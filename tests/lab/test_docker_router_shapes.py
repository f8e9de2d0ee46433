"""docker-router beyond one stack per host, one VNI and IPv4: two stacks and two VNIs on a host, two routers of one
stack (ECMP), and an underlay and an overlay of IPv6. Without Docker, by multicast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.docker_router_lab import QUICK, entries, peers, routed, routes, service, show, well, whole
from tests.lab.flannel_lab import address, answers, counting, pinged
from tests.lab.harness import failing, ip_json, lab_up, settle
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab.lab import Lab

pytestmark = needs_root

VNIS = {"shop": 1000, "lab": 2000}


def two_stacks(number: int) -> dict[str, Any]:
    subnets = {"shop": f"172.20.{number}.0/24", "lab": f"172.30.{number}.0/24"}
    spaces = {"shop": "192.168.100", "lab": "192.168.200"}
    stacks = [
        {
            "stack_id": f"{name}-{number}",
            "vni": vni,
            "vxlan_subnet": f"{spaces[name]}.0/24",
            "local_vxlan_ip": f"{spaces[name]}.{number}",
            "networks": [{"name": name, "subnet": subnets[name]}],
        }
        for name, vni in VNIS.items()
    ]
    return {"segments": "lan", "networks": subnets, "routing": {"version": 1, "stacks": stacks}}


def one_of_a_pair(number: int) -> dict[str, Any]:
    told = {"STACK_ID": "pair", "PEER_ID": f"pair-{number}", "NETWORKS": "inner=172.25.0.0/24"}
    return {"segments": ["lan", "inner"], "discovery": told}


def six(number: int) -> dict[str, Any]:
    network = {"subnets": [f"172.26.{number}.0/24", f"fd26:{number}::/64"]}
    return {
        "segments": "six",
        "networks": {"dual": network},
        "router": {"VNI": 3000, "VXLAN_SUBNET": ["192.168.100.0/24", "fd99::/64"]},
        "discovery": {"VNI": 3000},
    }


DOCUMENT: dict[str, Any] = {
    "engine": "none",
    "daemon": ["discovery", "router"],
    "discovery": QUICK,
    "segments": {
        "lan": {"subnet": "192.168.77.0/24"},
        "inner": {"subnet": "172.25.0.0/24"},
        "six": {"subnet": "fd77::/64"},
    },
    "hosts": {
        "m1": two_stacks(1),
        "m2": two_stacks(2),
        "p1": one_of_a_pair(1),
        "p2": one_of_a_pair(2),
        "leaf": {
            "segments": {"inner": "172.25.0.99"},
            "daemon": "none",
            "routes": [{"to": "default", "via": "172.25.0.11"}],
        },
        "v1": six(1),
        "v2": six(2),
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "drshapes") as found:
        settle(found)
        well(found, "m1", "v1")
        yield found


@pytest.fixture(autouse=True)
def all_run(lab: Lab) -> None:
    whole(lab)


def test_two_stacks_of_a_host_in_two_vnis(lab: Lab) -> None:
    assert failing(lab) == []
    links = ip_json(lab, "m1", "link show type vxlan")
    found = {link["ifname"]: link["linkinfo"]["info_data"]["id"] for link in links if link}
    assert found == {"vxlan1000": 1000, "vxlan2000": 2000}
    assert routes(lab, "m1")["172.20.2.0/24"] == {"192.168.100.2"}
    assert routes(lab, "m1")["172.30.2.0/24"] == {"192.168.200.2"}
    assert {"shop-2", "lab-2", "pair"} <= peers(lab, "m1").keys()
    assert not {"shop-1", "lab-1"} & peers(lab, "m1").keys(), "its own are not its peers"
    with counting(lab, "m2", "input", "iif vxlan2000 ip protocol icmp", "udp dport 4789") as counters:
        assert answers(lab, "m1/lab1", address(lab, "m2/lab1"))
        assert counters.read()[1] >= 1


def test_a_peer_of_another_vni_is_listed_and_not_routed(lab: Lab) -> None:
    assert {"lab-1", "lab-2"} <= peers(lab, "p1").keys()
    assert "172.30.1.0/24" not in routes(lab, "p1")
    said = str(show(lab, "p1", "router", "show", "peers"))
    assert "2000" in said


def test_two_routers_of_one_stack_share_its_traffic_and_one_goes_without_the_other(lab: Lab) -> None:
    both = frozenset({"192.168.100.3", "192.168.100.4"})
    until(lambda: routes(lab, "m1").get("172.25.0.0/24") == both, "both ways", 10)
    assert {endpoint for _, endpoint in entries(lab, "m1")} >= {"192.168.77.13", "192.168.77.14"}
    assert answers(lab, "m1/shop1", "172.25.0.99")
    assert "172.25.0.0/24" not in routes(lab, "p1"), "its own network is not behind the other one"
    with pinged(lab, "m1/shop1", "172.25.0.99") as pings:
        service(lab, "stop", "discovery", "p2")
        until(lambda: routes(lab, "m1").get("172.25.0.0/24") == frozenset({"192.168.100.3"}), "one way", 20)
        assert answers(lab, "m1/shop1", "172.25.0.99")
        service(lab, "start", "discovery", "p2")
        until(lambda: routes(lab, "m1").get("172.25.0.0/24") == both, "both ways again", 20)
    assert pings.lost == 0, f"of {pings.sent}"


def test_ipv6_beneath_and_above(lab: Lab) -> None:
    (link,) = ip_json(lab, "v1", "link show vxlan3000")
    assert link["linkinfo"]["info_data"]["local6"] == "fd77::11"
    assert link["mtu"] == 1430
    assert routed(lab, ["v1"], "172.26.2.0/24")
    assert routes(lab, "v1", 6).keys() == {"fd26:2::/64"}
    for version in (4, 6):
        assert answers(lab, "v1/dual1", address(lab, "v2/dual1", version))
    (device,) = ip_json(lab, "v1", "address show vxlan3000")
    told = {(a["local"], a["prefixlen"]) for a in device["addr_info"] if not a["local"].startswith("fe80")}
    assert told == {("192.168.100.6", 24), ("fd99::6", 64)}
    assert len(entries(lab, "v1", "vxlan3000")) == 1
