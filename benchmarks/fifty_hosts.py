"""Fifty hosts with a registrar each, on one machine: how long until all reach all, and what it costs when all is calm.

The lab stands before the first registrar starts, so that starting them is all that is timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import Benchmark, Result
from benchmarks.flanneld import Routes
from weft.lab import matrix, netns, schema, services
from weft.lab.host import LabHost
from weft.lab.lab import STARTING, Lab
from weft.lab.topology import ServiceName

HOSTS = int(os.environ.get("WEFT_BENCH_HOSTS", "50"))
PATIENCE = 120.0
CALM = 45.0
"""Seconds until what the start stirred up is over."""
IDLE = 60.0
"""An INTERVAL: each host's heartbeat is in it once."""
NAME = "bench-fifty"
TICKS = os.sysconf("SC_CLK_TCK")


def document() -> dict[str, Any]:
    """`h1` to `h50`, each with one network and a container in it, and a host for etcd alone."""
    hosts: dict[str, Any] = {"store": {"daemon": "none", "etcd": {}}}
    hosts |= {f"h{n}": {"networks": {"web": {"subnet": f"10.9.{n}.0/24"}}} for n in range(1, HOSTS + 1)}
    segments = {"lan": {"subnet": "192.168.64.0/22"}}
    return {"name": NAME, "engine": "none", "daemon": "registrar", "segments": segments, "hosts": hosts}


@cache
def _figures() -> Mapping[str, tuple[float, str]]:
    return asyncio.run(_measure())


async def _measure() -> dict[str, tuple[float, str]]:
    said = document()
    without = said | {"hosts": {name: host | {"daemon": "none"} for name, host in said["hosts"].items()}}
    begun = time.monotonic()
    lab = await Lab.up(without, NAME)
    try:
        built = time.monotonic() - begun
        hosts = [LabHost(NAME, host) for host in schema.read(said, NAME).hosts if host.registrar is not None]
        last, converged = await _start(hosts)
        started = (
            f"of the last one; all were started within {last - begun - built:.1f} s, the lab stood in {built:.1f} s"
        )
        await _all_answer(lab)
        sizes = [rss(host) for host in hosts]
        await asyncio.sleep(CALM)
        before = sum(map(_cpu, hosts))
        await asyncio.sleep(IDLE)
        idle = 100 * (sum(map(_cpu, hosts)) - before) / IDLE
    finally:
        await lab.down()
    return {
        "converged": (converged - last, f"{len(hosts)} hosts, from the start {started}"),
        "rss": (max(sizes), f"largest of {len(sizes)}, all of them {sum(sizes):.0f} MiB"),
        "idle": (idle, f"of one core, all {len(hosts)} together, in {IDLE:g} s"),
    }


async def _start(hosts: list[LabHost]) -> tuple[float, float]:
    """By time.monotonic(): when the last registrar's process began, and when the last host's last route came."""
    turns = asyncio.Semaphore(STARTING)

    async def start(host: LabHost) -> None:
        async with turns:
            await services.start(host, "registrar")

    with contextlib.ExitStack() as stack:
        routes = []
        for host in hosts:
            found = Routes(str(netns.path(host.namespace)))
            stack.callback(found.close)
            routes.append(found)
        await asyncio.gather(*map(start, hosts))
        last = max(map(began, hosts))
        return last, max([await found.until(len(hosts) - 1) for found in routes])


async def _all_answer(lab: Lab) -> None:
    if await matrix.settle(lab, PATIENCE) is None:
        raise RuntimeError(f"not every container reached every other one within {PATIENCE:g} s")


def began(host: LabHost, service: ServiceName = "registrar") -> float:
    """When the process of that service began, by time.monotonic()."""
    mark = host.running(service)
    if mark is None:
        raise RuntimeError(f"the {service} of {host.name} does not run:\n{host.tail(service)}")
    return mark.started / TICKS - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()


def _process(host: LabHost, service: ServiceName = "registrar") -> Path:
    mark = host.running(service)
    if mark is None:
        raise RuntimeError(f"the {service} of {host.name} does not run:\n{host.tail(service)}")
    return host.proc / str(mark.pid)


def rss(host: LabHost, service: ServiceName = "registrar") -> float:
    """MiB."""
    lines = (_process(host, service) / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def _cpu(host: LabHost) -> float:
    """Seconds of processor time until now."""
    fields = (_process(host) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _figure(name: str, what: str, unit: str, bar: float) -> Result:
    value, detail = _figures()[what]
    return Result(name, value, unit, bar, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    "fifty-hosts.converged": Benchmark(
        lambda: _figure("fifty-hosts.converged", "converged", "s", 10.0),
        "50 registrars: from the start of the last process to the last route on any host",
        slow=True,
    ),
    "fifty-hosts.rss": Benchmark(
        lambda: _figure("fifty-hosts.rss", "rss", "MiB", 60.0),
        "resident memory of each of them, the largest",
        slow=True,
    ),
    "fifty-hosts.idle": Benchmark(
        lambda: _figure("fifty-hosts.idle", "idle", "%", 10.0), "processor time of all of them together", slow=True
    ),
}
