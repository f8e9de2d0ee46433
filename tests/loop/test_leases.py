"""The lease keeper over the memory store in virtual time: days pass in milliseconds, and every question fails once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.leases import GRACE, Keeper, KeeperOptions
from weft.agent.loop import FIRST_RESTART, LAST_RESTART
from weft.agent.marker import TTL as MARK_TTL
from weft.agent.marker import Owner
from weft.core.tenancy import Candidate, Tenancy
from weft.errors import StoreError, StoreForbidden, StoreUnreachable
from weft.model import Mac
from weft.stores import Delete, Guard, Put, Snapshot
from weft.stores.memory import MemoryServer, MemoryStore
from weft.wire.flannel import Lease, Vtep, lease_key, lease_value, parse_lease
from weft.wire.flannel_config import parse_config

PREFIX = "/coreos.com/network"
CONFIG = b'{"Network": "10.5.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}'
SMALL = CONFIG.replace(b"/16", b"/22")
DUAL = (
    b'{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fc00:5::/48",'
    b' "SubnetMax": "10.5.40.0", "IPv6SubnetMax": "fc00:5:0:28::", "Backend": {"Type": "vxlan"}}'
)
DAY = 86400.0
WALL = 1.8e9
GONE = StoreUnreachable("memory: nobody answers")


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)

    def put(self, key: str, value: bytes, lease: int = 0) -> None:
        """As if by etcdctl."""
        self.change(Put(f"{PREFIX}/{key}", value, lease))

    def lease_of(self, subnet: str, ip: str, hangs: bool = True) -> None:
        """Another host's lease, as flannel writes it."""
        lease = Lease(IPv4Network(subnet), None, IPv4Address(ip), None, "vxlan", Vtep(1, mac(ip)))
        self.put(f"subnets/{lease_key(lease)}", lease_value(lease), self.grant(86400) if hangs else 0)

    def subnets(self) -> dict[str, str]:
        """Subnet → public address."""
        read = [parse_lease(e.key, e.value) for e in self.entries.values() if e.key.startswith(f"{PREFIX}/subnets/")]
        return {str(lease.subnet): str(lease.public_ip) for lease in read}

    def key(self, subnet: str) -> str:
        return f"{PREFIX}/subnets/{subnet.replace('/', '-')}"


def mac(ip: str) -> Mac:
    return Mac(b"\x82\x00" + IPv4Address(ip).packed)


