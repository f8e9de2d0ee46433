"""What only a real kernel can show: iproute2 as the oracle, others' objects, and what it takes along without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from tests.contract.targets import (
    ADDRESS,
    DEV,
    EVERYTHING,
    FDB,
    HOP,
    LEARNING,
    LINK,
    MINE,
    NEIGHBOUR,
    NEXTHOP,
    NEXTHOP6,
    OTHER,
    OWNER,
    PEER_4,
    PEER_6,
    ROUTE,
    ROUTE6,
    VIA,
    WHY,
    KernelPlace,
    add,
    by_key,
    change,
    done,
    held,
    kernel_place,
    many,
    remove,
    wanted,
)
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.core.diff import Facts, diff
from weft.core.plan import Wanted
from weft.errors import TargetError
from weft.model import Mac
from weft.objects import Link, Neighbour, NextHop, Route, Sysctl, Vxlan
from weft.targets.kernel.links import encode_link_add
from weft.targets.kernel.target import KernelTarget

pytestmark = needs_root


@pytest.fixture
def place() -> Iterator[KernelPlace]:
    with kernel_place() as kernel:
        yield kernel


async def test_iproute2_sees_what_we_made(place: KernelPlace) -> None:
    route = Route(
        ip_network("10.3.0.0/24"), DEV, nexthop=HOP, metric=100, src=ip_address("10.0.0.1"), mtu=1400, table=1000
    )
    await done(place.target, add(*EVERYTHING, route))
    (link,) = place.ns.ip_json(f"link show {DEV}")
    data = link["linkinfo"]["info_data"]
    assert (link["address"], link["mtu"], link["ifalias"]) == ("02:00:00:00:00:01", 1450, OWNER)
    assert "UP" in link["flags"]
    assert (data["id"], data["local"], data["port"], data["learning"]) == (100, "192.0.2.1", 4789, False)
    assert place.ns.ip_json(f"neigh show dev {DEV} {VIA}") == [
        {"dst": str(VIA), "lladdr": "02:00:00:00:00:02", "state": ["PERMANENT"]}
    ]
    (entry,) = place.ns.bridge_json(f"fdb show dev {DEV}")
    assert (entry["mac"], entry["dst"], entry["state"]) == ("02:00:00:00:00:02", str(VIA), "permanent")
    (hop,) = place.ns.ip_json(f"nexthop show id {HOP}")
    assert (hop["gateway"], hop["dev"], hop["flags"], hop["protocol"]) == (str(VIA), DEV, ["onlink"], "76")
    (shown,) = place.ns.ip_json("route show table 1000")
    assert {k: shown[k] for k in ("dst", "nhid", "protocol", "metric", "prefsrc")} == {
        "dst": "10.3.0.0/24",
        "nhid": HOP,
        "protocol": "76",
        "metric": 100,
        "prefsrc": "10.0.0.1",
    }
    assert shown["metrics"] == [{"mtu": 1400}]


async def test_what_iproute2_made_by_hand_is_read(place: KernelPlace) -> None:
    """The other way round: the objects do not depend on our own encoder."""
    ip = place.ns.ip
    ip(f"link add {DEV} address 02:00:00:00:00:01 mtu 1450 type vxlan id 100 local 192.0.2.1 dstport 4789 nolearning")
    ip(f"link set {DEV} alias {OWNER} up")
    ip(f"address add {ADDRESS.address} dev {DEV}")
    ip(f"neigh add {VIA} lladdr 02:00:00:00:00:02 dev {DEV} nud permanent")
    place.ns.bridge(f"fdb add 02:00:00:00:00:02 dst {VIA} dev {DEV}")
    ip(f"nexthop add id {HOP} via {VIA} dev {DEV} onlink proto 76")
    ip(f"route add {ROUTE.dst} nhid {HOP} metric 100 proto 76")
    assert await held(place.target) == by_key(LINK, ADDRESS, *PEER_4)


@pytest.mark.parametrize("odd", [None, 100, 399])
async def test_the_fast_reading_equals_the_slow_one(place: KernelPlace, odd: int | None) -> None:
    """400 peers fill more than one buffer; an odd one among them sends a buffer the slow way."""
    things = many(400)
    if odd is not None:
        route = things[1200 + odd]
        assert isinstance(route, Route)
        things[1200 + odd] = msgspec.structs.replace(route, mtu=1300)
    await done(place.target, add(LINK, *things))
    assert await held(place.restarted()) == by_key(LINK, *things)


async def test_routes_are_read_where_the_kernel_leaves_the_device_out(place: KernelPlace) -> None:
    await done(place.target, add(*EVERYTHING, Sysctl("net/ipv4/nexthop_compat_mode", "0")))
    assert await held(place.restarted()) == by_key(*EVERYTHING)


async def test_what_is_on_others_links_is_not_ours(place: KernelPlace) -> None:
    place.ns.ip("link add vx9 type vxlan id 9 local 192.0.2.1 dstport 4000 nolearning")
    place.ns.ip("link set vx9 up")
    place.ns.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev vx9 nud permanent")
    place.ns.bridge("fdb add 02:00:00:00:00:09 dst 192.0.2.9 dev vx9")
    place.ns.ip(f"nexthop add id {HOP + 9} via 192.0.2.9 dev vx9 onlink proto 76")
    place.ns.ip(f"route add 10.99.0.0/16 nhid {HOP + 9} proto 76 metric 100")
    await done(place.target, add(*EVERYTHING))
    assert await held(place.target) == by_key(*EVERYTHING)
    await done(place.target, remove(*reversed(EVERYTHING)))
    assert len(place.ns.bridge_json("fdb show dev vx9")) == 1
    assert len(place.ns.ip_json("route show proto 76")) == 1


async def test_two_daemons_do_not_take_each_others_objects(place: KernelPlace) -> None:
    other = KernelTarget("weft:router:me", OTHER, str(place.ns.path))
    place.targets.append(other)
    theirs = (
        Link("vxlan200", OTHER, 1450, Vxlan(200, 4790, ip_address("192.0.2.1")), "weft:router:me"),
        NextHop(HOP + 1000, "vxlan200", VIA),
        Route(ip_network("10.200.0.0/16"), "vxlan200", nexthop=HOP + 1000, metric=100),
    )
    await done(place.target, add(*EVERYTHING))
    await done(other, add(*theirs))
    assert await held(place.target) == by_key(*EVERYTHING)
    assert await held(other) == by_key(*theirs)
    (failure,) = await other.apply(add(Route(ROUTE.dst, "vxlan200", nexthop=HOP + 1000, metric=100)))
    assert failure is not None
    assert failure.conflict
    (failure,) = await other.apply(add(NextHop(HOP, "vxlan200", VIA)))
    assert failure is not None
    assert failure.conflict
    assert place.ns.ip_json(f"nexthop show id {HOP}")[0]["dev"] == DEV


async def test_a_foreign_next_hop_is_not_taken_over(place: KernelPlace) -> None:
    await done(place.target, add(LINK))
    place.ns.ip(f"nexthop add id {HOP} via 192.0.2.77 dev up0 proto static")
    (failure,) = await place.target.apply(add(NEXTHOP))
    assert failure is not None
    assert failure.conflict
    assert place.ns.ip_json(f"nexthop show id {HOP}")[0]["gateway"] == "192.0.2.77"
    await done(place.target, remove(NEXTHOP))
    assert len(place.ns.ip_json(f"nexthop show id {HOP}")) == 1


async def test_a_link_made_by_halves_is_recognised_and_finished(place: KernelPlace) -> None:
    """Killed between the two requests of a link's making: it has our MAC, no mark, and is down."""
    await done(place.target, add(LINK))
    place.ns.ip(f"link del {DEV}")
    place.ns.ip(f"link add {DEV} address 02:00:00:00:00:01 mtu 1450 type vxlan id 100 local 192.0.2.1 dstport 4789")
    unfinished = (await held(place.restarted()))[LINK.key]
    assert isinstance(unfinished, Link)
    assert (unfinished.alias, unfinished.up) == ("", False)
    target = place.restarted()
    wanted = msgspec.structs.replace(LINK, vxlan=unfinished.vxlan)
    await done(target, [change(unfinished, wanted)])
    assert await held(target) == by_key(wanted)


