"""What a registrar adds below flannel's prefix, over the memory store in virtual time: how long it stays when the
registrar doesn't, that it ends with this host's flannel lease, and what others see of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.loop.test_registration import (
    ENTRY,
    FLANNEL,
    GONE,
    LEASED,
    TTL,
    VALUE,
    WEB,
    Host,
    World,
    lease,
    run,
)
from tests.support.virtual import reached
from weft.agent.leasehold import LEEWAY
from weft.agent.marker import Owner
from weft.agent.registration import Registration
from weft.stores import Delete, Put
from weft.stores.memory import MemoryStore
from weft.wire.flannel import lease_value

KEY = f"{FLANNEL}/subnets/10.5.40.0-24"
OWN = f"{FLANNEL}/subnets/{LEASED}"
REAL = lease("10.5.20.0/24", "192.168.4.88")
DAY = 86400


def left(w: World, key: str = KEY) -> int:
    """Seconds that a key lives if nobody does anything; 0 if it is not there."""
    entry = w.server.entries.get(key)
    return w.server.remaining(entry.lease) if entry is not None else 0


def together(w: World) -> bool:
    """The entry ends with the lease: not after it, and not long before."""
    return left(w, OWN) - LEEWAY <= left(w) <= left(w, OWN) + 1


async def with_entry(w: World) -> Host:
    host = await w.settled(WEB)
    host.entries(ENTRY)
    await reached(lambda: KEY in w.server.entries, "the entry")
    return host


def test_it_stays_when_the_registrar_is_gone_and_nobody_takes_it_for_a_lease() -> None:
    """An entry that ends while its host lives makes flanneld elsewhere forget the VTEP, so all of that host."""

    async def scenario(w: World) -> None:
        w.flannel()
        await asyncio.sleep(5 * 3600)
        host = await with_entry(w)
        other = await w.settled(ip="192.168.4.99", host="pita")
        entry = w.server.entries[KEY]
        await host.stop()
        await reached(lambda: other.knows("babka") is None, "the registrations to end", within=2 * TTL)
        assert (other.now.leases, other.now.entries) == ((REAL,), (ENTRY,))
        await asyncio.sleep(18 * 3600)
        assert w.server.entries[KEY] == entry
        while OWN in w.server.entries:
            assert together(w)
            await asyncio.sleep(30)
        assert KEY not in w.server.entries, "flanneld would come back and take it for its own"
        assert (other.now.leases, other.now.entries) == ((), ())

    run(scenario)


def test_a_restart_goes_on_with_it() -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        first = await with_entry(w)
        before, leases = w.server.entries[KEY], set(w.server.leases)
        for pause in (TTL / 2, 5 * TTL):
            await first.stop()
            await asyncio.sleep(pause)
            first = w.host(WEB)
            first.entries(ENTRY)
            await reached(lambda host=first: host.knows("babka"), "the registration")
            await asyncio.sleep(300)
            assert w.server.entries[KEY] == before
            assert len(w.server.leases) == len(leases)
        await first.stop()
        await asyncio.sleep(5 * TTL)
        w.server.change(Put(KEY, VALUE.replace(b"82:00", b"82:ff"), before.lease))
        last = w.host(WEB)
        await reached(lambda: KEY not in w.server.entries, "it to go: there is no such network any more")
        assert not last.now.problems

    run(scenario)


def test_with_another_mac_after_a_reboot_it_is_put_right_at_once() -> None:
    async def scenario(w: World) -> None:
        held = w.flannel()  # which it may even hang on: nothing of flannel's is touched for that
        stale = replace(ENTRY, data=lease("10.5.40.0/24", "192.168.4.7").data)
        w.server.put(KEY, VALUE.replace(lease_value(ENTRY)[:-1], lease_value(stale)[:-1]), held)
        other = await w.settled(ip="192.168.4.99", host="pita")
        assert (other.now.leases, other.now.entries) == ((REAL,), (stale,))
        own = w.server.entries[OWN]
        host = w.host(WEB)
        host.entries(ENTRY)
        await reached(lambda: w.server.entries[KEY].value == VALUE, "the MAC to be right", within=1)
        assert w.server.entries[KEY].lease not in (0, held)
        assert w.server.entries[OWN] == own

    run(scenario)


@pytest.mark.parametrize("keeps", [True, False], ids=["the same etcd lease", "a new one"])
def test_it_goes_along_when_flanneld_renews(keeps: bool) -> None:
    """`weft flanneld` keeps its etcd lease alive; flannel's own takes a new one an hour before the end of the old."""

    async def scenario(w: World) -> None:
        held = w.flannel()
        await with_entry(w)
        commits = 0
        for hour in range(1, 70):
            await asyncio.sleep(3600 - 1)
            assert left(w) > 0
            if hour % 23 == 0:
                commits = len(w.server.commits)
                if keeps:
                    w.server.keep_alive(held)
                else:
                    w.server.put(OWN, lease_value(REAL), w.server.grant(DAY))
                await reached(lambda: left(w) > 23 * 3600, "the entry to go along", within=61)
                assert together(w)
        assert [c for c in w.server.commits[commits + 5 :] if any(change.key == KEY for change in c)] == []

    run(scenario)


