"""The direct path between two hosts is cut, and both still reach others: how long nothing gets through, and what is
lost when it comes back.

Six hosts beside flannel in one lab, so there are fifteen paths to cut, one after the other: the hosts trust a path that
comes back again and again ever less, and none of these has time to become one of those. What is measured is a ping
between two containers, a thousand times a second; the cut is one rule in the switch between the hosts, so that no end
is told. WEFT_BENCH_TRIALS says how many cuts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, cycle, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import Benchmark, Result
from benchmarks.registrar import CONFIG, directly
from weft.lab import matrix, shell, wiring
from weft.lab.host import LabHost
from weft.lab.lab import Lab

TRIALS = int(os.environ.get("WEFT_BENCH_TRIALS", "100"))
HOSTS = "abcdef"
PATIENCE = 60.0
PERIOD = 0.001
PAUSE = 0.02
"""Seconds without an answer that are no accident."""
AFTER = 0.5
"""Seconds of pings after what happened, so that what came of it is seen."""


def document() -> dict[str, Any]:
    hosts: dict[str, Any] = {"store": {"daemon": "none", "etcd": {"config": CONFIG}}}
    hosts |= {name: {"networks": {"web": {"subnet": f"10.9.{n}.0/24"}}} for n, name in enumerate(HOSTS, start=1)}
    return {"engine": "none", "daemon": ["flanneld", "registrar"], "hosts": hosts}


@dataclass(frozen=True, slots=True)
class Trial:
    """`gap`: seconds between the last answer by the direct path and the first by another. `lost`: pings that were never
    answered, of `sent`, from there to half a second after the direct path was taken again."""

    gap: float
    lost: int
    sent: int


@cache
def trials() -> tuple[Trial, ...]:
    return asyncio.run(_trials())


async def _trials() -> tuple[Trial, ...]:
    lab = await Lab.up({**document(), "name": "bench-fail"}, "bench-fail")
    try:
        if await matrix.settle(lab, PATIENCE) is None:
            raise RuntimeError(f"not every container reached every other one within {PATIENCE:g} s")
        paths = islice(cycle(combinations(HOSTS, 2)), TRIALS)
        return tuple([await _trial(lab, lab.host(one), lab.host(other)) for one, other in paths])
    finally:
        await lab.down()


async def _trial(lab: Lab, one: LabHost, other: LabHost) -> Trial:
    await _directly(one, other)
    async with _pinging(lab, one, other) as ping:
        await ping.goes_on()
        async with _cut(lab, one, other):
            before = time.time()
            await ping.goes_on(since=before)
        turned = ping.answered()[-1]
        await _directly(one, other)
        await ping.goes_on()
    answers = ping.answers()
    times = [when for when, _ in answers]
    gap = max(later - earlier for earlier, later in pairwise(times) if earlier <= turned)
    seen = {number for when, number in answers if when > turned}
    return Trial(gap - PERIOD, len(set(range(min(seen), max(seen))) - seen), len(seen))


async def _directly(one: LabHost, other: LabHost) -> None:
    await directly(one, other)
    await directly(other, one)


# -- the cut ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _cut(lab: Lab, one: LabHost, other: LabHost) -> AsyncIterator[None]:
    """Frames between the two vanish in the switch, in both directions and at the same moment."""
    here, there = [await _mac(host) for host in (one, other)]
    rules = f"ether saddr {here} ether daddr {there} drop\nether saddr {there} ether daddr {here} drop"
    nft = ["nsenter", f"--net=/run/netns/{wiring.fabric(lab.name)}", "nft"]
    chain = f"table bridge cut {{ chain forward {{ type filter hook forward priority 0;\n{rules}\n}}\n}}\n"
    await shell.run([*nft, "-f", "-"], chain)
    try:
        yield
    finally:
        await shell.run([*nft, "delete", "table", "bridge", "cut"])


async def _mac(host: LabHost) -> str:
    (link,) = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", "link", "show", "dev", "eth0"]))
    return str(link["address"])


# -- the ping ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ping:
    """A ping that is under way, or over: what it prints goes to `output`, and is `told` at its end."""

    output: Path
    told: str = ""

    def answers(self) -> list[tuple[float, int]]:
        """(seconds since 1970, sequence number) of every answer, in the order of the requests."""
        found = re.findall(r"^\[([\d.]+)\] .* icmp_seq=(\d+) ", self.told or self.output.read_text(), re.MULTILINE)
        return [(float(when), int(number)) for when, number in found]

    def answered(self) -> list[float]:
        return [when for when, _ in self.answers()]

    async def goes_on(self, since: float = 0.0) -> None:
        """Return when answers have come for a while: after `since`, a moment at which they may have ceased, the first
        of them after a pause."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            await asyncio.sleep(AFTER)
            times = self.answered()
            recent = [when for when in times if when > max(since, time.time() - AFTER)]
            if recent and (not since or max(b - a for a, b in pairwise(times[-5000:])) > PAUSE):
                return
        raise RuntimeError(f"no answers for {PATIENCE:g} s")


@asynccontextmanager
async def _pinging(lab: Lab, one: LabHost, other: LabHost) -> AsyncIterator[_Ping]:
    _, source = next(one.host.containers())
    _, target = next(other.host.containers())
    words = ["stdbuf", "-oL", "ping", "-n", "-D", "-i", str(PERIOD), str(target.addresses[0].ip)]
    space = await lab.container_namespace(one, source)
    with tempfile.NamedTemporaryFile(prefix="weft-bench-") as output:
        process = await asyncio.create_subprocess_exec("nsenter", f"--net={space}", *words, stdout=output)
        ping = _Ping(Path(output.name))
        try:
            yield ping
        finally:
            process.send_signal(signal.SIGINT)
            await process.wait()
            ping.told = ping.output.read_text()


# -- figures ----------------------------------------------------------------------------------------------------------


def _share(part: float) -> float:
    gaps = sorted(1000 * trial.gap for trial in trials())
    return gaps[min(len(gaps) - 1, round(part * len(gaps)))]


def gap_median() -> Result:
    gaps = [1000 * trial.gap for trial in trials()]
    detail = f"{len(gaps)} cuts; {min(gaps):.0f} to {max(gaps):.0f} ms"
    return Result("failover.gap.p50", median(gaps), "ms", 1000.0, "lower", detail)


def gap_worst() -> Result:
    return Result("failover.gap.p99", _share(0.99), "ms", 1000.0, "lower", f"worst {_share(1.0):.0f} ms")


def back() -> Result:
    lost, sent = (sum(getattr(trial, name) for trial in trials()) for name in ("lost", "sent"))
    return Result("failover.back.lost", lost, "pings", 0.0, "lower", f"of {sent}, {len(trials())} returns")


BENCHMARKS: dict[str, Benchmark] = {
    "failover.gap.p50": Benchmark(
        gap_median, "direct path cut: how long a ping at 1 kHz is not answered, until a relay carries it", slow=True
    ),
    "failover.gap.p99": Benchmark(gap_worst, "the same, the slow end", slow=True),
    "failover.back.lost": Benchmark(back, "the direct path works again: pings lost on the way back to it", slow=True),
}
