"""The firewall target beside a real Docker Engine: our rules survive or are mended, and Docker keeps its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from ipaddress import ip_network

import pytest
import pytest_asyncio

from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.eventually import soon
from tests.support.namespace import Namespace, namespace
from tests.support.needs import needs_docker
from weft.core.firewall import Site, wanted
from weft.core.ruleset import JUMP, parse_save
from weft.objects import Chain, Jump, Key, Op, Why
from weft.targets.firewall import FirewallTarget

DEV = "vxlan4096"
BLUE = ip_network("172.28.0.0/16")
GREEN = ip_network("172.29.0.0/16")
WHY = Why("engine", "h1", "the exposed networks of this host")
FWD, NAT = f"{JUMP}WEFT-{DEV}-FWD", f"{JUMP}WEFT-{DEV}-NAT"

pytestmark = needs_docker


class Agent:
    """What the agent does with its firewall: woken, it reads, compares and applies."""

    def __init__(self, ns: Namespace) -> None:
        self.target = FirewallTarget(str(ns.path), DEV.__eq__)
        self.woken = 0
        self.target.watch(self._wake)
        self.subnets = [BLUE]

    def _wake(self) -> None:
        self.woken += 1

    async def cycle(self, full: bool = False) -> list[Key]:
        """The keys that had to be mended."""
        have = (await self.target.read(full)).objects
        site = Site(DEV, tuple(self.subnets), self.target.chains, self.target.refused)
        plan: Mapping[Key, Chain | Jump] = {thing.key: thing for thing in wanted(site)}
        ops = [Op("change" if key in have else "add", plan[key], WHY) for key in plan if have.get(key) != plan[key]]
        ops.sort(key=lambda op: op.object.rank)
        ops += [Op("remove", have[key], WHY) for key in have if key not in plan]
        assert await self.target.apply(ops) == [None] * len(ops)
        return [op.object.key for op in ops]

    async def quiet(self) -> None:
        """Cycle until nobody wakes us and nothing is left. What is left was told of: Docker may be at it still."""
        left = True
        while left:
            while self.woken:
                self.woken = 0
                await self.cycle()
            left = bool(await self.cycle(full=True))
            if left:
                await soon(lambda: self.woken, "the kernel to tell what was mended just now")


Host = tuple[Namespace, DockerEngine]


@pytest.fixture
def host() -> Iterator[Host]:
    with namespace("fwdocker") as ns, docker_engine(ns) as engine:
        engine.docker(f"network create --subnet {BLUE} blue")
        yield ns, engine


@pytest_asyncio.fixture
async def agent(host: Host) -> AsyncIterator[Agent]:
    made = Agent(host[0])
    yield made
    made.target.close()


def tables(ns: Namespace) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    return parse_save(4, ns.run("iptables-save")).tables


def check(ns: Namespace) -> None:
    """Ours stand once, where they must."""
    now = tables(ns)
    assert now["filter"]["DOCKER-USER"] == (FWD, "-j RETURN")
    assert now["filter"]["FORWARD"].count(FWD) == 1
    translations = now["nat"]["POSTROUTING"]
    assert translations.count(NAT) == 1
    assert not any("MASQUERADE" in rule for rule in translations[: translations.index(NAT)])


async def test_the_engine_restarts(host: Host, agent: Agent) -> None:
    ns, engine = host
    await agent.cycle()
    await agent.quiet()
    check(ns)
    engine.stop()
    check(ns)
    engine.start()
    await soon(lambda: agent.woken, "the kernel to tell what Docker does")
    await agent.quiet()
    check(ns)


async def test_a_new_network_inserts_its_masquerading_before_ours(host: Host, agent: Agent) -> None:
    ns, engine = host
    await agent.cycle()
    await agent.quiet()
    engine.docker(f"network create --subnet {GREEN} green")
    assert tables(ns)["nat"]["POSTROUTING"][0].startswith(f"-s {GREEN} ")
    await soon(lambda: agent.woken, "the kernel to tell of the new network")
    agent.subnets = [BLUE, GREEN]
    await agent.quiet()
    check(ns)
    assert f"-d {GREEN} -i {DEV} -j ACCEPT" in tables(ns)["filter"][f"WEFT-{DEV}-FWD"]


async def test_docker_starts_after_us(host: Host, agent: Agent) -> None:
    """As at boot: first a host without Docker's chains, then one with them."""
    ns, engine = host
    engine.stop()
    ns.run("nft", "flush", "ruleset")
    await agent.cycle()
    assert "DOCKER-USER" not in tables(ns)["filter"]
    engine.start()
    await soon(lambda: agent.woken, "the kernel to tell what Docker does")
    await agent.quiet()
    check(ns)


async def test_cleanup_leaves_docker_as_it_was(host: Host, agent: Agent) -> None:
    ns, _ = host
    before = tables(ns)
    await agent.cycle()
    everything = FirewallTarget(str(ns.path))
    have = (await everything.read()).objects
    assert len(have) == 9
    ops = [Op("remove", thing, WHY) for thing in sorted(have.values(), key=lambda thing: -thing.rank)]
    assert await everything.apply(ops) == [None] * len(ops)
    after = tables(ns)
    assert {table: after[table] for table in before} == before
    assert "WEFT" not in ns.run("iptables-save") + ns.run("ip6tables-save")
