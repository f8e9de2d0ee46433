"""Discovery by etcd over the memory store in virtual time: leases end, etcd goes, hosts are killed, people delete keys,
and another program writes its plain keys beside ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from tests.support.virtual import VirtualLoop, reached, virtually
from weft.backends.tunnel import vtep_mac
from weft.discovery import Discovery
from weft.discovery.directory import GRACE, MEMORY
from weft.discovery.etcd import LOOK, EtcdDiscovery
from weft.discovery.news import Clock
from weft.discovery.options import EtcdSettings, Limits
from weft.errors import StoreError, StoreForbidden, StoreUnreachable
from weft.model import Known, Mac, Network, Node
from weft.stores import Delete, Put
from weft.stores.memory import MemoryServer, MemoryStore

PREFIX = "/docker-router/discovery"
WALL = 1.8e9
TTL = 30
GONE = StoreUnreachable("memory: nobody answers")
DOCUMENT = {
    "host_ip": "10.0.1.5",
    "vni": "1000",
    "vxlan_endpoint": "10.0.1.5:4789",
    "last_seen": "2024-01-15T10:30:00Z",
}


class Server(MemoryServer):
    """On the event loop's clock."""

    def next_event(self) -> float | None:
        return min((lease.ends for lease in self.leases.values()), default=None)

    def put(self, name: str, values: dict[str, str], lease: int = 0) -> None:
        """As another program does it: key by key."""
        for key, value in values.items():
            self.change(Put(f"{PREFIX}/{name}/{key}", value.encode(), lease))

    def remove(self, name: str, *keys: str) -> None:
        inside = [key for key in self.entries if key.startswith(f"{PREFIX}/{name}/")]
        for key in [f"{PREFIX}/{name}/{one}" for one in keys] or inside:
            self.change(Delete(key))

    def texts(self, name: str) -> dict[str, str]:
        start = f"{PREFIX}/{name}/"
        return {k.removeprefix(start): e.value.decode() for k, e in self.entries.items() if k.startswith(start)}

    def leases_of(self, name: str) -> set[int]:
        return {entry.lease for key, entry in self.entries.items() if key.startswith(f"{PREFIX}/{name}/")}


def node(name: str = "stack-a", ip: str = "10.0.1.5", *subnets: str, stack: str = "") -> Node:
    networks = tuple(Network(f"n{text}", (IPv4Network(text),), since=1.0) for text in subnets or ("172.20.0.0/16",))
    return Node(
        id=name,
        endpoints=(IPv4Address(ip),),
        port=4789,
        vni=1000,
        mac=vtep_mac(ip, 1000),
        mtu=1500,
        networks=networks,
        overlay=(IPv4Address("192.168.100.1"),),
        version="1",
        source="etcd",
        stack=stack or name,
    )


