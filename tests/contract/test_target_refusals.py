"""A kernel that refuses, forgets to answer or answers too late: nothing may be taken for what it is not."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import msgspec
import pytest

from tests.contract.targets import (
    DEV,
    EVERYTHING,
    FDB,
    HOP,
    LINK,
    NEIGHBOUR,
    NEXTHOP,
    ROUTE,
    VIA,
    KernelPlace,
    add,
    by_key,
    done,
    held,
    kernel_place,
)
from tests.support.needs import needs_root
from weft.errors import KernelError, TargetError
from weft.objects import NextHop, Object, Sysctl
from weft.targets.kernel.codec import Answer, messages
from weft.targets.kernel.constants import (
    AF_INET,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWLINK,
)
from weft.targets.kernel.hops import RTMSG, encode_hops
from weft.targets.kernel.links import ALL_LINKS, IFINFO
from weft.targets.kernel.socket import NetlinkSocket

pytestmark = needs_root


@pytest.fixture
def place() -> Iterator[KernelPlace]:
    with kernel_place() as kernel:
        yield kernel


@contextlib.contextmanager
def dumps_refused(number: int, kind: int, times: int = 10**6) -> Iterator[list[int]]:
    """The next dumps of this kind of message are answered with this errno; yields those that were."""
    refused: list[int] = []
    dump = NetlinkSocket.dump

    async def refusing(self: NetlinkSocket, asked: int, body: bytes) -> list[bytes]:
        if asked == kind and len(refused) < times:
            refused.append(asked)
            raise KernelError(number, "asking for a dump")
        return await dump(self, asked, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetlinkSocket, "dump", refusing)
        yield refused


@pytest.mark.parametrize("kind", [RTM_GETLINK, RTM_GETNEIGH, RTM_GETROUTE, RTM_GETADDR])
async def test_a_dump_that_is_refused_does_not_mean_that_there_is_nothing(place: KernelPlace, kind: int) -> None:
    await done(place.target, add(*EVERYTHING))
    with dumps_refused(errno.EINVAL, kind) as refused, pytest.raises(TargetError, match="EINVAL"):
        await place.target.read(full=True)
    assert refused == [kind]
    assert dict((await place.target.read()).objects) == by_key(*EVERYTHING)


async def test_a_kernel_without_next_hop_objects_is_read(place: KernelPlace) -> None:
    await done(place.target, add(LINK, NEIGHBOUR))
    with dumps_refused(errno.EOPNOTSUPP, RTM_GETNEXTHOP) as refused:
        assert await held(place.target) == by_key(LINK, NEIGHBOUR)
    assert refused


async def test_a_device_that_goes_while_it_is_read_makes_another_reading(place: KernelPlace) -> None:
    await done(place.target, add(*EVERYTHING))
    with dumps_refused(errno.ENODEV, RTM_GETROUTE, times=2) as refused:
        assert await held(place.target) == by_key(*EVERYTHING)
    assert len(refused) == 2
    with dumps_refused(errno.ENODEV, RTM_GETROUTE), pytest.raises(TargetError, match="come and go"):
        await place.target.read(full=True)


def removals(first: int, count: int) -> list[bytes]:
    """Requests to remove next hops that nobody has: each one is refused."""
    hops = [NextHop(HOP + 5000 + n, DEV, VIA) for n in range(count)]
    return encode_hops([("remove", hop) for hop in hops], 1, first)


def test_answers_that_are_left_of_a_batch_are_not_taken_for_those_to_the_next(place: KernelPlace) -> None:
    """The answers of the first don't fit the buffer: the kernel says ENOBUFS, and some are in the queue still."""
    with contextlib.closing(NetlinkSocket(str(place.ns.path), 2304)) as socket:
        first = socket.number(50)
        with pytest.raises(KernelError, match="ENOBUFS"):
            socket.send(removals(first, 50), first, first + 49)
        second = socket.number(2)
        assert second == first + 50
        failures = socket.send(removals(second, 2), second, second + 1)
        assert [failure.sequence for failure in failures] == [second, second + 1]


