"""World, Loop and Announcer: what may be planned when, and that sources can break, end and come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

import pytest

from tests.build import PRIVATE, VNI, known, network, node, uplink
from tests.support.eventually import soon
from weft.agent.announcer import Announcer
from weft.agent.loop import Loop
from weft.agent.reconcile import Clock, Reconciler
from weft.agent.world import World
from weft.core.identity import Identity, Self
from weft.errors import EngineError
from weft.model import Host, Known, Node, Problem, Profile, View
from weft.objects import Route
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget

IDENTITY = Identity("a", VNI, 4789, "test")
HOST = Host((uplink("eth0", "192.0.2.1/24"), uplink("br-home", "10.1.0.1/24", default=())))
HOME = Known((network("home", "10.1.0.0/24"),), True)
B = node("b", "192.0.2.2", "10.2.0.0/24")


def world(**known_: object) -> World:
    made = World(IDENTITY, Profile(), PRIVATE)
    for name, value in known_.items():
        setattr(made, name, value)
    return made


def test_nothing_is_planned_before_the_kernel_and_the_engine_have_answered() -> None:
    assert world().view() is None
    assert world(host=HOST).view() is None
    assert world(engine=HOME).view() is None
    assert world(host=HOST, engine=replace(HOME, complete=False), peers=known(B)).view() is None
    assert world(host=HOST, engine=HOME).view() is not None


def test_without_peers_additions_may_go_on_and_removals_wait() -> None:
    for peers, synced in ((None, False), (known(B, complete=False), False), (known(B), True)):
        view = world(host=HOST, engine=HOME, peers=peers).view()
        assert view is not None
        assert view.synced is synced


def test_the_view_holds_what_was_accepted_and_the_problems_of_everybody() -> None:
    engine = replace(HOME, problems=(Problem("docker", "docker is away"),))
    rival = node("c", "192.0.2.3", "10.1.0.0/24")
    view = world(host=HOST, engine=engine, peers=known(B, rival)).view()
    assert view is not None
    assert [n.id for n in view.nodes] == ["b", "c"]
    assert [p.message for p in view.problems] == [
        "docker is away",
        "node c's network web 10.1.0.0/24 is refused: it overlaps 10.1.0.0/24, network home of this host (a)",
    ]
    assert view.me.overlay == (ip_address("10.1.0.1"),)


def test_a_host_without_ipv6_plans_none_and_says_how_much_it_leaves_out() -> None:
    six = node("c", "192.0.2.3", "fd00:3::/64", "10.3.0.0/24")
    dual = Host(
        (uplink("eth0", "192.0.2.1/24"), uplink("br-home", "10.1.0.1/24", "fd00:1::1/64", default=())), ipv6=False
    )
    engine = Known((network("home", "10.1.0.0/24", "fd00:1::/64"),), True)
    view = world(host=dual, engine=engine, peers=known(B, six)).view()
    assert view is not None
    assert [str(s) for n in view.nodes for w in n.networks for s in w.subnets] == ["10.2.0.0/24", "10.3.0.0/24"]
    assert view.me.overlay == (ip_address("10.1.0.1"),)
    (problem,) = view.problems
    assert problem.message.startswith("1 IPv6 networks of peers are not routed: this host has no IPv6")
    small = Host((uplink("eth0", "192.0.2.1/24", mtu=1280),))
    narrow = world(host=small, engine=engine, peers=known(six)).view()
    assert narrow is not None
    assert "the tunnel's MTU is 1230, and IPv6 needs 1280" in narrow.problems[0].message


def test_a_host_without_an_uplink_says_so_and_plans_nothing() -> None:
    lost = world(host=Host(), engine=HOME)
    assert lost.view() is None
    assert [p.message.partition(",")[0] for p in lost.problems()] == ["no default route"]


def test_the_underlay_is_what_this_host_has() -> None:
    six = Host((uplink("eth0", "fd00::1/64", default=(6,)),))
    view = world(host=six, engine=HOME).view()
    assert view is not None
    assert view.profile.underlay == 6


class Rig:
    def __init__(self, **known_: object) -> None:
        self.kernel = MemoryTarget(KERNEL_KINDS + FIREWALL_KINDS)
        self.world = world(**known_)
        self.views: list[View | None] = []
        self.loop = Loop(self.world, Reconciler((self.kernel,)), 3600.0, self.views.append)

    async def routes(self) -> set[str]:
        return {str(thing.dst) for thing in (await self.kernel.read()).objects.values() if isinstance(thing, Route)}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.loop.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_source_wakes_the_loop_and_a_broken_one_is_asked_again() -> None:
    rig = Rig(host=HOST, engine=HOME)
    asked = 0

    async def source() -> AsyncIterator[Known[Node]]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise EngineError("not yet")
        if asked == 2:
            yield known(B)
            return
        yield known(B, node("c", "192.0.2.3", "10.3.0.0/24"))
        await asyncio.Event().wait()

    def keep(value: Known[Node]) -> None:
        rig.world.peers = value

    rig.loop.follow("discovery", source, keep)
    async with rig.running():
        await soon(lambda: rig.loop.view is not None and len(rig.loop.view.nodes) == 2, "two peers")
        assert asked == 3
        await soon(lambda: len(rig.loop.reconciler.account.last.done) > 0, "a cycle")
        assert await rig.routes() == {"10.2.0.0/24", "10.3.0.0/24"}


async def test_tampering_is_repaired_without_waiting_for_the_timer() -> None:
    rig = Rig(host=HOST, engine=HOME, peers=known(B))
    async with rig.running():
        await asyncio.wait_for(rig.loop.ready.wait(), 60)
        key = next(k for k in rig.loop.reconciler.plan.wanted if k[0] == "route")
        rig.kernel.tamper_delete(key)
        account = rig.loop.reconciler.account
        await soon(lambda: account.cycles > 1 and bool(account.last.done), "the repair")
        assert await rig.routes() == {"10.2.0.0/24"}


async def test_problems_are_logged_once_and_when_they_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(host=HOST, engine=replace(HOME, problems=(Problem("docker", "docker is away"),)))
    with caplog.at_level("INFO", "weft"):
        await rig.loop.step()
        await rig.loop.step()
        rig.world.engine = HOME
        await rig.loop.step()
    said = [r.getMessage() for r in caplog.records if "docker" in r.getMessage()]
    assert said == ["docker is away", "no longer: docker is away"]


async def test_an_outage_that_says_something_else_each_time_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC names another cause with each attempt; who reads the log wants to know the first few, and how it is now."""
    causes = ("refused", "no route", "no answer in time")
    rig = Rig(host=HOST)
    clock = [1000.0]
    monkeypatch.setattr(rig.loop.reconciler, "clock", Clock(now=lambda: clock[0]))

    async def hear(message: str, after: float = 1.0) -> None:
        clock[0] += after
        lasting = Problem("b", "somebody else's trouble")
        problems = (Problem("docker", message), lasting) if message else (lasting,)
        rig.world.engine = replace(HOME, problems=problems)
        await rig.loop.step()

    with caplog.at_level("INFO", "weft"):
        for number in range(59):
            await hear(f"docker: {causes[number % 3]}")
        told = [record.getMessage() for record in caplog.records if "docker" in record.getMessage()]
        assert told == [f"docker: {cause}" for cause in (*causes, causes[0])]
        await hear("docker: no route", after=60)
        await hear("")
        await hear("docker: refused")
    told = [record.getMessage() for record in caplog.records if "docker" in record.getMessage()]
    assert told[4:] == ["docker: no route", "no longer: docker: no route", "docker: refused"]
    assert caplog.text.count("somebody else's trouble") == 1


