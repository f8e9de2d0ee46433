"""`weft flanneld` as a process, on a real etcd with thousands of leases in it, all in one namespace.

What is timed is seen from outside: from the start of the process, or from the put into etcd, to the kernel's own
notification of the route.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from benchmarks import Benchmark, Result, shown
from benchmarks.etcd_writer import ENDPOINT
from benchmarks.namespace import namespace
from weft.targets.kernel.codec import messages
from weft.targets.kernel.constants import RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE
from weft.targets.kernel.hops import decode_route
from weft.targets.kernel.socket import NetlinkSocket

PUTS = 200
BURST = 1000
ROUNDS = 3
PATIENCE = 60.0
IDLE = 20.0


@dataclass(slots=True)
class Rig:
    """One namespace with etcd and an uplink in it."""

    netns: str
    folder: Path
    writer: asyncio.subprocess.Process
    daemon: subprocess.Popen[bytes] | None = None

    async def write(self, verb: str, first: int, count: int, pace: float = 0.0) -> list[float]:
        """See `etcd_writer.py`."""
        assert self.writer.stdin is not None
        assert self.writer.stdout is not None
        self.writer.stdin.write(json.dumps([verb, first, count, pace]).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            times: list[float] = json.loads(await self.writer.stdout.readline())
        return times

    def start(self) -> float:
        """Start the daemon; when that was, by time.monotonic()."""
        command = [
            *("nsenter", f"--net={self.netns}", sys.executable, "-m", "weft.cli.main", "flanneld"),
            *(f"-etcd-endpoints={ENDPOINT}", f"-subnet-file={self.folder}/subnet.env", "-iface=eth0"),
            f"-socket={self.folder}/flanneld.sock",
        ]
        log = (self.folder / "flanneld.log").open("ab")
        started = time.monotonic()
        self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        return started

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(PATIENCE)
            self.daemon = None

    def rss(self) -> float:
        """MiB."""
        assert self.daemon is not None
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("flanneld has ended")

    def cpu(self) -> float:
        """Seconds of processor time until now."""
        assert self.daemon is not None
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Routes:
    """What the kernel tells of routes of ours in a namespace: when each came or went, by time.monotonic()."""

    def __init__(self, netns: str) -> None:
        self._socket = NetlinkSocket(netns, 1 << 25, (RTNLGRP_IPV4_ROUTE,))
        self._names: dict[int, str] = {}
        self.came: dict[object, float] = {}
        self.gone: dict[object, float] = {}
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._hear)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _hear(self) -> None:
        now = time.monotonic()
        for received in self._socket.waiting():
            for message in messages(received):
                state = decode_route(message, self._names, {})
                if state is not None and state.protocol == 76:
                    {RTM_NEWROUTE: self.came, RTM_DELROUTE: self.gone}[message.kind][state.key] = now

    async def until(self, count: int) -> float:
        """When the last of so many routes came."""
        deadline = time.monotonic() + PATIENCE
        while len(self.came) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(self.came)} of {count} routes came in {PATIENCE:g} s")
            await asyncio.sleep(0.005)
        return max(self.came.values())


@contextlib.asynccontextmanager
async def rig(leases: int) -> AsyncIterator[Rig]:
    """A namespace with an etcd that holds the config and so many leases."""
    with namespace("flanneld") as netns, tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        _uplink(netns)
        with _etcd(netns, Path(folder)):
            writer = await asyncio.create_subprocess_exec(
                *("nsenter", f"--net={netns}", sys.executable, "-m", "benchmarks.etcd_writer"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                limit=1 << 24,
            )
            it = Rig(netns, Path(folder), writer)
            try:
                assert writer.stdout is not None
                async with asyncio.timeout(PATIENCE):
                    await writer.stdout.readline()  # it has reached etcd
                await it.write("put", 0, leases)
                yield it
            finally:
                it.stop()
                writer.terminate()
                await writer.wait()


def _uplink(netns: str) -> None:
    for words in (
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "address add 192.0.2.1/24 dev eth0",
    ):
        subprocess.run(["nsenter", f"--net={netns}", "ip", *words.split()], check=True)


@contextlib.contextmanager
def _etcd(netns: str, folder: Path) -> Iterator[None]:
    command = [
        *("nsenter", f"--net={netns}", "etcd", "--data-dir", str(folder / "etcd")),
        *("--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT),
    ]
    with (folder / "etcd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


async def _start_among(leases: int, rounds: int) -> list[float]:
    """Seconds from the start of the process to the last route, each time in a new namespace."""
    seconds = []
    for _ in range(rounds):
        async with rig(leases) as it:
            with contextlib.closing(Routes(it.netns)) as routes:
                started = it.start()
                seconds.append(await routes.until(leases) - started)
    return seconds


@cache
def _running() -> Mapping[str, tuple[float, str]]:
    """The figures of one daemon among 3,000 leases."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, tuple[float, str]]:
    async with rig(3000) as it:
        with contextlib.closing(Routes(it.netns)) as routes:
            it.start()
            await routes.until(3000)
            puts = sorted(await _latencies(it, routes))
            burst = await _burst(it, routes)
            rss = it.rss()
            await asyncio.sleep(IDLE / 4)
            before = it.cpu()
            await asyncio.sleep(IDLE)
            idle = 100 * (it.cpu() - before) / IDLE
    worst = puts[int(len(puts) * 0.99)]
    said = f"ms of {len(puts)}: median {median(puts):.2f}, 99th percentile {worst:.2f}, worst {puts[-1]:.2f}"
    return {
        "p50": (median(puts), said),
        "p99": (worst, said),
        "burst": (burst, f"{BURST} puts in a second, then as many deletes"),
        "rss": (rss, "after the burst"),
        "idle": (idle, f"per cent of one core in {IDLE:g} s"),
    }