async def test_a_link_is_marked_in_the_send_that_makes_it(place: KernelPlace) -> None:
    """What a kill can't tear apart: both requests are in one datagram, numbered one after the other."""
    data = encode_link_add(LINK, 77, 5)
    first = int.from_bytes(data[:4], "little")
    assert (data[8], data[first + 8]) == (5, 6)
    assert OWNER.encode() in data[first:]


async def test_a_name_that_is_taken_meanwhile_is_not_marked_as_ours(place: KernelPlace) -> None:
    """The target has not heard of the foreign link yet when it makes its own."""
    await place.target.read()
    place.ns.ip(f"link add {DEV} type bridge")
    (failure,) = await place.target.apply(add(LINK))
    assert failure is not None
    assert "EEXIST" in failure.message
    (link,) = place.ns.ip_json(f"link show {DEV}")
    assert "ifalias" not in link
    assert LINK.key in (await place.target.read()).foreign


async def test_a_renamed_hosts_link_is_still_ours(place: KernelPlace) -> None:
    await done(place.target, add(LINK))
    place.ns.ip(f"link set {DEV} alias weft:agent:old-name")
    assert (await held(place.restarted()))[LINK.key] == msgspec.structs.replace(LINK, alias="weft:agent:old-name")


async def test_a_link_of_our_name_and_role_is_ours_though_name_and_mac_of_the_host_changed(place: KernelPlace) -> None:
    old = msgspec.structs.replace(LINK, alias="weft:agent:old-name", mac=Mac(b"\x02\x00\x00\x00\x00\x77"))
    former = KernelTarget(old.alias, old.mac, str(place.ns.path))
    await done(former, add(old))
    former.close()
    for device, ours in (("", False), (DEV, True)):
        target = KernelTarget(LINK.alias, LINK.mac, str(place.ns.path), device)
        reading = await target.read()
        assert (LINK.key in reading.objects, LINK.key in reading.foreign) == (ours, not ours)
        assert (target.devices == {DEV}) is ours
        target.close()
    assert reading.objects[LINK.key] == old


