"""plan(view) as docker-router needs it: own addresses with their network, flooding, several ends, devices side by side,
and no kernel at all."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import CHAINS, network, node, uplink, view
from weft.backends import multipath
from weft.backends.tunnel import NEXT_HOP_BASE, Tunnel, vtep_mac
from weft.core import slots
from weft.core.commands import script
from weft.core.diff import Facts, diff
from weft.core.explain import explain
from weft.core.plan import Plan, plan
from weft.model import Host, Mac, Multipath, Node, Profile, Relay, TextFile, View
from weft.objects import ZERO_MAC, Chain, Jump, NextHop, NextHopGroup, Object, Op, Route, Sysctl
from weft.objects.outside import File

SPACE = ip_network("192.168.100.0/24")
SPACE6 = ip_network("fd00:100::/64")
ROUTER = Profile("router", gateway="overlay", spaces=(SPACE, SPACE6))
FLOOD = replace(ROUTER, flood=True, learning=True)


def stack(name: str, endpoint: str, overlay: str, *subnets: str, mac: Mac | None = None) -> Node:
    """A stack's router: its MAC follows from its endpoint."""
    known = vtep_mac(endpoint, 1000) if mac is None else mac
    addresses = tuple(map(ip_address, overlay.split(","))) if overlay else ()
    return replace(node(name, endpoint, *subnets, vni=1000, mac=known), overlay=addresses)


ME = stack("a", "192.0.2.1", "192.168.100.1", "172.20.0.0/16")
B = stack("b", "192.0.2.2", "192.168.100.2", "172.21.0.0/16")
SILENT = stack("c", "192.0.2.3", "192.168.100.3", "172.22.0.0/16", mac=ZERO_MAC)


def seen(*nodes: Node, me: Node = ME, profile: Profile = ROUTER, several: Iterable[Multipath] = ()) -> View:
    return replace(view(*nodes, me=me, networks=me.networks, profile=profile), multipath=tuple(several))


def end(name: str, endpoint: str, overlay: str, mac: Mac | None = None) -> Relay:
    one = stack(name, endpoint, overlay, mac=mac)
    return Relay(one.id, one.endpoints, one.mac, one.overlay)


def several(subnet: str, *ends: Relay, mtu: int = 0) -> Multipath:
    return Multipath(ip_network(subnet), ends, "discovery.json", f"network {subnet} of stack s", mtu)


R1 = end("r1", "192.0.2.11", "192.168.100.11,fd00:100::11")
R2 = end("r2", "192.0.2.12", "192.168.100.12,fd00:100::12")
R3 = end("r3", "192.0.2.13", "192.168.100.13")
R1_ID, R2_ID, GROUP_ID = 1677803940, 1715994621, 1752336162


def shown(view_: View, *words: str) -> list[str]:
    """Of the plan's lines, those with one of `words`; all but the firewall's without any."""
    wanted = [w for w in plan(view_).wanted.values() if not isinstance(w.object, Chain | Jump | Sysctl)]
    lines = script(Op("add", w.object, w.why) for w in sorted(wanted, key=lambda w: w.object.rank))
    return [line for line in lines if not words or any(word in line for word in words)]


def things(view_: View, *kinds: type[Object]) -> list[Object]:
    return [w.object for w in plan(view_).wanted.values() if isinstance(w.object, kinds)]


def steps(before: View, after: View) -> list[str]:
    """What leads from one to the other."""
    old = plan(before)
    now = {key: want.object for key, want in old.wanted.items()}
    return script(diff(plan(after, old).wanted, Facts(now)).ops)


# -- one device, static entries --------------------------------------------------------------------------------------