async def _latencies(it: Rig, routes: Routes) -> list[float]:
    """Milliseconds from a put into etcd to its route, one after the other."""
    found = []
    for i in range(5000, 5000 + PUTS):
        before = set(routes.came)
        (put,) = await it.write("put", i, 1, 0.001)
        await routes.until(len(before) + 1)
        (key,) = set(routes.came) - before
        found.append(1e3 * (routes.came[key] - put))
    return found


async def _burst(it: Rig, routes: Routes) -> float:
    """Seconds from the last put, or delete, to the last route that came, or went."""
    count = len(routes.came)
    last = max(await it.write("put", 10_000, BURST, 1 / BURST))
    came = await routes.until(count + BURST) - last
    last = max(await it.write("delete", 10_000, BURST, 1 / BURST))
    deadline = time.monotonic() + PATIENCE
    while len(routes.gone) < BURST:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(routes.gone)} of {BURST} routes went")
        await asyncio.sleep(0.005)
    return max(came, max(routes.gone.values()) - last)


def _figure(name: str, what: str, unit: str, bar: float) -> Result:
    value, detail = _running()[what]
    return Result(name, value, unit, bar, "lower", detail)


def start_3k() -> Result:
    seconds = asyncio.run(_start_among(3000, ROUNDS))
    return Result("flanneld.start.3k", median(seconds), "s", 0.9, "lower", shown(seconds))


def start_20k() -> Result:
    seconds = asyncio.run(_start_among(20_000, 1))
    return Result("flanneld.start.20k", median(seconds), "s", 4.0, "lower", shown(seconds))


def rss_100() -> Result:
    return Result("flanneld.rss.100", asyncio.run(_rss(100)), "MiB", 60.0, "lower")


async def _rss(leases: int) -> float:
    async with rig(leases) as it:
        with contextlib.closing(Routes(it.netns)) as routes:
            it.start()
            await routes.until(leases)
            await asyncio.sleep(1)
            return it.rss()


BENCHMARKS: dict[str, Benchmark] = {
    "flanneld.start.3k": Benchmark(start_3k, "3,000 leases in etcd: from the start of the process to the last route"),
    "flanneld.start.20k": Benchmark(start_20k, "the same with 20,000", slow=True),
    "flanneld.put-to-route.p50": Benchmark(
        lambda: _figure("flanneld.put-to-route.p50", "p50", "ms", 3.0),
        "3,000 leases in etcd, one more is put: until the kernel has its route",
        slow=True,
    ),
    "flanneld.put-to-route.p99": Benchmark(
        lambda: _figure("flanneld.put-to-route.p99", "p99", "ms", 20.0), "the same, the slow end", slow=True
    ),
    "flanneld.burst.1k": Benchmark(
        lambda: _figure("flanneld.burst.1k", "burst", "s", 1.0),
        "1,000 puts in one second, and 1,000 deletes: from the last of them to the last route",
        slow=True,
    ),
    "flanneld.rss.100": Benchmark(rss_100, "resident memory of flanneld with 100 leases"),
    "flanneld.rss.3k": Benchmark(
        lambda: _figure("flanneld.rss.3k", "rss", "MiB", 80.0), "resident memory with 3,000 leases", slow=True
    ),
    "flanneld.idle": Benchmark(
        lambda: _figure("flanneld.idle", "idle", "%", 0.5), "processor time of flanneld with 3,000 leases", slow=True
    ),
}
