"""Routes of ours out of links that aren't: straight to a host on the same segment, or through a WireGuard device.

On the memory target and on a real kernel; what the kernel alone can show is behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from tests.build import node, view
from tests.contract.targets import (
    ADDRESS,
    DEV,
    EVERYTHING,
    HOP,
    LINK,
    OTHER,
    VIA,
    KernelPlace,
    MemoryPlace,
    Place,
    add,
    by_key,
    change,
    done,
    held,
    inside,
    kernel_place,
    many,
    refused,
    remove,
)
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.agent.reconcile import Reconciler
from weft.backends.tunnel import spread
from weft.model import Profile
from weft.objects import Link, NextHop, Object, Route, Vxlan
from weft.targets.kernel.target import KernelTarget
from weft.targets.memory import FIREWALL_KINDS, MemoryTarget

UP = "up0"
NETWORK = ("10.5.0.0/16", "fd00:5::/32")
DIRECT = Route(ip_network("10.5.20.0/24"), UP, via=VIA, metric=100)
METRIC = spread(7600, DIRECT.dst)
DIRECT6 = Route(ip_network("fd00:5:20::/64"), UP, via=ip_address("2001:db8::2"), metric=100)
PREFERRED = Route(ip_network("10.5.21.0/24"), UP, via=VIA, metric=100, src=ip_address("192.0.2.1"), mtu=1400)
ONLINK = Route(ip_network("10.5.22.0/24"), UP, via=ip_address("198.51.100.9"), onlink=True, metric=100)
PLAIN = Route(ip_network("10.5.23.0/24"), UP)
PLAIN6 = Route(ip_network("fd00:5:21::/64"), UP, metric=100)
SHARED = (DIRECT, DIRECT6, PREFERRED, ONLINK, PLAIN, PLAIN6)
OUTSIDE = Route(ip_network("10.6.0.0/24"), UP, via=VIA, metric=100)


@pytest.fixture(params=["memory", pytest.param("kernel", marks=needs_root)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        place = MemoryPlace(MemoryTarget())
        place.share(*NETWORK)
        yield place
    else:
        with kernel_place() as kernel:
            kernel.share(*NETWORK)
            yield kernel


@pytest.fixture
def kernel() -> Iterator[KernelPlace]:
    with kernel_place() as place:
        place.share(*NETWORK)
        yield place


async def test_shared_routes_are_added_read_back_and_removed(place: Place) -> None:
    await done(place.target, add(*EVERYTHING, *SHARED))
    assert await held(place.target, full=False) == by_key(*EVERYTHING, *SHARED)
    assert await held(place.restarted()) == by_key(*EVERYTHING, *SHARED)
    await done(place.target, remove(*SHARED))
    assert await held(place.target, full=False) == by_key(*EVERYTHING)
    assert await held(place.target) == by_key(*EVERYTHING)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (DIRECT, msgspec.structs.replace(DIRECT, via=ip_address("192.0.2.9"))),
        (DIRECT6, msgspec.structs.replace(DIRECT6, mtu=1400)),
        (DIRECT, msgspec.structs.replace(DIRECT, dev=DEV, via=None, nexthop=HOP)),
        (msgspec.structs.replace(DIRECT, dev=DEV, via=None, nexthop=HOP), DIRECT),
    ],
)
async def test_a_shared_route_is_changed_in_place(place: Place, old: Object, new: Object) -> None:
    """Also from the tunnel to the uplink and back, as when a router between two hosts comes or goes."""
    await done(place.target, add(*EVERYTHING, old))
    await done(place.target, [change(old, new)])
    assert await held(place.target, full=False) == by_key(*EVERYTHING, new)
    assert await held(place.restarted()) == by_key(*EVERYTHING, new)


async def test_what_could_not_be_recognised_afterwards_is_not_made(place: Place) -> None:
    table = msgspec.structs.replace(DIRECT, table=77)
    nowhere = msgspec.structs.replace(PLAIN, dev="nowhere")
    answers = await place.target.apply(add(OUTSIDE, DIRECT, table, nowhere))
    assert answers[1] is None
    assert "up0 isn't ours" in refused(answers[0])
    assert "up0 isn't ours" in refused(answers[2])
    assert "nowhere" in refused(answers[3])
    assert await held(place.target) == by_key(DIRECT)
    place.share()
    (failure,) = await place.target.apply(add(PREFERRED))
    assert UP in refused(failure)


async def test_what_is_shared_may_change(place: Place) -> None:
    woken: list[bool] = []
    await done(place.target, add(DIRECT, DIRECT6))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.share("10.6.0.0/16")
    assert woken
    reading = await place.target.read()
    assert (dict(reading.objects), reading.touched) == ({}, None)
    await done(place.target, add(OUTSIDE))
    place.share()
    assert await held(place.target, full=False) == {}
    place.share(*NETWORK, "10.6.0.0/16")
    assert await held(place.target, full=False) == by_key(DIRECT, DIRECT6, OUTSIDE)


@pytest.mark.parametrize("route", [DIRECT, DIRECT6, PLAIN], ids=lambda route: str(route.dst))
async def test_a_shared_route_that_somebody_deletes_wakes_and_shows(place: Place, route: Route) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING, *SHARED))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.delete(route)
    await soon(lambda: bool(woken), "the loss to wake")
    reading = await place.target.read()
    assert reading.touched == frozenset({route.key})
    assert route.key not in reading.objects


async def test_routes_go_with_their_link_and_are_tried_again_when_it_comes_back(place: Place) -> None:
    woken: list[bool] = []
    await done(place.target, add(*EVERYTHING, DIRECT, PLAIN))
    await place.target.read()
    place.target.watch(lambda: woken.append(True))
    place.set_uplink(up=False)
    await soon(lambda: bool(woken), "the link's going down to wake")
    assert await held(place.target, full=False) == by_key(*EVERYTHING)
    answers = await place.target.apply(add(DIRECT, PLAIN))
    assert all(answer is not None and not answer.conflict for answer in answers)
    await place.target.read()
    woken.clear()
    place.set_uplink(up=True)
    await soon(lambda: bool(woken), "the link's coming up to wake")
    assert (await place.target.read()).touched == frozenset({DIRECT.key, PLAIN.key})
    await done(place.target, add(DIRECT, PLAIN))
    assert await held(place.target, full=False) == by_key(*EVERYTHING, DIRECT, PLAIN)
    assert await held(place.restarted()) == by_key(*EVERYTHING, DIRECT, PLAIN)


async def test_a_foreign_route_at_a_shared_ones_place_is_left_alone(place: Place) -> None:
    place.put_foreign_route(DIRECT)
    (failure,) = await place.target.apply(add(DIRECT))
    assert failure is not None
    assert failure.conflict
    assert "protocol 4 out of up0" in failure.message
    await done(place.target, remove(DIRECT))
    assert await held(place.target) == {}


# What only a real kernel can show.


@needs_root
async def test_a_link_that_goes_down_while_we_are_told_nothing_of_its_routes(kernel: KernelPlace) -> None:
    """The kernel flushes IPv4 routes without a word: with the link, with its last address, with a preferred source."""
    harms = ("link set up0 down", "address flush dev up0", "link del up0")
    mends = (
        ("link set up0 up",),
        ("address add 192.0.2.1/24 dev up0",),
        ("link add up0 type veth peer name up1", "link set up0 up", "address add 192.0.2.1/24 dev up0"),
    )
    await done(kernel.target, add(LINK))
    woken = asyncio.Event()
    kernel.target.watch(woken.set)
    for harm, mend in zip(harms, mends, strict=True):
        await done(kernel.target, add(DIRECT, PREFERRED))
        await kernel.target.read()
        woken.clear()
        kernel.ns.ip(harm)
        await soon(woken.is_set, f"{harm} to wake")
        assert await held(kernel.target, full=False) == by_key(LINK), harm
        answers = await kernel.target.apply(add(DIRECT, PREFERRED))
        assert all(answers), harm
        await kernel.target.read()
        woken.clear()
        for line in mend:
            kernel.ns.ip(line)
        await soon(woken.is_set, f"{mend} to wake")
        await soon_due(kernel, {DIRECT.key, PREFERRED.key})
    await done(kernel.target, add(DIRECT, PREFERRED))
    assert await held(kernel.target, full=False) == by_key(LINK, DIRECT, PREFERRED)


async def soon_due(kernel: KernelPlace, keys: set[object]) -> None:
    """Readings name all of these, perhaps one after the other, each with an attempt."""
    seen: set[object] = set()
    while not seen >= keys:
        reading = await kernel.target.read()
        seen |= reading.touched or set()


@needs_root
@pytest.mark.parametrize("found", ["written", "read", "heard"])
@pytest.mark.parametrize("harm", ["link set up0 down", "address flush dev up0", "link del up0"])
async def test_however_we_know_of_a_route_its_silent_end_is_noticed(kernel: KernelPlace, found: str, harm: str) -> None:
    if found == "heard":
        await kernel.target.read()
        kernel.ns.ip(f"route add {DIRECT.dst} via {DIRECT.via} metric 100 proto 76")
        assert (await kernel.target.read()).touched == frozenset({DIRECT.key})
    else:
        await done(kernel.target, add(DIRECT))
    target = kernel.restarted() if found == "read" else kernel.target
    assert await held(target, full=False) == by_key(DIRECT)
    kernel.ns.ip(harm)
    assert await held(target, full=False) == {}


@needs_root
async def test_what_is_due_is_told_though_everything_was_read_meanwhile(kernel: KernelPlace) -> None:
    later = msgspec.structs.replace(PLAIN, dev="wan0")
    await kernel.target.read()
    (failure,) = await kernel.target.apply(add(later))
    assert "no link wan0" in refused(failure)
    woken = asyncio.Event()
    kernel.target.watch(woken.set)
    kernel.ns.ip("link add wan0 type bridge")
    asyncio.get_running_loop().remove_reader(kernel.target._listener.fileno())  # a late notification must not wake
    assert (await kernel.target.read(full=True)).touched is None
    await soon(woken.is_set, "the second word")
    assert (await kernel.target.read()).touched == frozenset({later.key})


@needs_root
async def test_a_shared_route_that_is_hidden_behind_another_is_known_as_ours(kernel: KernelPlace) -> None:
    await kernel.target.read()
    kernel.ns.ip(f"route add {DIRECT.dst} via 192.0.2.9 metric 100 proto 76")
    kernel.ns.ip(f"route add {DIRECT.dst} dev up0 metric 5 proto static")
    await done(kernel.target, add(DIRECT))
    assert await held(kernel.target) == by_key(DIRECT)


@needs_root
async def test_a_renamed_link_takes_its_routes_along(kernel: KernelPlace) -> None:
    await done(kernel.target, add(DIRECT))
    await kernel.target.read()
    kernel.ns.ip("link set up0 name wan0")
    moved = msgspec.structs.replace(DIRECT, dev="wan0")
    assert await held(kernel.target, full=False) in ({}, by_key(moved))
    assert await held(kernel.target, full=False) == await held(kernel.restarted())


IN_THE_WAY = (
    (f"{DIRECT.dst} dev up0 metric 100 proto static", f"route del {DIRECT.dst} metric 100 proto static"),
    (f"{DIRECT.dst} dev wan0 metric 100 proto static", "link set wan0 down"),
    (f"{DIRECT.dst} dev wan0 metric 100 proto static", "link del wan0"),
    (f"{DIRECT.dst} dev wan0 metric 100 proto static", "address flush dev wan0"),
)


@needs_root
@pytest.mark.parametrize(("route", "goes"), IN_THE_WAY, ids=lambda line: line.split()[-1])
async def test_a_foreign_route_that_goes_out_of_our_way_is_noticed(kernel: KernelPlace, route: str, goes: str) -> None:
    quiet(kernel)
    kernel.ns.ip("link add wan0 type bridge")
    kernel.ns.ip("link set wan0 up")
    kernel.ns.ip("address add 203.0.113.1/24 dev wan0")
    kernel.ns.ip(f"route add {route}")
    woken = asyncio.Event()
    (failure,) = await kernel.target.apply(add(DIRECT))
    assert failure is not None
    assert failure.conflict
    await kernel.target.read()
    kernel.target.watch(woken.set)
    kernel.ns.ip(goes)
    await soon(woken.is_set, f"{goes} to wake")
    assert DIRECT.key in ((await kernel.target.read()).touched or ())
    await done(kernel.target, add(DIRECT))
    woken.clear()
    await kernel.target.read()
    kernel.ns.ip("route add 10.50.0.0/16 dev up0 proto static")
    kernel.ns.ip("route del 10.50.0.0/16")
    assert not _is_waiting(kernel)
    assert not woken.is_set()


def quiet(kernel: KernelPlace) -> None:
    """Without IPv6 no address is confirmed a second after its link came up, which would be another reason to wake."""
    kernel.ns.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")


def _is_waiting(kernel: KernelPlace) -> bool:
    """Whether some netlink socket of the namespace has something that is not received yet."""
    lines = kernel.ns.run("cat", "/proc/net/netlink").splitlines()[1:]
    return any(int(line.split()[4]) > 0 for line in lines if line.split()[1] == "0")


@needs_root
async def test_what_others_have_out_of_the_same_links_is_not_ours(kernel: KernelPlace) -> None:
    """A second daemon with another network, a third one's VXLAN device, and routes of no daemon's."""
    second = KernelTarget("weft:flanneld:me/b", OTHER, str(kernel.ns.path), shared=inside("10.6.0.0/16"))
    third = KernelTarget("weft:router:me", OTHER, str(kernel.ns.path))
    kernel.targets += [second, third]
    theirs = (
        Link("vxlan200", OTHER, 1450, Vxlan(200, 4790, ip_address("192.0.2.1")), "weft:router:me"),
        NextHop(HOP + 1000, "vxlan200", VIA),
        Route(ip_network("10.5.77.0/24"), "vxlan200", nexthop=HOP + 1000, metric=100),
    )
    await done(kernel.target, add(*EVERYTHING, DIRECT))
    await done(second, add(OUTSIDE))
    await done(third, add(*theirs))
    for line in ("10.5.30.0/24 via 192.0.2.7 proto static", "10.5.31.0/24 via 192.0.2.7 proto 76 table 9"):
        kernel.ns.ip(f"route add {line}")
    kernel.ns.ip("route add blackhole 10.5.32.0/24 proto 76")
    for target, expected in ((kernel.target, (*EVERYTHING, DIRECT)), (second, (OUTSIDE,)), (third, theirs)):
        assert await held(target, full=False) == by_key(*expected)
        assert await held(target, full=True) == by_key(*expected)
    (failure,) = await kernel.target.apply(add(theirs[2]))
    assert "vxlan200" in refused(failure)


@needs_root
@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        ("link set up0 down", ("link set up0 up",)),
        ("address flush dev up0", ("address add 192.0.2.1/24 dev up0",)),
        (
            "link del up0",
            ("link add up0 type veth peer name up1", "link set up0 up", "address add 192.0.2.1/24 dev up0"),
        ),
        (f"route add {DIRECT.dst} dev lo metric {METRIC}", (f"route del {DIRECT.dst} dev lo metric {METRIC}",)),
    ],
)
async def test_the_loop_puts_routes_back_as_soon_as_it_can(kernel: KernelPlace, harm: str, mend: tuple[str]) -> None:
    """Though by then it has failed so often that its own clock would have it wait for seconds."""
    quiet(kernel)
    peer = replace(node("b", str(VIA), str(DIRECT.dst)), backend="host-gw", direct=UP)
    wanted = view(peer, profile=Profile("flanneld"))
    wanted = replace(wanted, me=replace(wanted.me, backend="host-gw", overlay=()))
    woken = asyncio.Event()
    kernel.target.watch(woken.set)
    reconciler = Reconciler([kernel.target, MemoryTarget(FIREWALL_KINDS, "firewall")])

    async def cycle(full: bool = False) -> None:
        woken.clear()
        await reconciler.read(full)
        await reconciler.mend(wanted)

    def stands() -> bool:
        return any(r["dst"] == str(DIRECT.dst) for r in kernel.ns.ip_json("route show proto 76"))

    if "route" not in harm:
        await cycle(full=True)
        assert stands()
    kernel.ns.ip(harm)
    for _ in range(9):
        await cycle(full=True)
        for key, status in reconciler.account.statuses.items():
            reconciler.account.statuses[key] = replace(status, retry_at=0.0)  # as if that time had passed
    await cycle(full=True)
    assert not stands()
    (status,) = reconciler.account.statuses.values()
    assert status.retry_at - reconciler.clock.now() > 10
    while woken.is_set():
        await cycle()
        await asyncio.sleep(0)
    for line in mend:
        kernel.ns.ip(line)
    await soon(woken.is_set, "the kernel's word")
    while woken.is_set() or not stands():
        await cycle()
        await soon(lambda: woken.is_set() or stands(), "the next word or the route")
    assert reconciler.account.statuses == {}


@needs_root
async def test_thousands_of_both_kinds_are_read(kernel: KernelPlace) -> None:
    direct = [
        Route(ip_network(f"10.5.{n // 16}.{n % 16 * 16}/28"), UP, via=ip_address(f"192.0.2.{n % 250 + 2}"), metric=n)
        for n in range(1000)
    ]
    kernel.ns.ip(f"address add {ADDRESS.address} dev up0")
    await done(kernel.target, add(LINK, *many(600), *direct))
    assert await held(kernel.restarted()) == by_key(LINK, *many(600), *direct)
