"""`weft route-manager` as a process, on a real etcd and a local Compute API that takes its time, all in one namespace.

What is timed is seen from outside: from the put of a lease into etcd to the API's acceptance of the route. The time
that the API's operations take besides is not in the figures.
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
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import Benchmark, Result
from benchmarks.etcd_writer import ENDPOINT, subnet
from benchmarks.namespace import namespace

API = "127.0.0.1:8085"
PENDING, RUNNING = 0.05, 0.1
"""Seconds that an operation takes: a third of what Google's do, and more than all the rest here."""
PUTS, EACH = 60, 0.25
"""Leases that come one after the other, and seconds between two."""
ROUTES, RATE, BURST = 1000, 40.0, 60
"""The large table; the calls a second that the daemon is told to make for it, which is what the API takes; and how many
it takes at once. Google counts by the minute; the daemon sends 20 at once."""
IDLE = 120.0
PATIENCE = 180.0
ASK = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen('http://{}/lab/history').read())"


@dataclass(slots=True)
class Rig:
    """One namespace with etcd and the API in it, and the daemon once it is started."""

    netns: str
    folder: Path
    writer: asyncio.subprocess.Process
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net={self.netns}", *command]

    async def write(self, verb: str, first: int, count: int, pace: float = 0.0) -> list[float]:
        """See `etcd_writer.py`."""
        assert self.writer.stdin is not None
        assert self.writer.stdout is not None
        self.writer.stdin.write(json.dumps([verb, first, count, pace]).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            times: list[float] = json.loads(await self.writer.stdout.readline())
        return times

    def start(self, rate: float) -> float:
        """Start the daemon; when that was, by time.monotonic()."""
        where = {"GCE_METADATA_HOST": API, "GCE_METADATA_IP": API, "GCE_METADATA_ROOT": API, "NO_GCE_CHECK": "false"}
        flags = (
            f"-etcd-endpoint={ENDPOINT}",
            f"-google-endpoint=http://{API}",
            f"-requests-per-second={rate:g}",
            f"-socket={self.folder}/manager.sock",
        )
        log = (self.folder / "manager.log").open("ab")
        started = time.monotonic()
        command = self.inside(sys.executable, "-m", "weft.cli.main", "route-manager", *flags)
        self.daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **where}))
        return started

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE)
        self.daemons.clear()

    def history(self) -> Any:
        """What the API says of itself, weft.lab.compute.history; times are time.monotonic()."""
        command = self.inside(sys.executable, "-c", ASK.format(API))
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def accepted(self) -> dict[str, float]:
        """When each route that is there was asked for: destination → time."""
        changes = self.history()["changes"]
        there = ((change["after"]["destRange"], change["at"]) for change in changes if change["after"])
        return {dst: at - PENDING - RUNNING for dst, at in there}

    def calls(self) -> Sequence[Mapping[str, Any]]:
        """Of the API itself: tokens and the like aren't counted."""
        return [
            call for call in self.history()["calls"] if call["method"].partition(".")[0] not in ("metadata", "oauth2")
        ]

    async def until(self, count: int) -> dict[str, float]:
        """`accepted`, once there are so many of flannel's."""
        deadline = time.monotonic() + PATIENCE
        while len(found := {dst: at for dst, at in self.accepted().items() if dst.startswith("10.")}) < count:
            if time.monotonic() > deadline:
                log = (self.folder / "manager.log").read_text()[-2000:]
                raise RuntimeError(f"{len(found)} of {count} routes came in {PATIENCE:g} s; its log ends:\n{log}")
            await asyncio.sleep(0.5)
        return found


@contextlib.asynccontextmanager
async def rig(leases: int, rate: float | None = None) -> AsyncIterator[Rig]:
    """A namespace with an etcd that holds the config and so many leases, and an API that takes `rate` a second."""
    with contextlib.ExitStack() as stack:
        netns = stack.enter_context(namespace("route-manager"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="weft-bench-"))
        stack.enter_context(_etcd(netns, Path(folder)))
        stack.enter_context(_api(netns, Path(folder), rate))
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


