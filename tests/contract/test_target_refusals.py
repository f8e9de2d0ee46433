"""A kernel that refuses, forgets to answer or answers too late: nothing may be taken for what it is not."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import pytest

from tests.contract.targets import EVERYTHING, LINK, NEIGHBOUR, KernelPlace, add, by_key, done, held, kernel_place
from tests.support.needs import needs_root
from weft.errors import KernelError, TargetError
from weft.targets.kernel.constants import RTM_GETADDR, RTM_GETLINK, RTM_GETNEIGH, RTM_GETNEXTHOP, RTM_GETROUTE
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
