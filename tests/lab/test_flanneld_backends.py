"""`weft flanneld`'s backends on real kernels: what each makes of the same leases, and who is reached without a tunnel.

Hosts a and b are on one segment, c is behind a router.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.flannel_lab import (
    FOUR,
    SUBNETS,
    address,
    answers,
    beside,
    counting,
    etcdctl,
    leases,
    log,
    pinged,
    reconfigure,
    status,
    subnet,
)
from tests.lab.harness import AT_ONCE, bridge_json, do, example, failing, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("flannel-dual-stack"), "backends") as found:
        yield found


def config(kind: str, **more: Any) -> dict[str, Any]:
    return FOUR | {"Backend": {"Type": kind, **more}}


def way(lab: Lab, host: str, peer: str) -> str:
    """The device of `host`'s routes to `peer`'s subnet; several if there are several."""
    there = subnet(lab, peer)
    return "+".join(route["dev"] for route in ip_json(lab, host, f"route show {there}"))


def restarted(lab: Lab, host: str) -> None:
    do(services.restart(lab.host(host), "flanneld"))


# -- DirectRouting -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direct(lab: Lab) -> Lab:
    found = reconfigure(lab, config("vxlan", DirectRouting=True))
    settle(found)
    until(lambda: way(found, "a", "b") == way(found, "b", "a") == "eth0", "the way without a tunnel")
    return found


def test_a_host_on_the_same_segment_is_reached_without_a_tunnel_and_one_behind_a_router_through_it(
    direct: Lab,
) -> None:
    assert way(direct, "a", "c") == "flannel.1"
    target, far = address(direct, "b/b1"), address(direct, "c/c1")
    with counting(direct, "a", "output", "udp dport 8472 ip daddr 10.0.1.12", "udp dport 8472 ip daddr 10.0.2.13") as n:
        assert answers(direct, "a/a1", target)
        assert answers(direct, "a/a1", far)
        near, through = n.read()
    assert near == 0
    assert through >= 1
    entries = bridge_json(direct, "a", "fdb show dev flannel.1")
    assert [entry["dst"] for entry in entries] == ["10.0.2.13"], "no entry for who needs none"
    assert "FLANNEL_MTU=1450\n" in on(direct, "a", "cat /run/flannel/subnet.env"), "for those who need the tunnel"


def test_a_gateway_on_the_way_to_a_peer_makes_it_a_tunnel_at_once_and_back(direct: Lab) -> None:
    with pinged(direct, "a/a1", address(direct, "b/b1")) as pings:
        for change, expected in (("add", "flannel.1"), ("del", "eth0")):
            on(direct, "a", f"ip route {change} 10.0.1.12/32 via 10.0.1.1")
            begun = time.monotonic()
            until(lambda expected=expected: way(direct, "a", "b") == expected, f"{expected} after {change}")  # type: ignore[misc]
            taken = time.monotonic() - begun
            print(f"{change}: {expected} after {1000 * taken:.0f} ms")
            assert taken < AT_ONCE
    print(pings)
    assert pings.lost * 0.005 < AT_ONCE, "no more than until the routes followed"


def test_a_cycled_uplink_has_its_direct_routes_back(direct: Lab) -> None:
    host_routes = ("default via 10.0.1.1 dev eth0", "10.0.2.0/24 via 10.0.1.1 dev eth0")
    on(direct, "a", "ip link set eth0 down")
    until(lambda: way(direct, "a", "b") != "eth0", "the kernel to drop its routes")
    on(direct, "a", "ip link set eth0 up")
    for route in host_routes:
        on(direct, "a", f"ip route replace {route}")
    begun = time.monotonic()
    until(lambda: way(direct, "a", "b") == "eth0", "the direct route")
    until(lambda: way(direct, "a", "c") == "flannel.1", "the tunnel")
    print(f"back after {1000 * (time.monotonic() - begun):.0f} ms")
    assert time.monotonic() - begun < AT_ONCE
    settle(direct)


def test_a_peer_that_moves_behind_the_router_gets_the_tunnel(direct: Lab) -> None:
    """b's lease says another address now, which is not on a's segment."""
    key, value = next((k, v) for k, v in leases(direct).items() if v["PublicIP"] == "10.0.1.12")
    do(services.stop(direct.host("b"), "flanneld"))
    etcdctl(direct, "put", SUBNETS + key, json.dumps(value | {"PublicIP": "10.0.2.99"}))
    dst = key.replace("-", "/")
    until(lambda: [r["dev"] for r in ip_json(direct, "a", f"route show {dst}")] == ["flannel.1"], "the tunnel")
    assert "10.0.2.99" in [entry["dst"] for entry in bridge_json(direct, "a", "fdb show dev flannel.1")]
    etcdctl(direct, "put", SUBNETS + key, json.dumps(value))
    until(lambda: way(direct, "a", "b") == "eth0", "the way without a tunnel")
    do(services.start(direct.host("b"), "flanneld"))
    settle(direct)


def test_a_restart_under_direct_routing_loses_nothing(direct: Lab) -> None:
    with (
        pinged(direct, "a/a1", address(direct, "b/b1")) as near,
        pinged(direct, "a/a1", address(direct, "c/c1")) as far,
    ):
        for _ in range(3):
            restarted(direct, "a")
    print(near, far)
    assert (near.lost, far.lost) == (0, 0)
    assert near.sent > 100


# -- host-gw -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateways(lab: Lab) -> Lab:
    found = reconfigure(lab, config("host-gw"))
    until(lambda: answers(found, "a/a1", address(found, "b/b1")), "b to answer a")
    until(lambda: not [link for link in ip_json(found, "a", "link show type vxlan") if link], "the tunnel to go")
    until(lambda: "flannel.1" not in on(found, "a", "iptables-save"), "its chains to go")
    return found


def test_host_gw_has_routes_and_no_device(gateways: Lab) -> None:
    assert [link["ifname"] for link in ip_json(gateways, "a", "link show type vxlan")] == []
    (route,) = ip_json(gateways, "a", "route show proto 76")
    assert (route["dst"], route["gateway"], route["dev"]) == (subnet(gateways, "b"), "10.0.1.12", "eth0")
    assert "FLANNEL_MTU=1500\n" in on(gateways, "a", "cat /run/flannel/subnet.env")
    assert answers(gateways, "a/a1", address(gateways, "b/b1"), "-M", "do", "-s", str(1500 - 28))
    assert "flannel.1" not in on(gateways, "a", "iptables-save"), "the chains of the former backend are gone"


def test_host_gw_says_who_it_can_not_reach_and_routes_nothing_there(gateways: Lab) -> None:
    far = subnet(gateways, "c")
    said = f"lease {far} is not routed to: 10.0.2.13 is not on a segment of this host's; host-gw needs that"
    until(lambda: [p.startswith(said) for p in status(gateways, "a")["problems"]] == [True], "the one problem")
    until(lambda: said in log(gateways, "a"), "the log to name it")
    assert said in on(gateways, "a", "weft show status", check=False)
    assert ip_json(gateways, "a", f"route show {far}") == []
    assert not answers(gateways, "a/a1", address(gateways, "c/c1"))
    assert f"lease {subnet(gateways, 'b')} is not routed to" not in log(gateways, "a").rpartition("INFO weft")[2]


def test_a_restart_under_host_gw_loses_nothing(gateways: Lab) -> None:
    with pinged(gateways, "a/a1", address(gateways, "b/b1")) as pings:
        for _ in range(3):
            restarted(gateways, "a")
    print(pings)
    assert pings.lost == 0
    assert pings.sent > 100


def test_a_lease_deleted_while_the_daemon_was_down_loses_its_route_at_the_start(gateways: Lab) -> None:
    gone = subnet(gateways, "b")
    do(services.stop(gateways.host("b"), "flanneld"))
    do(services.stop(gateways.host("a"), "flanneld"))
    etcdctl(gateways, "del", SUBNETS + gone.replace("/", "-"))
    assert ip_json(gateways, "a", f"route show {gone}")
    do(services.start(gateways.host("a"), "flanneld"))
    until(lambda: not ip_json(gateways, "a", f"route show {gone}"), "the route to go")
    do(services.start(gateways.host("b"), "flanneld"))


def test_routes_into_a_network_that_the_config_had_before_go_at_the_start(gateways: Lab) -> None:

    def routes() -> list[str]:
        return [route["dst"] for route in ip_json(gateways, "a", "route show proto 76")]

    until(lambda: routes() == [subnet(gateways, "b")], "a route to b")
    for network in ("10.6.0.0/16", "10.5.0.0/16"):
        found = reconfigure(gateways, config("host-gw") | {"Network": network}, forget=False)
        until(lambda found=found: answers(found, "a/a1", address(found, "b/b1")), "b to answer a")  # type: ignore[misc]
        there = subnet(found, "b")
        until(lambda there=there: routes() == [there], "that route alone")  # type: ignore[misc]
        assert there.startswith(network[:5])


# -- alloc and extension -----------------------------------------------------------------------------------------------


def test_alloc_leases_and_writes_subnet_env_and_routes_nothing(lab: Lab) -> None:
    found = reconfigure(lab, config("alloc"))
    assert {lease["PublicIP"] for lease in leases(found).values()} == {"10.0.1.11", "10.0.1.12", "10.0.2.13"}
    assert all("BackendType" not in lease for lease in leases(found).values())
    env = on(found, "a", "cat /run/flannel/subnet.env").splitlines()
    assert f"FLANNEL_SUBNET={subnet(found, 'a').replace('.0/', '.1/')}" in env
    assert "FLANNEL_MTU=1500" in env
    until(lambda: not ip_json(found, "a", "route show proto 76"), "what host-gw left to go")
    assert ip_json(found, "a", "link show type vxlan") == []
    assert not answers(found, "a/a1", address(found, "b/b1"))
    until(lambda: status(found, "a")["health"] == "ok", "it to be well")
    assert "-MSS" not in on(found, "a", "iptables-save"), "there is no device for which segments are too long"


SCRIPT = """#!/bin/sh -e
# What a lease says is in the environment, what its host published comes on stdin.
read -r via
echo "$1 $SUBNET $PUBLIC_IP $via" >>"{folder}/$(hostname).said"
case "$1" in
    add) [ ! -e "{folder}/broken" ] || {{ echo "no way today" >&2; exit 7; }}
         ip route replace "$SUBNET" via "$via" ;;
    remove) ip route del "$SUBNET" ;;
