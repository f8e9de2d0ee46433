"""docker-router on three Docker hosts, one stack each, by multicast: the design document end to end, what the two
processes may do, and what becomes of traffic when one of them is gone or discovery.json is not what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.docker_router_lab import (
    PAIR,
    QUICK,
    ZERO,
    discovered,
    entries,
    health,
    peers,
    replace,
    rights,
    routed,
    routes,
    service,
    shared,
    show,
    sockets,
    unrouted,
    well,
    whole,
)
from tests.lab.flannel_lab import address, answers, counting, pinged
from tests.lab.harness import example, failing, ip_json, lab_up, on, settle
from tests.lab.test_plain_lab import weft_lab
from tests.support.eventually import until
from tests.support.needs import needs_docker
from weft.lab import docker_router
from weft.lab.lab import Lab

pytestmark = needs_docker

HOSTS = "abc"
SUBNETS = {"a": "172.20.0.0/16", "b": "172.21.0.0/16", "c": "172.22.0.0/16"}
ENDPOINTS = {"a": "172.31.0.11", "b": "172.31.0.12", "c": "172.31.0.13"}
PLAIN = ("stack_id", "host_ip", "vxlan_endpoint", "vni", "last_seen", "status")
"""What the document has in an entry of discovery.json."""
OVERLAY = {"a": "192.168.100.1", "b": "192.168.100.2", "c": "192.168.100.3"}
OTHERS = {"172.21.0.0/16": frozenset({"192.168.100.2"}), "172.22.0.0/16": frozenset({"192.168.100.3"})}
"""a's routes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    content = example("docker-router-multicast")
    with lab_up({**content, "discovery": content["discovery"] | QUICK}, "drmulticast") as found:
        settle(found)
        well(found, *HOSTS)
        yield found


@pytest.fixture(autouse=True)
def all_run(lab: Lab) -> None:
    whole(lab)


def test_the_containers_of_three_stacks_reach_each_other_through_the_tunnel(lab: Lab) -> None:
    assert failing(lab) == []
    with counting(lab, "b", "input", "udp dport 4789", "iif eth0 ip protocol icmp") as counters:
        assert answers(lab, "a/app-a", address(lab, "b/app-b"))
        wrapped, bare = counters.read()
    assert wrapped >= 1
    assert bare == 0
    with counting(lab, "b", "forward", f"ip saddr {address(lab, 'a/app-a')}") as counters:
        assert on(lab, "a/app-a", ["wget", "-qO-", f"http://{address(lab, 'b/app-b')}/"]) == "app-b\n"
        assert counters.read()[0] >= 1, "with its own address"
    assert answers(lab, "a", address(lab, "c/app-c")), "hosts reach containers, too"


