"""What an engine does for the Docker source: the same tests on the fake in this process and on a real Docker Engine."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.eventually import patience
from tests.support.fake_docker import FakeDocker, listed
from tests.support.namespace import namespace
from tests.support.needs import needs_docker
from tests.support.sets import Sets, reading
from weft.engines import docker
from weft.engines.docker import Docker
from weft.model import Known, Network


class Rig(Protocol):
    """An engine that a test can change and stop. `create` takes what `docker network create` takes."""

    url: str

    async def create(self, name: str, flags: str = "") -> None: ...
    async def remove(self, name: str) -> None: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...


class FakeRig:
    """The fake, behind a reading of `docker network create`'s flags."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._fake = FakeDocker()
        self._served = AsyncExitStack()

    async def create(self, name: str, flags: str = "") -> None:
        words = flags.replace("--ipv6", "").replace("--internal", "--internal true").split()
        given = list(zip(words[::2], words[1::2], strict=True))
        labels = dict(value.split("=", 1) for flag, value in given if flag == "--label")
        options = dict(value.split("=", 1) for flag, value in given if flag == "--opt")
        subnets = [value for flag, value in given if flag == "--subnet"]
        gateways = [value for flag, value in given if flag == "--gateway"]
        for gateway in gateways:
            place = next(i for i, s in enumerate(subnets) if ip_address(gateway) in ip_network(s.split()[0]))
            subnets[place] += f" via {gateway}"
        internal = ("--internal", "true") in given
        driver = dict(given).get("--driver", "bridge")
        network = listed(name, subnets, driver=driver, labels=labels, options=options, Internal=internal)
        self._fake.add(network)

    async def remove(self, name: str) -> None:
        self._fake.remove(name)

    async def stop(self) -> None:
        await self._served.aclose()

    async def start(self) -> None:
        await self._served.enter_async_context(self._fake.serving(self._path))


class RealRig:
    """A Docker Engine in a namespace, by its own command line."""

    def __init__(self, engine: DockerEngine) -> None:
        self.url = engine.url
        self._engine = engine

    async def create(self, name: str, flags: str = "") -> None:
        await asyncio.to_thread(self._engine.docker, f"network create {flags} {name}")

    async def remove(self, name: str) -> None:
        await asyncio.to_thread(self._engine.docker, f"network rm {name}")

    async def stop(self) -> None:
        await asyncio.to_thread(self._engine.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self._engine.start)


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with namespace("engine") as ns, docker_engine(ns) as engine:
        yield engine


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_docker)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param == "fake":
        fake = FakeRig(tmp_path / "docker.sock")
        await fake.start()
        yield fake
        await fake.stop()
    else:
        engine: DockerEngine = request.getfixturevalue("engine")
        yield RealRig(engine)
        await asyncio.to_thread(engine.docker, "network prune --force")


@pytest.fixture
async def sets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sets[Network]]:
    monkeypatch.setattr(docker, "SETTLED", 0.1)
    source = Docker(rig.url)
    async with reading(source.networks()) as sets:
        await sets.wait(lambda k: k.complete and not k.problems, "the first set")
        yield sets
    await source.close()


def has(name: str) -> Callable[[Known[Network]], bool]:
    return lambda known: any(n.name == name for n in known.items)


def named(known: Known[Network], name: str) -> Network:
    return next(n for n in known.items if n.name == name)


async def test_before_anybody_made_a_network(sets: Sets[Network]) -> None:
    (bridge,) = sets.seen[-1].items
    assert (bridge.name, bridge.bridge, bridge.exposed) == ("bridge", "docker0", False)
    assert bridge.subnets == (ip_network("172.17.0.0/16"),)


async def test_a_network_comes_and_goes(rig: Rig, sets: Sets[Network]) -> None:
    before = time.time()
    await rig.create("blue", "--subnet 10.1.0.0/24")
    blue = named(await sets.wait(has("blue"), "the network to come"), "blue")
    assert blue.subnets == (ip_network("10.1.0.0/24"),)
    assert blue.exposed
    assert blue.bridge.startswith("br-")
    assert before - 1 <= blue.since <= time.time() + 1
    await rig.remove("blue")
    await sets.wait(lambda k: not has("blue")(k), "the network to go")


async def test_several_pools_of_both_families(rig: Rig, sets: Sets[Network]) -> None:
    flags = "--ipv6 --subnet 10.1.0.0/24 --gateway 10.1.0.9 --subnet fd00:1::/64"
    await rig.create("six", f"{flags} --opt com.docker.network.bridge.name=brsix")
    six = named(await sets.wait(has("six"), "the network"), "six")
    assert six.subnets == (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
    assert six.bridge == "brsix"


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--label weft.expose=false", "labelled weft.expose=false"),
        ("--label weft.expose=False", "labelled weft.expose=false"),
        ("--label weft.expose=true", ""),
        ("--internal", "it is internal (--internal): Docker lets nothing in or out"),
    ],
)
async def test_labels_and_internal(rig: Rig, sets: Sets[Network], flags: str, note: str) -> None:
    await rig.create("blue", f"--subnet 10.1.0.0/24 {flags}")
    blue = named(await sets.wait(has("blue"), "the network"), "blue")
    assert (blue.exposed, blue.note) == (not note, note)


async def test_a_bad_label_is_a_problem(rig: Rig, sets: Sets[Network]) -> None:
    await rig.create("blue", "--subnet 10.1.0.0/24 --label weft.expose=maybe")
    known = await sets.wait(has("blue"), "the network")
    assert [p.subject for p in known.problems] == ["network blue"]
    assert not named(known, "blue").exposed


async def test_a_stopped_engine_keeps_its_networks_and_is_found_again(rig: Rig, sets: Sets[Network]) -> None:
    await rig.create("blue", "--subnet 10.1.0.0/24")
    before = await sets.wait(has("blue"), "the network")
    await rig.stop()
    down = await sets.wait(lambda k: bool(k.problems), "the outage to be told")
    assert (down.items, down.complete) == (before.items, True)
    assert "can't be asked since" in down.problems[0].message
    assert "keeping the last known 2 networks" in down.problems[0].message
    await rig.start()
    after = await sets.wait(lambda k: not k.problems, "the recovery", 30)
    assert named(after, "blue") == named(before, "blue"), "a restart of the engine changes no network of ours"
    assert all(has("blue")(k) for k in sets.seen[sets.seen.index(before) :]), "it was never given up"
    await rig.create("red", "--subnet 10.2.0.0/24")
    await sets.wait(has("red"), "a network made after the restart")


async def test_a_new_network_is_known_by_the_time_that_docker_says_so(rig: Rig, sets: Sets[Network]) -> None:
    late = []
    for number in range(20):
        await rig.create(f"n{number}", f"--subnet 10.1.{number}.0/24")
        returned = time.perf_counter()
        await sets.wait(has(f"n{number}"), "the network")
        late.append(time.perf_counter() - returned)
    assert statistics.median(late) < patience(0.25), f"seconds after `docker network create` returned: {sorted(late)}"
