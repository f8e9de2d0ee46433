"""What every RouteTables does, whatever cloud is behind it: memory, Compute Engine, EC2.

Of all clouds alike: nobody else's route is touched, a destination that is to stay is never absent, and whatever fails
is right after another reading and another attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

import pytest

from tests.contract.aws_place import aws_place
from tests.contract.route_tables import MemoryPlace, Place, add, change, google_place, remove
from weft.errors import TargetError
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute
from weft.targets.cloud import pace

INTERRUPTIBLE = pytest.mark.parametrize("place", ["memory", "google"], indirect=True)
"""Where a change is two calls. EC2's table has one route for a destination, which one call replaces."""


@pytest.fixture(params=["memory", "google", "aws"])
async def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.005)
    with ExitStack() as stack:
        where: Place = MemoryPlace()
        if request.param == "google":
            where = stack.enter_context(google_place(monkeypatch))
        elif request.param == "aws":
            where = stack.enter_context(aws_place(monkeypatch))
            where.many = 200  # moto copies its table for each call
        yield where
        await where.tables.close()


async def held(place: Place) -> dict[Key, CloudRoute]:
    return dict((await place.tables.read()).routes)


async def done(place: Place, *ops: Op) -> None:
    assert await place.tables.apply(ops) == [None] * len(ops)


def by_key(*routes: CloudRoute) -> dict[Key, CloudRoute]:
    return {route.key: route for route in routes}


async def mended(place: Place, wanted: Sequence[CloudRoute]) -> None:
    """What the reconciler does: read, compare, apply, until it is right."""
    for _ in range(4):
        found = await held(place)
        want = by_key(*wanted)
        ops = [add(route) for key, route in want.items() if key not in found]
        ops += [change(want[key], route) for key, route in found.items() if key in want and route != want[key]]
        ops += [remove(route) for key, route in found.items() if key not in want]
        if not ops:
            return
        await place.tables.apply(ops)
    raise AssertionError(f"it never comes to be right: {found}")


async def test_an_empty_table_is_empty_and_known_by_name(place: Place) -> None:
    contents = await place.tables.read()
    assert contents.routes == {}
    assert contents.calls >= 1
    assert place.tables.tables == (place.table,)
    assert place.tables.name


async def test_what_is_added_is_there_and_is_one_call(place: Place) -> None:
    await place.tables.read()
    routes = [place.route(1), place.route(2, 1)]
    await done(place, *map(add, routes))
    assert await held(place) == by_key(*routes)
    assert place.hops(place.dst(2)) == [place.vias[1]]
    assert place.tables.calls
    assert {outcome for _, outcome in place.tables.calls} == {"ok"}


async def test_a_route_is_called_by_a_name_and_has_a_command_line(place: Place) -> None:
    await place.tables.read()
    route = place.route(1)
    assert place.tables.called(route)
    (line, *_) = place.tables.lines([add(route)])
    assert "10.200.1.0/24" in line
    await done(place, add(route))
    assert place.tables.lines([remove(route)])


async def test_adding_what_is_there_already_is_success(place: Place) -> None:
    """The answer of the first attempt was lost, say."""
    await done(place, add(place.route(1)))
    await done(place, add(place.route(1)))
    assert await held(place) == by_key(place.route(1))


async def test_a_change_leads_elsewhere_and_the_destination_is_never_absent(place: Place) -> None:
    await done(place, add(place.route(1)), add(place.route(2)))
    place.begin()
    for via in (1, 2, 0, 1):
        old = (await held(place))[place.route(1).key]
        await done(place, change(place.route(1, via), old))
        assert await held(place) == by_key(place.route(1, via), place.route(2))
        assert place.hops(place.dst(1)) == [place.vias[via]]
    assert not place.absent(place.dst(1))
    assert not place.absent(place.dst(2))


async def test_a_change_of_what_is_gone_brings_it_back(place: Place) -> None:
    await done(place, add(place.route(1)))
    old = (await held(place))[place.route(1).key]
    place.delete(place.dst(1))
    await place.tables.apply([change(place.route(1, 1), old)])
    await mended(place, [place.route(1, 1)])
    assert place.hops(place.dst(1)) == [place.vias[1]]


async def test_what_is_removed_is_gone_and_removing_what_is_gone_is_success(place: Place) -> None:
    await done(place, add(place.route(1)), add(place.route(2)))
    await done(place, remove(place.route(1)))
    assert await held(place) == by_key(place.route(2))
    await done(place, remove(place.route(1)))
    place.delete(place.dst(2))
    await done(place, remove(place.route(2)))
    assert await held(place) == {}


@pytest.mark.parametrize("known", [True, False], ids=["known", "not-seen-yet"])
async def test_what_is_somebody_elses_is_named_and_left_alone(place: Place, known: bool) -> None:
    await done(place, add(place.route(2)))
    if not known:
        await place.tables.read()
    place.put_foreign(place.dst(1))
    if known:
        contents = await place.tables.read()
        assert set(contents.foreign) >= {place.route(1).key}
        assert contents.foreign[place.route(1).key]
        assert place.route(1).key not in contents.routes
    (answer,) = await place.tables.apply([add(place.route(1))])
    assert isinstance(answer, Failure)
    assert answer.conflict
    (answer,) = await place.tables.apply([change(place.route(1, 1), place.route(1))])
    assert isinstance(answer, Failure)
    await done(place, remove(place.route(1)))
    assert place.has_foreign(place.dst(1))
    assert await held(place) == by_key(place.route(2))


