"""Underlays as they come: without IPv6, without IPv4, with virtual addresses and spare default routes; many hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.harness import do, example, failing, ip_json, lab_up, on, settle
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = needs_root

QUICK = {"announce_interval": 0.5, "peer_timeout": 2}
DEVICE = "vxlan4096"
TWO_UPLINKS = {
    "engine": "none",
    "agent": QUICK,
    "segments": {"lan": {"subnet": "192.168.77.0/24"}, "spare": {"subnet": "192.168.78.0/24"}},
    "hosts": {
        "a": {"segments": ["lan", "spare"], "networks": {"web": "10.1.1.0/24"}},
        "b": {"segments": ["lan", "spare"], "networks": {"web": "10.2.1.0/24"}},
    },
}


@pytest.fixture
def uplinks() -> Iterator[Lab]:
    with lab_up(TWO_UPLINKS, "uplinks") as found:
        settle(found)
        yield found


def status(lab: Lab, host: str) -> dict[str, Any]:
    """`weft show status --json` on a host."""
    found: dict[str, Any] = json.loads(on(lab, host, "weft show status --json", check=False))
    return found


def test_a_host_without_ipv6_keeps_ipv4_and_says_what_it_can_not_route() -> None:
    with lab_up(example("plain", agent=QUICK), "four") as lab:
        settle(lab)
        on(lab, "a", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
        until(lambda: "IPv6 networks of peers are not routed" in json.dumps(status(lab, "a")), "a to say so")
        do(services.restart(lab.host("a"), "agent"))
        until(lambda: "IPv6 networks of peers are not routed" in json.dumps(status(lab, "a")), "a to say so again")
        assert not [line for line in failing(lab) if ":" not in line.split()[-1]], "every IPv4 pair answers"
        assert ip_json(lab, "a", "-6 route show proto 76") == []
        until(lambda: status(lab, "a")["not_done"] == [], "nothing to be tried that can't be")
        assert not [line for line in failing(lab) if "a/" not in line], "the others are not concerned"


def test_containers_of_both_families_over_an_underlay_of_ipv6_alone() -> None:
    segments = {"lan": {"subnet": "fd77::/64"}}
    with lab_up(example("plain", agent=QUICK, segments=segments), "six") as lab:
        settle(lab)
        assert failing(lab) == []
        (device,) = ip_json(lab, "a", f"link show {DEVICE}")
        assert device["linkinfo"]["info_data"]["local6"] == "fd77::11"
        until(lambda: status(lab, "a")["health"] == "ok", "it to be well")


def test_a_virtual_address_and_a_spare_default_route_move_nothing(uplinks: Lab) -> None:
    (before,) = ip_json(uplinks, "a", f"link show {DEVICE}")
    endpoint = status(uplinks, "a")["endpoints"]
    target = uplinks.container("a", "web1")[1].addresses[0].ip
    line = do(uplinks.container_command(uplinks.host("b"), "web1", ["ping", "-i0.01", "-c200", "-q", str(target)]))
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as pings:
        on(uplinks, "a", "ip address add 192.168.77.5/32 dev eth0")
        on(uplinks, "a", "ip route add default via 192.168.78.1 dev eth1 metric 500")
        told = pings.communicate(timeout=120)[0]
    assert "200 received, 0% packet loss" in told
    cycles = status(uplinks, "a")["cycles"]
    on(uplinks, "a", "ip address add 192.168.77.6/32 dev eth0")
    until(lambda: status(uplinks, "a")["cycles"] > cycles, "a to look again")
    assert status(uplinks, "a")["endpoints"] == endpoint
    (after,) = ip_json(uplinks, "a", f"link show {DEVICE}")
    assert (after["ifindex"], after["linkinfo"]) == (before["ifindex"], before["linkinfo"])
    do(services.restart(uplinks.host("a"), "agent"))
    settle(uplinks)
    told = until(lambda: status(uplinks, "a")["endpoints"], "the endpoint of the new start")
    assert told == endpoint, "none of it is taken for the endpoint at a new start"


def test_a_second_agent_in_one_namespace_is_refused(uplinks: Lab) -> None:
    host = uplinks.host("a")
    environment = host.environment | services.agent_environment(host)
    environment |= {"WEFT_NODE": "other", "WEFT_VNI": "4097", "WEFT_SOCKET": str(host.folder / "other.sock")}
    command = host.inside([sys.executable, "-m", "weft.cli.main", "agent"])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "is running in this network namespace already" in done.stderr
    assert "Traceback" not in done.stderr
    assert [link["ifname"] for link in ip_json(uplinks, "a", "link show type vxlan")] == [DEVICE]
    assert failing(uplinks) == []
    until(lambda: status(uplinks, "a")["health"] == "ok", "it to be well")


def test_twelve_hosts_with_three_networks_each_converge() -> None:
    networks = ("web", "db", "cache")
    hosts = {
        f"h{number}": {"networks": {name: f"10.{number}.{n}.0/24" for n, name in enumerate(networks)}}
        for number in range(12)
    }
    with lab_up({"engine": "none", "hosts": hosts}, "twelve") as lab:
        settle(lab)
        assert all(len(ip_json(lab, host, "route show proto 76")) == 33 for host in hosts)