def test_a_router_with_one_peer_that_told_its_mac() -> None:
    assert shown(seen(B)) == [
        "ip link add vxlan1000 address 32:fb:26:64:aa:fb mtu 1450"
        " type vxlan id 1000 dstport 4789 local 192.0.2.1 nolearning",
        "ip link set dev vxlan1000 alias weft:router:a up",
        "ip address add 192.168.100.1/24 dev vxlan1000 noprefixroute",
        "ip neigh add 192.168.100.2 lladdr 6a:8a:71:ed:43:54 dev vxlan1000 nud permanent",
        "bridge fdb add 6a:8a:71:ed:43:54 dev vxlan1000 dst 192.0.2.2 self permanent",
        "ip nexthop add id 2119021782 via 192.168.100.2 dev vxlan1000 onlink proto 76",
        "ip route add 192.168.100.0/24 dev vxlan1000 proto 76 metric 7600",
        "ip route add 172.21.0.0/16 nhid 2119021782 proto 76 metric 7600",
    ]


def test_of_spaces_the_narrowest_holds_and_an_address_outside_stands_alone() -> None:
    me = replace(ME, overlay=tuple(map(ip_address, ("192.168.100.1", "10.7.0.1", "fd00:100::1"))))
    wide = replace(ROUTER, spaces=(ip_network("192.168.0.0/16"), *ROUTER.spaces))
    assert shown(seen(me=me, profile=wide), "address add", "route add") == [
        "ip address add 192.168.100.1/24 dev vxlan1000 noprefixroute",
        "ip address add 10.7.0.1/32 dev vxlan1000",
        "ip address add fd00:100::1/64 dev vxlan1000 nodad noprefixroute",
        "ip route add 192.168.100.0/24 dev vxlan1000 proto 76 metric 7600",
        "ip -6 route add fd00:100::/64 dev vxlan1000 proto 76 metric 7600",
    ]


def test_another_length_is_made_before_the_old_one_goes() -> None:
    alone = replace(ROUTER, spaces=())
    assert steps(seen(B, profile=alone), seen(B)) == [
        "ip address add 192.168.100.1/24 dev vxlan1000 noprefixroute",
        "ip route add 192.168.100.0/24 dev vxlan1000 proto 76 metric 7600",
        "ip address del 192.168.100.1/32 dev vxlan1000",
    ]
    six = replace(ME, overlay=(ip_address("fd00:100::1"),))
    assert steps(seen(B, me=six, profile=alone), seen(B, me=six))[:2] == [
        "ip address del fd00:100::1/128 dev vxlan1000",
        "ip address add fd00:100::1/64 dev vxlan1000 nodad noprefixroute",
    ]


# -- peers without a MAC, and flooding -------------------------------------------------------------------------------


def test_a_peer_without_a_mac_is_flooded_to() -> None:
    assert shown(seen(SILENT), "fdb", "neigh", "nexthop", "172.") == [
        "bridge fdb append 00:00:00:00:00:00 dev vxlan1000 dst 192.0.2.3 self permanent",
        "ip nexthop add id 1883493882 via 192.168.100.3 dev vxlan1000 onlink proto 76",
        "ip route add 172.22.0.0/16 nhid 1883493882 proto 76 metric 7600",
    ]


def test_peers_at_one_endpoint_share_one_entry_until_the_last_one_goes() -> None:
    other = stack("d", "192.0.2.3", "192.168.100.4", "172.23.0.0/16", mac=ZERO_MAC)
    both, one = seen(SILENT, other), seen(SILENT)
    assert len(shown(both, "fdb")) == 1
    assert not any("fdb" in line for line in steps(both, one))
    assert any(line.startswith("bridge fdb del 00:00") for line in steps(one, seen()))


def test_a_peer_with_neither_mac_nor_overlay_address_gets_nothing() -> None:
    assert shown(seen(replace(SILENT, overlay=()))) == shown(seen())


