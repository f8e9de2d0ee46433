"""This host's registration over the memory store in virtual time: leases end, etcd goes, people delete keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.agent.loop import FIRST_RESTART, LAST_RESTART
from weft.agent.marker import Owner
from weft.agent.registration import Registration, RegistrationOptions, init_config
from weft.core.registry import Announcement, Prefixes, Registered, Registry
from weft.errors import StoreError, StoreForbidden, StoreUnreachable, WeftError, WireError
from weft.model import Mac, Network
from weft.stores import Delete, Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.wire.flannel import Lease, Vtep, lease_key, lease_value
from weft.wire.registrar import Note, Status, entry_value

CFG = "/flannel/network/subnets"
FLANNEL = "/coreos.com/network"
PREFIXES = Prefixes(CFG, FLANNEL)
TTL = 180
WALL = 1.8e9
GONE = StoreUnreachable("memory: nobody answers")
NO = StoreForbidden("memory: not allowed")
LEASED = "10.5.20.0-24"


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)

    def put(self, key: str, value: bytes | str, lease: int = 0) -> None:
        """As if by etcdctl, or another program."""
        self.change(Put(key, value if isinstance(value, bytes) else value.encode(), lease))

    def below(self, prefix: str = CFG) -> dict[str, str]:
        return {
            key.removeprefix(f"{prefix}/"): entry.value.decode()
            for key, entry in sorted(self.entries.items())
            if key.startswith(f"{prefix}/")
        }

    def networks(self, host: str = "babka") -> dict[str, str]:
        return {key: value for key, value in self.below().items() if key.startswith(f"{host}/")}


def mac(ip: str) -> Mac:
    return Mac(b"\x82\x00" + IPv4Address(ip).packed)


def lease(subnet: str, ip: str) -> Lease:
    return Lease(IPv4Network(subnet), None, IPv4Address(ip), None, "vxlan", Vtep(1, mac(ip)))


def network(name: str, *subnets: str, since: float = 5.0, group: str = "") -> Network:
    return Network(name, tuple(map(IPv4Network, subnets)), since=since, group=group)


def announcement(ip: str = "192.168.4.88", *networks: Network, host: str = "babka") -> Announcement:
    address = IPv4Address(ip)
    return Announcement(
        host, networks, Status(host, mac(ip), address, address), Note(version="1", endpoints=(address,))
    )


@dataclass
class Host:
    """One daemon's registration, followed as `agent/loop.py` follows a source."""

    store: MemoryStore
    registration: Registration
    announcement: Announcement
    seen: list[Registry] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        delay = FIRST_RESTART
        while True:
            try:
                async for registry in self.registration.registries():
                    delay = FIRST_RESTART
                    self.seen.append(registry)
            except StoreError as error:
                self.errors.append(str(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RESTART)

    @property
    def now(self) -> Registry:
        return self.seen[-1] if self.seen else Registry()

    def tell(self, *networks: Network) -> None:
        self.announcement = replace(self.announcement, networks=networks)
        self.registration.tell(self.announcement)

    def entries(self, *leases: Lease) -> None:
        self.announcement = replace(self.announcement, entries=leases)
        self.registration.tell(self.announcement)

    def knows(self, host: str) -> Registered | None:
        return self.now.host(host)

    def says(self, what: str) -> bool:
        return any(what in problem.message for problem in self.now.problems)

    async def stop(self, hard: bool = True) -> None:
        """kill -9, or an end as it should be."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.registration.close()
        if hard:
            self.store.fail(GONE)


class World:
    def __init__(self) -> None:
        self.server = Server()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.clocks.append(self.server)
        self.hosts: list[Host] = []
        self.asked = 0

    def wall(self) -> float:
        self.asked += 1
        return WALL + asyncio.get_running_loop().time()

    def host(
        self,
        *networks: Network,
        ip: str = "192.168.4.88",
        host: str = "babka",
        machine: str = "",
        interval: float = 60.0,
        prefixes: Prefixes = PREFIXES,
    ) -> Host:
        """A daemon starts, and is told what it is."""
        me = Owner(machine or f"machine-{ip}", host, f"run-{len(self.hosts)}")
        store = MemoryStore(self.server)
        options = RegistrationOptions(prefixes, interval, me)
        made = Host(store, Registration(store, options, self.wall), announcement(ip, *networks, host=host))
        made.registration.tell(made.announcement)
        made.task = asyncio.ensure_future(made.follow())
        self.hosts.append(made)
        return made

    async def settled(
        self, *networks: Network, ip: str = "192.168.4.88", host: str = "babka", machine: str = ""
    ) -> Host:
        made = self.host(*networks, ip=ip, host=host, machine=machine)
        await reached(lambda: (one := made.knows(host)) and one.note, "the registration")
        return made

    def flannel(self, ip: str = "192.168.4.88", subnet: str = "10.5.20.0/24") -> int:
        """This host's flanneld took a lease."""
        held = self.server.grant(86400)
        self.server.put(f"{FLANNEL}/subnets/{lease_key(lease(subnet, ip))}", lease_value(lease(subnet, ip)), held)
        return held


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        tasks = [host.task for host in made.hosts if host.task is not None]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for host in made.hosts:
            await host.registration.close()
        faults = [r for r in results if isinstance(r, Exception)]
        assert not faults, faults


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with world() as w:
            await scenario(w)

    virtually(inside())


WEB = network("web", "10.5.40.0/24", "10.6.1.0/24", group="front")
DB = network("db-1.x", "10.7.0.0/16", since=float("inf"))


def test_what_stands_in_etcd_after_a_start() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB, DB)
        assert w.server.below() == {
            "_host_status/babka": '{"hostname":"babka","vtep_mac":"82:00:c0:a8:04:58","primary_ip":"192.168.4.88",'
            '"public_ip":"192.168.4.88","timestamp":1800000000}',
            "_weft/babka": '{"v":1,"machine":"machine-192.168.4.88","instance":"run-0","version":"1",'
            '"endpoints":["192.168.4.88"],"since":{"web":5.0},"groups":{"web":"front"}}',
            "babka/db-1.x": "10.7.0.0/16",
            "babka/web": "10.5.40.0/24",
            "babka/web~2": "10.6.1.0/24",
        }
        (held,) = w.server.leases.values()
        assert held.seconds == TTL
        assert {entry.lease for entry in w.server.entries.values()} == set(w.server.leases)
        assert len(w.server.commits) == 1, "one transaction, so nobody sees a half of it"
        assert host.now.complete
        assert host.now.problems == ()
        me = host.knows("babka")
        assert me is not None
        assert me.networks == (DB, replace(WEB, group="front"))
        assert me.leased
        await asyncio.sleep(3600)
        assert len(w.server.commits) == pytest.approx(61, abs=1), "a heartbeat each interval, nothing else"
        assert all(len(commit) == 1 for commit in w.server.commits[1:])
        assert host.seen[-1] == host.seen[1], "a heartbeat is nothing new"
        assert host.registration.last_seen()["babka"] >= WALL + 3500

    run(scenario)


