"""Real agents on real hosts: Docker Engines, repairs, memory and throughput, in a lab of network namespaces."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from benchmarks import Benchmark, Result, shown
from weft.errors import LabError
from weft.lab import matrix, repair, shell
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.topology import ContainerNetwork

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 60.0
NETWORKS = 20
REPAIRS = 20
"""How often each kind of object is deleted."""
FLOWS = 11
"""Pairs of flows, one of each side."""
SECONDS = 2
CONNECTS = 40


async def _up(document: dict[str, Any], name: str) -> Lab:
    lab = await Lab.up({**document, "name": name}, name)
    if await matrix.settle(lab, PATIENCE) is None:
        await lab.down()
        raise RuntimeError(f"not every container of lab {name} reached every other one within {PATIENCE:g} s")
    return lab


def _example(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


@cache
def docker_lab() -> dict[str, list[float]]:
    """Milliseconds: `network`: from Docker's answer to a route on each other host; `repair`: per deleted object."""
    return asyncio.run(_docker_lab())


async def _docker_lab() -> dict[str, list[float]]:
    lab = await _up(_example("three-hosts"), "bench-docker")
    try:
        network: list[float] = []
        for number in range(NETWORKS):
            wanted = ContainerNetwork(f"bench{number}", (ip_network(f"10.1.{100 + number}.0/24"),))
            seen = await repair.spread(lab, lab.hosts[0], wanted)
            network.extend(max(0.0, after) for after in seen.routed.values())
        repaired = [await repair.mended(lab.hosts[0], fault) for fault in repair.FAULTS for _ in range(REPAIRS)]
    finally:
        await lab.down()
    return {"network": network, "repair": repaired}


def network_to_route() -> Result:
    taken = docker_lab()["network"]
    detail = f"{len(taken)} routes, from Docker's answer; worst {max(taken):.0f} ms"
    return Result("lab.docker-network-to-route.p50", statistics.median(taken), "ms", 100.0, "lower", detail)


def repair_median() -> Result:
    taken = docker_lab()["repair"]
    faults = len(repair.FAULTS)
    each = (taken[at : at + REPAIRS] for at in range(0, faults * REPAIRS, REPAIRS))
    medians = ", ".join(f"{f.name} {statistics.median(t):.1f}" for f, t in zip(repair.FAULTS, each, strict=True))
    detail = f"{len(taken)} deletions, medians: {medians}"
    return Result("lab.repair.p50", statistics.median(taken), "ms", 20.0, "lower", detail)


def repair_worst() -> Result:
    taken = sorted(docker_lab()["repair"])
    at = min(len(taken) - 1, round(0.99 * len(taken)))
    return Result("lab.repair.p99", taken[at], "ms", 200.0, "lower", f"worst {taken[-1]:.1f} ms of {len(taken)}")


def memory() -> Result:
    """Of an agent with three peers: four Docker hosts would take four engines, so the hosts here have none."""
    document = _example("plain")
    document["hosts"]["d"] = {"networks": {"web": {"subnet": "10.4.1.0/24"}}}
    return asyncio.run(_memory(document))


async def _memory(document: dict[str, Any]) -> Result:
    lab = await _up(document, "bench-memory")
    try:
        sizes = [_rss(host) for host in lab.hosts]
    finally:
        await lab.down()
    return Result("lab.agent.rss.3-peers", max(sizes), "MiB", 55.0, "lower", f"largest of {len(sizes)} agents")