def test_an_ipv4_subnet_may_go_through_an_ipv6_address_but_not_the_other_way() -> None:
    six = replace(
        SILENT, overlay=(ip_address("fd00:100::3"),), networks=(network("n", "172.22.0.0/16", "fd00:22::/64"),)
    )
    assert shown(seen(six), "nexthop", "fd00:22", "172.22") == [
        "ip nexthop add id 1883493883 via fd00:100::3 dev vxlan1000 onlink proto 76",
        "ip route add 172.22.0.0/16 nhid 1883493883 proto 76 metric 7600",
        "ip -6 route add fd00:22::/64 nhid 1883493883 proto 76 metric 7600",
    ]
    four = replace(six, overlay=(ip_address("192.168.100.3"),))
    assert not shown(seen(four), "fd00:22")


def test_flooding_by_the_settings_takes_neighbours_away_and_keeps_who_has_no_address() -> None:
    bare = stack("e", "192.0.2.5", "", "172.25.0.0/16")
    assert shown(seen(B, bare, profile=FLOOD), "fdb", "neigh", "learning") == [
        "ip link add vxlan1000 address 32:fb:26:64:aa:fb mtu 1450"
        " type vxlan id 1000 dstport 4789 local 192.0.2.1 learning",
        "ip neigh add 192.0.2.5 lladdr b6:c6:b2:f3:fc:d6 dev vxlan1000 nud permanent",
        "bridge fdb append 00:00:00:00:00:00 dev vxlan1000 dst 192.0.2.2 self permanent",
        "bridge fdb add b6:c6:b2:f3:fc:d6 dev vxlan1000 dst 192.0.2.5 self permanent",
    ]
    assert steps(seen(B), seen(B, profile=FLOOD)) == [
        "ip link set dev vxlan1000 type vxlan learning",
        "bridge fdb append 00:00:00:00:00:00 dev vxlan1000 dst 192.0.2.2 self permanent",
        "bridge fdb del 6a:8a:71:ed:43:54 dev vxlan1000 dst 192.0.2.2 self",
        "ip neigh del 192.168.100.2 dev vxlan1000",
    ]


def test_explain_follows_a_flooded_way_to_its_endpoint() -> None:
    view_ = seen(B, SILENT)
    found, said = explain("172.22.0.9", view_, plan(view_))
    assert found
    assert [line.text.split()[0] for line in said] == ["route", "nexthop", "fdb"]
    assert "dst 192.0.2.3" in said[-1].text
    aside = replace(view_, me=B, nodes=(), beside=(view_,))
    assert explain("172.22.0.9", aside, plan(aside))[1] == [*said]


def test_explain_of_a_peers_own_address_shows_the_network_and_the_neighbour() -> None:
    view_ = seen(B)
    said = [line.text.split()[0] for line in explain("192.168.100.2", view_, plan(view_))[1]]
    assert said == ["route", "neigh", "fdb"]
    assert [line.text.split()[0] for line in explain("192.168.100.0/25", view_, plan(view_))[1]] == ["route"]


# -- several ends ----------------------------------------------------------------------------------------------------


def test_a_subnet_of_two_routers_is_a_group() -> None:
    assert shown(seen(several=(several("172.30.0.0/16", R1, R2, mtu=1400),)), "neigh", "nexthop", "172.30") == [
        "ip neigh add 192.168.100.11 lladdr 72:8b:64:1b:9b:7f dev vxlan1000 nud permanent",
        "ip neigh add 192.168.100.12 lladdr 2a:48:42:f8:68:88 dev vxlan1000 nud permanent",
        f"ip nexthop add id {R1_ID} via 192.168.100.11 dev vxlan1000 onlink proto 76",
        f"ip nexthop add id {R2_ID} via 192.168.100.12 dev vxlan1000 onlink proto 76",
        f"ip nexthop add id {GROUP_ID} group {R1_ID}/{R2_ID} proto 76",
        f"ip route add 172.30.0.0/16 nhid {GROUP_ID} proto 76 metric 7600 mtu 1350",
    ]


