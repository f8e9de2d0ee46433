"""What is wrong, judged from facts that were made up: one fault each, and the page that comes of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec
import pytest

from weft.diagnose.facts import (
    AddressFacts,
    DaemonFacts,
    DockerFacts,
    DockerNetwork,
    EndpointFacts,
    EtcdFacts,
    Facts,
    FdbFacts,
    FileFacts,
    FirewallFacts,
    HostFacts,
    HostStatus,
    KernelFacts,
    LeaseFacts,
    LinkFacts,
    NeighbourFacts,
    NotDone,
    PeerFacts,
    ProbeFacts,
    Registration,
    Remark,
    RouteFacts,
)
from weft.diagnose.finding import Finding
from weft.diagnose.judge import judge, wrong
from weft.diagnose.page import page
from weft.diagnose.report import as_json

NOW = 1_700_000_000.0
MAC = {"babka": "02:00:00:00:00:01", "pita": "02:00:00:00:00:02"}
BABKA, PITA = ip_address("192.168.4.88"), ip_address("192.168.4.99")
OWN, PEER = ip_network("10.5.10.0/24"), ip_network("10.5.20.0/24")
WEB, DB = ip_network("10.9.1.0/24"), ip_network("10.9.2.0/24")
FLANNEL = LinkFacts(
    "flannel.1", "vxlan", mtu=1450, mac=MAC["babka"], vni=1, port=8472, local=BABKA, rx_packets=7, tx_packets=8
)
ETH0 = LinkFacts("eth0", mtu=1500)
LINKS = (ETH0, FLANNEL)
KERNEL = KernelFacts(
    links=LINKS,
    addresses=(
        AddressFacts("eth0", ip_interface("192.168.4.88/24")),
        AddressFacts("flannel.1", ip_interface("10.5.10.0/32")),
        AddressFacts("br-1", ip_interface("10.9.1.1/24")),
    ),
    routes=(
        RouteFacts(PEER, "flannel.1", ip_address("10.5.20.0")),
        RouteFacts(DB, "flannel.1", ip_address("10.5.20.0"), "76", 8624),
    ),
    neighbours=(NeighbourFacts("flannel.1", ip_address("10.5.20.0"), MAC["pita"]),),
    fdb=(FdbFacts("flannel.1", MAC["pita"], PITA),),
)
ETCD = EtcdFacts(
    endpoints=(EndpointFacts("http://192.168.4.88:2379", 2.0),),
    config='{"Network":"10.5.0.0/16"}',
    network=(ip_network("10.5.0.0/16"),),
    backend="vxlan",
    vni=1,
    leases=(
        LeaseFacts("/coreos.com/network/subnets/10.5.10.0-24", OWN, BABKA, "vxlan", MAC["babka"], 1),
        LeaseFacts("/coreos.com/network/subnets/10.5.20.0-24", PEER, PITA, "vxlan", MAC["pita"], 1),
    ),
    registrations=(Registration("babka", "web", WEB), Registration("pita", "db", DB)),
    hosts=(HostStatus("babka", BABKA, 1_700_000_000), HostStatus("pita", PITA, 1_700_000_000)),
)
WELL = Facts(
    host=HostFacts("babka", "6.1.0", "Debian GNU/Linux 12", NOW, 90000, sysctls={"net/ipv4/ip_forward": "1"}),
    host_name="babka",
    public_ip=BABKA,
    docker=DockerFacts(
        url="unix:///var/run/docker.sock",
        version="24.0.7",
        networks=(
            DockerNetwork("bridge", (ip_network("172.17.0.0/16"),), "docker0", False, "Docker's default bridge"),
            DockerNetwork("web", (WEB,), "br-1"),
        ),
        container="running",
        container_name="flannel",
    ),
    etcd=ETCD,
    kernel=KERNEL,
    firewall=FirewallFacts({"nft/4": "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"}),
    probes=(
        ProbeFacts("pita", "tunnel", ip_address("10.5.20.0"), "flannel.1", 1450, True, True),
        ProbeFacts("pita", "underlay", PITA, "", 1500, True, True),
    ),
    daemon=DaemonFacts(
        "/run/weft/registrar.sock",
        version="0.1.0",
        uptime=5000,
        health="ok",
        peers=(PeerFacts("pita", ["192.168.4.99"], ["10.9.2.0/24"], True, "direct", "up", True),),
    ),
    health=FileFacts("/run/h.json", "", "healthy", int(NOW) - 5, "all is well", ("t repair route: added (gone)",)),
)
put = msgspec.structs.replace


def with_etcd(**changes: Any) -> Facts:
    return put(WELL, etcd=put(ETCD, **changes))


def with_kernel(**changes: Any) -> Facts:
    return put(WELL, kernel=put(KERNEL, **changes))


def with_link(**changes: Any) -> Facts:
    return with_kernel(links=(ETH0, put(FLANNEL, **changes)))


def with_docker(**changes: Any) -> Facts:
    return put(WELL, docker=put(WELL.docker, **changes))


def with_probes(tunnel: tuple[bool | None, bool | None], under: tuple[bool | None, bool | None]) -> Facts:
    first, second = WELL.probes
    probes = (put(first, small=tunnel[0], full=tunnel[1]), put(second, small=under[0], full=under[1]))
    return put(WELL, probes=probes)


def bad(facts: Facts) -> list[Finding]:
    return [one for one in judge(facts) if one.severity != "note"]


def test_nothing_is_wrong_with_a_host_that_is_well() -> None:
    assert bad(WELL) == []
    assert not wrong(judge(WELL))


REFUSED = EndpointFacts("http://192.168.4.88:2379", error="connection refused")
LEASELESS = put(ETCD, leases=ETCD.leases[1:])
OTHER = LeaseFacts("/k", ip_network("10.5.30.0/24"), ip_address("192.168.4.77"), "vxlan", "02:00:00:00:00:03", 1)

NO_PROBES = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 4784 -j DROP\nCOMMIT\n"
CASES: list[tuple[str, Facts, str, str]] = [
    ("etcd is silent", with_etcd(error="nobody answers", endpoints=(REFUSED,)), "can't be asked: nobody", "curl http"),
    ("no endpoint", with_etcd(error="none is given", endpoints=()), "can't be asked", "set ETCD_ENDPOINT"),
    ("etcd refuses", with_etcd(error="no", forbidden=True), "doesn't let this host in", "ETCD_USERNAME"),
    ("one member", with_etcd(endpoints=(*ETCD.endpoints, put(REFUSED, url="http://b"))), "http://b does not", "start"),
    ("slow", with_etcd(endpoints=(EndpointFacts("http://a", 900.0),)), "took 900 ms", "disk"),
    ("nowhere", with_etcd(nowhere=("/k/10.5.7.0-24",)), "/k/10.5.7.0-24 says", "etcdctl del '/k/10.5.7.0-24'"),
    ("bad config", with_etcd(config_error="SubnetLen"), "can't be used: SubnetLen", "weft flannel-config check"),
    ("no config", with_etcd(config="", vni=0), "no flannel config in etcd, and", "--init-config"),
    ("a flaw", with_etcd(flaws=("the lease x is ignored",)), "the lease x is ignored", "correct that key"),
    ("not registered", with_etcd(registrations=ETCD.registrations[1:]), "network web (10.9.1.0/24) is not", "show"),
    (
        "a clock ahead",
        with_etcd(hosts=(put(ETCD.hosts[0], timestamp=int(NOW) + 500), ETCD.hosts[1])),
        "host babka is 500 s ahead",
        "NTP",
    ),
    (
        "no address",
        with_etcd(registrations=(*ETCD.registrations, Registration("lost", "a", ip_network("10.7.0.0/24")))),
        "lost registered networks and no address",
        "delete its keys",
    ),
    (
        "two hosts",
        with_etcd(registrations=(*ETCD.registrations, Registration("pita", "x", ip_network("10.9.1.0/25")))),
        "10.9.1.0/24 of host babka (web) and 10.9.1.0/25 of host pita (x) overlap",
        "docker network create",
    ),
    (
        "the underlay",
        with_etcd(registrations=(*ETCD.registrations, Registration("pita", "x", ip_network("192.168.0.0/16")))),
        "192.168.0.0/16 of host pita (x) overlaps 192.168.4.0/24, which this host's eth0 is on",
        "another subnet",
    ),
    ("no device", with_kernel(links=(ETH0,)), "flannel.1 is missing", "docker start flannel"),
    ("down", with_link(up=False), "flannel.1 is down", "ip link set flannel.1 up"),
    ("MTU", with_link(mtu=1500), "leaves room for 1450", "ip link set flannel.1 mtu 1450`; in"),
    ("MTU as set", put(with_link(mtu=1500), wanted_mtu=1500), "leaves room for 1450", "unset FLANNEL_MTU"),
    ("gone address", with_link(local=ip_address("192.168.4.7"), underlay="eth0"), "sends from 192.168.4.7", "restart"),
    ("a bridge's", with_link(master="br0"), "is a port of br0", "nomaster"),
    ("other MAC", with_link(mac="02:00:00:00:00:07"), "tells the others 02:00:00:00:00:01", "restart flannel"),
    ("other port", with_link(port=4789), "uses UDP port 4789", "restart flannel"),
    ("no lease", put(WELL, etcd=LEASELESS), "etcd has no lease of flannel's", "start flannel"),
    (
        "somebody's device",
        with_kernel(links=(*LINKS, LinkFacts("vxlan7600", "vxlan", mtu=1450, vni=7600, alias="mine"))),
        "vxlan7600 is somebody else's",
        "WEFT_VNI",
    ),
    ("forwarding", put(WELL, host=put(WELL.host, sysctls={"net/ipv4/ip_forward": "0"})), "forwarding is off", "sysctl"),
    ("neighbours", put(WELL, host=put(WELL.host, overflows=7)), "neighbour table was full 7 times", "gc_thresh3"),
    (
        "IPv6 forwarding",
        put(
            with_docker(networks=(DockerNetwork("six", (ip_network("fd00:9::/64"),), "br-6", True),)),
            host=put(WELL.host, sysctls={"net/ipv6/conf/all/forwarding": "0"}),
            etcd=put(
                ETCD, registrations=(*ETCD.registrations, Registration("babka", "six", ip_network("fd00:9::/64")))
            ),
        ),
        "IPv6 forwarding is off",
        "net.ipv6.conf.all.forwarding=1",
    ),
    (
        "stale FDB",
        with_kernel(fdb=(*KERNEL.fdb, FdbFacts("flannel.1", "02:00:00:00:00:09", PITA))),
        "02:00:00:00:00:09 → 192.168.4.99 on flannel.1 is stale",
        "bridge fdb del 02:00:00:00:00:09",
    ),
    (
        "wrong FDB",
        with_kernel(fdb=(FdbFacts("flannel.1", MAC["pita"], ip_address("192.168.4.6")),)),
        "points to the wrong host: pita is at 192.168.4.99",
        f"bridge fdb replace {MAC['pita']} dev flannel.1 dst 192.168.4.99",
    ),
    ("no FDB", with_kernel(fdb=()), f"no forwarding entry for pita's MAC {MAC['pita']}", "bridge fdb append"),
    ("no neighbour", with_kernel(neighbours=()), "no neighbour 10.5.20.0 for pita's lease", "ip neighbour replace"),
    (
        "stale neighbour",
        with_kernel(neighbours=(*KERNEL.neighbours, NeighbourFacts("flannel.1", ip_address("10.5.7.0"), MAC["pita"]))),
        "the neighbour 10.5.7.0",
        "ip neighbour del 10.5.7.0 dev flannel.1",
    ),
    (
        "wrong neighbour",
        with_kernel(neighbours=(NeighbourFacts("flannel.1", ip_address("10.5.20.0"), MAC["babka"]),)),
        "has the wrong MAC",
        f"lladdr {MAC['pita']}",
    ),
    ("no route", with_kernel(routes=KERNEL.routes[:1]), "no route to 10.9.2.0/24 (network db of host pita)", "explain"),
    ("no lease's route", with_kernel(routes=KERNEL.routes[1:]), "10.5.20.0/24 (the lease of pita)", "via 10.5.20.0"),
    (
        "a foreign route",
        with_kernel(routes=(KERNEL.routes[0], RouteFacts(DB, "eth0", ip_address("192.168.4.1"), "static", 5))),
        "goes out of eth0 by a route of somebody else's (proto static)",
        "ip route del 10.9.2.0/24 via 192.168.4.1 dev eth0 metric 5",
    ),
    (
        "a black hole",
        with_kernel(routes=(KERNEL.routes[0], RouteFacts(DB, kind="blackhole"))),
        "goes nowhere (blackhole)",
        "ip route del blackhole 10.9.2.0/24",
    ),
    (
        "firewall",
        put(WELL, firewall=FirewallFacts(tables="table ip docker-bridges\n")),
        "Docker's rules are nftables' own",
        "bridge-accept-fwmark",
    ),
    (
        "probes",
        put(WELL, firewall=FirewallFacts({"nft/4": NO_PROBES})),
        "(BFD, UDP 4784) through flannel.1 are refused",
        "-I INPUT -i flannel.1 -p udp --dport 4784 -j ACCEPT",
    ),
    ("no Docker", with_docker(error="refused"), "can't be asked: refused", "start Docker"),
    ("a label", with_docker(problems=("label x is neither",)), "label x is neither", "correct"),
    ("stopped", with_docker(container="stopped"), "container flannel has stopped", "docker start flannel"),
    ("no daemon", put(WELL, daemon=DaemonFacts("/s", "none")), "no `weft registrar` answers on /s: none", "start it"),
    ("a problem", put(WELL, daemon=put(WELL.daemon, problems=("pita is odd",))), "pita is odd", ""),
    (
        "an object",
        put(WELL, daemon=put(WELL.daemon, not_done=(NotDone("route x", "error", "EPERM"),))),
        "route x: error: EPERM",
        "",
    ),
    ("old health", put(WELL, health=put(WELL.health, last_check=int(NOW) - 3600)), "60 min old", "docker restart"),
    ("critical", put(WELL, health=put(WELL.health, status="critical")), "calls this host critical", ""),
    ("blocked", with_probes((False, None), (True, True)), "pita answers on the underlay and not through", "UDP 8472"),
    ("silent", with_probes((False, None), (False, None)), "pita (192.168.4.99) does not", "192.168.4.99:<that host>"),
    ("narrow tunnel", with_probes((True, False), (True, True)), "1450 octets to pita through flannel.1", "FLANNEL_MTU"),
    ("narrow underlay", with_probes((True, None), (True, False)), "1500 octets to pita on the underlay", "FLANNEL_MTU"),
]


@pytest.mark.parametrize(("facts", "what", "fix"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_fault_is_one_finding_with_its_fix(facts: Facts, what: str, fix: str) -> None:
    found = bad(facts)
    assert found, "nothing is said"
    assert what in found[0].what, found
    assert fix in found[0].fix, found
    assert page(facts, judge(facts)).index(what) < page(facts, judge(facts)).index("Host\n----")


NOTES: list[tuple[Facts, str]] = [
    (put(with_etcd(config="", vni=0, leases=(), registrations=()), kernel=KernelFacts()), "weft's own VXLAN is used"),
    (
        with_etcd(registrations=(put(ETCD.registrations[0], leased=False), ETCD.registrations[1])),
        "of babka are registered",
    ),
    (put(WELL, host=put(WELL.host, sysctls={"net/ipv4/conf/all/rp_filter": "1"})), "strict rp_filter"),
    (with_docker(container="absent"), "flannel may run as a service"),
    (put(WELL, daemon=put(WELL.daemon, waiting_for=("etcd",))), "waits for etcd"),
    (put(WELL, firewall=FirewallFacts({"nft/4": "no rules at all"})), "the rules can't be read"),
]


@pytest.mark.parametrize(("facts", "what"), NOTES)
def test_what_is_worth_knowing_is_no_fault(facts: Facts, what: str) -> None:
    notes = [one for one in judge(facts) if one.severity == "note"]
    assert any(what in one.what for one in notes), judge(facts)


def test_where_no_tunnel_leads_none_is_missed() -> None:
    """flannel's DirectRouting: neither neighbour nor forwarding entry, and the route goes by the host's own address."""
    direct = (RouteFacts(PEER, "eth0", PITA), KERNEL.routes[1])
    assert bad(with_kernel(routes=direct, fdb=(), neighbours=())) == []


LAVASH = ip_address("192.168.4.6")
BY_LAVASH = ip_address("10.5.30.0")
HALF = RouteFacts(ip_network("10.5.20.0/25"), "flannel.1", BY_LAVASH, "76", 8630)


@pytest.mark.parametrize("way", [HALF, put(HALF, dst=DB)], ids=["its lease", "its network"])
def test_a_host_that_another_one_takes_packets_on_for_needs_no_tunnel(way: RouteFacts) -> None:
    """The guide's HOST_GATEWAY_MAP: culvert's own tunnel is silent on babka and pita by design."""
    lease = LeaseFacts("/coreos.com/network/subnets/10.5.30.0-24", ip_network("10.5.30.0/24"), LAVASH, "vxlan", "", 1)
    relay = ProbeFacts("lavash", "tunnel", BY_LAVASH, "flannel.1", 1450, True, True)
    silent = with_probes((False, None), (True, True))
    facts = put(
        with_etcd(leases=(*ETCD.leases, lease)),
        kernel=put(KERNEL, routes=(*KERNEL.routes, way)),
        probes=(*silent.probes, relay),
    )
    assert bad(facts) == []
    assert "pita's own tunnel does not answer; its networks are reached through lavash" in page(facts, judge(facts))
    down = put(facts, probes=(*silent.probes, put(relay, small=False, full=None)))
    assert "pita" in bad(down)[0].what, "unless the relay is silent, too"
    assert "pita" in bad(put(facts, kernel=KERNEL))[0].what, "or nothing is routed there"


def test_a_neighbour_for_a_registrars_own_entry_is_not_stale() -> None:
    """`weft flanneld` takes such an entry for a lease; flannel does, too."""
    subnet = ip_network("10.5.40.0/24")
    entry = LeaseFacts("/coreos.com/network/subnets/10.5.40.0-24", subnet, PITA, "vxlan", MAC["pita"], 1, entry=True)
    known = NeighbourFacts("flannel.1", subnet.network_address, MAC["pita"])
    kernel = put(KERNEL, neighbours=(*KERNEL.neighbours, known))
    assert bad(put(with_etcd(leases=(*ETCD.leases, entry)), kernel=kernel)) == []


def test_a_diverted_entry_is_as_it_was_asked_for() -> None:
    fdb = (FdbFacts("flannel.1", MAC["pita"], ip_address("192.168.4.6")),)
    assert bad(put(with_kernel(fdb=fdb), diverted=((PITA, ip_address("192.168.4.6")),))) == []


def test_weft_s_own_vxlan_is_held_against_the_notes() -> None:
    link = LinkFacts("vxlan7600", "vxlan", mtu=1450, vni=7600, port=8472, local=BABKA, alias="weft:registrar:babka")
    hosts = (ETCD.hosts[0], put(ETCD.hosts[1], endpoints=(PITA,), mac="02:00:00:00:00:22", vni=7600))
    entries = (FdbFacts("vxlan7600", "02:00:00:00:00:22", PITA), FdbFacts("vxlan7600", "02:00:00:00:00:23", PITA))
    facts = put(
        WELL,
        etcd=put(ETCD, leases=(), config="", vni=0, hosts=hosts),
        kernel=put(KERNEL, links=(ETH0, link), fdb=entries, neighbours=(), routes=(RouteFacts(DB, "vxlan7600"),)),
    )
    assert [one.what.split(" is ")[0] for one in bad(facts)] == [
        "the forwarding entry 02:00:00:00:00:23 → 192.168.4.99 on vxlan7600"
    ]


def test_of_many_of_one_kind_some_are_shown() -> None:
    fdb = tuple(FdbFacts("flannel.1", f"02:00:00:00:01:{n:02x}", PITA) for n in range(30))
    found = bad(with_kernel(fdb=(*KERNEL.fdb, *fdb)))
    assert len(found) == 9
    assert found[-1].what == "and 22 more of the same kind"


def test_the_root_of_the_trouble_comes_before_its_effects() -> None:
    facts = put(
        with_kernel(links=(ETH0,), routes=()),
        probes=with_probes((False, None), (True, True)).probes,
        daemon=DaemonFacts("/s", "none"),
    )
    assert [one.section for one in bad(facts)] == ["links", "paths", "daemon"]


def test_the_page_of_a_host_that_is_well() -> None:
    assert page(put(WELL, remarks=(Remark("fdb", "bridge can't be run"),)), judge(WELL)) == GOLDEN


def test_the_json_holds_findings_and_facts() -> None:
    facts = with_link(mtu=1500)
    answer = msgspec.json.decode(as_json(facts, judge(facts)))
    assert answer["findings"][0]["fix"].startswith("`ip link set flannel.1 mtu 1450`")
    assert answer["facts"]["kernel"]["routes"][0]["dst"] == "10.5.20.0/24"


def test_a_long_table_is_cut() -> None:
    routes = tuple(RouteFacts(ip_network((0x0A630000 + 256 * n, 24)), "flannel.1") for n in range(90))
    text = page(with_kernel(routes=routes), ())
    assert "… and 50 more (--json)" in text


GOLDEN = """\
weft diagnose: babka (192.168.4.88), 2023-11-14 22:13:20Z: nothing is wrong

