"""What only a real Docker Engine can show the Docker source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.namespace import Namespace, namespace
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


MADE = {
    "g1": ("--subnet 10.1.0.0/24", {"10.1.0.1"}),
    "g2": ("--subnet 10.2.0.9/20", {"10.2.0.1"}),
    "g3": ("--subnet 10.3.0.0/24 --ip-range 10.3.0.128/25", set[str]()),
    "g4": ("--ipv6 --subnet 10.4.0.0/24 --subnet fd00:4::/64", {"10.4.0.1", "fd00:4::1"}),
    "g5": ("--subnet 10.5.0.0/24 --gateway 10.5.0.77", {"10.5.0.77"}),
    "g6": ("--subnet 10.6.0.0/24 --opt com.docker.network.bridge.inhibit_ipv4=true", set[str]()),
}
"""Flags, and what may be told: an address in doubt is left out."""


def on_bridge(ns: Namespace, bridge: str) -> set[str]:
    (link,) = ns.ip_json(f"address show dev {bridge}")
    return {a["local"] for a in link["addr_info"]}


async def test_gateways_that_nobody_asked_for_are_what_the_bridge_has(engine: DockerEngine) -> None:
    """Docker does not list a gateway that it took itself; ours must be an address that the bridge really has."""
    for name, (flags, _) in MADE.items():
        await asyncio.to_thread(engine.docker, f"network create {flags} {name}")
    source = Docker(engine.url)
    async with reading(source.networks()) as sets:
        known = await sets.wait(has(*MADE), "the networks")
    await source.close()
    bridges = {n.name: on_bridge(engine.ns, n.bridge) for n in known.items}
    await asyncio.to_thread(engine.docker, "network rm " + " ".join(MADE))
    told = {n.name: {str(g) for g in n.gateways} for n in known.items if n.name in MADE}
    assert told == {name: gateways for name, (_, gateways) in MADE.items()}
    assert {name for name in told if not told[name] <= bridges[name]} == set()


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