def test_subnets_with_the_same_ends_share_a_group_and_ipv6_has_its_own() -> None:
    subnets = ("172.31.0.0/16", "172.30.0.0/16", "fd00:30::/64", "172.32.0.0/16")
    found = things(
        seen(several=(*(several(s, R1, R2) for s in subnets), several("172.33.0.0/16", R1, R3))), NextHopGroup, Route
    )
    groups = {t.id: t.members for t in found if isinstance(t, NextHopGroup)}
    used = {str(t.dst): t.nexthop for t in found if isinstance(t, Route)}
    assert len(groups) == 3
    assert used["172.30.0.0/16"] == used["172.31.0.0/16"] == used["172.32.0.0/16"] == GROUP_ID
    assert len({used[s] for s in ("172.30.0.0/16", "fd00:30::/64", "172.33.0.0/16")}) == 3


def test_an_end_that_goes_or_comes_is_one_replacement_of_the_group() -> None:
    three, two = (seen(several=(several("172.30.0.0/16", *ends),)) for ends in ((R1, R2, R3), (R1, R2)))
    goes, comes = steps(three, two), steps(two, three)
    assert goes[0] == f"ip nexthop replace id {GROUP_ID} group {R1_ID}/{R2_ID} proto 76"
    assert [line.split()[1:3] for line in goes[1:]] == [["nexthop", "del"], ["neigh", "del"]]
    assert [line.split()[1:3] for line in comes] == [["neigh", "add"], ["nexthop", "add"], ["nexthop", "replace"]]


def test_the_last_but_one_leads_back_to_a_plain_route_before_the_group_goes() -> None:
    left = stack("r1", "192.0.2.11", "192.168.100.11", "172.30.0.0/16")
    lines = steps(seen(replace(left, networks=()), several=(several("172.30.0.0/16", R1, R2),)), seen(left))
    assert [" ".join(line.split()[1:3]) for line in lines] == [
        "nexthop add",
        "route replace",
        "nexthop del",
        "nexthop del",
        "nexthop del",
        "neigh del",
    ]
    assert lines[2] == f"ip nexthop del id {GROUP_ID}"


def test_ends_without_a_mac_are_flooded_to_and_ends_without_anything_are_left_out() -> None:
    silent, bare = end("r4", "192.0.2.14", "192.168.100.14", mac=ZERO_MAC), end("r5", "192.0.2.15", "", mac=ZERO_MAC)
    view_ = seen(several=(several("172.30.0.0/16", R1, silent, bare), several("172.31.0.0/16", bare)))
    assert [line.split()[3] for line in shown(view_, "neigh")] == ["192.168.100.11"]
    (group,) = things(view_, NextHopGroup)
    assert len(group.members) == 2  # type: ignore[attr-defined]
    assert not shown(view_, "172.31")


def test_a_kernel_without_next_hop_objects_takes_the_first_end_and_says_so() -> None:
    view_ = replace(
        seen(several=(several("172.30.0.0/16", R1, R2, mtu=1400),)), host=Host((uplink(),), nexthop_objects=False)
    )
    (route,) = (w for w in plan(view_).wanted.values() if isinstance(w.object, Route) and w.object.dst != SPACE)
    assert script([Op("add", route.object, route.why)]) == [
        "ip route add 172.30.0.0/16 via 192.168.100.11 dev vxlan1000 onlink proto 76 metric 8587 mtu 1350"
    ]
    assert str(route.why) == (
        "network 172.30.0.0/16 of stack s, through r1 alone: this kernel has no next-hop objects, so 1 other end can't "
        "share its flows (r1, told by discovery.json)"
    )
    assert not things(view_, NextHop, NextHopGroup)


def test_ids_of_groups_and_ends_are_their_own_even_if_hashes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipath, "crc32", lambda *_: multipath.IDS - 1)
    found = things(seen(B, several=(several("172.30.0.0/16", R1, R2, R3),)), NextHop, NextHopGroup)
    ids = [t.id for t in found if isinstance(t, NextHop | NextHopGroup)]
    assert len(set(ids)) == 5
    assert sum(one < NEXT_HOP_BASE for one in ids) == 4
    assert all(0x60000000 <= one <= 0x7FFFFFFF for one in ids)


