"""A peer's word is a claim: each rule, both owners named, and the same verdict on every host in whatever order."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import PRIVATE, network, node, uplink
from weft.backends.tunnel import vtep_mac
from weft.core.acceptance import Policy, accept
from weft.model import Mac, Node, Uplink

ME = node("a", "192.0.2.1", "10.1.0.0/24")
PRIVATE_ONLY = network("secret", "10.66.0.0/24", exposed=False)
POLICY = Policy(ME, 4, PRIVATE, (*ME.networks, PRIVATE_ONLY), (uplink(), Uplink("lo", 65536, ())))


def subnets(nodes: tuple[Node, ...]) -> dict[str, list[str]]:
    return {n.id: [str(s) for w in n.networks for s in w.subnets] for n in nodes}


def verdict(*claims: Node, policy: Policy = POLICY) -> tuple[dict[str, list[str]], list[str]]:
    accepted = accept(claims, policy)
    return subnets(accepted.nodes), [p.message for p in accepted.problems]


def test_what_is_right_is_taken_as_it_stands() -> None:
    claim = node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64")
    accepted = accept([claim], POLICY)
    assert accepted.nodes[0] is claim
    assert accepted.problems == ()


@pytest.mark.parametrize(
    ("subnet", "why"),
    [
        ("0.0.0.0/0", "a default route is never taken from a peer"),
        ("::/0", "a default route is never taken from a peer"),
        ("8.8.8.0/24", "it lies outside the allowed networks (setting `allowed`)"),
        ("2001:db8::/64", "it lies outside the allowed networks (setting `allowed`)"),
        ("127.0.0.0/8", "it lies in space that no container network can have"),
        ("224.0.0.0/4", "it lies in space that no container network can have"),
        ("fe80::/64", "it lies in space that no container network can have"),
        ("10.1.0.128/25", "it overlaps 10.1.0.0/24, network web of this host (a)"),
        ("10.0.0.0/8", "it overlaps 10.1.0.0/24, network web of this host (a)"),
        ("10.66.0.0/24", "it overlaps 10.66.0.0/24, network secret of this host (a)"),
    ],
)
def test_a_subnet_that_may_not_be_routed_is_refused_and_the_others_are_not(subnet: str, why: str) -> None:
    routed, problems = verdict(node("b", "192.0.2.2", subnet, "10.2.0.0/24"))
    assert routed == {"b": ["10.2.0.0/24"]}
    assert problems == [f"node b's network web {subnet} is refused: {why}"]


def test_a_subnet_that_overlaps_the_underlay_is_refused() -> None:
    policy = replace(POLICY, uplinks=(uplink("eth0", "169.254.7.1/16", "192.168.4.1/24"),))
    routed, problems = verdict(node("b", "192.168.4.2", "192.168.0.0/16", "10.2.0.0/24"), policy=policy)
    assert routed == {"b": ["10.2.0.0/24"]}
    assert problems == [
        "node b's network web 192.168.0.0/16 is refused:"
        " it overlaps the underlay 192.168.4.0/24 on eth0 of this host (a)"
    ]


def test_a_subnet_that_holds_somebodys_endpoint_is_refused() -> None:
    routed, problems = verdict(node("b", "10.2.0.9", "10.3.0.0/24"), node("c", "192.0.2.3", "10.2.0.0/24"))
    assert routed == {"b": ["10.3.0.0/24"], "c": []}
    assert problems == ["node c's network web 10.2.0.0/24 is refused: it holds the endpoint of node b"]


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (node("b", "192.0.2.2", vni=7), "its VNI is 7, this host's is 4096"),
        (replace(node("b", "192.0.2.2"), port=8472), "it speaks VXLAN on port 8472, this host on 4789"),
        (replace(node("b", "192.0.2.2"), backend="wireguard"), "its backend is wireguard, this host's is vxlan"),
        (node("b", "fd00::2"), "it has no IPv4 endpoint, and this host's tunnels run over IPv4"),
        (node("b", "192.0.2.1"), "it claims this host's own endpoint 192.0.2.1"),
        (node("b", "127.0.0.1"), "127.0.0.1 can't be a tunnel's endpoint"),
        (node("b", "192.0.2.2", mac=Mac(bytes(6))), "it tells no unicast VTEP MAC"),
        (node("b", "192.0.2.2", mtu=1), "it says that its uplink's MTU is 1; 646 is the least that is believed"),
        (node("b", "192.0.2.2", mac=Mac(b"\x01" + bytes(5))), "it tells no unicast VTEP MAC"),
        (node("b", "192.0.2.2", mac=vtep_mac("a", 4096)), "it claims this host's own VTEP MAC"),
    ],
)
def test_a_node_that_no_tunnel_can_lead_to_is_not_routed_to(claim: Node, why: str) -> None:
    assert verdict(claim) == ({}, [f"node b is not routed to: {why}"])
    (problem,) = accept([claim], POLICY).problems
    assert problem.wrong is ("VNI" not in why), "another overlay on the same underlay is nothing wrong"


@pytest.mark.parametrize("twin", [node("c", "192.0.2.2"), node("c", "192.0.2.3", mac=vtep_mac("b", 4096))])
def test_a_node_with_another_nodes_endpoint_or_mac_is_refused(twin: Node) -> None:
    routed, problems = verdict(twin, node("b", "192.0.2.2", "10.2.0.0/24"))
    assert routed == {"b": ["10.2.0.0/24"]}
    assert problems == ["node c is not routed to: node b has the same endpoint, VTEP MAC or WireGuard key"]


@pytest.mark.parametrize("owner", ["b", "192.0.2.2"])
def test_a_mac_that_follows_from_its_owner_is_kept_by_him_whatever_name_the_thief_has(owner: str) -> None:
    thief = node("aaa", "192.0.2.3", "10.3.0.0/24", mac=vtep_mac(owner, 4096))
    robbed = node("b", "192.0.2.2", "10.2.0.0/24", mac=vtep_mac(owner, 4096))
    routed, problems = verdict(thief, robbed)
    assert routed == {"b": ["10.2.0.0/24"]}
    assert problems == ["node aaa is not routed to: node b has the same endpoint, VTEP MAC or WireGuard key"]


def test_of_two_claims_the_older_one_holds_whatever_the_order() -> None:
    young = node("b", "192.0.2.2", networks=(network("new", "10.2.0.0/24", since=200.0),))
    old = node("c", "192.0.2.3", networks=(network("old", "10.2.0.0/16", since=100.0),))
    for claims in ([young, old], [old, young]):
        routed, problems = verdict(*claims)
        assert routed == {"b": [], "c": ["10.2.0.0/16"]}
        assert problems == [
            "node b's network new 10.2.0.0/24 is refused: it overlaps 10.2.0.0/16, the older claim of node c (old)"
        ]


def test_claims_of_the_same_age_go_by_the_nodes_name_and_nonsense_ages_count_as_young() -> None:
    b = node("b", "192.0.2.2", networks=(network("web", "10.2.0.0/24", since=float("nan")),))
    c = node("c", "192.0.2.3", networks=(network("web", "10.2.0.0/24", since=5.0),))
    assert verdict(b, c)[0] == {"b": [], "c": ["10.2.0.0/24"]}
    b = node("b", "192.0.2.2", networks=(network("web", "10.2.0.0/24", since=5.0),))
    assert verdict(b, c)[0] == {"b": ["10.2.0.0/24"], "c": []}


def test_one_nodes_own_subnets_may_lie_in_each_other() -> None:
    both = node("b", "192.0.2.2", networks=(network("big", "10.2.0.0/16"), network("small", "10.2.3.0/24")))
    assert verdict(both) == ({"b": ["10.2.0.0/16", "10.2.3.0/24"]}, [])


def test_a_node_may_claim_around_its_own_and_no_one_elses() -> None:
    small = (network("x", "10.2.0.0/24", since=1.0), network("y", "10.2.1.0/24", since=2.0))
    b = node("b", "192.0.2.2", networks=(*small, network("z", "10.2.0.0/16", since=3.0)))
    c = node("c", "192.0.2.3", networks=(network("late", "10.2.9.0/24", since=4.0),))
    assert verdict(b, c)[0] == {"b": ["10.2.0.0/24", "10.2.1.0/24", "10.2.0.0/16"], "c": []}


def test_a_disputed_subnet_costs_only_itself() -> None:
    b = node("b", "192.0.2.2", "10.2.0.0/24", "10.3.0.0/24")
    c = node("c", "192.0.2.3", networks=(network("web", "10.3.0.0/24", since=1.0), network("x", "10.4.0.0/24")))
    assert verdict(b, c)[0] == {"b": ["10.2.0.0/24"], "c": ["10.3.0.0/24", "10.4.0.0/24"]}


def test_a_host_that_can_not_carry_ipv6_says_so_once_and_routes_the_rest() -> None:
    policy = replace(POLICY, no_ipv6="this host has no IPv6")
    peers = [node(f"n{i}", f"192.0.2.{i + 2}", f"10.{i + 2}.0.0/24", f"fd00:{i}::/64") for i in range(3)]
    routed, problems = verdict(*peers, policy=policy)
    assert routed == {"n0": ["10.2.0.0/24"], "n1": ["10.3.0.0/24"], "n2": ["10.4.0.0/24"]}
    assert problems == ["3 IPv6 networks of peers are not routed: this host has no IPv6"]


def test_a_claim_around_two_thousand_others_is_settled_step_by_step() -> None:
    peers = [node(f"n{i:04}", f"198.18.{i // 250}.{i % 250}", f"10.{i // 250 + 2}.{i % 250}.0/24") for i in range(2000)]
    greedy = node("zz", "192.0.2.9", networks=(network("all", "10.0.0.0/8", since=999.0),))
    policy = replace(POLICY, networks=())
    begun = time.process_time()
    accepted = accept([greedy, *peers], policy)
    assert time.process_time() - begun < 5.0, "it grows with the square of the peers"
    (problem,) = accepted.problems
    assert "node zz's network all 10.0.0.0/8 is refused: it overlaps 10.2.0.0/24" in problem.message
    old = replace(greedy, networks=(network("all", "10.0.0.0/8", since=1.0),))
    assert len(accept([old, *peers], policy).problems) == 2000


drawn = st.lists(
    st.builds(
        lambda name, host, nets, since: node(
            name, f"192.0.2.{host}", networks=(network("web", *nets, since=float(since)),)
        ),
        st.sampled_from("bcdefgh"),
        st.integers(1, 9),
        st.lists(
            st.sampled_from(["10.2.0.0/16", "10.2.1.0/24", "10.2.1.128/25", "10.3.0.0/24", "10.1.0.0/24", "fd00::/64"]),
            max_size=3,
            unique=True,
        ),
        st.integers(0, 3),
    ),
    max_size=7,
    unique_by=lambda n: n.id,
)


@given(drawn, drawn)
def test_the_verdict_depends_on_neither_order_nor_memory(before: list[Node], now: list[Node]) -> None:
    fresh = accept(now, POLICY)
    remembered = accept(list(reversed(now)), POLICY, accept(before, POLICY))
    assert fresh.nodes == remembered.nodes
    assert fresh.problems == remembered.problems


@given(drawn)
def test_what_is_accepted_never_overlaps(claims: list[Node]) -> None:
    accepted = accept(claims, POLICY)
    held = [(n.id, s) for n in accepted.nodes for w in n.networks for s in w.subnets]
    local = [("a", ip_network("10.1.0.0/24"))]
    for i, (one, first) in enumerate(held):
        for other, second in held[i + 1 :] + local:
            assert one == other or first.version != second.version or not first.overlaps(second)
    endpoints = [e for n in accepted.nodes for e in n.endpoints]
    assert len(set(endpoints)) == len(endpoints)
    assert ip_address("192.0.2.1") not in endpoints


@given(drawn)
def test_whatever_is_left_out_is_reported(claims: list[Node]) -> None:
    accepted = accept(claims, POLICY)
    asked = {(n.id, s) for n in claims for w in n.networks for s in w.subnets}
    got = {(n.id, s) for n in accepted.nodes for w in n.networks for s in w.subnets}
    named = {p.subject for p in accepted.problems}
    assert {name for name, _ in asked - got} <= named


def test_a_reserved_address_is_nobodys_endpoint() -> None:
    for address in ("255.255.255.255", "240.0.0.1"):
        assert verdict(node("b", address, "10.2.0.0/24"))[1] == [
            f"node b is not routed to: {address} can't be a tunnel's endpoint"
        ]


def test_one_wireguard_key_is_one_nodes() -> None:
    me = replace(ME, backend="wireguard")
    policy = replace(POLICY, me=me)
    one, two = (
        replace(node(name, endpoint, subnet), backend="wireguard", key="k", mac=Mac(bytes(6)))
        for name, endpoint, subnet in (("b", "192.0.2.2", "10.2.0.0/24"), ("c", "192.0.2.3", "10.3.0.0/24"))
    )
    assert verdict(one, two, policy=policy) == (
        {"b": ["10.2.0.0/24"]},
        ["node c is not routed to: node b has the same endpoint, VTEP MAC or WireGuard key"],
    )
    assert len(verdict(one, replace(two, key="l"), policy=policy)[0]) == 2