@dataclass
class Host:
    """One daemon: its keeper, followed as `agent/loop.py` follows a source."""

    server: Server
    store: MemoryStore
    keeper: Keeper
    seen: list[Tenancy]
    errors: list[str]
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        delay = FIRST_RESTART
        while True:
            try:
                async for tenancy in self.keeper.tenancies():
                    delay = FIRST_RESTART
                    self.seen.append(tenancy)
            except StoreError as error:
                self.errors.append(str(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RESTART)

    @property
    def now(self) -> Tenancy:
        return self.seen[-1] if self.seen else Tenancy()

    @property
    def subnet(self) -> str:
        return str(self.now.mine.subnet) if self.now.mine is not None else ""

    def says(self, what: str) -> bool:
        return any(what in problem.message for problem in self.now.problems)

    def kill(self) -> None:
        """kill -9."""
        assert self.task is not None
        self.task.cancel()
        self.store.fail(GONE)


class World:
    """Hosts over one server, in the loop's time."""

    def __init__(self, config: bytes | None = CONFIG) -> None:
        self.server = Server()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.clocks.append(self.server)
        self.hosts: list[Host] = []
        self.dice = random.Random(7)
        if config is not None:
            self.server.put("config", config)

    def join(self, store: MemoryStore, ip: str = "192.0.2.1", previous: str = "", **clocks: Any) -> Host:
        """A daemon on a store, or with a clock, of the test's own."""
        me = Owner(f"machine-{ip}", "", f"run-{len(self.hosts)}")
        options = KeeperOptions(PREFIX, me=me)
        keeper = Keeper(store, options, **{"wall": self.wall, "dice": self.dice.random, **clocks})
        host = Host(self.server, store, keeper, [], [])
        keeper.tell(candidate(ip, previous))
        host.task = asyncio.ensure_future(host.follow())
        self.hosts.append(host)
        return host

    def host(self, ip: str = "192.0.2.1", previous: str = "", machine: str = "", **options: object) -> Host:
        """A daemon starts, and is told what it is."""
        machine = machine or f"machine-{ip}"
        store = MemoryStore(self.server)
        me = Owner(machine, f"name-of-{machine}", f"run-{len(self.hosts)}")
        settings = replace(KeeperOptions(PREFIX, me=me), **options)  # type: ignore[arg-type]
        keeper = Keeper(store, settings, wall=self.wall, dice=self.dice.random)
        host = Host(self.server, store, keeper, [], [])
        keeper.tell(candidate(ip, previous))
        host.task = asyncio.ensure_future(host.follow())
        self.hosts.append(host)
        return host

    async def settled(self, ip: str = "192.0.2.1", previous: str = "", machine: str = "", **options: object) -> Host:
        """The same, and it has its lease."""
        host = self.host(ip, previous, machine, **options)
        await reached(lambda: host.now.complete and host.now.mine, "a lease")
        return host

    def wall(self) -> float:
        return WALL + asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def world(config: bytes | None = CONFIG) -> AsyncIterator[World]:
    made = World(config)
    try:
        yield made
    finally:
        tasks = [host.task for host in made.hosts if host.task is not None]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        faults = [r for r in results if isinstance(r, Exception)]
        assert not faults, faults


def candidate(ip: str, previous: str = "") -> Candidate:
    before = IPv4Network(previous) if previous else None
    return Candidate(IPv4Address(ip), None, "vxlan", Vtep(1, mac(ip)), previous=before)


def test_a_host_takes_a_lease_and_tells_it_and_everybody_elses() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.server.lease_of("10.5.1.0/24", "192.0.2.9")
            host = await w.settled()
            assert w.server.subnets() == {"10.5.1.0/24": "192.0.2.9", host.subnet: "192.0.2.1"}
            assert [str(lease.public_ip) for lease in host.now.others] == ["192.0.2.9"]
            assert host.now.config == parse_config(CONFIG)
            assert host.now.expiry == pytest.approx(WALL + DAY, abs=5)
            assert host.now.problems == ()
            entry = w.server.entries[w.server.key(host.subnet)]
            assert entry.value == (
                b'{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",'
                b'"BackendData":{"VNI":1,"VtepMAC":"82:00:c0:00:02:01"}}'
            )
            assert w.server.remaining(entry.lease) >= DAY - 5
            w.server.lease_of("10.5.250.0/24", "192.0.2.10")
            await reached(lambda: len(host.now.others) == 2, "the new lease")
            w.server.change(Delete(w.server.key("10.5.1.0/24")))
            await reached(lambda: len(host.now.others) == 1, "the other to go")

    virtually(scenario())


def test_hundreds_of_hosts_starting_at_once_all_get_distinct_subnets() -> None:
    async def scenario() -> None:
        async with world() as w:
            hosts = [w.host(f"192.0.{n // 100 + 2}.{n % 100 + 1}") for n in range(200)]
            await reached(lambda: all(host.now.mine for host in hosts), "200 leases", within=30)
            assert len({host.subnet for host in hosts}) == 200
            assert len(w.server.subnets()) == 200
            assert not any(host.errors or host.now.problems for host in hosts)

    virtually(scenario())


def test_with_two_families_nobody_shares_either() -> None:
    """Two keys may share one family's subnet without being one key: the younger gives way before it was published."""

    async def scenario() -> None:
        async with world(DUAL) as w:
            hosts = [w.host(f"192.0.2.{n + 1}") for n in range(38)]
            await reached(lambda: all(host.now.mine for host in hosts), "38 leases", within=120)
            for host in hosts:
                assert len({t.mine for t in host.seen if t.mine is not None}) == 1, "it moved after it was published"
            assert len({host.now.mine.subnet for host in hosts if host.now.mine}) == 38
            assert len({host.now.mine.subnet6 for host in hosts if host.now.mine}) == 38

    virtually(scenario())


def test_it_renews_the_same_lease_an_hour_before_it_ends() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            entry = w.server.entries[w.server.key(host.subnet)]
            await asyncio.sleep(DAY - 3700)
            assert w.server.remaining(entry.lease) < 3710
            await asyncio.sleep(200)
            assert w.server.remaining(entry.lease) > DAY - 300
            assert host.now.expiry == pytest.approx(w.wall() + DAY, abs=300)
            await asyncio.sleep(5 * DAY)
            assert w.server.entries[entry.key] == entry, "it was written again"
            assert host.now.problems == ()

    virtually(scenario())


def test_it_renews_in_time_after_the_clock_of_the_wall_jumped() -> None:
    """A machine that was suspended: its own clock stood still, etcd's did not."""

    async def scenario() -> None:
        async with world() as w:
            skip = 0.0
            store = MemoryStore(w.server)
            keeper = Keeper(store, KeeperOptions(PREFIX), wall=lambda: w.wall() + skip, dice=w.dice.random)
            host = Host(w.server, store, keeper, [], [])
            keeper.tell(candidate("192.0.2.1"))
            host.task = asyncio.ensure_future(host.follow())
            w.hosts.append(host)
            await reached(lambda: host.now.mine, "a lease")
            lease = w.server.entries[w.server.key(host.subnet)].lease
            skip = DAY - 3000
            w.server.leases[lease].ends -= skip
            await reached(lambda: w.server.remaining(lease) > DAY - 60, "the renewal")

    virtually(scenario())


def test_a_restart_finds_its_lease_again_and_renews_it() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            before = dict(w.server.entries)
            host.kill()
            await asyncio.sleep(DAY / 2)
            again = await w.settled()
            assert again.subnet == host.subnet
            key = w.server.key(host.subnet)
            assert w.server.entries[key] == before[key]
            assert w.server.remaining(before[key].lease) > DAY - 60

    virtually(scenario())


def test_a_key_that_was_deleted_is_taken_again() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            for _ in range(3):
                w.server.change(Delete(w.server.key(host.subnet)))
                await reached(lambda: w.server.key(host.subnet) in w.server.entries, "the key to be back")
                await asyncio.sleep(1)
            assert w.server.subnets() == {host.subnet: "192.0.2.1"}
            assert {t.mine for t in host.seen if t.mine} == {host.now.mine}
            lease = w.server.entries[w.server.key(host.subnet)].lease
            assert host.now.problems == ()
            await asyncio.sleep(2 * DAY)
            assert w.server.remaining(lease) > 3000, "the new lease is not renewed"

    virtually(scenario())


def test_a_lease_that_ended_in_a_long_outage_is_taken_again() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            subnet = host.subnet
            host.store.fail(GONE)
            await asyncio.sleep(2 * DAY)
            assert w.server.subnets() == {}
            assert host.subnet == subnet, "it was given up"
            assert host.errors
            host.store.fail(None)
            await reached(lambda: w.server.subnets() == {subnet: "192.0.2.1"}, "the lease to be back")

    virtually(scenario())


def test_an_outage_takes_nothing_away() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.server.lease_of("10.5.200.0/24", "192.0.2.9")
            host = await w.settled()
            before = host.now
            w.server.fail(GONE)
            await asyncio.sleep(3600)
            assert host.now == before
            assert len(host.errors) > 300
            w.server.fail(None)
            await asyncio.sleep(60)
            assert [(t.mine, t.others, t.complete) for t in host.seen[-2:]] == [(before.mine, before.others, True)] * 2

    virtually(scenario())


def test_nothing_is_told_while_a_watch_has_not_answered() -> None:
    class Slow(MemoryStore):
        async def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
            with contextlib.suppress(StoreError):
                async with contextlib.aclosing(super().watch(prefix)) as sets:
                    async for one in sets:
                        yield one
            await asyncio.sleep(5)
            raise GONE

    async def scenario() -> None:
        async with world() as w:
            host = w.join(Slow(w.server))
            await reached(lambda: host.now.mine, "a lease")
            host.store.fail(GONE)
            await reached(lambda: host.errors, "the outage to be known")
            told = len(host.seen)
            await asyncio.sleep(600)
            assert len(host.errors) > 30
            assert len(host.seen) == told, "what it failed to renew meanwhile would be taken for a word of the store's"
            host.store.fail(None)
            await reached(lambda: len(host.seen) > told, "the store's word")

    virtually(scenario())


def test_a_subnet_taken_by_force_is_a_conflict_and_nothing_is_overwritten() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            subnet, key = host.subnet, w.server.key(host.subnet)
            w.server.lease_of(subnet, "192.0.2.66")
            await reached(lambda: host.says("is held by 192.0.2.66"), "a loud word")
            assert host.says(f"the subnet {subnet} of this host (192.0.2.1)")
            assert host.now.complete
            await asyncio.sleep(3 * DAY / 4)
            assert w.server.subnets() == {subnet: "192.0.2.66"}
            assert host.subnet == subnet
            assert host.now.others == (), "it would route its own subnet to the other"
            assert host.now.expiry is None
            w.server.change(Delete(key))
            await reached(lambda: w.server.subnets() == {subnet: "192.0.2.1"}, "the subnet to be taken back")
            await reached(lambda: not host.now.problems, "the problem to be over")

    virtually(scenario())


def test_after_a_restart_in_a_conflict_another_subnet_is_taken() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            w.server.lease_of(host.subnet, "192.0.2.66")
            await reached(lambda: host.says("is held by"), "the conflict")
            host.kill()
            again = await w.settled(previous=host.subnet)
            assert w.server.subnets() == {host.subnet: "192.0.2.66", again.subnet: "192.0.2.1"}
            assert again.says(f"subnet.env named {host.subnet}")

    virtually(scenario())


def test_a_reservation_is_kept_for_ever_and_no_lease_is_attached() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.server.put("subnets/10.5.77.0-24", b'{"PublicIP":"192.0.2.1"}')
            host = await w.settled()
            assert host.subnet == "10.5.77.0/24"
            assert host.now.expiry is None
            await asyncio.sleep(3 * DAY)
            entry = w.server.entries[w.server.key("10.5.77.0/24")]
            assert entry.lease == 0
            assert parse_lease(entry.key, entry.value).data == Vtep(1, mac("192.0.2.1"))

    virtually(scenario())


def test_a_lease_becomes_a_reservation_and_a_lease_again_while_it_runs() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            entry = w.server.entries[w.server.key(host.subnet)]
            w.server.change(Put(entry.key, entry.value))
            await reached(lambda: host.now.expiry is None, "to be a reservation")
            lease = w.server.grant(100)
            w.server.change(Put(entry.key, entry.value, lease))
            await reached(lambda: host.now.expiry is not None, "to be a lease again")
            await asyncio.sleep(1000)
            assert w.server.entries[entry.key].lease == lease, "a short lease is renewed, too"

    virtually(scenario())


def test_the_public_address_changes_and_the_subnet_stays() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            lease = w.server.entries[w.server.key(host.subnet)].lease
            subnet = host.subnet
            host.keeper.tell(candidate("192.0.2.200"))
            await reached(lambda: host.now.mine and str(host.now.mine.public_ip) == "192.0.2.200", "the new address")
            assert w.server.subnets() == {subnet: "192.0.2.200"}
            assert w.server.entries[w.server.key(subnet)].lease == lease
            marks = [key for key in w.server.entries if "/weft/" in key]
            assert marks == [f"{PREFIX}/weft/daemons/192.0.2.200"]

    virtually(scenario())


def test_a_value_that_somebody_spoils_is_mended_but_not_in_a_race() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            key = w.server.key(host.subnet)
            entry = w.server.entries[key]
            loop = asyncio.get_running_loop()
            started, rounds = loop.time(), 20
            for _ in range(rounds):
                w.server.change(Put(key, entry.value.replace(b"82:00", b"82:11"), entry.lease))
                await reached(lambda: w.server.entries[key].value == entry.value, "the value to be mended")
            assert rounds - 2 < loop.time() - started < rounds * 2

    virtually(scenario())


def test_a_running_flannels_lease_is_taken_over_with_its_mac() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.server.lease_of("10.5.33.0/24", "192.0.2.1")
            store = MemoryStore(w.server)
            keeper = Keeper(store, KeeperOptions(PREFIX), wall=w.wall)
            host = Host(w.server, store, keeper, [], [])
            assert keeper.existing(Candidate(IPv4Address("192.0.2.1"))) is None
            host.task = asyncio.ensure_future(host.follow())
            w.hosts.append(host)
            await reached(lambda: host.seen, "the config")
            assert host.now == Tenancy(parse_config(CONFIG))
            found = keeper.existing(Candidate(IPv4Address("192.0.2.1")))
            assert found is not None
            assert found.data == Vtep(1, mac("192.0.2.1"))
            before = dict(w.server.entries)
            keeper.tell(candidate("192.0.2.1"))
            await reached(lambda: host.now.mine, "the lease")
            assert host.now.mine == found
            key = w.server.key("10.5.33.0/24")
            assert w.server.entries[key] == before[key]

    virtually(scenario())


def test_no_config_then_a_bad_one_then_a_good_one() -> None:
    async def scenario() -> None:
        async with world(None) as w:
            host = w.host()
            await reached(lambda: host.says(f"there is no network config in {PREFIX}/config"), "a word")
            assert host.says("weft flannel-config set")
            w.server.put("config", b'{"Backend": {"Type": "vxlan"}}')
            await reached(
                lambda: host.says("please define a correct Network parameter in the flannel config"), "a word"
            )
            assert w.server.subnets() == {}
            w.server.put("config", CONFIG)
            await reached(lambda: host.now.mine, "a lease")
            assert host.now.problems == ()

    virtually(scenario())


def test_a_config_that_changes_is_told_and_the_old_one_holds() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = await w.settled()
            subnet = host.subnet
            for value, word in (
                (CONFIG.replace(b"10.5.", b"10.6."), "changed: this daemon goes on with the old one"),
                (b"nonsense", "can't be used"),
            ):
                w.server.put("config", value)
                await reached(lambda word=word: host.says(word), "a word")
                assert host.now.config == parse_config(CONFIG)
                assert host.subnet == subnet
            w.server.change(Delete(f"{PREFIX}/config"))
            await reached(lambda: host.says("was deleted"), "a word")
            w.server.put("config", CONFIG + b"\n")
            await reached(lambda: not host.now.problems, "the old one to be there again")

    virtually(scenario())


def test_a_config_from_a_file_comes_before_the_stores() -> None:
    async def scenario() -> None:
        async with world(b"nonsense") as w:
            host = await w.settled(config=parse_config(CONFIG.replace(b"10.5.", b"10.7.")))
            assert host.subnet.startswith("10.7.")
            assert host.now.problems == ()

    virtually(scenario())


def test_a_full_pool_is_waited_for() -> None:
    async def scenario() -> None:
        async with world(SMALL) as w:
            for n in (1, 2, 3):
                w.server.lease_of(f"10.5.{n}.0/24", f"192.0.2.{n + 10}")
            host = w.host()
            await reached(lambda: host.says("out of subnets"), "a word")
            w.server.change(Delete(w.server.key("10.5.2.0/24")))
            await reached(lambda: host.subnet == "10.5.2.0/24", "the freed one")
            assert host.now.problems == ()

    virtually(scenario())


def test_an_entry_that_cannot_be_read_is_told_and_not_overwritten() -> None:
    async def scenario() -> None:
        async with world(SMALL) as w:
            w.server.put("subnets/10.5.1.0-24", b'{"PublicIP":null}')
            w.server.put("subnets/not-a-subnet", b"{}")
            w.server.put("subnets/10.5.2.0-24", b"garbage")
            host = await w.settled()
            assert host.subnet == "10.5.3.0/24"
            assert len(host.now.problems) == 3
            assert all("this entry is ignored" in problem.message for problem in host.now.problems)

    virtually(scenario())


class TestTwoDaemons:
    def test_the_second_with_the_same_public_address_stops_and_says_why(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                first = await w.settled(machine="one")
                second = w.host(machine="two")
                why = await asyncio.wait_for(second.keeper.stopped(), 60)
                assert "another daemon with the public address 192.0.2.1 on this prefix, on name-of-one" in why
                assert second.now.mine is None
                assert first.now.problems == ()
                await asyncio.sleep(600)
                assert len(w.server.subnets()) == 1
                assert not second.now.complete

        virtually(scenario())

    def test_a_dead_ones_mark_runs_out(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                first = await w.settled(machine="one")
                first.kill()
                second = w.host(machine="two")
                await reached(lambda: second.says("waiting to see whether it still is"), "the suspicion")
                await reached(lambda: second.now.mine, "the lease", within=MARK_TTL + 5)
                assert second.subnet == first.subnet, "the machine was replaced: same address, same lease"
                assert second.now.problems == ()

        virtually(scenario())

    def test_a_restart_on_the_same_host_does_not_wait(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                first = await w.settled()
                first.kill()
                before = asyncio.get_running_loop().time()
                await w.settled()
                assert asyncio.get_running_loop().time() - before < 1

        virtually(scenario())

    def test_a_goodbye_leaves_no_mark(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                host = await w.settled(machine="one")
                await host.keeper.close()
                host.kill()
                assert not [key for key in w.server.entries if "/weft/" in key]
                assert len(w.server.subnets()) == 1
                await w.settled(machine="two")

        virtually(scenario())

    def test_a_mark_lost_in_an_outage_is_left_again(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                host = await w.settled()
                host.store.fail(GONE)
                await asyncio.sleep(3 * MARK_TTL)
                mark = f"{PREFIX}/weft/daemons/192.0.2.1"
                assert mark not in w.server.entries
                host.store.fail(None)
                await reached(lambda: mark in w.server.entries, "the mark")
                await asyncio.sleep(5 * MARK_TTL)
                assert mark in w.server.entries

        virtually(scenario())

    def test_the_first_goes_on_if_the_second_came_in_its_absence(self) -> None:
        async def scenario() -> None:
            async with world() as w:
                first = await w.settled(machine="one")
                first.store.fail(GONE)
                await asyncio.sleep(2 * MARK_TTL)
                second = await w.settled(machine="two")
                first.store.fail(None)
                await reached(lambda: first.says("started while this one runs"), "a word")
                assert first.now.mine == second.now.mine
                second.kill()
                await reached(lambda: not first.now.problems, "peace", within=2 * MARK_TTL)

        virtually(scenario())

    def test_a_role_that_may_not_write_the_mark_is_no_obstacle(self) -> None:
        class Narrow(MemoryStore):
            async def commit(self, changes: object, guards: object = ()) -> int | None:
                assert isinstance(changes, list)
                if any("/weft/" in change.key for change in changes):
                    raise StoreForbidden("memory: permission denied")
                return await super().commit(changes, guards)  # type: ignore[arg-type]

        async def scenario() -> None:
            async with world() as w:
                store = Narrow(w.server)
                keeper = Keeper(store, KeeperOptions(PREFIX), wall=w.wall)
                host = Host(w.server, store, keeper, [], [])
                keeper.tell(candidate("192.0.2.1"))
                host.task = asyncio.ensure_future(host.follow())
                w.hosts.append(host)
                await reached(lambda: host.now.mine, "a lease")
                assert host.says("would go unnoticed: memory: permission denied")

        virtually(scenario())


def test_a_store_that_lost_its_history_takes_no_host_away() -> None:
    async def scenario() -> None:
        async with world() as w:
            w.server.lease_of("10.5.200.0/24", "192.0.2.9")
            a, b = await w.settled("192.0.2.1"), await w.settled("192.0.2.2")
            await reached(lambda: len(a.now.others) == 2, "both others")
            before = a.now
            w.server.fail(GONE)
            await asyncio.sleep(5)
            w.server.entries.clear()
            w.server.leases.clear()
            w.server.revision = 1
            w.server.put("config", CONFIG)
            w.server.fail(None)
            await reached(lambda: a.says("history is shorter"), "a word")
            assert not a.now.complete
            await reached(lambda: set(w.server.subnets()) == {a.subnet, b.subnet}, "both to be back")
            assert a.now.mine == before.mine
            assert set(a.now.others) == set(before.others)
            await asyncio.sleep(GRACE)
            assert a.now.complete
            assert [str(lease.public_ip) for lease in a.now.others] == ["192.0.2.2"]
            assert a.now.problems == ()

    virtually(scenario())


async def life(w: World, host: Host) -> None:
    """Everything that makes a keeper ask its store."""
    await reached(lambda: host.now.mine, "a lease", within=600)
    await asyncio.sleep(700)
    w.server.change(Delete(w.server.key(host.subnet)))
    await reached(lambda: w.server.key(host.subnet) in w.server.entries, "the key to be back", within=600)
    host.keeper.tell(candidate("192.0.2.200"))
    await reached(lambda: w.server.subnets() == {host.subnet: "192.0.2.200"}, "the new address", within=600)


class Counting(MemoryStore):
    """Fails at question `nth`; `after`: it is carried out, and the answer is lost."""

    def __init__(self, server: Server, nth: int, after: bool) -> None:
        super().__init__(server)
        self.server, self.nth, self.after = server, nth, after
        self.asked = 0
        self.failed: list[str] = []

    def __getattribute__(self, name: str) -> object:
        method = super().__getattribute__(name)
        if name not in ("get", "range", "commit", "grant", "keep_alive", "remaining", "revoke"):
            return method

        async def asked(*arguments: object) -> object:
            self.asked += 1
            if self.asked == self.nth:
                self.failed.append(name)
                if self.after:
                    await method(*arguments)
                raise GONE
            return await method(*arguments)

        return asked


def questions(nth: int, after: bool) -> tuple[int, list[str]]:
    """Live through it with question `nth` failing: how many were asked, and which failed."""

    async def scenario() -> tuple[int, list[str]]:
        async with world() as w:
            store = Counting(w.server, nth, after)
            options = KeeperOptions(PREFIX, renew_margin=DAY - 300)
            keeper = Keeper(store, options, wall=w.wall, dice=random.Random(nth).random)
            host = Host(w.server, store, keeper, [], [])
            keeper.tell(candidate("192.0.2.1"))
            host.task = asyncio.ensure_future(host.follow())
            w.hosts.append(host)
            await life(w, host)
            asked = store.asked
            assert len({t.mine.subnet for t in host.seen if t.mine}) == 1, "it moved"
            await asyncio.sleep(60)
            assert host.now.problems == (), host.now.problems
            if store.failed:
                spoken = [t for t in host.seen if any("can't be looked after" in p.message for p in t.problems)]
                assert spoken, f"{store.failed} was not told"
            return asked, store.failed

    return virtually(scenario())


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_every_question_fails_once_and_all_is_well_in_the_end(after: bool) -> None:
    total, failed = questions(0, after)
    assert total > 40
    assert not failed
    names: set[str] = set()
    for nth in range(1, total + 1):
        _, failed = questions(nth, after)
        assert len(failed) == 1, f"question {nth} was not asked"
        names.update(failed)
    assert names >= {"commit", "grant", "keep_alive", "revoke"}


@pytest.mark.parametrize("how", ["fail_next", "lose_answer"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_failures_in_a_row_at_the_start(how: str, count: int) -> None:
    async def scenario() -> None:
        async with world() as w:
            switch: Callable[[StoreError, int], None] = getattr(w.server, how)
            switch(GONE, count)
            host = await w.settled()
            assert w.server.outstanding == 0
            assert asyncio.get_running_loop().time() < 8, "it was not tried again soon"
            await asyncio.sleep(60)
            assert w.server.subnets() == {host.subnet: "192.0.2.1"}, "a second key was taken"
            assert host.now.problems == ()

    virtually(scenario())


def test_a_lost_race_is_run_again() -> None:
    async def scenario() -> None:
        async with world(SMALL) as w:
            host = await w.settled("192.0.2.50")
            w.server.change(Delete(f"{PREFIX}/weft/daemons/192.0.2.50"))
            host.kill()
            left = [f"10.5.{n}.0/24" for n in (1, 2, 3) if f"10.5.{n}.0/24" != host.subnet]
            w.server.before_commit(lambda: None)  # the daemon's mark
            late = w.host("192.0.2.51", previous=left[0])
            w.server.before_commit(lambda: w.server.lease_of(left[0], "192.0.2.9"))
            await reached(lambda: late.now.mine, "a lease")
            assert w.server.outstanding == 0
            assert late.subnet == left[1]

    virtually(scenario())


def test_it_renews_in_time_though_the_clock_of_the_wall_stands_still() -> None:
    async def scenario() -> None:
        async with world() as w:
            host = w.join(MemoryStore(w.server), wall=lambda: WALL)
            await reached(lambda: host.now.mine, "a lease")
            await asyncio.sleep(1.5 * DAY)
            assert w.server.remaining(w.server.entries[w.server.key(host.subnet)].lease) > 3000
            assert not any(change.key.endswith("-24") for changes in w.server.commits[2:] for change in changes)

    virtually(scenario())


class Deaf(MemoryStore):
    """The first lease is written, its answer is lost, and for a while the watch tells nothing of it. `meanwhile` is
    called just before it is written."""

    def __init__(self, server: Server, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__(server)
        self.meanwhile = meanwhile
        self.lost = 0

    async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        first = not self.lost and any("/subnets/" in change.key for change in changes)
        if first:
            self.lost += 1
            self.meanwhile()
        revision = await super().commit(changes, guards)
        if first:
            raise GONE
        return revision

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
        async for snapshot in super().watch(prefix):
            if self.lost == 1 and any("/subnets/" in key for key in snapshot.entries):
                self.lost += 1
                await asyncio.sleep(5)
            yield snapshot


def test_an_answer_that_is_lost_while_the_watch_lags_makes_no_second_key() -> None:
    async def scenario() -> None:
        async with world() as w:
            store = Deaf(w.server)
            host = w.join(store)
            await reached(lambda: host.now.mine, "a lease")
            assert store.lost == 2
            assert w.server.subnets() == {host.subnet: "192.0.2.1"}

    virtually(scenario())


def test_a_lease_whose_answer_was_lost_gives_way_too() -> None:
    async def scenario() -> None:
        async with world(DUAL) as w:

            def rival() -> None:
                ip = IPv4Address("192.0.2.9")
                lease = Lease(IPv4Network("10.5.7.0/24"), IPv6Network("fc00:5:0:27::/64"), ip)
                w.server.put(f"subnets/{lease_key(lease)}", lease_value(lease))

            store = Deaf(w.server, rival)
            host = w.join(store, previous="10.5.7.0/24")
            await reached(lambda: host.now.mine, "a lease")
            assert store.lost == 2
            assert host.subnet != "10.5.7.0/24"
            assert sorted(w.server.subnets().values()) == ["192.0.2.1", "192.0.2.9"]

    virtually(scenario())


@pytest.mark.parametrize("error", [GONE, StoreForbidden("memory: permission denied")], ids=["no answer", "no right"])
def test_a_store_that_takes_no_writes_is_told_and_not_asked_all_the_time(error: StoreError) -> None:
    class Reading(MemoryStore):
        asked = 0

        async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
            self.asked += 1
            raise error

    async def scenario() -> None:
        async with world() as w:
            store = Reading(w.server)
            host = w.join(store)
            await asyncio.sleep(600)
            assert host.says(f"this host's lease can't be looked after: {error}")
            assert 50 < store.asked < 150
            assert host.errors == [], "the watch had to be opened again"

    virtually(scenario())