def test_hosts_beat_together_whenever_they_began() -> None:
    async def scenario(w: World) -> None:
        for number in range(1, 5):
            await w.settled(ip=f"192.168.4.{number}", host=f"h{number}")
            await asyncio.sleep(2.3)
        await asyncio.sleep(120)
        before = dict(w.hosts[0].registration.last_seen())
        await asyncio.sleep(60)
        after = w.hosts[0].registration.last_seen()
        assert len(set(after.values())) == 1, after
        assert {after[name] - before[name] for name in after} == {60}

    run(scenario)


def test_no_docker_networks_is_a_normal_state() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled()
        assert set(w.server.below()) == {"_host_status/babka", "_weft/babka"}
        assert host.now.problems == ()
        host.tell(WEB)
        await reached(lambda: "babka/web" in w.server.below(), "the first network")
        host.tell()
        await reached(lambda: not w.server.networks(), "none again")
        assert "_host_status/babka" in w.server.below()

    run(scenario)


def test_networks_come_and_go_at_once() -> None:
    async def scenario(w: World) -> None:
        loop = asyncio.get_running_loop()
        one = await w.settled(WEB)
        other = await w.settled(ip="192.168.4.99", host="pita")
        start = loop.time()
        one.tell(WEB, DB)
        await reached(lambda: (h := other.knows("babka")) and len(h.networks) == 2, "the new network")
        one.tell(DB)
        await reached(lambda: (h := other.knows("babka")) and h.networks == (DB,), "the old one to go")
        assert loop.time() - start < 1
        assert set(w.server.networks()) == {"babka/db-1.x"}
        many = tuple(network(f"n{n}", f"10.9.{n}.0/24") for n in range(250))
        one.tell(*many)
        await reached(lambda: (h := other.knows("babka")) and len(h.networks) == 250, "250 networks")
        one.tell(replace(WEB, exposed=False))
        await reached(lambda: (h := other.knows("babka")) and not h.networks, "none that others may know")
        assert not one.errors
        assert one.now.problems == ()

    run(scenario)


