"""What a target of kernel objects does, on the memory target and on a real kernel alike."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import msgspec
import pytest

from tests.contract.targets import (
    ADDRESS,
    ADDRESS6,
    DEV,
    EVERYTHING,
    FDB,
    HOP,
    HOP6,
    LEARNING,
    LINK,
    LINK6,
    NEIGHBOUR,
    NEIGHBOUR6,
    NEXTHOP,
    NEXTHOP6,
    OTHER,
    PEER_4,
    PEER_6,
    ROUTE,
    ROUTE6,
    VIA,
    VIA6,
    WHY,
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
)
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.objects import ZERO_MAC, Address, Chain, Fdb, Link, NextHop, Object, Op, Route, Sysctl
from weft.targets.memory import MemoryTarget


@pytest.fixture(params=["memory", pytest.param("kernel", marks=needs_root)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield MemoryPlace(MemoryTarget())
    else:
        with kernel_place() as kernel:
            yield kernel


ROUTES = (
    ROUTE,
    ROUTE6,
    Route(ip_network("10.3.0.0/24"), DEV, nexthop=HOP, metric=100, src=ip_address("10.0.0.1")),
    Route(ip_network("10.4.0.0/24"), DEV, nexthop=HOP, metric=100, mtu=1400),
    Route(ip_network("10.5.0.0/24"), DEV, nexthop=HOP, metric=100, src=ip_address("10.0.0.1"), mtu=1400),
    Route(ip_network("10.6.0.0/24"), DEV, via=VIA, onlink=True, metric=7),
    Route(ip_network("10.7.0.0/24"), DEV, nexthop=HOP6, metric=100),
    Route(ip_network("10.8.0.0/24"), DEV, via=VIA6, onlink=True, metric=100),
    Route(ip_network("10.9.0.0/24"), DEV, nexthop=HOP, metric=100, table=1000),
    Route(ip_network("10.10.0.0/24"), DEV),
    Route(ip_network("10.11.12.13/32"), DEV, nexthop=HOP, metric=4000000000),
    Route(ip_network("0.0.0.0/0"), DEV, nexthop=HOP, metric=9),
    Route(ip_network("fd00:3::/64"), DEV, nexthop=HOP6, metric=100, src=ip_address("fd00::1")),
    Route(ip_network("fd00:4::/64"), DEV, nexthop=HOP6, metric=100, mtu=1400),
    Route(ip_network("fd00:5::/64"), DEV, nexthop=HOP6, metric=100, src=ip_address("fd00::1"), mtu=1400),
    Route(ip_network("fd00:6::/64"), DEV, via=VIA6, onlink=True, metric=7),
    Route(ip_network("fd00:7::/64"), DEV, metric=7, table=77),
    Route(ip_network("::/0"), DEV, nexthop=HOP6, metric=9),
)


async def test_every_kind_is_added_and_read_back(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    assert await held(place.target, full=False) == by_key(*EVERYTHING)
    assert await held(place.target, full=True) == by_key(*EVERYTHING)


async def test_every_kind_is_removed(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, remove(*reversed(EVERYTHING)))
    assert await held(place.target, full=False) == {}
    assert await held(place.target, full=True) == {}


async def test_removing_what_is_gone_is_success(place: Place) -> None:
    await done(place.target, remove(*reversed(EVERYTHING)))
    await done(place.target, add(*EVERYTHING))
    for thing in reversed(EVERYTHING):
        place.delete(thing)
        await done(place.target, remove(thing))
    assert await held(place.target) == {}


async def test_a_restart_without_memory_finds_the_same(place: Place) -> None:
    await done(place.target, add(*EVERYTHING, *ROUTES))
    assert await held(place.restarted()) == by_key(*EVERYTHING, *ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.dst}-{route.table}")
async def test_routes_of_each_form_come_back_as_they_were(place: Place, route: Route) -> None:
    base = (LINK, ADDRESS, ADDRESS6, NEXTHOP, NEXTHOP6)
    await done(place.target, add(*base, route))
    assert await held(place.target) == by_key(*base, route)
    await done(place.target, remove(route))
    assert await held(place.target) == by_key(*base)


async def test_a_device_over_ipv6_with_learning(place: Place) -> None:
    fdb = Fdb(LINK6.name, OTHER, ip_address("2001:db8::2"))
    await done(place.target, add(LINK6, fdb))
    assert await held(place.target) == by_key(LINK6, fdb)


async def test_flooding_entries_stand_side_by_side(place: Place) -> None:
    flood = [Fdb(DEV, ZERO_MAC, ip_address(f"192.0.2.{n}")) for n in (2, 3)]
    await done(place.target, add(LINK, *flood))
    assert await held(place.target) == by_key(LINK, *flood)
    await done(place.target, remove(flood[0]))
    assert await held(place.target) == by_key(LINK, flood[1])


CHANGES: tuple[tuple[Object, Object], ...] = (
    (LINK, msgspec.structs.replace(LINK, mtu=1400)),
    (LINK, msgspec.structs.replace(LINK, up=False)),
    (LINK, LEARNING),
    (NEIGHBOUR, msgspec.structs.replace(NEIGHBOUR, mac=OTHER)),
    (NEIGHBOUR6, msgspec.structs.replace(NEIGHBOUR6, mac=OTHER)),
    (FDB, msgspec.structs.replace(FDB, dst=ip_address("192.0.2.9"))),
    (NEXTHOP, msgspec.structs.replace(NEXTHOP, via=ip_address("192.0.2.9"))),
    (NEXTHOP6, msgspec.structs.replace(NEXTHOP6, via=ip_address("fe80::9"))),
    (ROUTE, msgspec.structs.replace(ROUTE, mtu=1400)),
    (ROUTE, msgspec.structs.replace(ROUTE, nexthop=0, via=VIA, onlink=True)),
    (ROUTE6, msgspec.structs.replace(ROUTE6, src=ip_address("fd00::1"))),
)


@pytest.mark.parametrize(("old", "new"), CHANGES)
async def test_every_kind_is_changed(place: Place, old: Object, new: Object) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, [change(old, new)])
    assert (await held(place.target, full=False))[new.key] == new
    assert (await held(place.target, full=True))[new.key] == new


NARROW = msgspec.structs.replace(LINK, mtu=1400)
NARROW_LEARNING = msgspec.structs.replace(LEARNING, mtu=1400)


@pytest.mark.parametrize("new", [NARROW, LEARNING, NARROW_LEARNING], ids=["mtu", "learning", "both"])
async def test_a_new_mtu_and_learning_cost_nothing(place: Place, new: Link) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, [change(LINK, new)])
    assert await held(place.target) == {**by_key(*EVERYTHING), new.key: new}
    await done(place.target, [change(new, LINK)])
    assert await held(place.target) == by_key(*EVERYTHING)


async def test_a_new_mac_costs_the_neighbours_and_nothing_else(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    new = msgspec.structs.replace(LINK, mac=OTHER)
    await done(place.target, [change(LINK, new)])
    lost = {NEIGHBOUR.key, NEIGHBOUR6.key}
    expected = {key: thing for key, thing in by_key(*EVERYTHING).items() if key not in lost}
    assert await held(place.target, full=False) == {**expected, new.key: new}


async def test_a_link_that_goes_takes_everything_along(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, remove(LINK))
    assert await held(place.target, full=False) == {}


async def test_a_link_set_down_keeps_fdb_and_ipv4_address(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    down = msgspec.structs.replace(LINK, up=False)
    await done(place.target, [change(LINK, down)])
    assert await held(place.target, full=False) == by_key(down, ADDRESS, FDB)


async def test_a_next_hop_takes_its_routes_along(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, remove(NEXTHOP))
    left = await held(place.target, full=False)
    assert ROUTE.key not in left
    assert ROUTE6.key in left


async def test_an_address_takes_the_routes_that_prefer_it_along(place: Place) -> None:
    routes = [r for r in ROUTES if r.src is not None]
    await done(place.target, add(*EVERYTHING, *routes))
    await done(place.target, remove(ADDRESS))
    left = await held(place.target, full=False)
    assert {r.key for r in routes if r.key in left} == {r.key for r in routes if r.dst.version == 6}


@pytest.mark.parametrize("thing", [ADDRESS, NEIGHBOUR, FDB, NEXTHOP], ids=lambda thing: type(thing).__name__)
async def test_what_needs_a_device_is_refused_without_it(place: Place, thing: Object) -> None:
    (failure,) = await place.target.apply(add(thing))
    assert DEV in refused(failure)
    assert failure is not None
    assert not failure.conflict


async def test_a_route_without_its_next_hop_is_refused(place: Place) -> None:
    answers = await place.target.apply(add(LINK, ROUTE))
    assert answers[0] is None
    assert str(HOP) in refused(answers[1])


async def test_next_hops_and_routes_are_refused_while_the_link_is_down(place: Place) -> None:
    down = msgspec.structs.replace(LINK, up=False)
    route = Route(ROUTE.dst, DEV, via=VIA, onlink=True, metric=3)
    answers = await place.target.apply(add(down, NEIGHBOUR, FDB, NEXTHOP, route))
    assert answers[:3] == [None, None, None]
    assert DEV in refused(answers[3])
    assert DEV in refused(answers[4])


async def test_one_failure_does_not_stop_the_rest(place: Place) -> None:
    hops = [NextHop(HOP + 16 + n, DEV, ip_address(f"10.9.{n // 200}.{n % 200 + 1}")) for n in range(300)]
    bad = NextHop(HOP + 8, "nowhere", VIA)
    orphan = Route(ip_network("10.99.0.0/24"), DEV, nexthop=HOP + 9, metric=100)
    ops = [*add(LINK), *add(*hops[:150]), *add(bad, orphan), *add(*hops[150:])]
    answers = await place.target.apply(ops)
    assert [type(op.object).__name__ for op, a in zip(ops, answers, strict=True) if a is not None] == [
        "NextHop",
        "Route",
    ]
    assert await held(place.target) == by_key(LINK, *hops)


async def test_a_foreign_link_is_left_alone(place: Place) -> None:
    place.put_foreign_link(DEV)
    reading = await place.target.read(full=True)
    assert LINK.key in reading.foreign
    (failure,) = await place.target.apply(add(LINK))
    assert failure is not None
    assert failure.conflict
    assert "bridge" in failure.message
    await done(place.target, remove(LINK))
    assert LINK.key in (await place.target.read(full=True)).foreign


async def test_a_foreign_route_is_not_taken_over(place: Place) -> None:
    await done(place.target, add(LINK, NEXTHOP, NEXTHOP6))
    for route in (ROUTE, ROUTE6):
        place.put_foreign_route(route)
        (failure,) = await place.target.apply(add(route))
        assert failure is not None
        assert failure.conflict
        assert "protocol 4" in failure.message
        assert "up0" in failure.message
        await done(place.target, remove(route))
    assert await held(place.target) == by_key(LINK, NEXTHOP, NEXTHOP6)


async def test_adding_what_is_there_already_is_success(place: Place) -> None:
    await done(place.target, add(*EVERYTHING))
    await done(place.target, add(*PEER_4, *PEER_6))
    new = msgspec.structs.replace(ROUTE, mtu=1300)
    await done(place.target, add(new))
    assert (await held(place.target))[ROUTE.key] == new


@pytest.mark.parametrize("thing", EVERYTHING, ids=lambda thing: "-".join(map(str, thing.key[:3])))
async def test_what_somebody_deletes_wakes_and_shows(place: Place, thing: Object) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    assert (await place.target.read()).touched == frozenset()
    place.delete(thing)
    await soon(lambda: bool(woken), f"{thing.key} to wake")
    reading = await place.target.read()
    assert reading.touched is None or thing.key in reading.touched
    assert thing.key not in reading.objects
    assert dict(reading.objects) == await held(place.restarted())


TAMPERED: tuple[Object, ...] = (
    msgspec.structs.replace(LINK, mtu=1280),
    msgspec.structs.replace(LINK, mac=OTHER),
    msgspec.structs.replace(LINK, up=False),
    LEARNING,
    msgspec.structs.replace(NEIGHBOUR, mac=OTHER),
    msgspec.structs.replace(NEIGHBOUR6, mac=OTHER),
    msgspec.structs.replace(FDB, dst=ip_address("192.0.2.9")),
)


@pytest.mark.parametrize("thing", TAMPERED)
async def test_what_somebody_alters_wakes_and_shows(place: Place, thing: Object) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.put(thing)
    await soon(lambda: bool(woken), f"{thing.key} to wake")
    reading = await place.target.read()
    assert reading.touched is None or thing.key in reading.touched
    assert reading.objects[thing.key] == thing
    assert dict(reading.objects) == await held(place.restarted())


@pytest.mark.parametrize("thing", [NEIGHBOUR, FDB, ROUTE], ids=lambda thing: type(thing).__name__)
async def test_what_somebody_deleted_before_we_made_it_again_is_there(place: Place, thing: Object) -> None:
    """The news of the deletion are read only after our own addition; their order is not known, so it is looked up."""
    await done(place.target, add(*EVERYTHING))
    await place.target.read()
    place.delete(thing)
    await done(place.target, add(thing))
    assert await held(place.target, full=False) == by_key(*EVERYTHING)


async def test_a_link_with_little_on_it_that_somebody_deletes(place: Place) -> None:
    await done(place.target, add(LINK, NEIGHBOUR, Route(ROUTE.dst, DEV, via=VIA, onlink=True)))
    await place.target.read()
    place.delete(LINK)
    assert await held(place.target, full=False) == {}


async def test_our_own_ops_do_not_show_as_touched(place: Place) -> None:
    await place.target.read()
    await done(place.target, add(*EVERYTHING))
    assert (await place.target.read()).touched == frozenset()
    await done(place.target, [change(FDB, msgspec.structs.replace(FDB, dst=ip_address("192.0.2.7")))])
    await done(place.target, remove(ROUTE, NEXTHOP, FDB, NEIGHBOUR))
    assert (await place.target.read()).touched == frozenset()


async def test_a_sysctl_is_set_and_never_reverted(place: Place) -> None:
    forward = Sysctl("net/ipv4/ip_forward", "1")
    await done(place.target, add(forward))
    assert await held(place.target) == by_key(forward)
    await done(place.target, remove(forward))
    assert await held(place.target) == {}


async def test_an_address_with_a_prefix_length_keeps_it(place: Place) -> None:
    address = Address(DEV, ip_interface("10.77.0.1/16"))
    await done(place.target, add(LINK, address))
    assert await held(place.target) == by_key(LINK, address)


async def test_a_kind_that_a_target_does_not_take_is_a_failure(place: Place) -> None:
    (failure,) = await place.target.apply(add(Chain(4, "filter", "WEFT-X", ())))
    assert "Chain" in refused(failure)


@pytest.mark.parametrize("changes", [{"vni": 101}, {"gbp": True}], ids=str)
async def test_a_vxlan_part_does_not_change_in_place(place: Place, changes: dict[str, object]) -> None:
    await done(place.target, add(LINK))
    other = msgspec.structs.replace(LINK, vxlan=msgspec.structs.replace(LINK.vxlan, **changes))
    (failure,) = await place.target.apply([change(LINK, other)])
    assert "VNI" in refused(failure)
    await done(place.target, [Op("remove", LINK, WHY), Op("add", other, WHY)])
    assert await held(place.target) == by_key(other)
