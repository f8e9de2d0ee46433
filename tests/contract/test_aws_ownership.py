"""Whose a route of AWS is: by the tags of its table, whoever else writes there, and wherever a process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.contract.aws_place import AwsPlace, aws_place, done, failure, net, tables_of
from tests.contract.route_tables import add, change, remove
from tests.support.aws import Fault
from weft.model import IPNetwork
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud import pace
from weft.targets.cloud.aws_tables import ECHO, UNMADE


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsPlace]:
    monkeypatch.setattr(pace, "FIRST_DELAY", 0.002)
    with aws_place(monkeypatch) as where:
        yield where


# Whose a route is.


async def test_routes_of_all_other_kinds_are_foreign_and_named(place: AwsPlace) -> None:
    cloud = place.cloud
    gateway = cloud.gateway()
    cloud.put(str(place.dst(1)), gateway=gateway)
    cloud.put(str(place.dst(2)), interface=place.somebodys)
    cloud.propagated[place.table] = [str(place.dst(3))]
    await done(place.tables, add(place.route(4)))
    cloud.put(str(place.dst(4)), gateway=gateway)  # in place of ours, by hand
    before = cloud.routes()
    contents = await place.tables.read()
    assert contents.routes == {}
    phrases = {n: contents.foreign[place.route(n).key] for n in range(1, 5)}
    assert f"to {gateway} that somebody else made" in phrases[1]
    assert f"to {place.somebodys} that somebody else made" in phrases[2]
    assert phrases[3] == f"a propagated route of {place.table} to vgw-1"
    assert gateway in phrases[4]
    assert "local route" in contents.foreign[cloud_key(place.table, net("10.128.0.0/16"))]
    for number in range(1, 5):
        for op in (add(place.route(number)), change(place.route(number, 1), place.route(number))):
            assert (await failure(place.tables, op)).conflict
        await done(place.tables, remove(place.route(number)))
    assert cloud.routes() == before


async def test_our_route_beside_a_propagated_one_stays_ours(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    place.cloud.propagated[place.table] = [str(place.dst(1))]
    contents = await place.tables.read()
    assert contents.routes == {place.route(1).key: place.route(1)}
    assert place.route(1).key not in contents.foreign
    await done(place.tables, change(place.route(1, 1), place.route(1)))
    assert place.hops(place.dst(1)) == [place.vias[1]]
    await done(place.tables, remove(place.route(1, 1)))
    assert (await place.tables.read()).foreign[place.route(1).key].startswith("a propagated route")


async def test_what_became_somebody_elses_since_the_last_reading_is_looked_at_first(
    place: AwsPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two readings a minute may pass."""
    monkeypatch.setattr("weft.targets.cloud.aws_writing.RECENT", -1.0)
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    gateway = place.cloud.gateway()
    place.cloud.put(str(place.dst(1)), gateway=gateway)
    place.cloud.put(str(place.dst(2)), gateway=gateway)
    assert (await failure(place.tables, change(place.route(1, 1), place.route(1)))).conflict
    await done(place.tables, remove(place.route(2)))
    assert set(place.cloud.routes().values()) == {gateway}


