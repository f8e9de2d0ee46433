"""What `weft router` makes of discovery.json: who is reached, by which address, and what lies behind whom; every rule
of routing.yaml against announcements, of several routers of a stack, of several stacks at one endpoint."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.build import PRIVATE
from tests.support.stacks import NO_MAC, agent, first, listing, messages, peer, remote, routed, scene, stack
from weft.backends.tunnel import vtep_mac
from weft.core.stacks import Options, survey
from weft.model import Mac, Network

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
C = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16")
STATIC = Options(PRIVATE, dynamic=False)


# -- one stack, one VNI ------------------------------------------------------------------------------------------------


def test_a_stack_that_is_not_listed_is_routed_to_as_it_announces() -> None:
    found = survey(scene(B, C))
    assert routed(found) == {
        "172.21.0.0/16": "stack-b via 192.168.100.2 (discovery)",
        "172.22.0.0/16": "stack-c via 192.168.100.3 (discovery)",
    }
    assert found.problems == ()
    me = first(found).me
    assert (me.id, me.vni, me.stack, me.mac) == ("stack-a", 1000, "stack-a", vtep_mac("10.0.0.1", 1000))
    assert me.overlay == (ip_address("192.168.100.1"),)
    assert first(found).spaces == (ip_network("192.168.100.0/24"),)


def test_a_stack_that_is_listed_gets_the_listed_subnets_and_nothing_else() -> None:
    found = survey(scene(B, C, stacks=(listing(remote("stack-b", "192.168.100.2", "172.30.0.0/16")),)))
    assert routed(found) == {
        "172.30.0.0/16": "stack-b via 192.168.100.2 (static-config)",
        "172.22.0.0/16": "stack-c via 192.168.100.3 (discovery)",
    }
    assert found.problems == ()


def test_a_listed_stack_that_is_not_there_is_not_routed_to() -> None:
    assert routed(survey(scene(C, stacks=(listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16")),)))) == {
        "172.22.0.0/16": "stack-c via 192.168.100.3 (discovery)"
    }


def test_without_dynamic_routes_the_list_is_all_there_is() -> None:
    stacks = (listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16")),)
    found = survey(scene(B, C, peer("quiet", "10.0.0.9", "192.168.100.9"), stacks=stacks, options=STATIC))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.2 (static-config)"}
    assert [node.id for node in first(found).nodes] == ["quiet", "stack-b", "stack-c"]
    assert messages(found) == [
        "stack stack-c announces networks that are not routed: "
        "routing.yaml doesn't list it, and DYNAMIC_ROUTES is false"
    ]
    assert messages(found, wrong=True) == []


def test_the_list_holds_against_an_announced_address_and_says_so() -> None:
    stacks = (listing(remote("stack-b", "192.168.100.7", "172.21.0.0/16")),)
    found = survey(scene(B, stacks=stacks))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.7 (static-config)"}
    assert messages(found) == [
        "stack stack-b announces vxlan_ip 192.168.100.2; routing.yaml says vxlan_gateway 192.168.100.7, and that holds"
    ]
    assert first(found).nodes[0].mac == B.node.mac


def test_the_list_holds_against_whoever_announces_the_same_subnet_however_old() -> None:
    old = peer("aged", "10.0.0.9", "192.168.100.9", "172.21.0.0/16", since=0.0)
    found = survey(scene(B, old, stacks=(listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16")),)))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.2 (static-config)"}
    (said,) = messages(found, wrong=True)
    assert "aged" in said
    assert "stack-b (routing.yaml)" in said


def test_a_gateway_in_the_list_is_taken_from_whoever_announces_it() -> None:
    thief = peer("aaa", "10.0.0.9", "192.168.100.2", "172.29.0.0/16", since=1.0)
    found = survey(scene(B, thief, stacks=(listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16")),)))
    assert routed(found) == {
        "172.21.0.0/16": "stack-b via 192.168.100.2 (static-config)",
        "172.29.0.0/16": "aaa via its MAC (discovery)",
    }
    assert messages(found) == ["stack aaa announces vxlan_ip 192.168.100.2, which is not taken: it is stack stack-b's"]


# -- overlay addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.9.9.9", "it is not in this host's VXLAN_SUBNET 192.168.100.0/24"),
        ("192.168.100.255", "it is no host's in 192.168.100.0/24"),
        ("192.168.100.1", "it is this host's"),
        ("192.168.100.3", "it is stack stack-c's"),
    ],
)
@pytest.mark.parametrize("mac", [None, NO_MAC])
def test_an_address_that_nobody_else_may_have(address: str, why: str, mac: Mac | None) -> None:
    odd = peer("odd", "10.0.0.9", address, "172.29.0.0/16", mac=mac, since=200.0)
    found = survey(scene(C, odd))
    said = [f"stack odd announces vxlan_ip {address}, which is not taken: {why}"]
    if mac is None:
        assert routed(found)["172.29.0.0/16"] == "odd via its MAC (discovery)"
    else:
        assert "172.29.0.0/16" not in routed(found)
        said.append("stack odd can't be reached: it tells neither a MAC address nor a vxlan_ip that it can have")
    assert messages(found, wrong=True) == said
    assert "172.22.0.0/16" in routed(found)


def test_a_host_ip_inside_of_the_tunnel_can_not_be_reached() -> None:
    odd = peer("odd", "192.168.100.9", "192.168.100.9", "172.29.0.0/16", since=200.0)
    found = survey(scene(C, odd))
    assert "172.29.0.0/16" not in routed(found)
    assert messages(found, wrong=True) == [
        "stack odd can't be reached: its host_ip lies in VXLAN_SUBNET 192.168.100.0/24, inside of the tunnel"
    ]
    wide = stack(vxlan_subnets=(ip_network("10.0.0.0/8"),), local_vxlan_ips=(ip_address("10.9.9.1"),))
    assert "172.22.0.0/16" in routed(survey(scene(C, stacks=(wide,)))), "a link's own subnet is preferred"


def test_of_two_with_one_address_the_one_with_the_older_network_has_it_whoever_sorts_first() -> None:
    one = peer("bbb", "10.0.0.8", "192.168.100.8", "172.28.0.0/16", since=50.0)
    two = peer("aaa", "10.0.0.9", "192.168.100.8", "172.29.0.0/16", since=60.0)
    assert routed(survey(scene(one, two))) == {
        "172.28.0.0/16": "bbb via 192.168.100.8 (discovery)",
        "172.29.0.0/16": "aaa via its MAC (discovery)",
    }


def test_where_no_vxlan_subnet_is_known_a_stack_is_believed() -> None:
    alone = stack(vxlan_subnets=(), local_vxlan_ips=())
    found = survey(scene(B, agent("lone", "10.0.0.4", "172.24.0.0/16", "172.24.0.1"), stacks=(alone,)))
    assert routed(found) == {
        "172.21.0.0/16": "stack-b via 192.168.100.2 (discovery)",
        "172.24.0.0/16": "lone via its MAC (discovery)",
    }
    assert messages(found) == [
        "stack stack-a has no LOCAL_VXLAN_IP: stacks that don't know this host's MAC address can't reach it"
    ]


def test_an_agent_is_reached_by_its_endpoint() -> None:
    found = survey(scene(agent("lone", "10.0.0.4", "172.24.0.0/16", "172.24.0.1")))
    assert routed(found) == {"172.24.0.0/16": "lone via its MAC (discovery)"}
    assert found.problems == ()


def test_a_peer_without_a_mac_is_reached_by_its_address_if_it_tells_one() -> None:
    silent = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16,fd00:21::/64", mac=NO_MAC)
    mute = peer("stack-c", "10.0.0.3", "", "172.22.0.0/16", mac=NO_MAC)
    found = survey(scene(silent, mute))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.2 (discovery)"}
    assert messages(found) == [
        "stack stack-b has no IPv6 address on the overlay, and tells no MAC address: its IPv6 networks are not routed",
        "stack stack-c can't be reached: it tells neither a MAC address nor a vxlan_ip that it can have",
    ]


def test_the_list_helps_to_a_peer_that_tells_nothing() -> None:
    mute = peer("stack-c", "10.0.0.3", "", mac=NO_MAC)
    found = survey(scene(mute, stacks=(listing(remote("stack-c", "192.168.100.3", "172.22.0.0/16")),)))
    assert routed(found) == {"172.22.0.0/16": "stack-c via 192.168.100.3 (static-config)"}
    assert found.problems == ()


def test_where_peers_are_found_by_flooding_ipv6_needs_an_ipv6_address() -> None:
    flood = Options(PRIVATE, flood=True)
    dual = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16,fd00:21::/64")
    mixed = replace(dual.node, networks=(Network("n", (ip_network("172.21.0.0/16"), ip_network("fd00:21::/64"))),))
    assert routed(survey(scene(dual))).keys() == {"172.21.0.0/16", "fd00:21::/64"}
    assert routed(survey(scene(dual, options=flood))).keys() == {"172.21.0.0/16"}
    assert routed(survey(scene(replace(dual, node=mixed), options=flood))).keys() == {"172.21.0.0/16"}
    space = stack(vxlan_subnets=(ip_network("192.168.100.0/24"), ip_network("fd00:100::/64")))
    both = replace(dual, node=replace(dual.node, overlay=(*dual.node.overlay, ip_address("fd00:100::2"))))
    assert routed(survey(scene(both, options=flood, stacks=(space,)))).keys() == {"172.21.0.0/16", "fd00:21::/64"}


# -- whom not to believe -----------------------------------------------------------------------------------------------


def test_a_thousand_networks_are_not_believed_at_all() -> None:
    many = peer("stack-c", "10.0.0.3", "192.168.100.3", ",".join(f"10.{n}.0.0/16" for n in range(10, 20)))
    few = Options(PRIVATE, max_networks=9)
    found = survey(scene(B, many, options=few))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.2 (discovery)"}
    assert messages(found) == [
        "stack stack-c is not routed to: it announces 10 networks, and 9 are the most that are taken (MAX_NETWORKS)"
    ]
    assert [fate.node for fate in found.fates()] == ["stack-b", ""]
    listed = listing(remote("stack-c", "192.168.100.3", "172.22.0.0/16"))
    assert "172.22.0.0/16" in routed(survey(scene(many, options=few, stacks=(listed,))))


@pytest.mark.parametrize(
    ("subnet", "why"),
    [
        ("0.0.0.0/0", "a default route is never taken from a peer"),
        ("8.8.8.0/24", "outside the allowed networks"),
        ("127.0.0.0/8", "space that no container network can have"),
        ("172.20.5.0/24", "it overlaps 172.20.0.0/16, network internal of this host"),
        ("192.168.0.0/16", "it overlaps 192.168.100.0/24, network VXLAN_SUBNET of this host"),
        ("10.0.7.0/24", "it overlaps the underlay 10.0.0.0/16 on eth0"),
    ],
)
def test_a_forged_network_changes_nothing_and_is_reported(subnet: str, why: str) -> None:
    hostile = peer("stack-x", "10.0.0.9", "192.168.100.9", f"{subnet},172.29.0.0/16")
    found = survey(scene(B, hostile))
    assert routed(found).keys() == {"172.21.0.0/16", "172.29.0.0/16"}
    (said,) = messages(found, wrong=True)
    assert why in said
    fates = {fate.peer.node.id: fate for fate in found.fates()}
    assert fates["stack-x"].node == "stack-x"
    assert why in fates["stack-x"].reason
    assert fates["stack-b"].reason == ""


def test_two_stacks_with_one_subnet_the_older_holds_and_both_are_named() -> None:
    late = peer("stack-a2", "10.0.0.8", "192.168.100.8", "172.21.0.0/16", since=200.0)
    plain = peer("plain", "10.0.0.9", "192.168.100.9", "172.21.128.0/17", since=float("inf"))
    found = survey(scene(B, late, plain))
    assert routed(found) == {"172.21.0.0/16": "stack-b via 192.168.100.2 (discovery)"}
    for said, who in zip(messages(found, wrong=True), ("plain", "stack-a2"), strict=True):
        assert f"node {who}'s" in said
        assert "stack-b" in said


def test_a_peer_at_this_hosts_own_endpoint_is_another_stack_of_it() -> None:
    found = survey(scene(B, peer("stack-y", "10.0.0.1", "192.168.100.77", "172.23.0.0/16")))
    assert routed(found).keys() == {"172.21.0.0/16"}
    assert found.problems == ()
    assert [fate.reason for fate in found.fates()] == [
        "",
        "its endpoint is this host's own: it is another stack of 10.0.0.1",
    ]


def test_another_vni_is_listed_and_not_routed_to() -> None:
    found = survey(scene(B, peer("stack-z", "10.0.0.9", "192.168.100.9", "172.29.0.0/16", vni=1001)))
    assert routed(found).keys() == {"172.21.0.0/16"}
    (problem,) = found.problems
    assert not problem.wrong
    assert problem.message == "stack stack-z is not routed to: its VNI is 1001, this host's is 1000"
    assert [(fate.peer.node.id, fate.node) for fate in found.fates()] == [("stack-b", "stack-b"), ("stack-z", "")]


def test_another_port_or_family_is_not_reached() -> None:
    ported = replace(C, node=replace(C.node, port=8472))
    six = peer("stack-d", "fd00::4", "192.168.100.4", "172.24.0.0/16")
    found = survey(scene(B, ported, six))
    assert routed(found).keys() == {"172.21.0.0/16"}
    assert "port 8472" in messages(found)[0]
    assert "no IPv4 endpoint" in messages(found)[1]


# -- several routers of one stack --------------------------------------------------------------------------------------

B1 = peer("stack-b", "10.0.0.11", "192.168.100.11", "172.21.0.0/16,172.31.0.0/16", id="b1")
B2 = peer("stack-b", "10.0.0.12", "192.168.100.12", "172.21.0.0/16", id="b2")
B3 = peer("stack-b", "10.0.0.13", "192.168.100.13", "172.21.0.0/16", id="b3", status="stale")


def test_routers_of_one_stack_share_what_they_both_have() -> None:
    found = survey(scene(B1, B2, C))
    assert routed(found) == {
        "172.21.0.0/16": "b1 via 192.168.100.11+b2 via 192.168.100.12 (discovery)",
        "172.31.0.0/16": "b1 via 192.168.100.11 (discovery)",
        "172.22.0.0/16": "stack-c via 192.168.100.3 (discovery)",
    }
    assert found.problems == ()
    (several,) = first(found).multipath
    assert (several.mtu, several.rule) == (1500, "network 172.21.0.0/16 of stack stack-b")
    assert first(found).owners == {ip_network("172.21.0.0/16"): "stack-b"}


def test_a_stale_router_has_no_share_while_another_is_active() -> None:
    assert "b3" not in routed(survey(scene(B1, B2, B3)))["172.21.0.0/16"]
    assert routed(survey(scene(B2, B3)))["172.21.0.0/16"] == "b2 via 192.168.100.12 (discovery)"
    assert routed(survey(scene(B3)))["172.21.0.0/16"] == "b3 via 192.168.100.13 (discovery)"
    stale = replace(B2, status="stale")
    assert "b2" in (both := routed(survey(scene(stale, B3)))["172.21.0.0/16"])
    assert "b3" in both


def test_without_multipath_the_first_active_one_has_it() -> None:
    single = Options(PRIVATE, multipath=False)
    assert routed(survey(scene(B1, B2, options=single)))["172.21.0.0/16"] == "b1 via 192.168.100.11 (discovery)"
    stale = replace(B1, status="stale")
    assert routed(survey(scene(stale, B2, options=single)))["172.21.0.0/16"] == "b2 via 192.168.100.12 (discovery)"


def test_the_list_deals_its_gateways_out_to_the_routers_of_the_stack() -> None:
    stacks = (listing(remote("stack-b", "192.168.100.12, 192.168.100.11, 192.168.100.40", "172.21.0.0/16")),)
    found = survey(scene(B1, B2, stacks=stacks))
    assert routed(found) == {"172.21.0.0/16": "b1 via 192.168.100.11+b2 via 192.168.100.12 (static-config)"}
    assert messages(found, wrong=True) == []
    assert messages(found) == [
        "stack stack-b (b1) has no router at 192.168.100.40 that is known, which routing.yaml names; "
        "it is reached through the others"
    ]


def test_more_routers_than_gateways() -> None:
    found = survey(scene(B1, B2, stacks=(listing(remote("stack-b", "192.168.100.12", "172.21.0.0/16")),)))
    assert routed(found) == {"172.21.0.0/16": "b2 via 192.168.100.12 (static-config)"}
    assert messages(found) == [
        "stack stack-b (b1) is not routed to: routing.yaml names no vxlan_gateway for it that another router hasn't"
    ]


def test_who_tells_no_address_is_dealt_one_first() -> None:
    told = replace(B1, node=replace(B1.node, overlay=(ip_address("192.168.100.50"),)))
    none = replace(B2, node=replace(B2.node, overlay=()))
    found = survey(scene(told, none, stacks=(listing(remote("stack-b", "192.168.100.12", "172.21.0.0/16")),)))
    assert routed(found) == {"172.21.0.0/16": "b2 via 192.168.100.12 (static-config)"}


def test_gateways_of_each_family_are_dealt_out_by_themselves() -> None:
    entry = remote("stack-b", "192.168.100.11, 'fd00:100::12'", "172.21.0.0/16", "'fd00:21::/64'")
    found = survey(scene(B1, B2, stacks=(listing(entry),)))
    assert routed(found) == {
        "172.21.0.0/16": "b1 via 192.168.100.11 (static-config)",
        "fd00:21::/64": "b1 via fd00:100::12 (static-config)",
    }
    only4 = listing(remote("stack-b", "192.168.100.11", "'fd00:21::/64'"))
    assert routed(survey(scene(B1, stacks=(only4,)))) == {"fd00:21::/64": "b1 via its MAC (static-config)"}


def test_a_gateway_that_is_this_hosts_own_is_nobodys() -> None:
    # LOCAL_VXLAN_IP in the environment may say another address than the file
    one = replace(
        listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16")), local_vxlan_ips=(ip_address("192.168.100.2"),)
    )
    found = survey(scene(B, stacks=(one,)))
    assert routed(found) == {}
    assert messages(found)[0] == (
        "stack stack-b can't have vxlan_gateway 192.168.100.2, as routing.yaml says: it is this host's"
    )


def test_another_router_of_this_hosts_own_stack() -> None:
    twin = peer("stack-a", "10.0.0.7", "192.168.100.7", "172.20.0.0/16,172.27.0.0/16", id="a2")
    found = survey(scene(twin))
    assert routed(found) == {"172.27.0.0/16": "a2 via 192.168.100.7 (discovery)"}
    assert found.problems == ()


def test_a_stranger_with_a_stacks_id_as_its_own_is_no_router_of_it() -> None:
    stranger = agent("stack-b", "10.0.0.9", "172.21.0.0/16")
    other = replace(B, node=replace(B.node, id="b1"))
    assert routed(survey(scene(other, stranger))) == {"172.21.0.0/16": "b1 via 192.168.100.2 (discovery)"}


# -- several stacks at one endpoint ------------------------------------------------------------------------------------


def test_stacks_of_one_host_and_vni_are_one_node() -> None:
    one = peer("stack-p", "10.0.0.5", "192.168.100.5", "172.25.0.0/16")
    two = peer("stack-q", "10.0.0.5", "192.168.100.6", "172.26.0.0/16")
    found = survey(scene(one, two))
    (node,) = first(found).nodes
    assert (node.id, node.mac) == ("stack-p", vtep_mac("10.0.0.5", 1000))
    assert list(map(str, node.overlay)) == ["192.168.100.5", "192.168.100.6"]
    assert routed(found).keys() == {"172.25.0.0/16", "172.26.0.0/16"}
    assert [fate.node for fate in found.fates()] == ["stack-p", "stack-p"]
    listed = listing(remote("stack-q", "192.168.100.66", "172.26.0.0/16"))
    assert str(first(survey(scene(one, two, stacks=(listed,)))).nodes[0].overlay[0]) == "192.168.100.66"


def test_a_shared_end_has_the_mac_that_follows_from_it() -> None:
    one = peer("stack-p", "10.0.0.5", "192.168.100.5", "172.25.0.0/16", mac=Mac(bytes.fromhex("020000000001")))
    two = peer("stack-q", "10.0.0.5", "192.168.100.6", "172.26.0.0/16")
    three = peer("stack-r", "10.0.0.5", "192.168.100.7", "172.27.0.0/16", mac=NO_MAC)
    found = survey(scene(one, two, three))
    assert first(found).nodes[0].mac == vtep_mac("10.0.0.5", 1000)
    assert messages(found) == [
        "stack stack-p tells another MAC address than others at its endpoint 10.0.0.5; theirs holds"
    ]
    assert first(survey(scene(one, three))).nodes[0].mac == one.node.mac
    assert first(survey(scene(three))).nodes[0].mac == NO_MAC


def test_a_shared_end_s_mac_is_not_that_of_an_endpoint_that_one_of_them_tells_besides() -> None:
    honest = peer("stack-q", "10.0.0.5", "192.168.100.6", "172.26.0.0/16")
    thief = peer("aaa", "fd00::66,10.0.0.5", "192.168.100.9", "172.29.0.0/16")
    found = survey(scene(honest, thief))
    assert first(found).nodes[0].mac == honest.node.mac
    assert messages(found) == ["stack aaa tells another MAC address than others at its endpoint fd00::66; theirs holds"]


def test_a_shared_end_has_the_narrowest_mtu_and_each_family_s_endpoint_and_each_subnet_once() -> None:
    one = peer("stack-p", "10.0.0.5", "192.168.100.5", "172.25.0.0/16,172.26.0.0/16", id="p1", since=9.0)
    two = peer("stack-p", "10.0.0.5,fd00::5", "192.168.100.6", "172.25.0.0/16", id="p2", since=8.0)
    found = survey(scene(replace(one, node=replace(one.node, mtu=0)), replace(two, node=replace(two.node, mtu=1400))))
    (node,) = first(found).nodes
    assert (node.mtu, tuple(map(str, node.endpoints))) == (1400, ("10.0.0.5", "fd00::5"))
    assert [(str(s), n.since) for n in node.networks for s in n.subnets] == [
        ("172.26.0.0/16", 9.0),
        ("172.25.0.0/16", 8.0),
    ]
    mixed = Network("n", (ip_network("172.25.0.0/16"), ip_network("172.27.0.0/16")), since=9.0)
    shared = survey(scene(replace(one, node=replace(one.node, networks=(mixed,))), two))
    assert routed(shared).keys() == {"172.25.0.0/16", "172.27.0.0/16"}


def test_one_router_that_announces_a_subnet_twice_is_still_one() -> None:
    twice = replace(B1, node=replace(B1.node, networks=(*B1.node.networks, Network("x", B1.node.networks[0].subnets))))
    (several,) = first(survey(scene(twice, B2))).multipath
    assert [end.id for end in several.ends] == ["b1", "b2"]
