"""The kernel target alone: writing and reading the objects of many peers, next to iproute2 in the same run.

Each peer is a neighbour, an FDB entry, a next-hop object and a route; every round works in a fresh namespace, after the
kernel has taken down that of the round before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from statistics import median

from benchmarks import Benchmark, Result, in_turns, shown
from benchmarks.namespace import namespace
from weft.daemons.process import spare_the_collector
from weft.model import Mac, mac_text
from weft.objects import Fdb, Link, Neighbour, NextHop, Object, Op, Route, Vxlan, Why
from weft.targets.kernel.target import KernelTarget

DEV = "vxlan4096"
OWNER = "weft:agent:bench"
MAC = Mac(b"\x02\x00\x00\x00\x00\x01")
LINK = Link(DEV, MAC, 1450, Vxlan(4096, 4789, ip_address("192.0.2.1")), OWNER)
WHY = Why("bench", "bench", "bench")
HOP = 0x70000000
METRIC = 100
ROUNDS = 5
LONG_ROUNDS = 3


def endpoint(i: int) -> IPv4Address:
    """In 198.18.0.0/15 (RFC 2544)."""
    return IPv4Address(0xC6120000 + i)


def peer_mac(i: int) -> Mac:
    return Mac(b"\x02\x01" + i.to_bytes(4, "big"))


def subnet(i: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + 256 * i, 24))


def entries(count: int) -> list[Object]:
    neighbours: list[Object] = [Neighbour(DEV, endpoint(i), peer_mac(i)) for i in range(count)]
    return neighbours + [Fdb(DEV, peer_mac(i), endpoint(i)) for i in range(count)]


def our_layout(count: int) -> list[Object]:
    """By rank, as the diff would order them."""
    hops: list[Object] = [NextHop(HOP + i, DEV, endpoint(i)) for i in range(count)]
    routes = [Route(subnet(i), DEV, nexthop=HOP + i, metric=METRIC) for i in range(count)]
    return entries(count) + hops + routes


def gateway_layout(count: int) -> list[Object]:
    """Without next-hop objects: a gateway of its own for each route, all of one metric."""
    return entries(count) + [Route(subnet(i), DEV, via=endpoint(i), onlink=True) for i in range(count)]


@contextmanager
def device() -> Iterator[str]:
    """The path of a new namespace with our VXLAN device in it."""
    with namespace("kernel") as netns:
        asyncio.run(_apply(netns, [LINK]))
        yield netns


async def _apply(netns: str, things: Sequence[Object], filed: list[float] | None = None) -> float:
    """Seconds from the ops to the kernel's last answer, with which `ip -batch` ends too. `filed` gets those to a
    reading that shows them all: the target files what it wrote when somebody looks, or in idle moments."""
    target = KernelTarget(OWNER, MAC, netns)
    try:
        await target.read()
        ops = [Op("add", thing, WHY) for thing in things]
        gc.collect()
        started = time.perf_counter()
        answers = await target.apply(ops)
        seconds = time.perf_counter() - started
        reading = await target.read()
        looked = time.perf_counter() - started
        failures = [answer.message for answer in answers if answer is not None]
        if failures:
            raise RuntimeError(f"{len(failures)} ops failed, the first: {failures[0]}")
        in_kernel = await target.read(full=True)
        if min(len(reading.objects), len(in_kernel.objects)) < len(things):
            raise RuntimeError(
                f"{len(reading.objects)} of {len(things)} objects are read, {len(in_kernel.objects)} in full"
            )
        if filed is not None:
            filed.append(looked)
        return seconds
    finally:
        target.close()


async def _read(netns: str, expected: int) -> float:
    """Seconds that a target without memory takes to read everything into objects."""
    target = KernelTarget(OWNER, MAC, netns)
    try:
        gc.collect()
        started = time.perf_counter()
        reading = await target.read()
        seconds = time.perf_counter() - started
        if len(reading.objects) != expected:
            raise RuntimeError(f"{len(reading.objects)} objects read, not {expected}")
        return seconds
    finally:
        target.close()


def iproute2_apply(netns: str, count: int) -> float:
    """Seconds of `ip -batch` and `bridge -batch` for our layout."""
    ip, bridge = [], []
    for i in range(count):
        gateway, mac = endpoint(i), mac_text(peer_mac(i))
        ip.append(f"neigh replace {gateway} lladdr {mac} dev {DEV} nud permanent")
        bridge.append(f"fdb replace {mac} dst {gateway} dev {DEV}")
    ip += [f"nexthop add id {HOP + i} via {endpoint(i)} dev {DEV} onlink proto 76" for i in range(count)]
    ip += [f"route add {subnet(i)} nhid {HOP + i} metric {METRIC} proto 76" for i in range(count)]
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        seconds = 0.0
        for tool, lines in (("ip", ip), ("bridge", bridge)):
            batch = Path(folder, tool)
            batch.write_text("\n".join(lines) + "\n")
            seconds += _timed(lambda tool=tool, batch=batch: _run(netns, tool, "-batch", str(batch)))  # type: ignore[misc]
    return seconds


def iproute2_read(netns: str, count: int) -> float:
    """Seconds of `ip -j` and `bridge -j` for the same objects, with json.loads; the tools filter as weft does."""
    commands = (
        ("ip", "-j", "neigh", "show", "dev", DEV),
        ("bridge", "-j", "fdb", "show", "dev", DEV),
        ("ip", "-j", "nexthop", "show", "dev", DEV),
        ("ip", "-j", "route", "show", "proto", "76"),
    )
    gc.collect()
    seconds = 0.0
    for command in commands:
        started = time.perf_counter()
        found = json.loads(_run(netns, *command))
        seconds += time.perf_counter() - started
        if len(found) < count:
            raise RuntimeError(f"{' '.join(command)} shows {len(found)} objects, not {count}")
    return seconds


def _run(netns: str, *command: str) -> bytes:
    return subprocess.run(["nsenter", f"--net={netns}", *command], check=True, capture_output=True).stdout


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _our_apply(count: int, filed: list[float]) -> float:
    with device() as netns:
        return asyncio.run(_apply(netns, our_layout(count), filed))


def _their_apply(count: int) -> float:
    with device() as netns:
        return iproute2_apply(netns, count)


def _gateway_apply(count: int) -> float:
    with device() as netns:
        return asyncio.run(_apply(netns, gateway_layout(count)))


def _with_filing(seconds: Sequence[float], filed: Sequence[float]) -> str:
    return f"{shown(seconds)}, filed after {median(filed):.3f}"


def apply_versus_iproute2() -> Result:
    spare_the_collector()
    filed: list[float] = []
    ours, theirs = in_turns(ROUNDS, lambda: _our_apply(10_000, filed), lambda: _their_apply(10_000))
    detail = f"seconds: weft {_with_filing(ours, filed)}, ip and bridge -batch {shown(theirs)}"
    return Result("kernel.apply.10k.vs-ip-batch", median(theirs) / median(ours), "x", 2.5, "higher", detail)


def apply_versus_gateways() -> Result:
    spare_the_collector()
    filed: list[float] = []
    ours, gateways = in_turns(LONG_ROUNDS, lambda: _our_apply(10_000, filed), lambda: _gateway_apply(10_000))
    detail = f"seconds: next-hop objects {_with_filing(ours, filed)}, a gateway per route {shown(gateways)}"
    return Result("kernel.apply.10k.vs-gateway-layout", median(gateways) / median(ours), "x", 10.0, "higher", detail)


def apply_50k() -> Result:
    spare_the_collector()
    filed: list[float] = []
    seconds = [_our_apply(50_000, filed) for _ in range(LONG_ROUNDS)]
    detail = f"200,000 objects: {_with_filing(seconds, filed)}"
    return Result("kernel.apply.50k", median(seconds), "s", 0.7, "lower", detail)


def dump_50k() -> Result:
    spare_the_collector()
    count = 50_000
    with device() as netns:
        asyncio.run(_apply(netns, our_layout(count)))
        ours, theirs = in_turns(
            ROUNDS, lambda: asyncio.run(_read(netns, 4 * count + 1)), lambda: iproute2_read(netns, count)
        )
    detail = f"seconds: weft {shown(ours)}, ip and bridge -j with json.loads {shown(theirs)}"
    return Result("kernel.dump.50k.vs-ip-json", median(ours) / median(theirs), "x", 0.8, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    "kernel.apply.10k.vs-ip-batch": Benchmark(
        apply_versus_iproute2, "writing the objects of 10,000 peers, next to `ip -batch` and `bridge -batch`"
    ),
    "kernel.apply.10k.vs-gateway-layout": Benchmark(
        apply_versus_gateways, "next-hop objects, next to a gateway for each of 10,000 routes"
    ),
    "kernel.apply.50k": Benchmark(apply_50k, "writing the objects of 50,000 peers", slow=True),
    "kernel.dump.50k.vs-ip-json": Benchmark(
        dump_50k, "reading the objects of 50,000 peers, next to `ip -j` and `bridge -j`", slow=True
    ),
}