@pytest.mark.parametrize("host", ["babka", "BABKA", "_odd", "a/b", "zz-lower.case_host", "subnets", "host~2", "ünï"])
@pytest.mark.parametrize("name", ["my-net", "my.net", "my/net", "_host_status", "net~2", "100%", "zz", "br lan"])
def test_any_host_name_and_network_name(host: str, name: str) -> None:
    """The old program's range ended before lowercase names, and it cut names at dashes."""

    async def scenario(w: World) -> None:
        one = await w.settled(network(name, "10.9.1.0/24", "10.9.2.0/24"), host=host)
        other = await w.settled(ip="192.168.4.99", host="other")
        known = other.knows(host)
        assert known is not None
        assert known.networks == (network(name, "10.9.1.0/24", "10.9.2.0/24"),)
        one.tell()
        await reached(lambda: (h := other.knows(host)) and not h.networks, "it to go")
        assert set(w.server.below()) == {key for key in w.server.below() if key.startswith(("_weft/", "_host_status/"))}

    run(scenario)


def test_a_network_whose_name_no_key_can_hold_costs_no_other() -> None:
    async def scenario(w: World) -> None:
        host = w.host(network("x" * 600, "10.9.1.0/24"), WEB)
        await reached(lambda: "babka/web" in w.server.below(), "the other network")
        await reached(lambda: host.says("is told to nobody"), "the problem")

    run(scenario)


def test_what_is_deleted_or_overwritten_by_hand_is_back_at_once() -> None:
    async def scenario(w: World) -> None:
        loop = asyncio.get_running_loop()
        await w.settled(WEB, DB)
        before = w.server.below()
        for key in before:
            start = loop.time()
            w.server.change(Delete(f"{CFG}/{key}"))
            await reached(lambda key=key: key in w.server.below(), f"{key} to be back")
            assert loop.time() - start < 0.1
        w.server.put(f"{CFG}/babka/web", "10.99.0.0/16")
        await reached(lambda: w.server.below()["babka/web"] == "10.5.40.0/24", "the value to be right")
        w.server.put(f"{CFG}/_weft/babka", "garbage")
        await reached(lambda: "machine-" in w.server.below()["_weft/babka"], "the note to be right")
        w.server.put(f"{CFG}/babka/extra", "10.98.0.0/16")
        await reached(lambda: "babka/extra" not in w.server.below(), "what nobody has to go")
        w.server.change(*(Delete(f"{CFG}/{key}") for key in before))
        await reached(lambda: set(w.server.below()) == set(before), "everything to be back")
        assert {e.lease for e in w.server.entries.values()} == set(w.server.leases), "a plain put detached a key"

    run(scenario)


def test_who_writes_the_same_key_again_and_again_is_not_outrun() -> None:
    async def scenario(w: World) -> None:
        await w.settled(WEB)
        start = len(w.server.commits)
        for _ in range(600):
            w.server.put(f"{CFG}/babka/web", "10.99.0.0/16")
            await asyncio.sleep(0.1)
        assert len(w.server.commits) - start < 60 * 2 + 30
        await reached(lambda: w.server.below()["babka/web"] == "10.5.40.0/24", "the last word")

    run(scenario)


def test_a_lease_that_ended_is_replaced_and_everything_written_again() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        before = set(w.server.below())
        (old,) = w.server.leases
        w.server.end_lease(old)
        assert w.server.below() == {}
        await reached(lambda: set(w.server.below()) == before, "everything")
        assert old not in w.server.leases
        assert {e.lease for e in w.server.entries.values()} == set(w.server.leases)
        await asyncio.sleep(1000)
        assert set(w.server.below()) == before
        assert not host.errors

    run(scenario)


def test_the_lease_is_kept_alive_between_heartbeats() -> None:
    async def scenario(w: World) -> None:
        await w.settled(WEB)
        (held,) = w.server.leases
        least = TTL
        for _ in range(100):
            await asyncio.sleep(30)
            least = min(least, w.server.remaining(held))
        assert least >= TTL / 2

    run(scenario)


def test_etcd_is_away_for_minutes() -> None:
    """Nothing is said while it is; then everything is as it was. The lease may have ended meanwhile, or not."""

    async def scenario(w: World) -> None:
        for minutes in (1, 10):
            host = await w.settled(WEB)
            seen, before = len(host.seen), set(w.server.below())
            w.server.fail(GONE)
            await asyncio.sleep(60 * minutes)
            assert len(host.seen) == seen, "it said something while nobody could know"
            assert host.errors
            w.server.fail(None)
            await reached(lambda before=before: set(w.server.below()) == before, "everything")
            await reached(lambda host=host: host.knows("babka"), "the registry")
            await host.stop()
            await asyncio.sleep(2 * TTL)

    run(scenario)


def test_a_watch_that_is_lost_costs_no_lease() -> None:
    """The old program put its keys anew without a lease, or lost it; here it is renewed while the watch is away."""

    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        (held,) = w.server.leases
        assert host.task is not None
        host.task.cancel()  # nobody listens for an hour
        await asyncio.sleep(3600)
        assert set(w.server.leases) == {held}
        assert "babka/web" in w.server.below()
        host.task = asyncio.ensure_future(host.follow())
        host.tell(DB)
        await reached(lambda: set(w.server.networks()) == {"babka/db-1.x"}, "the change")
        assert set(w.server.leases) == {held}

    run(scenario)