async def test_a_link_that_somebody_marked_as_his_is_foreign(place: KernelPlace) -> None:
    await done(place.target, add(LINK))
    place.ns.ip(f"link set {DEV} alias mine")
    reading = await place.target.read(full=True)
    assert LINK.key not in reading.objects
    assert LINK.key in reading.foreign


@pytest.mark.parametrize("state", ["reachable", "stale", "noarp"])
async def test_a_neighbour_that_is_no_longer_permanent_is_absent(place: KernelPlace, state: str) -> None:
    await done(place.target, add(LINK, NEIGHBOUR))
    await place.target.read()
    place.ns.ip(f"neigh replace {VIA} lladdr 02:00:00:00:00:02 dev {DEV} nud {state}")
    reading = await place.target.read()
    assert NEIGHBOUR.key in (reading.touched or ())
    assert NEIGHBOUR.key not in reading.objects
    await done(place.target, add(NEIGHBOUR))
    assert await held(place.target) == by_key(LINK, NEIGHBOUR)


async def test_an_fdb_entry_with_a_port_of_its_own_is_absent_and_repaired(place: KernelPlace) -> None:
    await done(place.target, add(LINK, FDB))
    await place.target.read()
    place.ns.bridge(f"fdb replace 02:00:00:00:00:02 dst {VIA} port 9999 dev {DEV}")
    assert FDB.key not in (await place.target.read()).objects
    assert FDB.key not in await held(place.target)
    await done(place.target, add(FDB))
    assert await held(place.target) == by_key(LINK, FDB)
    assert "port" not in place.ns.bridge_json(f"fdb show dev {DEV}")[0]


async def test_a_route_that_somebody_replaced_is_absent_and_then_a_conflict(place: KernelPlace) -> None:
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.ns.ip(f"route replace {ROUTE.dst} dev up0 metric 100 proto static")
    reading = await place.target.read()
    assert ROUTE.key in (reading.touched or ())
    assert ROUTE.key not in reading.objects
    (failure,) = await place.target.apply(add(ROUTE))
    assert failure is not None
    assert failure.conflict


