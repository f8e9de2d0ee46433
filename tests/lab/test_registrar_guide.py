"""Each step of flannel-registrar's documents, typed as it stands there, and what they say comes of it: the guide's
"Testing", "Troubleshooting" and "Diagnostic Tools", the README's "Troubleshooting".

The guide's hosts without Docker and WireGuard: culvert behind its gateway lavash, babka on the LAN. What needs an
engine is in test_registrar_culvert.py (containers of Docker's, tcpdump on the gateway) and test_image.py (docker exec).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lab.flannel_lab import address, answers, pinged
from tests.lab.harness import bridge_json, do, ip_json, lab_up, on, settle
from tests.lab.registrar_lab import (
    FLANNEL,
    etcdctl,
    explain,
    foreign,
    health,
    healthy,
    keys,
    log_of,
    owned,
    routes,
    service,
    show,
    undone,
)
from tests.support.etcd import needs_etcd
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.backends.tunnel import REGISTRAR_METRICS
from weft.lab import services
from weft.lab.lab import Lab

pytestmark = [needs_root, needs_etcd]

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
HOSTS = ("babka", "culvert", "lavash")
RELAYED = {("babka", "culvert"), ("culvert", "babka")}
MAP = "172.24.90.1:172.24.90.6"
CONFIG = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.10.0", "SubnetMax": "10.5.19.0", "Backend": {"Type": "vxlan"}}
DOCUMENT: dict[str, Any] = {
    "engine": "none",
    "daemon": ["flanneld", "registrar"],
    "registrar": {"INTERVAL": 120},
    "segments": {"wg": {"subnet": "172.24.90.0/24"}, "home": {"subnet": "192.168.4.0/24"}},
    "hosts": {
        "culvert": {
            "segments": {"wg": "172.24.90.1"},
            "routes": [{"to": "default", "via": "172.24.90.6"}],
            "networks": {"caddy-public-net": "10.5.8.0/24", "monitoring": "10.9.1.0/24"},
            "flanneld": {"iface": "eth0", "public-ip": "172.24.90.1"},
            "registrar": {"FLANNELD_PUBLIC_IP": "172.24.90.1"},
        },
        "lavash": {
            "segments": {"wg": "172.24.90.6", "home": "192.168.4.6"},
            "forward": True,
            "firewall": ["iptables -A FORWARD -p udp --dport 8472 -j DROP"],
            "flanneld": {"iface": "eth0", "public-ip": "172.24.90.6"},
            "registrar": {"FLANNELD_PUBLIC_IP": "172.24.90.6"},
        },
        "babka": {
            "segments": {"home": "192.168.4.88"},
            "routes": [{"to": "default", "via": "192.168.4.6"}],
            "etcd": {"config": CONFIG},
            "networks": {"caddy-public-net": "10.5.35.0/24", "media": "10.9.2.0/24"},
            "flanneld": {"iface": "eth0", "public-ip": "192.168.4.88"},
            "registrar": {"FLANNELD_PUBLIC_IP": "192.168.4.88", "HOST_GATEWAY_MAP": MAP},
        },
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "guide") as found:
        settle(found)
        until(lambda: is_well(found), "all to be well", 30)
        yield found


def is_well(lab: Lab) -> bool:
    """Every host says so; babka and culvert reach each other through lavash, and everybody else directly."""
    peers = [(host, peer) for host in HOSTS for peer in show(lab, host, "peers")]
    relayed = {(host, peer["node"]) for host, peer in peers if "lavash" in peer["way"]}
    direct = {(host, peer["node"]) for host, peer in peers if peer["way"].startswith("directly: its tunnel answers")}
    return healthy(lab) and relayed == RELAYED and len(direct) == 4 and not undone(lab)


def shell(lab: Lab, host: str, line: str, check: bool = True) -> str:
    """A line as a person types it on a host, where the registrar's variables are set."""
    variables = (f"{name}={value}" for name, value in services.daemon_environment(lab.host(host)).items())
    return on(lab, host, ["env", *variables, "sh", "-c", line], check)


def leases(lab: Lab) -> dict[str, tuple[str, str]]:
    """Public address → the network address of its host's own lease, and the MAC that the lease tells."""
    found = {}
    for host in HOSTS:
        (own,) = (a["local"] for a in ip_json(lab, host, "-4 address show dev flannel.1")[0]["addr_info"])
        lease = json.loads(keys(lab, FLANNEL)[f"{own}-24"])
        found[lease["PublicIP"]] = own, lease["BackendData"]["VtepMAC"].lower()
    return found


def fdb(lab: Lab, host: str) -> dict[str, str]:
    """MAC → where its frames go, of `bridge fdb show dev flannel.1`."""
    return {entry["mac"]: entry["dst"] for entry in bridge_json(lab, host, "fdb show dev flannel.1") if "dst" in entry}