esac
"""


@pytest.fixture
def scripted(lab: Lab, tmp_path: Path) -> tuple[Lab, Path]:
    """The extension backend, with a script that routes by what the hosts publish, and fails while `broken` is there."""
    script = tmp_path / "route.sh"
    script.write_text(SCRIPT.format(folder=tmp_path))
    script.chmod(0o755)
    commands = {
        "PreStartupCommand": "sh -c \"ip -4 -o address show eth0 | sed 's|.* inet ||; s|/.*||'\"",
        "PostStartupCommand": f"touch {tmp_path}/started",
        "SubnetAddCommand": f"{script} add",
        "SubnetRemoveCommand": f"{script} remove",
    }
    return reconfigure(lab, config("extension", **commands)), tmp_path


def test_the_extension_backend_routes_by_the_operators_script_and_retries_it(scripted: tuple[Lab, Path]) -> None:
    lab, folder = scripted
    target = address(lab, "b/b1")
    until(lambda: answers(lab, "a/a1", target), "the script's route")
    assert all(lease["BackendData"] == lease["PublicIP"] for lease in leases(lab).values())
    until((folder / "started").exists, "PostStartupCommand")
    said = (folder / "a.said").read_text().splitlines()
    assert f"add {subnet(lab, 'b')} 10.0.1.12 10.0.1.12" in said
    failed = f"add {subnet(lab, 'c')}: `{folder}/route.sh add` ended with 2:"  # c's address is not on a segment of a's
    until(lambda: failed in log(lab, "a"), "what the script says of a host that it can't reach")
    assert failed in on(lab, "a", "weft show status", check=False)

    (folder / "broken").touch()
    restarted(lab, "a")
    until(lambda: any("no way today" in one["message"] for one in status(lab, "a")["not_done"]), "the failure to show")
    assert ip_json(lab, "a", f"route show {subnet(lab, 'b')}"), "a restart takes no route away"
    (folder / "broken").unlink()
    until(lambda: not any("no way today" in one["message"] for one in status(lab, "a")["not_done"]), "it to work again")

    gone, dst = SUBNETS + subnet(lab, "b").replace("/", "-"), subnet(lab, "b")
    do(services.stop(lab.host("b"), "flanneld"))
    etcdctl(lab, "del", gone)
    until(lambda: not ip_json(lab, "a", f"route show {dst}"), "SubnetRemoveCommand to take the route")
    do(services.start(lab.host("b"), "flanneld"))


def test_a_poststartupcommand_that_fails_is_tried_again_alone(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "say.sh"
    script.write_text(
        f'#!/bin/sh\necho "$1" >>"{tmp_path}/$(hostname).said"\n[ "$1" != post ] || [ -e "{tmp_path}/well" ]\n'
    )
    script.chmod(0o755)
    moments = {"PreStartupCommand": "pre", "PostStartupCommand": "post", "SubnetAddCommand": "add"}
    found = reconfigure(lab, config("extension", **{name: f"{script} {word}" for name, word in moments.items()}))

    def said(word: str) -> int:
        told = tmp_path / "a.said"
        return told.read_text().split().count(word) if told.exists() else 0

    until(lambda: said("post") >= 4 and said("add") >= 2, "some attempts")
    until(lambda: "say.sh post` ended with 1" in " ".join(status(found, "a")["problems"]), "the problem")
    (tmp_path / "well").touch()
    until(lambda: not status(found, "a")["problems"], "the problem to be over")
    assert (said("pre"), said("add")) == (1, 2)


# -- what can't be -----------------------------------------------------------------------------------------------------


def test_leases_of_other_backends_are_named_and_left_out_and_the_rest_works(lab: Lab) -> None:
    found = reconfigure(lab, config("vxlan"))
    strangers = {
        "10.5.200.0/24": {"PublicIP": "10.0.1.77", "PublicIPv6": None, "BackendType": "host-gw"},
        "10.5.201.0/24": {"PublicIP": "10.0.1.78", "PublicIPv6": None, "BackendType": "udp", "BackendData": {}},
        "10.5.202.0/24": {"PublicIP": "10.0.1.79", "PublicIPv6": None},
    }
    for there, value in strangers.items():
        etcdctl(found, "put", SUBNETS + there.replace("/", "-"), json.dumps(value))
    until(lambda: len(status(found, "a")["problems"]) == 3, "a problem for each")
    said = "\n".join(status(found, "a")["problems"])
    print(said)
    for there, backend in zip(strangers, ("host-gw", "udp", "alloc (or udp: a lease names neither)"), strict=True):
        assert f"lease {there} is not routed to: its backend is {backend}, this host's is vxlan" in said
    settle(found)
    assert failing(found) == []
    assert len(ip_json(found, "a", "route show proto 76")) == 2
    etcdctl(found, "del", SUBNETS + "10.5.200.0-24")
    until(lambda: len(status(found, "a")["problems"]) == 2, "one problem less")


def test_a_backend_that_weft_does_not_have_is_an_error_with_what_to_use_instead(lab: Lab) -> None:
    unsupported = {"udp": "vxlan", "ipip": "vxlan", "ipsec": "wireguard", "vxlam": "vxlan"}
    for kind, instead in unsupported.items():
        with beside(lab, "a", config(kind)) as log_of:
            until(lambda log_of=log_of: "unknown or unsupported backend" in log_of(), f"a word about {kind}")  # type: ignore[misc]
            said = log_of()
        assert f"unknown or unsupported backend: {kind}" in said
        assert f"unknown backend type: {kind}" in said, "the words that flannel's users search for"
        assert f'"Backend": {{"Type": "{instead}"}}' in said
        assert "Traceback" not in said
    assert failing(Lab.load(lab.name)) == []