@dataclass
class Host:
    store: MemoryStore
    discovery: EtcdDiscovery
    seen: list[Known[Node]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        async for known in self.discovery.peers():
            self.seen.append(known)

    @property
    def now(self) -> Known[Node]:
        return self.seen[-1] if self.seen else Known()

    def ids(self) -> list[str]:
        return [peer.id for peer in self.now.items]

    def texts(self) -> str:
        return "\n".join(f"{p.subject}: {p.message}" for p in self.now.problems)

    async def knows(self, *ids: str, within: float = 60.0) -> float:
        """Returns when it knows these and no others; the seconds that took."""
        began = asyncio.get_running_loop().time()
        await reached(lambda: self.now.complete and self.ids() == list(ids), f"{ids}, not {self.ids()}", within)
        return asyncio.get_running_loop().time() - began

    async def says(self, what: str, within: float = 60.0) -> None:
        await reached(lambda: what in self.texts(), f"{what!r} in {self.texts()!r}", within)

    async def kill(self) -> None:
        """As kill -9 does: nothing more is asked of the store."""
        self.store.fail(GONE)
        await self.discovery._news.end()
        await self.discovery._lease.close()


class World:
    def __init__(self) -> None:
        self.server = Server()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.clocks.append(self.server)
        self.hosts: list[Host] = []

    def wall(self) -> float:
        return WALL + asyncio.get_running_loop().time()

    def host(self, me: Node | None = None, name: str = "", skew: float = 0.0, **changes: Any) -> Host:
        """A daemon starts; `me` None: it only listens."""
        store = MemoryStore(self.server)
        options = EtcdSettings(me.id if me else name or "ear", f"run-{len(self.hosts)}")
        clock = Clock(wall=lambda: self.wall() + skew)
        made = Host(store, EtcdDiscovery(replace(options, **changes), store, clock))
        checked: Discovery = made.discovery
        if me is not None:
            checked.announce(me)
        made.task = asyncio.ensure_future(made.follow())
        self.hosts.append(made)
        return made


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.server.fail(None)
        for host in made.hosts:
            await host.discovery.close()
            assert host.task is not None
            with contextlib.suppress(asyncio.CancelledError):
                await host.task
        assert not made.server.outstanding


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with world() as w:
            await scenario(w)

    virtually(inside())


def always(w: World, name: str, names: int = 8) -> list[int]:
    """From now on: how often a set of keys under this id was not whole, at any revision."""
    holes: list[int] = []
    change = w.server.change

    def watched(*changes: Put | Delete) -> None:
        change(*changes)
        if len(w.server.texts(name)) != names:
            holes.append(w.server.revision)

    w.server.change = watched  # type: ignore[method-assign]
    return holes


# What is written. ---------------------------------------------------------------------------------------------------


def test_the_documents_keys_are_written_as_documented_on_one_lease() -> None:
    async def scenario(w: World) -> None:
        w.host(node(stack="a"))
        await reached(lambda: w.server.texts("stack-a"), "the registration", 1)
        texts = w.server.texts("stack-a")
        details = json.loads(texts.pop("weft"))
        assert texts == {
            "host_ip": "10.0.1.5",
            "vni": "1000",
            "vxlan_endpoint": "10.0.1.5:4789",
            "last_seen": "2027-01-15T08:00:00Z",
            "networks": '["172.20.0.0/16"]',
            "vxlan_ip": "192.168.100.1",
            "stack_id": "a",
        }
        assert (details["stack"], details["departed"], details["mtu"]) == (True, False, 1500)
        (lease,) = w.server.leases_of("stack-a")
        assert w.server.leases[lease].seconds == TTL
        assert len(w.server.commits) == 1

    run(scenario)


def test_hosts_know_each_other_at_once_and_wholly() -> None:
    async def scenario(w: World) -> None:
        a, b = (
            w.host(node()),
            w.host(node("stack-b", "10.0.1.6", "172.21.0.0/16", "10.9.0.0/16")),
        )
        assert await a.knows("stack-b") < 0.2
        await b.knows("stack-a")
        assert b.now.items == (node(),)
        assert not a.now.problems

    run(scenario)


def test_an_agent_s_node_stays_one() -> None:
    async def scenario(w: World) -> None:
        me = replace(node("host-a"), stack="")
        b = w.host(name="b")
        w.host(me)
        await b.knows("host-a")
        assert b.now.items == (me,)
        assert w.server.texts("host-a")["vxlan_ip"] == "10.0.1.5"

    run(scenario)


def test_a_change_is_written_at_once_and_only_what_changed() -> None:
    async def scenario(w: World) -> None:
        a, b = w.host(node()), w.host(name="b")
        await b.knows("stack-a")
        changed = node("stack-a", "10.0.1.5", "172.30.0.0/16")
        await asyncio.sleep(3)
        a.discovery.announce(changed)
        await reached(lambda: b.now.items == (changed,), "the change", 0.2)
        assert sorted(put.key.rpartition("/")[2] for put in w.server.commits[-1]) == ["last_seen", "networks", "weft"]
        commits = len(w.server.commits)
        a.discovery.announce(changed)
        await asyncio.sleep(5)
        assert len(w.server.commits) == commits

    run(scenario)


def test_last_seen_goes_on_and_the_lease_lives() -> None:
    async def scenario(w: World) -> None:
        w.host(node())
        b = w.host(name="b")
        await b.knows("stack-a")
        lease, commits = w.server.leases_of("stack-a"), len(w.server.commits)
        await asyncio.sleep(300)
        assert w.server.leases_of("stack-a") == lease
        beats = w.server.commits[commits:]
        assert 9 <= len(beats) <= 13
        assert all([put.key for put in beat] == [f"{PREFIX}/stack-a/last_seen"] for beat in beats)
        heard = b.discovery.last_seen()["stack-a"]
        assert w.wall() - 31 <= heard <= w.wall()
        assert len({id(known) for known in b.seen}) == len(b.seen) <= 3, "heartbeats are no news"
        assert b.discovery.counters()["received.change"] >= 10

    run(scenario)


@pytest.mark.parametrize("what", ["all", "one", "weft", "value", "lease", "stranger"])
def test_what_somebody_took_away_or_changed_is_back(what: str) -> None:
    async def scenario(w: World) -> None:
        w.host(node())
        b = w.host(name="b")
        await b.knows("stack-a")
        before, (lease,) = w.server.texts("stack-a"), w.server.leases_of("stack-a")
        if what == "all":
            w.server.remove("stack-a")
        elif what == "one":
            w.server.remove("stack-a", "host_ip")
        elif what == "weft":
            w.server.remove("stack-a", "weft")
        elif what == "value":
            w.server.put("stack-a", {"vni": "7", "weft": "{}"}, lease)
        elif what == "lease":
            w.server.end_lease(lease)
        else:
            w.server.put("stack-a", {"vni": "1000"})

        def mended() -> bool:
            now = w.server.texts("stack-a")
            same = {k: v for k, v in now.items() if k != "last_seen"} == {
                k: v for k, v in before.items() if k != "last_seen"
            }
            leases = w.server.leases_of("stack-a")
            return same and len(leases) == 1 and 0 not in leases

        await reached(mended, f"it to be mended: {w.server.texts('stack-a')}", 1)
        await b.knows("stack-a")

    run(scenario)


def test_a_program_that_writes_the_same_keys_is_not_raced() -> None:
    async def scenario(w: World) -> None:
        w.host(node())
        await reached(lambda: w.server.texts("stack-a"), "the registration", 1)
        commits = len(w.server.commits)
        for _ in range(600):
            w.server.put("stack-a", {"vni": "1000"})
            await asyncio.sleep(0.1)
        assert len(w.server.commits) - commits < 80

    run(scenario)


def test_what_nobody_would_believe_is_not_written_and_said() -> None:
    async def scenario(w: World) -> None:
        a = w.host(replace(node(), mac=Mac(bytes(6))))
        await a.says("can't be announced")
        assert not w.server.entries
        a.discovery.announce(node())
        await reached(lambda: w.server.texts("stack-a"), "the registration", 1)
        await reached(lambda: not a.now.problems, "its end", 1)

    run(scenario)


# Restarts, and others with the same id. -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_restart_finds_its_keys_and_they_are_never_missing(how: str) -> None:
    async def scenario(w: World) -> None:
        a, b = w.host(node()), w.host(name="b")
        await b.knows("stack-a")
        holes = always(w, "stack-a")
        await (a.kill() if how == "killed" else a.discovery.close())
        await asyncio.sleep(5)
        w.host(node())
        await asyncio.sleep(300)
        assert not holes
        assert b.ids() == ["stack-a"]
        assert all(known.items for known in b.seen[2:])
        assert json.loads(w.server.texts("stack-a")["weft"])["departed"] is False
        assert b.discovery.departed() == frozenset()

    run(scenario)


def test_a_restart_after_the_clock_went_back_goes_on_too() -> None:
    """The leftover looks as if it were newer; nobody renews its lease."""

    async def scenario(w: World) -> None:
        a, b = w.host(node()), w.host(name="b")
        await b.knows("stack-a")
        await a.kill()
        holes = always(w, "stack-a")
        again = w.host(node(), skew=-3600.0)
        await again.says("another weft on this host is registered as 'stack-a' and started later")
        await reached(lambda: not again.now.problems, "the lease to be seen as dead", TTL)
        await asyncio.sleep(120)
        assert not holes

    run(scenario)


def test_a_killed_host_is_gone_with_its_lease_and_has_not_departed() -> None:
    async def scenario(w: World) -> None:
        a, b = w.host(node()), w.host(name="b")
        await b.knows("stack-a")
        await a.kill()
        assert TTL - 11 <= await b.knows() <= TTL + 1
        assert b.discovery.departed() == frozenset()

    run(scenario)


def test_one_that_leaves_is_held_for_a_while_and_has_departed_then() -> None:
    async def scenario(w: World) -> None:
        a, b = w.host(node(), goodbye_hold=10.0), w.host(name="b")
        await b.knows("stack-a")
        await a.discovery.close()
        assert len(w.server.leases) == 1, "its own is revoked"
        await asyncio.sleep(5)
        assert (b.ids(), b.discovery.departed()) == (["stack-a"], frozenset())
        assert await b.knows() <= 6
        assert b.discovery.departed() == {"stack-a"}
        w.host(node())
        await b.knows("stack-a")
        assert b.discovery.departed() == frozenset()

    run(scenario)


def test_a_write_that_was_under_way_at_the_end_does_not_keep_it_from_leaving() -> None:
    """`close` ends the loops, but not what etcd was already asked to write."""

    async def scenario(w: World) -> None:
        a, b = w.host(node(), goodbye_hold=10.0), w.host(name="b")
        await b.knows("stack-a")
        (lease,) = w.server.leases_of("stack-a")
        w.server.before_commit(lambda: w.server.put("stack-a", {"weft": w.server.texts("stack-a")["weft"]}, lease))
        await a.discovery.close()
        assert await b.knows() <= 11
        assert b.discovery.departed() == {"stack-a"}

    run(scenario)


def test_a_departure_is_forgotten_in_the_end_and_seen_even_without_a_hold() -> None:
    async def scenario(w: World) -> None:
        a, b = w.host(node(), goodbye_hold=0.0), w.host(name="b")
        await b.knows("stack-a")
        await a.discovery.close()
        await b.knows(within=5)
        assert b.discovery.departed() == {"stack-a"}
        await asyncio.sleep(MEMORY + 1)
        assert b.discovery.departed() == frozenset()

    run(scenario)


def test_another_host_s_registration_is_not_overwritten_and_named() -> None:
    async def scenario(w: World) -> None:
        a, ear = w.host(node()), w.host(name="ear")
        await ear.knows("stack-a")
        second = w.host(node("stack-a", "10.0.9.9"))
        await second.says("'stack-a' is registered by another host, 10.0.1.5, and not overwritten")
        await asyncio.sleep(200)
        assert w.server.texts("stack-a")["host_ip"] == "10.0.1.5"
        assert (ear.now.items, second.ids()) == ((node(),), [])
        await a.kill()
        await reached(lambda: w.server.texts("stack-a").get("host_ip") == "10.0.9.9", "its turn", TTL + LOOK)
        await reached(lambda: not second.now.problems, "the end of the problem", 1)
        assert second.discovery.counters()["refused.duplicate"] >= 1

    run(scenario)


def test_a_stack_may_move_to_another_host_as_soon_as_it_has_left() -> None:
    async def scenario(w: World) -> None:
        a, ear = w.host(node()), w.host(name="ear")
        await ear.knows("stack-a")
        await a.discovery.close()
        moved = node("stack-a", "10.0.9.9")
        w.host(moved)
        await reached(lambda: ear.now.items == (moved,), "the move", 1)

    run(scenario)


def test_a_host_whose_uplink_goes_is_at_its_new_address_at_once() -> None:
    """The program makes another discovery (agent/announcer.py); the old one can't reach etcd from where it is."""

    async def scenario(w: World) -> None:
        b = w.host(node("stack-b", "10.0.1.6"))
        a = w.host(node())
        await b.knows("stack-a")
        holes = always(w, "stack-a")
        a.store.fail(GONE)
        w.host(node("stack-a", "172.24.90.1"), instance="run-1")
        await a.discovery.close()
        await reached(lambda: [str(p.endpoints[0]) for p in b.now.items] == ["172.24.90.1"], "the move", 5)
        await asyncio.sleep(2 * TTL)
        assert b.ids() == ["stack-a"]
        assert not holes

    run(scenario)


def test_of_two_programs_on_one_host_the_later_one_has_the_id() -> None:
    async def scenario(w: World) -> None:
        first = w.host(node())
        await reached(lambda: w.server.texts("stack-a"), "the registration", 1)
        await asyncio.sleep(1)
        w.host(node())
        await first.says("another weft on this host is registered as 'stack-a' and started later")
        commits = len(w.server.commits)
        await asyncio.sleep(100)
        assert len(w.server.commits) - commits <= 5, "no race"
        await first.discovery.close()
        assert json.loads(w.server.texts("stack-a")["weft"])["departed"] is False, "the other one's keys stay"

    run(scenario)


def test_a_race_for_an_id_has_one_winner() -> None:
    async def scenario(w: World) -> None:
        rival = {"host_ip": "10.0.9.9", "vni": "1000"}
        w.server.before_commit(lambda: w.server.put("stack-a", rival))
        a = w.host(node())
        await a.says("registered by another host, 10.0.9.9")
        assert w.server.texts("stack-a") == rival

    run(scenario)


# What others write. -------------------------------------------------------------------------------------------------


def test_the_documents_own_keys_are_a_peer_without_a_mac_address() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), plain=True)
        lease = w.server.grant(TTL)
        w.server.put("stack-b", {**DOCUMENT, "host_ip": "10.0.2.6", "vxlan_endpoint": "10.0.2.6:4790"}, lease)
        await a.knows("stack-b")
        (peer,) = a.now.items
        assert peer == Node(
            id="stack-b",
            endpoints=(IPv4Address("10.0.2.6"),),
            port=4790,
            vni=1000,
            mac=Mac(bytes(6)),
            mtu=0,
            source="etcd",
            stack="stack-b",
        )
        assert not a.now.problems
        await a.knows(within=TTL + 1)

    run(scenario)


