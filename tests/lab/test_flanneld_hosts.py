"""Where `weft flanneld` starts: which of two uplinks it takes, and on what flannel itself left in the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.flannel_lab import (
    FOUR,
    SUBNETS,
    address,
    answers,
    beside,
    etcdctl,
    flagged,
    lease_id,
    lease_of,
    leases,
    pinged,
    reconfigure,
    status,
    subnet,
)
from tests.lab.harness import bridge_json, do, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

TWO_UPLINKS: dict[str, Any] = {
    "engine": "none",
    "daemon": "flanneld",
    "segments": {"lan": {"subnet": "10.0.1.0/24"}, "fast": {"subnet": "10.0.2.0/24", "mtu": 9000}},
    "hosts": {
        "etcd": {
            "segments": {"lan": "10.0.1.2"},
            "daemon": "none",
            "etcd": {"config": FOUR | {"Backend": {"Type": "vxlan"}}},
        },
        "a": {
            "segments": {"lan": "10.0.1.11", "fast": "10.0.2.11"},
            "networks": {"web": {"subnet": "flannel", "containers": ["a1"]}},
        },
        "b": {
            "segments": {"lan": "10.0.1.12", "fast": "10.0.2.12"},
            "networks": {"web": {"subnet": "flannel", "containers": ["b1"]}},
        },
    },
}
LAN, FAST = ("10.0.1.11", 1450), ("10.0.2.11", 8950)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(TWO_UPLINKS, "hosts") as found:
        yield found


# -- which interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], LAN),
        (["-iface=eth1"], FAST),
        (["-iface=10.0.2.11"], FAST),
        (["-iface=eth7", "--iface", "eth1"], FAST),
        ([r"-iface-regex=^10\.0\.2\."], FAST),
        (["-iface-regex=eth[1-9]"], FAST),
        (["-iface-can-reach=10.0.2.12"], FAST),
        (["-iface-can-reach=10.0.1.12"], LAN),
    ],
)
def test_the_interface_is_the_one_that_was_asked_for(lab: Lab, flags: list[str], expected: tuple[str, int]) -> None:
    public, mtu = expected
    restarted_with(lab, flags)
    assert public in [lease["PublicIP"] for lease in leases(lab).values()]
    (link,) = ip_json(lab, "a", "link show dev flannel.1")
    assert (link["linkinfo"]["info_data"]["local"], link["mtu"]) == (public, mtu)
    assert f"FLANNEL_MTU={mtu}\n" in on(lab, "a", "cat /run/flannel/subnet.env")
    until(lambda: public in [entry["dst"] for entry in bridge_json(lab, "b", "fdb show dev flannel.1")], "b to know")
    until(lambda: answers(Lab.load(lab.name), "a/a1", address(lab, "b/b1")), "the tunnel")


def test_a_public_ip_is_what_the_lease_says_and_not_what_the_tunnel_starts_from(lab: Lab) -> None:
    restarted_with(lab, ["-iface=eth0", "-public-ip=192.0.2.7"])
    assert "192.0.2.7" in [lease["PublicIP"] for lease in leases(lab).values()]
    (link,) = ip_json(lab, "a", "link show dev flannel.1")
    assert link["linkinfo"]["info_data"]["local"] == "10.0.1.11"
    until(lambda: "192.0.2.7" in [e["dst"] for e in bridge_json(lab, "b", "fdb show dev flannel.1")], "b to know")


def test_an_interface_that_is_not_there_is_said_with_those_that_are(lab: Lab) -> None:
    with beside(lab, "a", {"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan"}}, "-iface=eth7") as log_of:
        until(lambda: "no interface fits -iface=eth7; there are: " in log_of(), "the daemon to say so")
        assert "eth0 10.0.1.11, eth1 10.0.2.11" in log_of()


def restarted_with(lab: Lab, flags: list[str]) -> None:
    """a's flanneld, with these flags and nothing that reminds of the former."""
    host = flagged(lab, "a", flags)
    do(services.stop(host, "flanneld"))
    for key, lease in leases(lab).items():
        if lease["PublicIP"] not in ("10.0.1.12", "10.0.2.12"):
            etcdctl(lab, "del", SUBNETS + key)
    on(lab, "a", "rm /run/flannel/subnet.env")
    do(services.start(host, "flanneld"))


# -- what flannel left -------------------------------------------------------------------------------------------------

MAC = "ae:31:7c:5d:02:99"


