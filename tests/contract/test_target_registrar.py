"""The registrar's routes, told from every other daemon's by their metric: out of its own device, flanneld's, an uplink.

On the memory target and on a real kernel; behind that, the registrar beside flannel and beside `weft flanneld` on one
`flannel.1`. What flannel does is done with `ip` and `bridge`, and what became of it is looked at with them too.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from tests.build import network, node, uplink, view
from tests.contract.targets import (
    DEV,
    EVERYTHING,
    MINE,
    KernelPlace,
    add,
    by_key,
    change,
    done,
    held,
    inside,
    kernel_place,
    refused,
    remove,
)
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.agent.reconcile import Reconciler
from weft.backends.tunnel import REGISTRAR_METRICS, spread
from weft.core.diff import Facts, diff
from weft.core.plan import plan
from weft.model import Host, Node, Profile, StaticRoute, View, mac_text, parse_mac
from weft.objects import Chain, Jump, Link, Op, Route, Sysctl
from weft.targets import Target
from weft.targets.kernel.target import KernelTarget
from weft.targets.memory import MemoryTarget

REGISTRAR = "weft:registrar:me"
FLANNELD = "weft:flanneld:/coreos.com/network:me"
MAC = parse_mac("82:3d:cd:46:bc:78")
PEER_MAC = parse_mac("2e:00:00:00:00:02")
FLANNEL = "flannel.1"
BASE = REGISTRAR_METRICS.start

OURS = (
    Route(ip_network("10.9.1.0/24"), "up0", via=ip_address("192.0.2.2"), metric=BASE),
    Route(ip_network("172.24.90.1/32"), "up0", via=ip_address("192.0.2.6"), metric=REGISTRAR_METRICS[-1]),
    Route(ip_network("fd00:9::/64"), "up0", via=ip_address("2001:db8::2"), metric=BASE + 7, mtu=1400),
    Route(ip_network("10.9.2.0/24"), "up0", via=ip_address("198.51.100.9"), onlink=True, metric=BASE + 8),
)
OUT_OF_BAND = [msgspec.structs.replace(OURS[0], metric=metric) for metric in (BASE - 1, REGISTRAR_METRICS[-1] + 1, 0)]


@dataclass
class Registrar:
    """A registrar's target, another one without memory in the same place, and the kernel if it is one."""

    target: Target
    again: Target
    kernel: KernelPlace | None = None


@pytest.fixture(params=["memory", pytest.param("kernel", marks=needs_root)])
def registrar(request: pytest.FixtureRequest) -> Iterator[Registrar]:
    if request.param == "memory":
        memory = MemoryTarget(registrar=True)
        memory.put_uplink("up0")
        yield Registrar(memory, memory)
    else:
        with kernel_place() as place:
            yield Registrar(opened(place, REGISTRAR), opened(place, REGISTRAR), place)


def opened(place: KernelPlace, owner: str) -> KernelTarget:
    """The target of a daemon that has just started; flanneld's shares its network, as the daemon does."""
    if owner == FLANNELD:
        target = KernelTarget(owner, MAC, str(place.ns.path), FLANNEL, inside("10.5.0.0/16"))
    else:
        target = KernelTarget(owner, MINE, str(place.ns.path), "vxlan7600")
    place.targets.append(target)
    return target


async def test_routes_of_the_band_are_the_registrars_out_of_every_link(registrar: Registrar) -> None:
    await done(registrar.target, add(*OURS))
    assert await held(registrar.target, full=False) == by_key(*OURS)
    assert await held(registrar.again) == by_key(*OURS)
    other = msgspec.structs.replace(OURS[0], via=ip_address("192.0.2.9"))
    await done(registrar.target, [change(OURS[0], other)])
    assert await held(registrar.target, full=False) == await held(registrar.again) == by_key(other, *OURS[1:])
    await done(registrar.target, remove(other, *OURS[1:]))
    assert await held(registrar.target, full=False) == await held(registrar.again) == {}


@pytest.mark.parametrize("route", OUT_OF_BAND, ids=lambda route: str(route.metric))
async def test_what_is_not_in_the_band_is_not_made(registrar: Registrar, route: Route) -> None:
    (failure,) = await registrar.target.apply(add(route))
    assert "up0" in refused(failure) or "metrics from 8624 to 9648" in refused(failure)
    assert await held(registrar.again) == {}


# On a real kernel, with other daemons.


@pytest.fixture
def place() -> Iterator[KernelPlace]:
    with kernel_place() as kernel:
        yield kernel