def test_a_compaction_is_no_event() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        commits, seen = len(w.server.commits), len(host.seen)
        w.server.compact()
        await asyncio.sleep(5)
        assert (len(w.server.commits), len(host.seen)) == (commits, seen)
        host.tell(DB)
        await reached(lambda: "babka/db-1.x" in w.server.below(), "the change")

    run(scenario)


def test_a_restart_within_the_lease_disturbs_nothing() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB)
        other = await w.settled(ip="192.168.4.99", host="pita")
        (held,) = {e.lease for key, e in w.server.entries.items() if "babka" in key}
        before = {k: e for k, e in w.server.entries.items() if k.startswith(f"{CFG}/babka/")}
        await first.stop()
        await asyncio.sleep(100)
        seen = len(other.seen)
        second = await w.settled(WEB)
        await asyncio.sleep(300)
        assert {k: e for k, e in w.server.entries.items() if k.startswith(f"{CFG}/babka/")} == before
        assert held in w.server.leases
        assert len(w.server.leases) == 2
        networks = [known.networks for r in other.seen[seen:] if (known := r.host("babka")) is not None]
        assert all(one == (WEB,) for one in networks)
        assert second.now.problems == ()

    run(scenario)


def test_a_restart_after_networks_went_takes_their_keys_away() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB, DB)
        await first.stop()
        await w.settled(WEB)
        await reached(lambda: set(w.server.networks()) == {"babka/web", "babka/web~2"}, "the old network to go")

    run(scenario)


def test_with_another_interval_the_lease_is_another() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB)
        await first.stop()
        second = w.host(WEB, interval=5)
        await reached(lambda: (one := second.knows("babka")) and one.note and one.note.instance == "run-1", "it")
        on = {e.lease for e in w.server.entries.values()}
        assert [w.server.leases[one].seconds for one in on] == [60]
        await asyncio.sleep(TTL)
        assert set(w.server.leases) == on

    run(scenario)


def test_a_host_that_dies_is_gone_when_its_lease_is() -> None:
    async def scenario(w: World) -> None:
        one = await w.settled(WEB)
        other = await w.settled(ip="192.168.4.99", host="pita")
        await one.stop()
        await asyncio.sleep(TTL / 2)
        assert other.knows("babka")
        await asyncio.sleep(TTL)
        assert other.knows("babka") is None
        assert other.now.complete

    run(scenario)


def test_two_hosts_of_one_name() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB)
        before = w.server.below()
        second = w.host(DB, ip="192.168.4.99")
        await reached(lambda: second.says("two hosts are called babka"), "the conflict")
        assert second.says("machine-192.168.4.88 at 192.168.4.88")
        assert second.says("machine-192.168.4.99")
        await asyncio.sleep(600)
        after = w.server.below()
        assert {k: v for k, v in after.items() if "status" not in k} == {
            k: v for k, v in before.items() if "status" not in k
        }
        assert '"192.168.4.88"' in after["_host_status/babka"]
        assert not first.says("two hosts")
        assert len(w.server.leases) == 1
        await first.stop()
        await asyncio.sleep(TTL)
        await reached(lambda: set(w.server.networks()) == {"babka/db-1.x"}, "the name to be its own")
        assert not second.says("two hosts")

    run(scenario)


def test_two_hosts_of_one_name_starting_at_the_same_instant() -> None:
    async def scenario(w: World) -> None:
        hosts = [w.host(network(f"n{n}", f"10.9.{n}.0/24"), ip=f"192.0.2.{n}") for n in range(1, 9)]
        await reached(lambda: sum(h.says("two hosts are called babka") for h in hosts) == 7, "one winner")
        await asyncio.sleep(300)
        assert len(w.server.networks()) == 1
        assert sum(h.says("two hosts are called babka") for h in hosts) == 7

    run(scenario)


def test_a_second_registrar_on_one_machine_does_not_fight() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB)
        second = w.host(DB)
        await reached(lambda: set(w.server.networks()) == {"babka/db-1.x"}, "the younger one's word")
        await reached(lambda: first.says("a second registrar on this very machine"), "the conflict")
        commits = len(w.server.commits)
        await asyncio.sleep(600)
        assert len(w.server.commits) - commits <= 12
        await first.registration.withdraw()
        assert w.server.networks() == {"babka/db-1.x": "10.7.0.0/16"}, "it took the other's keys away"
        assert not second.says("two hosts")

    run(scenario)