def right(lab: Lab, host: str) -> bool:
    """Whether every lease's MAC leads to its own host, and nothing else is there."""
    own = {address: mac for address, (_, mac) in leases(lab).items()}
    mine = {mac for address, mac in own.items() if address in shell(lab, host, "ip -br address show")}
    return fdb(lab, host) == {mac: address for address, mac in own.items() if mac not in mine}


# -- Testing Indirect Routing -----------------------------------------------------------------------------------------


def test_ip_route_shows_the_routes_to_the_remote_subnets(lab: Lab) -> None:
    """The guide's step 1 and the README's "Route Verification"."""
    said = shell(lab, "babka", "ip route | grep 10.5")
    relay, _ = leases(lab)["172.24.90.6"]
    far, _ = leases(lab)["172.24.90.1"]
    assert f"10.5.8.0/24 via {relay} dev flannel.1" in said
    assert f"{far} via {far} dev flannel.1" in said, "where culvert itself is probed, the direct way"
    assert f"{far}/25 via {relay} dev flannel.1" in said
    assert f"{far.rpartition('.')[0]}.128/25 via {relay} dev flannel.1" in said
    assert "10.9.1.0/24 via" in shell(lab, "babka", "ip route show proto 76")
    back = shell(lab, "culvert", "ip route | grep 10.5")
    assert f"10.5.35.0/24 via {relay} dev flannel.1" in back


def test_bridge_fdb_shows_each_mac_at_its_own_host(lab: Lab) -> None:
    """The guide's step 2. It has culvert's MAC lead to the gateway, which would drop such frames; what goes there has
    the gateway's own MAC (docs/indirect-routing.md)."""
    for host in HOSTS:
        assert right(lab, host), fdb(lab, host)
    assert shell(lab, "babka", "bridge fdb show dev flannel.1").count("dst") == 2


def test_a_container_pings_one_on_the_other_host_and_the_other_way_round(lab: Lab) -> None:
    """Step 3, and "one-way communication"."""
    ends = ("babka/media1", "culvert/caddy-public-net1"), ("babka/caddy-public-net1", "culvert/monitoring1")
    for one, other in ends:
        assert answers(lab, one, address(lab, other))
        assert answers(lab, other, address(lab, one))


def test_forwarding_is_on(lab: Lab) -> None:
    for host in HOSTS:
        assert shell(lab, host, "cat /proc/sys/net/ipv4/ip_forward") == "1\n"


# -- what stands in etcd ----------------------------------------------------------------------------------------------


def test_etcdctl_shows_the_networks_with_the_right_public_addresses(lab: Lab) -> None:
    """The README's "Network Registration"."""
    asked = "ETCDCTL_API=3 etcdctl --endpoints=http://192.168.4.88:2379 get --prefix"
    said = shell(lab, "babka", f"{asked} /coreos.com/network/subnets").splitlines()
    found = {key: json.loads(value)["PublicIP"] for key, value in zip(said[::2], said[1::2], strict=True)}
    assert found["/coreos.com/network/subnets/10.5.35.0-24"] == "192.168.4.88"
    assert set(found.values()) == {"192.168.4.88", "172.24.90.1", "172.24.90.6"}
    said = shell(lab, "babka", f"{asked} /flannel/network/subnets").splitlines()
    assert "/flannel/network/subnets/culvert/caddy-public-net" in said
    assert "10.5.8.0/24" in said
    assert "/flannel/network/subnets/_host_status/culvert" in said


def test_what_the_readme_has_one_make_in_etcd_is_not_needed(lab: Lab) -> None:
    """`etcdctl mkdir` is of etcd's old interface; this lab's etcd never had it."""
    assert "unknown command" in shell(lab, "babka", "ETCDCTL_API=3 etcdctl mkdir /flannel/network 2>&1", check=False)
    assert "/flannel/network/subnets" not in {f"/flannel/network/subnets{key}" for key in keys(lab) if not key}


# -- Troubleshooting --------------------------------------------------------------------------------------------------


def test_a_vtep_that_points_to_a_wrong_host_is_corrected_while_flannel_runs(lab: Lab) -> None:
    _, mac = leases(lab)["172.24.90.6"]
    shell(lab, "babka", f"bridge fdb replace {mac} dev flannel.1 dst 192.168.4.123 self permanent")
    until(lambda: right(lab, "babka"), "the entry to be corrected", 3)
    until(lambda: answers(lab, "babka/media1", address(lab, "culvert/monitoring1")), "an answer", 5)