def leased() -> Node:
    """The other host: its lease is 10.5.20.0/24, and it has a Docker network."""
    return replace(
        node("b", "192.0.2.2", vni=1, mac=PEER_MAC),
        networks=(network("lease", "10.5.20.0/24"), network("web", "10.9.1.0/24")),
        overlay=(ip_address("10.5.20.0"),),
        backend="lease",
        mtu=0,
    )


HOST = Host((uplink("up0", "192.0.2.1/24"),))
METRIC = spread(BASE, ip_network("172.24.90.1/32"))
ROUTER = StaticRoute(ip_network("172.24.90.1/32"), ip_address("192.0.2.6"), "up0", "settings", "HOST_GATEWAY_MAP")


def beside() -> View:
    """What the registrar wants: routes out of flannel.1 and out of the uplink."""
    me = replace(node("a", "192.0.2.1", vni=1, mac=MAC), backend="lease", overlay=(ip_address("10.5.10.0"),))
    profile = Profile(role="registrar", device=FLANNEL, shared=True, metric=BASE, gateway="overlay")
    return replace(view(leased(), me=me, host=HOST, profile=profile), routes=(ROUTER,))


def flanneld() -> View:
    """What `weft flanneld` wants on the same host."""
    me = replace(node("me", "192.0.2.1", vni=1, mac=MAC), port=8472, overlay=(ip_address("10.5.10.0"),))
    peer = replace(node("10.5.20.0/24", "192.0.2.2", "10.5.20.0/24", vni=1, mac=PEER_MAC))
    profile = Profile("flanneld", "/coreos.com/network:me", device=FLANNEL, gateway="overlay")
    return view(replace(peer, overlay=(ip_address("10.5.20.0"),)), me=me, host=HOST, profile=profile)


def flannel_makes_its_device(place: KernelPlace) -> None:
    """As flannel does: the device, then its address, then it goes up, then its peers."""
    kind = "vxlan id 1 local 192.0.2.1 dev up0 dstport 8472 nolearning"
    place.ns.ip(f"link add {FLANNEL} address {mac_text(MAC)} mtu 1450 type {kind}")
    place.ns.ip(f"address add 10.5.10.0/32 dev {FLANNEL}")
    place.ns.ip(f"link set {FLANNEL} up")
    place.ns.ip(f"neigh add 10.5.20.0 lladdr {mac_text(PEER_MAC)} dev {FLANNEL} nud permanent")
    place.ns.bridge(f"fdb add {mac_text(PEER_MAC)} dev {FLANNEL} dst 192.0.2.2 self permanent")
    place.ns.ip(f"route add 10.5.20.0/24 via 10.5.20.0 dev {FLANNEL} onlink")


FLANNELS_ROUTE = f"10.5.20.0/24 via 10.5.20.0 dev {FLANNEL} onlink"


def routes(place: KernelPlace) -> list[str]:
    """What `ip route` shows, less what the kernel made by itself."""
    lines = place.ns.ip("route show").splitlines()
    return sorted(" ".join(line.split()) for line in lines if "proto kernel" not in line)


def registrars(place: KernelPlace) -> list[str]:
    """Its routes, as `ip` shows them: destinations and devices."""
    metrics = {str(metric) for metric in REGISTRAR_METRICS}
    words = [line.split() for line in routes(place)]
    return [f"{line[0]} {line[line.index('dev') + 1]}" for line in words if metrics.intersection(line)]


WANTED = [f"10.5.20.0 {FLANNEL}", f"10.9.1.0/24 {FLANNEL}", "172.24.90.1 up0"]


async def changes(target: Target, wanted: View) -> tuple[Op, ...]:
    """What a daemon that has just read its target would do; the firewall and sysctls are no matter here."""
    kernels = {k: w for k, w in plan(wanted).wanted.items() if not isinstance(w.object, Chain | Jump | Sysctl)}
    reading = await target.read(full=True)
    actual = {key: thing for key, thing in reading.objects.items() if not isinstance(thing, Sysctl)}
    return diff(kernels, Facts(actual, reading.foreign)).ops


async def mend(target: Target, wanted: View) -> None:
    await done(target, await changes(target, wanted))
    assert await changes(target, wanted) == ()