def test_without_the_setting_plain_keys_are_said_and_no_peer() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        w.server.put("stack-b", {**DOCUMENT, "host_ip": "10.0.2.6"})
        await a.says("stack-b is registered without the MAC address")
        assert a.ids() == []
        w.server.remove("stack-b")
        await reached(lambda: not a.now.problems, "its end", 1)

    run(scenario)


def test_a_plain_peer_on_no_lease_must_say_that_it_is_there() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), plain=True)
        w.server.put("stack-b", {**DOCUMENT, "host_ip": "10.0.2.6"})
        w.server.put("stack-c", {"host_ip": "10.0.2.7", "vni": "1000"})
        await a.knows("stack-b", "stack-c")
        await asyncio.sleep(80)
        w.server.put("stack-b", {"last_seen": "2024-01-15T10:31:20Z"})
        await asyncio.sleep(80)
        assert a.ids() == ["stack-b", "stack-c"]
        await a.knows("stack-c", within=11)
        await a.says("last_seen has not changed for 90 s")
        w.server.put("stack-b", {"last_seen": "2024-01-15T11:31:20Z"})
        await a.knows("stack-b", "stack-c")
        await reached(lambda: not a.now.problems, "its end", 1)

    run(scenario)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("vni", "many", "'many' is no VNI"),
        ("host_ip", "239.1.1.1", "can't be the address of another host"),
        ("networks", '["10.0.0.1/8"]', "has host bits set"),
        ("weft", '{"instance":1}', "can't be read"),
        ("weft", "\x00", "can't be read"),
    ],
)
def test_a_malformed_entry_is_a_problem_of_its_own_and_what_it_said_before_holds(
    key: str, value: str, text: str
) -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        b = node("stack-b", "10.0.1.6")
        w.host(b)
        w.host(node("stack-c", "10.0.1.7"))
        await a.knows("stack-b", "stack-c")
        (lease,) = w.server.leases_of("stack-b")
        await w.hosts[1].kill()
        w.server.put("stack-b", {key: value}, lease)
        await a.says(text)
        assert (a.now.items[0], a.ids(), len(a.now.problems)) == (b, ["stack-b", "stack-c"], 1)
        assert a.discovery.counters()["refused.malformed"] == 1
        await a.knows("stack-c")
        assert not a.now.problems

    run(scenario)


