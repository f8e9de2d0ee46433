"""What probing costs, and how soon it notices a cut: real processes, in namespaces of their own."""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks import Benchmark, Result
from benchmarks.namespace import namespace
from benchmarks.prober import packets, processor_time, sets, start

PEERS = 49
MEASURED = 20.0
SETTLING = 4.0
TRIALS = 20
DEADLINE = 20.0
HERE = IPv4Address("198.18.0.1")
THERE = IPv4Address("198.18.1.0")
CUT = 'add table netdev cut; add chain netdev cut c { type filter hook egress device "eth0" priority 0; policy drop; }'


@contextmanager
def cable(peers: int) -> Iterator[tuple[str, str]]:
    """Two namespaces (paths): one with HERE, the other with an address of 198.18/15 (RFC 2544) for each peer."""
    with namespace("probing") as here, namespace("probed") as there:
        one, other = Path(here).name, Path(there).name
        addresses = [f"address add {THERE + n}/15 dev eth0" for n in range(1, peers + 1)]
        _ip(one, "link add eth0 type veth peer name eth0 netns " + other, f"address add {HERE}/15 dev eth0")
        _ip(one, "link set eth0 up")
        _ip(other, "link set eth0 up", *addresses)
        yield here, there


def _ip(netns: str, *lines: str) -> None:
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input="\n".join(lines).encode(), check=True)


@contextmanager
def probing(peers: int, budget: int) -> Iterator[tuple[str, str, subprocess.Popen[bytes], Path]]:
    """One end with `peers` paths to the other, which all are up: (its namespace, the other's, its process, what it
    tells)."""
    ours = [f"n{n},eth0,{HERE},{THERE + n},1500" for n in range(1, peers + 1)]
    theirs = [f"n{n},eth0,{THERE + n},{HERE},1500" for n in range(1, peers + 1)]
    with tempfile.TemporaryDirectory() as folder, cable(peers) as (here, there):
        out = Path(folder, "ours")
        processes = [start(here, budget, ours, out), start(there, budget, theirs, Path(folder, "theirs"))]
        try:
            wait(lambda: bool(sets(out)) and all(s == "up" for s, _ in sets(out)[-1][1].values()), "all paths to be up")
            yield here, there, processes[0], out
        finally:
            for process in processes:
                process.kill()
                process.wait()


def wait(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {DEADLINE:g} s for {what}")
        time.sleep(0.01)


@cache
def cost(budget: int) -> tuple[float, float, float]:
    """(% of a core, packets per second, microseconds per packet) of an agent's probing, settled."""
    with probing(PEERS, budget) as (here, _, process, _):
        time.sleep(SETTLING)
        began, spent, count = time.monotonic(), processor_time(process.pid), packets(here)
        time.sleep(MEASURED)
        seconds = time.monotonic() - began
        used, rate = processor_time(process.pid) - spent, (packets(here) - count) / seconds
    return 100 * used / seconds, rate, 1e6 * used / seconds / rate


def idle() -> Result:
    percent, rate, each = cost(120)
    return Result("liveness.cpu.49-peers", percent, "%", 0.2, "lower", f"{rate:.0f} packets/s, {each:.1f} µs each")


def fast() -> Result:
    percent, rate, each = cost(500)
    return Result("liveness.cpu.49-peers.fast", percent, "%", 0.8, "lower", f"{rate:.0f} packets/s, {each:.1f} µs each")


@cache
def detection() -> list[float]:
    """Seconds from a cut of both ways until this end says so, sorted."""
    taken: list[float] = []
    with probing(1, 120) as (here, there, _, out):
        for _ in range(TRIALS):
            wait(lambda: sets(out)[-1][1]["n1"][0] == "up", "the path to be up")
            time.sleep(0.5 + len(taken) * 0.013)  # at any moment between two packets
            began = time.monotonic()
            for netns in (here, there):
                subprocess.run(["nsenter", f"--net={netns}", "nft", CUT], check=True)
            wait(lambda: sets(out)[-1][1]["n1"][0] == "down", "the cut to be noticed")
            taken.append(sets(out)[-1][0] - began)
            for netns in (here, there):
                subprocess.run(["nsenter", f"--net={netns}", "nft", "delete table netdev cut"], check=True)
    return sorted(taken)


def _detected(name: str, share: float) -> Result:
    taken = detection()
    value = taken[math.ceil(share * len(taken)) - 1]
    detail = f"{len(taken)} cuts; s {' '.join(f'{seconds:.2f}' for seconds in taken)}"
    return Result(name, value, "s", 0.75, "lower", detail)


def half() -> Result:
    return _detected("liveness.detection.p50", 0.5)


def slowest() -> Result:
    return _detected("liveness.detection.p99", 0.99)


BENCHMARKS: dict[str, Benchmark] = {
    "liveness.cpu.49-peers": Benchmark(idle, "processor time of probing 49 peers, 120 packets per second", slow=True),
    "liveness.cpu.49-peers.fast": Benchmark(fast, "the same with 500 packets per second", slow=True),
    "liveness.detection.p50": Benchmark(half, "a path of 200 ms × 3 is cut: until its end says so", slow=True),
    "liveness.detection.p99": Benchmark(slowest, "the same, the slow end", slow=True),
}
