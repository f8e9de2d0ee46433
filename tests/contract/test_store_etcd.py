"""etcd's own pitfalls, each shown on real members: many keys, members that die, hang or lose their leader."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.stores import PREFIX, Sets, back, seen, watching
from tests.support.etcd import Etcd, Member, cluster, needs_etcd
from tests.support.eventually import patience
from tests.support.namespace import namespace
from tests.support.needs import needs_root
from weft.errors import StoreError, StoreUnreachable
from weft.stores import Delete, Put
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.stores.etcd.messages import A, Method, Q

pytestmark = needs_etcd
PATIENCE = 1.5  # seconds of a question's timeout, where a test waits for it


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@pytest.fixture
def three() -> Iterator[Etcd]:
    with cluster(3) as members:
        yield members


@contextlib.asynccontextmanager
async def opened(etcd: Etcd, timeout: float = 5.0) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdOptions(etcd.endpoints, timeout=timeout))
    try:
        yield store
    finally:
        await store.close()


def asked(etcd: Etcd, store: EtcdStore) -> Member:
    """The member that the store asks at present."""
    return next(member for member in etcd.members if member.endpoint == store.endpoint)


# many keys


async def fill(store: EtcdStore, prefix: str, count: int, value: bytes) -> None:
    for start in range(0, count, 100):
        await store.commit([Put(f"{prefix}{number:06d}", value) for number in range(start, start + 100)])


async def test_twenty_thousand_keys_are_one_revision_while_others_write(etcd: Etcd) -> None:
    prefix = "/twenty/"
    async with opened(etcd) as store, opened(etcd) as other:
        await fill(store, prefix, 20_000, b"0" * 250)
        await other.commit(both(prefix, 0))
        writing = asyncio.create_task(rewrite(other, prefix))
        snapshots = [await store.range(prefix) for _ in range(3)]
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        for snapshot in snapshots:
            assert len(snapshot.entries) == 20_000
            assert list(snapshot.entries) == sorted(snapshot.entries)
            first, last = snapshot.entries[f"{prefix}000000"], snapshot.entries[f"{prefix}019999"]
            assert first.value == last.value, "they are only ever written together"
            assert first.modified == last.modified <= snapshot.revision
        assert snapshots[0].revision < snapshots[-1].revision, "somebody did write meanwhile"


async def rewrite(store: EtcdStore, prefix: str) -> None:
    """Write the first and the last key together, again and again."""
    number = 0
    while True:
        number += 1
        await store.commit(both(prefix, number))


def both(prefix: str, number: int) -> list[Put | Delete]:
    return [Put(f"{prefix}{key}", b"%d" % number) for key in ("000000", "019999")]


async def test_an_answer_may_be_larger_than_grpc_allows_by_default(etcd: Etcd) -> None:
    async with opened(etcd) as store:
        for number in range(6):
            await store.commit([Put(f"/large/{number}", b"x" * 1_000_000)])
        snapshot = await store.range("/large/")
        assert sum(len(entry.value) for entry in snapshot.entries.values()) == 6_000_000, "4 MB is the default"


async def test_a_listing_that_is_compacted_under_begins_anew(etcd: Etcd) -> None:
    """Between its pages etcd forgets the revision that it began with, and refuses the second page."""
    prefix = "/compacted/"
    async with opened(etcd) as store, opened(etcd) as other:
        await fill(store, prefix, 3_000, b"")
        ask, questions = store._connection.ask, []

        async def ask_late(method: Method[Q, A], question: Q, asked: str) -> A:
            questions.append(question)
            if len(questions) == 2:
                revision = await other.commit([Put(f"{prefix}000000", b"new")])
                etcd.ctl("compact", str(revision))
            return await ask(method, question, asked)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._connection, "ask", ask_late)
            snapshot = await store.range(prefix)
    assert len(questions) == 2 + 3, "the second page was refused, then three pages"
    assert len(snapshot.entries) == 3_000
    assert snapshot.entries[f"{prefix}000000"].value == b"new"


async def test_a_burst_on_top_of_three_thousand_keys(etcd: Etcd) -> None:
    """A thousand puts: each is in the last set, and the sets are sorted and whole."""
    prefix = "/burst/"
    async with opened(etcd) as store, opened(etcd) as other:
        await fill(store, prefix, 3_000, b"old")
        async with watching(store, prefix) as sets:
            puts = [other.commit([Put(f"{prefix}{number:06d}", b"new")]) for number in range(2_500, 3_500)]
            revisions = await asyncio.gather(*puts)
            last = max(revision for revision in revisions if revision is not None)
            snapshot = await seen(sets, lambda snapshot: snapshot.revision >= last)
        assert list(snapshot.entries) == [f"{prefix}{number:06d}" for number in range(3_500)]
        assert [entry.value for entry in snapshot.entries.values()] == [b"old"] * 2_500 + [b"new"] * 1_000


# members that die


async def test_a_dead_member_costs_a_reader_and_a_writer_little(three: Etcd) -> None:
    async with opened(three) as store:
        await store.commit([Put("/a", b"1")])
        member = asked(three, store)
        member.kill()
        began = time.monotonic()
        # the two that are left may have to elect a leader first (300 ms here): a write says so, a read asks on
        await back(store)
        assert await store.commit([Put("/a", b"2")]) is not None
        assert time.monotonic() - began < patience(2.0)
        assert asked(three, store) is not member


async def test_a_member_that_was_never_there_costs_milliseconds(etcd: Etcd) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        took = []
        for _ in range(6):  # the first member is drawn by lot
            store = EtcdStore(EtcdOptions((dead, dead.replace("127.0.0.1", "127.0.0.2"), *etcd.endpoints)))
            began = time.monotonic()
            assert await store.commit([Put("/a", b"")]) is not None
            took.append(time.monotonic() - began)
            await store.close()
    assert min(took) < patience(0.1)
    assert max(took) < patience(0.5), "a timeout would be 5 s"


async def test_a_watch_outlives_its_member(three: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.stores.etcd.store.STABLE", 0.0)  # as if it had run for long
    async with opened(three) as store, opened(three) as other, watching(store) as sets:
        await running(sets, other)
        asked(three, store).kill()
        await back(other)
        await other.commit([Put(f"{PREFIX}after", b"")])
        await seen(sets, lambda snapshot: f"{PREFIX}after" in snapshot.entries)


async def test_etcd_comes_back_and_the_state_is_right_in_two_seconds(three: Etcd) -> None:
    """All three die, and nothing is known; what came after their return is seen with what was there before."""
    async with opened(three) as store:
        await store.commit([Put(f"{PREFIX}a", b"")])
        async with watching(store) as sets:
            for member in three.members:
                member.kill()
            with pytest.raises(StoreUnreachable):
                await seen(sets, lambda _: False)
        for member in three.members:
            member.start(wait=False)
        for member in three.members:
            await asyncio.to_thread(member.started)
        await asyncio.to_thread(three.ctl, "put", f"{PREFIX}b", "")
        await back(store)
        async with contextlib.aclosing(store.watch(PREFIX)) as again:
            assert list((await anext(again)).entries) == [f"{PREFIX}a", f"{PREFIX}b"]


# members that hang, and members without a leader


async def test_a_hung_member_is_left_within_its_share_of_the_patience(three: Etcd) -> None:
    """A follower: without a leader the others would have nothing to say for as long as an election takes."""
    async with opened(three, 4 * PATIENCE) as store:  # answered within it, or StoreUnreachable is raised
        await store.commit([Put("/a", b"")])
        member = asked(three, store)
        three.depose(member)
        member.pause()
        assert await store.get("/a") is not None
        assert asked(three, store) is not member
        began = time.monotonic()
        assert await store.get("/a") is not None
        assert time.monotonic() - began < PATIENCE, "it is not asked again: that would be a share, of two seconds"


async def test_a_write_goes_out_once(three: Etcd) -> None:
    """The member that it was sent to hangs: nobody knows whether it was done, and asking another would do it twice."""
    async with opened(three, PATIENCE) as store:
        await store.commit([Put("/once", b"before")])
        member = asked(three, store)
        member.pause()
        with pytest.raises(StoreUnreachable, match="no answer in time"):
            await store.commit([Put("/once", b"after")])
        assert asked(three, store) is not member
        member.resume()
        await back(store)
        got = await store.get("/once")
        assert got is not None
        assert got.version <= 2


async def test_a_hung_member_is_noticed_by_a_watch(etcd: Etcd) -> None:
    """Its connection is there and silent: a sign of life is asked for, and does not come."""
    async with opened(etcd, 0.5) as store:
        async with watching(store) as sets:
            await running(sets, store)
            etcd.members[0].pause()
            began = time.monotonic()
            try:
                with pytest.raises(StoreUnreachable):
                    await seen(sets, lambda _: False)
            finally:
                etcd.members[0].resume()
        assert time.monotonic() - began < patience(3.0)
        await back(store)


async def test_a_quiet_watch_is_kept(etcd: Etcd) -> None:
    """Silence alone is no fault: etcd answers when it is asked for a sign of life."""
    async with opened(etcd, 0.5) as store, opened(etcd) as other, watching(store) as sets:
        await running(sets, other)
        told = asyncio.ensure_future(anext(sets))
        done, _ = await asyncio.wait({told}, timeout=2.0)
        assert not done, "neither a set nor an error in four times the patience"
        await other.commit([Put(f"{PREFIX}quiet", b"")])
        assert f"{PREFIX}quiet" in (await told).entries


async def test_a_member_without_a_leader_says_so(three: Etcd) -> None:
    """It answers, and knows nothing: a watch on it would wait for ever."""
    async with opened(three) as store:
        async with watching(store) as sets:
            await running(sets, store)
            alive = asked(three, store)
            for member in three.members:
                if member is not alive:
                    member.kill()
            began = time.monotonic()
            with pytest.raises(StoreUnreachable, match="no leader"):
                await seen(sets, lambda _: False)
            assert time.monotonic() - began < patience(4.0)
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match="no leader"):
            await store.get("/a")
        assert time.monotonic() - began < 4.0, "a timeout would be 5 s"


async def running(sets: Sets, store: EtcdStore) -> None:
    """Returns when the watch's stream is there: it tells a change."""
    await store.commit([Put(f"{PREFIX}running", b"")])
    await seen(sets, lambda snapshot: f"{PREFIX}running" in snapshot.entries)


