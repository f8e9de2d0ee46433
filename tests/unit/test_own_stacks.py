"""Which stacks a host has: the environment over routing.yaml; and STATIC_PEERS."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from weft.agent.stacks import common_vni, identity_of, read_routing, router_of, settled, static_peers
from weft.backends.tunnel import vtep_mac
from weft.errors import SettingsError
from weft.model import DefaultRoute, Host, Network, Uplink, mac_text
from weft.settings.discovery import DiscoverySettings
from weft.settings.router import RouterSettings, load
from weft.wire.routing import StackConfig, decode_routing

ONE = """
version: 1
stack_id: stack-a
vni: 1000
vxlan_subnet: 192.168.100.0/24
local_vxlan_ip: 192.168.100.1
networks:
  - {name: internal, subnet: 172.20.0.0/16, gateway: 172.20.0.2}
remote_stacks:
  - stack_id: stack-b
    vxlan_gateway: 192.168.100.2
    networks: [{subnet: 172.21.0.0/16}]
"""
TWO = """
stacks:
  - {stack_id: shop, vni: 1000, vxlan_subnet: 192.168.100.0/24, local_vxlan_ip: 192.168.100.1}
  - {stack_id: blog, vni: 1001, vxlan_subnet: 192.168.101.0/24, local_vxlan_ip: 192.168.101.1}
