"""plan(view): golden text of the whole plan, and that memory never changes the result."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import CHAINS, network, node, uplink, view
from weft.backends import vxlan
from weft.backends.tunnel import SLOTS, Tunnel, link_local, vtep_mac
from weft.core import layered as layered_module
from weft.core import slots as slots_module
from weft.core.commands import script, text
from weft.core.plan import HERE, Plan, plan
from weft.model import Host, Node, Profile, Uplink, View, mac_text, parse_mac
from weft.objects import Chain, Fdb, Jump, Link, NextHop, Op, Route, Sysctl, route_key


def shown(view_: View) -> list[str]:
    wanted = [w for w in plan(view_).wanted.values() if not isinstance(w.object, Chain | Jump)]
    return script(Op("add", w.object, w.why) for w in sorted(wanted, key=lambda w: w.object.rank))


def test_two_hosts_over_ipv4() -> None:
    assert shown(view(node("b", "192.0.2.2", "10.2.0.0/24", "10.2.1.0/24"))) == [
        "sysctl -w net.ipv4.ip_forward=1",
        "ip link add vxlan4096 address 3e:4c:3f:d8:e8:c5 mtu 1450"
        " type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning",
        "ip link set dev vxlan4096 alias weft:agent:a up",
        "ip address add 10.1.0.1/32 dev vxlan4096",
        "ip neigh add 192.0.2.2 lladdr 86:dd:f6:c2:3c:41 dev vxlan4096 nud permanent",
        "bridge fdb add 86:dd:f6:c2:3c:41 dev vxlan4096 dst 192.0.2.2 self permanent",
        "ip nexthop add id 2090570276 via 192.0.2.2 dev vxlan4096 onlink proto 76",
        "ip route add 10.2.0.0/24 nhid 2090570276 proto 76 metric 7600 src 10.1.0.1",
        "ip route add 10.2.1.0/24 nhid 2090570276 proto 76 metric 7600 src 10.1.0.1",
    ]


def test_ipv6_networks_go_through_the_link_local_of_the_peers_mac() -> None:
    lines = shown(view(node("b", "192.0.2.2", "10.2.0.0/24", "fd00:2::/64")))
    gateway = link_local(vtep_mac("b", 4096))
    assert [line for line in lines if "neigh" in line or "fd00" in line or str(gateway) in line] == [
        "ip neigh add 192.0.2.2 lladdr 86:dd:f6:c2:3c:41 dev vxlan4096 nud permanent",
        f"ip neigh add {gateway} lladdr 86:dd:f6:c2:3c:41 dev vxlan4096 nud permanent",
        f"ip nexthop add id 2090570277 via {gateway} dev vxlan4096 onlink proto 76",
        "ip -6 route add fd00:2::/64 nhid 2090570277 proto 76 metric 7600",
    ]


def six(me: str, *nodes: Node) -> View:
    here = Node("a", (ip_address(me),), 4789, 4096, vtep_mac("a", 4096), 1500, source="multicast")
    return view(*nodes, me=here, profile=Profile(underlay=6))


def test_ipv6_underlay_takes_70_octets_and_carries_ipv4_through_an_ipv6_gateway() -> None:
    wanted = plan(six("fd00::1", node("b", "fd00::2", "10.2.0.0/24"))).wanted
    link = next(w.object for w in wanted.values() if isinstance(w.object, Link))
    hop = next(w.object for w in wanted.values() if isinstance(w.object, NextHop))
    fdb = next(w.object for w in wanted.values() if isinstance(w.object, Fdb))
    assert (link.mtu, str(link.vxlan.local)) == (1430, "fd00::1")
    assert hop.via == link_local(vtep_mac("b", 4096))
    assert str(fdb.dst) == "fd00::2"


def test_a_kernel_without_next_hop_objects_gets_gateways_spread_over_metrics() -> None:
    peers = [node(f"n{i:03}", f"192.0.2.{i + 2}", f"10.2.{i}.0/24") for i in range(100)]
    wanted = plan(view(*peers, host=Host((uplink(),), nexthop_objects=False))).wanted
    routes = [w.object for w in wanted.values() if isinstance(w.object, Route)]
    assert not any(isinstance(w.object, NextHop) for w in wanted.values())
    assert all(r.via is not None and r.onlink and r.dev == "vxlan4096" for r in routes)
    assert len({r.metric for r in routes}) > 80
    assert text(routes[0]) == (
        f"route 10.2.0.0/24 via 192.0.2.2 dev vxlan4096 onlink proto 76 metric {routes[0].metric} src 10.1.0.1"
    )


def test_a_peer_with_a_smaller_uplink_mtu_gets_it_on_its_routes() -> None:
    wanted = plan(view(node("b", "192.0.2.2", "10.2.0.0/24", mtu=1400), node("c", "192.0.2.3", "10.3.0.0/24"))).wanted
    mtus = {str(w.object.dst): w.object.mtu for w in wanted.values() if isinstance(w.object, Route)}
    assert mtus == {"10.2.0.0/24": 1350, "10.3.0.0/24": 0}


def test_ipv6_networks_turn_on_ipv6_forwarding_without_losing_the_advertised_default_route() -> None:
    own = (network("home", "fd00:1::/64"),)
    taking = Uplink("eth0", 1500, uplink().addresses, uplink().defaults, accepts_ra=True)
    wanted = plan(view(networks=own, host=Host((taking,)))).wanted
    assert [(w.object.path, w.object.value) for w in wanted.values() if isinstance(w.object, Sysctl)] == [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ]


def test_the_firewall_is_part_of_this_hosts_part() -> None:
    wanted = plan(view(host=Host((uplink(),), chains=CHAINS))).wanted
    (chain,) = (w.object for k, w in wanted.items() if isinstance(w.object, Chain) and k[2] == "filter")
    assert chain.name == "WEFT-vxlan4096-FWD"
    assert any("10.1.0.0/24" in rule for rule in chain.rules)


def test_every_object_says_who_asked_for_it() -> None:
    wanted = plan(view(node("b", "192.0.2.2", "10.2.0.0/24"))).wanted
    reasons = {type(w.object).__name__: str(w.why) for w in wanted.values()}
    assert reasons["Route"] == "network web of node b (b, told by multicast)"
    assert reasons["Fdb"] == "tunnel to node b (b, told by multicast)"
    assert reasons["Link"] == "this host's end of the overlay (a, told by settings)"


def test_the_vtep_mac_follows_from_the_node_and_is_local_unicast() -> None:
    assert vtep_mac("b", 1) == vtep_mac("b", 1) != vtep_mac("b", 2)
    assert all(vtep_mac(str(i), 1)[0] & 3 == 2 for i in range(300))
    assert parse_mac(mac_text(vtep_mac("b", 1))) == vtep_mac("b", 1)
    assert str(link_local(parse_mac("02:00:5e:10:00:01"))) == "fe80::5eff:fe10:1"


@pytest.mark.parametrize("text_", ["", "02:00", "020000000000", "02:00:00:00:00:zz", "02:00:00:00:00:00:00"])
def test_what_is_no_mac_is_refused(text_: str) -> None:
    with pytest.raises(ValueError, match=r"octets|hexadecimal"):
        parse_mac(text_)


def test_no_endpoint_of_the_underlays_family_is_an_error() -> None:
    with pytest.raises(ValueError, match="no IPv6 endpoint"):
        plan(view(profile=Profile(underlay=6)))
    with pytest.raises(ValueError, match="node b has no IPv4 endpoint"):
        list(vxlan.reach(node("b", "fd00::2"), Tunnel.of(view()), 0))


def test_a_part_is_not_made_again_for_a_peer_that_did_not_change() -> None:
    b, c = node("b", "192.0.2.2", "10.2.0.0/24"), node("c", "192.0.2.3", "10.3.0.0/24")
    first = plan(view(b, c))
    second = plan(view(node("b", "192.0.2.2", "10.2.0.0/24"), node("c", "192.0.2.9", "10.3.0.0/24")), first)
    assert second.parts["b"] is first.parts["b"]
    assert second.parts["c"] is not first.parts["c"]
    assert {key[0] for key in second.moved} == {"fdb", "neighbour", "nexthop", "route"}
    assert plan(view(b, c), first).moved == set()


def test_one_of_many_that_changes_or_leaves_is_all_that_changes() -> None:
    many = [node(f"n{i}", f"192.0.2.{i + 2}", f"10.{i + 2}.0.0/24") for i in range(8)]
    before = plan(view(*many))
    for now in ([*many[1:]], [node("n0", "192.0.2.99", "10.77.0.0/24"), *many[1:]]):
        assert plan(view(*now), before).wanted == plan(view(*now)).wanted


def test_two_nodes_that_ask_for_one_key_are_settled_by_their_order() -> None:
    b, c = node("b", "192.0.2.2", "10.2.0.0/24"), node("c", "192.0.2.3", "10.2.0.0/24")
    both = plan(view(b, c))
    assert both.wanted[route_key(ip_network("10.2.0.0/24"), 254, 7600)].why.peer == "b"
    assert plan(view(c), both).wanted == plan(view(c)).wanted
    assert plan(view(b, c), plan(view(c))).wanted == both.wanted


def test_two_that_ask_for_one_key_from_the_same_moment_on_are_settled_by_their_order() -> None:
    many = [node(f"n{i}", f"192.0.2.{i + 2}", f"10.{i + 2}.0.0/24") for i in range(8)]
    before = plan(view(*many))
    many[6:] = [node("n6", "192.0.2.8", "10.77.0.0/24"), node("n7", "192.0.2.9", "10.77.0.0/24")]
    both = plan(view(*many), before)
    assert both == plan(view(*many))
    route = route_key(ip_network("10.77.0.0/24"), 254, 7600)
    assert both.wanted[route].why.peer == "n6"
    assert both.contested == {route}
    assert plan(view(*many[:7]), both) == plan(view(*many[:7]))


def test_next_hop_ids_differ_even_if_hashes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "crc32", lambda *_: SLOTS - 1)
    wanted = plan(view(*(node(f"n{i}", f"192.0.2.{i + 2}", f"10.2.{i}.0/24") for i in range(5)))).wanted
    ids = [w.object.id for w in wanted.values() if isinstance(w.object, NextHop)]
    assert len(set(ids)) == 5
    assert all(0x70000000 <= i <= 0x7FFFFFFF for i in ids)


def test_one_of_two_thousand_takes_a_fraction_of_all() -> None:
    peers = [node(f"n{i:04}", f"198.18.{i // 250}.{i % 250}", f"10.{i // 250 + 2}.{i % 250}.0/24") for i in range(2000)]
    begun = time.process_time()
    remembered = plan(view(*peers))
    whole = time.process_time() - begun
    times = []
    for i in range(20):
        peers[i * 99] = replace(peers[i * 99], mtu=1400)
        now, before = view(*peers), remembered
        begun = time.process_time()
        remembered = plan(now, before)
        times.append(time.process_time() - begun)
        assert len(remembered.moved) == 4
    assert remembered == plan(view(*peers))
    assert sorted(times)[10] < whole / 15, "measured: a fiftieth"


peers = st.dictionaries(
    st.sampled_from("bcdefgh"),
    st.tuples(st.integers(2, 9), st.lists(st.integers(0, 5), max_size=3, unique=True), st.sampled_from([1400, 1500])),
    max_size=7,
)
beside = st.sampled_from(["", "", "", "vxlan1", "vxlan2"])


def from_draw(drawn: dict[str, tuple[int, list[int], int]], other: str = "") -> View:
    """`other`: the device of an overlay beside it, with the same peers."""
    nodes = [
        node(name, f"192.0.2.{host}", *(f"10.{2 + s}.0.0/24" for s in subnets), mtu=mtu)
        for name, (host, subnets, mtu) in drawn.items()
    ]
    others = (view(*nodes[1:], profile=Profile(device=other)),) if other else ()
    return replace(view(*nodes), beside=others)


@pytest.mark.parametrize("slots", [11, SLOTS])
@settings(max_examples=200)
@given(st.lists(st.tuples(peers, beside), min_size=1, max_size=4))
def test_memory_never_changes_a_plan(
    slots: int, steps: list[tuple[dict[str, tuple[int, list[int], int]], str]]
) -> None:
    remembered = Plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "SLOTS", slots)
        for drawn in steps:
            fresh, before = plan(from_draw(*drawn)), remembered
            remembered = plan(from_draw(*drawn), before)
            assert remembered == fresh
            assert HERE in fresh.parts
            differing = {k for k in {**before.wanted, **fresh.wanted} if before.wanted.get(k) != fresh.wanted.get(k)}
            assert differing <= remembered.moved


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 19), st.sampled_from(["", "vxlan1"]), st.booleans()), max_size=6))
def test_nor_where_one_of_many_changes(steps: list[tuple[int, str, bool]]) -> None:
    """Both overlays ask for forwarding; two nodes ask for one route; one comes, goes or moves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered_module, "MOST", 9)
        _one_after_the_other(steps)


def _one_after_the_other(steps: list[tuple[int, str, bool]]) -> None:
    many = {f"n{i:02}": (i + 2, [i % 12], 1500) for i in range(14)}
    remembered = plan(from_draw(many))
    for number, other, stays in steps:
        name = f"n{number:02}"
        many.pop(name, None)
        if stays:
            many[name] = (200 + number, [number, number % 5], 1400)
        now = from_draw(dict(sorted(many.items())), other)
        remembered = plan(now, remembered)
        assert remembered == plan(now)
