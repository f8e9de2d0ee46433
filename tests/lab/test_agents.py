"""Agents on a plain lab: what users rely on when an agent ends, starts, or meets other people's objects."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.lab.flannel_lab import pinged
from tests.lab.harness import AT_ONCE, bridge_json, do, example, failing, ip_json, lab_up, on, settle
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.errors import LabError
from weft.lab import repair, services
from weft.lab.lab import Lab

pytestmark = needs_root

QUICK = {"announce_interval": 0.5, "peer_timeout": 6}
"""Who is killed and started again has not been silent for that long, on whatever machine."""
DEVICE = "vxlan4096"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("plain", agent=QUICK), "agents") as found:
        settle(found)
        yield found


@pytest.fixture(autouse=True)
def _whole_before_and_after(lab: Lab) -> Iterator[None]:
    yield
    for host in lab.hosts:
        if not host.running("agent"):
            do(services.start(host, "agent"))
    settle(lab)


def ask(lab: Lab, host: str, what: str) -> Any:
    """`weft show WHAT --json` on a host."""
    return json.loads(on(lab, host, f"weft show {what} --json", check=False))


# -- restart ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a", "b"])
@pytest.mark.parametrize("ending", ["TERM", "KILL"])
def test_a_restart_under_traffic_loses_no_packet(lab: Lab, host: str, ending: str) -> None:
    (device,) = ip_json(lab, host, f"link show {DEVICE}")
    target = str(lab.container("b", "web1")[1].addresses[0].ip)
    with pinged(lab, "a/shop", target, "0.001") as flood:
        do(lab.host(host).signal("agent", ending))
        do(services.start(lab.host(host), "agent"))
        until(lambda: ask(lab, host, "status")["health"] == "ok", "the new agent to be done")
    assert flood.lost == 0, f"of {flood.sent}"
    assert ip_json(lab, host, f"link show {DEVICE}")[0]["ifindex"] == device["ifindex"], "the device is the same one"


def test_a_stopped_agent_leaves_the_data_plane_up_and_cleanup_takes_it_down(lab: Lab) -> None:
    host = lab.host("a")
    whole = do(repair.snapshot(host))
    do(services.stop(host, "agent"))
    assert do(repair.snapshot(host)) == whole
    told = on(lab, "a", "weft cleanup --dry-run")
    assert do(repair.snapshot(host)) == whole
    assert re.search(rf"ip link del.* {DEVICE}", told)
    on(lab, "a", "weft cleanup")
    assert do(repair.snapshot(host)) == {"device "}
    assert "nothing of weft's" in on(lab, "a", "weft cleanup")
    do(services.start(host, "agent"))
    until(lambda: do(repair.snapshot(host)) == whole, "the same state as before")


def test_cleanup_refuses_while_the_agent_runs(lab: Lab) -> None:
    host = lab.host("a")
    whole = do(repair.snapshot(host))
    command = host.inside(["weft", "cleanup"])
    done = subprocess.run(command, env=host.environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "agent" in done.stderr
    assert "Traceback" not in done.stderr
    assert do(repair.snapshot(host)) == whole


# -- other people's objects ---------------------------------------------------------------------------------------


def test_foreign_objects_survive_cleanup_and_restart(lab: Lab) -> None:
    host = lab.host("a")
    on(lab, "a", "ip link add other type vxlan id 77 dstport 4799 local 192.168.77.11")
    on(lab, "a", "ip link set other up")
    on(lab, "a", "ip route add 10.66.0.0/16 via 192.168.77.12")
    on(lab, "a", "ip route add 10.67.0.0/16 dev other proto 76")  # our protocol number, not our device
    on(lab, "a", "bridge fdb append 02:00:00:00:00:66 dev other dst 192.168.77.66 self permanent")
    on(lab, "a", "ip neigh add 10.67.0.1 lladdr 02:00:00:00:00:66 dev other nud permanent")
    on(lab, "a", "ip nexthop add id 66 via 192.168.77.12 dev eth0")
    on(lab, "a", "iptables -I FORWARD -s 10.66.0.0/16 -j ACCEPT")
    before = foreign(lab)
    assert all(before.values())
    try:
        do(services.restart(host, "agent"))
        settle(lab)
        assert foreign(lab) == before
        do(services.stop(host, "agent"))
        on(lab, "a", "weft cleanup")
        assert do(repair.vxlan(host)) in ("", "other")
        assert foreign(lab) == before
    finally:
        for command in (
            "ip link delete other",
            "ip route delete 10.66.0.0/16",
            "ip nexthop delete id 66",
            "iptables -D FORWARD -s 10.66.0.0/16 -j ACCEPT",
        ):
            on(lab, "a", command)
        do(services.start(host, "agent"))


def foreign(lab: Lab) -> dict[str, Any]:
    return {
        "routes": [r for r in ip_json(lab, "a", "route show") if r["dst"] in ("10.66.0.0/16", "10.67.0.0/16")],
        "fdb": [e for e in bridge_json(lab, "a", "fdb show dev other") if e["mac"] == "02:00:00:00:00:66"],
        "neighbours": [e["dst"] for e in ip_json(lab, "a", "neigh show dev other nud permanent")],
        "next hops": [h for h in ip_json(lab, "a", "nexthop show") if h["id"] == 66],
        "rules": [r for r in on(lab, "a", "iptables-save").splitlines() if "10.66.0.0/16" in r],
    }


def test_a_foreign_route_in_the_way_is_a_conflict_and_stays_until_its_owner_takes_it_away(lab: Lab) -> None:
    host = lab.host("a")
    (ours,) = ip_json(lab, "a", "route show 10.2.1.0/24")
    in_the_way = f"10.2.1.0/24 via 192.168.77.13 metric {ours['metric']}"
    do(services.stop(host, "agent"))
    on(lab, "a", "ip route delete 10.2.1.0/24")
    on(lab, "a", f"ip route add {in_the_way}")
    (theirs,) = ip_json(lab, "a", "route show 10.2.1.0/24")
    do(services.start(host, "agent"))
    conflict = until(lambda: conflicts(lab), "the conflict to be reported")
    assert "10.2.1.0/24" in conflict[0]["object"]
    assert ip_json(lab, "a", "route show 10.2.1.0/24") == [theirs]
    assert "a/shop → c/db1 10.3.1.2" not in failing(lab, count=1), "the rest goes on"
    on(lab, "a", f"ip route delete {in_the_way}")
    until(lambda: ip_json(lab, "a", "route show 10.2.1.0/24") == [ours], "our route")
    until(lambda: conflicts(lab) == [], "the conflict to be over")


def conflicts(lab: Lab) -> list[dict[str, Any]]:
    return [row for row in ask(lab, "a", "status")["not_done"] if row["state"] == "conflict"]


# -- failures of the underlay ----------------------------------------------------------------------------------------


def test_a_host_that_falls_silent_is_forgotten_and_comes_back(lab: Lab) -> None:
    do(lab.cut("b", "lan", keep_carrier=True))
    try:
        until(lambda: [p["node"] for p in ask(lab, "a", "peers")] == ["c"], "host b to be forgotten", 15)
        until(lambda: ip_json(lab, "a", "route show 10.2.1.0/24") == [], "its route to go")
        assert "a/shop → c/db1 10.3.1.2" not in failing(lab, count=1)
    finally:
        do(lab.heal("b", "lan"))
    settle(lab)


def test_a_pulled_cable_that_is_soon_back_changes_nothing_at_the_others(lab: Lab) -> None:
    whole = do(repair.snapshot(lab.host("a")))
    do(lab.cut("b", "lan"))
    do(lab.heal("b", "lan"))
    settle(lab)
    until(lambda: do(repair.snapshot(lab.host("a"))) == whole, "all to be as before")


# -- two labs -------------------------------------------------------------------------------------------------------


def test_the_agents_of_a_second_lab_with_the_same_addresses_are_never_met(lab: Lab) -> None:
    with lab_up(example("plain", agent=QUICK), "twin") as twin:
        settle(twin)
        for one in (lab, twin):
            until(lambda one=one: ask(one, "a", "status")["health"] == "ok", "it to be well")  # type: ignore[misc]
            assert sorted(p["node"] for p in ask(one, "a", "peers")) == ["b", "c"]
    assert failing(lab) == []


# -- repair ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", repair.FAULTS, ids=lambda fault: re.sub(r"^(an?|the) ", "", fault.name))
def test_what_somebody_deletes_is_back(lab: Lab, fault: repair.Fault) -> None:
    assert 0 < do(repair.mended(lab.host("a"), fault)) < 1000 * AT_ONCE


def test_a_repair_that_was_not_heard_of_is_not_taken_for_a_quick_one(lab: Lab) -> None:
    route = next(fault for fault in repair.FAULTS if fault.kind == "route")
    with pytest.raises(LabError, match=r"no notification \(rule\) told that it went"):
        do(repair.mended(lab.host("a"), replace(route, kind="rule")))
