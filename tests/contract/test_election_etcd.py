"""Elections on a real etcd of three members, which are killed and stopped, as are the managers. At no instant do two
believe that they lead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count

import msgspec
import pytest

from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import patience, soon
from weft.agent.contender import Contender, Leader
from weft.agent.election import SHARE, Election, Standing
from weft.stores.etcd import EtcdOptions, EtcdStore

pytestmark = needs_etcd
LIFE = 4
GRAIN = 0.005
SLACK = 1.5
"""Seconds: etcd looks twice a second for leases that ended, and the machine is shared."""
_numbers = count()
CHILD = """
import asyncio, sys, time
from weft.agent.contender import contender_here
from weft.agent.election import Election
from weft.stores.etcd import EtcdOptions, EtcdStore

async def main() -> None:
    election = Election(EtcdStore(EtcdOptions((sys.argv[1],))), sys.argv[2], contender_here(), int(sys.argv[3]))
    async def follow() -> None:
        async for _ in election.standings():
            pass
    task = asyncio.ensure_future(follow())
    while not task.done():
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        print(int(election.leads()), before, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster(3) as three:
        yield three


@dataclass(eq=False)
class Manager:
    election: Election
    store: EtcdStore
    seen: list[Standing] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        async for standing in self.election.standings():
            self.seen.append(standing)

    async def die(self) -> None:
        """kill -9: nothing is said to etcd."""
        await self.election.close()
        await self.store.close()


@dataclass
class World:
    """A key of its own in the etcd that the module shares."""

    etcd: Etcd
    key: str
    managers: list[Manager] = field(default_factory=list)
    led: list[Manager] = field(default_factory=list)
    judged: int = 0

    def manager(self) -> Manager:
        store = EtcdStore(EtcdOptions(self.etcd.endpoints, timeout=2.0))
        number = len(self.managers)
        made = Manager(Election(store, self.key, Contender(f"m{number}", 0, f"run-{number}"), LIFE), store)
        made.task = asyncio.ensure_future(made.follow())
        self.managers.append(made)
        return made

    async def judge(self) -> None:
        while True:
            self.judge_now()
            self.judged += 1
            await asyncio.sleep(GRAIN)

    def judge_now(self) -> None:
        leaders = [manager for manager in self.managers if manager.election.leads()]
        assert len(leaders) < 2, f"two lead: {[one.seen[-2:] for one in leaders]}"
        self.led.extend(one for one in leaders if self.led[-1:] != [one])

    async def leader(self, *among: Manager, within: float = 3 * LIFE) -> Manager:
        some = among or self.managers
        await soon(lambda: any(one.election.leads() for one in some), "a leader", within)
        self.judge_now()
        return next(one for one in some if one.election.leads())

    def value(self) -> Leader:
        return msgspec.json.decode(self.etcd.ctl("get", "--print-value-only", self.key), type=Leader)


@pytest.fixture
async def world(etcd: Etcd) -> AsyncIterator[World]:
    made = World(etcd, f"/test/election-{next(_numbers)}")
    judging = asyncio.ensure_future(made.judge())
    yield made
    made.judge_now()
    for manager in made.managers:
        await manager.die()
        assert manager.task is not None
        await manager.task
    if judging.done():
        judging.result()
    judging.cancel()
    assert made.judged > 10


async def test_one_leads_another_takes_over_when_it_resigns_and_when_it_dies(world: World) -> None:
    managers = [world.manager() for _ in range(3)]
    first = await world.leader()
    assert world.value().host == f"m{managers.index(first)}"
    await soon(lambda: all(one.seen[-1].leader == world.value() for one in managers), "all to know")
    began = time.monotonic()
    await first.election.resign()
    others = [one for one in managers if one is not first]
    second = await world.leader(*others)
    assert time.monotonic() - began < LIFE - LIFE / SHARE, "its lease need not be waited for"
    (third,) = (one for one in others if one is not second)
    began = time.monotonic()
    await second.die()
    await world.leader(third)
    assert LIFE / 2 <= time.monotonic() - began <= patience(LIFE + SLACK), "its lease had to end"
    assert world.led == [first, second, third]


async def test_members_of_etcd_are_killed_and_stopped_and_the_leader_stays(world: World) -> None:
    """Whichever member is asked, and whichever leads the cluster."""
    first = world.manager()
    await world.leader()
    second = world.manager()
    await soon(lambda: second.seen and second.seen[-1].leader, "the second to know")
    asked = next(one for one in world.etcd.members if one.endpoint == first.store.endpoint)
    asked.kill()
    asked.start(wait=False)  # from this thread, since it dies with the one that started it
    await soon(asked.listens, "the member to take connections", 20)
    assert first.election.leads()
    asked = next(one for one in world.etcd.members if one.endpoint == first.store.endpoint)
    asked.pause()
    try:
        began = asyncio.get_running_loop().time()
        await soon(lambda: asyncio.get_running_loop().time() > began + LIFE + SLACK, "the lease's life to pass")
    finally:
        asked.resume()
    began = asyncio.get_running_loop().time()
    await soon(lambda: asyncio.get_running_loop().time() > began + 1, "what the member thinks to be told")
    await world.leader()
    assert set(world.led) == {first}


async def test_nobody_leads_without_a_majority_and_one_does_with_it_again(world: World) -> None:
    first, second = world.manager(), world.manager()
    await world.leader()
    for member in world.etcd.members[:2]:
        member.kill()
    try:
        began = time.monotonic()
        await soon(lambda: not first.election.leads() and not second.election.leads(), "nobody to lead")
        assert time.monotonic() - began <= LIFE + SLACK
        await soon(lambda: all(one.seen[-1].problem for one in (first, second)), "both to say why")
    finally:
        for member in world.etcd.members[:2]:
            member.start()
    await world.leader()
    await soon(lambda: not any(one.seen[-1].problem for one in (first, second)), "no more problems")


async def test_a_process_that_is_stopped_does_not_lead_when_it_goes_on(world: World) -> None:
    arguments = (world.etcd.endpoints[0], world.key, str(LIFE))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told: list[tuple[bool, float]] = []

    async def listen() -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            leads, moment = line.split()
            told.append((leads == b"1", float(moment)))

    listening = asyncio.ensure_future(listen())
    try:
        await soon(lambda: told and told[-1][0], "the child to lead")
        heir = world.manager()
        await soon(lambda: heir.seen and heir.seen[-1].leader, "the heir to know")
        child.send_signal(signal.SIGSTOP)
        await world.leader(heir)
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        heard = len(told)
        child.send_signal(signal.SIGCONT)
        await soon(lambda: len(told) > heard + 50, "the child to go on")
        assert not any(leads for leads, moment in told if moment > since - 0.1)
        assert heir.election.leads()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGCONT)
            child.kill()
        await child.wait()
        await listening


async def test_what_a_killed_manager_of_this_machine_left_is_not_waited_for(world: World) -> None:
    arguments = (world.etcd.endpoints[0], world.key, "60")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    while not (await child.stdout.readline()).startswith(b"1"):
        continue
    child.kill()
    await child.wait()
    began = time.monotonic()
    await world.leader(world.manager())
    assert time.monotonic() - began < patience(2), "its lease would live for a minute"
    assert json.loads(world.etcd.ctl("get", "--print-value-only", world.key))["host"] == "m0"
