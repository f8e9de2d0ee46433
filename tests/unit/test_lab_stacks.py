"""What a topology file says of docker-router: `discovery`, `router`, `routing`, `bind`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.errors import TopologyError
from weft.lab import docker_router, schema, services, state
from weft.lab.host import LabHost
from weft.lab.matrix import pairs
from weft.lab.topology import DockerRouter, Host, ServiceName, Topology


def read(text: str) -> Topology:
    return schema.read(yaml.safe_load("{engine: none, " + text + "}"), "lab")


def host(topology: Topology, name: str) -> Host:
    found = topology.host(name)
    assert found is not None
    return found


def stacks(topology: Topology, name: str) -> DockerRouter:
    found = host(topology, name).stacks
    assert found is not None
    return found


def discovery(topology: Topology, name: str) -> dict[str, str]:
    return dict(stacks(topology, name).discovery or ())


def router(topology: Topology, name: str) -> dict[str, str]:
    return dict(stacks(topology, name).router or ())


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("daemon: [discovery, router], hosts: {a: }", ("discovery", "router")),
        ("daemon: [router, discovery], hosts: {a: }", ("discovery", "router")),
        ("daemon: discovery, hosts: {a: }", ("discovery",)),
        ("daemon: router, hosts: {a: }", ("router",)),
        ("hosts: {a: {discovery: {}, router: {}}}", ("discovery", "router")),
        ("daemon: [discovery, router], hosts: {a: {discovery: {VNI: 7}}}", ("discovery", "router")),
        ("hosts: {a: {router: {}}}", ("router",)),
        ("daemon: [discovery, router], hosts: {a: {daemon: none, bind: {domain: x.org}}}", ("bind",)),
    ],
)
def test_both_run_on_a_host_or_one_of_them(text: str, runs: tuple[ServiceName, ...]) -> None:
    assert host(read(text), "a").services == runs


def test_what_the_file_leaves_open_follows_from_the_lab() -> None:
    topology = read("""
        daemon: [discovery, router], hosts: {
          a: {networks: {web: 172.20.0.0/16, six: {subnets: [172.30.0.0/24, "fd00:1::/64"]}}},
          b: {networks: {own: {labels: {weft.expose: false}}}, router: {VXLAN_SUBNET: ["10.99.0.0/30", "fd99::/64"]}}}
    """)
    common = {"STACK_ID": "a", "VNI": "1000", "LOCAL_VXLAN_IP": "192.168.100.1"}
    named = {"NETWORKS": "web=172.20.0.0/16,six=172.30.0.0/24,six=fd00:1::/64"}
    assert discovery(topology, "a") == common | named
    assert router(topology, "a") == common | named | {"VXLAN_SUBNET": "192.168.100.0/24"}
    assert discovery(topology, "b")["LOCAL_VXLAN_IP"] == "10.99.0.2,fd99::2"
    assert discovery(topology, "b")["NETWORKS"] == "", "one that is private is told to nobody"


def test_what_both_must_know_is_said_once() -> None:
    topology = read("""
        daemon: [discovery, router], discovery: {VNI: 5, LOG_LEVEL: debug, DISCOVERY_PORT: 4791},
        hosts: {a: {discovery: {STACK_ID: shop, HOST_IP: [10.0.0.1, fd00::1]}, router: {VXLAN_FDB: flood}},
                b: {router: {VNI: 6, PEER_ID: shop-2}}}
    """)
    assert {name: router(topology, "a").get(name) for name in ("VNI", "STACK_ID", "HOST_IP", "LOG_LEVEL")} == {
        "VNI": "5",
        "STACK_ID": "shop",
        "HOST_IP": "10.0.0.1,fd00::1",
        "LOG_LEVEL": None,
    }
    assert "VXLAN_FDB" not in discovery(topology, "a")
    assert (discovery(topology, "b")["VNI"], router(topology, "b")["VNI"]) == ("5", "6"), "each keeps its own word"
    assert discovery(topology, "b")["PEER_ID"] == "shop-2"


DOCUMENTED = """{version: 1, stack_id: stack-a, vni: 1000,
    vxlan_subnet: 192.168.100.0/24, local_vxlan_ip: 192.168.100.9,
    networks: [{name: internal, subnet: 172.20.0.0/16}],
    remote_stacks: [{stack_id: stack-b, vxlan_gateway: 192.168.100.2, networks: [{subnet: 172.21.0.0/16}]}]}"""


def test_what_routing_yaml_says_is_not_said_otherwise() -> None:
    topology = read(f"daemon: [discovery, router], hosts: {{a: {{networks: {{web: , db: }}, routing: {DOCUMENTED}}}}}")
    assert discovery(topology, "a") == {"STACK_ID": "stack-a"} == router(topology, "a")
    assert yaml.safe_load(stacks(topology, "a").routing) == yaml.safe_load(DOCUMENTED)
    found = stacks(topology, "a").stacks
    assert [(vni, [str(subnet) for subnet in subnets]) for vni, subnets in found] == [(1000, ["172.20.0.0/16"])]


def test_several_stacks_of_a_host_and_whom_they_reach() -> None:
    topology = read("""
        daemon: [discovery, router], hosts: {
          a: {networks: {shop: 172.20.0.0/24, lab: 172.30.0.0/24, own: 172.40.0.0/24}, routing: {version: 1, stacks: [
                {stack_id: shop-a, vni: 1000, local_vxlan_ip: 192.168.100.1, vxlan_subnet: 192.168.100.0/24,
                 networks: [{name: shop, subnet: 172.20.0.0/24}]},
                {stack_id: lab-a, vni: 2000, local_vxlan_ip: 192.168.200.1, vxlan_subnet: 192.168.200.0/24,
                 networks: [{name: lab, subnet: 172.30.0.0/24}]}]}},
          b: {networks: {shop: 172.21.0.0/24}},
          c: {networks: {lab: 172.32.0.0/24}, discovery: {VNI: 2000}},
          d: {networks: {free: 172.33.0.0/24}, daemon: none}}
    """)
    assert [vni for vni, _ in stacks(topology, "a").stacks] == [1000, 2000]
    assert {"STACK_ID", "VNI", "NETWORKS"} & discovery(topology, "a").keys() == set()
    found = {(pair.source, pair.target) for pair in pairs(topology) if pair.source.startswith("a/")}
    assert found >= {("a/shop1", "b/shop1"), ("a/lab1", "c/lab1")}
    assert not found & {("a/shop1", "c/lab1"), ("a/lab1", "b/shop1"), ("a/own1", "b/shop1")}


def test_discovery_asks_the_labs_own_servers_unless_it_is_told_of_others() -> None:
    topology = read("""
        daemon: [discovery, router], hosts: {
          store: {daemon: none, etcd: {}}, ns: {daemon: none, bind: {domain: Example.com.}},
          a: {discovery: {DISCOVERY_MODE: etcd}}, b: {discovery: {DISCOVERY_MODE: gossip}},
          c: {discovery: {DISCOVERY_MODE: dns}}, d: {discovery: {DISCOVERY_MODE: dns, DNS_KEY: "k:c2VjcmV0"}},
          e: {discovery: {DISCOVERY_MODE: dns, DNS_SERVER: 192.0.2.1, DNS_DOMAIN: x.org}},
          f: {discovery: {DISCOVERY_MODE: gossip, GOSSIP_SEEDS: 192.0.2.1}}, g: {daemon: router}}
    """)
    assert discovery(topology, "a")["ETCD_ENDPOINTS"] == "http://172.31.0.11:2379"
    assert discovery(topology, "b")["GOSSIP_SEEDS"] == "172.31.0.14,172.31.0.18"
    assert (discovery(topology, "c")["DNS_DOMAIN"], discovery(topology, "c")["DNS_SERVER"]) == (
        "example.com",
        "172.31.0.12",
    )
    assert [stacks(topology, name).keyed for name in "cde"] == ["ns", "", ""]
    assert discovery(topology, "e")["DNS_SERVER"] == "192.0.2.1"
    assert discovery(topology, "f")["GOSSIP_SEEDS"] == "192.0.2.1"
    assert not router(topology, "a").keys() & {"ETCD_ENDPOINTS", "DISCOVERY_MODE"}


def test_the_daemons_share_a_folder_and_the_key_stays_off_everything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path)
    topology = read("""
        daemon: [discovery, router], hosts: {ns: {daemon: none, bind: {domain: example.com}},
          a: {discovery: {DISCOVERY_MODE: dns}}}
    """)
    here = LabHost("lab", host(topology, "a"))
    (tmp_path / "lab" / "ns").mkdir(parents=True)
    (tmp_path / "lab" / "ns" / "bind.key").write_text("hmac-sha256:weft-lab:c2VjcmV0\n")
    told, routed = (docker_router.environment(here, kind) for kind in docker_router.PAIR)
    assert told["DNS_KEY"] == "hmac-sha256:weft-lab:c2VjcmV0"
    assert "DNS_KEY" not in routed
    assert "DNS_KEY" not in services.daemon_environment(here)
    assert told["DATA_DIR"] == routed["DATA_DIR"] == str(tmp_path / "lab" / "a" / "docker-router")
    assert here.service_environment["WEFT_SOCKET"] == routed["WEFT_SOCKET"]
    assert "WEFT_SOCKET" not in told


def test_discovery_may_do_nothing_and_the_router_net_admin_alone() -> None:
    topology = read("daemon: [discovery, router], hosts: {a: , b: }")
    a, b = (LabHost("lab", host(topology, name)) for name in "ab")
    nothing = docker_router.confined(a, "discovery", ["true"])
    assert {"--bounding-set=-all", "--clear-groups", "--no-new-privs"} <= set(nothing)
    assert "--bounding-set=-all,+net_admin" in docker_router.confined(a, "router", ["true"])
    users = {docker_router.user(one, kind) for one in (a, b) for kind in docker_router.PAIR}
    assert len(users) == 4
    assert 0 not in users


WRONG = {
    "routing without a daemon": ("hosts: {a: {agent: false, routing: {version: 1}}}", r"^hosts\.a\.routing: it is for"),
    "not a mapping": ("daemon: router, hosts: {a: {routing: yes}}", r"a\.routing: True is not a mapping"),
    "routing": (
        "daemon: router, hosts: {a: {routing: {version: 1, vnis: 7}}}",
        r"a\.routing: routing\.yaml: .*vnis",
    ),
    "variable": ("hosts: {a: {discovery: {DISCOVERY_MODES: dns}}}", r"a\.discovery: unknown key .*'DISCOVERY_MODE'"),
    "the lab's own": ("hosts: {a: {router: {DATA_DIR: /x}}}", r"a\.router: unknown key 'DATA_DIR'"),
    "value": ("hosts: {a: {router: {METRIC: much}}}", r"a\.router: METRIC = 'much'"),
    "mode": ("hosts: {a: {discovery: {DISCOVERY_MODE: mdns}}}", r"a\.discovery: DISCOVERY_MODE = 'mdns'"),
    "no etcd": ("hosts: {a: {discovery: {DISCOVERY_MODE: etcd}}}", r"a\.discovery: it needs an etcd"),
    "no bind": ("hosts: {a: {discovery: {DISCOVERY_MODE: dns}}}", r"a\.discovery: it needs a name server"),
    "domain": ("hosts: {a: {agent: false, bind: {domain: ex_ample!}}}", r"a\.bind\.domain: 'ex_ample!' is no domain"),
    "no domain": ("hosts: {a: {agent: false, bind: }}", r"a\.bind\.domain: '' is no domain, like example\.com"),
    "two": ("hosts: {a: {bind: {domain: a.b}}, b: {bind: {domain: a.c}}}", r"b\.bind: a has a name server already"),
    "with an agent": ("daemon: [agent, router], hosts: {a: }", r"these two: flanneld, registrar, or discovery, router"),
    "options for both": ("hosts: {a: {agent: {}, router: {}}}", r"a\.daemon: options for an agent and for a router"),
    "small": (
        "daemon: router, hosts: {a: , b: , c: {router: {VXLAN_SUBNET: 10.0.0.0/30}}}",
        r"c\.router\.VXLAN_SUBNET: 10\.0\.0\.0/30 has no host number 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_built_is_said_with_key_value_and_the_right_one(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(TopologyError, match=message):
        read(text)


def test_where_there_is_none_is_said() -> None:
    topology = read("daemon: discovery, hosts: {a: , b: {daemon: none}}")
    here = LabHost("lab", host(topology, "a"))
    assert services._instead(here, "router") == "`daemon: discovery` in its lab's file: there is no router"
    assert services._instead(here, "bind") == "no `bind` in its lab's file: there is none"
    either: Any = replace(here, host=host(topology, "b"))
    assert services._instead(either, "discovery") == "`daemon: none` in its lab's file: there is no discovery"
