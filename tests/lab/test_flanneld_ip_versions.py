"""`weft flanneld` with IPv4 and IPv6 side by side, each over an underlay of its own kind, and with IPv6 alone."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

import pytest

from tests.lab.flannel_lab import DUAL, address, answers, counting, lease_of, pinged, reconfigure, status
from tests.lab.harness import bridge_json, do, example, failing, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("flannel-dual-stack"), "versions") as found:
        settle(found)
        yield found


def six(lab: Lab, host: str) -> IPv6Network:
    """The IPv6 subnet of a host's lease."""
    return IPv6Network(lease_of(lab, host)[0].rpartition("&")[2].replace("-", "/"))


def test_a_lease_has_a_subnet_and_a_vtep_of_each_version(lab: Lab) -> None:
    key, lease = lease_of(lab, "a")
    four, _, _ = key.partition("&")
    assert four.startswith("10.5.")
    assert four.endswith(".0-24")
    assert six(lab, "a").subnet_of(IPv6Network("fc00:5::/48"))
    assert six(lab, "a").prefixlen == 64
    assert (lease["PublicIP"], lease["PublicIPv6"], lease["BackendType"]) == ("10.0.1.11", "fd00:1::11", "vxlan")
    for data, device in (("BackendData", "flannel.1"), ("BackendV6Data", "flannel-v6.1")):
        (link,) = ip_json(lab, "a", f"link show dev {device}")
        assert lease[data] == {"VNI": 1, "VtepMAC": link["address"]}
    assert lease["BackendData"] != lease["BackendV6Data"]


def test_there_is_a_device_for_each_version_with_what_is_left_of_the_uplinks_mtu(lab: Lab) -> None:
    (one,), (other,) = (ip_json(lab, "a", f"link show dev {device}") for device in DEVICES.values())
    assert (one["mtu"], one["linkinfo"]["info_data"]["local"]) == (1450, "10.0.1.11")
    assert (other["mtu"], other["linkinfo"]["info_data"]["local6"]) == (1430, "fd00:1::11")
    assert one["linkinfo"]["info_data"]["port"] == other["linkinfo"]["info_data"]["port"] == 8472
    assert {entry["dst"] for entry in bridge_json(lab, "a", "fdb show dev flannel-v6.1")} == {
        "fd00:1::12",
        "fd00:2::13",
    }


def test_subnet_env_has_both_and_the_mtu_that_fits_both(lab: Lab) -> None:
    key, _ = lease_of(lab, "a")
    own = key.partition("&")[0].replace(".0-", ".1/")
    assert on(lab, "a", "cat /run/flannel/subnet.env").splitlines() == [
        "FLANNEL_NETWORK=10.5.0.0/16",
        f"FLANNEL_SUBNET={own}",
        "FLANNEL_IPV6_NETWORK=fc00:5::/48",
        f"FLANNEL_IPV6_SUBNET={six(lab, 'a')[1]}/64",
        "FLANNEL_MTU=1430",
        "FLANNEL_IPMASQ=false",
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_containers_reach_each_other_in_the_tunnel_of_their_version(lab: Lab, version: int) -> None:
    assert failing(lab) == []
    target = address(lab, "c/c1", version)
    with counting(lab, "r", "forward", f"meta nfproto ipv{version} udp dport 8472", "udp dport != 8472") as counters:
        assert answers(lab, "a/a1", target)
        tunnelled, other = counters.read()
    assert tunnelled >= 2
    assert other == 0
    headers = 28 if version == 4 else 48
    assert answers(lab, "a/a1", target, "-M", "do", "-s", str(1430 - headers))
    assert not answers(lab, "a/a1", target, "-M", "do", "-s", str(1430 - headers + 1))


def test_a_restart_loses_nothing_of_either_version(lab: Lab) -> None:
    before = lease_of(lab, "a")
    four, sixth = (pinged(lab, "a/a1", address(lab, "c/c1", version)) for version in (4, 6))
    with four as pings4, sixth as pings6:
        for _ in range(2):
            do(services.restart(lab.host("a"), "flanneld"))
    print(pings4, pings6)
    assert (pings4.lost, pings6.lost) == (0, 0)
    assert min(pings4.sent, pings6.sent) > 50
    assert lease_of(lab, "a") == before


def test_the_ipv6_device_is_mended_and_the_ipv4_one_does_not_notice(lab: Lab) -> None:
    with pinged(lab, "a/a1", address(lab, "c/c1")) as pings:
        on(lab, "a", "ip link del flannel-v6.1")
        until(lambda: answers(lab, "a/a1", address(lab, "c/c1", 6)), "IPv6 to work again")
    assert pings.lost == 0
    assert (
        lease_of(lab, "a")[1]["BackendV6Data"]["VtepMAC"] == ip_json(lab, "a", "link show flannel-v6.1")[0]["address"]
    )


def test_direct_routing_counts_for_each_version(lab: Lab) -> None:
    found = reconfigure(lab, DUAL | {"Backend": {"Type": "vxlan", "DirectRouting": True}})
    settle(found)
    near, far = six(found, "b"), six(found, "c")
    until(lambda: [r["dev"] for r in ip_json(found, "a", f"-6 route show {near}")] == ["eth0"], "the direct route")
    (route,) = ip_json(found, "a", f"-6 route show {near}")
    assert route["gateway"] == "fd00:1::12"
    assert [r["dev"] for r in ip_json(found, "a", f"-6 route show {far}")] == ["flannel-v6.1"]
    with counting(found, "a", "output", "udp dport 8472 ip6 daddr fd00:1::12") as counters:
        assert answers(found, "a/a1", address(found, "b/b1", 6))
        assert counters.read() == [0]


def test_ipv6_alone(lab: Lab) -> None:
    found = reconfigure(lab, DUAL | {"EnableIPv4": False, "Backend": {"Type": "vxlan"}})
    settle(found)
    assert failing(found) == []
    key, lease = lease_of(found, "a")
    assert key.startswith("0.0.0.0-0&fc00:5:")
    assert (lease["PublicIP"], lease["PublicIPv6"]) == ("0.0.0.0", "fd00:1::11"), "as flannel writes it"
    assert "BackendData" not in lease or lease["BackendData"] is None
    assert on(found, "a", "cat /run/flannel/subnet.env").splitlines() == [
        "FLANNEL_IPV6_NETWORK=fc00:5::/48",
        f"FLANNEL_IPV6_SUBNET={six(found, 'a')[1]}/64",
        "FLANNEL_MTU=1430",
        "FLANNEL_IPMASQ=false",
    ]
    until(
        lambda: [link["ifname"] for link in ip_json(found, "a", "link show type vxlan")] == ["flannel-v6.1"],
        "IPv4's device of the former config to go",
    )
    until(lambda: status(found, "a")["health"] == "ok", "it to be well")
