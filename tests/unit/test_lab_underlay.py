"""What a topology file says of tunnels, routes, firewalls and registrars."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
import yaml

from weft.errors import LabError, TopologyError
from weft.lab import schema, services, tunnels, wiring
from weft.lab.host import LabHost
from weft.lab.matrix import pairs
from weft.lab.topology import Hop, Host, Topology, Tunnel, TunnelPeer

TUNNEL = """
segments: {net: {subnet: 198.51.100.0/24}, home: {subnet: 192.168.4.0/24}}
tunnels: {wg0: {subnet: 172.24.90.0/24, over: net, listen: a, keepalive: 25, members: {a: 172.24.90.1, b: %s}}}
hosts: {a: {segments: net}, b: {segments: [net, home]}, c: {segments: {home: 192.168.4.88}}}
daemon: none
"""
BEHIND = "{address: 172.24.90.6, behind: 192.168.4.0/24}"


def read(text: str) -> Topology:
    return schema.read(yaml.safe_load(text), "lab")


def host(topology: Topology, name: str) -> Host:
    found = topology.host(name)
    assert found is not None
    return found


def test_both_ends_of_a_tunnel() -> None:
    topology = read(TUNNEL % BEHIND)
    (a,), (b,) = (host(topology, name).tunnels for name in "ab")
    assert a == Tunnel(
        "wg0",
        (ip_interface("172.24.90.1/24"),),
        1420,
        51820,
        (TunnelPeer("b", (ip_network("172.24.90.6/32"), ip_network("192.168.4.0/24")), None, 25),),
    )
    assert b.peers == (TunnelPeer("a", (ip_network("172.24.90.1/32"),), (ip_address("198.51.100.11"), 51820), 25),)
    assert a.hops == (Hop(ip_network("192.168.4.0/24"), "wg0", None),)
    assert b.hops == ()
    assert host(topology, "c").tunnels == ()


def test_a_tunnels_mtu_is_what_the_segment_leaves_and_each_member_is_everybodys_peer() -> None:
    topology = read("""
        segments: {net: {mtu: 9000}}
        tunnels: {mesh: {subnet: 'fd00::/64', port: 5000, members: {a: 'fd00::1', b: 'fd00::2', c: 'fd00::3'}}}
        hosts: {a: , b: , c: }
        daemon: none
    """)
    ends = [tunnel for one in topology.hosts for tunnel in one.tunnels]
    assert [end.mtu for end in ends] == [8920] * 3
    assert [(peer.host, peer.endpoint) for peer in ends[0].peers] == [
        ("b", (ip_address("172.31.0.12"), 5000)),
        ("c", (ip_address("172.31.0.13"), 5000)),
    ]


def test_a_hosts_own_route_takes_the_place_of_the_one_that_follows_from_the_segments() -> None:
    topology = read("""
        hosts: {a: {routes: [{to: default, via: 172.31.0.12}, {to: 10.0.0.0/8, via: 172.31.0.12}]}, b: {forward: true}}
        daemon: none
    """)
    via = ip_address("172.31.0.12")
    assert topology.hops(host(topology, "a")) == (
        Hop(ip_network("0.0.0.0/0"), "eth0", via),
        Hop(ip_network("10.0.0.0/8"), "eth0", via),
    )
    settings = {batch.namespace: dict(batch.sysctls).get("net/ipv4/ip_forward") for batch in wiring.underlay(topology)}
    assert (settings["weft.lab.a"], settings["weft.lab.b"]) == ("0", "1")


def test_on_a_large_segment_everybody_is_told_everybodys_ethernet_address() -> None:
    """The kernel's table of learned ones is one for all namespaces, and holds 1024."""
    hosts = [f"h{n}: {{}}" for n in range(17)]
    few, many = (read(f"{{daemon: none, hosts: {{{', '.join(names)}}}}}") for names in (hosts[1:], hosts))
    assert not any("neighbour" in line for batch in wiring.underlay(few) for line in batch.lines)
    members = [batch.lines for batch in wiring.underlay(many)[1:-1]]
    macs = {line.split()[4] for lines in members for line in lines if line.startswith("link add")}
    assert len(macs) == 17
    for lines in members:
        (own,) = (line.split()[4] for line in lines if line.startswith("link add"))
        assert {line.split()[4] for line in lines if line.startswith("neighbour")} == macs - {own}


def test_a_firewalls_commands_are_words() -> None:
    topology = read("{hosts: {a: {firewall: iptables -A FORWARD -m comment --comment 'no way' -j DROP}}, daemon: none}")
    assert host(topology, "a").firewall == (
        ("iptables", "-A", "FORWARD", "-m", "comment", "--comment", "no way", "-j", "DROP"),
    )


