"""docker-router's stacks that find each other by etcd, by DNS and by gossip: three stacks each, side by side in one lab
with a VNI for each mode, without Docker. Those of DNS are laid out as documented: with flooding and learning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.docker_router_lab import (
    QUICK,
    ZERO,
    entries,
    forgotten,
    needs_named,
    peers,
    problems,
    routed,
    routes,
    service,
    well,
    whole,
)
from tests.lab.flannel_lab import address, answers
from tests.lab.harness import do, failing, ip_json, lab_up, on, settle
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.lab.lab import Lab
from weft.lab.topology import ServiceName

pytestmark = [needs_root, needs_etcd, needs_named]

MODES = {"e": "etcd", "d": "dns", "g": "gossip"}
MEANS: dict[str, dict[str, Any]] = {
    "e": {"ETCD_LEASE_TTL": 3},
    "d": {"DNS_UPDATE_INTERVAL": 1, "DNS_TTL": 3},
    "g": {"GOSSIP_PROFILE": "fast", "KEY": "correct-horse-battery-staple"},
}
SERVERS: dict[ServiceName, Any] = {"etcd": {}, "bind": {"domain": "example.com"}}
ALL = [*(f"{mode}{n}" for mode in MODES for n in (1, 2, 3)), "g4"]


def host(number: int, name: str) -> dict[str, Any]:
    mode, vni = name[0], 1001 + list(MODES).index(name[0])
    told = {"STACK_ID": f"stack-{name}", "VNI": vni, "DISCOVERY_MODE": MODES[mode], **QUICK, **MEANS[mode]}
    flood = {"router": {"VXLAN_FDB": "flood"}} if mode == "d" else {}
    return {"networks": {"web": {"subnet": f"172.20.{number}.0/24"}}, "discovery": told, **flood}


DOCUMENT: dict[str, Any] = {
    "engine": "none",
    "daemon": ["discovery", "router"],
    "hosts": {
        "store": {"daemon": "none", "etcd": SERVERS["etcd"], "bind": SERVERS["bind"]},
        **{name: host(number, name) for number, name in enumerate(ALL, start=1)},
    },
}


def subnet(name: str) -> str:
    return f"172.20.{ALL.index(name) + 1}.0/24"


def overlay(name: str) -> str:
    """The lab numbers the hosts of its file, and `store` is the first."""
    return f"192.168.100.{ALL.index(name) + 2}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "drmodes") as found:
        settle(found)
        well(found, "e1", "d1", "g1")
        yield found


@pytest.fixture(autouse=True)
def all_run(lab: Lab) -> None:
    whole(lab)


def test_each_stack_reaches_those_of_its_own_mode(lab: Lab) -> None:
    assert failing(lab) == []
    for name in ("e1", "d1", "g1"):
        others = [one for one in ALL if one[0] == name[0] and one != name]
        active = {f"stack-{one}": "active" for one in others}
        until(lambda name=name, active=active: peers(lab, name) == active, "all of its mode")  # type: ignore[misc]
        assert routes(lab, name) == {subnet(one): frozenset({overlay(one)}) for one in others}


def test_the_documented_keys_are_in_etcd(lab: Lab) -> None:
    words = ["env", "ETCDCTL_API=3", "etcdctl", "get", "--prefix", "/docker-router/discovery/stack-e1/"]
    lines = on(lab, "store", words).splitlines()
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    plain = {key.rpartition("/")[2]: value for key, value in found.items()}
    assert (plain["host_ip"], plain["vni"], plain["vxlan_endpoint"]) == ("172.31.0.12", "1001", "172.31.0.12:4789")
    assert plain["last_seen"].endswith("Z")


def test_the_documented_records_are_in_the_zone(lab: Lab) -> None:
    asked = ["dig", "+short", "@172.31.0.11"]
    services = on(lab, "d2", [*asked, "_docker-router._udp.example.com", "SRV"]).splitlines()
    assert len(services) == 3
    targets = [line.split()[3] for line in services]
    addresses = {on(lab, "d2", [*asked, target, "A"]).strip() for target in targets}
    assert addresses == {"172.31.0.15", "172.31.0.16", "172.31.0.17"}
    assert "vni=1002" in on(lab, "d2", [*asked, "stack-d1._docker-router._udp.example.com", "TXT"])


def test_with_flooding_all_is_as_the_document_has_it(lab: Lab) -> None:
    (link,) = ip_json(lab, "d1", "link show vxlan1002")
    assert link["linkinfo"]["info_data"]["learning"] is True
    flooded = {(ZERO, "172.31.0.16"), (ZERO, "172.31.0.17")}
    assert entries(lab, "d1", "vxlan1002") >= flooded
    assert answers(lab, "d1/web1", address(lab, "d2/web1"))
    learned = {mac for mac, endpoint in entries(lab, "d1", "vxlan1002") if endpoint == "172.31.0.16"}
    assert len(learned) == 2, "the peer's MAC was learned"


def test_a_stack_that_leaves_is_gone_and_comes_back(lab: Lab) -> None:
    service(lab, "stop", "discovery", *(f"{mode}3" for mode in MODES))
    for mode in MODES:
        pair = [f"{mode}1", f"{mode}2"]
        forgotten(lab, pair, subnet(f"{mode}3"))
        assert routed(lab, pair[:1], subnet(pair[1]))
    assert "172.31.0.17" not in on(lab, "store", "dig @127.0.0.1 example.com AXFR"), "it took its records away"
    service(lab, "start", "discovery", *(f"{mode}3" for mode in MODES))
    settle(lab)


def test_a_stack_that_is_killed_is_gone_and_comes_back(lab: Lab) -> None:
    service(lab, "kill", "discovery", "e3", "g3")
    for mode in "eg":
        forgotten(lab, [f"{mode}1", f"{mode}2"], subnet(f"{mode}3"))
    service(lab, "start", "discovery", "e3", "g3")
    settle(lab)


def test_gossip_heals_after_a_partition(lab: Lab) -> None:
    """Both sides forget each other, and nobody tells them to look again."""
    halves = ["g1", "g2"], ["g3", "g4"]
    walls = [(here, there) for one, other in (halves, halves[::-1]) for here in one for there in other]
    for here, there in walls:
        on(lab, here, f"iptables -t raw -I PREROUTING -s {endpoint(lab, there)} -j DROP")
    for here, there in walls:
        forgotten(lab, [here], subnet(there))
    until(lambda: all(routed(lab, one[:1], subnet(one[1])) for one in halves), "each half to have each other")
    for here, there in walls:
        on(lab, here, f"iptables -t raw -D PREROUTING -s {endpoint(lab, there)} -j DROP")
    settle(lab)


def test_who_hears_nobody_forgets_nobody(lab: Lab) -> None:
    """It may be its own cable that is cut."""
    do(lab.cut("g4", "lan", keep_carrier=True))
    forgotten(lab, ["g1", "g2", "g3"], subnet("g4"))
    trouble(lab, "g4", True)
    assert routed(lab, ["g4"], subnet("g1"))
    do(lab.heal("g4", "lan"))
    settle(lab)
    trouble(lab, "g4", False)


def endpoint(lab: Lab, name: str) -> str:
    return str(lab.host(name).host.ports[0].addresses[0].ip)


def test_nobody_is_forgotten_because_a_server_is_away(lab: Lab) -> None:
    held = {name: routes(lab, name) for name in ("e1", "d1")}
    for server in SERVERS:
        service(lab, "kill", server, "store")
    for name in held:
        trouble(lab, name, True)
    assert {name: routes(lab, name) for name in held} == held
    for server in SERVERS:
        service(lab, "start", server, "store")
    for name in held:
        trouble(lab, name, False)
    assert failing(lab) == []


def trouble(lab: Lab, name: str, there: bool) -> None:
    """Returns when discovery says that something is wrong, or (`there` False) that nothing is."""
    until(lambda: bool(problems(lab, name)) == there, f"{name}: {'a problem' if there else 'all well'}", 20)