def test_keys_that_come_one_by_one_are_no_problem_unless_some_never_come() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), plain=True)
        await a.knows()
        w.server.put("stack-b", {"host_ip": "10.0.2.6"})
        await asyncio.sleep(GRACE - 1)
        assert not a.now.problems
        w.server.put("stack-b", {"vni": "1000"})
        await a.knows("stack-b")
        w.server.remove("stack-b", "vni")
        await a.says("host_ip and vni must be there", GRACE + 1)
        assert a.ids() == ["stack-b"]
        w.server.remove("stack-b")
        await a.knows()
        assert not a.now.problems

    run(scenario)


def test_keys_that_are_no_peer_s_are_passed_over() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), plain=True)
        for key in ("config", "x/y/host_ip", "x/", "/host_ip", "x/color"):
            w.server.change(Put(f"{PREFIX}/{key}", b"1"))
        w.server.change(Put(f"{PREFIX}-other/x/host_ip", b"1"))
        w.server.put("%61", DOCUMENT)
        await a.says("'%61' is no peer id")
        assert a.ids() == []

    run(scenario)


def test_a_thousand_networks_are_one_too_many_where_the_limit_says_so() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), limits=Limits(subnets=999))
        w.host(node("stack-b", "10.0.1.6", *(f"10.{n // 256}.{n % 256}.0/24" for n in range(1000))))
        await a.says("it has 1000 subnets, and 999 is the limit")
        assert a.ids() == []

    run(scenario)


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_clocks_an_hour_apart_make_nobody_look_dead(skew: float) -> None:
    async def scenario(w: World) -> None:
        w.host(node(), skew=skew)
        await asyncio.sleep(100)
        b = w.host(name="b")
        await b.knows("stack-a")
        assert w.wall() - TTL - 1 <= b.discovery.last_seen()["stack-a"] <= w.wall()
        await asyncio.sleep(200)
        assert b.ids() == ["stack-a"]
        assert w.wall() - 31 <= b.discovery.last_seen()["stack-a"] <= w.wall()

    run(scenario)