@pytest.mark.parametrize("dst", ["10.2.0.0/16", "fd00:2::/64"])
async def test_a_routes_mtu_goes_again(place: KernelPlace, dst: str) -> None:
    hop = NEXTHOP if "." in dst else NEXTHOP6
    small = Route(ip_network(dst), DEV, nexthop=hop.id, metric=100, mtu=1300)
    plain = msgspec.structs.replace(small, mtu=0)
    await done(place.target, add(LINK, hop, small))
    await done(place.target, [change(small, plain)])
    assert (await held(place.restarted()))[plain.key] == plain


async def test_what_has_our_numbers_and_was_altered_is_taken_back(place: KernelPlace) -> None:
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.ns.ip(f"route replace {ROUTE.dst} dev up0 metric 100 proto 76")
    place.ns.ip(f"nexthop replace id {HOP} blackhole proto 76")
    for _ in range(2):
        have = await held(place.target)
        await place.target.apply(add(*[thing for thing in EVERYTHING if have.get(thing.key) != thing]))
    assert await held(place.restarted()) == by_key(*EVERYTHING)


@pytest.mark.parametrize("harm", ["type vxlan remote 192.0.2.9", "alias mine"])
async def test_our_device_is_ours_whatever_was_done_to_it(place: KernelPlace, harm: str) -> None:
    await done(place.target, add(LINK))
    place.ns.ip(f"link set {DEV} {harm}")
    target = KernelTarget(LINK.alias, LINK.mac, str(place.ns.path), DEV)
    reading = await target.read()
    assert LINK.key not in reading.foreign
    assert reading.objects[LINK.key] != LINK
    fixed = reading.objects[LINK.key].fixed != LINK.fixed
    await done(target, [*(remove(LINK) if fixed else ()), *(add(LINK) if fixed else [change(LINK, LINK)])])
    assert (await held(target))[LINK.key] == LINK
    target.close()


async def test_learning_changes_without_another_device(place: KernelPlace) -> None:
    """The device made anew cost 11 to 54 packets of a ping at 100 Hz."""
    await done(place.target, add(*EVERYTHING))
    (before,) = place.ns.ip_json(f"link show {DEV}")
    for link in (LEARNING, LINK):
        changes = diff({**wanted(*EVERYTHING), link.key: Wanted(link, WHY)}, Facts(await held(place.target)))
        assert [op.action for op in changes.ops] == ["change"]
        await done(place.target, changes.ops)
        (after,) = place.ns.ip_json(f"link show {DEV}")
        assert after["ifindex"] == before["ifindex"]
        assert after["linkinfo"]["info_data"]["learning"] is link.vxlan.learning
    assert await held(place.target) == by_key(*EVERYTHING)


async def test_our_device_is_taken_back_from_somebody_who_made_it_a_port(place: KernelPlace) -> None:
    woken = asyncio.Event()
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.target.watch(woken.set)
    place.ns.ip("link add his0 type bridge")
    place.ns.ip("link set his0 up")
    await place.target.read()
    woken.clear()
    place.ns.ip(f"link set {DEV} master his0")
    await soon(woken.is_set, "the kernel's word")
    for _ in range(2):
        await done(place.target, diff(wanted(*EVERYTHING), Facts(await held(place.target, full=False))).ops)
    assert "master" not in place.ns.ip_json(f"link show {DEV}")[0]
    assert await held(place.restarted()) == by_key(*EVERYTHING)


async def test_a_device_with_the_group_policy_extension(place: KernelPlace) -> None:
    link = msgspec.structs.replace(LINK, vxlan=msgspec.structs.replace(LINK.vxlan, gbp=True))
    await done(place.target, add(link))
    (shown,) = place.ns.ip_json(f"link show {DEV}")
    assert shown["linkinfo"]["info_data"]["gbp"] is True
    assert await held(place.restarted()) == by_key(link)
    other = Link("vxlan9", OTHER, 1450, msgspec.structs.replace(LINK.vxlan, vni=9), OWNER)
    (failure,) = await place.target.apply(add(other))
    assert failure is not None
    assert "EADDRINUSE" in failure.message
    assert "give it another port" in failure.message


