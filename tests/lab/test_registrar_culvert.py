"""flannel-registrar's guide to indirect routing, on its own hosts: culvert behind WireGuard, its gateway lavash,
babka and pita on the LAN. Once with the guide's map, once without any, once with a plain router in lavash's place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab.flannel_lab import address, answers, counting, pinged
from tests.lab.harness import do, example, failing, ip_json, lab_up, on, settle
from tests.lab.registrar_lab import (
    FLANNEL,
    amiss,
    astray,
    captured,
    explain,
    foreign,
    health,
    keys,
    networks,
    never_more,
    owned,
    registrars,
    routes,
    service,
)
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_docker, needs_wireguard
from weft.lab.lab import Lab

pytestmark = [needs_docker, needs_etcd, needs_wireguard]

MAP = "172.24.90.1:172.24.90.6"
DIRECT = "udp dport 8472"


def test_without_a_map_detection_finds_the_gateway_and_the_direct_way_when_there_is_one() -> None:
    with lab_up(example("culvert-detect"), "detect") as lab:
        settle(lab, 60)
        for host, peer in (("babka", "culvert"), ("culvert", "babka"), ("pita", "culvert")):
            said = explain(lab, host, peer)
            assert "lavash" in said
            assert "map entry" not in said
        on(lab, "lavash", "iptables -D FORWARD -p udp --dport 8472 -j DROP")
        with pinged(lab, "babka/media1", address(lab, "culvert/monitoring1")) as pings:
            until(lambda: "directly" in explain(lab, "babka", "culvert").splitlines()[0], "the direct way", 40)
            until(lambda: "directly" in explain(lab, "culvert", "babka").splitlines()[0], "the direct way back", 40)
        assert pings.lost == 0
        assert failing(lab) == []


def test_behind_a_plain_router_the_map_leads_to_a_route_in_the_underlay() -> None:
    with lab_up(example("culvert-underlay"), "under") as lab:
        settle(lab, 60)
        for host in ("babka", "pita"):
            (route,) = until(lambda host=host: ip_json(lab, host, "route show 172.24.90.1"), "the route")  # type: ignore[misc]
            assert (route["gateway"], route["dev"], route["protocol"]) == ("192.168.4.6", "eth0", "76")
            assert f"map entry {MAP}" in explain(lab, host, "172.24.90.1")
        with counting(lab, "lavash", "forward", f"ip saddr 192.168.4.88 ip daddr 172.24.90.1 {DIRECT}") as counters:
            assert answers(lab, "babka/media1", address(lab, "culvert/monitoring1"))
            assert counters.read()[0] > 0, "the tunnel itself goes through the router"
        assert failing(lab) == []


# -- with the guide's map ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(example("culvert"), "culvert") as found:
        settle(found, 60)
        never_more(lambda: amiss(found, relayed), 20)
        yield found


def test_every_container_reaches_every_other_one(lab: Lab) -> None:
    assert failing(lab) == []


def test_tcpdump_on_the_gateway_sees_what_is_relayed_and_nothing_is_forwarded_past_it(lab: Lab) -> None:
    """The guide's step 4: `tcpdump -i any -n 'port 8472'`."""
    target = address(lab, "culvert/caddy")
    with captured(lab, "lavash", "udp port 8472 and greater 130") as seen:
        assert answers(lab, "babka/media1", target, "-s", "100")

        def relayed() -> set[tuple[str, str]]:
            return {(source.rpartition(".")[0], where) for source, where in seen}

        ways = {
            ("192.168.4.88", "172.24.90.6.8472"),
            ("172.24.90.6", "172.24.90.1.8472"),
            ("172.24.90.1", "172.24.90.6.8472"),
            ("172.24.90.6", "192.168.4.88.8472"),
        }
        until(lambda: ways <= relayed(), f"both ways to be seen: {seen}", 5)


def test_both_directions_one_at_a_time(lab: Lab) -> None:
    """The guide's "one-way communication": each end sends, alone, and its requests arrive where they should."""
    for source, target in (("culvert/monitoring1", "babka/media1"), ("babka/media1", "culvert/monitoring1")):
        host = target.partition("/")[0]
        own, far = address(lab, source), address(lab, target)
        with counting(lab, host, "forward", f"ip saddr {own} ip daddr {far} icmp type echo-request") as counters:
            assert answers(lab, source, far)
            assert counters.read() == [1], f"{own} → {far} arrives with its own address"


def test_a_host_itself_reaches_what_is_relayed(lab: Lab) -> None:
    assert answers(lab, "babka", address(lab, "culvert/monitoring1"))
    assert answers(lab, "culvert", address(lab, "pita/backup1"))


def test_what_is_too_large_for_the_tunnel_is_told_and_what_fits_gets_through(lab: Lab) -> None:
    target = address(lab, "culvert/monitoring1")
    assert answers(lab, "babka/media1", target, "-M", "do", "-s", str(1370 - 28))
    body = on(lab, "babka/media1", ["wget", "-qO-", f"http://{target}/"])
    assert body.strip() == "monitoring1"


