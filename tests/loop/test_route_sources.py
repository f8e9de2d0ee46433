"""What routes are made of, over the memory store in virtual time: leases run out, people delete keys, etcd goes, comes
back, is restored. Followed by the loop's own `follow`, as the daemon does it."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from tests.loop.route_sources import (
    CONFIG,
    FLANNEL,
    GONE,
    GRACE,
    Case,
    in_a_world,
)
from tests.support.virtual import reached
from weft.agent.loop import LAST_RESTART
from weft.agent.route_feed import AT_ONCE
from weft.core.lapsing import DAY
from weft.errors import StoreForbidden
from weft.stores import Delete, Put
from weft.wire.flannel import Lease, lease_key, lease_value, parse_lease
from weft.wire.registrar import entry_value


@in_a_world
async def test_a_lease_is_a_node_whatever_its_backend(case: Case) -> None:
    case.server.put(f"{FLANNEL}/config", CONFIG)
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    case.server.put(f"{FLANNEL}/subnets/10.244.2.0-24", '{"PublicIP": "10.0.0.2", "BackendType": "who-knows"}')
    dual = Lease(
        IPv4Network("10.244.3.0/24"), IPv6Network("fc00:5::/64"), IPv4Address("10.0.0.3"), IPv6Address("fd00::3")
    )
    case.server.put(f"{FLANNEL}/subnets/{lease_key(dual)}", lease_value(dual), case.server.grant(100))
    added = Lease(IPv4Network("10.244.4.0/24"), None, IPv4Address("10.0.0.1"), None, "vxlan")
    case.server.put(f"{FLANNEL}/subnets/{lease_key(added)}", entry_value(added, "babka"), case.server.grant(100))
    ear = case.leases()
    await reached(lambda: ear.seen, "leases")
    assert ear.seen[0].known.complete
    assert not ear.texts()
    assert [str(span) for span in ear.seen[0].spans] == ["10.244.0.0/16"]
    one, two, three, four = ear.known().items
    assert (one.id, one.endpoints, one.backend, one.source) == (
        "10.244.1.0/24",
        (IPv4Address("10.0.0.1"),),
        "cloud",
        "flannel",
    )
    assert (one.networks[0].name, one.networks[0].since) == ("lease", 3.0)
    assert (two.networks[0].name, four.networks[0].name) == ("reservation", "docker network")
    assert three.id == "10.244.3.0/24 & fc00:5::/64"
    assert list(map(str, three.endpoints)) == ["10.0.0.3", "fd00::3"]
    assert list(map(str, three.networks[0].subnets)) == ["10.244.3.0/24", "fc00:5::/64"]


@in_a_world
async def test_a_lease_that_comes_changes_or_goes_is_told_at_once(case: Case) -> None:
    ear = case.leases()
    await ear.has()
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    await ear.has(_1="10.0.0.1")
    case.server.lease_of("10.244.1.0/24", "10.0.0.9")
    await ear.has(_1="10.0.0.9")
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-24")
    assert await ear.has() < 0.2


@in_a_world
async def test_one_bad_lease_stops_nobody(case: Case) -> None:
    """Of the original: one lease that can't be read ended the pass over all others."""
    for number, value in enumerate(('{"PublicIP": null}', "{", "", '{"PublicIP": "::1"}', "[]", '{"PublicIP": "x"}')):
        case.server.put(f"{FLANNEL}/subnets/10.244.{100 + number}.0-24", value)
    case.server.put(f"{FLANNEL}/subnets/no-subnet", "{}")
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")
    assert ear.known().complete
    texts = "\n".join(ear.texts())
    assert all(f"10.244.{100 + number}.0-24" in texts for number in range(6))
    assert "no-subnet" in texts


@in_a_world
async def test_a_host_at_no_place_is_told_and_not_routed_to(case: Case) -> None:
    for number, ip in enumerate(("127.0.0.1", "169.254.1.1", "224.0.0.5", "255.255.255.255")):
        case.server.lease_of(f"10.244.{number}.0/24", ip)
    ear = case.leases()
    await reached(lambda: ear.seen, "leases")
    assert not ear.routes()
    assert "lease 10.244.0.0/24 names 127.0.0.1, where no host can be" in ear.texts()[1]
    assert len(ear.texts()) == 5  # and the config


@pytest.mark.parametrize("value", ["{", '{"PublicIP": "127.0.0.1"}'])
def test_what_a_lease_said_before_holds_while_it_can_not_be_read(value: str) -> None:
    @in_a_world
    async def scenario(case: Case) -> None:
        case.server.lease_of("10.244.1.0/24", "10.0.0.1")
        ear = case.leases()
        await ear.has(_1="10.0.0.1")
        key = f"{FLANNEL}/subnets/10.244.1.0-24"
        for _ in range(2):
            case.server.put(key, value)
            await case.pass_by(1)
        assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
        assert any("it is routed to 10.0.0.1, as before, while it is there" in text for text in ear.texts())
        case.server.delete(key)
        await ear.has()
        assert len(ear.texts()) == 1

    scenario()


