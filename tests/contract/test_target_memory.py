"""The switches of the memory target: failures that are asked for happen, and are recorded as met."""

from __future__ import annotations

import pytest

from tests.contract.targets import DEV, EVERYTHING, FDB, LINK, NEIGHBOUR, NEXTHOP, ROUTE, add, by_key, held
from weft.errors import TargetError
from weft.objects import Chain, Jump
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget


async def test_the_next_ops_fail_and_the_rest_do_not() -> None:
    target = MemoryTarget()
    target.faults.fail_next(2)
    answers = await target.apply(add(LINK, NEIGHBOUR, LINK))
    assert [answer is None for answer in answers] == [False, False, True]
    assert [op.object for op in target.faults.consumed] == [LINK, NEIGHBOUR]
    assert target.faults.outstanding == 0


async def test_ops_fail_by_their_number() -> None:
    target = MemoryTarget()
    target.faults.fail_at(2, 4, 99)
    await target.apply(add(LINK, NEIGHBOUR, FDB))
    await target.apply(add(NEXTHOP, NEIGHBOUR))
    assert [op.object for op in target.faults.consumed] == [NEIGHBOUR, NEXTHOP]
    assert [op.object for op in target.applied] == [LINK, FDB, NEIGHBOUR]
    assert (target.faults.ops_seen, target.faults.outstanding) == (5, 1)


async def test_readings_fail() -> None:
    target = MemoryTarget()
    target.faults.fail_reads()
    with pytest.raises(TargetError):
        await target.read()
    assert (await target.read()).touched is None
    assert target.faults.reads_failed == 1


async def test_lost_track_is_said_once() -> None:
    target = MemoryTarget()
    await target.apply(add(*EVERYTHING))
    await target.read()
    target.lose_track()
    assert (await target.read()).touched is None
    assert (await target.read()).touched == frozenset()


async def test_tampering_shows_with_all_that_went_along() -> None:
    target = MemoryTarget()
    await target.apply(add(*EVERYTHING))
    await target.read()
    target.tamper_delete(NEXTHOP.key)
    assert (await target.read()).touched == frozenset({NEXTHOP.key, ROUTE.key})
    with pytest.raises(KeyError):
        target.tamper_delete(NEXTHOP.key)
    with pytest.raises(LookupError):
        target.tamper_put(ROUTE)


async def test_a_firewall_in_memory() -> None:
    target = MemoryTarget((*KERNEL_KINDS, *FIREWALL_KINDS))
    chain, jump = Chain(4, "filter", "WEFT-FORWARD", ()), Jump(4, "filter", "FORWARD", "WEFT-FORWARD")
    (failure,) = await target.apply(add(jump))
    assert failure is not None
    assert await target.apply(add(chain, jump)) == [None, None]
    target.tamper_delete(chain.key)
    assert await held(target) == {}


async def test_a_foreign_object_leaves_and_its_place_is_free() -> None:
    target = MemoryTarget()
    target.put_foreign(("link", DEV), "a bridge")
    (failure,) = await target.apply(add(LINK))
    assert failure is not None
    assert failure.conflict
    target.remove_foreign(("link", DEV))
    assert await target.apply(add(LINK)) == [None]
    assert await held(target) == by_key(LINK)