def test_explain_names_the_map_entry_that_decided(lab: Lab) -> None:
    for host in ("babka", "pita"):
        said = explain(lab, host, "172.24.90.1")
        assert f"map entry {MAP}" in said
        assert "lavash" in said
        assert f"map entry {MAP}" in explain(lab, host, address(lab, "culvert/monitoring1"))


def test_the_routes_lead_through_the_gateways_own_lease(lab: Lab) -> None:
    lavash = leases(lab)["172.24.90.6"].partition("-")[0]
    for host in ("babka", "pita"):
        found = routes(lab, host)
        for network in ("10.5.8.0/24", "10.9.1.0/24"):
            assert found[network] == lavash
    back = routes(lab, "culvert")
    assert {back[network] for network in ("10.5.35.0/24", "10.9.2.0/24", "10.5.30.0/24", "10.9.3.0/24")} == {lavash}
    assert routes(lab, "babka")["10.9.3.0/24"] == leases(lab)["192.168.4.99"].partition("-")[0], "neighbours directly"


def test_what_is_in_etcd(lab: Lab) -> None:
    assert networks(lab) == {
        "babka/caddy-public-net": "10.5.35.0/24",
        "babka/media": "10.9.2.0/24",
        "culvert/caddy-public-net": "10.5.8.0/24",
        "culvert/monitoring": "10.9.1.0/24",
        "pita/backup": "10.9.3.0/24",
        "pita/caddy-public-net": "10.5.30.0/24",
    }
    held = owned(lab)
    assert 0 not in held.values(), "nothing outlives its host for long"
    assert len({lease for key, lease in held.items() if "babka" in key}) == 1
    for host, ip in (("babka", "192.168.4.88"), ("culvert", "172.24.90.1"), ("lavash", "172.24.90.6")):
        status = json.loads(keys(lab)[f"_host_status/{host}"])
        assert list(status) == ["hostname", "vtep_mac", "primary_ip", "public_ip", "timestamp"]
        assert (status["hostname"], status["public_ip"]) == (host, ip)
        assert abs(time.time() - status["timestamp"]) < 300
        (link,) = ip_json(lab, host, "link show dev flannel.1")
        assert status["vtep_mac"] == link["address"]


def test_only_networks_inside_flannels_own_have_an_entry_beside_the_leases(lab: Lab) -> None:
    own = set(leases(lab).values())

    def beside() -> dict[str, str]:
        entries = {key: json.loads(value) for key, value in keys(lab, FLANNEL).items()}
        return {key: value["PublicIP"] for key, value in entries.items() if key not in own}

    until(lambda: beside().get("10.5.35.0-24") == "192.168.4.88", f"babka's entry beside its lease: {beside()}")
    assert set(beside()) <= {"10.5.35.0-24", "10.5.8.0-24", "10.5.30.0-24"}
    held = owned(lab, FLANNEL)
    flannels = {held[key] for key in own}
    assert held["10.5.35.0-24"] not in {0, *flannels}, (
        "it goes with the registrar, and takes no lease of flannel's along"
    )


def test_flanneld_is_left_alone(lab: Lab) -> None:
    before = foreign(lab, "babka")
    with pinged(lab, "babka/media1", address(lab, "culvert/monitoring1")) as pings:
        service(lab, "babka", "kill")
        assert foreign(lab, "babka") == before
        service(lab, "babka", "start")
        never_more(lambda: amiss(lab, relayed), 20)
    assert pings.lost == 0
    assert foreign(lab, "babka") == before


def test_a_tunnel_that_is_cut_is_told_and_healed(lab: Lab) -> None:
    do(lab.cut("lavash", "wg0"))
    try:
        until(lambda: health(lab, "lavash").get("status") != "healthy", "lavash to miss culvert", 20)
        assert not answers(lab, "babka/media1", address(lab, "culvert/monitoring1"))
        assert answers(lab, "babka/media1", address(lab, "pita/backup1"))
    finally:
        do(lab.heal("lavash", "wg0"))
    settle(lab, 30)
    never_more(lambda: astray(lab, relayed), 40)


def relayed(host: str, peer: str) -> bool:
    """culvert and the LAN reach each other through lavash."""
    return "culvert" in (host, peer) and "lavash" not in (host, peer)


def leases(lab: Lab) -> dict[str, str]:
    """Public address → key of the host's own flannel lease, the one that flanneld keeps."""
    subnets = {}
    for host in registrars(lab):
        env = on(lab, host, "cat /run/flannel/subnet.env")
        (subnet,) = (line.partition("=")[2] for line in env.splitlines() if line.startswith("FLANNEL_SUBNET="))
        network, _, length = subnet.partition("/")
        subnets[f"{network.rpartition('.')[0]}.0-{length}"] = host
    found = {key: json.loads(value) for key, value in keys(lab, FLANNEL).items()}
    return {found[key]["PublicIP"]: key for key in subnets}
