"""Several stacks of one host, in one VNI or in several; what two of them may not both say; and what discovery tells of
this host must be so."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.support.stacks import agent, config, first, host, listing, messages, peer, remote, routed, scene, stack
from weft.core.stacks import survey
from weft.model import Peer

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")


def test_two_stacks_of_one_vni_share_a_device() -> None:
    two = config("stack-y", 1000, "", "192.168.100.99", "172.19.0.0/16")
    found = survey(replace(scene(B, stacks=(stack(), two)), peer_id="host-1"))
    (overlay,) = found.overlays
    assert (overlay.me.id, overlay.me.stack) == ("host-1", "")
    assert list(map(str, overlay.me.overlay)) == ["192.168.100.1", "192.168.100.99"]
    assert overlay.spaces == (ip_network("192.168.100.0/24"),)
    assert [n.stack for n in overlay.networks] == ["stack-a", "stack-y"]
    assert found.problems == ()
    assert first(survey(scene(stacks=(stack(), two)))).me.id == "stack-a+stack-y"


def test_two_stacks_may_have_one_address_of_one_vni() -> None:
    two = config("stack-y", 1000, "192.168.100.0/24", "192.168.100.1")
    found = survey(scene(stacks=(stack(), two)))
    assert first(found).me.overlay == (ip_address("192.168.100.1"),)
    assert found.problems == ()


def test_two_vnis_are_two_overlays_and_one_subnet_is_in_one_of_them() -> None:
    two = config("stack-y", 1001, "192.168.101.0/24", "192.168.101.1", "172.19.0.0/16")
    far = peer("far", "10.0.0.9", "192.168.101.9", "172.29.0.0/16", vni=1001)
    twice = peer("twice", "10.0.0.10", "192.168.101.10", "172.21.64.0/18,172.28.0.0/16", vni=1001)
    thief = peer("thief", "10.0.0.12", "192.168.101.12", "172.20.0.0/16,192.168.100.0/24", vni=1001)
    found = survey(scene(B, far, twice, thief, stacks=(stack(), two)))
    assert [overlay.me.vni for overlay in found.overlays] == [1000, 1001]
    assert found.overlays[0].me.mac != found.overlays[1].me.mac
    assert routed(found).keys() == {"172.21.0.0/16", "172.29.0.0/16", "172.28.0.0/16"}
    said = " ".join(messages(found, wrong=True))
    assert "node twice's network 172.21.64.0/18 in VNI 1001 is refused: it overlaps node stack-b's" in said
    assert "it overlaps 172.20.0.0/16, network internal of this host" in said
    assert "it overlaps 192.168.100.0/24, network VXLAN_SUBNET of this host" in said


def test_a_refusal_names_the_stack_whose_network_it_is() -> None:
    """Two stacks of one host and VNI are one node, which has the first one's name."""
    one = peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16")
    other = peer("stack-d", "10.0.0.3", "192.168.100.4", "172.21.0.0/16")
    late = replace(B, node=replace(B.node, id="stack-e", stack="stack-e", endpoints=(ip_address("10.0.0.5"),)))
    said = " ".join(messages(survey(scene(B, one, other)), wrong=True))
    refusal = "stack stack-d's network 172.21.0.0/16 is refused: it overlaps 172.21.0.0/16, the older claim of node"
    assert f"{refusal} stack-b" in said
    assert "the older claim of stack stack-d" in " ".join(messages(survey(scene(late, one, other)), wrong=True))
    mine = peer("stack-f", "10.0.0.6", "192.168.100.6", "172.30.0.0/17")
    two = config("stack-y", 1000, "", "192.168.100.99", "172.30.0.0/16")
    two = replace(two, networks=(replace(two.networks[0], name="172.30.0.0/16"),))
    said = " ".join(messages(survey(scene(mine, stacks=(stack(), two))), wrong=True))
    assert "node stack-f's network 172.30.0.0/17 is refused: it overlaps 172.30.0.0/16 of this host" in said


def test_a_subnet_in_another_vnis_subnet_is_refused_whichever_router_of_that_has_it() -> None:
    two = config("stack-y", 1001, "192.168.101.0/24", "192.168.101.1")
    wide = peer("stack-b", "10.0.0.11", "192.168.100.11", "172.21.0.0/16", id="b1")
    narrow = peer("stack-b", "10.0.0.12", "192.168.100.12", "172.21.5.0/24", id="b2")
    far = peer("far", "10.0.0.9", "192.168.101.9", "172.21.128.0/17,172.28.0.0/16", vni=1001)
    found = survey(scene(wide, narrow, far, stacks=(stack(), two)))
    assert routed(found).keys() == {"172.21.0.0/16", "172.21.5.0/24", "172.28.0.0/16"}


def test_a_stack_listed_by_one_and_run_here_by_another_is_here() -> None:
    one = listing(remote("stack-y", "192.168.100.99", "172.19.0.0/16"))
    two = config("stack-y", 1000, "", "192.168.100.99", "172.19.0.0/16")
    found = survey(scene(stacks=(one, two)))
    assert routed(found) == {}
    assert found.problems == ()
    second = peer("stack-y", "10.0.0.8", "192.168.100.8", "172.19.0.0/16,172.18.0.0/16", id="y2")
    found = survey(scene(second, stacks=(one, two)))
    assert routed(found) == {"172.18.0.0/16": "y2 via 192.168.100.8 (discovery)"}
    assert found.problems == ()


