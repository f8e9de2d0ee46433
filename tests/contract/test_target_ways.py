"""The ways to other hosts, in namespaces with a router: the kernel's own answers, and that every change is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address

import pytest

from tests.support.eventually import soon
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.model import IPAddress, Way
from weft.targets.kernel.codec import Answer, Message
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.kernel.underlay import Underlay
from weft.targets.kernel.ways import SLICE, Directions, Ways, decode_way, way_to

pytestmark = needs_root

ME, ME6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
ROUTER, ROUTER6 = ip_address("192.0.2.254"), ip_address("2001:db8::ff")
NEAR, NEAR6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
FAR, FAR6 = ip_address("198.51.100.2"), ip_address("2001:db8:1::2")
NOWHERE, NOWHERE6 = ip_address("203.0.113.9"), ip_address("2001:db8:9::9")
ON_LINK, ON_LINK6 = Way("eth0", None, ME), Way("eth0", None, ME6)
ROUTED, ROUTED6 = Way("eth0", ROUTER, ME), Way("eth0", ROUTER6, ME6)
EVERYBODY = (NEAR, NEAR6, FAR, FAR6, NOWHERE, NOWHERE6)


@pytest.fixture
def ns() -> Iterator[Namespace]:
    """A host on a segment with a router, behind which there is another segment."""
    with namespace("host") as host, namespace("router") as router:
        veth(host, "eth0", router, "lan0")
        for line in ("address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad"):
            host.ip(line)
        for line in ("address add 192.0.2.254/24 dev lan0", "address add 2001:db8::ff/64 dev lan0 nodad"):
            router.ip(line)
        host.ip("route add 198.51.100.0/24 via 192.0.2.254")
        host.ip("route add 2001:db8:1::/64 via 2001:db8::ff")
        yield host


class Followed:
    """What a source has yielded so far."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.told: list[Directions] = []

    async def run(self) -> None:
        async for directions in self.ways.directions():
            self.told.append(directions)

    async def until(self, expected: dict[IPAddress, Way]) -> None:
        await soon(lambda: self.told and dict(self.told[-1]) == expected, f"{expected}, not {self.told[-1:]}")


@contextlib.asynccontextmanager
async def followed(ns: Namespace, *endpoints: IPAddress) -> AsyncIterator[Followed]:
    source = Followed(Ways(str(ns.path)))
    source.ways.ask(endpoints)
    task = asyncio.ensure_future(source.run())
    try:
        await soon(lambda: source.told or task.done(), "the first directions")
        yield source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_on_the_segment_through_the_router_and_not_at_all(ns: Namespace) -> None:
    async with followed(ns, *EVERYBODY, ME, ip_address("192.0.2.255")) as source:
        assert source.told == [{NEAR: ON_LINK, NEAR6: ON_LINK6, FAR: ROUTED, FAR6: ROUTED6}]
        assert NOWHERE in source.ways.answered


async def test_one_way(ns: Namespace) -> None:
    for endpoint, way in ((NEAR, ON_LINK), (FAR6, ROUTED6), (NOWHERE, None), (NOWHERE6, None), (ME, None)):
        assert await way_to(endpoint, str(ns.path)) == way


async def test_what_is_asked_for_changes(ns: Namespace) -> None:
    async with followed(ns) as source:
        assert source.told == [{}]
        source.ways.ask([NEAR, NOWHERE])
        await source.until({NEAR: ON_LINK})
        assert source.ways.answered == {NEAR, NOWHERE}
        source.ways.ask([NEAR, NOWHERE, FAR])
        await source.until({NEAR: ON_LINK, FAR: ROUTED})
        source.ways.ask([FAR])
        await source.until({FAR: ROUTED})
        assert len(source.told) == 4