# -- the registrar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("daemon: registrar, hosts: {a: {etcd: }}", ("etcd", "registrar")),
        ("daemon: [flanneld, registrar], hosts: {a: {etcd: }}", ("etcd", "flanneld", "registrar")),
        (
            "daemon: [flanneld, registrar], hosts: {a: {etcd: , registrar: {DEBUG: true}}}",
            ("etcd", "flanneld", "registrar"),
        ),
        ("hosts: {a: {etcd: , flanneld: {}, registrar: {}}}", ("etcd", "flanneld", "registrar")),
        ("daemon: flanneld, hosts: {a: {etcd: , registrar: {}}}", ("etcd", "registrar")),
        ("daemon: [flanneld, registrar], hosts: {a: {etcd: , daemon: none}}", ("etcd",)),
        ("registrar: {DEBUG: true}, hosts: {a: {etcd: , daemon: registrar}}", ("etcd", "registrar")),
    ],
)
def test_a_registrar_runs_alone_or_beside_flanneld(text: str, services: tuple[str, ...]) -> None:
    assert host(read("{engine: none, " + text + "}"), "a").services == services


def test_a_registrars_variables_are_the_hosts_over_the_files_and_the_labs_own_etcd_is_asked() -> None:
    topology = read("""
        daemon: registrar
        registrar: {INTERVAL: 30, DEBUG: true}
        hosts:
          e: {daemon: none, engine: none, etcd: {}}
          a: {registrar: {INTERVAL: 90, HOST_GATEWAY_MAP: [172.24.90.1:172.24.90.6, 10.8.0.0/24:192.168.1.1]}}
          b: {engine: none, networks: {web: 10.2.1.0/24, own: {labels: {weft.expose: false}}}}
          c: {engine: none, registrar: {ETCD_ENDPOINT: 'http://192.0.2.1:2379', HOST_NAME: other}}
    """)
    found = {name: services.registrar_environment(LabHost("lab", host(topology, name))) for name in "abc"}
    common = {"ETCD_ENDPOINTS": "http://172.31.0.11:2379", "DEBUG": "true"}
    assert found["a"] == common | {
        "HOST_NAME": "a",
        "ENGINE": "docker",
        "INTERVAL": "90",
        "HOST_GATEWAY_MAP": "172.24.90.1:172.24.90.6,10.8.0.0/24:192.168.1.1",
    }
    assert found["b"] == common | {
        "HOST_NAME": "b",
        "ENGINE": "static",
        "NETWORKS": "web=10.2.1.0/24",
        "INTERVAL": "30",
    }
    assert found["c"]["HOST_NAME"] == "other"
    assert "ETCD_ENDPOINTS" not in found["c"]
    environment = LabHost("lab", host(topology, "a")).service_environment
    assert environment["WEFT_SOCKET"] == "/run/weft-lab/lab/a/registrar.sock"


def test_all_networks_of_hosts_with_a_registrar_are_to_reach_each_other_but_not_those_of_two_groups() -> None:
    topology = read("""
        daemon: registrar
        engine: none
        hosts:
          a: {etcd: , networks: {web: {labels: {weft.group: shop}}, db: }}
          b: {networks: {web: {labels: {weft.group: shop}}, lab: {labels: {weft.group: lab}}}}
    """)
    across = {(p.source, p.target) for p in pairs(topology) if p.source.startswith("a/") and p.target.startswith("b/")}
    assert across == {("a/web1", "b/web1"), ("a/db1", "b/web1"), ("a/db1", "b/lab1")}