def test_explain_shows_every_end() -> None:
    view_ = seen(several=(several("172.30.0.0/16", R1, R2),))
    found, said = explain("172.30.0.9", view_, plan(view_), (stack("r1", "192.0.2.11", "192.168.100.11"),))
    assert found
    assert [line.text.split()[0] for line in said] == ["route", "nexthop", "nexthop", "neigh", "nexthop", "neigh"]
    assert str(said[0].why) == "network 172.30.0.0/16 of stack s (r1, r2, told by discovery.json)"
    r1 = stack("r1", "192.0.2.11", "192.168.100.11")
    with_nodes = replace(view_, nodes=(r1,))
    asked = explain("r1", with_nodes, plan(with_nodes), (r1,))[1]
    assert [line.text.split()[0] for line in asked] == ["fdb", "neigh", "nexthop", "nexthop", "route"]
    assert [line.text.split()[0] for line in explain("172.30.0.9", with_nodes, plan(with_nodes))[1]] == [
        "route", "nexthop", "nexthop", "neigh", "fdb", "nexthop", "neigh"
    ]  # fmt: skip


@given(st.lists(st.lists(st.sampled_from([R1, R2, R3]), min_size=2, max_size=3, unique=True), max_size=4))
def test_memory_changes_nothing(sets: list[list[Relay]]) -> None:
    remembered = Plan()
    for count in (len(sets), 1, 0, len(sets)):
        ways = [several(f"172.{30 + i}.0.0/16", *ends) for i, ends in enumerate(sets[:count])]
        view_ = seen(B, several=ways)
        remembered = plan(view_, remembered)
        assert remembered == plan(view_)


# -- devices side by side, and none ----------------------------------------------------------------------------------


def test_devices_come_and_go_without_touching_each_others_objects() -> None:
    def of(vni: int, third: int) -> View:
        me = replace(ME, vni=vni, mac=vtep_mac("192.0.2.1", vni), overlay=(ip_address(f"192.168.{third}.1"),))
        space = (ip_network(f"192.168.{third}.0/24"),)
        peer = replace(
            B, vni=vni, overlay=(ip_address(f"192.168.{third}.2"),), networks=(network("n", f"10.{third}.0.0/16"),)
        )
        made = seen(
            peer, me=me, profile=replace(ROUTER, spaces=space), several=(several(f"10.{third + 1}.0.0/16", R1, R2),)
        )
        return replace(made, host=Host((uplink(),), chains=CHAINS))

    one, two, three = of(1000, 100), of(1001, 110), of(1002, 120)
    alone, both = plan(one), plan(replace(one, beside=(two,)))
    assert set(alone.wanted) < set(both.wanted)
    assert all(both.wanted[key].object == want.object for key, want in alone.wanted.items() if key[0] != "chain")
    ways = [(one,), (one, two), (one, two, three), (two, three), (three,), (one, two, three), (one,)]
    views = [replace(first, beside=tuple(rest)) for first, *rest in ways]
    for before, after in pairwise(views):
        old = plan(before)
        now = {key: want.object for key, want in old.wanted.items()}
        fresh = plan(after, old)
        assert fresh == plan(after)
        ops = diff(fresh.wanted, Facts(now)).ops
        kept = {f"vxlan{v.me.vni}" for v in (before, *before.beside)} & {
            f"vxlan{v.me.vni}" for v in (after, *after.beside)
        }
        assert kept
        assert not [op for op in ops if getattr(op.object, "dev", getattr(op.object, "name", "")) in kept]


