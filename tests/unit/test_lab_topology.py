"""What a topology file means, and what it may not say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.errors import TopologyError
from weft.lab import schema, wiring
from weft.lab.matrix import pairs
from weft.lab.topology import Hop, Host, Topology

EXAMPLES = Path(__file__).parents[2] / "examples"


def read(text: str) -> Topology:
    return schema.read(yaml.safe_load(text), "lab")


def host(topology: Topology, name: str) -> Host:
    found = topology.host(name)
    assert found is not None
    return found


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_can_be_read_and_has_something_to_ping(path: Path) -> None:
    topology = schema.read(yaml.safe_load(path.read_text()), path.stem)
    assert topology.name == path.stem
    assert pairs(leasing(topology))


def leasing(topology: Topology) -> Topology:
    """The same lab with a lease for every host whose flanneld gets one."""
    leases = ((ip_network(f"172.16.{n}.0/24"),) for n in range(10, 100))
    return replace(topology, hosts=tuple(h.leasing(next(leases)) for h in topology.hosts))


def test_the_least_that_can_be_said_is_a_host() -> None:
    topology = read("hosts: {a: , b: }")
    assert [segment.name for segment in topology.segments] == ["lan"]
    assert [str(port.addresses[0]) for h in topology.hosts for port in h.ports] == ["172.31.0.11/24", "172.31.0.12/24"]
    assert host(topology, "a").engine == "docker"
    assert host(topology, "a").agent == ()


def test_addresses_are_numbered_around_those_that_the_file_names() -> None:
    topology = read(
        """
        segments: {lan: {subnets: [10.0.0.0/24, "fd00::/64"]}}
        routers: {r: {segments: {lan: , wan: }}}
        hosts: {a: {segments: lan}, b: {segments: {lan: 10.0.0.11}}, c: {segments: [lan, wan]}}
    """.replace('"fd00::/64"]}}', '"fd00::/64"]}, wan: {subnet: 10.9.0.0/30}}')
    )
    found = {m.name: [[str(a.ip) for a in port.addresses] for port in m.ports] for m in topology.members}
    assert found == {
        "r": [["10.0.0.1", "fd00::1"], ["10.9.0.1"]],
        "a": [["10.0.0.12", "fd00::11"]],
        "b": [["10.0.0.11"]],
        "c": [["10.0.0.13", "fd00::12"], ["10.9.0.2"]],
    }


def test_a_full_subnet_is_an_error_and_its_broadcast_address_is_never_used() -> None:
    with pytest.raises(TopologyError, match=r"c: 10\.0\.0\.0/30 has no address left"):
        read("{segments: {lan: {subnet: 10.0.0.0/30}}, hosts: {a: , b: , c: }}")


def test_containers_follow_the_gateway() -> None:
    topology = read("hosts: {a: {networks: {web: {subnets: [10.1.0.0/24, 'fd00:1::/64'], containers: 2}}}}")
    (network,) = host(topology, "a").networks
    assert network.gateways == (ip_interface("10.1.0.1/24"), ip_interface("fd00:1::1/64"))
    assert [(c.name, [str(a) for a in c.addresses]) for c in network.containers] == [
        ("web1", ["10.1.0.2/24", "fd00:1::2/64"]),
        ("web2", ["10.1.0.3/24", "fd00:1::3/64"]),
    ]


def test_networks_without_a_subnet_get_one_that_no_other_host_has() -> None:
    topology = read("hosts: {a: {networks: {web: , db: }}, b: {networks: {web: }}}")
    subnets = [str(network.subnets[0]) for h in topology.hosts for network in h.networks]
    assert subnets == ["10.1.1.0/24", "10.1.2.0/24", "10.2.1.0/24"]


def test_routes_lead_over_the_fewest_routers() -> None:
    topology = read("""
        segments: {s1: {subnet: 10.0.1.0/24}, s2: {subnet: 10.0.2.0/24}, s3: {subnet: 10.0.3.0/24}}
        routers: {r1: {segments: [s1, s2]}, r2: {segments: [s2, s3]}}
        hosts: {a: {segments: s1}, b: {segments: s2}, c: {segments: s3}}
    """)
    default = ip_network("0.0.0.0/0")
    assert topology.hops(host(topology, "a")) == (
        Hop(ip_network("10.0.2.0/24"), "eth0", ip_address("10.0.1.1")),
        Hop(ip_network("10.0.3.0/24"), "eth0", ip_address("10.0.1.1")),
        Hop(default, "eth0", ip_address("10.0.1.1")),
    )
    assert topology.hops(host(topology, "b")) == (
        Hop(ip_network("10.0.1.0/24"), "eth0", ip_address("10.0.2.1")),
        Hop(ip_network("10.0.3.0/24"), "eth0", ip_address("10.0.2.2")),
        Hop(default, "eth0", ip_address("10.0.2.1")),
    )
    assert topology.hops(topology.routers[0]) == (Hop(ip_network("10.0.3.0/24"), "eth1", ip_address("10.0.2.2")),)


def test_a_host_without_a_router_has_a_default_route_out_of_its_interface() -> None:
    topology = read("{segments: {lan: {subnets: [10.0.0.0/24, 'fd00::/64']}}, hosts: {a: }}")
    assert [str(hop.dst) for hop in topology.hops(host(topology, "a")) if hop.via is None] == ["0.0.0.0/0", "::/0"]


def test_the_agents_settings_are_the_hosts_over_the_files() -> None:
    topology = read("""
        agent: {peer_timeout: 20, announce_interval: 5, expose: labelled}
        hosts: {a: {agent: {peer_timeout: 15s, peers: [10.0.0.1, 10.0.0.2]}}, b: , c: {agent: false}}
    """)
    assert dict(host(topology, "a").agent or ()) == {
        "announce_interval": "5",
        "expose": "labelled",
        "peer_timeout": "15s",
        "peers": "10.0.0.1,10.0.0.2",
    }
    assert dict(host(topology, "b").agent or ())["peer_timeout"] == "20"
    assert host(topology, "c").agent is None


def test_no_agents_at_all_but_where_a_host_wants_one() -> None:
    topology = read("{agent: false, hosts: {a: , b: {agent: {log_level: debug}}}}")
    assert [h.agent for h in topology.hosts] == [None, (("log_level", "debug"),)]


def test_only_pairs_that_weft_is_to_connect_are_pinged() -> None:
    topology = read("""
        hosts:
          a: {networks: {web: {containers: 2}, db: , secret: {labels: {weft.expose: false}, containers: 2}}}
          b: {networks: {web: {subnets: [10.2.1.0/24, "fd00::/64"]}, inner: {internal: true}}}
    """)
    found = {(pair.source, pair.target) for pair in pairs(topology)}
    assert {pair for pair in found if pair[0].startswith("a/") and pair[1].startswith("a/")} == {
        ("a/web1", "a/web2"),
        ("a/web2", "a/web1"),
        ("a/secret1", "a/secret2"),
        ("a/secret2", "a/secret1"),
    }
    across = {pair for pair in found if pair[0][0] != pair[1][0]}
    assert across == {(x, "b/web1") for x in ("a/web1", "a/web2", "a/db1")} | {
        ("b/web1", x) for x in ("a/web1", "a/web2", "a/db1")
    }
    assert all(pair.address.version == 4 for pair in pairs(topology)), "nobody else has an IPv6 address to ping from"


def test_labelled_exposes_only_what_says_so() -> None:
    topology = read("""
        agent: {expose: labelled}
        hosts:
          a: {networks: {web: {labels: {weft.expose: true}}, db: }}
          b: {networks: {web: {labels: {weft.expose: "true"}}}}
    """)
    assert {(pair.source, pair.target) for pair in pairs(topology)} == {("a/web1", "b/web1"), ("b/web1", "a/web1")}


WRONG: dict[str, tuple[str, str]] = {
    "unknown key": ("{hosts: {a: {segmets: lan}}}", r"hosts\.a: unknown key 'segmets'; did you mean 'segments'\?"),
    "unknown top key": ("{host: {a: }}", r"the file: unknown key 'host'; did you mean 'hosts'\?"),
    "no hosts": ("{}", r"hosts: there is none"),
    "not a mapping": ("[a, b]", r"the file: \['a', 'b'\] is not a mapping"),
    "unknown segment": ("{hosts: {a: {segments: [lam]}}}", r"hosts\.a\.segments: there is no segment 'lam'.*'lan'"),
    "which segment": ("{segments: {x: , y: }, hosts: {a: }}", r"hosts\.a\.segments: which of the segments .*x, y"),
    "engine": ("{hosts: {a: {engine: podman}}}", r"hosts\.a\.engine: 'podman' is none of the choices; .*docker, none"),
    "host bits": ("{segments: {lan: {subnet: 10.0.0.1/24}}, hosts: {a: }}", r"segments\.lan\.subnet: .*10\.0\.0\.0/24"),
    "no subnet": ("{segments: {lan: {subnet: lan}}, hosts: {a: }}", r"'lan' is not a subnet, like"),
    "both keys": ("{segments: {lan: {subnet: 10.0.0.0/8, subnets: []}}, hosts: {a: }}", r"mean the same; keep one"),
    "mtu": ("{segments: {lan: {mtu: 100}}, hosts: {a: }}", r"segments\.lan\.mtu: 100 is not between 576 and 65535"),
    "mtu for IPv6": ("{segments: {lan: {subnet: 'fd00::/64', mtu: 1000}}, hosts: {a: }}", r"not between 1280"),
    "mtu text": ("{segments: {lan: {mtu: big}}, hosts: {a: }}", r"'big' is not a whole number"),
    "segments overlap": (
        "{segments: {x: {subnet: 10.0.0.0/8}, y: {subnet: 10.1.0.0/16}}, hosts: {a: {segments: x}}}",
        r"segments\.y\.subnets: 10\.1\.0\.0/16 overlaps 10\.0\.0\.0/8 of segment x",
    ),
    "address outside": (
        "{segments: {lan: {subnet: 10.0.0.0/24}}, hosts: {a: {segments: {lan: 10.1.0.1}}}}",
        r"a\.segments\.lan: 10\.1\.0\.1 is not in 10\.0\.0\.0/24",
    ),
    "address twice": (
        "{segments: {lan: {subnet: 10.0.0.0/24}},"
        " hosts: {a: {segments: {lan: 10.0.0.5}}, b: {segments: {lan: 10.0.0.5}}}}",
        r"b\.segments\.lan: 10\.0\.0\.5 is a's already",
    ),
    "name": ("{hosts: {Web_1: }}", r"hosts: 'Web_1' is not a name: .*'web-1' would do"),
    "long name": (f"{{hosts: {{{'a' * 40}: }}}}", r"at most 24"),
    "router named as a host": (
        "{segments: {x: , y: }, routers: {a: {segments: [x, y]}}, hosts: {a: {segments: x}}}",
        r"routers\.a: a host has that name",
    ),
    "router with one segment": ("{routers: {r: }, hosts: {a: }}", r"routers\.r\.segments: a router needs two"),
    "networks overlap": (
        "{hosts: {a: {networks: {x: 10.0.0.0/16, y: 10.0.1.0/24}}}}",
        r"hosts\.a\.networks\.y: 10\.0\.1\.0/24 overlaps 10\.0\.0\.0/16 of network x",
    ),
    "network over the underlay": (
        "{segments: {lan: {subnet: 10.0.0.0/24}}, hosts: {a: {networks: {x: 10.0.0.0/16}}}}",
        r"hosts\.a\.networks\.x: .*segment lan, where a is",
    ),
    "Docker and IPv6 only": (
        "{hosts: {a: {networks: {x: 'fd00::/64'}}}}",
        r"Docker gives every network an IPv4 subnet",
    ),
    "container twice": (
        "{hosts: {a: {networks: {x: {containers: [c]}, y: {containers: [c]}}}}}",
        r"hosts\.a\.networks\.y: a container 'c' is there already",
    ),
    "too many containers": ("{hosts: {a: {networks: {x: {subnet: 10.0.0.0/30, containers: 2}}}}}", r"too small"),
    "agent setting": ("{hosts: {a: {agent: {peer_timout: 3}}}}", r"hosts\.a\.agent: .*did you mean peer_timeout"),
    "agent value": ("{agent: {vni: many}, hosts: {a: }}", r"hosts\.a\.agent: WEFT_VNI = 'many'"),
    "agent with nothing to say": (
        "{engine: none, hosts: {a: }}",
        r"hosts\.a: an agent with `engine: none` needs a network to tell about",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_built_is_said_with_key_value_and_the_right_one(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(TopologyError, match=message) as caught:
        read(text)
    assert caught.value.exit_code == 2


def test_every_namespace_of_a_lab_is_known_by_its_name_and_no_other_labs_is() -> None:
    topology = read("{engine: none, hosts: {a: {networks: {web: }}}}")
    names = wiring.namespaces(topology)
    assert names == ("weft.lab", "weft.lab.a", "weft.lab.a.web1")
    assert all(wiring.belongs(name, "lab") for name in names)
    assert not any(wiring.belongs(name, "la") or wiring.belongs(name, "lab-2") for name in names)


def test_no_two_things_in_one_namespace_have_one_name() -> None:
    many: dict[str, Any] = {
        "engine": "none",
        "segments": {"x": None, "y": {"mtu": 1400}},
        "routers": {"r": {"segments": ["x", "y"]}},
        "hosts": {
            f"h{n}": {"segments": ["x", "y"], "networks": {"a-rather-long-name": None, "b": None}} for n in (1, 2)
        },
    }
    topology = schema.read(many, "lab")
    batches = [*wiring.underlay(topology)]
    for h in topology.hosts:
        batches += wiring.networks(topology.name, h)
    made: list[tuple[str, str]] = []
    for batch in batches:
        for words in (line.split() for line in batch.lines if line.startswith("link add")):
            made.append((batch.namespace, words[2]))
            if "peer" in words:
                far = words[words.index("name") + 1]
                made.append((words[words.index("netns") + 1], far))
    assert len(made) == len(set(made))
    assert all(len(name) <= wiring.INTERFACE_LENGTH for _, name in made)
    assert {where for where, _ in made} <= set(wiring.namespaces(topology)), "nothing is made outside of the lab"


def test_cables_take_the_mtu_of_their_segment_at_both_ends() -> None:
    topology = read("{segments: {lan: {mtu: 1400}}, hosts: {a: }}")
    lines = [line for batch in wiring.underlay(topology) for line in batch.lines if "veth" in line]
    assert [line.split().count("1400") for line in lines] == [2]
