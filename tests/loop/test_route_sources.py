"""What routes are made of, over the memory store in virtual time: leases run out, people delete keys, etcd goes, comes
back, is restored. Followed by the loop's own `follow`, as the daemon does it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, TypeVar

import pytest

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.loop import LAST_RESTART, Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.agent.route_feed import AT_ONCE
from weft.agent.route_sources import EtcdNodes, FlannelLeases, Leases, RegistrarNetworks
from weft.core.lapsing import DAY
from weft.core.registry import Prefixes
from weft.errors import StoreError, StoreForbidden, StoreUnreachable
from weft.model import Known, Mac, Network, Node, Problem
from weft.stores import Delete, Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.wire.discovery_keys import values
from weft.wire.flannel import Lease, lease_key, lease_value, parse_lease
from weft.wire.hello import Stamp
from weft.wire.registrar import Note, Status, entry_value, note_value, status_value

FLANNEL = "/coreos.com/network"
REGISTRAR = "/flannel/network/subnets"
AGENTS = "/docker-router/discovery"
CONFIG = '{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}'
GRACE = 60.0
WALL = 1.8e9
GONE = StoreUnreachable("memory: nobody answers")
T = TypeVar("T")


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)

    def put(self, key: str, value: bytes | str, lease: int = 0) -> None:
        """As if by etcdctl, or another program."""
        self.change(Put(key, value if isinstance(value, bytes) else value.encode(), lease))

    def lease_of(self, subnet: str, ip: str, seconds: int = 86400) -> int:
        """As flannel with backend udp or alloc writes it; `seconds` 0: a reservation."""
        lease = Lease(IPv4Network(subnet), None, IPv4Address(ip))
        hangs_on = self.grant(seconds) if seconds else 0
        self.put(f"{FLANNEL}/subnets/{lease_key(lease)}", lease_value(lease), hangs_on)
        return hangs_on

    def delete(self, key: str) -> None:
        self.change(Delete(key))


class World:
    """What a loop needs of one to follow sources."""

    name = device = ""
    engine = peers = None

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.told: list[str] = []

    def view(self) -> None:
        return None

    def report(self, source: str, message: str) -> None:
        self.told.extend([message] if message else [])
        self.broken[source] = message

    def problems(self) -> AsyncIterator[Problem]:
        raise AssertionError

    def waiting(self) -> list[str]:
        return []


@dataclass
class Ear(Generic[T]):
    """What a source told."""

    seen: list[T] = field(default_factory=list)

    def known(self) -> Known[Node]:
        last: Any = self.seen[-1] if self.seen else Known()
        return last.known if isinstance(last, Leases) else last

    def routes(self) -> dict[str, str]:
        return {str(s): str(o.endpoints[0]) for o in self.known().items for n in o.networks for s in n.subnets}

    def texts(self) -> list[str]:
        return [problem.message for problem in self.known().problems]

    async def has(self, within: float = 5.0, **routes: str) -> float:
        """Returns when these are the routes, named as their third octets ("_1"); the seconds that took."""
        wanted = {f"10.244.{key[1:]}.0/24": ip for key, ip in routes.items()}
        began = asyncio.get_running_loop().time()
        await reached(lambda: self.seen and self.routes() == wanted, f"{wanted}, not {self.routes()}", within)
        return asyncio.get_running_loop().time() - began


class Case:
    def __init__(self) -> None:
        self.server = Server()
        self.loop = asyncio.get_running_loop()
        assert isinstance(self.loop, VirtualLoop)
        self.loop.clocks.append(self.server)
        self.store = MemoryStore(self.server)
        self.world = World()
        self.clocks = Clock(self.loop.time, lambda: WALL + self.loop.time())
        self.following: Loop[Any] = Loop(self.world, Reconciler(()), 30.0)

    def leases(self, grace: float = GRACE) -> Ear[Leases]:
        ear = Ear[Leases]()
        source = FlannelLeases(self.store, FLANNEL, grace, self.clocks)
        self.following.follow("flannel", source.sets, ear.seen.append)
        return ear

    def registrars(self) -> Ear[Known[Node]]:
        ear = Ear[Known[Node]]()
        source = RegistrarNetworks(self.store, Prefixes(REGISTRAR, FLANNEL), GRACE, self.clocks)
        self.following.follow("registrar", source.sets, ear.seen.append)
        return ear

    def nodes(self) -> Ear[Known[Node]]:
        ear = Ear[Known[Node]]()
        source = EtcdNodes(self.store, AGENTS, GRACE, self.clocks)
        self.following.follow("etcd", source.sets, ear.seen.append)
        return ear

    async def pass_by(self, seconds: float) -> None:
        """So much virtual time."""
        await asyncio.sleep(seconds)


def in_a_world(scenario: Callable[[Case], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def test() -> None:
        async def whole() -> None:
            case = Case()
            try:
                await scenario(case)
            finally:
                case.following.stop()

        virtually(whole())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


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


# ---- the registrar's networks ----


def register(server: Server, host: str, ip: str, networks: dict[str, str], seconds: int = 180) -> int:
    """As weft's registrar does; `seconds` 0: as flannel-registrar, on no lease."""
    lease = server.grant(seconds) if seconds else 0
    status = Status(host, None, IPv4Address(ip), IPv4Address(ip), 1_800_000_000)
    server.put(f"{REGISTRAR}/_host_status/{host}", status_value(status), lease)
    for called, subnet in networks.items():
        server.put(f"{REGISTRAR}/{host}/{called}", subnet, lease)
    return lease