def test_overlays_whose_next_hop_ids_meet_get_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes leave the device out: the same peers come to the same ids in all three overlays."""
    monkeypatch.setattr(slots, "crc32", lambda name, salt=0: zlib.crc32(name))

    def of(vni: int) -> View:
        return replace(seen(replace(B, vni=vni), me=replace(ME, vni=vni)), host=Host((uplink(),)))

    one, two, three = of(1000), of(1001), of(1002)
    all_of_them = replace(one, beside=(two, three))
    made = plan(all_of_them)
    hops = [w.object for w in made.wanted.values() if isinstance(w.object, NextHop)]
    assert sorted((hop.id - hops[0].id, hop.dev) for hop in hops) == [
        (0, "vxlan1000"),
        (2, "vxlan1001"),
        (4, "vxlan1002"),
    ]
    routes = [w.object for w in made.wanted.values() if isinstance(w.object, Route) and w.object.nexthop]
    assert {route.nexthop: route.dev for route in routes} == {hops[0].id: "vxlan1000"}, "one subnet, the first has it"
    assert plan(all_of_them, made) == made
    assert plan(all_of_them, made).moved == set()
    grown = plan(all_of_them, plan(one))
    assert grown == made
    assert {("nexthop", hop.id) for hop in hops[1:]} <= grown.moved


def test_groups_of_two_overlays_whose_ids_meet_get_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def met(name: bytes, start: int = 0) -> int:
        return zlib.crc32(name, start) if not name.startswith(b"vxlan") else name.count(b"+")

    monkeypatch.setattr(multipath, "crc32", met)

    def of(vni: int, subnet: str) -> View:
        return seen(me=replace(ME, vni=vni), several=(several(subnet, R1, R2),))

    view_ = replace(of(1000, "172.30.0.0/16"), beside=(of(1001, "172.31.0.0/16"),))
    made = plan(view_)
    found = [w.object for w in made.wanted.values() if isinstance(w.object, NextHop | NextHopGroup)]
    assert len(found) == 6
    routes = [w.object for w in made.wanted.values() if isinstance(w.object, Route) and w.object.nexthop]
    groups = {t.id: t for t in found if isinstance(t, NextHopGroup)}
    devices = {t.id: t.dev for t in found}
    assert all(groups[r.nexthop].dev == r.dev == devices[m] for r in routes for m in groups[r.nexthop].members)
    assert plan(view_, made) == made
    assert plan(view_, made).moved == set()


@pytest.mark.parametrize("name", [" multipath", "multipath", "b@vxlan1001", "@vxlan1001", "b vxlan1001", "b/vxlan1001"])
def test_no_peer_takes_the_place_of_anything_by_its_name(name: str) -> None:
    """A peer may have any printable text as its id; nothing that was there goes when it comes, changes or leaves."""
    beside = seen(B, me=replace(ME, vni=1001))
    evil = replace(SILENT, id=name, networks=())

    def among(*nodes: Node) -> View:
        return replace(seen(*nodes, several=(several("172.30.0.0/16", R1, R2),)), beside=(beside,))

    honest = plan(among())
    came = plan(among(evil), honest)
    changed = plan(among(replace(evil, mtu=1400)), came)
    left = plan(among(), changed)
    assert [set(honest.wanted) - set(now.wanted) for now in (came, changed, left)] == [set()] * 3
    assert left == honest


def test_without_a_plane_a_plan_is_files_alone() -> None:
    file = TextFile("/var/lib/docker-router/discovery.json", "{}", 0o640)
    bare = replace(seen(B, several=(several("172.30.0.0/16", R1, R2),)), files=(file,))
    off = replace(bare, profile=replace(ROUTER, plane=False), me=replace(ME, endpoints=()))
    assert [w.object for w in plan(off).wanted.values()] == [File(file.path, "{}", 0o640)]
    assert plan(off, plan(bare)) == plan(off)


def test_a_tunnel_knows_whether_it_is_to_flood() -> None:
    assert (Tunnel.of(seen(profile=FLOOD)).flood, Tunnel.of(seen()).flood) == (True, False)