# etcd goes. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [GONE, StoreForbidden("memory: not allowed"), StoreError("memory: odd")])
def test_while_etcd_can_not_be_asked_all_that_was_known_holds(error: StoreError) -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        w.host(node("stack-b", "10.0.1.6"))
        await a.knows("stack-b")
        w.server.fail(error)
        await a.says("trying again. The known peers stay meanwhile")
        await asyncio.sleep(600)
        assert (a.ids(), a.now.complete, len(a.now.problems)) == (["stack-b"], True, 1)
        assert not w.server.entries, "all leases ended meanwhile"
        news = len(a.seen)
        w.server.fail(None)
        await reached(lambda: w.server.texts("stack-a") and w.server.texts("stack-b"), "both to be back", 10)
        await reached(lambda: not a.now.problems, "the end of the problem", 10)
        await asyncio.sleep(2 * TTL)
        assert all(known.items for known in a.seen[news:]), "nobody was missed"

    run(scenario)


def test_who_is_not_back_after_an_outage_goes_a_lease_later() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        other = w.host(node("stack-b", "10.0.1.6"))
        await a.knows("stack-b")
        w.server.fail(GONE)
        await a.says("trying again")
        await other.kill()
        await asyncio.sleep(100)
        w.server.fail(None)
        await reached(lambda: not a.now.problems, "etcd to be back", 10)
        assert a.ids() == ["stack-b"]
        await asyncio.sleep(TTL - 15)
        assert a.ids() == ["stack-b"]
        assert await a.knows() <= 16

    run(scenario)