@pytest.fixture
def flannels(lab: Lab) -> Lab:
    """Host a as flannel 0.28 leaves it when it is stopped: its device, its routes and entries, its chain, its lease;
    and what it never took away of a lease that has gone."""
    found = reconfigure(lab, FOUR | {"Backend": {"Type": "vxlan"}})
    do(services.stop(found.host("a"), "flanneld"))
    on(found, "a", "weft cleanup")
    assert ip_json(found, "a", "link show type vxlan") == []
    own, far = subnet(found, "a"), subnet(found, "b")
    key, value = lease_of(found, "a")
    theirs = lease_of(found, "b")[1]["BackendData"]["VtepMAC"]
    etcd_lease = lease_id(found, "a")
    lines = [
        f"link add flannel.1 address {MAC} mtu 1450 type vxlan id 1 dev eth0 local 10.0.1.11 dstport 8472 nolearning",
        f"address add {own[:-3]}/32 dev flannel.1",
        "link set flannel.1 up",
        f"neigh add {far[:-3]} lladdr {theirs} nud permanent dev flannel.1",
        f"route add {far} via {far[:-3]} dev flannel.1 onlink",
        "neigh add 10.5.250.0 lladdr 02:00:00:00:00:09 nud permanent dev flannel.1",
        "route add 10.5.250.0/24 via 10.5.250.0 dev flannel.1 onlink",
    ]
    for line in lines:
        on(found, "a", f"ip {line}")
    for mac, dst in ((theirs, "10.0.1.12"), ("02:00:00:00:00:09", "10.0.1.99")):
        on(found, "a", f"bridge fdb add {mac} dst {dst} dev flannel.1 self permanent")
    on(found, "a", "iptables -N FLANNEL-FWD")
    value["BackendData"]["VtepMAC"] = MAC
    etcdctl(found, "put", f"--lease={etcd_lease}", SUBNETS + key, json.dumps(value, separators=(",", ":")))
    until(lambda: answers(found, "b/b1", address(found, "a/a1")), "the tunnel that flannel made")
    return found


def test_flannels_device_and_lease_are_taken_over_without_losing_a_packet(flannels: Lab) -> None:
    value, etcd_lease = lease_of(flannels, "a"), lease_id(flannels, "a")
    (before,) = ip_json(flannels, "a", "link show flannel.1")
    here, there = address(flannels, "a/a1"), address(flannels, "b/b1")
    with pinged(flannels, "a/a1", there) as out, pinged(flannels, "b/b1", here) as back:
        do(services.start(flannels.host("a"), "flanneld"))
        until(lambda: status(flannels, "a")["health"] == "ok", "the first cycles to be over")
        far = subnet(flannels, "b")
        until(lambda: len(ip_json(flannels, "a", f"route show {far}")) == 1, "one route instead of two")
        until(lambda: left_over(flannels) == (1, 1, 1), f"what was of nobody to go: {left_over(flannels)}")
    print(out, back)
    assert (out.lost, back.lost) == (0, 0)
    assert min(out.sent, back.sent) > 30
    assert lease_of(flannels, "a") == value
    assert value[1]["BackendData"]["VtepMAC"] == MAC
    assert lease_id(flannels, "a") == etcd_lease
    (after,) = ip_json(flannels, "a", "link show flannel.1")
    assert (after["ifindex"], after["address"]) == (before["ifindex"], MAC)
    routes = ip_json(flannels, "a", "route show dev flannel.1")
    assert [(route["dst"], route["protocol"]) for route in routes] == [(far, "76")]
    assert [e["dst"] for e in bridge_json(flannels, "a", "fdb show dev flannel.1")] == ["10.0.1.12"]
    assert [n["dst"] for n in ip_json(flannels, "a", "neigh show dev flannel.1 nud permanent")] == [far[:-3]]
    assert ":FLANNEL-FWD" in on(flannels, "a", "iptables-save"), "another program's chain"


def left_over(lab: Lab) -> tuple[int, int, int]:
    """How many routes, forwarding entries and neighbours host a's device has."""
    shown = ip_json(lab, "a", "route show dev flannel.1"), bridge_json(lab, "a", "fdb show dev flannel.1")
    return len(shown[0]), len(shown[1]), len(ip_json(lab, "a", "neigh show dev flannel.1 nud permanent"))


def test_flannels_host_gw_routes_are_taken_over_without_losing_a_packet(lab: Lab) -> None:
    found = reconfigure(lab, FOUR | {"Backend": {"Type": "host-gw"}})
    do(services.stop(found.host("a"), "flanneld"))
    far = subnet(found, "b")
    on(found, "a", "ip route flush proto 76")
    on(found, "a", f"ip route add {far} via 10.0.1.12 dev eth0")
    on(found, "a", "ip route add 10.5.251.0/24 via 10.0.1.99 dev eth0")
    with pinged(found, "a/a1", address(found, "b/b1")) as pings:
        do(services.start(found.host("a"), "flanneld"))
        until(lambda: [r["protocol"] for r in ip_json(found, "a", f"route show {far}")] == ["76"], "our route alone")
    print(pings)
    assert pings.lost == 0
    assert ip_json(found, "a", "route show 10.5.251.0/24"), "no lease says that it was flannel's"
    on(found, "a", "ip route del 10.5.251.0/24")
    settle(found)
