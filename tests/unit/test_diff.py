"""diff and the kernel model: any state to any state in at most two passes, and nothing that isn't asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from tests.build import CHAINS, network, node, uplink, view
from weft.backends.tunnel import vtep_mac
from weft.core.diff import Facts, Leave, diff
from weft.core.layered import Layered
from weft.core.plan import Plan, Wanted, plan
from weft.model import Host, Multipath, Profile, Relay, View
from weft.objects import (
    Address,
    Chain,
    Fdb,
    Jump,
    Key,
    Link,
    Neighbour,
    NextHop,
    NextHopGroup,
    Object,
    Op,
    Route,
    Sysctl,
    Vxlan,
    Why,
)
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget

WHY = Why("test", "b", "because")
DEV = "vxlan4096"


def link(vni: int = 4096, mtu: int = 1450, name: str = DEV, mac: str = "a", up: bool = True) -> Link:
    vxlan = Vxlan(vni, 4789, ip_address("192.0.2.1"))
    return Link(name, vtep_mac(mac, 4096), mtu, vxlan, "weft:agent:a", up)


def wanted(*things: Object) -> dict[Key, Wanted]:
    return {thing.key: Wanted(thing, WHY) for thing in things}


def have(*things: Object) -> Facts:
    return Facts({thing.key: thing for thing in things})


ROUTE = Route(ip_network("10.2.0.0/24"), DEV, nexthop=0x70000000, metric=7600)
HOP = NextHop(0x70000000, DEV, ip_address("192.0.2.2"))
NEIGHBOUR = Neighbour(DEV, ip_address("192.0.2.2"), vtep_mac("b", 4096))
FDB = Fdb(DEV, vtep_mac("b", 4096), ip_address("192.0.2.2"))
EVERYTHING = Leave()
ALL = (link(), NEIGHBOUR, FDB, HOP, ROUTE)


def said(ops: tuple[Op, ...]) -> list[str]:
    return [f"{op.action} {type(op.object).__name__}" for op in ops]


def test_additions_go_up_the_ranks_and_removals_down() -> None:
    assert said(diff(wanted(*reversed(ALL)), have()).ops) == [
        "add Link",
        "add Neighbour",
        "add Fdb",
        "add NextHop",
        "add Route",
    ]
    assert said(diff({}, have(*ALL)).ops) == [
        "remove Route",
        "remove NextHop",
        "remove Fdb",
        "remove Neighbour",
        "remove Link",
    ]


def test_what_is_right_is_left_alone() -> None:
    changes = diff(wanted(*ALL), have(*ALL))
    assert changes.ops == ()
    assert changes.conflicts == {}


def test_make_before_break() -> None:
    other = NextHop(0x70000002, DEV, ip_address("192.0.2.3"))
    moved = Route(ROUTE.dst, DEV, nexthop=other.id, metric=7600)
    changes = diff(wanted(link(), other, moved), have(link(), HOP, ROUTE))
    assert said(changes.ops) == ["add NextHop", "change Route", "remove NextHop"]


def test_removals_are_held_until_every_source_has_spoken_and_additions_go_on() -> None:
    changes = diff(wanted(link(), FDB), have(link(), ROUTE, HOP), Leave(synced=False))
    assert said(changes.ops) == ["add Fdb"]
    assert said(changes.held) == ["remove Route", "remove NextHop"]


def test_what_a_source_took_back_itself_is_removed_before_all_have_spoken() -> None:
    changes = diff({}, have(link(), ROUTE, HOP), Leave(synced=False, settled=frozenset({ROUTE.key})))
    assert said(changes.ops) == ["remove Route"]
    assert said(changes.held) == ["remove NextHop", "remove Link"]


def test_a_leftover_route_waits_for_the_peer_that_it_leads_to() -> None:
    other = NextHop(0x70000002, DEV, ip_address("192.0.2.3"))
    moved = Route(ROUTE.dst, DEV, nexthop=other.id, metric=7600)
    early = Leave(synced=False)
    changes = diff(wanted(link(), other, moved), have(link(), HOP, ROUTE), early)
    assert said(changes.ops) == ["add NextHop"]
    assert said(changes.held) == ["change Route", "remove NextHop"]
    heard = diff(wanted(link(), HOP, other, moved), have(link(), HOP, other, ROUTE), early)
    assert said(heard.ops) == ["change Route"], "its peer was heard and does not claim the subnet any more"
    ours = Leave(synced=False, settled=frozenset({ROUTE.key}))
    assert said(diff(wanted(link(), other, moved), have(link(), HOP, other, ROUTE), ours).ops) == ["change Route"]
    new_mtu = Route(ROUTE.dst, DEV, nexthop=HOP.id, metric=7600, mtu=1300)
    assert said(diff(wanted(link(), HOP, new_mtu), have(link(), HOP, ROUTE), early).ops) == ["change Route"]
    plain = Route(ROUTE.dst, DEV, via=ip_address("192.0.2.9"), onlink=True, metric=7600)
    assert said(diff(wanted(link(), HOP, ROUTE), have(link(), HOP, plain), early).held) == ["change Route"]


def test_a_device_that_must_be_remade_brings_everything_on_it_back_in_one_pass() -> None:
    stale = Neighbour(DEV, ip_address("192.0.2.9"), vtep_mac("x", 4096))
    changes = diff(wanted(link(vni=7), *ALL[1:]), have(*ALL, stale), Leave(synced=False))
    assert said(changes.ops) == [
        "remove Link",
        "add Link",
        "add Neighbour",
        "add Fdb",
        "add NextHop",
        "add Route",
    ]
    assert changes.held == ()


def test_a_change_in_place_remakes_nothing() -> None:
    assert said(diff(wanted(link(mtu=1400), *ALL[1:]), have(*ALL)).ops) == ["change Link"]


def test_nothing_is_put_on_a_device_of_somebody_elses() -> None:
    facts = Facts({}, {("link", DEV): "a bridge of somebody else's", ("link", "br0"): "another"})
    for only in (None, [ROUTE.key], [ROUTE.key, ("link", DEV)], list(wanted(*ALL))):
        changes = diff(wanted(*ALL), facts, only=only)
        assert changes.ops == ()
        assert changes.conflicts.keys() == wanted(*ALL).keys() & set(only or wanted(*ALL))
        assert changes.conflicts.get(("link", DEV), "a bridge of somebody else's") == "a bridge of somebody else's"
        assert changes.conflicts[ROUTE.key] == "it stands on an object that is somebody else's"


def test_a_chain_of_somebody_elses_device_is_left_alone() -> None:
    chain = Chain(4, "filter", f"WEFT-{DEV}-FWD", ("-j ACCEPT",))
    jump = Jump(4, "filter", "FORWARD", chain.name)
    theirs = Chain(4, "filter", chain.name, ("-j DROP",))
    facts = Facts({theirs.key: theirs}, {("link", DEV): "a vxlan marked weft:flanneld:/other:a"})
    changes = diff(wanted(link(), chain, jump), facts)
    assert changes.ops == ()
    assert changes.conflicts.keys() == {("link", DEV), chain.key, jump.key}
    assert said(diff(wanted(chain, jump), facts).ops) == ["change Chain", "add Jump"], "it has no device"


def test_what_is_right_is_no_conflict_whatever_it_stands_on() -> None:
    facts = Facts({NEIGHBOUR.key: NEIGHBOUR}, {("link", DEV): "a bridge of somebody else's"})
    assert diff(wanted(*ALL), facts, only=[NEIGHBOUR.key]).conflicts == {}
    assert diff(wanted(*ALL), facts).conflicts.keys() == wanted(*ALL).keys() - {NEIGHBOUR.key}


def test_a_foreign_object_that_nobody_wants_is_no_conflict() -> None:
    changes = diff(wanted(link()), Facts({link().key: link()}, {("link", "br0"): "a bridge"}))
    assert (changes.ops, changes.conflicts) == ((), {})


def test_only_looks_at_the_named_keys() -> None:
    facts = have(link())
    assert said(diff(wanted(*ALL), facts, only=[FDB.key, FDB.key]).ops) == ["add Fdb"]
    assert diff(wanted(*ALL), facts, only=[]).ops == ()
    assert said(diff({}, have(link(), FDB), only=[FDB.key]).ops) == ["remove Fdb"]
    assert said(diff(wanted(link(vni=7), FDB), have(link(), FDB), only=[link().key]).ops) == [
        "remove Link",
        "add Link",
        "add Fdb",
    ]


# Any state to any state.

subnets = st.sampled_from(["10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/16", "fd00:2::/64", "fd00:3::/64"])
peers = st.dictionaries(
    st.sampled_from("bcde"),
    st.tuples(st.integers(2, 6), st.lists(subnets, max_size=3, unique=True), st.sampled_from([1400, 1500])),
    max_size=4,
)


@st.composite
def views(draw: st.DrawFn, synced: bool = True) -> View:
    drawn = draw(peers)
    nodes = [node(n, f"192.0.2.{host}", *nets, mtu=mtu) for n, (host, nets, mtu) in drawn.items()]
    own = (network("home", draw(st.sampled_from(["10.1.0.0/24", "10.9.0.0/24", "fd00:9::/64"]))),)
    host = Host((uplink(),), nexthop_objects=draw(st.booleans()), chains=draw(st.sampled_from([CHAINS, frozenset()])))
    profile = Profile(learning=draw(st.booleans()), metric=draw(st.sampled_from([100, 7600])))
    several = tuple(Multipath(ip_network(subnet), ends, "test", "a test") for subnet, ends in draw(ways).items())
    return replace(view(*nodes, networks=own, host=host, profile=profile, synced=synced), multipath=several)


relays = [Relay(n, (ip_address(f"192.0.2.{i}"),), vtep_mac(n, 4096)) for n, i in (("b", 2), ("x", 7), ("y", 8))]
ways = st.dictionaries(
    st.sampled_from(["10.20.0.0/24", "10.21.0.0/24", "fd00:20::/64"]),
    st.lists(st.sampled_from(relays), min_size=1, unique=True).map(tuple),
)
addresses = st.sampled_from([ip_address("192.0.2.2"), ip_address("192.0.2.7"), ip_address("fe80::1")])
strays = st.one_of(
    st.builds(Neighbour, st.just(DEV), addresses, st.just(vtep_mac("x", 1))),
    st.builds(Fdb, st.just(DEV), st.sampled_from([vtep_mac("b", 4096), vtep_mac("x", 1)]), addresses),
    st.builds(Address, st.just(DEV), st.sampled_from([ip_interface("10.7.0.1/32"), ip_interface("10.1.0.1/32")])),
    st.builds(NextHop, st.sampled_from([0x70000000, 0x70000002]), st.just(DEV), addresses),
    st.builds(NextHopGroup, st.sampled_from([0x60000000, 0x70000002]), st.just(DEV), st.just((0x70000000,))),
    st.builds(Route, st.sampled_from([ip_network("10.2.0.0/24"), ip_network("10.8.0.0/24")]), st.just(DEV)),
    st.builds(link, st.sampled_from([7, 4096]), st.sampled_from([1400, 1450]), st.just(DEV), st.sampled_from("ab")),
    st.builds(Sysctl, st.just("net/ipv4/ip_forward"), st.sampled_from(["0", "1"])),
    st.builds(Chain, st.just(4), st.just("filter"), st.just("WEFT-vxlan4096-FWD"), st.just(("-j DROP",))),
    st.builds(Jump, st.just(4), st.just("filter"), st.just("FORWARD"), st.just("WEFT-old"), st.booleans()),
)


def target() -> MemoryTarget:
    return MemoryTarget(KERNEL_KINDS + FIREWALL_KINDS)


async def converge(at: MemoryTarget, plan_: Plan, passes: int = 2, leave: Leave = EVERYTHING) -> None:
    for _ in range(passes):
        reading = await at.read(full=True)
        await at.apply(diff(plan_.wanted, Facts(reading.objects, reading.foreign), leave).ops)


async def litter(at: MemoryTarget, things: list[Object]) -> None:
    await at.apply([Op("add", thing, WHY) for thing in things])


def held_by(at: MemoryTarget) -> dict[Key, Object]:
    objects = asyncio.run(at.read(full=True)).objects
    return {k: o for k, o in objects.items() if not isinstance(o, Sysctl)}


def asked_by(plan_: Plan) -> dict[Key, Object]:
    return {k: w.object for k, w in plan_.wanted.items() if not isinstance(w.object, Sysctl)}


@given(views(), st.lists(strays, max_size=12), views())
def test_any_state_to_any_state_in_two_passes(first: View, mess: list[Object], second: View) -> None:
    at = target()

    async def run() -> None:
        await converge(at, plan(first))
        await litter(at, mess)
        await converge(at, plan(second))

    asyncio.run(run())
    assert held_by(at) == asked_by(plan(second))
    reading = asyncio.run(at.read(full=True))
    assert diff(plan(second).wanted, Facts(reading.objects)).ops == ()


@given(views(), views())
def test_the_result_does_not_depend_on_the_order_of_the_plan(first: View, second: View) -> None:
    ends = []
    for shuffle in (False, True):
        at = target()
        final = plan(second)
        if shuffle:
            keys = sorted(final.wanted, key=repr, reverse=True)
            final = Plan(final.parts, Layered({key: final.wanted[key] for key in keys}))

        async def run(at: MemoryTarget = at, final: Plan = final) -> None:
            await converge(at, plan(first))
            await converge(at, final)

        asyncio.run(run())
        ends.append(held_by(at))
    assert ends[0] == ends[1]


@given(views(), views(synced=False))
def test_nothing_is_removed_for_good_while_not_synced(first: View, second: View) -> None:
    at = target()
    asyncio.run(converge(at, plan(first)))
    before = set(held_by(at))
    asyncio.run(converge(at, plan(second), leave=Leave(synced=False)))
    gone = before - set(held_by(at))
    remade = plan(first).wanted[("link", DEV)].object.fixed != plan(second).wanted[("link", DEV)].object.fixed
    assert not gone or remade


@given(views(), views())
def test_looking_at_changed_keys_alone_comes_to_the_same(first: View, second: View) -> None:
    old = plan(first)
    new = plan(second, old)
    facts = Facts({key: want.object for key, want in old.wanted.items()})
    whole = diff(new.wanted, facts)
    partial = diff(new.wanted, facts, only=new.moved)
    assert {(op.action, op.object.key) for op in partial.ops} == {(op.action, op.object.key) for op in whole.ops}
    assert [op.object.rank for op in partial.ops] == [op.object.rank for op in whole.ops]