@pytest.mark.parametrize("kind", ["remove", "change"])
async def test_it_is_looked_at_also_in_the_middle_of_a_batch_that_takes_long(
    place: AwsPlace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A throttled batch of hundreds takes minutes, and what is replaced or deleted in its course was read before it."""
    monkeypatch.setattr("weft.targets.cloud.aws_writing.RECENT", 0.0)
    held = [place.route(n) for n in range(1, 9)]
    await done(place.tables, *map(add, held))
    gateway = place.cloud.gateway()
    theirs = place.dst(8)

    def meanwhile(call: str) -> Fault | None:
        if call in ("delete_route", "replace_route") and place.cloud.routes()[theirs] != gateway:
            place.cloud.put(str(theirs), gateway=gateway)
        return None

    place.cloud.before = meanwhile
    ops = [remove(route) if kind == "remove" else change(place.route(n, 1), route) for n, route in enumerate(held, 1)]
    *others, last = await place.tables.apply(ops)
    assert others == [None] * 7
    assert last is None or (kind == "change" and last.conflict)
    assert place.cloud.routes()[theirs] == gateway


async def test_what_was_deleted_in_the_middle_of_a_batch_is_made_anew_by_the_next(
    place: AwsPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.targets.cloud.aws_writing.RECENT", 0.0)
    held = [place.route(n) for n in range(1, 9)]
    await done(place.tables, *map(add, held))
    left = [place.dst(8)]

    def meanwhile(call: str) -> Fault | None:
        if call == "replace_route" and left:
            place.delete(left.pop())
        return None

    place.cloud.before = meanwhile
    *others, last = await place.tables.apply([change(place.route(n, 1), route) for n, route in enumerate(held, 1)])
    assert others == [None] * 7
    assert last is not None
    assert "is gone; it is made anew" in last.message
    found = (await place.tables.read()).routes[place.route(8).key]
    await done(place.tables, change(place.route(8, 1), found))
    assert place.hops(place.dst(8)) == [place.vias[1]]


async def test_a_hop_that_was_changed_by_hand_is_mended(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    place.cloud.put(str(place.dst(1)), interface=place.somebodys)
    found = (await place.tables.read()).routes[place.route(1).key]
    assert found.via == ip_address("10.128.0.250")
    await done(place.tables, change(place.route(1), found))
    assert place.hops(place.dst(1)) == [place.vias[0]]


async def test_managers_with_different_prefixes_share_a_table(place: AwsPlace) -> None:
    """They write at once, and neither knows of the other but by what is foreign to it."""
    mine = place.tables
    theirs = tables_of(place.cloud, place.table, etcd_prefix="/other/network")
    await asyncio.gather(mine.read(), theirs.read())
    ours, others = range(20), range(20, 40)
    await asyncio.gather(
        done(mine, *(add(place.route(n)) for n in ours)), done(theirs, *(add(place.route(n, 1)) for n in others))
    )
    answers = await asyncio.gather(failure(mine, add(place.route(25))), failure(theirs, add(place.route(5, 1))))
    assert all(answer.conflict for answer in answers)
    for tables, whose in ((mine, ours), (theirs, others)):
        contents = await tables.read()
        assert {route.dst for route in contents.routes.values()} == {place.dst(n) for n in whose}
        assert len(contents.foreign) == 22
    await asyncio.gather(
        done(mine, *(remove(place.route(n)) for n in ours)),
        done(theirs, *(change(place.route(n, 2), place.route(n, 1)) for n in others)),
    )
    assert {place.hops(place.dst(n))[0] for n in others} == {place.vias[2]}
    assert place.listed() == set()
    assert len((await theirs.read()).routes) == 20
    assert all("/other/network" in key for key in place.cloud.tags())


async def test_tags_of_ours_that_somebody_broke_stop_that_table_alone(place: AwsPlace) -> None:
    other = place.cloud.another_table()
    tables = tables_of(place.cloud, place.table, other)
    await tables.read()
    await done(tables, add(place.route(1)), add(CloudRoute(other, place.dst(1), place.vias[0])))
    (key, value), *_ = place.cloud.tags().items()
    place.cloud.tag(place.table, {key: "all of them"})
    after = tables_of(place.cloud, place.table, other)
    contents = await after.read()
    assert [route.table for route in contents.routes.values()] == [other]
    assert any(f"the tag {key} with the value 'all of them' can't be read" in p.message for p in contents.problems)
    assert "mend the tag" in (await failure(after, remove(place.route(1)))).message
    await done(after, remove(CloudRoute(other, place.dst(1), place.vias[0])))
    place.cloud.tag(place.table, {key: value})
    assert (await after.read()).routes == {place.route(1).key: place.route(1)}


# A process that dies between two calls.


def stranger(place: AwsPlace, dst: IPNetwork) -> None:
    place.cloud.put(str(dst), interface=place.somebodys)


@pytest.mark.parametrize("answered", [True, False], ids=["before-the-call", "after-it"])
@pytest.mark.parametrize("step", range(1, 12))
async def test_a_crash_at_any_step_leaks_nothing_and_takes_nothing_of_others(
    place: AwsPlace, step: int, answered: bool
) -> None:
    """The process dies at one of its calls; somebody makes a route wherever one of ours isn't; another process starts.
    Eleven calls are more than there are: the last rounds end well, and that is seen too."""
    start = [place.route(n) for n in (1, 2, 3)]
    await done(place.tables, *map(add, start))
    dying = place.another()
    await dying.read()
    began = len(place.cloud.calls)

    def dies(_: str) -> Fault | None:
        number = len(place.cloud.calls) - began
        return None if number < step else "lost" if number == step and not answered else "refused"

    place.cloud.before = dies
    ops = [change(place.route(2, 1), place.route(2)), *(add(place.route(n)) for n in (4, 5))]
    await dying.apply([*ops, remove(place.route(1)), remove(place.route(3))])
    place.cloud.before = lambda _: None
    await dying.close()
    held = place.cloud.routes()
    assert all(dst in place.listed() for dst in held), "a route of ours that nobody knows to be ours is a leak"
    strangers = {place.dst(n) for n in (1, 3, 4, 5)} - set(held)
    for dst in strangers:
        stranger(place, dst)
    wanted = [place.route(2, 1), place.route(4), place.route(5)]
    after = place.another()
    for _ in range(3):
        contents = await after.read()
        assert not strangers & {route.dst for route in contents.routes.values()}
        asked = [add(r) for r in wanted if r.key not in contents.routes and r.key not in contents.foreign]
        asked += [change(r, contents.routes[r.key]) for r in wanted if contents.routes.get(r.key, r) != r]
        asked += [remove(r) for key, r in contents.routes.items() if key not in {r.key for r in wanted}]
        await done(after, *asked)
    ours = {route.dst for route in wanted} - strangers
    assert {dst for dst, to in place.cloud.routes().items() if to != place.somebodys} == ours
    assert {dst for dst, to in place.cloud.routes().items() if to == place.somebodys} == strangers
    await done(after, *(remove(route) for route in (await after.read()).routes.values()))
    assert set(place.cloud.routes()) == strangers
    await done(after, add(place.route(9)))
    await done(after, remove(place.route(9)))
    assert place.cloud.tags() == {}, "nothing is left behind"


@pytest.mark.parametrize("wanted", [True, False])
async def test_what_is_listed_and_not_there_is_a_flaw(place: AwsPlace, wanted: bool) -> None:
    """A change makes it, a removal takes it off the list. It can't be taken for a route: it leads nowhere."""
    await done(place.tables, add(place.route(1)))
    place.delete(place.dst(1))
    found = (await place.tables.read()).routes[place.route(1).key]
    assert found == CloudRoute(place.table, place.dst(1), None, UNMADE)
    await done(place.tables, change(place.route(1, 1), found) if wanted else remove(found))
    assert place.hops(place.dst(1)) == ([place.vias[1]] if wanted else [])
    assert place.listed() == ({place.dst(1)} if wanted else set())


async def test_readings_that_lag_behind_lose_nothing(place: AwsPlace) -> None:
    """EC2 may show for a while what was before: here neither the new route nor its tag."""
    await place.tables.read()
    await done(place.tables, add(place.route(1)))
    place.cloud.echo = 1
    assert (await place.tables.read()).routes[place.route(1).key].flaw == UNMADE
    await done(place.tables, add(place.route(2)))
    await done(place.tables, remove(place.route(1)))
    place.cloud.echo = 0
    assert set(place.cloud.routes()) == place.listed() == {place.dst(2)}
    assert (await place.another().read()).routes == {place.route(2).key: place.route(2)}
    assert ECHO >= 2


async def test_a_route_that_was_led_elsewhere_while_new_is_ours_after_a_restart(place: AwsPlace) -> None:
    await done(place.tables, add(place.route(1)))
    await done(place.tables, change(place.route(1, 1), place.route(1)))
    assert (await place.another().read()).routes == {place.route(1).key: place.route(1, 1)}


async def test_a_write_of_tags_of_which_nothing_is_known_loses_no_claim(place: AwsPlace) -> None:
    """Its first answer was lost, the second attempt is refused: what is there now isn't what was there before, and
    what is written next must not go by that."""
    await done(place.tables, add(place.route(1)), add(place.route(2)))
    await done(place.tables, add(place.route(8)))
    await done(place.tables, remove(place.route(8)))
    settled = place.tables
    began = len(place.cloud.met)
    place.cloud.fail(1, "lost")
    place.cloud.fail(2, "refused")
    await failure(settled, remove(place.route(1)))
    assert place.cloud.met[began:] == [("create_tags", "lost"), ("create_tags", "refused")]
    await done(settled, add(place.route(3)))
    assert place.listed() == set(place.cloud.routes()) == {place.dst(n) for n in (1, 2, 3)}


async def test_what_was_not_made_stays_new_while_others_are_written(place: AwsPlace) -> None:
    await place.tables.read()
    place.cloud.fail(3, "busy")
    place.cloud.fail(4, "refused")
    await failure(place.tables, add(place.route(1)))
    assert place.cloud.met == [("create_route", "busy"), ("create_route", "refused")]
    assert place.listed() == {place.dst(1)}, "it may have been made the first time"
    await done(place.tables, add(place.route(2)))
    stranger(place, place.dst(1))
    contents = await place.another().read()
    assert set(contents.routes) == {place.route(2).key}
    assert place.somebodys in contents.foreign[place.route(1).key]