def test_a_host_that_booted_anew_goes_on_where_it_was() -> None:
    """In a container without /etc/machine-id a machine is known by its boot: at one address, it is the same host."""

    async def scenario(w: World) -> None:
        first = await w.settled(WEB, machine="boot-1")
        await first.stop(hard=True)
        second = w.host(WEB, DB, machine="boot-2")
        await reached(lambda: "babka/db-1.x" in w.server.networks(), "the new network", within=5)
        assert not second.says("two hosts")
        await asyncio.sleep(TTL + 10)
        assert set(w.server.networks()) == {"babka/web", "babka/web~2", "babka/db-1.x"}
        assert not second.says("two hosts")

    run(scenario)


def test_two_machines_at_one_address_do_not_fight() -> None:
    async def scenario(w: World) -> None:
        first = await w.settled(WEB, machine="boot-1")
        w.host(DB, machine="boot-2")
        await reached(lambda: first.says("a second registrar"), "the conflict")
        commits = len(w.server.commits)
        await asyncio.sleep(600)
        assert len(w.server.commits) - commits <= 12

    run(scenario)


def status_of_old(ip: str, at: float) -> str:
    return f'{{"hostname":"babka","vtep_mac":"82:00:c0:a8:04:58","primary_ip":"{ip}","timestamp":{int(at)}}}'


def test_flannel_registrar_ran_here_before() -> None:
    """Its keys hang on nothing; what is right stays where older hosts read it, the rest goes, all with our lease."""

    async def scenario(w: World) -> None:
        w.server.put(f"{CFG}/_exists", "true")
        w.server.put(f"{CFG}/_host_status/babka", status_of_old("192.168.4.88", WALL))
        w.server.put(f"{CFG}/subnets/_host_status/babka", status_of_old("192.168.4.88", WALL))
        w.server.put(f"{CFG}/subnets/babka/web", "10.5.40.0/24")
        w.server.put(f"{CFG}/subnets/babka/gone", "10.5.41.0/24")
        w.server.put(f"{CFG}/babka/web", "10.5.40.1/24")
        w.server.put(f"{CFG}/babka/gone", "10.5.41.0/24")
        w.server.put(f"{CFG}/subnets/pita/x", "10.5.50.0/24")
        host = await w.settled(WEB)
        await reached(lambda: set(w.server.networks()) == {"babka/web", "babka/web~2"}, "the old ones to go")
        below = w.server.below()
        assert below["babka/web"] == "10.5.40.0/24"
        assert "subnets/babka/gone" not in below
        assert below["subnets/babka/web"] == "10.5.40.0/24"
        assert below["subnets/pita/x"] == "10.5.50.0/24"
        assert below["_exists"] == "true"
        assert all(e.lease for k, e in w.server.entries.items() if k.startswith(f"{CFG}/babka/"))
        pita = host.knows("pita")
        assert pita is not None
        assert pita.networks == (network("x", "10.5.50.0/24", since=float("inf")),)
        assert not pita.leased
        assert host.now.problems == ()

    run(scenario)


def test_another_host_of_this_name_still_runs_flannel_registrar() -> None:
    async def scenario(w: World) -> None:
        w.server.put(f"{CFG}/_host_status/babka", status_of_old("192.168.4.77", WALL - 60))
        w.server.put(f"{CFG}/babka/its", "10.5.60.0/24")
        host = w.host(WEB)
        await reached(lambda: host.says("a registrar without weft at 192.168.4.77"), "the conflict")
        assert w.server.networks() == {"babka/its": "10.5.60.0/24"}
        w.asked = 0
        await asyncio.sleep(800)
        assert w.asked < 40, "it looks again and again"
        await asyncio.sleep(1200)
        assert set(w.server.networks()) == {"babka/web", "babka/web~2"}, "it is dead: it said nothing for long"
        assert not host.says("two hosts")

    run(scenario)


def test_addresses_that_lead_nowhere_are_removed_whoever_writes_them() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        pita = await w.settled(ip="192.168.4.99", host="pita")
        w.flannel()
        bad = {
            f"{FLANNEL}/subnets/10.5.31.0-24": '{"PublicIP":"127.0.0.1","PublicIPv6":null}',
            f"{FLANNEL}/subnets/subnets/10.5.32.0-24": '{"PublicIP":"0.0.0.0"}',
            f"{FLANNEL}/subnets/10.5.33.0-24": '{"PublicIP":""}',
            f"{FLANNEL}/subnets/_host_status/old": '{"PublicIP":"127.0.0.1"}',
            f"{CFG}/_host_status/lost": '{"hostname":"lost","primary_ip":"127.0.1.1","public_ip":"127.0.1.1"}',
        }
        for key, value in bad.items():
            w.server.put(key, value, w.server.grant(86400) if "31" in key else 0)
            await reached(lambda key=key: key not in w.server.entries, f"{key} to go")
            await reached(lambda key=key: host.says(key) or pita.says(key), "the report")
        assert f"{FLANNEL}/subnets/{LEASED}" in w.server.entries
        kept = {f"{FLANNEL}/subnets/10.5.34.0-24": "garbage", f"{FLANNEL}/subnets/10.5.35.0-24": '{"PublicIP":null}'}
        kept[f"{FLANNEL}/notes"] = '{"PublicIP":"127.0.0.1"}'
        for key, value in kept.items():
            w.server.put(key, value)
        await asyncio.sleep(10)
        assert set(kept) <= set(w.server.entries)
        await asyncio.sleep(120)
        assert not host.says("it was removed"), "it is told for a while only"

    run(scenario)


