"""The mirror by itself: what makes it doubtful, on kernels that say less than the one that the tests run on."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network

import msgspec
import pytest

from weft.model import parse_mac
from weft.objects import Address, Failure, NextHop, Object, Op, Route, Vxlan, Why
from weft.targets.kernel.codec import Message, text
from weft.targets.kernel.constants import IFLA_IFNAME, RTM_DELLINK
from weft.targets.kernel.hearing import hear
from weft.targets.kernel.links import IFINFO, LinkState
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.refusals import Refusals

DEV = "vxlan100"
MAC = parse_mac("02:00:00:00:00:01")
VXLAN = Vxlan(100, 4789, ip_address("192.0.2.1"))
WHY = Why("test", "b", "a test")
ADDRESS = Address(DEV, ip_interface("10.0.0.1/32"))
HOP = NextHop(0x70000001, DEV, ip_address("192.0.2.2"))
ROUTE = Route(ip_network("10.2.0.0/16"), DEV, nexthop=HOP.id, metric=100, src=ip_address("10.0.0.1"))


def link(**changes: object) -> LinkState:
    ours = LinkState(7, DEV, "vxlan", MAC, 1450, True, "weft:agent:me", 0, VXLAN)
    return ours._replace(**changes)  # type: ignore[arg-type]


def wrote(mirror: Mirror, action: str, *things: Object) -> None:
    for thing in things:
        op = Op("remove" if action == "remove" else "add", thing, WHY)
        mirror.wrote([op], [])


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror("weft:agent:me", {"": MAC})
    mirror.set_links([link()])
    mirror.doubtful = False
    return mirror


def test_an_address_that_routes_prefer_leaves_doubt(mirror: Mirror) -> None:
    """Before Linux 6.5 the kernel removes such routes without a word."""
    wrote(mirror, "add", ADDRESS, HOP, ROUTE)
    wrote(mirror, "remove", ADDRESS)
    assert ADDRESS.key not in mirror.objects
    assert mirror.doubtful


def test_an_address_that_no_route_prefers_leaves_none(mirror: Mirror) -> None:
    wrote(mirror, "add", ADDRESS)
    wrote(mirror, "remove", ADDRESS)
    assert ADDRESS.key not in mirror.objects
    assert not mirror.doubtful


@pytest.mark.parametrize(("order", "doubtful"), [((ROUTE, HOP), False), ((HOP,), True)])
def test_a_next_hop_leaves_doubt_only_if_a_route_was_left_on_it(
    mirror: Mirror, order: Sequence[Object], doubtful: bool
) -> None:
    wrote(mirror, "add", HOP, ROUTE)
    mirror.begin_removing()
    wrote(mirror, "remove", *order)
    mirror.check_hops()
    assert mirror.doubtful is doubtful


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, True),
        ({"alias": ""}, True),
        ({"alias": "weft:agent:old-name"}, True),
        ({"alias": "", "mac": b"\x02\0\0\0\0\x09"}, False),
        ({"alias": "weft:agent:other", "mac": b"\x02\0\0\0\0\x09"}, False),
        ({"alias": "weft:router:me"}, False),
        ({"alias": "mine"}, False),
        ({"mac": b"\x02\0\0\0\0\x09"}, True),
        ({"vxlan": None, "kind": "bridge"}, False),
    ],
)
def test_whose_a_link_is(changes: dict[str, object], ours: bool) -> None:
    mirror = Mirror("weft:agent:me", {"": MAC})
    mirror.set_links([link(**changes)])
    assert (("link", DEV) in mirror.objects, ("link", DEV) in mirror.foreign) == (ours, not ours)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({"alias": "weft:router:me"}, "ours, ours"),
        ({"alias": "weft:router:me", "mac": b"\x02\0\0\0\0\x09", "name": "vxlan9"}, "ours, ours"),
        ({"alias": ""}, "ours, ours"),
        ({"alias": "mine"}, "ours, ours"),
        ({"alias": "weft:router:other"}, "foreign, ours"),
        ({"alias": "weft:router:other", "name": "vxlan9"}, "foreign, foreign"),
        ({"alias": "weft:router:other", "mac": b"\x02\0\0\0\0\x09"}, "foreign, ours"),
        ({"alias": "weft:agent:me", "mac": b"\x02\0\0\0\0\x09"}, "foreign, foreign"),
        ({"alias": "", "mac": b"\x02\0\0\0\0\x09"}, "foreign, foreign"),
    ],
)
def test_whose_a_link_is_where_a_host_may_have_several_routers(changes: dict[str, object], ours: str) -> None:
    """Before and after its device is known to be no other one's."""
    said = []
    for claimed in (frozenset[str](), frozenset({DEV})):
        mirror = Mirror("weft:router:me", {DEV: MAC})
        mirror.claimed = claimed
        mirror.set_links([link(**changes)])
        key = ("link", str(changes.get("name", DEV)))
        said.append("ours" if key in mirror.objects else "foreign" if key in mirror.foreign else "neither")
    assert ", ".join(said) == ours


def test_without_a_mac_the_mark_alone_counts() -> None:
    mirror = Mirror("weft:agent:me", {})
    mirror.set_links([link(alias="")])
    assert ("link", DEV) in mirror.foreign


def test_a_renamed_link_frees_its_name(mirror: Mirror) -> None:
    mirror.put_link(link(name="vxlan9"))
    assert set(mirror.objects) == {("link", "vxlan9")}
    assert mirror.indexes == {"vxlan9": 7}


def test_a_vanished_link_of_ours_leaves_doubt_and_others_do_not(mirror: Mirror) -> None:
    mirror.put_link(link(ifindex=8, name="br0", vxlan=None, kind="bridge"))
    hear(mirror, Message(RTM_DELLINK, 0, 0, 0, IFINFO.pack(0, 1, 8, 0, 0) + text(IFLA_IFNAME, "br0")))
    assert (mirror.doubtful, mirror.foreign) == (False, {})
    hear(mirror, Message(RTM_DELLINK, 0, 0, 0, IFINFO.pack(0, 1, 7, 0, 0) + text(IFLA_IFNAME, DEV)))
    assert (mirror.doubtful, mirror.objects) == (True, {})


def test_what_makes_a_refused_route_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("weft.targets.kernel.refusals.time.monotonic", lambda: now[0])
    waiting, taken = (msgspec.structs.replace(ROUTE, metric=metric) for metric in (1, 2))
    refusals = Refusals()
    refusals.add(Op("add", waiting, WHY), Failure("its link is down"), "up0")
    refusals.add(Op("remove", ROUTE, WHY), Failure("not yet"), "up0")
    refusals.freed(ROUTE.key)
    refusals.swept()
    refusals.retry("up1")
    assert (refusals.due, refusals.conflicting) == (set(), False)
    refusals.add(Op("add", taken, WHY), Failure("a route of protocol 4", conflict=True), "up1")
    assert refusals.conflicting
    refusals.swept()
    assert refusals.due == {taken.key}
    refusals.retry("up0")
    assert refusals.due == {taken.key, waiting.key}
    refusals.over([Op("add", taken, WHY)])
    assert not refusals.conflicting
    assert len(refusals.destinations()) == 1
    now[0] += 61.0
    assert refusals.destinations() == set()
