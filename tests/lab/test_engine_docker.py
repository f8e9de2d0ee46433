"""What only a real Docker Engine can show the Docker source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.namespace import namespace
from tests.support.needs import needs_docker
from tests.support.sets import reading
from weft.engines.docker import Docker
from weft.model import Known, Network

pytestmark = needs_docker


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with namespace("engine") as ns, docker_engine(ns) as engine:
        yield engine


def has(*names: str) -> Callable[[Known[Network]], bool]:
    return lambda known: {n.name for n in known.items} >= set(names)


async def test_macvlan_overlay_and_swarm_s_bridge(engine: DockerEngine) -> None:
    engine.ns.ip("link add lan0 type veth peer name lan1")
    source = Docker(engine.url)
    async with reading(source.networks()) as sets:
        await asyncio.to_thread(engine.docker, "network create -d macvlan -o parent=lan0 --subnet 10.3.0.0/24 lan")
        await asyncio.to_thread(engine.docker, "swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1")
        await asyncio.to_thread(engine.docker, "network create -d overlay --subnet 10.4.0.0/24 over")
        known = await sets.wait(has("over", "lan", "ingress", "docker_gwbridge"), "Swarm's networks", 30)
    await source.close()
    await asyncio.to_thread(engine.docker, "swarm leave --force")
    await asyncio.to_thread(engine.docker, "network rm lan docker_gwbridge")
    notes = {n.name: n.note for n in known.items if not n.exposed}
    assert notes.keys() == {"bridge", "lan", "ingress", "over", "docker_gwbridge"}
    assert "on the LAN itself (macvlan)" in notes["lan"]
    assert notes["over"] == notes["ingress"] == "it is Swarm's, which connects its hosts itself"
    assert "Swarm's own way out" in notes["docker_gwbridge"]


async def test_an_engine_that_crashes_and_comes_back(engine: DockerEngine) -> None:
    await asyncio.to_thread(engine.docker, "network create --subnet 10.1.0.0/24 blue")
    source = Docker(engine.url)
    async with reading(source.networks()) as sets:
        before = await sets.wait(has("blue"), "the network")
        await asyncio.to_thread(engine.kill)
        down = await sets.wait(lambda k: bool(k.problems), "the outage to be told")
        assert (down.items, down.complete) == (before.items, True)
        await asyncio.to_thread(engine.start)
        await sets.wait(lambda k: has("blue")(k) and not k.problems, "the recovery", 30)
        assert all(has("blue")(k) for k in sets.seen[sets.seen.index(before) :])
    await source.close()
    await asyncio.to_thread(engine.docker, "network rm blue")