CHANGES: tuple[tuple[str, IPAddress, Way | None], ...] = (
    ("route add 203.0.113.0/24 via 192.0.2.254", NOWHERE, ROUTED),
    ("route add 203.0.113.9 dev eth0", NOWHERE, ON_LINK),
    ("route add default via 192.0.2.254", NOWHERE, ROUTED),
    ("route add 2001:db8:9::/64 via 2001:db8::ff", NOWHERE6, ROUTED6),
    ("route del 198.51.100.0/24", FAR, None),
    ("route del 2001:db8:1::/64", FAR6, None),
    ("route replace 198.51.100.0/24 dev eth0", FAR, ON_LINK),
    ("route add unreachable 198.51.100.2", FAR, None),
    ("route add blackhole 192.0.2.2", NEAR, None),
    ("route add prohibit 192.0.2.2", NEAR, None),
    ("rule add to 192.0.2.2 unreachable", NEAR, None),
    ("-6 rule add to 2001:db8::2 unreachable", NEAR6, None),
    ("address del 192.0.2.1/24 dev eth0", NEAR, None),
    ("link set eth0 down", FAR, None),
    ("link del eth0", NEAR6, None),
    ("address add 198.51.100.1/25 dev eth0", FAR, Way("eth0", None, ip_address("198.51.100.1"))),
    ("link set eth0 name wan0", NEAR, Way("wan0", None, ME)),
    ("link set eth0 alias weft:flanneld:me", NEAR, None),
)


@pytest.mark.parametrize(("line", "endpoint", "way"), CHANGES)
async def test_a_change_of_the_underlay_is_told(ns: Namespace, line: str, endpoint: IPAddress, way: Way | None) -> None:
    async with followed(ns, *EVERYBODY) as source:
        before = source.told[-1].get(endpoint)
        assert before != way
        ns.ip(line)
        await soon(lambda: source.told[-1].get(endpoint) == way, f"{line} to change {before} to {way}")


async def test_a_next_hop_object_that_changes_takes_the_ways_along(ns: Namespace) -> None:
    ns.ip("nexthop add id 7 via 192.0.2.254 dev eth0")
    ns.ip("route add 203.0.113.0/24 nhid 7")
    async with followed(ns, NOWHERE) as source:
        assert source.told == [{NOWHERE: ROUTED}]
        ns.ip("nexthop replace id 7 via 192.0.2.253 dev eth0")
        await source.until({NOWHERE: Way("eth0", ip_address("192.0.2.253"), ME)})


async def test_a_gateway_of_the_other_family(ns: Namespace) -> None:
    ns.ip("route add 203.0.113.0/24 via inet6 2001:db8::ff dev eth0")
    assert await way_to(NOWHERE, str(ns.path)) == Way("eth0", ROUTER6, ME)


async def test_nothing_is_told_if_no_way_changed(ns: Namespace) -> None:
    async with followed(ns, *EVERYBODY) as source:
        for line in (
            "link add br0 type bridge",
            "address add 10.9.0.1/24 dev br0",
            "link set br0 up",
            "route add 10.8.0.0/24 via 192.0.2.7",
            "link set eth0 mtu 1400",
            "route add 198.51.100.2 via 192.0.2.254",
            "address add 192.0.2.77/32 dev eth0",
        ):
            ns.ip(line)
        ns.ip("route del 198.51.100.0/24")
        ns.ip("route del 198.51.100.2")
        await soon(lambda: len(source.told) > 1, "the last change")
        assert [FAR in directions for directions in source.told] == [True, False]


async def test_what_is_reached_through_our_own_device_has_no_way(ns: Namespace) -> None:
    """Else a tunnel would be taken for the segment that it replaces."""
    ns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dstport 8472 nolearning")
    ns.ip("link set flannel.1 alias weft:flanneld:me up")
    ns.ip("route add 203.0.113.0/24 dev flannel.1 proto 76")
    async with followed(ns, NOWHERE, NEAR) as source:
        assert source.told == [{NEAR: ON_LINK}]
    assert await way_to(NOWHERE, str(ns.path)) is None


async def looked_up(ns: Namespace, lines: tuple[str, ...]) -> int:
    """How many sends of lookups these cause, together with a last change that surely causes one."""
    with pytest.MonkeyPatch.context() as patch:
        asked: list[int] = []
        ask_all = NetlinkSocket.ask_all

        def counting(self: NetlinkSocket, kind: int, bodies: list[bytes]) -> list[Message | Answer]:
            asked.append(len(bodies))
            return ask_all(self, kind, bodies)

        async with followed(ns, *EVERYBODY) as source:
            patch.setattr(NetlinkSocket, "ask_all", counting)
            for line in lines:
                ns.ip(line)
                await soon(lambda: not _is_waiting(ns), "the notifications to be heard")
            await asyncio.sleep(0)
            seen = len(asked)
            ns.ip("route del 198.51.100.0/24")
            await soon(lambda: FAR not in source.told[-1], "the last change")
            assert len(source.told) == 2 or NOWHERE in source.told[1]  # an answer that is the same is not told
            return max(seen, len(asked) - 1)