def _rss(host: LabHost) -> float:
    agent = host.running("agent")
    if agent is None:
        raise RuntimeError(f"the agent of {host.name} does not run")
    for line in (host.proc / str(agent.pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the agent of {host.name} has ended")


def throughput() -> Result:
    """One TCP flow between containers of two hosts, over weft's VXLAN and over one made by hand, turn by turn."""
    return asyncio.run(_throughput())


async def _throughput() -> Result:
    document = {
        "engine": "docker",
        "segments": {"lan": {"subnet": "192.168.78.0/24"}},
        "hosts": {
            "a": {"networks": {"web": {"subnet": "10.1.1.0/24", "containers": ["one"]}}},
            "b": {"networks": {"web": {"subnet": "10.2.1.0/24", "containers": ["two"]}}},
        },
    }
    bare = {name: {**host, "agent": False} for name, host in document["hosts"].items()}  # type: ignore[attr-defined]
    ours = await _up(document, "bench-ours")
    try:
        hand = await Lab.up({**document, "hosts": bare, "name": "bench-hand"}, "bench-hand")
        try:
            await _by_hand(hand)
            async with _server(ours), _server(hand):
                flows = [await _pair(ours, hand, number) for number in range(FLOWS)]
        finally:
            await hand.down()
    finally:
        await ours.down()
    ratios = [mine / theirs for mine, theirs in flows]
    sides = [statistics.median(flow[side] for flow in flows) for side in (0, 1)]
    detail = f"median of pairs {shown(ratios, 2)}; medians {sides[0]:.2f} against {sides[1]:.2f} Gbit/s"
    return Result("lab.throughput.vs-by-hand", statistics.median(ratios), "ratio", 0.97, "higher", detail)


async def _pair(ours: Lab, hand: Lab, number: int) -> tuple[float, float]:
    """Gbit/s of both, one right after the other; every second pair the other way round."""
    if number % 2:
        theirs = await _flow(hand)
        return await _flow(ours), theirs
    return await _flow(ours), await _flow(hand)


async def _by_hand(lab: Lab) -> None:
    """What a Docker host's administrator would type: a VXLAN device, for the peer a neighbour, an FDB entry and a
    route, and an accept in Docker's firewall and its NAT, without which no packet gets through."""
    macs = {"a": "02:00:00:00:00:0a", "b": "02:00:00:00:00:0b"}
    for host, other in (lab.hosts, lab.hosts[::-1]):
        here, there = (str(_underlay(h)) for h in (host, other))
        (subnet,) = next(network for network in other.host.networks).subnets
        run = ["ip", "-n", host.namespace]
        for line in (
            f"link add vx0 address {macs[host.name]} mtu 1450 type vxlan id 4096 dstport 4789 local {here} nolearning",
            "link set vx0 up",
            f"neigh add {there} lladdr {macs[other.name]} dev vx0 nud permanent",
            f"route add {subnet} via {there} dev vx0 onlink",
        ):
            await shell.run([*run, *line.split()])
        entry = ["fdb", "add", macs[other.name], "dev", "vx0", "dst", there]
        await shell.run(["bridge", "-n", host.namespace, *entry])
        await shell.run(host.inside(["iptables", "-I", "DOCKER-USER", "-j", "ACCEPT"]))
        await shell.run(host.inside(["iptables", "-t", "nat", "-I", "POSTROUTING", "-o", "vx0", "-j", "ACCEPT"]))
    if await matrix.settle(lab, PATIENCE) is None:
        raise RuntimeError("the VXLAN made by hand does not connect its containers")


@asynccontextmanager
async def _server(lab: Lab) -> AsyncIterator[None]:
    """An iperf3 server in the second host's container."""
    host = lab.hosts[1]
    _, container = next(host.host.containers())
    command = await _on_its_network(lab, host, container.name, ["iperf3", "--server"])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def _flow(lab: Lab) -> float:
    """Gbit/s that iperf3 receives."""
    client, server = (next(host.host.containers())[1] for host in lab.hosts)
    words = ["iperf3", "--client", str(server.addresses[0].ip), "--time", str(SECONDS), "--json"]
    command = await _on_its_network(lab, lab.hosts[0], client.name, words)
    for _ in range(CONNECTS):
        try:
            report = json.loads(await shell.run(command))
        except LabError:
            await asyncio.sleep(0.05)  # the server does not listen yet
        else:
            return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    raise RuntimeError(f"no iperf3 server answers: {' '.join(words)}")


async def _on_its_network(lab: Lab, host: LabHost, container: str, words: list[str]) -> list[str]:
    """A command of this machine's, in a container's network namespace alone: there is no iperf3 in the container."""
    command = await lab.container_command(host, container, [])
    return ["nsenter", next(word for word in command if word.startswith("--net=")), *words]


def _underlay(host: LabHost) -> object:
    return host.host.ports[0].address(4)


BENCHMARKS: dict[str, Benchmark] = {
    "lab.agent.rss.3-peers": Benchmark(memory, "resident memory of an agent process with 3 peers"),
    "lab.throughput.vs-by-hand": Benchmark(
        throughput, "one TCP flow between containers of two hosts, next to the same VXLAN made by hand", slow=True
    ),
    "lab.docker-network-to-route.p50": Benchmark(
        network_to_route, "`docker network create` on one host: until the kernels of the others route to it", slow=True
    ),
    "lab.repair.p50": Benchmark(
        repair_median,
        "route, neighbour, FDB entry, next hop, device or chain deleted: until all is as before",
        slow=True,
    ),
    "lab.repair.p99": Benchmark(repair_worst, "the same, the slow end", slow=True),
}