async def test_failures_are_logged_shortly(caplog: pytest.LogCaptureFixture) -> None:
    peers = known(*(node(f"n{i}", f"192.0.2.{i + 2}", f"10.{i + 2}.0.0/24") for i in range(4)))
    rig = Rig(host=HOST, engine=HOME, peers=peers)
    rig.kernel.faults.fail_next(1000)
    with caplog.at_level("INFO", "weft"):
        await rig.loop.step()
        await rig.loop.step()
        text = caplog.text
    assert "more failed; see `weft show status`" in text
    assert "made to fail" in text


class Spy:
    """A discovery that yields what it is given. Each one made is in `made`."""

    name = "spy"

    def __init__(self, made: list[Spy], place: Self) -> None:
        made.append(self)
        self.place = place
        self.told: list[Node] = []
        self.closed = False
        self.sets: asyncio.Queue[Known[Node] | None] = asyncio.Queue()
        self.fault: Exception | None = None

    def announce(self, me: Node) -> None:
        self.told.append(me)

    async def peers(self) -> AsyncIterator[Known[Node]]:
        while (known_ := await self.sets.get()) is not None:
            if self.fault is not None:
                raise self.fault
            yield known_

    def departed(self) -> Collection[str]:
        return ()

    def last_seen(self) -> Mapping[str, float]:
        return {"b": 5.0}

    def counters(self) -> Mapping[str, int]:
        return {"received.HELLO": 1}

    async def close(self) -> None:
        self.closed = True
        self.sets.put_nowait(None)