def test_a_bad_entry_that_became_good_meanwhile_stays() -> None:
    async def scenario(w: World) -> None:
        key = f"{FLANNEL}/subnets/10.5.31.0-24"
        await w.settled()
        good = lease_value(lease("10.5.31.0/24", "192.168.4.99"))
        w.server.before_commit(lambda: w.server.put(key, good))
        w.server.put(key, '{"PublicIP":"127.0.0.1"}')
        await asyncio.sleep(10)
        assert not w.server.outstanding
        assert w.server.entries[key].value == good

    run(scenario)


def test_a_host_that_has_no_address_for_others_says_so_and_writes_nothing() -> None:
    async def scenario(w: World) -> None:
        host = w.host(WEB, ip="127.0.0.1")
        await reached(lambda: host.says("set FLANNELD_PUBLIC_IP"), "the problem")
        assert w.server.below() == {}
        assert w.server.leases == {}

    run(scenario)


ENTRY = lease("10.5.40.0/24", "192.168.4.88")
VALUE = entry_value(ENTRY, "babka")


def test_entries_below_flannels_prefix() -> None:
    async def scenario(w: World) -> None:
        held = w.flannel()
        host = await w.settled(WEB)
        host.entries(ENTRY)
        key = f"{FLANNEL}/subnets/10.5.40.0-24"
        await reached(lambda: key in w.server.entries, "the entry")
        ours = w.server.entries[key].lease
        assert ours not in (0, held, w.server.entries[f"{CFG}/babka/web"].lease)
        assert w.server.entries[key].value == VALUE
        await reached(lambda: host.now.entries == (ENTRY,), "the registry")
        assert host.now.leases == (lease("10.5.20.0/24", "192.168.4.88"),)
        own = w.server.entries[f"{FLANNEL}/subnets/{LEASED}"]
        w.server.change(Put(key, b"garbage", ours))
        await reached(lambda: w.server.entries[key].value == VALUE, "it to be mended")
        w.server.change(Delete(key))
        await reached(lambda: key in w.server.entries, "it to be back")
        host.entries()
        await reached(lambda: key not in w.server.entries, "it to go")
        again = w.server.entries[own.key]
        assert (again.value, again.lease) == (own.value, held), "a put detached flannel's lease"
        assert again.modified == w.server.revision, "flannel forgot the VTEP with the subnet, and heard nothing new"

    run(scenario)


def test_entries_of_others_are_left_alone() -> None:
    """A plain put detached flannel's leases, and the subnet was another host's on the next start."""

    async def scenario(w: World) -> None:
        w.flannel()
        theirs = lease_value(lease("10.5.40.0/24", "192.168.4.99"))
        key = f"{FLANNEL}/subnets/10.5.40.0-24"
        for hangs in (True, False):
            w.server.put(key, theirs, w.server.grant(86400) if hangs else 0)
            before = w.server.entries[key]
            host = w.host(WEB)
            host.entries(ENTRY)
            await reached(lambda host=host: host.says("held below flannel's prefix by 192.168.4.99"), "it")
            assert host.says("this host (192.168.4.88)")
            await asyncio.sleep(100)
            assert w.server.entries[key] == before
            w.server.change(Delete(key))
            await reached(lambda host=host: not host.says("held below"), "the end of it")
            assert w.server.entries[key].value == VALUE
            await host.registration.withdraw()
            await host.stop()

    run(scenario)


def test_an_entry_that_the_old_program_left_gets_our_lease() -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        key = f"{FLANNEL}/subnets/10.5.40.0-24"
        w.server.put(key, lease_value(ENTRY))
        host = await w.settled(WEB)
        host.entries(ENTRY)
        await reached(lambda: w.server.entries[key].lease, "a lease below it")
        assert w.server.entries[key].value == VALUE

    run(scenario)


