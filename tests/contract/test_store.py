"""What every Store does, shown on the one in memory and on a real etcd 3.4."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.stores import PREFIX, Case, EtcdCase, MemoryCase, back, seen, watching
from tests.support.etcd import Etcd, cluster, needs_etcd
from weft.errors import StoreError, StoreForbidden, StoreUnreachable
from weft.stores import Delete, Entries, Guard, Put, Snapshot, Store

KEYS = [f"{PREFIX}10.5.{number}.0-24" for number in range(10)]


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@pytest.fixture(params=["memory", pytest.param("etcd", marks=needs_etcd)])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    made: Case = MemoryCase() if request.param == "memory" else EtcdCase(request.getfixturevalue("etcd"))
    yield made
    await made.close()


# keys


async def test_a_key_that_is_not_there_is_none(case: Case) -> None:
    assert await case.store().get("/none") is None


async def test_what_was_put_is_got_with_its_history(case: Case) -> None:
    store = case.store()
    first = await store.commit([Put("/a", b"one")])
    second = await store.commit([Put("/a", b"two")])
    assert first is not None
    assert second == first + 1
    got = await store.get("/a")
    assert got is not None
    assert (got.key, got.value, got.created, got.modified, got.version, got.lease) == (
        "/a",
        b"two",
        first,
        second,
        2,
        0,
    )


async def test_a_key_made_again_is_a_new_one(case: Case) -> None:
    store = case.store()
    await store.commit([Put("/a", b"")])
    await store.commit([Delete("/a")])
    revision = await store.commit([Put("/a", b"")])
    got = await store.get("/a")
    assert got is not None
    assert (got.created, got.version) == (revision, 1)


async def test_values_are_octets_and_keys_are_text(case: Case) -> None:
    store = case.store()
    value = bytes(range(256)) * 40
    await store.commit([Put("/ключ/ÿ/\U0001f310", value)])
    got = await store.get("/ключ/ÿ/\U0001f310")
    assert got is not None
    assert got.value == value
    assert list((await store.range("/ключ/")).entries) == ["/ключ/ÿ/\U0001f310"]


async def test_a_range_holds_the_prefix_and_nothing_beside_it(case: Case) -> None:
    store = case.store()
    inside = [PREFIX, f"{PREFIX}a", f"{PREFIX}lower-case", f"{PREFIX}z~", f"{PREFIX}\U0010ffff"]
    outside = [PREFIX[:-1], PREFIX[:-1] + "0", PREFIX[:-1] + ".x", "/", "/z", "\U0010ffff"]
    revision = await store.commit([Put(key, b"") for key in (*reversed(inside), *outside)])
    snapshot = await store.range(PREFIX)
    assert list(snapshot.entries) == inside, "sorted"
    assert snapshot.revision == revision
    assert len((await store.range("")).entries) == len(inside + outside), "an empty prefix is everything"
    assert list((await store.range("\U0010ffff")).entries) == ["\U0010ffff"]


async def test_a_range_of_nothing_has_a_revision(case: Case) -> None:
    store = case.store()
    revision = await store.commit([Put("/a", b"")])
    assert await store.range("/b") == Snapshot(Entries(), revision or 0)


# commits


async def test_a_commit_is_one_revision_for_all_its_changes(case: Case) -> None:
    store = case.store()
    await store.commit([Put("/old", b"")])
    revision = await store.commit([Put("/a", b"1"), Put("/b", b"2"), Delete("/old"), Delete("/never-was")])
    entries = (await store.range("/")).entries
    assert {key: entry.modified for key, entry in entries.items()} == {"/a": revision, "/b": revision}


async def test_a_key_that_must_not_be_there(case: Case) -> None:
    store = case.store()
    assert await store.commit([Put("/a", b"mine")], [Guard("/a", 0)]) is not None
    assert await store.commit([Put("/a", b"theirs"), Put("/b", b"")], [Guard("/a", 0)]) is None
    got = await store.get("/a")
    assert got is not None
    assert got.value == b"mine"
    assert await store.get("/b") is None, "all or nothing"


async def test_a_key_that_must_be_as_it_was(case: Case) -> None:
    store = case.store()
    first = await store.commit([Put("/a", b"1")])
    assert first is not None
    second = await store.commit([Put("/a", b"2")], [Guard("/a", first)])
    assert second is not None
    assert await store.commit([Delete("/a")], [Guard("/a", first)]) is None
    assert await store.commit([Delete("/a")], [Guard("/a", second), Guard("/b", 0)]) is not None
    assert await store.commit([Put("/a", b"3")], [Guard("/a", second)]) is None, "it is gone"


async def test_of_many_who_want_one_key_one_gets_it(case: Case) -> None:
    stores = [case.store() for _ in range(4)]
    attempts = (store.commit([Put("/a", b"%d" % number)], [Guard("/a")]) for number, store in enumerate(stores * 25))
    won = [number for number, revision in enumerate(await asyncio.gather(*attempts)) if revision is not None]
    got = await stores[0].get("/a")
    assert got is not None
    assert [got.value] == [b"%d" % number for number in won]


async def test_a_commit_that_changes_nothing_is_no_revision(case: Case) -> None:
    store = case.store()
    first = await store.commit([Put("/a", b"")])
    assert await store.commit([], [Guard("/a", first or 0)]) == first
    assert await store.commit([Delete("/never-was")]) == first


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([Put("/a", b"1"), Put("/a", b"2")], "duplicate key"),
        ([Put("/a", b"1"), Delete("/a")], "duplicate key"),
        ([Put(f"/{number}", b"") for number in range(129)], "too many operations"),
        ([Put("", b"")], "key is not provided"),
        ([Put("/a", b"", lease=12345)], "lease not found"),
    ],
)
async def test_what_no_store_takes(case: Case, changes: list[Put | Delete], text: str) -> None:
    store = case.store()
    with pytest.raises(StoreError, match=text) as caught:
        await store.commit(changes)
    assert type(caught.value) is StoreError
    assert (await store.range("/")).entries == {}


# leases


async def test_a_lease_lives_as_long_as_it_is_renewed(case: Case) -> None:
    store = case.store()
    lease = await store.grant(100)
    assert lease > 0
    case.wait(20)
    assert 70 <= await store.remaining(lease) <= 100
    assert await store.keep_alive(lease) == 100
    assert 95 <= await store.remaining(lease) <= 100


async def test_a_lease_that_ends_takes_its_keys_along(case: Case) -> None:
    store = case.store()
    lease = await store.grant(case.shortest)
    await store.commit([Put(KEYS[0], b"", lease), Put(KEYS[1], b"", lease), Put(KEYS[2], b"")])
    got = await store.get(KEYS[0])
    assert got is not None
    assert got.lease == lease
    async with watching(store) as sets:
        case.wait(case.shortest)
        await seen(sets, lambda snapshot: list(snapshot.entries) == [KEYS[2]])
    assert await store.keep_alive(lease) == 0
    assert await store.remaining(lease) == 0


async def test_a_key_put_without_its_lease_outlives_it(case: Case) -> None:
    store = case.store()
    lease = await store.grant(100)
    await store.commit([Put("/a", b"", lease)])
    await store.commit([Put("/a", b"")])
    await store.revoke(lease)
    assert await store.get("/a") is not None


async def test_an_ended_lease_is_gone_at_once_and_ending_it_again_is_no_error(case: Case) -> None:
    store = case.store()
    lease = await store.grant(100)
    await store.commit([Put("/a", b"", lease)])
    await store.revoke(lease)
    assert await store.get("/a") is None
    assert await store.remaining(lease) == 0
    await store.revoke(lease)
    await store.revoke(4711)


# watches


async def test_a_watch_begins_with_what_is_there(case: Case) -> None:
    store = case.store()
    revision = await store.commit([Put(KEYS[1], b"1"), Put(KEYS[0], b"0"), Put("/elsewhere", b"")])
    async with contextlib.aclosing(store.watch(PREFIX)) as sets:
        snapshot = await anext(sets)
    assert list(snapshot.entries) == KEYS[:2]
    assert snapshot.revision == revision


async def test_each_change_is_a_full_set(case: Case) -> None:
    store = case.store()
    case.other_put(KEYS[1], b"1")
    async with watching(store) as sets:
        case.other_put(KEYS[0], b"0")
        both = await seen(sets, lambda snapshot: KEYS[0] in snapshot.entries)
        assert list(both.entries) == KEYS[:2], "sorted, though it came later"
        case.other_put(KEYS[1], b"changed")
        changed = await seen(sets, lambda snapshot: snapshot.entries[KEYS[1]].value == b"changed")
        assert changed.entries[KEYS[1]] == await store.get(KEYS[1])
        assert changed.revision == changed.entries[KEYS[1]].modified
        case.other_delete(KEYS[1])
        await seen(sets, lambda snapshot: list(snapshot.entries) == [KEYS[0]])
        assert both.entries[KEYS[1]].value == b"1", "a set that was told stays what it was"


async def test_a_commit_is_seen_whole(case: Case) -> None:
    store = case.store()
    async with watching(store) as sets:
        for number in range(20):
            await store.commit([Put(key, b"%d" % number) for key in KEYS])
        async with asyncio.timeout(20):
            async for snapshot in sets:
                values = {entry.value for entry in snapshot.entries.values()}
                assert len(values) == 1
                assert len(snapshot.entries) == len(KEYS)
                if values == {b"19"}:
                    break


async def test_changes_that_came_together_are_one_set(case: Case) -> None:
    store = case.store()
    async with watching(store) as sets:
        for number in range(50):
            await store.commit([Put(KEYS[0], b"%d" % number)])
        last = await anext(sets)
        if last.entries[KEYS[0]].value != b"49":  # the last one or two may have been on their way
            last = await seen(sets, lambda snapshot: snapshot.entries[KEYS[0]].value == b"49")
        assert last.entries[KEYS[0]].version >= 50


async def test_another_prefix_wakes_nobody(case: Case) -> None:
    store = case.store()
    async with watching(store) as sets:
        case.other_put("/elsewhere", b"")
        case.other_put(PREFIX[:-1], b"")
        case.other_put(KEYS[0], b"")
        assert list((await anext(sets)).entries) == [KEYS[0]], "the first that is told is the first that concerns it"


async def test_two_watches_of_one_store(case: Case) -> None:
    store = case.store()
    async with watching(store) as one, watching(store, "/elsewhere") as two:
        await store.commit([Put(KEYS[0], b""), Put("/elsewhere", b"")])
        assert list((await seen(one, lambda snapshot: bool(snapshot.entries))).entries) == [KEYS[0]]
        assert list((await seen(two, lambda snapshot: bool(snapshot.entries))).entries) == ["/elsewhere"]


async def test_a_compaction_is_no_end(case: Case) -> None:
    store = case.store()
    await store.commit([Put(KEYS[0], b"0")])
    async with watching(store) as sets:
        case.other_put(KEYS[0], b"1")
        case.compact()
        case.other_put(KEYS[1], b"1")
        case.compact()
        snapshot = await seen(sets, lambda snapshot: KEYS[1] in snapshot.entries)
        assert snapshot.entries[KEYS[0]].value == b"1"
        case.other_put(KEYS[2], b"")
        await seen(sets, lambda snapshot: KEYS[2] in snapshot.entries)


# what can go wrong


@pytest.mark.parametrize("question", ["get", "range", "commit", "grant", "keep_alive", "remaining", "revoke", "watch"])
async def test_an_outage_is_told_apart_from_nothing_there(case: Case, question: str) -> None:
    store = case.store()
    lease = await store.grant(1000)
    case.outage()
    try:
        with pytest.raises(StoreUnreachable):
            await ask(store, question, lease)
    finally:
        case.heal()
    await back(store)
    await ask(store, question, lease)


async def test_a_watch_raises_when_nobody_answers_and_the_next_one_knows_all(case: Case) -> None:
    store = case.store()
    await store.commit([Put(KEYS[0], b"")])
    async with watching(store) as sets:
        case.outage()
        try:
            with pytest.raises(StoreUnreachable):
                await seen(sets, lambda _: False)
        finally:
            case.heal()
    case.other_put(KEYS[1], b"")
    await back(store)
    async with contextlib.aclosing(store.watch(PREFIX)) as sets:
        assert list((await anext(sets)).entries) == KEYS[:2]
        case.other_delete(KEYS[0])
        await seen(sets, lambda snapshot: list(snapshot.entries) == [KEYS[1]])


@pytest.mark.parametrize("question", ["get", "range", "commit", "grant", "watch"])
async def test_what_is_not_allowed_is_told_apart_too(case: Case, question: str) -> None:
    case.forbid()
    with pytest.raises(StoreForbidden):
        await ask(case.store(), question, 1)


async def test_a_closed_store_says_so(case: Case) -> None:
    store = case.store()
    async with watching(store) as sets:
        waiting = asyncio.ensure_future(anext(sets))
        await asyncio.wait({waiting}, timeout=0.05)
        await store.close()
        with pytest.raises(StoreUnreachable, match="closed"):
            await waiting
    with pytest.raises(StoreUnreachable, match="closed"):
        await store.get("/a")


async def ask(store: Store, question: str, lease: int) -> None:
    """One of the Store's questions, by its name."""
    match question:
        case "get":
            await store.get("/a")
        case "range":
            await store.range("/a")
        case "commit":
            await store.commit([Put("/a", b"")])
        case "grant":
            await store.revoke(await store.grant(10))
        case "keep_alive":
            await store.keep_alive(lease)
        case "remaining":
            await store.remaining(lease)
        case "revoke":
            await store.revoke(lease)
        case "watch":
            async with watching(store):
                return