@in_a_world
async def test_a_registered_host_is_a_node_with_all_its_networks(case: Case) -> None:
    lease = register(
        case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24", "web~2": "fc00:5::/64", "db": "10.244.2.0/24"}
    )
    case.server.put(f"{REGISTRAR}/_weft/babka", note_value(Note(machine="m", since=(("web", 5.0),))), lease)
    register(case.server, "older", "10.0.0.2", {"web": "10.244.3.0/24"}, seconds=0)
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    babka, older = ear.known().items
    assert ear.known().complete
    assert (babka.id, babka.endpoints, babka.source, babka.backend) == (
        "babka",
        (IPv4Address("10.0.0.1"),),
        "registrar",
        "cloud",
    )
    assert [(n.name, [str(s) for s in n.subnets], n.since) for n in babka.networks] == [
        ("db", ["10.244.2.0/24"], float("inf")),
        ("web", ["10.244.1.0/24", "fc00:5::/64"], 5.0),
    ]
    assert older.endpoints == (IPv4Address("10.0.0.2"),)
    case.server.delete(f"{REGISTRAR}/babka/db")
    await reached(lambda: len(ear.known().items[0].networks) == 1, "one network less", 1)


@in_a_world
async def test_a_heartbeat_is_no_news(case: Case) -> None:
    lease = register(case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24"})
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    status = Status("babka", None, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.1"), 1_800_000_060)
    case.server.put(f"{REGISTRAR}/_host_status/babka", status_value(status), lease)
    case.server.lease_of("10.244.9.0/24", "10.0.0.9")
    await case.pass_by(1)
    assert len(ear.seen) == 1


@in_a_world
async def test_a_registered_host_that_dies_is_kept_for_the_grace_time_and_one_that_leaves_is_not(case: Case) -> None:
    register(case.server, "babka", "10.0.0.1", {"web": "10.244.1.0/24"}, seconds=60)
    register(case.server, "strudel", "10.0.0.2", {"web": "10.244.2.0/24"})
    register(case.server, "older", "10.0.0.3", {"web": "10.244.3.0/24"}, seconds=0)
    ear = case.registrars()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2", _3="10.0.0.3")
    for key in [key for key in case.server.entries if "strudel" in key or "older" in key]:
        case.server.delete(key)
    await ear.has(_1="10.0.0.1")
    assert await ear.has(within=130) > 115
    assert not ear.texts()


@in_a_world
async def test_hosts_without_a_place_are_told(case: Case) -> None:
    register(case.server, "lost", "127.0.0.1", {"web": "10.244.1.0/24"})
    case.server.put(f"{REGISTRAR}/nobody/web", "10.244.2.0/24")
    case.server.put(f"{REGISTRAR}/bad/web", "no subnet")
    register(case.server, "idle", "10.0.0.4", {})
    case.server.put(f"{FLANNEL}/subnets/10.244.7.0-24", "{")
    ear = case.registrars()
    await reached(lambda: ear.seen, "hosts")
    assert [node.id for node in ear.known().items] == ["idle"]
    texts = "\n".join(ear.texts())
    assert "host nobody registered networks and no address" in texts
    assert "10.244.7.0" not in texts


@in_a_world
async def test_a_registrar_of_old_is_where_its_lease_says(case: Case) -> None:
    value = (
        '{"PublicIP": "10.0.0.5", "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "82:00:0a:00:00:05"}}'
    )
    case.server.put(f"{FLANNEL}/subnets/10.244.5.0-24", value, case.server.grant(86400))
    old = '{"last_seen": 1800000000, "boot_time": 1, "vtep_mac": "82:00:0a:00:00:05"}'
    case.server.put(f"{REGISTRAR}/_host_status/old", old)
    case.server.put(f"{REGISTRAR}/old/web", "10.244.1.0/24")
    ear = case.registrars()
    await ear.has(_1="10.0.0.5")


@in_a_world
async def test_what_a_heartbeat_hangs_on_is_what_counts(case: Case) -> None:
    """Networks that hang on nothing stay behind, and nobody knows any more where they are."""
    lease = register(case.server, "babka", "10.0.0.1", {}, seconds=60)
    case.server.put(f"{REGISTRAR}/babka/web", "10.244.1.0/24")
    ear = case.registrars()
    await ear.has(_1="10.0.0.1")
    await case.pass_by(70)
    assert lease not in case.server.leases
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    assert "host babka registered networks and no address" in ear.texts()[0]
    await ear.has(within=60)


# ---- agents and docker-routers ----


def router(server: Server, called: str, ip: str, subnet: str, seconds: int = 30) -> int:
    """As another program registers itself: plain keys, no MAC."""
    lease = server.grant(seconds) if seconds else 0
    values = {"host_ip": ip, "vni": "1000", "networks": f'["{subnet}"]'}
    for key, value in values.items():
        server.put(f"{AGENTS}/{called}/{key}", value, lease)
    return lease


@in_a_world
async def test_a_docker_router_is_a_node_and_nothing_is_announced(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=86400)
    case.server.commits.clear()
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    (node,) = ear.known().items
    assert (node.id, node.source, node.backend, node.mac) == ("stack-a", "etcd", "cloud", bytes(6))
    assert ear.known().complete
    assert not ear.texts()
    assert not case.server.commits
    await case.pass_by(600)
    assert len(ear.seen) == 1


@in_a_world
async def test_a_node_whose_lease_ran_out_is_kept_and_one_that_was_deleted_is_not(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    router(case.server, "stack-b", "10.0.0.2", "10.244.2.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1", _2="10.0.0.2")
    lease = router(case.server, "stack-b", "10.0.0.2", "10.244.2.0/24", seconds=86400)  # it was restarted
    await case.pass_by(60)
    assert lease in case.server.leases
    case.server.change(*(Delete(f"{AGENTS}/stack-b/{key}") for key in ("host_ip", "vni", "networks")))
    await ear.has(_1="10.0.0.1")
    assert 89 < (await ear.has(within=60), case.loop.time())[1] < 91


@in_a_world
async def test_a_node_that_was_restarted_and_is_deleted_goes_at_once(case: Case) -> None:
    """Nothing but the etcd lease of its keys has changed since it was first seen."""
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=86400)
    await case.pass_by(60)
    assert len(ear.seen) == 1
    case.server.change(*(Delete(f"{AGENTS}/stack-a/{key}") for key in ("host_ip", "vni", "networks")))
    assert await ear.has() < 0.2


@in_a_world
async def test_a_node_that_said_goodbye_goes_with_its_keys(case: Case) -> None:
    network = Network("n", (IPv4Network("10.244.1.0/24"),), since=1.0)
    me = Node("stack-a", (IPv4Address("10.0.0.1"),), 4789, 1000, Mac(b"\x82\x00\x00\x00\x00\x01"), 1500, (network,))
    for departed, seconds in ((False, 86400), (True, 10)):
        lease = case.server.grant(seconds)
        told = values(me, Stamp("run", 1, 1 + departed), WALL, departed)
        case.server.change(*(Put(f"{AGENTS}/stack-a/{key}", value, lease) for key, value in told.items()))
        if not departed:
            ear = case.nodes()
            await ear.has(_1="10.0.0.1")
    assert 9 < await ear.has(within=12) < 11
    assert not ear.texts()


@in_a_world
async def test_a_node_without_a_lease_is_given_time_after_an_outage(case: Case) -> None:
    """Its last_seen could not be written either."""
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=0)
    case.server.put(f"{AGENTS}/stack-a/last_seen", "2026-01-15T10:30:00Z")
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    case.server.fail(GONE)
    await case.pass_by(600)
    case.server.fail(None)
    await case.pass_by(60)
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    await ear.has(within=60)


@in_a_world
async def test_nodes_that_can_not_be_read_or_reached_are_told(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=0)
    router(case.server, "stack-b", "127.0.0.1", "10.244.2.0/24", seconds=0)
    case.server.put(f"{AGENTS}/stack-c/host_ip", "nonsense")
    case.server.put(f"{AGENTS}/stack-c/vni", "many")
    case.server.put(f"{AGENTS}/stack-d/host_ip", "10.0.0.4")
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    texts = "\n".join(ear.texts())
    assert "stack-c" in texts
    await reached(lambda: "some of its keys are missing" in "\n".join(ear.texts()), "a word on stack-d", 10)
    case.server.put(f"{AGENTS}/stack-d/vni", "1000")
    await reached(lambda: len(ear.known().items) == 2, "stack-d")


@in_a_world
async def test_nodes_stay_while_etcd_is_away(case: Case) -> None:
    router(case.server, "stack-a", "10.0.0.1", "10.244.1.0/24", seconds=30)
    ear = case.nodes()
    await ear.has(_1="10.0.0.1")
    case.server.fail(GONE)
    await case.pass_by(600)
    case.server.fail(None)
    await case.pass_by(35)
    assert ear.routes() == {"10.244.1.0/24": "10.0.0.1"}
    await ear.has(within=70)


@in_a_world
async def test_a_watch_that_ends_by_itself_is_begun_anew(case: Case) -> None:
    class Ending(MemoryStore):
        async def watch(self, prefix: str) -> Any:
            async with contextlib.aclosing(MemoryStore.watch(self, prefix)) as sets:
                async for one in sets:
                    yield one
                    return

    case.store = Ending(case.server)
    ear = case.leases()
    await case.pass_by(1)
    case.server.lease_of("10.244.1.0/24", "10.0.0.1")
    await ear.has(_1="10.0.0.1", within=30)


@in_a_world
async def test_an_error_of_another_kind_is_told_and_tried_again(case: Case) -> None:
    case.server.fail_next(StoreError("memory: database space exceeded"))
    ear = case.leases()
    await ear.has()
    assert "database space exceeded" in case.world.told[0]
