"""explain: the packet's way for what is routed, and the reason for what isn't; and the lines of every kind of op."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace as changed

from tests.build import network, node, view
from weft.backends.tunnel import vtep_mac
from weft.core.commands import lines, text
from weft.core.explain import explain
from weft.core.plan import plan
from weft.model import Problem
from weft.objects import Address, Chain, Fdb, Jump, Link, Neighbour, NextHop, Object, Op, Route, Sysctl, Vxlan, Why

B = node("b", "192.0.2.2", "10.2.0.0/16", "10.2.3.0/24")
C = node("c", "192.0.2.3", "10.2.0.0/24")
OTHER = node("d", "192.0.2.4", vni=7)
REFUSED = Problem("c", "node c's network web 10.2.0.0/24 is refused: it overlaps 10.2.0.0/16, the older claim of b")
VIEW = replace(
    view(B, replace(C, networks=())), problems=(REFUSED, Problem("d", "node d is not routed to: its VNI is 7"))
)
CLAIMS = (B, C, OTHER)


def told(asked: str) -> tuple[bool, list[str]]:
    found, said = explain(asked, VIEW, plan(VIEW), CLAIMS)
    return found, [line.text for line in said]


def test_an_address_is_followed_as_the_packet_goes() -> None:
    found, said = told("10.2.3.9")
    assert found
    assert [line.split()[0] for line in said] == ["route", "nexthop", "neigh", "fdb"]
    assert said[0].startswith("route 10.2.3.0/24 nhid ")
    assert said[3] == "fdb 86:dd:f6:c2:3c:41 dev vxlan4096 dst 192.0.2.2 self permanent"


def test_without_next_hop_objects_the_way_has_three_steps() -> None:
    old = replace(VIEW, host=replace(VIEW.host, nexthop_objects=False))
    found, said = explain("10.2.3.0/25", old, plan(old), CLAIMS)
    assert found
    assert [line.text.split()[0] for line in said] == ["route", "neigh", "fdb"]


def test_local_networks_this_host_and_nodes() -> None:
    assert told("10.1.0.9") == (True, ["10.1.0.0/24 is this host's network home"])
    named = replace(VIEW, networks=(replace(network("home", "10.1.0.0/24"), bridge="br-home"),))
    assert explain("10.1.0.9", named, plan(named))[1][0].text.endswith("network home on br-home")
    six = replace(VIEW, networks=(network("home", "10.1.0.0/24"), network("six", "fd00:9::/64")))
    both = replace(VIEW, beside=(six,))
    assert [line.text for line in explain("fd00:9::7", both, plan(VIEW))[1]] == [
        "fd00:9::/64 is this host's network six"
    ]
    assert len(explain("10.1.0.9", both, plan(VIEW))[1]) == 1, "said once, though two overlays know it"
    assert told("a") == (True, ["a is this host"])
    found, said = told("b")
    assert found
    assert len(said) == 5
    assert told("c")[1][-1] == REFUSED.message
    assert told("d") == (False, ["node d is not routed to: its VNI is 7"])
    silent = replace(VIEW, problems=())
    assert explain("d", silent, plan(silent), CLAIMS)[1][0].text == "node d is known, but not routed to"


def test_what_is_refused_or_unknown_says_so() -> None:
    without = replace(view(replace(C, networks=())), problems=(REFUSED,))
    found, said = explain("10.2.0.1", without, plan(without), (C,))
    assert not found
    assert [line.text for line in said] == [REFUSED.message]
    assert told("192.0.2.3")[1] == [
        "192.0.2.3 is the tunnel endpoint of node c: the underlay leads there, not the overlay"
    ]
    assert told("10.99.0.1") == (
        False,
        ["no node announces a network that holds 10.99.0.1; routed to: 10.2.0.0/16, 10.2.3.0/24"],
    )
    many = view(*(node(f"n{i}", f"192.0.2.{i + 2}", f"10.2.{i}.0/24") for i in range(12)))
    assert explain("10.99.0.1", many, plan(many))[1][0].text.endswith("and 4 more")
    with pytest.raises(ValueError, match="'nonsense' is no address, no prefix and no known node; nodes: b, c, d"):
        told("nonsense")


WHY = Why("test", "b", "because")
FDB_LINE = ["bridge fdb del 0e:00:00:00:00:00 dev vxlan7 dst fd00::2 self"]
LINK = Link("vxlan7", vtep_mac("a", 7), 1430, Vxlan(7, 4789, ip_address("fd00::1"), True), "weft:agent:a")


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op("remove", LINK, WHY), ["ip link del dev vxlan7"]),
        (
            Op("change", LINK, WHY, Link("vxlan7", vtep_mac("b", 7), 1400, LINK.vxlan, "", False)),
            ["ip link set dev vxlan7 address 0e:00:00:00:00:00 mtu 1430 alias weft:agent:a up"],
        ),
        (Op("change", LINK, WHY), ["ip link set dev vxlan7 address 0e:00:00:00:00:00 mtu 1430 alias weft:agent:a up"]),
        (Op("remove", Sysctl("net/ipv4/ip_forward", "1"), WHY), []),
        (
            Op("remove", Route(ip_network("10.2.0.0/24"), "vxlan7", table=100, nexthop=5, metric=9, mtu=1350), WHY),
            ["ip route del 10.2.0.0/24 proto 76 table 100 metric 9"],
        ),
        (Op("remove", Route(ip_network("fd00::/64"), "vxlan7"), WHY), ["ip -6 route del fd00::/64 proto 76"]),
        (Op("remove", NextHop(5, "vxlan7", ip_address("192.0.2.2")), WHY), ["ip nexthop del id 5"]),
        (
            Op("remove", Neighbour("vxlan7", ip_address("192.0.2.2"), vtep_mac("b", 7)), WHY),
            ["ip neigh del 192.0.2.2 dev vxlan7"],
        ),
        (
            Op("change", LINK, WHY, Link("vxlan7", LINK.mac, 1400, LINK.vxlan, LINK.alias)),
            ["ip link set dev vxlan7 mtu 1430"],
        ),
        (
            Op("change", LINK, WHY, changed(LINK, master=5, vxlan=changed(LINK.vxlan, learning=False))),
            ["ip link set dev vxlan7 nomaster", "ip link set dev vxlan7 type vxlan learning"],
        ),
        (Op("add", Address("vxlan7", ip_interface("10.1.0.1/32")), WHY), ["ip address add 10.1.0.1/32 dev vxlan7"]),
        (
            Op("change", Route(ip_network("10.2.0.0/24"), "vxlan7", table=100, mtu=1350), WHY),
            ["ip route replace 10.2.0.0/24 dev vxlan7 proto 76 table 100 mtu 1350"],
        ),
        (
            Op("add", Route(ip_network("10.2.0.0/24"), "vxlan7", via=ip_address("fe80::1"), metric=5), WHY),
            ["ip route add 10.2.0.0/24 via inet6 fe80::1 dev vxlan7 proto 76 metric 5"],
        ),
        (Op("remove", Fdb("vxlan7", vtep_mac("a", 7), ip_address("fd00::2")), WHY), FDB_LINE),
    ],
)
def test_ops_as_lines(op: Op, expected: list[str]) -> None:
    own = LINK.mac.hex(":")
    assert [line.replace(own, "0e:00:00:00:00:00") for line in lines(op)] == expected


def test_objects_as_text() -> None:
    assert text(Sysctl("net/ipv4/ip_forward", "1")) == "sysctl net.ipv4.ip_forward = 1"
    assert text(LINK).startswith("link vxlan7 type vxlan id 7 dstport 4789 local fd00::1 learning mtu 1430 address ")
    assert text(Chain(4, "nat", "WEFT-x", ("a",))) == "chain nat WEFT-x (IPv4, 1 rules)"
    assert text(Jump(6, "raw", "PREROUTING", "WEFT-x")) == "jump raw PREROUTING → WEFT-x (IPv6)"
    assert text(Address("vxlan7", ip_interface("fd00::1/128"))) == "address fd00::1/128 dev vxlan7 nodad"
    for alien in (Chain(4, "nat", "WEFT-x", ()), Jump(4, "nat", "POSTROUTING", "WEFT-x")):
        with pytest.raises(TypeError, match=r"no line is known for a (Chain|Jump)"):
            lines(Op("add", alien, WHY))
    for missing in ("key", "rank"):
        with pytest.raises(TypeError, match=f"Object has no {missing}"):
            getattr(Object(), missing)
    assert Object().needs == ()
    assert Object().fixed is None


def test_beside_flannel_its_own_networks_are_told_as_flannels() -> None:
    """flanneld routes to the lease itself; the registrar has only the address that it probes."""
    there = replace(
        node("b", "192.0.2.2", networks=(network("web", "10.9.2.0/24"), network("lease", "10.5.2.0/24"))),
        backend="lease",
        overlay=(ip_address("10.5.2.0"),),
    )
    base = view(there)
    me = replace(base.me, backend="lease")
    profile = replace(base.profile, role="registrar", device="flannel.1", shared=True, gateway="overlay", metric=8624)
    beside = replace(base, me=me, profile=profile)
    found, said = explain("10.5.2.9", beside, plan(beside), (there,), {"b": "directly: its tunnel answers"})
    assert found
    assert [line.text for line in said] == [
        "10.5.2.9 is in 10.5.2.0/24, which flannel.1 of flannel's leads to: node b",
        "b: directly: its tunnel answers",
    ]
    found, said = explain("b", beside, plan(beside), (there,), {"b": "directly: its tunnel answers"})
    assert said[0].text == "b: directly: its tunnel answers"