def test_beside_a_reservation_it_lives_a_day_and_is_kept() -> None:
    async def scenario(w: World) -> None:
        w.server.put(OWN, lease_value(REAL))
        host = await with_entry(w)
        assert left(w) == pytest.approx(DAY, abs=5)
        for _ in range(100):
            await asyncio.sleep(3600)
            assert left(w) > DAY / 2
        w.server.put(OWN, lease_value(REAL), w.server.grant(3600))
        await reached(lambda: together(w), "it to be as short as the lease that this has become")
        await host.stop()
        await asyncio.sleep(3700)
        assert KEY not in w.server.entries

    run(scenario)


def test_without_a_lease_there_is_none_and_with_the_next_one_there_is() -> None:
    async def scenario(w: World) -> None:
        held = w.flannel()
        host = await with_entry(w)
        w.server.end_lease(held)
        await reached(lambda: KEY not in w.server.entries, "it to go", within=1)
        await asyncio.sleep(DAY)
        assert KEY not in w.server.entries
        w.flannel()
        await reached(lambda: KEY in w.server.entries, "it to be back", within=1)
        assert together(w)
        w.server.end_lease(w.server.entries[KEY].lease)
        await reached(lambda: KEY in w.server.entries, "it to be back once more", within=1)
        assert not host.errors

    run(scenario)


def test_beside_a_lease_that_is_about_to_end_none_is_written() -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        await asyncio.sleep(DAY - LEEWAY / 2)
        host = await w.settled(WEB)
        host.entries(ENTRY)
        await asyncio.sleep(LEEWAY / 4)
        assert OWN in w.server.entries
        assert KEY not in w.server.entries

    run(scenario)


def test_withdrawing_takes_what_outlived_the_registrations() -> None:
    async def scenario(w: World) -> None:
        held = w.flannel()
        host = await with_entry(w)
        await host.stop()
        await asyncio.sleep(5 * TTL)
        assert set(w.server.entries) == {KEY, OWN}
        me = Owner("machine-192.168.4.88", "", "run-9")
        last = Registration(MemoryStore(w.server), replace(host.registration._options, me=me))
        last.tell(host.announcement)
        await last.withdraw()
        assert set(w.server.entries) == {OWN}
        assert w.server.entries[OWN].lease == held
        assert w.server.entries[OWN].modified == w.server.revision, "flannel forgot the VTEP, and heard nothing new"
        assert set(w.server.leases) == {held}

    run(scenario)


def test_a_host_that_was_cut_off_from_etcd_goes_once_and_comes_back_once() -> None:
    """For longer than its lease lives: others hear that it is gone, and then all of it, in one word each."""

    async def scenario(w: World) -> None:
        w.flannel()
        host = await with_entry(w)
        other = await w.settled(ip="192.168.4.99", host="pita")
        entry = w.server.entries[KEY]
        for cut in (TTL - 70, 10 * TTL):
            start = len(other.seen)
            host.store.fail(GONE)
            await asyncio.sleep(cut)
            host.store.fail(None)
            await reached(lambda: other.knows("babka"), "it to be back", within=30)
            await asyncio.sleep(300)
            told = [one.networks if (one := registry.host("babka")) else None for registry in other.seen[start:]]
            assert told == ([] if cut < TTL else [None, (WEB,)])
            assert all(registry.entries == (ENTRY,) for registry in other.seen[start:])
            assert w.server.entries[KEY] == entry
            w.server.change(Delete(f"{FLANNEL}/nothing"))

    run(scenario)


def test_of_several_that_go_each_goes_for_itself_and_the_lease_is_said_between() -> None:
    """flannel forgets the VTEP with the first, and would be busy for 50 s with forgetting it again."""

    async def scenario(w: World) -> None:
        w.flannel()
        three = tuple(lease(f"10.5.{n}.0/24", "192.168.4.88") for n in (40, 41, 42))
        for how in ("networks go", "withdrawn"):
            host = await w.settled(WEB)
            host.entries(*three)
            await reached(lambda host=host: host.now.entries == three, "the entries")
            start = len(w.server.commits)
            if how == "withdrawn":
                await host.registration.withdraw()
            else:
                host.entries()
                await reached(lambda host=host: not host.now.entries, "them to go", within=1)
            told = [c for c in w.server.commits[start:] if any(FLANNEL in change.key for change in c)]
            assert [[type(change) for change in commit] for commit in told] == 3 * [[Delete, Put]]
            assert all(commit[1].key == OWN for commit in told)
            await host.stop()
            await asyncio.sleep(TTL)

    run(scenario)