def _is_waiting(ns: Namespace) -> bool:
    """Whether some netlink socket of the namespace has something that is not received yet."""
    lines = ns.run("cat", "/proc/net/netlink").splitlines()[1:]
    return any(int(line.split()[4]) > 0 for line in lines if line.split()[1] == "0")


@pytest.mark.parametrize(
    ("lines", "lookups"),
    [
        (("route add 203.0.113.0/24 via 192.0.2.254 proto 76",), 0),
        (("nexthop add id 7 via 192.0.2.254 dev eth0 proto 76",), 0),
        (("route add 10.8.0.0/24 via 192.0.2.7", "route add 2001:db8:77::/64 via 2001:db8::ff"), 0),
        (("link set dev vx address 02:00:00:00:00:09", "link set dev vx down", "address add 10.5.0.1 dev vx"), 0),
        (("link set port0 down", "link set port0 up"), 0),
        (("link add new0 type veth peer name new1",), 0),
        (("route add 203.0.113.0/25 via 192.0.2.254",), 1),
        (("link set br0 up",), 1),
    ],
)
async def test_what_makes_us_ask_again(ns: Namespace, lines: tuple[str, ...], lookups: int) -> None:
    ns.ip("link add vx type vxlan id 1 local 192.0.2.1 dstport 8472 nolearning")
    ns.ip("link set vx alias weft:flanneld:me up")
    ns.ip("link add br0 type bridge")
    ns.ip("link add port0 type veth peer name port1")
    ns.ip("link set port0 master br0 up")
    assert (await looked_up(ns, lines) > 0) is bool(lookups)


async def test_lost_notifications_mean_asking_again(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.targets.kernel.underlay.DUMP_BUFFER", 2304)
    async with followed(ns, *EVERYBODY) as source:
        lines = [f"route add 10.8.{n}.0/24 via 192.0.2.7" for n in range(100)]
        ns.run("ip", "-batch", "-", stdin="\n".join([*lines, "link set eth0 name wan0"]))
        await soon(lambda: NEAR in source.told[-1] and source.told[-1][NEAR].dev == "wan0", "the new name")


async def test_thousands_are_asked_for_in_slices(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    slices: list[int] = []
    ask_all = NetlinkSocket.ask_all

    def counting(self: NetlinkSocket, kind: int, bodies: list[bytes]) -> list[Message | Answer]:
        slices.append(len(bodies))
        return ask_all(self, kind, bodies)

    monkeypatch.setattr(NetlinkSocket, "ask_all", counting)
    ns.ip("route add 10.0.0.0/8 via 192.0.2.254")
    many = [ip_address(f"10.{n // 250}.{n % 250}.1") for n in range(3000)]
    async with followed(ns, *many) as source:
        assert source.told == [dict.fromkeys(many, ROUTED)]
        assert slices == [SLICE] * 30
        ns.ip("route replace 10.0.0.0/8 dev eth0")
        await source.until(dict.fromkeys(many, ON_LINK))


async def test_an_answer_that_says_nothing_is_no_answer(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetlinkSocket, "ask_all", lambda self, kind, bodies: [Answer(1, 105, "")] * len(bodies))
    with pytest.raises(KernelError, match=r"way to 192\.0\.2\.2: ENOBUFS"):
        await way_to(NEAR, str(ns.path))


async def test_links_that_can_not_be_read_are_said(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Underlay, found: object) -> None:
        raise NetlinkDecodeError("broken")

    monkeypatch.setattr(Underlay, "set_links", broken)
    with pytest.raises(TargetError, match="interfaces can't be read: broken"):
        await way_to(NEAR, str(ns.path))


def test_an_answer_that_can_not_be_read_is_refused() -> None:
    with pytest.raises(NetlinkDecodeError, match="a route from the kernel"):
        decode_way(Message(24, 0, 1, 0, b"\2"), {})
