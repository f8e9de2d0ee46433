"""Filing what was written among tens of thousands of objects: in slices, so that the event loop is not held up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.contract.targets import LINK, KernelPlace, add, by_key, done, kernel_place, many, remove
from tests.support.eventually import soon
from tests.support.needs import needs_root
from weft.targets.kernel.socket import BATCH
from weft.targets.kernel.target import SLICE

pytestmark = needs_root


@pytest.fixture
def place() -> Iterator[KernelPlace]:
    with kernel_place() as kernel:
        yield kernel


async def test_what_was_written_is_filed_by_and_by(place: KernelPlace) -> None:
    """A reading in between is complete and in order."""
    await done(place.target, add(LINK))
    objects = (await place.target.read()).objects
    things = many(1500)
    await done(place.target, add(*things))
    assert len(objects) < len(things)
    await asyncio.sleep(0)
    assert len(objects) <= SLICE + BATCH + 1
    reading = await place.target.read()
    assert reading.touched == frozenset()
    assert reading.objects == by_key(LINK, *things)
    await done(place.target, [*remove(*reversed(things[3000:])), *add(*things[3000:])])
    turns = 0
    while len(objects) <= len(things):
        await asyncio.sleep(0)
        turns += 1
        assert turns < 100
    assert objects == by_key(LINK, *things)


async def test_notifications_are_heard_after_what_we_wrote_before_them(place: KernelPlace) -> None:
    things = many(1500)
    woken = asyncio.Event()
    await done(place.target, add(LINK))
    objects = (await place.target.read()).objects
    place.target.watch(woken.set)
    await done(place.target, add(*things))
    assert len(objects) < len(things)
    place.delete(things[-1])
    for _ in range(2):
        await asyncio.sleep(0)
    assert len(objects) <= 2 * (SLICE + BATCH) + 1
    await soon(woken.is_set, "the kernel's word")
    assert (await place.target.read()).objects == by_key(LINK, *things[:-1])