async def test_our_device_under_another_name_is_renamed_and_not_made_twice(place: KernelPlace) -> None:
    target = KernelTarget(LINK.alias, LINK.mac, str(place.ns.path), DEV)
    await done(target, add(*EVERYTHING))
    await target.read()
    for state in ("up", "down"):
        place.ns.ip(f"link set {DEV} down")
        place.ns.ip(f"link set {DEV} name foo0")
        place.ns.ip(f"link set foo0 {state}")
        (index,) = [link["ifindex"] for link in place.ns.ip_json("link show foo0")]
        have = await held(target)
        assert have[LINK.key] == msgspec.structs.replace(LINK, name="foo0", up=state == "up")
        await done(target, [change(LINK, LINK)])
        assert place.ns.ip_json(f"link show {DEV}")[0]["ifindex"] == index
        have = await held(target)
        await done(target, add(*[thing for thing in EVERYTHING if have.get(thing.key) != thing]))
        assert await held(target) == by_key(*EVERYTHING)
    target.close()


async def test_a_link_that_was_renamed_while_we_changed_it_is_looked_at_again(place: KernelPlace) -> None:
    await done(place.target, add(LINK))
    await place.target.read()
    down = msgspec.structs.replace(LINK, mtu=1400)
    await done(place.target, [change(LINK, down)])
    place.ns.ip(f"link set {DEV} down")
    place.ns.ip(f"link set {DEV} name foo0")
    reading = await place.target.read()
    assert LINK.key not in reading.objects
    assert reading.touched is None or LINK.key in reading.touched


async def test_somebody_elses_link_that_goes_out_of_our_way_wakes_us(place: KernelPlace) -> None:
    place.ns.ip(f"link add {DEV} type bridge")
    target = KernelTarget(LINK.alias, LINK.mac, str(place.ns.path), DEV)
    assert LINK.key in (await target.read()).foreign
    woken = asyncio.Event()
    target.watch(woken.set)
    place.ns.ip(f"link del {DEV}")
    await soon(woken.is_set, "the kernel's word")
    reading = await target.read()
    assert LINK.key not in reading.foreign
    assert LINK.key in (reading.touched or ())
    target.close()


async def test_routes_go_with_a_preferred_source_on_somebody_elses_link(place: KernelPlace) -> None:
    """As when a Docker network is removed: its gateway address is the source of our routes. The kernel says nothing."""
    place.ns.ip("link add br0 type bridge")
    place.ns.ip("address add 172.18.0.1/16 dev br0")
    place.ns.ip("link set br0 up")
    route = Route(ROUTE.dst, DEV, nexthop=HOP, metric=100, src=ip_address("172.18.0.1"))
    await done(place.target, add(LINK, NEXTHOP, route))
    assert (await place.target.read()).touched == frozenset()
    place.ns.ip("link del br0")
    reading = await place.target.read()
    assert reading.touched is None
    assert dict(reading.objects) == by_key(LINK, NEXTHOP)


async def test_an_overlays_own_route_goes_with_the_last_address(place: KernelPlace) -> None:
    """Whoever deletes the address of our device hears only of that; the kernel takes the space's route along."""
    space = Route(ip_network("10.254.0.0/16"), DEV, metric=100)
    await done(place.target, add(LINK, ADDRESS, space))
    await place.target.read()
    place.ns.ip(f"address del {ADDRESS.address} dev {DEV}")
    assert await held(place.target, full=False) == by_key(LINK)


