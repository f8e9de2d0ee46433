"""What a topology file says of a cloud and of its route managers, and what its gateway makes of the route table."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from weft.errors import TopologyError
from weft.lab import forwarding, schema, services, state, wiring
from weft.lab.compute.engine import Compute as Engine
from weft.lab.compute.table import GivenRoute, Instance, Network, Subnetwork, Table
from weft.lab.host import LabHost
from weft.lab.topology import Compute, Hop, Host, Topology

VPC = "segments: {vpc: {subnet: 10.240.0.0/16}}"
CLOUD = "cloud: {segments: {vpc: 10.240.0.1}, daemon: none, etcd: {}, compute: {}}"


def read(text: str) -> Topology:
    return schema.read(yaml.safe_load("{engine: none, " + text + "}"), "lab")


def host(topology: Topology, name: str) -> Host:
    found = topology.host(name)
    assert found is not None
    return found


def compute(text: str) -> Compute:
    found = host(read(text), "cloud").compute
    assert found is not None
    return found


def manager(topology: Topology, name: str = "a") -> dict[str, str]:
    return dict(host(topology, name).route_manager or ())


# -- the network ------------------------------------------------------------------------------------------------------


def test_a_member_of_a_clouds_network_is_alone_with_its_gateway_there() -> None:
    topology = read(f"{VPC}, daemon: none, hosts: {{{CLOUD}, a: }}")
    cloud, a = host(topology, "cloud"), host(topology, "a")
    assert [str(address) for port in a.ports for address in port.addresses] == ["10.240.0.11/32"]
    gateway = ip_address("10.240.0.1")
    assert topology.hops(a) == (
        Hop(ip_network("10.240.0.1/32"), "eth0", None),
        Hop(ip_network("10.240.0.0/16"), "eth0", gateway),
        Hop(ip_network("0.0.0.0/0"), "eth0", gateway),
    )
    assert [str(address) for port in cloud.ports for address in port.addresses] == ["10.240.0.1/16"]
    assert topology.hops(cloud) == (), "who has no route there has none"
    assert (cloud.forwards, a.forwards) == (True, False)
    told = {batch.namespace: dict(batch.sysctls) for batch in wiring.underlay(topology) if batch.sysctls}
    assert told["weft.lab.cloud"]["net/ipv4/conf/all/send_redirects"] == "0"
    assert "net/ipv4/conf/all/send_redirects" not in told["weft.lab.a"]


def test_ipv6_and_other_segments_are_as_they_were() -> None:
    topology = read("""
        segments: {vpc: {subnets: [10.240.0.0/16, "fd00:240::/64"]}, lan: {subnet: 10.9.0.0/24}}, daemon: none,
        hosts: {cloud: {segments: {vpc: [10.240.0.1, "fd00:240::1"]}, compute: {}},
                a: {segments: [vpc, lan]}, b: {segments: [lan]}}
    """)
    a = host(topology, "a")
    assert [[str(address) for address in port.addresses] for port in a.ports] == [
        ["10.240.0.11/32", "fd00:240::11/128"],
        ["10.9.0.11/24"],
    ]
    to = {str(hop.dst): str(hop.via) for hop in topology.hops(a)}
    assert (to["::/0"], to["fd00:240::/64"]) == ("fd00:240::1", "fd00:240::1")
    assert "10.9.0.0/24" not in to
    assert topology.hops(host(topology, "b"))[0].via is None
    (network,) = host(topology, "cloud").compute.table.networks  # type: ignore[union-attr]
    assert network.subnetworks == (
        Subnetwork(name="default", region="us-central1", range="10.240.0.0/16", range6="fd00:240::/64"),
    )


# -- the cloud --------------------------------------------------------------------------------------------------------


def test_the_hosts_of_its_segment_are_its_instances() -> None:
    found = compute(f"{VPC}, daemon: none, hosts: {{a: , {CLOUD}, b: }}")
    assert (found.host, found.endpoint, found.authority) == ("cloud", "http://10.240.0.1:8080", "10.240.0.1:8080")
    assert found.table == Table(
        networks=(Network(name="default", subnetworks=(Subnetwork(name="default", range="10.240.0.0/16"),)),),
        instances=(
            Instance(name="a", addresses=(ip_address("10.240.0.11"),)),
            Instance(name="b", addresses=(ip_address("10.240.0.12"),)),
        ),
    )


def test_what_can_be_said_of_it() -> None:
    said = """compute: {project: p-1, network: blue, zone: europe-west1-b, quota: 9, delay: 0,
        instances: {a: {zone: europe-west1-c, can_ip_forward: false}},
        routes: [{name: office, dest_range: 192.168.0.0/16, next_hop_ip: 10.240.0.11}]}"""
    found = compute(f"{VPC}, daemon: none, hosts: {{{CLOUD.replace('compute: {}', said)}, a: , b: }}")
    table = found.table
    assert (found.network, found.delay, table.project, table.quotas) == ("blue", 0.0, "p-1", {"ROUTES": 9.0})
    assert [(i.network, i.zone, i.can_ip_forward) for i in table.instances] == [
        ("blue", "europe-west1-c", False),
        ("blue", "europe-west1-b", True),
    ]
    assert table.networks[0].subnetworks[0].region == "europe-west1"
    assert table.routes == (
        GivenRoute(name="office", dest_range="192.168.0.0/16", network="blue", next_hop_ip="10.240.0.11"),
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("compute: {qota: 1}", "hosts.cloud.compute: unknown key 'qota'; did you mean 'quota'?"),
        ("compute: {quota: 0}", "hosts.cloud.compute.quota: 0 is not between 1 and 100000"),
        ("compute: {delay: -1}", "hosts.cloud.compute.delay: -1 is no number of seconds from 0 to 600"),
        ("compute: {instances: {c: {}}}", "hosts.cloud.compute.instances: unknown key 'c'"),
        ("compute: {instances: {a: {can_ip_forward: 1}}}", "compute.instances.a.can_ip_forward: 1 is neither true"),
        ("compute: {routes: [{name: x}]}", "hosts.cloud.compute.routes: Object missing required field `dest_range`"),
        ("compute: {routes: [{to: x}]}", "hosts.cloud.compute.routes: unknown key 'to'"),
        ("compute: {}}, d: {compute: {}", "hosts.d.compute: cloud is the lab's cloud already, and there is one"),
    ],
)
def test_what_can_not_be_said_of_it(said: str, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        read(f"{VPC}, daemon: none, hosts: {{{CLOUD.replace('compute: {}', said)}, a: }}")
    assert message in str(caught.value)


def test_its_segment_has_an_ipv4_subnet() -> None:
    with pytest.raises(TopologyError, match=r"segment lan is a cloud's: one IPv4 subnet, and one of IPv6 or none"):
        read("segments: {lan: {subnet: 'fd00::/64'}}, daemon: none, hosts: {a: {compute: {}}}")


# -- managers ---------------------------------------------------------------------------------------------------------


def test_a_manager_asks_the_labs_own_etcd_and_cloud() -> None:
    topology = read(f"{VPC}, daemon: [flanneld, route-manager], hosts: {{{CLOUD}, a: }}")
    assert host(topology, "a").services == ("flanneld", "route-manager")
    assert host(topology, "cloud").services == ("etcd", "compute")
    assert manager(topology) == {
        "GCE_METADATA_HOST": "10.240.0.1:8080",
        "GCE_METADATA_IP": "10.240.0.1:8080",
        "GCE_METADATA_ROOT": "10.240.0.1:8080",
        "ROUTE_MANAGER_ETCD_ENDPOINT": "http://10.240.0.1:2379",
        "ROUTE_MANAGER_GOOGLE_ENDPOINT": "http://10.240.0.1:8080",
    }


def test_a_hosts_flags_come_over_those_of_the_file_and_others_are_asked_if_it_says_so() -> None:
    topology = read("""
        daemon: route-manager, route-manager: {grace: 5, aggregate: true, etcd-endpoint: "http://192.0.2.1:2379"},
        hosts: {a: {route-manager: {grace: 9, ROUTE_MANAGER_ETCD_PASSWORD: secret, AWS_REGION: eu-west-1,
                                    backend: aws, aws-route-table: [rtb-1, rtb-2]}}}
    """)
    assert manager(topology) == {
        "AWS_REGION": "eu-west-1",
        "ROUTE_MANAGER_AGGREGATE": "true",
        "ROUTE_MANAGER_AWS_ROUTE_TABLE": "rtb-1,rtb-2",
        "ROUTE_MANAGER_BACKEND": "aws",
        "ROUTE_MANAGER_ETCD_ENDPOINT": "http://192.0.2.1:2379",
        "ROUTE_MANAGER_ETCD_PASSWORD": "secret",
        "ROUTE_MANAGER_GRACE": "9",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: {a: {route-manager: {}}}", "hosts.a.route-manager: it needs an etcd: `etcd: {}` on a host"),
        ("hosts: {a: {etcd: {}, route-manager: {gracce: 1}}}", "unknown key 'gracce'; did you mean 'grace'?"),
        ("hosts: {a: {etcd: {}, route-manager: {socket: /x}}}", "unknown key 'socket'"),
        ("hosts: {a: {etcd: {}, route-manager: {grace: soon}}}", "hosts.a.route-manager: ROUTE_MANAGER_GRACE = 'soon'"),
        ("hosts: {a: {daemon: [agent, route-manager]}}", "name one daemon, or these two"),
        ("hosts: {a: {route-manager: {}, registrar: {}}}", "options for a registrar and for a route-manager"),
    ],
)
def test_what_can_not_be_said_of_a_manager(text: str, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        read(text)
    assert message in str(caught.value)


def test_a_persons_command_finds_the_managers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path)
    for mine in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "ROUTE_MANAGER_BACKEND", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(mine, "mine")
    topology = read(f"{VPC}, daemon: [flanneld, route-manager], hosts: {{{CLOUD}, a: }}")
    there = LabHost("lab", host(topology, "a"))
    told = services.daemon_environment(there)
    assert told["ROUTE_MANAGER_ETCD_ENDPOINT"] == "http://10.240.0.1:2379"
    assert told["ROUTE_MANAGER_SOCKET"] == str(tmp_path / "lab" / "a" / "route-manager" / "route-manager.sock")
    assert there.environment["WEFT_SOCKET"] == told["ROUTE_MANAGER_SOCKET"]
    assert "mine" not in (there.environment | told).values(), "an account of this machine's is none of the lab's"


# -- the gateway ------------------------------------------------------------------------------------------------------


TABLE = Table(
    networks=(
        Network(name="default", subnetworks=(Subnetwork(name="default", range="10.128.0.0/20", range6="fd00::/64"),)),
        Network(name="default-foo", subnetworks=(Subnetwork(name="foo", range="10.200.0.0/20"),)),
    ),
    instances=(
        Instance(name="a", addresses=(ip_address("10.128.0.2"), ip_address("fd00::2"))),
        Instance(name="b", addresses=(ip_address("10.128.0.3"),)),
    ),
    routes=(
        GivenRoute(name="one", dest_range="172.16.1.0/24", next_hop_ip="10.128.0.2"),
        GivenRoute(name="worse", dest_range="172.16.1.0/24", next_hop_ip="10.128.0.3", priority=2000),
        GivenRoute(name="twice", dest_range="172.16.1.0/24", next_hop_ip="10.128.0.3"),
        GivenRoute(name="instance", dest_range="172.16.2.0/24", next_hop_instance="us-central1-a/b", priority=0),
        GivenRoute(name="six", dest_range="fd00:1::/64", next_hop_instance="us-central1-a/a"),
        GivenRoute(name="none", dest_range="fd00:2::/64", next_hop_instance="us-central1-a/b"),
        GivenRoute(name="unknown", dest_range="172.16.3.0/24", next_hop_instance="us-central1-a/c"),
        GivenRoute(name="elsewhere", dest_range="172.16.4.0/24", next_hop_ip="10.200.0.2", network="default-foo"),
    ),
)


def test_the_gateway_forwards_by_the_routes_of_its_network() -> None:
    found = forwarding.ways(TABLE, Engine(TABLE).routes().values(), "default")
    assert {(str(dst), metric): tuple(map(str, hops)) for (dst, metric), hops in found.items()} == {
        ("172.16.1.0/24", 1001): ("10.128.0.2", "10.128.0.3"),
        ("172.16.1.0/24", 2001): ("10.128.0.3",),
        ("172.16.2.0/24", 1): ("10.128.0.3",),
        ("fd00:1::/64", 1001): ("fd00::2",),
    }


def test_what_is_right_stays_and_what_is_new_comes_before_anything_goes() -> None:
    one, two, three = (ip_network(f"172.16.{n}.0/24") for n in (1, 2, 3))
    a, b = ip_address("10.128.0.2"), ip_address("10.128.0.3")
    there = {(one, 1001): (a,), (two, 1001): (a,), (three, 1001): (a,)}
    wanted = {(one, 1001): (a,), (two, 1001): (a, b), (two, 501): (b,)}
    assert forwarding.changes(wanted, there) == [
        "route replace 172.16.2.0/24 proto 79 metric 1001 nexthop via 10.128.0.2 nexthop via 10.128.0.3",
        "route replace 172.16.2.0/24 proto 79 metric 501 via 10.128.0.3",
        "route del 172.16.3.0/24 proto 79 metric 1001",
    ]
    assert forwarding.changes(there, there) == []


def test_without_a_cloud_a_topology_is_what_it_was() -> None:
    topology = read("daemon: none, hosts: {a: , b: {etcd: {}}}")
    assert all(port.gateways == () for member in topology.hosts for port in member.ports)
    assert replace(topology) == topology