def test_who_is_on_no_lease_does_not_fall_silent_while_nobody_can_write() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node(), plain=True)
        w.server.put("stack-b", {**DOCUMENT, "host_ip": "10.0.2.6"})
        await a.knows("stack-b")
        w.server.fail(GONE)
        await a.says("trying again")
        news = len(a.seen)
        await asyncio.sleep(600)
        assert a.ids() == ["stack-b"]
        w.server.fail(None)
        await reached(lambda: not a.now.problems, "etcd to be back", 10)
        await asyncio.sleep(80)
        assert all(known.items for known in a.seen[news:]), "it has a whole timeout from then on"
        await a.knows(within=11)

    run(scenario)


def test_who_is_waited_for_after_an_outage_is_kept_through_the_next_one() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        other = w.host(node("stack-b", "10.0.1.6"))
        await a.knows("stack-b")
        w.server.fail(GONE)
        await a.says("trying again")
        await other.kill()
        await asyncio.sleep(100)
        w.server.fail(None)
        await reached(lambda: not a.now.problems, "etcd to be back", 10)
        w.server.fail(GONE)
        await a.says("trying again")
        await asyncio.sleep(100)
        assert a.ids() == ["stack-b"]
        w.server.fail(None)
        await a.knows(within=TTL + 10)

    run(scenario)