async def test_lost_notifications_mean_reading_everything(place: KernelPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    await done(place.target, add(LINK, *many(300)))
    monkeypatch.setattr("weft.targets.kernel.target.LISTEN_BUFFER", 2304)
    target = place.restarted()
    await target.read()
    place.ns.ip(f"neigh flush dev {DEV} nud permanent")
    reading = await target.read()
    assert reading.touched is None
    assert not any(isinstance(thing, Neighbour) for thing in reading.objects.values())


async def test_a_change_by_others_while_we_write_is_not_lost(place: KernelPlace) -> None:
    await done(place.target, add(LINK, *many(300)))
    await place.target.read()
    ours, theirs = many(1000)[300:600], many(300)[:40]
    writing = asyncio.ensure_future(place.target.apply(add(*ours)))
    for thing in theirs:
        place.delete(thing)
        await asyncio.sleep(0)
    assert await writing == [None] * len(ours)
    mirrored = dict((await place.target.read()).objects)
    assert mirrored == await held(place.restarted())
    assert not any(thing.key in mirrored for thing in theirs)


async def test_others_routes_and_neighbours_do_not_wake_us(place: KernelPlace) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.ns.ip("route add 10.50.0.0/16 dev up0 proto static")
    place.ns.ip("neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev up0")
    place.ns.ip("link add br7 type bridge")
    place.ns.ip("link del br7")
    place.ns.ip(f"neigh del {VIA} dev {DEV}")
    await soon(lambda: bool(woken), "our own neighbour's loss to wake")
    assert len(woken) == 1
    assert (await place.target.read()).touched == frozenset({NEIGHBOUR.key})


async def test_a_closed_target_leaves_everything_up_and_calls_nobody(place: KernelPlace) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.target.close()
    place.targets.clear()
    target = place.restarted()
    assert await held(target) == by_key(*EVERYTHING)
    await done(target, remove(ROUTE, ROUTE6))
    assert woken == []


async def test_the_kernels_own_words_are_in_the_failure(place: KernelPlace) -> None:
    answers = await place.target.apply(add(LINK, NextHop(HOP, DEV, ip_address("192.0.2.1"))))
    assert answers[1] is not None
    assert "EINVAL: Nexthop has invalid gateway" in answers[1].message
    assert f"via 192.0.2.1 dev {DEV}" in answers[1].message


async def test_a_sysctl_that_does_not_exist_is_a_failure(place: KernelPlace) -> None:
    answers = await place.target.apply(add(Sysctl("net/ipv4/no_such", "1"), Sysctl("../../tmp/x", "1")))
    assert all(answer is not None and "sysctl" in answer.message for answer in answers)


async def test_a_sysctl_that_somebody_changed_shows(place: KernelPlace) -> None:
    forward = Sysctl("net/ipv4/ip_forward", "1")
    await done(place.target, add(forward))
    await place.target.read()
    place.ns.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    reading = await place.target.read()
    assert reading.touched == frozenset({forward.key})
    assert reading.objects[forward.key] == Sysctl(forward.path, "0")


@pytest.mark.parametrize("path", ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"])
async def test_forwarding_that_somebody_turns_off_wakes_and_shows(place: KernelPlace, path: str) -> None:
    woken = asyncio.Event()
    await done(place.target, add(Sysctl(path, "1")))
    await place.target.read()
    place.target.watch(woken.set)
    place.ns.run("sysctl", "-qw", f"{path.replace('/', '.')}=0")
    await soon(woken.is_set, "the kernel's word")
    reading = await place.target.read()
    assert ("sysctl", path) in (reading.touched or ())
    assert reading.objects["sysctl", path] == Sysctl(path, "0")


async def test_a_host_without_ipv6(place: KernelPlace) -> None:
    place.ns.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    await done(place.target, add(LINK, ADDRESS, *PEER_4))
    assert await held(place.restarted()) == by_key(LINK, ADDRESS, *PEER_4)
    answers = await place.target.apply(add(*PEER_6))
    assert any(answer is not None for answer in answers)


def test_a_namespace_that_does_not_exist_is_said() -> None:
    with pytest.raises(TargetError, match="/run/netns/wefttest-nowhere can't be opened"):
        KernelTarget(OWNER, MINE, "/run/netns/wefttest-nowhere")


async def test_everything_at_once_and_away_again(place: KernelPlace) -> None:
    things = many(700)
    await done(place.target, add(LINK, *things))
    moved = [msgspec.structs.replace(t, via=VIA) for t in things if isinstance(t, NextHop)]
    await done(place.target, [change(t, t) for t in moved])
    assert (await place.target.read()).touched == frozenset()
    await done(place.target, remove(*reversed(things)))
    assert (await place.target.read()).touched == frozenset()
    assert await held(place.target) == by_key(LINK)