"""
UPLINK = Uplink("eth0", 1500, (ip_interface("10.0.1.5/24"), ip_interface("fd00::5/64")), (DefaultRoute(4),))


def router(**variables: str) -> RouterSettings:
    return load(variables)[0]


def test_routing_yaml_alone_is_enough() -> None:
    (stack,) = settled(router(), decode_routing(ONE))
    assert (stack.stack_id, stack.vni) == ("stack-a", 1000)
    assert [str(n.subnets[0]) for n in stack.networks] == ["172.20.0.0/16"]


def test_the_environment_alone_is_enough() -> None:
    variables = {"STACK_ID": "x", "VNI": "7", "VXLAN_SUBNET": "192.168.9.0/24", "LOCAL_VXLAN_IP": "192.168.9.3"}
    (stack,) = settled(router(**variables, NETWORKS="web=10.1.0.0/24"), None)
    assert stack == StackConfig(
        "x",
        7,
        (ip_network("192.168.9.0/24"),),
        (ip_address("192.168.9.3"),),
        (Network("web", (ip_network("10.1.0.0/24"),), since=0.0),),
    )


def test_the_environment_wins() -> None:
    (stack,) = settled(router(VNI="1002", LOCAL_VXLAN_IP="192.168.100.9", NETWORKS=""), decode_routing(ONE))
    assert (stack.stack_id, stack.vni, stack.local_vxlan_ips) == ("stack-a", 1002, (ip_address("192.168.100.9"),))


def test_of_several_stacks_one_is_chosen_by_its_id() -> None:
    assert [stack.stack_id for stack in settled(router(), decode_routing(TWO))] == ["shop", "blog"]
    (stack,) = settled(router(STACK_ID="blog", VNI="2000"), decode_routing(TWO))
    assert (stack.stack_id, stack.vni) == ("blog", 2000)


@pytest.mark.parametrize(
    ("variables", "text", "message"),
    [
        ({}, None, "STACK_ID isn't set, and no routing.yaml says `stack_id`"),
        ({"STACK_ID": "x"}, None, "VNI isn't set, and routing.yaml says no `vni` for x"),
        ({"STACK_ID": "wiki"}, TWO, "STACK_ID = 'wiki' is none of the stacks that routing.yaml lists"),
        ({"VNI": "1"}, TWO, "VNI is of one stack, and routing.yaml lists 2; say which with STACK_ID"),
        ({"PEER_ID": "r2"}, TWO, "PEER_ID is of one stack"),
        ({"VXLAN_SUBNET": "10.0.0.0/24"}, TWO, "VXLAN_SUBNET is of one stack"),
    ],
)
def test_what_is_missing_or_too_much_is_named(variables: dict[str, str], text: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settled(router(**variables), decode_routing(text) if text else None)


def test_the_first_routing_yaml_that_is_there_is_read(tmp_path: Path) -> None:
    places = (tmp_path / "none" / "routing.yaml", tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert read_routing(places) is None
    places[2].write_text(ONE)
    config = read_routing(places)
    assert config is not None
    assert config.stacks[0].stack_id == "stack-a"
    places[1].write_text("stack_id: [")
    with pytest.raises(SettingsError, match=r"a\.yaml: "):
        read_routing(places)
    places[1].unlink()
    places[1].mkdir()
    with pytest.raises(SettingsError, match="can't be read: Is a directory"):
        read_routing(places)


def test_discovery_and_router_come_to_the_same_end() -> None:
    """Without a word between them: same address, same MAC, also for another stack of this host and VNI."""
    host = Host(uplinks=(UPLINK,))
    stack = StackConfig("shop", 1000, (), (ip_address("192.168.100.1"),))
    other = StackConfig("blog", 1000, (), (ip_address("192.168.100.2"),))
    told = router_of(stack, identity_of(DiscoverySettings(), stack, "1", "gossip"), host).node
    made = router_of(other, identity_of(RouterSettings(peer_id="r2"), other, "1", "router"), host).node
    assert told is not None
    assert made is not None
    assert told.mac == made.mac == vtep_mac("10.0.1.5", 1000)
    assert (told.id, told.stack, made.id, made.stack) == ("shop", "shop", "r2", "blog")
    assert told.overlay == (ip_address("192.168.100.1"),)
    assert [str(address) for address in told.endpoints] == ["10.0.1.5", "fd00::5"]


def test_a_host_without_uplink_is_no_router_yet() -> None:
    stack = StackConfig("shop", 1000)
    here = router_of(stack, identity_of(DiscoverySettings(), stack, "1", "dns"), Host())
    assert here.node is None
    assert here.problem is not None
    assert "no default route" in here.problem.message


def test_static_peers() -> None:
    text = "stack-c=10.0.3.7, stack-b=10.0.2.6+192.168.100.2+172.21.0.0/16+weft,d=fd00::7+82:3d:cd:46:bc:78"
    d, b, c = static_peers(text, 4789, 1000)
    assert (b.id, str(b.endpoints[0]), b.port, b.vni, b.stack) == ("stack-b", "10.0.2.6", 4789, 1000, "stack-b")
    assert b.overlay == (ip_address("192.168.100.2"),)
    assert [network.subnets for network in b.networks] == [(ip_network("172.21.0.0/16"),)]
    assert b.mac == vtep_mac("10.0.2.6", 1000)
    assert not any(c.mac)
    assert mac_text(d.mac) == "82:3d:cd:46:bc:78"
    assert static_peers("", 4789, 1) == ()


def test_static_peers_of_a_host_with_several_vnis_name_theirs() -> None:
    """Each peer is in one VNI: if each stack's discovery told of it in its own, the last one would win."""
    vni = common_vni((StackConfig("a", 1000), StackConfig("x", 2000)))
    b, y = static_peers("b=10.0.2.6+weft+vni=1000,y=10.0.2.6+vni=2000+weft", 4789, vni)
    assert (b.vni, y.vni) == (1000, 2000)
    assert (b.mac, y.mac) == (vtep_mac("10.0.2.6", 1000), vtep_mac("10.0.2.6", 2000))
    with pytest.raises(SettingsError, match=r"this host has several VNIs: name one, as in \+vni=1000"):
        static_peers("b=10.0.2.6+weft", 4789, vni)
    assert common_vni((StackConfig("a", 1000), StackConfig("x", 1000))) == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.2.6", "'10.0.2.6': it is not STACK=ADDRESS"),
        ("=10.0.2.6", "it is not STACK=ADDRESS"),
        ("b=127.0.0.1", "127.0.0.1 can't be the address of another host"),
        ("b=fe80::1%eth0", "has a zone"),
        ("b=10.0.2.6+vni=0", "'0' is no VNI"),
        ("b=10.0.2.6+vni=16777216", "'16777216' is no VNI"),
        ("b=10.0.2.6+vni=many", "'many' is no VNI"),
        ("b=10.0.2.6+fe80::1%eth0", "has a zone"),
        ("b=10.0.2.6+224.0.0.1", "224.0.0.1 can't be the address"),
        ("b=10.0.2.6+00:00:00:00:00:00", "not the address of one interface"),
        ("b=10.0.2.6+ff:ff:ff:ff:ff:ff", "not the address of one interface"),
        ("b\x07=10.0.2.6", "printable text"),
        ("b=10.0.2.6.7", "'10.0.2.6.7' does not appear to be an IPv4 or IPv6 address"),
        ("b=10.0.2.6+172.21.0.1/16", "has host bits set"),
        ("b=10.0.2.6+nonsense", "'nonsense' does not appear"),
        ("b=10.0.2.6,b=10.0.2.7", "names b twice"),
    ],
)
def test_static_peers_that_are_none(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        static_peers(text, 4789, 1000)