def test_it_waits_for_an_etcd_that_is_not_there_yet() -> None:
    async def scenario(w: World) -> None:
        w.server.fail(GONE)
        a = w.host(node())
        await a.says("nobody answers")
        assert not a.now.complete
        w.server.fail(None)
        await a.knows()
        await reached(lambda: w.server.texts("stack-a"), "the registration", 10)

    run(scenario)


def test_a_registration_that_is_refused_is_said_and_tried_again() -> None:
    async def scenario(w: World) -> None:
        a = w.host(name="a")
        await a.knows()
        w.server.fail_next(StoreForbidden("memory: permission denied"), 3)
        a.discovery.announce(node("a"))
        await a.says("a can't be registered: memory: permission denied")
        await reached(lambda: w.server.texts("a"), "the registration", 10)
        await reached(lambda: not a.now.problems, "the end of the problem", 1)

    run(scenario)


def test_a_lost_answer_is_found_out_by_looking() -> None:
    async def scenario(w: World) -> None:
        w.server.lose_answer(GONE)
        a, b = w.host(node()), w.host(name="b")
        await b.knows("stack-a")
        await reached(lambda: not a.now.problems, "peace", 10)
        assert len(w.server.leases_of("stack-a")) == 1

    run(scenario)


def test_a_farewell_that_can_not_be_said_does_not_hold_up_the_end() -> None:
    async def scenario(w: World) -> None:
        a = w.host(node())
        await reached(lambda: w.server.texts("stack-a"), "the registration", 1)
        w.server.fail(GONE)
        began = asyncio.get_running_loop().time()
        await a.discovery.close()
        await a.discovery.close()
        assert asyncio.get_running_loop().time() - began < 6

    run(scenario)


def test_closing_before_anything_began_is_nothing() -> None:
    async def scenario(w: World) -> None:
        discovery = EtcdDiscovery(EtcdSettings("a", "x"), MemoryStore(w.server))
        await discovery.close()
        assert [known async for known in discovery.peers()] == []

    run(scenario)