CONTRADICTIONS = {
    "no VNI": (config("y", None, "", "192.168.9.1"), "stack y has no VNI"),
    "one id twice": (
        config("stack-a", 1001, "", "192.168.9.1"),
        "stack stack-a is configured twice; the first one holds",
    ),
    "no address": (config("y", 1000, "", ""), "stack y has no LOCAL_VXLAN_IP"),
    "one network twice": (
        config("y", 1000, "", "192.168.100.9", "172.20.128.0/17"),
        "stack y has the network n 172.20.128.0/17, which overlaps stack stack-a's; stack-a's holds",
    ),
    "two spaces of one VNI": (
        config("y", 1000, "192.168.0.0/16", "192.168.100.9"),
        "stack y has the vxlan_subnet 192.168.0.0/16, and another stack of VNI 1000 has 192.168.100.0/24; that holds",
    ),
    "one space of two VNIs": (
        config("y", 1001, "192.168.100.0/24", "192.168.100.9"),
        "stack y has the vxlan_subnet 192.168.100.0/24, which is that of VNI 1000, of stack stack-a; each VNI needs",
    ),
    "a space in the own network": (
        config("y", 1001, "172.19.5.0/24", "172.19.5.1", "172.19.0.0/16"),
        "stack y has the vxlan_subnet 172.19.5.0/24, which overlaps its own network 172.19.0.0/16; name another one",
    ),
    "a space in another stack's network": (
        config("y", 1001, "172.20.5.0/24", "172.20.5.1"),
        "stack y has the vxlan_subnet 172.20.5.0/24, which overlaps a network of stack stack-a; name another",
    ),
    "an address outside": (
        config("y", 1000, "", "10.9.9.9"),
        "stack y has the local_vxlan_ip 10.9.9.9, which is not in VNI 1000's vxlan_subnet 192.168.100.0/24",
    ),
    "one address in two VNIs": (
        config("y", 1001, "", "192.168.100.1"),
        "stack y has the local_vxlan_ip 192.168.100.1, which is that of stack stack-a in VNI 1000",
    ),
    "another stack listed otherwise": (
        replace(listing(remote("stack-b", "192.168.100.7", "172.21.0.0/16")), stack_id="y", networks=()),
        "stack y lists stack stack-b otherwise than stack stack-a does; stack-a's list holds",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_stacks_that_contradict_each_other_are_both_named_and_the_first_one_holds(case: str) -> None:
    second, said = CONTRADICTIONS[case]
    one = listing(remote("stack-b", "192.168.100.2", "172.21.0.0/16"))
    found = survey(scene(B, stacks=(one, second)))
    assert any(message.startswith(said) for message in messages(found))
    mine = first(found)
    assert mine.spaces == (ip_network("192.168.100.0/24"),)
    assert mine.me.overlay[0] == ip_address("192.168.100.1")
    assert mine.networks[0].subnets == (ip_network("172.20.0.0/16"),)
    assert routed(found)["172.21.0.0/16"] == "stack-b via 192.168.100.2 (static-config)"
    every = [(s, n.stack) for overlay in found.overlays for n in overlay.networks for s in n.subnets]
    assert not any(a.overlaps(b) for k, (a, _) in enumerate(every) for b, _ in every[:k])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (peer("stack-a", "10.0.0.1", "192.168.100.1"), []),
        (agent("stack-a", "10.0.0.1", "172.20.0.0/16", "172.20.0.1"), []),
        (
            peer("stack-a", "10.0.0.99", "192.168.100.1"),
            [
                "discovery announces this host at 10.0.0.99, the router's tunnels end at 10.0.0.1; "
                "set HOST_IP or INTERFACE alike for both"
            ],
        ),
        (
            peer("stack-a", "10.0.0.1", "192.168.100.5"),
            [
                "discovery announces vxlan_ip 192.168.100.5 for stack stack-a, the router has 192.168.100.1; "
                "set LOCAL_VXLAN_IP alike for both"
            ],
        ),
        (
            peer("stack-a", "10.0.0.1", "192.168.100.1", vni=7),
            [
                "discovery announces this host in VNI 7 alone: nobody there reaches it in VNI 1000; "
                "set VNI alike for both"
            ],
        ),
    ],
)
def test_what_discovery_tells_of_this_host_must_be_so(told: Peer, said: list[str]) -> None:
    here = scene(B)
    assert messages(survey(replace(here, data=replace(here.data, here=(told,))))) == said


def test_a_port_that_discovery_tells_must_be_so() -> None:
    told = peer("stack-a", "10.0.0.1", "192.168.100.1")
    here = scene(B)
    found = survey(replace(here, data=replace(here.data, here=(replace(told, node=replace(told.node, port=1)),))))
    assert messages(found) == [
        "discovery announces VXLAN on port 1, the router has it on 4789; set VXLAN_PORT alike for both"
    ]


def test_a_host_without_ipv6_routes_none() -> None:
    dual = stack(local_vxlan_ips=(ip_address("192.168.100.1"), ip_address("fd00:100::1")))
    far = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16,fd00:21::/64")
    found = survey(replace(scene(far, stacks=(dual,)), host=host(ipv6=False)))
    assert first(found).me.overlay == (ip_address("192.168.100.1"),)
    assert routed(found).keys() == {"172.21.0.0/16"}
    assert "1 IPv6 networks of peers are not routed: this host has no IPv6" in messages(found)[0]


@pytest.mark.parametrize("address", ["192.168.100.77/32", "192.168.0.9/16", "192.168.100.5/24"])
def test_an_overlay_in_the_underlay_is_told(address: str) -> None:
    """Packets for endpoints would go into the tunnel that is to carry them, or the tunnel's into the underlay."""
    here = host("10.0.0.1/16", address, "169.254.9.9/16", "fe80::1/64")
    (problem,) = survey(replace(scene(B), host=here)).problems
    network = ip_network(address, strict=False)
    assert problem.subject == "stack-a"
    assert problem.message == (
        f"VNI 1000 has the vxlan_subnet 192.168.100.0/24, which overlaps {network} on eth0 of this host; "
        "name another one"
    )
