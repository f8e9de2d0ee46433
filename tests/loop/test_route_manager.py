"""Leases in a cloud's table, in virtual time: every fault of flannel-route-manager is a test, and no destination is
absent while it is wanted, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import known, network, node
from tests.support.eventually import soon
from tests.support.virtual import reached, virtually
from weft.agent.contender import Contender
from weft.agent.loop import Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.agent.route_manager import ELECTION, FLANNEL, TABLES, RouteWorld, Tables, Wishes
from weft.core.table_routes_guard import ALL, WINDOW, MaxDelete
from weft.core.table_routes_index import Index
from weft.daemons.route_manager import RouteManager
from weft.model import IPNetwork, Known, Node, Problem, View
from weft.objects import Key
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.stores import Put
from weft.stores.memory import MemoryServer, MemoryStore
from weft.targets.cloud import Contents
from weft.targets.cloud.memory import Entry, Fault, MemoryRoutes, Nature
from weft.targets.cloud.target import CloudOptions, CloudTarget
from weft.web.api import Api

SPAN = ip_network("10.0.0.0/8")
A, B = "192.0.2.1", "192.0.2.2"


def lease(subnet: str, via: str, since: float = 1.0) -> Node:
    one = node(subnet, via, networks=(network("lease", *subnet.split(" & "), since=since),))
    return replace(one, source=FLANNEL)


def leases(count: int, via: str = A) -> list[Node]:
    return [lease(f"10.0.{n}.0/24", via) for n in range(count)]


@dataclass(frozen=True)
class Cycle:
    """How long the cloud's history was when it ended, and the destinations that it planned for."""

    moments: int
    wanted: frozenset[IPNetwork]


@dataclass
class Rig:
    """A manager over a cloud in memory. `hears` is what its source says."""

    wishes: Wishes = field(default_factory=lambda: Wishes("m"))
    cloud: MemoryRoutes = field(default_factory=lambda: MemoryRoutes(("default",), Nature(latency=0.01)))
    leads: bool = True
    cycles: list[Cycle] = field(default_factory=list)
    prepared: int = -1

    def __post_init__(self) -> None:
        time = asyncio.get_running_loop().time
        self.target = CloudTarget(self.cloud, CloudOptions(lead=lambda: self.leads))
        tables = Tables(lambda: self.cloud.tables, lambda: self.target.contents, lambda: self.cloud.room, time)
        self.world = RouteWorld(self.wishes, tables, lambda: self.leads)
        self.loop = Loop(self.world, Reconciler((self.target,), Clock(time, time)), 30.0, self._cycled)
        self.api = Api(self.loop, self.world, lambda: not self.leads)

    def _cycled(self, view: View | None) -> None:
        networks = (network for node in (view.nodes if view is not None else ()) for network in node.networks)
        wanted = frozenset(subnet for network in networks for subnet in network.subnets)
        self.cycles.append(Cycle(len(self.cloud.history), wanted))
        if self.world.unfinished and self.loop.reconciler.account.last.done:
            self.loop.wake()

    def hears(self, nodes: Iterable[Node], complete: bool = True) -> None:
        self.prepared = self.prepared if self.prepared >= 0 else len(self.cloud.history)
        self.world.hear_leases(known(*nodes, complete=complete), (SPAN,))
        self.loop.wake()

    def has(self, table: str = "default") -> dict[str, str]:
        """Destination → hop of ours, as the cloud has it."""
        held: dict[str, str] = {}
        for entries in self.cloud._tables[table].values():
            held.update({str(entry.dst): str(entry.via) for entry in entries if not entry.whose})
        return held

    async def comes_to(self, wanted: Mapping[str, str], within: float = 120.0) -> None:
        await reached(lambda: self.has() == wanted and not self.is_busy(), f"{wanted}", within)

    def is_busy(self) -> bool:
        return self.loop._busy.locked() or self.world.unfinished or bool(self.loop.reconciler.account.statuses)

    def told(self) -> list[str]:
        return [problem.message for problem in self.world.problems()]


