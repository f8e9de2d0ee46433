"""The whole cycle among 10,000 peers: acceptance, plan, diff and apply on a real kernel, in a namespace of its own."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from statistics import median

from benchmarks import Benchmark, Result, shown
from benchmarks.namespace import namespace
from weft.agent.reconcile import Reconciler
from weft.agent.world import World
from weft.backends.tunnel import vtep_mac
from weft.core.identity import Identity
from weft.daemons.process import spare_the_collector
from weft.model import DefaultRoute, Host, Known, Network, Node, Profile, Uplink
from weft.objects import Fdb, Neighbour, NextHop, Route
from weft.targets.kernel.target import KernelTarget

PEERS = 10_000
ROUNDS = 3
MOVES = 5
VNI = 4096
ALLOWED = (ip_network("10.0.0.0/8"),)
HOST = Host((Uplink("eth0", 1500, (ip_interface("192.0.2.1/24"),), (DefaultRoute(4),)),))
OWN = Network("home", (ip_network("172.30.0.0/24"),), since=0.0)


def peers(count: int) -> tuple[Node, ...]:
    """Nodes n00000…, each with a /28 of 10/8 and an endpoint in 198.18/15 (RFC 2544)."""
    nodes = []
    for i in range(count):
        subnet = IPv4Network((int(IPv4Address("10.0.0.0")) + 16 * i, 28))
        endpoint = IPv4Address(int(IPv4Address("198.18.0.0")) + i)
        network = Network("web", (subnet,), since=float(i))
        name = f"n{i:05}"
        nodes.append(Node(name, (endpoint,), 4789, VNI, vtep_mac(name, VNI), 1500, (network,), source="multicast"))
    return tuple(nodes)


@dataclass(slots=True)
class Rig:
    world: World
    reconciler: Reconciler

    async def cycle(self, full: bool = False) -> tuple[float, int]:
        """Seconds until a reading shows what was done, and the number of ops that were carried out."""
        started = time.perf_counter()
        await self.reconciler.read(full)
        view = self.world.view()
        if view is None:
            raise RuntimeError("the benchmark's world makes no view")
        report = await self.reconciler.mend(view)
        await self.reconciler.read()
        if report.failed:
            raise RuntimeError(f"{len(report.failed)} ops failed, e.g. {next(iter(report.failed.items()))}")
        return time.perf_counter() - started, len(report.done)


@contextmanager
def rig() -> Iterator[Rig]:
    with namespace("cycle") as netns:
        identity = Identity("bench", VNI, 4789, "bench", endpoints=(ip_address("192.0.2.1"),), interface="eth0")
        world = World(identity, Profile(), ALLOWED, Known((OWN,), True), Known(peers(PEERS), True), HOST)
        target = KernelTarget("weft:agent:bench", vtep_mac("bench", VNI), netns)
        try:
            yield Rig(world, Reconciler((target,)))
        finally:
            target.close()


@cache
def measured() -> Mapping[str, tuple[float, str]]:
    """The three figures, each a median, from one run."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, tuple[float, str]]:
    spare_the_collector()
    cold: list[float] = []
    verify: list[float] = []
    change: list[float] = []
    for _ in range(ROUNDS):
        with rig() as it:
            gc.collect()
            seconds, ops = await it.cycle(full=True)
            cold.append(seconds)
            kinds = (Neighbour, Fdb, NextHop, Route)
            held = sum(isinstance(thing, kinds) for thing in it.reconciler.actual())
            if held != 4 * PEERS:
                raise RuntimeError(f"{held} objects in the kernel, not {4 * PEERS}")
            await it.cycle()
            seconds, done = await it.cycle(full=True)
            if done:
                raise RuntimeError(f"{done} ops where there was nothing to do")
            verify.append(seconds)
            change.extend([await _move(it, i) for i in range(MOVES)])
    return {
        "cold": (median(cold), f"{ops} objects; seconds {shown(cold)}"),
        "verify": (median(verify), f"read, plan, diff; seconds {shown(verify)}"),
        "change": (median(change), f"ms {shown([1e3 * seconds for seconds in change], 1)}"),
    }


async def _move(it: Rig, i: int) -> float:
    """One peer gets another endpoint: acceptance, plan, diff and the kernel's new FDB entry, neighbour and next hop."""
    known = it.world.peers
    if known is None:
        raise RuntimeError("no peers")
    nodes = list(known.items)
    nodes[i] = replace(nodes[i], endpoints=(IPv4Address(int(nodes[i].endpoints[0]) + 40_000),))
    started = time.perf_counter()
    it.world.peers = Known(tuple(nodes), True)
    _, done = await it.cycle()
    if done < 3:
        raise RuntimeError(f"a moved peer came to {done} ops")
    return time.perf_counter() - started


def cold() -> Result:
    value, detail = measured()["cold"]
    return Result("cycle.10k.cold", value, "s", 0.8, "lower", detail)


def verify() -> Result:
    value, detail = measured()["verify"]
    return Result("cycle.10k.verify", value, "s", 0.3, "lower", detail)


def change() -> Result:
    value, detail = measured()["change"]
    return Result("cycle.10k.one-peer-changed", value * 1e3, "ms", 10.0, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    "cycle.10k.cold": Benchmark(cold, "10,000 peers known and nothing in the kernel: accept, plan, compare, write"),
    "cycle.10k.verify": Benchmark(verify, "10,000 peers, all as it should be: read the kernel anew, plan, compare"),
    "cycle.10k.one-peer-changed": Benchmark(change, "10,000 peers, one moves: until the kernel has it"),
}