@contextlib.contextmanager
def _etcd(netns: str, folder: Path) -> Iterator[None]:
    where = ("--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT)
    with _running(netns, folder / "etcd.log", "etcd", "--data-dir", str(folder / "etcd"), *where):
        yield


@contextlib.contextmanager
def _api(netns: str, folder: Path, rate: float | None) -> Iterator[None]:
    """Hosts' addresses are 198.18.0.0/15, as `etcd_writer` makes them."""
    ready = folder / "api.ready"
    asked = [
        *("--listen", API, "--range", "198.18.0.0/15", "--instance", "manager=198.19.255.1", "--quota", "5000"),
        *("--pending", str(PENDING), "--running", str(RUNNING), "--ready", str(ready)),
        *(("--rate", str(rate), "--burst", str(BURST)) if rate is not None else ()),
    ]
    with _running(netns, folder / "api.log", sys.executable, "-m", "weft.lab.compute", *asked):
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the local API does not start: {(folder / 'api.log').read_text()}")
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def _running(netns: str, log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(["nsenter", f"--net={netns}", *command], stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@cache
def _puts() -> list[float]:
    """Milliseconds from the put of a lease to the acceptance of its route, sorted."""
    return asyncio.run(_measure_puts())


async def _measure_puts() -> list[float]:
    async with rig(100) as it:
        it.start(rate=1000.0)
        await it.until(100)
        asked = await it.write("put", 5000, PUTS, EACH)
        accepted = await it.until(100 + PUTS)
        return sorted(1e3 * (accepted[subnet(5000 + n)] - at) for n, at in enumerate(sorted(asked)))


def _of_puts(name: str, share: float, bar: float) -> Result:
    puts = _puts()
    said = f"ms of {len(puts)}: median {median(puts):.1f}, 95th percentile {puts[int(len(puts) * 0.95)]:.1f}"
    figure = median(puts) if share == 0.5 else puts[int(len(puts) * share)]
    return Result(name, figure, "ms", bar, "lower", f"{said}, worst {puts[-1]:.1f}")


def put_p50() -> Result:
    return _of_puts("route-manager.lease-to-route.p50", 0.5, 50.0)


def put_p95() -> Result:
    return _of_puts("route-manager.lease-to-route.p95", 0.95, 100.0)


@dataclass(frozen=True, slots=True)
class Filled:
    """What a thousand leases took against an empty table. `seconds`: from the first call to the last acceptance;
    `calls`, `outcomes`: of the API, by method, and by status; `idle`: calls a minute afterwards."""

    seconds: float
    calls: Mapping[str, int]
    outcomes: Mapping[str, int]
    idle: float


@cache
def _filled() -> Filled:
    return asyncio.run(_fill())


async def _fill() -> Filled:
    async with rig(ROUTES, RATE) as it:
        it.start(RATE)
        accepted = await it.until(ROUTES)
        await asyncio.sleep(PENDING + RUNNING + 2.0)
        calls = it.calls()
        first = min(call["at"] for call in calls)
        outcomes = Counter(f"{call['status']} {call['reason']}".strip() for call in calls)
        by_method = Counter(call["method"] for call in calls)
        await asyncio.sleep(IDLE)
        idle = (len(it.calls()) - len(calls)) * 60.0 / IDLE
        return Filled(max(accepted.values()) - first, by_method, outcomes, idle)


def _said(filled: Filled) -> str:
    calls = ", ".join(f"{count} {method}" for method, count in sorted(filled.calls.items()))
    outcomes = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(filled.outcomes.items()))
    return f"{calls}; answers: {outcomes}; {filled.seconds:.1f} s"


def thousand_calls() -> Result:
    filled = _filled()
    writing = sum(
        count for method, count in filled.calls.items() if method.startswith("routes.") and "list" not in method
    )
    return Result("route-manager.thousand.calls", writing / ROUTES, "calls each", 1.0, "lower", _said(filled))


def thousand_time() -> Result:
    filled = _filled()
    share = filled.seconds / (ROUTES / RATE)
    detail = f"{filled.seconds:.1f} s at {RATE:g} calls a second, of which a route takes one; {_said(filled)}"
    return Result("route-manager.thousand.time", share, "× limit", 1.5, "lower", detail)


def idle_calls() -> Result:
    filled = _filled()
    return Result("route-manager.idle", filled.idle, "calls/min", 2.0, "lower", f"in {IDLE:g} s, {ROUTES} routes")


BENCHMARKS: dict[str, Benchmark] = {
    "route-manager.lease-to-route.p50": Benchmark(
        put_p50, "a lease is put into etcd: until the cloud's API is asked for its route", slow=True
    ),
    "route-manager.lease-to-route.p95": Benchmark(put_p95, "the same, the slow end", slow=True),
    "route-manager.thousand.calls": Benchmark(
        thousand_calls, "1,000 leases against an empty table: writing calls for each route", slow=True
    ),
    "route-manager.thousand.time": Benchmark(
        thousand_time, "the same: seconds, next to what the API's rate limit leaves for one call each", slow=True
    ),
    "route-manager.idle": Benchmark(idle_calls, "calls of the API a minute while nothing happens", slow=True),
}