@contextlib.asynccontextmanager
async def running(wishes: Wishes | None = None, **more: Any) -> AsyncIterator[Rig]:
    rig = Rig(wishes or Wishes("m"), **more)
    task = asyncio.create_task(rig.loop.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def routes(*nodes: Node) -> dict[str, str]:
    return {str(s): str(n.endpoints[0]) for n in nodes for w in n.networks for s in w.subnets}


# ---- flannel-route-manager's faults ----


def test_two_subnets_on_one_host_are_two_routes() -> None:
    async def scenario() -> None:
        async with running() as rig:
            both = [lease("10.0.1.0/24", A), lease("10.0.7.0/24", A, since=2)]
            rig.hears(both)
            await rig.comes_to(routes(*both))
            (row,) = rig.api.peers()
            assert (row.node, row.networks, row.routed) == ("10.0.1.0/24", ["10.0.1.0/24", "10.0.7.0/24"], True)
            rig.hears(both[1:])
            await rig.comes_to(routes(both[1]))

    virtually(scenario())


@pytest.mark.parametrize(
    "bad",
    [
        lease("127.0.0.0/24", A),
        lease("0.0.0.0/0", A),
        lease("172.16.0.0/24", A),
        lease("10.0.9.0/24", "127.0.0.1"),
        lease("10.0.9.0/24", "0.0.0.0"),
        lease("10.0.1.0/25", B, since=9),
    ],
)
def test_one_bad_lease_stops_no_other(bad: Node) -> None:
    async def scenario() -> None:
        async with running() as rig:
            good = [lease("10.0.1.0/24", "192.0.2.8"), lease("10.0.2.0/24", "192.0.2.9")]
            rig.hears([bad, *good])
            await rig.comes_to(routes(*good))
            (said,) = rig.told()
            assert bad.id in said
            assert rig.api.status().health == "degraded"
            assert {row.node: row.routed for row in rig.api.peers()}["10.0.2.0/24"]

    virtually(scenario())


def test_a_delete_that_failed_is_not_done() -> None:
    async def scenario() -> None:
        async with running() as rig:
            two = leases(2)
            rig.hears(two)
            await rig.comes_to(routes(*two))
            rig.cloud.faults.next("refused", 3)
            rig.hears(two[:1])
            await reached(lambda: len(rig.cloud.faults.met) == 2, "two attempts")
            assert rig.has() == routes(*two)
            refused = [event for event in rig.api.events() if event.action == "remove"]
            assert all(event.error for event in refused)
            await rig.comes_to(routes(two[0]))
            assert rig.cloud.faults.outstanding == 0

    virtually(scenario())


def test_an_empty_store_deletes_nothing_and_says_how_to_allow_it() -> None:
    async def scenario() -> None:
        async with running() as rig:
            all_ = leases(40)
            rig.hears(all_)
            await rig.comes_to(routes(*all_))
            rig.hears([])
            await asyncio.sleep(3 * WINDOW)
            assert rig.has() == routes(*all_)
            (said,) = rig.told()
            assert "-max-delete=40 or -max-delete=all" in said
            assert rig.api.explain("10.0.3.7").lines[0].why.startswith("nobody asks for it, and -max-delete=25%")
            rig.hears(all_[:35])
            await rig.comes_to(routes(*all_[:35]))
            assert rig.told() == []

    virtually(scenario())


def test_hosts_that_leave_one_by_one_meet_the_guard_and_ten_minutes_later_the_rest_goes() -> None:
    async def scenario() -> None:
        async with running() as rig:
            all_ = leases(8)
            rig.hears(all_)
            await rig.comes_to(routes(*all_))
            for left in (7, 6, 5):
                rig.hears(all_[:left])
                await rig.comes_to(routes(*all_[:left]))
            rig.hears(all_[:4])
            await asyncio.sleep(WINDOW / 2)
            assert rig.has() == routes(*all_[:5])
            await rig.comes_to(routes(*all_[:4]), WINDOW)

    virtually(scenario())


def test_an_empty_table_and_no_leases_are_all_right() -> None:
    async def scenario() -> None:
        async with running() as rig:
            assert rig.world.peers is None
            rig.hears([])
            await reached(lambda: rig.api.status().health == "ok", "health")
            assert rig.api.explain("10.0.0.1").lines[0].text.endswith("routed to: nothing")

    virtually(scenario())


# ---- nothing is absent ----


def absences(rig: Rig) -> list[str]:
    """Destinations without any route at some moment of the cloud's history: of those that a cycle and the one before
    wanted (whatever was done in between was decided by the two), and that had one when it began."""
    history = list(rig.cloud.history)
    found: list[str] = []
    held = {moment.key: moment.entries for moment in history[: rig.prepared]}
    before = Cycle(rig.prepared, rig.cycles[0].wanted)
    for cycle in rig.cycles:
        index = index_of(held)
        served = {dst for dst in cycle.wanted & before.wanted if index.serves(dst)}
        for moment in history[before.moments : cycle.moments]:
            held[moment.key] = moment.entries
            index = index_of(held)
            found.extend(f"{dst} at {moment.at}" for dst in served if not index.serves(dst))
        before = cycle
    return found


def index_of(held: Mapping[Key, tuple[Entry, ...]]) -> Index:
    return Index(entry.dst for entries in held.values() for entry in entries if entry.via is not None)


@pytest.mark.parametrize("fault", ["refused", "lost", "busy"])
@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("aggregate", [True, False])
def test_between_single_routes_and_aggregates_nothing_is_absent(aggregate: bool, number: int, fault: Fault) -> None:
    async def scenario() -> None:
        async with running(Wishes("m", aggregate=aggregate, max_delete=MaxDelete(0))) as rig:
            four = leases(4)
            singles = routes(*four)
            one = {"10.0.0.0/22": A}
            for dst in singles if aggregate else one:
                rig.cloud.put(CloudRoute("default", ip_network(dst), ip_address(A)))
            rig.cloud.faults.at(fault, number)
            rig.hears(four)
            await rig.comes_to(one if aggregate else singles)
            assert absences(rig) == []
            assert len(rig.cloud.faults.met) + rig.cloud.faults.outstanding == 1

    virtually(scenario())


@pytest.mark.parametrize("fault", ["refused", "lost", "busy"])
@pytest.mark.parametrize("number", range(2, 8))
def test_a_host_that_changes_its_address_is_never_absent(number: int, fault: Fault) -> None:
    async def scenario() -> None:
        async with running() as rig:
            for dst in routes(*leases(2)):
                rig.cloud.put(CloudRoute("default", ip_network(dst), ip_address(A)))
            rig.cloud.faults.at(fault, number)
            rig.hears(leases(2, B))
            await rig.comes_to(routes(*leases(2, B)))
            assert absences(rig) == []

    virtually(scenario())


def test_an_aggregate_grows_and_shrinks_with_its_leases() -> None:
    async def scenario() -> None:
        async with running(Wishes("m", aggregate=True)) as rig:
            rig.hears(leases(3))
            await rig.comes_to({"10.0.0.0/23": A, "10.0.2.0/24": A})
            rig.hears(leases(4))
            await rig.comes_to({"10.0.0.0/22": A})
            assert rig.api.routes()[0].network.endswith("10.0.2.0/24 and 10.0.3.0/24 together")
            rig.hears([*leases(3), lease("10.0.3.0/24", B)])
            await rig.comes_to({"10.0.0.0/23": A, "10.0.2.0/24": A, "10.0.3.0/24": B})
            assert absences(rig) == []

    virtually(scenario())


CLAIMS = st.dictionaries(st.integers(0, 7), st.sampled_from([A, B]), max_size=8)
FAULTS: tuple[Fault | None, ...] = (None, None, None, "refused", "lost", "busy")


@settings(max_examples=40)
@given(
    st.lists(CLAIMS, min_size=2, max_size=6), st.booleans(), st.sampled_from([ALL, MaxDelete()]), st.integers(0, 9999)
)
def test_whatever_happens_what_is_wanted_is_not_absent(
    steps: list[dict[int, str]], aggregate: bool, most: MaxDelete, seed: int
) -> None:
    async def scenario() -> None:
        dice = random.Random(seed)
        async with running(Wishes("m", aggregate=aggregate, max_delete=most)) as rig:
            rig.cloud.faults.by_chance(lambda _: dice.choice(FAULTS))
            for claims in steps:
                rig.hears(lease(f"10.0.{n}.0/24", via) for n, via in claims.items())
                await asyncio.sleep(dice.choice((0.005, 0.02, 1.0, 40.0)))
            rig.cloud.faults.by_chance(None)
            wanted = {f"10.0.{n}.0/24": via for n, via in steps[-1].items()}
            await reached(lambda: not rig.is_busy() and led(rig, wanted) == wanted, "what is wanted", 200)
            assert absences(rig) == []

    virtually(scenario())


def led(rig: Rig, subnets: Iterable[str]) -> dict[str, str]:
    """Where packets to each of these go."""
    held = {ip_network(dst): via for dst, via in rig.has().items()}
    index = Index(held)
    best = {one: ip_network(one) if ip_network(one) in held else index.around(ip_network(one)) for one in subnets}
    return {one: held[dst] for one, dst in best.items() if dst is not None}


# ---- before everybody has spoken, and who leads ----


def test_nothing_goes_before_every_source_has_spoken() -> None:
    async def scenario() -> None:
        async with running(Wishes("m", (FLANNEL, "registrar"), max_delete=ALL)) as rig:
            old = CloudRoute("default", ip_network("10.0.9.0/24"), ip_address(B))
            moved = CloudRoute("default", ip_network("10.0.0.0/24"), ip_address(B))
            rig.cloud.put(old)
            rig.cloud.put(moved)
            assert rig.world.waiting() == [FLANNEL, "registrar", "config", TABLES]
            rig.hears(leases(2))
            await reached(lambda: "10.0.1.0/24" in rig.has(), "the addition")
            await asyncio.sleep(100)
            assert rig.has() == {"10.0.0.0/24": B, "10.0.1.0/24": A, "10.0.9.0/24": B}
            assert rig.world.waiting() == ["registrar"]
            rig.world.hear("registrar", known(replace(lease("10.0.9.0/24", B), source="registrar")))
            rig.loop.wake()
            await rig.comes_to({"10.0.0.0/24": A, "10.0.1.0/24": A, "10.0.9.0/24": B})

    virtually(scenario())


def test_without_flannels_own_network_nothing_is_planned_and_what_it_was_holds() -> None:
    async def scenario() -> None:
        async with running() as rig:
            rig.world.hear(FLANNEL, known(*leases(1)))
            rig.loop.wake()
            await asyncio.sleep(40)
            assert (rig.has(), rig.world.waiting()) == ({}, ["config"])
            public = [lease("20.0.0.0/24", A)]
            rig.world.hear_leases(known(*public), (ip_network("20.0.0.0/8"),))
            rig.loop.wake()
            await rig.comes_to(routes(*public))
            rig.world.hear_leases(known(*public, lease("20.0.1.0/24", A)), ())
            rig.loop.wake()
            await rig.comes_to({"20.0.0.0/24": A, "20.0.1.0/24": A})

    virtually(scenario())


def test_what_is_allowed() -> None:
    async def scenario() -> None:
        both = (FLANNEL, "registrar")
        for wishes, spans, kept in (
            (Wishes("m"), (ip_network("10.0.0.0/16"),), {"10.0.0.0/24"}),
            (Wishes("m"), (), {"10.0.0.0/24", "10.1.0.0/24"}),
            (Wishes("m", both), (ip_network("20.0.0.0/8"),), {"10.0.0.0/24", "10.1.0.0/24", "20.0.0.0/24"}),
            (Wishes("m", allowed=(ip_network("10.1.0.0/16"),)), None, {"10.1.0.0/24"}),
        ):
            async with running(wishes) as rig:
                claims = known(*(lease(subnet, A) for subnet in ("10.0.0.0/24", "10.1.0.0/24", "20.0.0.0/24")))
                if spans is None:
                    rig.world.hear(FLANNEL, claims)
                else:
                    rig.world.hear_leases(claims, spans)
                rig.loop.wake()
                await reached(lambda rig=rig, kept=kept: rig.has().keys() == kept, f"{kept}")

    virtually(scenario())


def test_who_does_not_lead_plans_nothing_and_is_well() -> None:
    async def scenario() -> None:
        async with running(leads=False) as rig:
            rig.hears(leases(2))
            await asyncio.sleep(100)
            assert (rig.has(), rig.cloud.calls) == ({}, {})
            assert rig.world.waiting() == [ELECTION]
            assert rig.api.status().health == "ok"
            assert len(rig.api.peers()) == 1
            rig.leads = True
            rig.loop.wake()
            await rig.comes_to(routes(*leases(2)))
            rig.leads = False
            rig.hears([])
            await asyncio.sleep(100)
            assert rig.has() == routes(*leases(2))

    virtually(scenario())


def test_deleting_all_asks_nobody() -> None:
    async def scenario() -> None:
        async with running(Wishes("m", delete_all=True)) as rig:
            for dst in routes(*leases(9)):
                rig.cloud.put(CloudRoute("default", ip_network(dst), ip_address(A)))
            rig.cloud.put_foreign("default", ip_network("10.9.0.0/24"), "a route of somebody else's")
            assert rig.world.waiting() == [TABLES]
            rig.loop.wake()
            await rig.comes_to({})
            assert rig.world.waiting() == []
            assert rig.cloud.entries("default", ip_network("10.9.0.0/24"))

    virtually(scenario())


# ---- what people see ----


def test_somebody_elses_route_is_told_and_left_alone() -> None:
    async def scenario() -> None:
        async with running() as rig:
            rig.cloud.put_foreign("default", ip_network("10.0.1.0/24"), "route by-hand")
            rig.hears(leases(2))
            await reached(lambda: bool(rig.api.status().not_done), "the conflict")
            (row,) = rig.api.status().not_done
            assert (row.object, row.state) == (f"cloud route 10.0.1.0/24 via {A} in table default", "conflict")
            assert "route by-hand" in row.message
            assert rig.has() == routes(*leases(1))

    virtually(scenario())


def test_the_pages_of_weft_show_and_explain() -> None:
    async def scenario() -> None:
        async with running() as rig:
            rig.hears([lease("10.244.72.0/24", A), lease("127.0.0.0/24", B)])
            rig.world.spans = (ip_network("10.244.0.0/16"),)
            await rig.comes_to({"10.244.72.0/24": A})
            (row,) = rig.api.routes()
            assert (row.destination, row.via, row.device, row.node) == (
                "10.244.72.0/24",
                [A],
                "default",
                "10.244.72.0/24",
            )
            assert (row.network, row.state) == (f"lease 10.244.72.0/24 of {A}", "done")
            said = rig.api.explain("10.244.72.5").lines[0]
            assert said.text == f"cloud route 10.244.72.0/24 via {A} in table default"
            assert said.why == f"lease 10.244.72.0/24 of {A} (10.244.72.0/24, told by flannel)"
            status = rig.api.status()
            assert (status.routes, status.peers, status.device, status.node) == (1, 2, "default", "m")
            assert [event.object for event in rig.api.events()] == [said.text]
            peers = {row.node: (row.routed, row.source, row.problems) for row in rig.api.peers()}
            assert peers["10.244.72.0/24"] == (True, "flannel", [])
            assert "127.0.0.0/24 is refused" in peers["127.0.0.0/24"][2][0]
            assert rig.api.networks() == []

    virtually(scenario())


def test_the_clouds_own_words_are_passed_on() -> None:
    said = Problem("i-1", "instance i-1 drops what isn't its own: its source/dest check is on")
    contents = Contents({}, problems=(said,))
    tables = Tables(lambda: ("rtb-1", "rtb-2"), lambda: contents, dict, lambda: 0.0)
    world = RouteWorld(Wishes("m"), tables, lambda: True)
    broken: Known[Node] = Known((), True, (Problem("x", "x can't be read"),))
    world.hear_leases(broken, ())
    assert world.view() is not None
    assert [problem.subject for problem in world.problems()] == ["x", "i-1"]
    assert world.device == "rtb-1, rtb-2"


# ---- who is to end, ends ----


@pytest.mark.parametrize(("dry_run", "limit"), [(True, 0), (False, 2), (False, 3)])
async def test_what_waits_for_a_route_that_can_not_come_keeps_nobody_from_ending(dry_run: bool, limit: int) -> None:
    """Two routes wait for the one that takes their place: in a dry run it never comes, nor into a full table."""
    server = MemoryServer()
    for text, value in (("config", b'{"Network": "10.0.0.0/16"}'), *((f"subnets/10.0.{n}.0-24", OF_A) for n in (0, 1))):
        server.change(Put(f"/coreos.com/network/{text}", value))
    cloud = MemoryRoutes(("default",), Nature(limit=limit))
    for dst in routes(*leases(2)):
        cloud.put(CloudRoute("default", ip_network(dst), ip_address(A)))
    asked = RouteManagerSettings(backend="memory", once=not dry_run, dry_run=dry_run, aggregate=True)
    manager = RouteManager(asked, MemoryStore(server), cloud, Contender("here", 1, "x"))
    manager.start()
    task = asyncio.create_task(manager.loop.run())
    await soon(manager.is_settled, "an end")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await manager.close()
    held = [str(entry.dst) for entries in cloud._tables["default"].values() for entry in entries]
    assert held == (["10.0.0.0/23"] if limit == 3 else ["10.0.0.0/24", "10.0.1.0/24"])
    assert bool(manager.loop.reconciler.account.statuses) is (limit != 3)
    problems = [problem.message for problem in manager.world.problems()]
    assert problems == (FULL if limit == 2 else [])


OF_A = f'{{"PublicIP": "{A}"}}'.encode()
FULL = [
    "1 route does not fit into table default (2 in all; 0 free, 1 to be added); there is room once what they"
    " replace is gone, which stays until then: a little more for a while will do"
]


def test_after_a_start_what_nobody_asks_for_is_kept_for_as_long_as_a_lease_that_ran_out() -> None:
    """Whether its lease ran out a moment ago, or was deleted days ago, only the manager before this one knew."""

    async def scenario() -> None:
        async with running(Wishes("m", grace=60.0)) as rig:
            for number in (1, 2):
                rig.cloud.put(CloudRoute("default", ip_network(f"10.0.{number}.0/24"), ip_address(A)))
            asked = [lease("10.0.1.0/24", A), lease("10.0.3.0/24", B)]
            await asyncio.sleep(100)
            rig.hears(asked)
            await rig.comes_to({**routes(asked[0], asked[1]), "10.0.2.0/24": A})
            assert [text for text in rig.told() if "kept for -grace" in text]
            rig.hears(asked[:1])
            await rig.comes_to({**routes(asked[0]), "10.0.2.0/24": A}, within=5)
            await asyncio.sleep(50)
            assert "10.0.2.0/24" in rig.has()
            await rig.comes_to(routes(asked[0]), within=45)
            assert rig.told() == []

    virtually(scenario())