@contextlib.asynccontextmanager
async def kept(target: Target, wanted: View) -> AsyncIterator[Reconciler]:
    """A daemon that keeps `target` as `wanted`, woken by nothing but what the kernel tells: there is no timer."""
    reconciler, woken = Reconciler((target, MemoryTarget((Chain, Jump), "firewall"))), asyncio.Event()
    target.watch(woken.set)

    async def run() -> None:
        while True:
            woken.clear()
            await reconciler.read()
            await reconciler.mend(wanted)
            await woken.wait()

    task = asyncio.ensure_future(run())
    try:
        yield reconciler
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@needs_root
async def test_two_daemons_on_one_device_never_touch_each_others_routes(place: KernelPlace) -> None:
    theirs, ours = opened(place, FLANNELD), opened(place, REGISTRAR)
    await mend(theirs, flanneld())
    await mend(ours, beside())
    there = routes(place)
    assert registrars(place) == WANTED
    assert len(there) == len(WANTED) + 1
    for owner, wanted in ((FLANNELD, flanneld()), (REGISTRAR, beside())):
        assert await changes(opened(place, owner), wanted) == (), f"{owner} restarted without memory"
    nothing = replace(beside(), nodes=(), routes=())
    await mend(opened(place, REGISTRAR), nothing)
    assert routes(place) == [line for line in there if "7600" in line]
    await mend(opened(place, REGISTRAR), beside())
    await mend(opened(place, FLANNELD), replace(flanneld(), nodes=()))
    assert routes(place) == [line for line in there if "7600" not in line]


@needs_root
async def test_neither_is_woken_by_the_others_work(place: KernelPlace) -> None:
    theirs, ours = opened(place, FLANNELD), opened(place, REGISTRAR)
    await mend(theirs, flanneld())
    await mend(ours, replace(beside(), nodes=()))
    await theirs.read()
    await mend(ours, beside())
    assert (await theirs.read()).touched == frozenset()
    await ours.read()
    more = replace(node("10.5.21.0/24", "192.0.2.3", "10.5.21.0/24", vni=1), overlay=(ip_address("10.5.21.0"),))
    await mend(theirs, replace(flanneld(), nodes=(*flanneld().nodes, more)))
    assert (await ours.read()).touched == frozenset()


@needs_root
async def test_the_layout_of_flannel_itself_is_left_as_it_is(place: KernelPlace) -> None:
    flannel_makes_its_device(place)
    entries = place.ns.ip(f"neigh show dev {FLANNEL}"), place.ns.bridge(f"fdb show dev {FLANNEL}")
    ours = opened(place, REGISTRAR)
    await mend(ours, beside())
    assert registrars(place) == WANTED
    assert FLANNELS_ROUTE in routes(place)
    await mend(ours, replace(beside(), nodes=(), routes=()))
    assert routes(place) == [FLANNELS_ROUTE]
    assert (place.ns.ip(f"neigh show dev {FLANNEL}"), place.ns.bridge(f"fdb show dev {FLANNEL}")) == entries


@needs_root
async def test_routes_wait_for_flannels_device_and_stand_when_it_does(place: KernelPlace) -> None:
    async with kept(opened(place, REGISTRAR), beside()) as registrar:
        await soon(lambda: registrars(place) == WANTED[2:], "what needs no device")
        waits = [s for s in registrar.account.statuses.values() if s.state == "error"]
        assert [FLANNEL in status.message for status in waits] == [True, True]
        flannel_makes_its_device(place)
        await soon(lambda: registrars(place) == WANTED, "the others")
        await soon(lambda: not any(s.state == "error" for s in registrar.account.statuses.values()), "the good news")


@needs_root
async def test_a_gateway_that_nobody_can_reach_is_named_and_tried_again_when_an_address_comes(
    place: KernelPlace,
) -> None:
    far = replace(ROUTER, via=ip_address("203.0.113.6"))
    async with kept(opened(place, REGISTRAR), replace(beside(), nodes=(), routes=(far,))) as registrar:
        await soon(
            lambda: registrar.account.statuses.get(("route", b"\xac\x18\x5a\x01", 32, 254, METRIC)), "its status"
        )
        (status,) = (s for s in registrar.account.statuses.values() if s.state == "error")
        assert "172.24.90.1/32 via 203.0.113.6 dev up0" in status.message
        assert "Nexthop has invalid gateway" in status.message
        place.ns.ip("address add 203.0.113.1/24 dev up0")
        await soon(lambda: registrars(place) == ["172.24.90.1 up0"], "the route")


def made_again(place: KernelPlace) -> None:
    place.ns.ip(f"link del {FLANNEL}")
    flannel_makes_its_device(place)


def set_twice(place: KernelPlace, first: str, second: str) -> None:
    place.ns.ip(first)
    place.ns.ip(second)