def test_the_guides_own_correction_does_no_harm(lab: Lab) -> None:
    """Its two lines, for culvert's MAC: weft needs no such entry, and keeps the tunnel as it should be."""
    _, mac = leases(lab)["172.24.90.1"]
    with pinged(lab, "babka/media1", address(lab, "culvert/monitoring1")) as pings:
        shell(lab, "babka", f"bridge fdb del {mac} dev flannel.1")
        shell(lab, "babka", f"bridge fdb add {mac} dev flannel.1 dst 172.24.90.6", check=False)
        until(lambda: right(lab, "babka"), "the entry to be as before", 3)
    assert pings.lost == 0


def test_a_vtep_that_points_to_a_wrong_host_is_corrected_where_flannel_does_nothing(lab: Lab) -> None:
    """flannel itself looks at its entries when a lease comes, and never again. Recovery as the unit starts it."""
    (line,) = re.findall(r"^ExecStart=(.+)$", (UNITS / "flannel-recovery.service").read_text(), re.MULTILINE)
    recovery = " ".join(("weft", *line.split()[1:]))
    said = shell(lab, "babka", recovery)
    assert "172.24.90.1 does not answer through flannel.1 itself; its networks are reached through 172.24.90.6" in said
    assert "BAD" not in said
    service(lab, "babka", "kill", "flanneld")
    _, mac = leases(lab)["172.24.90.6"]
    shell(lab, "babka", f"bridge fdb replace {mac} dev flannel.1 dst 192.168.4.123 self permanent")
    assert not answers(lab, "babka/media1", address(lab, "culvert/monitoring1"))
    said = shell(lab, "babka", recovery)
    assert f"bridge fdb replace {mac} dev flannel.1 dst 172.24.90.6" in said
    assert right(lab, "babka")
    until(lambda: answers(lab, "babka/media1", address(lab, "culvert/monitoring1")), "an answer", 5)
    service(lab, "babka", "start", "flanneld")
    until(lambda: is_well(lab), "all to be well again", 60)


def test_a_restart_brings_routes_back(lab: Lab) -> None:
    """`docker restart flannel-registrar`, with routes gone meanwhile."""
    held, others = routes(lab, "babka"), foreign(lab, "babka")
    service(lab, "babka", "stop")
    for route in ip_json(lab, "babka", "route show proto 76"):
        if route.get("metric") in REGISTRAR_METRICS:
            shell(lab, "babka", f"ip route del {route['dst']} proto 76 metric {route['metric']}")
    assert routes(lab, "babka") == {}
    service(lab, "babka", "start")
    until(lambda: routes(lab, "babka") == held, "the routes to be as before", 10)
    assert foreign(lab, "babka") == others, "flannel's own are as they were"
    until(lambda: is_well(lab), "all to be well again", 30)


def test_an_interface_that_is_cycled_costs_no_route(lab: Lab) -> None:
    held, others = routes(lab, "babka"), foreign(lab, "babka")
    shell(lab, "babka", "ip link set flannel.1 down; ip link set flannel.1 up")
    until(lambda: (routes(lab, "babka"), foreign(lab, "babka")) == (held, others), "all of it to be back", 5)
    until(lambda: answers(lab, "babka/media1", address(lab, "culvert/monitoring1")), "an answer", 5)
    until(lambda: is_well(lab), "all to be well again", 60)


# -- Diagnostic Tools -------------------------------------------------------------------------------------------------


def test_health_status_json(lab: Lab) -> None:
    until(lambda: is_well(lab), "all to be well", 30)
    told = json.loads(shell(lab, "babka", "cat /var/run/flannel-registrar/health_status.json"))
    assert list(told) == ["status", "last_check", "message", "hostname", "issues"]
    assert (told["status"], told["hostname"], told["issues"]) == ("healthy", "babka", [])
    assert 0 <= time.time() - told["last_check"] < 130


def test_the_log_names_the_map_entry_that_decided(lab: Lab) -> None:
    assert f"map entry {MAP}" in log_of(lab, "babka")
    assert f"map entry {MAP}" in explain(lab, "babka", "172.24.90.1")


def test_diagnose(lab: Lab) -> None:
    page = shell(lab, "babka", "weft registrar --diagnose", check=False)
    assert "nothing is wrong" in page
    for words in ("culvert", "10.5.8.0/24", "flannel.1", f"map entry {MAP}"):
        assert words in page


def test_what_our_page_says_to_look_at(lab: Lab) -> None:
    """docs/coming-from-flannel-registrar.md, "Look"."""
    assert json.loads(shell(lab, "babka", "curl -s localhost:9476/health"))["status"] == "healthy"
    assert 'weft_relayed{node="culvert",relay="lavash"} 1' in shell(lab, "babka", "curl -s localhost:9476/metrics")
    assert f"culvert: map entry {MAP}" in shell(lab, "babka", "weft show peers")
    assert "lavash" in shell(lab, "babka", "weft explain 172.24.90.1")
    assert "files, without passwords" in shell(lab, "babka", "weft diagnose --bundle /run/weft.tar.gz 2>&1")
    assert "events.log" in shell(lab, "babka", "tar tzf /run/weft.tar.gz")