# -- what can't be built ----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str]] = {
    "tunnel's key": ("hosts: {a: }, tunnels: {wg0: {member: {}}}", r"tunnels\.wg0: unknown key 'member'; .*'members'"),
    "no members": ("hosts: {a: }, tunnels: {wg0: {subnet: 10.9.0.0/24}}", r"wg0\.members: a tunnel needs two hosts"),
    "unknown member": (
        "hosts: {a: , bab: }, tunnels: {wg0: {members: {a: , bob: }}}",
        r"wg0\.members: there is no host 'bob'; did you mean 'bab'",
    ),
    "address": (
        "hosts: {a: , b: }, tunnels: {wg0: {subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.8.0.1}}}",
        r"wg0\.members\.b\.address: 10\.8\.0\.1 is not in 10\.9\.0\.0/24",
    ),
    "one address twice": (
        "hosts: {a: , b: }, tunnels: {wg0: {subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.9.0.1}}}",
        r"wg0\.members\.b: 10\.9\.0\.1/32 overlaps 10\.9\.0\.1/32 of a",
    ),
    "a segment's name": (
        "hosts: {a: , b: }, tunnels: {lan: {subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"tunnels\.lan: a segment has that name",
    ),
    "an interface's name": (
        "hosts: {a: , b: }, tunnels: {eth0: {subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"tunnels\.eth0: a has an interface eth0 already",
    ),
    "overlap": (
        "hosts: {a: , b: }, tunnels: {wg0: {subnet: 172.31.0.0/24, members: {a: 172.31.0.1, b: 172.31.0.2}}}",
        r"wg0\.subnet: 172\.31\.0\.0/24 overlaps 172\.31\.0\.0/24 of segment lan on a",
    ),
    "who listens": (
        "hosts: {a: , b: }, tunnels: {wg0: {subnet: 10.9.0.0/24, listen: c, members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"wg0\.listen: 'c' is none of the choices",
    ),
    "nobody listens": (
        "hosts: {a: , b: }, tunnels: {wg0: {subnet: 10.9.0.0/24, listen: [], members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"wg0\.listen: nobody could call anybody",
    ),
    "over what": (
        "segments: {x: , y: }, hosts: {a: {segments: [x, y]}, b: {segments: [x, y]}},"
        " tunnels: {wg0: {subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"wg0\.over: say over which segment it runs; its members share x, y",
    ),
    "over another": (
        "segments: {x: , y: }, hosts: {a: {segments: x}, b: {segments: [x, y]}},"
        " tunnels: {wg0: {over: y, subnet: 10.9.0.0/24, members: {a: 10.9.0.1, b: 10.9.0.2}}}",
        r"wg0\.over: host a is not on segment y",
    ),
    "via": (
        "hosts: {a: {routes: {to: default, via: 10.0.0.1}}}",
        r"a\.routes\.via: 10\.0\.0\.1 is on none of .*172\.31",
    ),
    "no via": ("hosts: {a: {routes: {to: default}}}", r"a\.routes\.via: None is not an address"),
    "to": ("hosts: {a: {routes: {to: 10.0.0.1/8, via: 172.31.0.1}}}", r"a\.routes\.to: .*10\.0\.0\.0/8 would be"),
    "family": ("hosts: {a: {routes: {to: 'fd00::/8', via: 172.31.0.1}}}", r"one is IPv4, the other IPv6"),
    "twice": (
        "hosts: {a: {routes: [{to: default, via: 172.31.0.1}, {to: default, via: 172.31.0.2}]}}",
        r"a\.routes: there is a route to 0\.0\.0\.0/0 already",
    ),
    "firewall": (
        "hosts: {a: {firewall: [nft flush ruleset]}}",
        r"a\.firewall: 'nft flush ruleset' is no command of ipt",
    ),
    "forward": ("hosts: {a: {forward: maybe}}", r"a\.forward: 'maybe' is neither true nor false"),
    "three daemons": ("hosts: {a: {agent: {}, registrar: {}}}", r"a\.daemon: options for an agent and for a registrar"),
    "agent and registrar": ("daemon: [agent, registrar], hosts: {a: }", r"^daemon: .*these two: flanneld, registrar"),
    "no daemon at all": ("daemon: [], hosts: {a: }", r"^daemon: \[\]: name one daemon"),
    "no etcd": ("hosts: {a: {registrar: {}}}", r"a\.registrar: it needs an etcd"),
    "variable": (
        "hosts: {a: {etcd: , registrar: {HOST_GATEWAY: x}}}",
        r"a\.registrar: unknown key .*'HOST_GATEWAY_MAP'",
    ),
    "the lab's own": ("hosts: {a: {etcd: , registrar: {WEFT_SOCKET: /x}}}", r"a\.registrar: unknown key 'WEFT_SOCKET'"),
    "value": ("hosts: {a: {etcd: , registrar: {INTERVAL: soon}}}", r"a\.registrar: INTERVAL = 'soon'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_built_is_said_with_key_value_and_the_right_one(case: str) -> None:
    text, message = WRONG[case]
    none = "" if "daemon" in text or "registrar" in text else "daemon: none, "
    with pytest.raises(TopologyError, match=message):
        read("{engine: none, " + none + text + "}")


def test_without_wireguard_go_a_segment_is_offered_in_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topology = read(TUNNEL % BEHIND)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"tunnels\.wg0: wireguard-go is not installed .* a segment in its place"):
        tunnels.check(topology)
    tunnels.check(read("{hosts: {a: }, daemon: none}"))