def test_the_documents_verification(lab: Lab) -> None:
    (link,) = ip_json(lab, "a", "link show vxlan1000")
    vxlan = link["linkinfo"]["info_data"]
    assert (vxlan["id"], vxlan["port"], vxlan["local"], link["mtu"]) == (1000, 4789, "172.31.0.11", 1450)
    assert vxlan.get("remote") is None, "multipoint"
    (device,) = ip_json(lab, "a", "-4 address show vxlan1000")
    assert [(a["local"], a["prefixlen"]) for a in device["addr_info"]] == [("192.168.100.1", 24)]
    assert {endpoint for _, endpoint in entries(lab, "a")} == {"172.31.0.12", "172.31.0.13"}
    assert ZERO not in {mac for mac, _ in entries(lab, "a")}, "nothing is flooded where peers tell their MAC"
    assert routes(lab, "a") == OTHERS
    assert on(lab, "a", "cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    for host in HOSTS:
        assert answers(lab, "a", OVERLAY[host]), "the overlay addresses answer"


def test_the_documents_files(lab: Lab) -> None:
    until(lambda: set(peers(lab, "a").values()) == {"active"}, "both to be active")
    found = discovered(lab, "a")
    assert found["version"] == 1
    assert found["last_update"].endswith("Z")
    last_seen = [peer["last_seen"] for peer in found["peers"]]
    assert [tuple(peer[key] for key in PLAIN) for peer in found["peers"]] == [
        ("stack-b", "172.31.0.12", "172.31.0.12:4789", 1000, last_seen[0], "active"),
        ("stack-c", "172.31.0.13", "172.31.0.13:4789", 1000, last_seen[1], "active"),
    ]
    listed = json.loads((shared(lab, "a") / "routes.json").read_text())["routes"]
    keys = ("destination", "next_hop", "interface", "source")
    assert sorted(tuple(route[key] for key in keys) for route in listed) == [
        ("172.21.0.0/16", "192.168.100.2", "vxlan1000", "static-config"),
        ("172.22.0.0/16", "192.168.100.3", "vxlan1000", "static-config"),
    ]
    modes = {path.name: path.stat().st_mode & 0o777 for path in shared(lab, "a").iterdir()}
    assert modes["discovery.json"] == 0o640
    assert all(mode & 0o007 == 0 for mode in modes.values() if mode != 0o644), modes
    events = (shared(lab, "a") / "events.log").read_text().splitlines()
    assert events
    assert all(isinstance(json.loads(line), dict) for line in events)


def test_show_health_and_metrics_as_documented(lab: Lab) -> None:
    for what, expected in (("peers", "stack-b"), ("routes", "172.21.0.0/16"), ("vxlan", "vxlan1000")):
        done = weft_lab("exec", "--lab", lab.name, "a", "--", "weft", "router", "show", what)
        assert (done.returncode, expected in done.stdout) == (0, True), done
    done = weft_lab("exec", "--lab", lab.name, "a", "--", "weft", "discovery", "show")
    assert (done.returncode, "stack-c" in done.stdout) == (0, True), done
    assert show(lab, "a", "router", "show", "status")["health"] == "ok"

    def counted() -> tuple[str, int, int]:
        said = health(lab, "a", "router")
        return said["status"], said["peer_count"], said["route_count"]

    until(lambda: counted() == ("healthy", 2, 2), f"two peers and their routes: {counted()}")
    assert health(lab, "a", "router")["uptime"] >= 0
    until(lambda: health(lab, "a", "discovery")["peer_count"] == 2, "two peers")
    for port, metric in ((9477, "weft_"), (9478, "weft_")):
        assert metric in on(lab, "a", f"curl -s --max-time 5 http://127.0.0.1:{port}/metrics")


def test_discovery_may_do_nothing_at_all(lab: Lab) -> None:
    told = rights(lab, "a", "discovery")
    assert {told[key] for key in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert told["Uid"].split() == [str(docker_router.user(lab.host("a"), "discovery"))] * 4
    assert told["NoNewPrivs"] == "1"
    link = ["ip", "link", "add", "mine", "type", "vxlan", "id", "7", "dstport", "4789", "local", "172.31.0.11"]
    on(lab, "a", docker_router.confined(lab.host("a"), "discovery", link), check=False)
    assert [one["ifname"] for one in ip_json(lab, "a", "link show type vxlan") if one] == ["vxlan1000"]


def test_the_router_has_net_admin_alone_and_no_socket_to_anybody(lab: Lab) -> None:
    told = rights(lab, "a", "router")
    net_admin = f"{1 << 12:016x}"
    assert {key: told[key] for key in ("CapEff", "CapPrm", "CapBnd")} == dict.fromkeys(
        ("CapEff", "CapPrm", "CapBnd"), net_admin
    )
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert sockets(lab, "a", "router") == {"tcp 127.0.0.1:9478"}
    assert any(one.endswith(":4790") for one in sockets(lab, "a", "discovery")), "such sockets are seen"


def test_both_killed_and_the_router_restarted_under_traffic_lose_nothing(lab: Lab) -> None:
    with pinged(lab, "a/app-a", address(lab, "b/app-b")) as pings:
        service(lab, "kill", "discovery", *HOSTS)
        for host in "ab":
            service(lab, "kill", "router", host)
            service(lab, "start", "router", host)
            well(lab, host)
        assert routes(lab, "a") == OTHERS
        service(lab, "stop", "router", "b")
        service(lab, "start", "router", "b")
        service(lab, "start", "discovery", *HOSTS)
        well(lab, *HOSTS)
        for _ in range(2):  # the second time, discovery.json is that of a discovery that did not know everybody yet
            service(lab, "kill", "discovery", *"ab")
            service(lab, "kill", "router", *"ab")
            service(lab, "start", "router", *"ab")
            service(lab, "start", "discovery", *"ab")
            until(lambda: routed(lab, "a", SUBNETS["b"]) and "stack-b" in peers(lab, "a"), "b to be heard", 10)
        well(lab, *HOSTS)
    assert pings.lost == 0, f"of {pings.sent}"
    assert failing(lab) == []


def test_discovery_json_replaced_by_hand_broken_and_gone(lab: Lab) -> None:
    """With no discovery: what is written in its place holds, and what can't be read changes nothing."""
    well(lab, "a")
    service(lab, "stop", "discovery", "a")
    held = routes(lab, "a")
    before = entries(lab, "a")
    assert held == OTHERS
    content = discovered(lab, "a")
    told = {peer["stack_id"]: peer for peer in content["peers"]}
    told["stack-c"] = {key: told["stack-c"][key] for key in PLAIN}  # where c's router is, routing.yaml knows
    replace(lab, "a", json.dumps(content | {"peers": list(told.values())}))
    flooded = {entry for entry in before if entry[1] != ENDPOINTS["c"]} | {(ZERO, ENDPOINTS["c"])}
    until(lambda: entries(lab, "a") == flooded, "c to be flooded to", 5)
    assert routes(lab, "a") == held
    replace(lab, "a", json.dumps(content | {"peers": [told["stack-b"]]}))
    until(lambda: "172.22.0.0/16" not in routes(lab, "a"), "c's network to be gone", 5)
    replace(lab, "a", json.dumps(content))
    until(lambda: (routes(lab, "a"), entries(lab, "a")) == (held, before), "all to be as it was", 5)

    for broken in ("", '{"version": 1, "peers": [', '{"version": 99, "peers": []}', "null"):
        replace(lab, "a", broken)
        complains(lab, "a", "discovery.json")
        assert (routes(lab, "a"), entries(lab, "a")) == (held, before)
    (shared(lab, "a") / "discovery.json").unlink()
    service(lab, "restart", "router", "a")
    complains(lab, "a", "discovery.json")
    assert (routes(lab, "a"), entries(lab, "a")) == (held, before), "even a router that knows nothing removes nothing"
    service(lab, "start", "discovery", "a")
    well(lab, "a")
    assert failing(lab) == []


def complains(lab: Lab, host: str, word: str) -> None:
    """Returns when the router has a problem with that word in it."""
    until(lambda: word in str(show(lab, host, "router", "show", "status")["problems"]), f"{word} to be a problem", 5)


def test_a_stack_that_falls_silent_is_stale_then_gone_and_back_when_it_is_heard(lab: Lab) -> None:
    service(lab, "kill", "discovery", "c")
    until(lambda: peers(lab, "a").get("stack-c") == "stale", "c to be stale", 10)
    assert routed(lab, "a", SUBNETS["c"]), "it is routed to until it is gone"
    until(lambda: unrouted(lab, "ab", SUBNETS["c"]), "its routes to be gone", 15)
    assert "stack-c" not in peers(lab, "a")
    assert routed(lab, "a", SUBNETS["b"])
    service(lab, "start", "discovery", "c")
    until(lambda: routed(lab, "ab", SUBNETS["c"]), "its routes to be back", 10)
    settle(lab, 10)


def test_the_lab_knows_both(lab: Lab) -> None:
    told = json.loads(weft_lab("status", "--lab", lab.name, "--json").stdout)
    assert all(told["hosts"][host][name]["running"] for host in HOSTS for name in PAIR)
    assert told["hosts"]["a"]["agent"] is None
    for name in PAIR:
        assert weft_lab("logs", "--lab", lab.name, "a", name).stdout