@pytest.mark.parametrize(
    "config", [f"{FLANNEL}/subnets", f"{FLANNEL}/subnets/", f"{FLANNEL}//docker", "/flannel/network"]
)
def test_one_prefix_may_lie_in_the_other(config: str) -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        host = w.host(WEB, prefixes=Prefixes(config, f"/{FLANNEL}/"))
        host.entries(ENTRY)
        await reached(lambda: host.now.entries == (ENTRY,), "the entry")
        await reached(lambda: (me := host.knows("babka")) and me.networks == (WEB,), "the networks")
        commits = len(w.server.commits)
        await asyncio.sleep(50)
        assert len(w.server.commits) == commits
        assert host.now.problems == ()
        host.entries()
        await reached(lambda: host.now.entries == (), "it to go")
        assert (me := host.knows("babka"))
        assert me.networks == (WEB,)

    run(scenario)


def test_a_lost_race_is_tried_again_at_once_on_what_came_meanwhile() -> None:
    async def scenario(w: World) -> None:
        loop = asyncio.get_running_loop()
        host = await w.settled(WEB)
        start = loop.time()
        w.server.before_commit(lambda: w.server.put(f"{CFG}/babka/db-1.x", "10.99.0.0/16"))
        host.tell(DB)
        await reached(lambda: set(w.server.networks().values()) == {"10.7.0.0/16"}, "the change")
        assert not w.server.outstanding
        assert loop.time() - start < 0.2

    run(scenario)


def test_what_came_while_a_race_was_being_lost_counts() -> None:
    class Slow(MemoryStore):
        async def commit(self, changes, guards=()):  # type: ignore[no-untyped-def]
            done = await super().commit(changes, guards)
            await asyncio.sleep(0.05)
            return done

    async def scenario(w: World) -> None:
        loop = asyncio.get_running_loop()
        host = await w.settled(WEB)
        host.registration._store = Slow(w.server)
        start = loop.time()
        w.server.before_commit(lambda: w.server.put(f"{CFG}/babka/db-1.x", "10.99.0.0/16"))
        host.tell(DB)
        await reached(lambda: set(w.server.networks().values()) == {"10.7.0.0/16"}, "the change")
        assert loop.time() - start < 0.5

    run(scenario)


def test_what_is_forbidden_below_one_prefix_goes_on_below_the_other() -> None:
    class Half(MemoryStore):
        async def commit(self, changes, guards=()):  # type: ignore[no-untyped-def]
            if any(change.key.startswith(FLANNEL) for change in changes):
                raise NO
            return await super().commit(changes, guards)

    async def scenario(w: World) -> None:
        w.flannel()
        host = w.host(WEB)
        host.registration._store = Half(w.server)
        host.entries(ENTRY)
        await reached(
            lambda: host.says("its entries below flannel's prefix can't be written: memory: not allowed"), "it"
        )
        assert "babka/web" in w.server.below()
        host.tell(DB)
        await reached(lambda: "babka/db-1.x" in w.server.below(), "the change")

    run(scenario)


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
def test_every_question_fails_once(lost: bool) -> None:
    async def scenario(w: World) -> None:
        for skip in range(6):
            host = w.host(WEB, host=f"host-{skip}", ip=f"192.0.2.{skip + 1}")
            for _ in range(skip):
                await asyncio.sleep(0)
            (w.server.lose_answer if lost else w.server.fail_next)(GONE)
            await reached(lambda skip=skip: f"host-{skip}/web" in w.server.below(), "it")
            host.tell(DB)
            await reached(lambda skip=skip: f"host-{skip}/db-1.x" in w.server.below(), "it")
            await reached(lambda: not w.server.outstanding, "the failure to be met")
            await reached(lambda host=host: host.now.problems == (), "peace")
            await asyncio.sleep(TTL)

    run(scenario)


def test_withdrawing() -> None:
    async def scenario(w: World) -> None:
        held = w.flannel()
        first = await w.settled(WEB)
        first.entries(ENTRY)
        await reached(lambda: f"{FLANNEL}/subnets/10.5.40.0-24" in w.server.entries, "the entry")
        await first.stop()
        second = Registration(MemoryStore(w.server), replace(first.registration._options, me=Owner("m", "", "x")))
        second.tell(first.announcement)
        await second.withdraw()
        assert len(w.server.entries) == 6, "another machine's word counts for nothing"
        me = Owner("machine-192.168.4.88", "", "run-9")
        third = Registration(MemoryStore(w.server), replace(first.registration._options, me=me))
        third.tell(first.announcement)
        await third.withdraw()
        assert list(w.server.entries) == [f"{FLANNEL}/subnets/{LEASED}"]
        assert w.server.entries[f"{FLANNEL}/subnets/{LEASED}"].lease == held
        await third.withdraw()

    run(scenario)


