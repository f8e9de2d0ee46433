"""A kernel that refuses, forgets to answer or answers too late: nothing may be taken for what it is not."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import pytest

from tests.contract.targets import (
    DEV,
    EVERYTHING,
    HOP,
    LINK,
    NEIGHBOUR,
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
from weft.objects import NextHop
from weft.targets.kernel.codec import messages
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