@INTERRUPTIBLE
async def test_leftovers_of_an_interrupted_change_are_one_flawed_route_and_a_change_mends_them(place: Place) -> None:
    place.put_twice(place.dst(1), place.vias[:2])
    (found,) = (await held(place)).values()
    assert found.key == place.route(1).key
    assert found.flaw
    place.begin()
    await done(place, change(place.route(1, 1), found))
    assert await held(place) == by_key(place.route(1, 1))
    assert place.hops(place.dst(1)) == [place.vias[1]]
    assert not place.absent(place.dst(1))


@INTERRUPTIBLE
async def test_leftovers_are_removed_together(place: Place) -> None:
    place.put_twice(place.dst(1), place.vias)
    (found,) = (await held(place)).values()
    await done(place, remove(found))
    assert await held(place) == {}
    assert place.hops(place.dst(1)) == []


async def test_one_failure_does_not_stop_the_rest(place: Place) -> None:
    place.put_foreign(place.dst(3))
    await place.tables.read()
    answers = await place.tables.apply([add(place.route(n)) for n in range(1, 6)])
    assert [answer is None for answer in answers] == [True, True, False, True, True]
    assert set(await held(place)) == {place.route(n).key for n in (1, 2, 4, 5)}
    assert place.has_foreign(place.dst(3))


async def test_nothing_to_do_is_no_call(place: Place) -> None:
    await place.tables.read()
    before = sum(place.tables.calls.values())
    assert await place.tables.apply([]) == []
    assert sum(place.tables.calls.values()) == before


async def test_a_thousand_at_once_are_one_writing_call_each(place: Place) -> None:
    routes = [place.route(n, n % 3) for n in range(place.many)]
    await place.tables.read()
    before = sum(place.tables.calls.values())
    await done(place, *map(add, routes))
    writing = {name: n for name, n in place.tables.calls.items() if any(w in name[0].lower() for w in WRITES)}
    assert sum(writing.values()) <= len(routes) + len(routes) // 25  # of AWS, tags for many routes at once
    assert sum(place.tables.calls.values()) - before < 2 * len(routes)
    contents = await place.tables.read()
    assert contents.routes == by_key(*routes)
    await done(place, *map(remove, routes))
    assert await held(place) == {}


WRITES = ("insert", "delete", "create", "replace", "tags")


async def _scene(place: Place) -> tuple[list[CloudRoute], list[Op]]:
    """A table with what is to stay, to move and to go; what is wanted; the ops for it."""
    place.put_foreign(place.dst(9))
    await done(place, add(place.route(1)), add(place.route(2)), add(place.route(3)))
    await place.tables.read()
    wanted = [place.route(1), place.route(2, 1), place.route(4, 2)]
    ops = [change(place.route(2, 1), place.route(2)), add(place.route(4, 2)), remove(place.route(3))]
    place.begin()
    return wanted, ops


async def _right_in_the_end(place: Place, wanted: list[CloudRoute]) -> None:
    await mended(place, wanted)
    assert await held(place) == by_key(*wanted)
    assert [place.hops(route.dst) for route in wanted] == [[route.via] for route in wanted]
    assert not place.absent(place.dst(1))
    assert not place.absent(place.dst(2))
    assert place.has_foreign(place.dst(9))


@pytest.mark.parametrize("kind", ["refused", "lost"])
async def test_whichever_call_fails_nothing_is_absent_and_another_attempt_mends_it(place: Place, kind: str) -> None:
    """Each round one call more goes well before one fails, until a round has no such call any more."""
    number = 0
    while True:
        number += 1
        await mended(place, [])
        wanted, ops = await _scene(place)
        place.fail(number, "lost" if kind == "lost" else "refused")
        answers = await place.tables.apply(ops)
        met = place.met()
        assert not met or kind == "lost" or any(answers), "a call that was refused is told"
        if not met:
            place.forgive()
        await _right_in_the_end(place, wanted)
        if not met:
            assert answers == [None] * 3
            assert number >= 4, "four calls at the least"
            return
        place.delete(place.dst(9))


async def test_a_reading_that_fails_says_what_was_asked(place: Place) -> None:
    await place.tables.read()
    place.fail(1, "refused")
    with pytest.raises(TargetError) as caught:
        await place.tables.read()
    assert place.met()
    assert len(str(caught.value)) > 10
    assert await held(place) == {}


async def test_wherever_it_is_cancelled_nothing_is_absent_and_it_ends_up_right(place: Place) -> None:
    """Cancelled after one step of the event loop more each time, in strides where a cloud takes many steps."""
    steps, ended = 0, False
    while not ended:
        await mended(place, [])
        wanted, ops = await _scene(place)
        task = asyncio.ensure_future(place.tables.apply(ops))
        for _ in range(steps):
            await asyncio.sleep(0 if not place.slow else 0.001)
        ended = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _right_in_the_end(place, wanted)
        place.delete(place.dst(9))
        steps += 1 if not place.slow else 2
    assert steps > 3