HARMS: dict[str, Callable[[KernelPlace], object]] = {
    "made again": made_again,
    "down and up": lambda place: set_twice(place, f"link set {FLANNEL} down", f"link set {FLANNEL} up"),
    "its address": lambda place: set_twice(place, *(f"address {v} 10.5.10.0/32 dev {FLANNEL}" for v in ("del", "add"))),
    "another mac": lambda place: place.ns.ip(f"link set {FLANNEL} address 2e:00:00:00:00:99"),
    "the uplink": lambda place: set_twice(place, "link set up0 down", "link set up0 up"),
    "one of ours": lambda place: place.ns.ip("route del 10.9.1.0/24"),
}


@needs_root
@pytest.mark.parametrize("harm", HARMS)
async def test_routes_that_went_with_flannels_device_are_back_at_once(place: KernelPlace, harm: str) -> None:
    flannel_makes_its_device(place)
    async with kept(opened(place, REGISTRAR), beside()):
        await soon(lambda: registrars(place) == WANTED, "the routes")
        HARMS[harm](place)
        await soon(lambda: registrars(place) == WANTED, f"the routes after {harm}", timeout=5)


@needs_root
async def test_weft_flanneld_makes_its_device_again_and_the_registrars_routes_follow(place: KernelPlace) -> None:
    async with kept(opened(place, FLANNELD), flanneld()), kept(opened(place, REGISTRAR), beside()):
        await soon(lambda: registrars(place) == WANTED, "the routes")
        place.ns.ip(f"link del {FLANNEL}")
        await soon(lambda: len(routes(place)) == len(WANTED) + 1, "both daemons' routes")


@needs_root
async def test_a_route_of_the_band_on_an_agents_own_device_is_not_the_agents(place: KernelPlace) -> None:
    """Decoded the fast way (through a next-hop object) and the slow way, read and heard."""
    hop = next(thing.nexthop for thing in EVERYTHING if isinstance(thing, Route))
    await done(place.target, add(*EVERYTHING))
    place.ns.ip(f"route add 10.77.0.0/16 nhid {hop} proto 76 metric {BASE}")
    assert (await place.target.read()).touched == frozenset()
    assert await held(place.restarted()) == by_key(*EVERYTHING)
    place.ns.ip(f"route add 10.78.0.0/16 via 192.0.2.9 dev {DEV} onlink proto 76 metric {REGISTRAR_METRICS[-1]}")
    assert (await place.target.read()).touched == frozenset()
    assert await held(place.restarted()) == by_key(*EVERYTHING)
    await done(place.target, remove(Route(ip_network("10.77.0.0/16"), DEV, nexthop=hop, metric=BASE)))
    assert "10.77.0.0/16" in place.ns.ip("route show")


@needs_root
async def test_its_own_device_has_its_settings_and_gets_them_again(place: KernelPlace) -> None:
    own = view(node("b", "192.0.2.2", "10.2.0.0/24"), host=HOST, profile=Profile(role="registrar", metric=BASE))
    path = "/proc/sys/net/ipv4/conf/vxlan4096"
    shown = "cat", f"{path}/rp_filter", f"{path}/send_redirects"
    place.ns.run("sysctl", "-qw", "net.ipv4.conf.default.rp_filter=1")
    target = KernelTarget("weft:registrar:a", own.me.mac, str(place.ns.path), "vxlan4096")
    place.targets.append(target)
    async with kept(target, own):
        for harm in ("", "link del vxlan4096"):
            if harm:
                place.ns.ip(harm)
            await soon(lambda: place.ns.run(*shown, check=False).split() == ["2", "0"], f"settings after {harm!r}")


@needs_root
async def test_cleanup_takes_the_registrars_routes_and_device_too(place: KernelPlace) -> None:
    flannel_makes_its_device(place)
    await mend(opened(place, REGISTRAR), beside())
    own = replace(view(profile=Profile(role="registrar", mark="me", metric=BASE)), host=HOST)
    foreign = f"10.9.1.0/24 via 192.0.2.9 dev up0 metric {BASE + 3}"
    place.ns.ip(f"route add {foreign} proto static")
    weft = (sys.executable, "-m", "weft.cli.main", "cleanup", "--subnet-file", "/nowhere")
    told = place.ns.run(*weft)
    assert all(f"ip route del {dst}" in told for dst in ("10.9.1.0/24", "10.5.20.0/32", "172.24.90.1/32"))
    assert registrars(place) == ["10.9.1.0/24 up0"]
    assert FLANNELS_ROUTE in routes(place)
    link = next(w.object for w in plan(own).wanted.values() if isinstance(w.object, Link))
    await done(opened(place, REGISTRAR), add(msgspec.structs.replace(link, alias=REGISTRAR), *OURS))
    place.ns.run(*weft)
    assert registrars(place) == ["10.9.1.0/24 up0"]
    assert place.ns.ip("-br link show type vxlan").split()[0] == FLANNEL