# what an operator sees


async def test_the_error_names_the_endpoints_the_question_and_the_cause() -> None:
    store = EtcdStore(EtcdOptions(("http://127.0.0.1:1,http://127.0.0.2:1",)))
    with pytest.raises(StoreUnreachable) as caught:
        await store.range(PREFIX)
    for part in ("127.0.0.1:1", "127.0.0.2:1", f"keys under '{PREFIX}'", "Connection refused", "does etcd run"):
        assert part in str(caught.value)
    await store.close()


async def test_an_outage_is_one_sentence_whichever_member_is_asked_first() -> None:
    """Logs tell what is new; questions side by side move each other on."""
    store = EtcdStore(EtcdOptions((",".join(f"http://127.0.0.{n}:1" for n in (1, 2, 3)),)))
    answers = [
        answer
        for _ in range(4)
        for answer in await asyncio.gather(*(store.get("/a") for _ in range(5)), return_exceptions=True)
    ]
    assert len({str(answer) for answer in answers}) == 1, {str(answer) for answer in answers}
    told = str(answers[0])
    assert [told.count(f"127.0.0.{n}:1: ") for n in (1, 2, 3)] == [1, 1, 1]
    assert told.index("127.0.0.1:1") < told.index("127.0.0.2:1") < told.index("127.0.0.3:1")
    await store.close()