def here(uplink_: str = "eth0", endpoint: str = "192.0.2.1") -> Self:
    return Self(node("a", endpoint), 4, uplink_)


async def test_the_announcer_follows_this_host_to_another_uplink() -> None:
    made: list[Spy] = []
    announcer = Announcer(partial(Spy, made))
    assert announcer.last_seen() == {}
    announcer.tell(None)
    announcer.tell(Self(None))
    announcer.tell(here())
    source = announcer.peers()
    first = asyncio.ensure_future(anext(source))
    await soon(lambda: bool(made), "a discovery")
    made[0].sets.put_nowait(known(B))
    assert await first == known(B)
    announcer.tell(here(endpoint="192.0.2.7"))
    assert [str(n.endpoints[0]) for n in made[0].told] == ["192.0.2.1", "192.0.2.7"]
    announcer.tell(here("wg0", "172.24.90.1"))
    with pytest.raises(StopAsyncIteration):
        await anext(source)
    again = announcer.peers()
    second = asyncio.ensure_future(anext(again))
    await soon(lambda: len(made) == 2, "another discovery")
    assert made[0].closed
    assert made[1].place.uplink == "wg0"
    assert announcer.last_seen() == {"b": 5.0}
    made[1].sets.put_nowait(known(complete=False))
    assert await second == known(B, complete=False), "who was not heard yet is not gone"
    made[1].sets.put_nowait(known())
    assert await anext(again) == known()
    await announcer.close()
    with pytest.raises(StopAsyncIteration):
        await anext(again)
    assert made[1].closed


async def test_a_discovery_that_a_fault_has_ended_is_made_anew_and_nobody_is_forgotten() -> None:
    made: list[Spy] = []
    announcer = Announcer(partial(Spy, made))
    announcer.tell(here())
    source = announcer.peers()
    first = asyncio.ensure_future(anext(source))
    await soon(lambda: bool(made), "a discovery")
    made[0].sets.put_nowait(known(B))
    assert await first == known(B)
    made[0].fault = RuntimeError("a fault")
    made[0].sets.put_nowait(known(B))
    with pytest.raises(RuntimeError, match="a fault"):
        await anext(source)
    assert made[0].closed
    again = asyncio.ensure_future(anext(announcer.peers()))
    await soon(lambda: len(made) == 2, "another discovery")
    assert [n.id for n in made[1].told] == ["a"]
    made[1].sets.put_nowait(known(complete=False))
    assert await again == known(B, complete=False)
    await announcer.close()


async def test_a_silent_announcer_tells_nothing() -> None:
    made: list[Spy] = []
    announcer = Announcer(partial(Spy, made), announcing=False)
    announcer.tell(here())
    waiting = asyncio.ensure_future(anext(announcer.peers()))
    await soon(lambda: bool(made), "a discovery")
    announcer.tell(here(endpoint="192.0.2.9"))
    assert made[0].told == []
    waiting.cancel()


async def test_listening_makes_a_view_without_a_cycle() -> None:
    rig = Rig(engine=HOME)

    async def hosts() -> AsyncIterator[Host]:
        yield HOST
        await asyncio.Event().wait()

    def keep(host: Host) -> None:
        rig.world.host = host

    rig.loop.follow("host", hosts, keep)
    await rig.loop.listen(0.2)
    changes = await rig.loop.preview()
    rig.loop.stop()
    assert changes is not None
    assert len(changes.ops) > 1
    assert rig.views == [rig.world.view()]
    assert rig.kernel.applied == []