# -- settings that change ---------------------------------------------------------------------------------------------


def test_extra_routes_come_with_their_entry_and_go_with_it_and_debug_logs_more(lab: Lab) -> None:
    """The guide's own entries; there is no enp7s0 here, which is said, and costs the other entry nothing."""
    extra = "10.5.9.0/24:192.168.4.1:enp7s0,10.5.30.0/24:192.168.4.99:eth0"
    before = routes(lab, "babka")
    restart(lab, "babka", FLANNEL_ROUTES_EXTRA=extra, DEBUG="true")
    until(lambda: routes(lab, "babka") == before | {"10.5.30.0/24": "192.168.4.99"}, "the extra route", 10)
    (route,) = ip_json(lab, "babka", "route show 10.5.30.0/24")
    assert (route["gateway"], route["dev"]) == ("192.168.4.99", "eth0")
    until(lambda: "enp7s0" in json.dumps(health(lab, "babka").get("issues", [])), "health to name the other one", 20)
    assert " DEBUG " in log_of(lab, "babka")
    restart(lab, "babka")
    until(lambda: routes(lab, "babka") == before, "the route to go with its entry", 10)
    until(lambda: is_well(lab), "all to be well again", 30)
    _, _, last = log_of(lab, "babka").rpartition(" registrar, host babka; ")
    assert " INFO " in last
    assert " DEBUG " not in last


def test_groups_of_isolate_do_not_talk_and_the_chain_is_where_the_page_says(lab: Lab) -> None:
    """docs/isolation.md, "To see what holds"."""
    apart, open_ = address(lab, "culvert/caddy-public-net1"), address(lab, "culvert/monitoring1")
    restart(lab, "babka", ISOLATE="home=10.9.2.0/24;web=10.5.8.0/24")
    until(lambda: not answers(lab, "babka/media1", apart), "the two groups to be apart", 10)
    assert answers(lab, "babka/media1", open_), "one of no group"
    said = shell(lab, "babka", "iptables -t mangle -nvL WEFT-reg-flannel.1-ISO")
    assert re.search(r"[1-9]\d* +\d+ DROP .* 10\.9\.2\.0/24 +10\.5\.8\.0/24", said), said
    shell(lab, "babka", "iptables -I FORWARD -s 10.9.2.0/24 -d 10.9.1.0/24 -j DROP")
    until(lambda: not answers(lab, "babka/media1", open_), "the README's recipe to hold", 10)
    repeated = "iptables -nvL WEFT-reg-flannel.1-ADM"
    until(lambda: "10.9.1.0/24" in shell(lab, "babka", repeated, check=False), "the rule to be repeated")
    shell(lab, "babka", "iptables -D FORWARD -s 10.9.2.0/24 -d 10.9.1.0/24 -j DROP")
    restart(lab, "babka")
    until(lambda: answers(lab, "babka/media1", apart) and answers(lab, "babka/media1", open_), "both to answer", 15)
    until(lambda: is_well(lab), "all to be well again", 30)


def test_flannels_own_leases_are_still_attached_after_all_that(lab: Lab) -> None:
    """The old program's plain put on such a key took it off its lease."""
    held = owned(lab, FLANNEL)
    own = {f"{gateway}-24" for gateway, _ in leases(lab).values()}
    assert own <= held.keys()
    assert all(held[key] for key in own)
    config = etcdctl(lab, "get", "--print-value-only", "/coreos.com/network/config")
    assert json.loads(config) == CONFIG


def test_localhost_entries_go_while_it_runs(lab: Lab) -> None:
    """The last of these tests: health speaks of it for a while."""
    bad = {"PublicIP": "127.0.0.1", "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}}
    shell(lab, "babka", f"ETCDCTL_API=3 etcdctl put {FLANNEL}10.5.99.0-24 '{json.dumps(bad)}'")
    until(lambda: "10.5.99.0-24" not in keys(lab, FLANNEL), "the entry to go", 5)
    until(lambda: any("127.0.0.1" in log_of(lab, host) for host in HOSTS), "a word of it", 5)


def restart(lab: Lab, host: str, **variables: str) -> None:
    """A registrar's restart with other variables beside those of the file."""
    found = lab.host(host)
    told = tuple((dict(found.host.registrar or ()) | variables).items())
    do(services.stop(found, "registrar"))
    do(services.start(replace(found, host=replace(found.host, registrar=told)), "registrar"))