async def test_names_are_looked_up(etcd: Etcd) -> None:
    port = etcd.endpoints[0].rsplit(":", 1)[1]
    store = EtcdStore(EtcdOptions((f"localhost:{port}/",)))
    assert await store.get("/never") is None
    await store.close()
    store = EtcdStore(EtcdOptions(("http://no-such-host.invalid:2379",)))
    with pytest.raises(StoreUnreachable, match=r"no-such-host\.invalid"):
        await store.get("/never")
    await store.close()


async def test_what_is_no_etcd() -> None:
    """An HTTP server of another kind."""
    server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = EtcdStore(EtcdOptions((f"http://127.0.0.1:{port}",), timeout=2))
    with pytest.raises(StoreError, match=str(port)):
        await store.get("/a")
    await store.close()
    server.close()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()


@needs_root
def test_a_cluster_in_a_namespace() -> None:
    """gRPC makes its sockets in threads of its own: a client is in a namespace with its whole process or not at all."""
    asking = """
import asyncio, sys
from weft.stores import Put
from weft.stores.etcd import EtcdOptions, EtcdStore

async def main():
    store = EtcdStore(EtcdOptions((sys.argv[1],)))
    await store.commit([Put("/from/inside", b"yes")])
    await store.close()

asyncio.run(main())
"""
    with namespace() as ns, cluster(namespace=ns) as etcd:
        ns.run(sys.executable, "-c", asking, etcd.endpoints[0])
        assert etcd.ctl("get", "--print-value-only", "/from/inside") == "yes\n"
