"""Next-hop groups, flooding, and the prefix length of an own address, on the memory target and on a real kernel alike.

iproute2 is the oracle: pyroute2 has no next hops.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from tests.contract.targets import (
    ADDRESS,
    DEV,
    HOP,
    LINK,
    NEXTHOP,
    NEXTHOP6,
    OWNER,
    ROUTE,
    VIA,
    WHY,
    KernelPlace,
    MemoryPlace,
    Place,
    add,
    by_key,
    change,
    done,
    held,
    kernel_place,
    refused,
    remove,
    wanted,
)
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.core.diff import Facts, diff
from weft.model import parse_mac
from weft.objects import ZERO_MAC, Address, Fdb, Link, NextHop, NextHopGroup, Object, Op, Route, Sysctl, Vxlan
from weft.targets.kernel.target import KernelTarget
from weft.targets.memory import MemoryTarget

SECOND = NextHop(HOP + 10, DEV, ip_address("192.0.2.3"))
THIRD6 = NextHop(HOP + 11, DEV, ip_address("fe80::3"))
GROUP = NextHopGroup(0x60000001, DEV, (HOP, HOP + 10))
GROUP6 = NextHopGroup(0x60000002, DEV, (NEXTHOP6.id, THIRD6.id))
ON_GROUP = Route(ip_network("10.9.0.0/16"), DEV, nexthop=GROUP.id, metric=100)
ON_GROUP_WITH_ALL = Route(
    ip_network("10.10.0.0/16"), DEV, nexthop=GROUP.id, metric=100, src=ip_address("10.0.0.1"), mtu=1400
)
OVER_IPV6 = Route(ip_network("10.11.0.0/16"), DEV, nexthop=GROUP6.id, metric=100)
ON_GROUP6 = Route(ip_network("fd00:9::/64"), DEV, nexthop=GROUP6.id, metric=100)
HOPS = (NEXTHOP, NEXTHOP6, SECOND, THIRD6)
ALL = (LINK, ADDRESS, *HOPS, GROUP, GROUP6, ON_GROUP, ON_GROUP_WITH_ALL, OVER_IPV6, ON_GROUP6)


@pytest.fixture(params=["memory", pytest.param("kernel", marks=needs_root)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield MemoryPlace(MemoryTarget())
    else:
        with kernel_place() as kernel:
            yield kernel


@pytest.fixture
def kernel() -> Iterator[KernelPlace]:
    with kernel_place() as place_:
        yield place_


async def mended(place: Place, *things: Object) -> tuple[Op, ...]:
    """What a diff finds against these, carried out; afterwards nothing is left to do."""
    ops = diff(wanted(*things), Facts(await held(place.target, full=False))).ops
    await done(place.target, ops)
    assert await held(place.target, full=False) == by_key(*things)
    assert await held(place.target) == by_key(*things)
    return ops


async def test_groups_and_routes_on_them_are_added_read_back_and_removed(place: Place) -> None:
    await done(place.target, add(*ALL))
    assert await held(place.target, full=False) == by_key(*ALL)
    assert await held(place.target) == by_key(*ALL)
    assert await held(place.restarted()) == by_key(*ALL)
    await done(place.target, remove(*reversed(ALL)))
    assert await held(place.target) == {}


async def test_an_end_that_goes_is_one_change_of_the_group(place: Place) -> None:
    await mended(place, *ALL)
    without = [thing for thing in ALL if thing not in (SECOND, GROUP)]
    smaller = NextHopGroup(GROUP.id, DEV, (HOP,))
    ops = await mended(place, *without, smaller)
    assert [(op.action, op.object) for op in ops] == [("change", smaller), ("remove", SECOND)]
    ops = await mended(place, *ALL)
    assert [(op.action, op.object) for op in ops] == [("add", SECOND), ("change", GROUP)]


async def test_a_member_that_somebody_deletes_leaves_its_groups_and_is_put_back(place: Place) -> None:
    await done(place.target, add(*ALL))
    await held(place.target)
    place.delete(SECOND)
    left = await held(place.target, full=False)
    assert left[GROUP.key] == NextHopGroup(GROUP.id, DEV, (HOP,))
    assert ON_GROUP.key in left
    ops = await mended(place, *ALL)
    assert [(op.action, op.object) for op in ops] == [("add", SECOND), ("change", GROUP)]


async def test_the_last_member_takes_the_group_and_its_routes(place: Place) -> None:
    await done(place.target, add(*ALL))
    await held(place.target)
    for thing in (NEXTHOP, SECOND):
        place.delete(thing)
    assert await held(place.target, full=False) == by_key(LINK, ADDRESS, NEXTHOP6, THIRD6, GROUP6, OVER_IPV6, ON_GROUP6)
    await mended(place, *ALL)


async def test_a_member_that_we_remove_without_asking_the_group_is_seen_to_have_left(place: Place) -> None:
    await done(place.target, add(*ALL))
    await done(place.target, remove(SECOND))
    assert (await held(place.target, full=False))[GROUP.key] == NextHopGroup(GROUP.id, DEV, (HOP,))


async def test_a_group_that_somebody_deletes_or_alters_is_mended(place: Place) -> None:
    await done(place.target, add(*ALL))
    await held(place.target)
    place.delete(GROUP)
    assert GROUP.key not in await held(place.target, full=False)
    await mended(place, *ALL)
    place.put(NextHopGroup(GROUP.id, DEV, (SECOND.id,)))
    ops = await mended(place, *ALL)
    assert [(op.action, op.object) for op in ops] == [("change", GROUP)]


async def test_a_member_that_leads_elsewhere_changes_in_place(place: Place) -> None:
    await done(place.target, add(*ALL))
    moved = NextHop(SECOND.id, DEV, ip_address("192.0.2.77"))
    ops = await mended(place, *(moved if thing is SECOND else thing for thing in ALL))
    assert [(op.action, op.object) for op in ops] == [("change", moved)]


async def test_a_member_that_must_be_remade_is_back_in_its_group_in_one_pass(place: Place) -> None:
    only = (LINK, NEXTHOP, SECOND, GROUP, ON_GROUP)
    await done(place.target, add(*only))
    other = NextHop(SECOND.id, DEV, ip_address("fe80::77"))
    await mended(place, *(other if thing is SECOND else thing for thing in only))


async def test_a_link_that_goes_down_takes_groups_along(place: Place) -> None:
    await done(place.target, add(*ALL))
    down = Link(LINK.name, LINK.mac, LINK.mtu, LINK.vxlan, LINK.alias, up=False)
    await done(place.target, [change(LINK, down)])
    assert await held(place.target) == by_key(down, ADDRESS)
    await mended(place, *ALL)


async def test_a_group_of_next_hops_that_are_not_there_is_refused(place: Place) -> None:
    await done(place.target, add(LINK, NEXTHOP))
    (answer,) = await place.target.apply(add(GROUP))
    assert refused(answer)
    assert await held(place.target) == by_key(LINK, NEXTHOP)


async def test_an_ipv6_address_gets_another_prefix_length_and_is_there_again_at_once(place: Place) -> None:
    for length in (128, 64, 128):
        thing = Address(DEV, ip_interface(f"fd00::1/{length}"))
        await mended(place, LINK, thing)


@needs_root
class TestKernel:
    async def test_iproute2_sees_groups_as_they_were_meant(self, kernel: KernelPlace) -> None:
        await done(kernel.target, add(*ALL))
        (group,) = kernel.ns.ip_json(f"nexthop show id {GROUP.id}")
        assert ([member["id"] for member in group["group"]], group["protocol"]) == ([*GROUP.members], "76")
        (route,) = kernel.ns.ip_json("route show 10.9.0.0/16")
        assert [(hop["gateway"], hop["dev"]) for hop in route["nexthops"]] == [(str(VIA), DEV), ("192.0.2.3", DEV)]
        assert (route["nhid"], route["protocol"]) == (GROUP.id, "76")

    async def test_what_iproute2_made_is_read(self, kernel: KernelPlace) -> None:
        await done(kernel.target, add(LINK, NEXTHOP, SECOND))
        kernel.ns.ip(f"nexthop add id {GROUP.id} group {SECOND.id}/{HOP} proto 76")
        kernel.ns.ip(f"route add 10.9.0.0/16 nhid {GROUP.id} metric 100 proto 76")
        ours = by_key(LINK, NEXTHOP, SECOND, GROUP, ON_GROUP)
        assert await held(kernel.target, full=False) == ours
        assert await held(kernel.restarted()) == ours

    async def test_routes_on_groups_are_read_where_the_kernel_leaves_the_devices_out(self, kernel: KernelPlace) -> None:
        compat = Sysctl("net/ipv4/nexthop_compat_mode", "0")
        await done(kernel.target, add(*ALL, compat))
        assert await held(kernel.restarted()) == by_key(*ALL)

    @pytest.mark.parametrize("how", [f"{HOP},3/{SECOND.id}", f"{HOP}/{SECOND.id} type resilient buckets 8"])
    async def test_weights_and_other_types_are_not_ours_and_taken_back(self, kernel: KernelPlace, how: str) -> None:
        await done(kernel.target, add(LINK, NEXTHOP, SECOND))
        kernel.ns.ip(f"nexthop add id {GROUP.id} group {how} proto 76")
        assert GROUP.key not in await held(kernel.target)
        if "resilient" not in how:  # the kernel does not make another type out of a group in place
            await mended(kernel, LINK, NEXTHOP, SECOND, GROUP, ON_GROUP)

    async def test_another_daemons_groups_and_routes_are_left_alone(self, kernel: KernelPlace) -> None:
        mac = parse_mac("02:00:00:00:00:09")
        other = KernelTarget("weft:router:x", mac, str(kernel.ns.path), device="vxlan200")
        kernel.targets.append(other)
        vxlan = Vxlan(200, 4789, ip_address("192.0.2.1"))
        hops = [NextHop(HOP + 1000 + n, "vxlan200", ip_address(f"192.0.2.{20 + n}")) for n in range(2)]
        group = NextHopGroup(0x60001000, "vxlan200", (hops[0].id, hops[1].id))
        theirs = (
            Link("vxlan200", mac, 1450, vxlan, "weft:router:x"),
            *hops,
            group,
            Route(ip_network("10.200.0.0/16"), "vxlan200", nexthop=group.id, metric=100),
        )
        await done(other, add(*theirs))
        await done(kernel.target, add(*ALL))
        assert await held(kernel.target) == by_key(*ALL)
        assert await held(other) == by_key(*theirs)
        taken = NextHopGroup(group.id, DEV, GROUP.members)
        same = Route(ip_network("10.200.0.0/16"), DEV, nexthop=GROUP.id, metric=100)
        answers = await kernel.target.apply(add(taken, same))
        assert [answer is not None and answer.conflict for answer in answers] == [True, True]
        assert [refused(answer) for answer in answers] == [
            f"add nexthop id {group.id} group {HOP}/{SECOND.id} proto 76: a next hop of protocol 76 stands there; it "
            "was left alone",
            f"add route 10.200.0.0/16 nhid {GROUP.id} proto 76 metric 100: a route of protocol 76 out of vxlan200 "
            "stands there; it was left alone",
        ]
        assert await held(other) == by_key(*theirs)

    async def test_learned_entries_and_neighbours_are_nobodys(self, kernel: KernelPlace) -> None:
        vxlan = Vxlan(100, 4789, ip_address("192.0.2.1"), learning=True)
        link = Link(DEV, LINK.mac, LINK.mtu, vxlan, OWNER)
        flood = Fdb(DEV, ZERO_MAC, VIA)
        own = Address(DEV, ip_interface("192.168.100.1/24"))
        hop = NextHop(HOP, DEV, ip_address("192.168.100.2"))
        things = (link, own, flood, hop, Route(ip_network("10.2.0.0/16"), DEV, nexthop=HOP, metric=100))
        await done(kernel.target, add(*things))
        woken: list[int] = []
        kernel.target.watch(lambda: woken.append(1))
        kernel.ns.bridge(f"fdb add 02:00:00:00:00:22 dst {VIA} dev {DEV} dynamic")
        kernel.ns.ip(f"neigh add 192.168.100.2 lladdr 02:00:00:00:00:22 dev {DEV} nud reachable")
        kernel.put_foreign_link("later")
        await soon(lambda: kernel.target.taken("later"), "what came after those two is heard")
        reading = await kernel.target.read()
        assert (dict(reading.objects), reading.touched, woken) == (by_key(*things), frozenset(), [])
        assert diff(wanted(*things), Facts(reading.objects, reading.foreign)).ops == ()
        assert await held(kernel.target) == by_key(*things)
        assert "22" in kernel.ns.ip(f"neigh show dev {DEV}")
        static = Fdb(DEV, parse_mac("02:00:00:00:00:22"), VIA)  # it tells its MAC now
        await done(kernel.target, [*add(static), *remove(flood)])
        assert await held(kernel.target) == by_key(*(t for t in things if t is not flood), static)
        (entry,) = kernel.ns.bridge_json(f"fdb show dev {DEV}")
        assert (entry["mac"], entry["state"]) == ("02:00:00:00:00:22", "permanent")

    async def test_routes_by_an_own_address_outlive_its_change_of_length(self, kernel: KernelPlace) -> None:
        """IPv4: the longer one comes before the shorter one goes."""
        before = [thing for thing in ALL if thing in (LINK, ADDRESS, NEXTHOP, SECOND, GROUP, ON_GROUP_WITH_ALL)]
        await done(kernel.target, add(*before))
        wider = Address(DEV, ip_interface("10.0.0.1/24"))
        ops = await mended(kernel, *(wider if thing is ADDRESS else thing for thing in before))
        assert [(op.action, op.object) for op in ops] == [("add", wider), ("remove", ADDRESS)]
        assert kernel.ns.ip_json("route show 10.0.0.0/24") == [], "the network is a route of its own"


async def test_two_flooded_peers_at_one_endpoint_are_one_entry(place: Place) -> None:
    entry = Fdb(DEV, ZERO_MAC, VIA)
    await done(place.target, [*add(LINK, entry), Op("add", Fdb(DEV, ZERO_MAC, VIA), WHY)])
    assert await held(place.target) == by_key(LINK, entry)


ROUTER = "weft:router:stack-a"
MACS = {f"vxlan{n}": parse_mac(f"02:00:00:00:00:{n}") for n in (21, 22, 23)}


def end(number: int, alias: str = ROUTER) -> list[Object]:
    """One device with what is on it."""
    dev = f"vxlan{number}"
    hops = [NextHop(HOP + 10 * number + n, dev, ip_address(f"192.168.{number}.{n + 2}")) for n in range(2)]
    group = NextHopGroup(0x60000000 + number, dev, tuple(hop.id for hop in hops))
    return [
        Link(dev, MACS[dev], 1450, Vxlan(number, 4789, ip_address("192.0.2.1")), alias),
        Address(dev, ip_interface(f"192.168.{number}.1/24")),
        *(Fdb(dev, ZERO_MAC, ip_address(f"192.0.2.{n + 2}")) for n in range(2)),
        *hops,
        group,
        Route(ip_network(f"192.168.{number}.0/24"), dev, metric=100),
        Route(ip_network(f"10.{number}.0.0/16"), dev, nexthop=group.id, metric=100),
    ]


@needs_root
async def test_devices_of_one_process_come_and_go_one_by_one(kernel: KernelPlace) -> None:
    target = KernelTarget(ROUTER, netns=str(kernel.ns.path))
    kernel.targets.append(target)
    for numbers in ((21,), (21, 22), (21, 22, 23), (22, 23), (23,), (21, 23), ()):
        target.expect({f"vxlan{n}": MACS[f"vxlan{n}"] for n in numbers})
        wanted_now = [thing for n in numbers for thing in end(n)]
        before = await held(target, full=False)
        ops = diff(wanted(*wanted_now), Facts(before)).ops
        assert not [op.object for op in ops if op.object in before.values() and op.object in wanted_now]
        await done(target, ops)
        assert await held(target, full=False) == by_key(*wanted_now)
        assert await held(target) == by_key(*wanted_now)
        restarted = KernelTarget(ROUTER, netns=str(kernel.ns.path))
        kernel.targets.append(restarted)
        assert await held(restarted) == by_key(*wanted_now)
        assert target.devices == {f"vxlan{n}" for n in numbers}


@needs_root
async def test_a_device_of_a_router_that_was_renamed_is_taken_over_when_nobody_else_has_it(kernel: KernelPlace) -> None:
    await done(kernel.target, add(LINK))  # an agent's, which is none of a router's business
    former = KernelTarget("weft:router:old", netns=str(kernel.ns.path))
    kernel.targets.append(former)
    await done(former, add(*end(21, "weft:router:old"), *end(22, "weft:router:old")))
    target = KernelTarget(ROUTER, netns=str(kernel.ns.path))
    kernel.targets.append(target)
    target.expect(MACS)
    assert await held(target) == {}
    target.expect({}, claimed=frozenset({"vxlan21"}))
    assert await held(target) == by_key(*end(21, "weft:router:old"))
    target.expect(MACS, claimed=frozenset({"vxlan21"}))
    now = await held(target, full=False)
    assert now == by_key(*end(21, "weft:router:old"))
    ops = diff(wanted(*end(21)), Facts(now)).ops
    assert [op.object for op in ops] == end(21)[:1]
    await done(target, ops)
    assert await held(target) == by_key(*end(21))
    assert await held(former) == by_key(*end(22, "weft:router:old"))


@needs_root
async def test_cleanup_takes_every_routers_things(kernel: KernelPlace) -> None:
    first, second = (KernelTarget(f"weft:router:{name}", netns=str(kernel.ns.path)) for name in ("a", "b"))
    kernel.targets += [first, second]
    await done(first, add(*end(21, "weft:router:a"), *end(22, "weft:router:a")))
    await done(second, add(*end(23, "weft:router:b")))
    kernel.ns.ip("nexthop add id 66 via 192.0.2.9 dev up0")
    kernel.ns.ip("nexthop add id 67 group 66")
    weft = (sys.executable, "-m", "weft.cli.main", "cleanup", "--subnet-file", "/nowhere")
    told = kernel.ns.run(*weft)
    assert all(f"ip link del dev vxlan{n}" in told for n in (21, 22, 23))
    assert "ip nexthop del id 1610612757" in told
    assert kernel.ns.ip("link show type vxlan") == ""
    assert [hop["id"] for hop in kernel.ns.ip_json("nexthop show")] == [66, 67]
    assert kernel.ns.ip_json("route show proto 76") == []


@needs_root
async def test_nothing_is_put_on_a_next_hop_that_could_not_be_made(kernel: KernelPlace) -> None:
    """Somebody else has its id, and a route that names it would go his way."""
    kernel.ns.ip(f"nexthop add id {SECOND.id} via 192.0.2.99 dev up0")
    on_second = Route(ip_network("10.12.0.0/16"), DEV, nexthop=SECOND.id, metric=100)
    things = (LINK, NEXTHOP, SECOND, GROUP, ON_GROUP, on_second, ROUTE)
    answers = await kernel.target.apply(add(*things))
    assert [answer is None for answer in answers] == [True, True, False, False, False, False, True]
    assert refused(answers[3]).endswith("its next hop could not be made")
    assert await held(kernel.target) == by_key(LINK, NEXTHOP, ROUTE)
    assert len(kernel.ns.ip_json("route show proto 76")) == 1
    kernel.ns.ip(f"nexthop del id {SECOND.id}")
    await mended(kernel, *things)