def test_withdrawing_while_others_write() -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        host = await w.settled(WEB)
        host.entries(ENTRY)
        key = f"{FLANNEL}/subnets/10.5.40.0-24"
        await reached(lambda: key in w.server.entries, "the entry")
        ours = w.server.entries[key].lease
        assert host.task is not None
        host.task.cancel()
        for _ in range(5):
            w.server.before_commit(lambda: w.server.put(key, lease_value(ENTRY), ours))
        with pytest.raises(WeftError, match="change too fast"):
            await host.registration.withdraw()
        assert not w.server.outstanding
        w.server.before_commit(lambda: w.server.put(key, lease_value(ENTRY), ours))
        await host.registration.withdraw()
        assert list(w.server.entries) == [f"{FLANNEL}/subnets/{LEASED}"]

    run(scenario)


def test_withdrawing_when_the_note_was_just_deleted() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        assert host.task is not None
        host.task.cancel()
        w.server.change(Delete(f"{CFG}/_weft/babka"))
        await host.registration.withdraw()
        assert w.server.below() == {}

    run(scenario)


def test_while_another_host_has_the_name_no_lease_is_held_for_nothing() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        (held,) = w.server.leases
        w.server.fail(GONE)  # for longer than the lease lives
        await asyncio.sleep(2 * TTL)
        other = w.server.grant(86400)
        w.server.put(f"{CFG}/_weft/babka", '{"machine":"another"}', other)
        w.server.fail(None)
        await reached(lambda: host.says("two hosts are called babka: the machine another"), "the conflict")
        await asyncio.sleep(3 * TTL)
        assert set(w.server.leases) == {other}
        assert held not in w.server.leases
        w.server.end_lease(other)
        await reached(lambda: "babka/web" in w.server.below(), "its own again")

    run(scenario)


def test_many_bad_addresses_are_removed_one_after_the_other() -> None:
    async def scenario(w: World) -> None:
        await w.settled(WEB)
        keys = [f"{FLANNEL}/subnets/10.5.{n}.0-24" for n in range(60)]
        w.server.change(*(Put(key, b'{"PublicIP":"127.0.0.1"}') for key in keys))
        await reached(lambda: not any(key in w.server.entries for key in keys), "all to go", within=120)

    run(scenario)


def test_a_store_that_forgot_is_believed_after_a_leases_life() -> None:
    async def scenario(w: World) -> None:
        host = await w.settled(WEB)
        await w.settled(ip="192.168.4.99", host="pita")
        w.server.fail(GONE)
        await asyncio.sleep(10)
        w.server.entries.clear()
        w.server.leases.clear()
        w.server.revision = 1
        w.server.fail(None)
        await reached(lambda: host.seen[-1].hosts and not host.now.complete, "doubt")
        await reached(lambda: {"babka/web", "_weft/pita"} <= set(w.server.below()), "all to write again", within=30)
        await reached(lambda: host.now.complete, "trust", within=2 * TTL)
        assert host.knows("pita")

    run(scenario)


def test_the_config_is_written_only_where_there_is_none() -> None:
    """The old program wrote a default one when a read failed."""
    text = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'

    async def scenario(w: World) -> None:
        store, key = MemoryStore(w.server), f"{FLANNEL}/config"
        with pytest.raises(WireError, match="define a correct Network"):
            await init_config(store, FLANNEL, "{}")
        store.fail(GONE)
        with pytest.raises(StoreUnreachable):
            await init_config(store, FLANNEL, text)
        assert key not in w.server.entries
        store.fail(None)
        assert await init_config(store, f"{FLANNEL}/", text) == f"written: {key}"
        assert "nothing was written" in await init_config(store, FLANNEL, text.replace(" ", ""))
        with pytest.raises(WeftError, match="holds another config"):
            await init_config(store, FLANNEL, text.replace("10.5", "10.6"))
        w.server.put(key, "garbage")
        with pytest.raises(WeftError, match="holds another config"):
            await init_config(store, FLANNEL, text)
        assert w.server.entries[key].value == b"garbage"
        config = w.server.entries[key]
        host = await w.settled(WEB)
        for minutes in (1, 5):
            w.server.fail_next(GONE, 3)
            await asyncio.sleep(60 * minutes)
            await reached(lambda: not w.server.outstanding, "the failures to be met")
        assert host.says("can't be used"), "nor was what can't be read"
        assert w.server.entries[key] == config

    run(scenario)


def test_the_config_and_leases_are_told() -> None:
    async def scenario(w: World) -> None:
        w.flannel()
        w.flannel("192.168.4.99", "10.5.30.0/24")
        host = await w.settled(WEB)
        assert [str(one.subnet) for one in host.now.leases] == ["10.5.20.0/24", "10.5.30.0/24"]
        assert host.now.config is None
        w.server.put(f"{FLANNEL}/config", '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')
        await reached(lambda: host.now.config is not None, "the config")
        w.server.put(f"{FLANNEL}/config", "{")
        await reached(lambda: host.says("can't be used"), "the problem")

    run(scenario)