@in_a_world
async def test_a_lease_that_runs_out_is_kept_for_the_grace_time(case: Case) -> None:
    """Of the original: an expiry is an event like any other, and it was never asked for."""
    case.server.lease_of("10.244.1.0/24", "10.0.0.1", seconds=10)
    case.server.lease_of("10.244.2.0/24", "10.0.0.2")
    ear = case.leases()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2")
    await reached(lambda: len(ear.texts()) == 2, "a word on it", 12)
    assert 10 <= case.loop.time() < 10.5
    assert "lease 10.244.1.0/24 (10.0.0.1) ran out" in ear.texts()[1]
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1", "10.244.2.0/24": "10.0.0.2"}
    await ear.has(_2="10.0.0.2", within=GRACE + 1)
    assert 70 <= case.loop.time() < 70.5
    assert len(ear.texts()) == 1


@in_a_world
async def test_a_lease_that_is_taken_again_was_never_away(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1", seconds=10)
    ear = case.leases()
    await case.pass_by(30)
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    await case.pass_by(100)
    assert all(len(one.known.items) == 1 for one in ear.seen)
    assert len(ear.texts()) == 1


@in_a_world
async def test_another_host_takes_an_expired_subnet(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1", seconds=10)
    ear = case.leases()
    await case.pass_by(30)
    case.server.lease_of("10.244.0.0/16", "10.0.0.7")
    await reached(lambda: ear.routes() == {"10.244.0.0/16": "10.0.0.7"}, "the new one alone", 1)


@in_a_world
async def test_a_host_that_moves_gives_its_subnet_up_at_once(case: Case) -> None:
    """weft deletes the key in the transaction that creates the new one; its etcd lease lives on."""
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")
    lease = Lease(IPv4Network("10.244.2.0/24"), None, IPv4Address("10.0.0.1"))
    case.server.change(
        Delete(f"{FLANNEL}/subnets/10.244.1.0-24"),
        Put(f"{FLANNEL}/subnets/{lease_key(lease)}", lease_value(lease), case.server.grant(86400)),
    )
    assert await ear.has(_2="10.0.0.1") < 0.2


@in_a_world
async def test_a_thousand_leases_that_run_out_together_are_asked_about_side_by_side(case: Case) -> None:
    for number in range(1000):
        case.server.lease_of(f"10.{number // 250}.{number % 250}.0/24", "10.0.0.1", seconds=10)
    ear = case.leases(grace=5.0)
    asked: list[int] = []
    at_once: list[int] = []
    remaining = case.store.remaining

    async def counted(lease: int) -> int:
        asked.append(lease)
        at_once.append(lease)
        await asyncio.sleep(0.01)
        at_once.remove(lease)
        assert len(at_once) < AT_ONCE
        return await remaining(lease)

    case.store.remaining = counted  # type: ignore[method-assign]
    await reached(lambda: len(ear.texts()) == 1001, "all to be kept", 20)
    await reached(lambda: not ear.routes(), "the end of all", 20)
    assert len(asked) == 1000


@in_a_world
async def test_new_leases_are_told_while_the_store_thinks_about_old_ones(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")

    async def slow(lease: int) -> int:
        await asyncio.sleep(5)
        return 100

    case.store.remaining = slow  # type: ignore[method-assign]
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-24")
    case.server.lease_of("10.244.2.0/24", "10.0.0.2")
    assert await ear.has(_1="10.0.0.1", _2="10.0.0.2") < 0.2
    assert 4 < await ear.has(_2="10.0.0.2", within=6) < 6


@in_a_world
async def test_a_watch_error_ends_no_source_and_all_stays_as_it_was(case: Case) -> None:
    """Of the original: the first error of a watch ended the watcher for good."""
    case.server.lease_of("10.244.1.0/24", "10.0.0.1", seconds=86400)
    expiring = case.server.lease_of("10.244.2.0/24", "10.0.0.2", seconds=100)
    ear = case.leases()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2")
    count = len(ear.seen)
    case.server.fail(GONE)
    await case.pass_by(300)
    assert expiring not in case.server.leases
    assert len(ear.seen) == count
    assert "nobody answers" in case.world.broken["flannel"]
    case.server.lease_of("10.244.3.0/24", "10.0.0.3")
    case.server.fail(None)
    await ear.has(_1="10.0.0.1", _2="10.0.0.2", _3="10.0.0.3", within=LAST_RESTART + 1)
    assert case.world.broken["flannel"] == ""
    assert 58 < await ear.has(_1="10.0.0.1", _3="10.0.0.3", within=GRACE + 1) < 61


@in_a_world
async def test_etcd_goes_between_the_event_and_the_question(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")
    case.server.fail_next(GONE)
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-24")
    await case.pass_by(0.1)
    assert not case.server.outstanding
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    assert await ear.has(within=1) < 1
    assert len(case.world.told) == 1


@in_a_world
async def test_a_store_that_refuses_to_tell_gives_the_grace_time(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")

    async def refused(lease: int) -> int:
        raise StoreForbidden("memory: permission denied")

    case.store.remaining = refused  # type: ignore[method-assign]
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-24")
    assert 59 < await ear.has(within=GRACE + 1) < 61
    assert not case.world.told


@in_a_world
async def test_compaction_is_nothing(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")
    case.server.compact()
    await case.pass_by(1)
    assert len(ear.seen) == 1


@in_a_world
async def test_an_etcd_that_was_restored_is_told_and_forgets_nobody(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    old = dict(case.server.entries), dict(case.server.leases), case.server.revision
    case.server.lease_of("10.244.2.0/24", "10.0.0.2")
    case.server.lease_of("10.244.3.0/24", "10.0.0.3", seconds=0)
    ear = case.leases()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2", _3="10.0.0.3")
    case.server.fail(GONE)
    await case.pass_by(5)
    case.server.entries, case.server.leases, case.server.revision = old
    case.server.fail(None)
    await reached(lambda: any("history is shorter" in text for text in ear.texts()), "a word on it")
    assert len(ear.routes()) == 3
    await case.pass_by(3600)
    case.server.lease_of("10.244.2.0/24", "10.0.0.2")
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-24")  # from now on, who deletes means it
    await ear.has(_2="10.0.0.2", _3="10.0.0.3")
    await ear.has(_2="10.0.0.2", within=DAY)
    assert DAY < case.loop.time() < DAY + 60


@in_a_world
async def test_a_config_that_is_missing_or_broken_stops_nothing(case: Case) -> None:
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.1")
    assert not ear.seen[-1].spans
    assert "there is no network config" in ear.texts()[0]
    assert not ear.known().problems[0].wrong
    case.server.put(f"{FLANNEL}/config", "{")
    await reached(lambda: "can't be read" in ear.texts()[0], "a word on it")
    assert ear.known().problems[0].wrong
    case.server.put(f"{FLANNEL}/config", CONFIG)
    await reached(lambda: not ear.texts(), "nothing to say")
    assert [str(span) for span in ear.seen[-1].spans] == ["10.244.0.0/16"]
    case.server.delete(f"{FLANNEL}/config")
    await reached(lambda: ear.seen[-1].spans == (), "no config")
    assert all(len(one.known.items) == 1 for one in ear.seen)


@in_a_world
async def test_one_subnet_in_two_spellings_is_one_lease(case: Case) -> None:
    case.server.put(f"{FLANNEL}/subnets/old/10.244.1.0-24", '{"PublicIP": "10.0.0.8"}')
    case.server.put(f"{FLANNEL}/subnets/10.244.1.0-024", '{"PublicIP": "10.0.0.9"}')
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    ear = case.leases()
    await ear.has(_1="10.0.0.9")
    assert sum("is there twice" in text for text in ear.texts()) == 2
    case.server.delete(f"{FLANNEL}/subnets/10.244.1.0-024")
    await ear.has(_1="10.0.0.1")
    case.server.delete(f"{FLANNEL}/subnets/old/10.244.1.0-24")
    await reached(lambda: len(ear.texts()) == 1, "nothing more to say")


@in_a_world
async def test_only_what_changed_is_read(case: Case) -> None:
    for number in range(1000):
        case.server.lease_of(f"10.{number // 250}.{number % 250}.0/24", "10.0.0.1")
    ear = case.leases()
    await reached(lambda: ear.seen, "leases")
    read: list[str] = []

    def counted(key: str, value: bytes, created: int = 0) -> Lease:
        read.append(key)
        return parse_lease(key, value, created)

    before = ear.known().items
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weft.agent.lease_book.parse_lease", counted)
        case.server.lease_of("10.1.7.0/24", "10.0.0.2")
        await reached(lambda: len(ear.seen) == 2, "the change")
    assert read == [f"{FLANNEL}/subnets/10.1.7.0-24"]
    assert sum(new is not old for new, old in zip(ear.known().items, before, strict=True)) == 1
    case.server.put(f"{FLANNEL}/weft/daemons/10.0.0.1", "{}")
    await case.pass_by(1)
    assert len(ear.seen) == 2