def test_answers_of_other_numbers_are_passed_over(place: KernelPlace) -> None:
    with contextlib.closing(NetlinkSocket(str(place.ns.path), 1 << 18)) as socket:
        early = socket.number(3)
        assert len(socket.send(removals(early, 3), early, early)) == 1  # the answers to the other two stay in the queue
        assert socket.ask(RTM_GETLINK, IFINFO.pack(0, 0, 1, 0, 0)).kind == RTM_NEWLINK
        early = socket.number(3)
        assert len(socket.send(removals(early, 3), early, early)) == 1
        assert b"".join(socket.buffers(RTM_GETLINK, ALL_LINKS))
        early = socket.number(3)
        assert len(socket.send(removals(early, 3), early, early)) == 1
        late = socket.number(1)
        assert [failure.sequence for failure in socket.send(removals(late, 1), late, late)] == [late]


def test_a_dump_that_is_left_early_does_not_stand_in_the_way_of_the_next(place: KernelPlace) -> None:
    lines = [f"route add 10.{n // 256}.{n % 256}.0/24 dev up0" for n in range(5000)]
    place.ns.run("ip", "-batch", "-", stdin="\n".join(lines))
    body = RTMSG.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    with contextlib.closing(NetlinkSocket(str(place.ns.path), 1 << 16)) as socket:
        with contextlib.closing(socket.buffers(RTM_GETROUTE, body)) as dump:
            next(dump)
        assert sum(len(list(messages(buffer))) for buffer in socket.buffers(RTM_GETROUTE, body)) > 5000


def test_numbers_begin_again_before_they_overflow(place: KernelPlace) -> None:
    with contextlib.closing(NetlinkSocket(str(place.ns.path), 1 << 16)) as socket:
        assert socket.number(0xFFFFFFF0) == 1
        assert socket.number(100) == 1


def odd(thing: Object, **changes: object) -> Object:
    return msgspec.structs.replace(thing, **changes)


async def test_what_does_not_go_into_a_message_fails_alone(place: KernelPlace) -> None:
    """A negative MTU came from a peer once; whatever it is, the other ops are carried out, and each is answered."""
    bad_route = odd(ROUTE, dst=ip_network("10.77.0.0/24"), mtu=-49)
    bad_hop = odd(NEXTHOP, id=1 << 32)
    bad_link = odd(LINK, name="vxlan7", mtu=-1)
    bad_sysctl = Sysctl("net/ipv4/\0", "1")
    things = (bad_sysctl, LINK, bad_link, NEIGHBOUR, FDB, bad_hop, NEXTHOP, bad_route, ROUTE)
    answers = await place.target.apply(add(*things))
    failed = [thing for thing, answer in zip(things, answers, strict=True) if answer is not None]
    assert failed == [bad_sysctl, bad_link, bad_hop, bad_route]
    said = [answer.message for answer in answers if answer is not None]
    assert said[3].startswith("add route 10.77.0.0/24 nhid ")
    assert all("this can't be put into a message to the kernel" in message for message in said[1:])
    assert await held(place.target) == by_key(LINK, NEIGHBOUR, FDB, NEXTHOP, ROUTE)


async def test_a_second_request_that_goes_wrong_is_the_failure_of_its_op_alone(place: KernelPlace) -> None:
    """The route stands there without the mirror's knowledge, so it is to be replaced; its answer is lost."""
    await done(place.target, add(LINK, NEXTHOP))
    await place.target.read()
    place.ns.ip(f"route add {ROUTE.dst} nhid {HOP} metric 100 proto 76")
    other = odd(ROUTE, dst=ip_network("10.88.0.0/24"))
    send, sent = NetlinkSocket.send, []

    def losing(self: NetlinkSocket, parts: Sequence[bytes], first: int, last: int) -> list[Answer]:
        sent.append(len(parts))
        if len(sent) == 2:
            raise KernelError(errno.ENOBUFS, "reading netlink messages")
        return send(self, parts, first, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetlinkSocket, "send", losing)
        answers = await place.target.apply(add(ROUTE, other))
    assert sent == [2, 1]
    assert answers[0] is not None
    assert "ENOBUFS" in answers[0].message
    assert answers[1] is None
    reading = await place.target.read()
    assert reading.touched is None
    assert dict(reading.objects) == by_key(LINK, NEXTHOP, ROUTE, other)