What to do next
===============
  Nothing.

Host
----
  babka, Debian GNU/Linux 12, kernel 6.1.0
  up 25 h, its clock says 2023-11-14 22:13:20Z
  net.ipv4.ip_forward = 1

Docker
------
  unix:///var/run/docker.sock: version 24.0.7
  container flannel: running
  NETWORK  SUBNETS        BRIDGE   STATE
  bridge   172.17.0.0/16  docker0  Docker's default bridge
  web      10.9.1.0/24    br-1     registered

etcd
----
  http://192.168.4.88:2379: answers in 2.0 ms
  config: {"Network":"10.5.0.0/16"}
  this host's lease: 10.5.10.0/24 (MAC 02:00:00:00:00:01)
  HOST   NETWORK  SUBNET       LEASED
  babka  web      10.9.1.0/24  yes
  pita   db       10.9.2.0/24  yes
  LEASE         AT            MAC                KIND
  10.5.10.0/24  192.168.4.88  02:00:00:00:00:01  vxlan
  10.5.20.0/24  192.168.4.99  02:00:00:00:00:02  vxlan

Links
-----
  LINK       STATE  MTU   RX/TX  OWNER  KIND
  flannel.1  up     1450  7/8    -      VNI 1 port 8472 local 192.168.4.88
  eth0       up     1500  0/0    -

Routes
------
  DESTINATION   VIA        DEVICE     PROTO  METRIC
  10.5.20.0/24  10.5.20.0  flannel.1  -      0
  10.9.2.0/24   10.5.20.0  flannel.1  76     8624

Forwarding entries and neighbours
---------------------------------
  DEVICE     WHAT                   WHERE
  flannel.1  02:00:00:00:00:02  →   192.168.4.99
  flannel.1  10.5.20.0          is  02:00:00:00:00:02

Firewall
--------
  read: nft/4; plain iptables is nft

Paths
-----
  HOST  WAY       ADDRESS       DEVICE     ANSWER
  pita  tunnel    10.5.20.0     flannel.1  yes, 1450 octets too
  pita  underlay  192.168.4.99  -          yes, 1500 octets too

Registrar
---------
  weft 0.1.0, up 83 min, ok
  PEER  ENDPOINT      WAY     BFD  FULL SIZE  NETWORKS
  pita  192.168.4.99  direct  up   yes        10.9.2.0/24

Health
------
  healthy at 2023-11-14 22:13:15Z: all is well
  t repair route: added (gone)

Not asked
---------
  fdb: bridge can't be run
"""
