"""`weft registrar` in a lab: a new Docker network that others are to know, and single objects that somebody deleted."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from ipaddress import ip_network
from itertools import permutations
from statistics import median
from typing import Any

from benchmarks import Benchmark, Result
from weft.cli.client import ask_at
from weft.errors import WeftError
from weft.lab import matrix, repair
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.repair import FAULTS
from weft.lab.topology import ContainerNetwork

PATIENCE = 60.0
RETURN = 120.0
"""Seconds until a path that works again must be taken again."""
NETWORKS = 20
REPAIRS = 20
"""How often each kind of object is deleted."""
CONFIG = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.10.0", "SubnetMax": "10.5.99.0", "Backend": {"Type": "vxlan"}}


def document(docker: bool) -> dict[str, Any]:
    """Three hosts and etcd. With Docker beside flannel, without it alone."""
    etcd = {"engine": "none", "daemon": "none", "etcd": {"config": CONFIG}}
    hosts = {name: {"networks": {"web": {"subnet": f"10.9.{n}.0/24"}}} for n, name in enumerate("abc", start=1)}
    daemons = ["flanneld", "registrar"] if docker else "registrar"
    return {"engine": "docker" if docker else "none", "daemon": daemons, "hosts": {"store": etcd, **hosts}}


async def _up(docker: bool) -> Lab:
    name = "bench-docker" if docker else "bench-alone"
    lab = await Lab.up({**document(docker), "name": name}, name)
    try:
        if await matrix.settle(lab, PATIENCE) is None:
            raise RuntimeError(f"not every container of lab {name} reached every other one within {PATIENCE:g} s")
        for one, other in permutations(registrars(lab), 2):
            await directly(one, other)
    except BaseException:
        await lab.down()
        raise
    return lab


def registrars(lab: Lab) -> list[LabHost]:
    return [host for host in lab.hosts if host.host.runs("registrar")]


async def directly(host: LabHost, far: LabHost) -> None:
    """Wait until a host knows that it reaches another one without a relay."""
    deadline = time.monotonic() + RETURN
    while not _way(host, far).startswith("directly: its tunnel answers"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {RETURN:g} s {host.name} reaches {far.name}: {_way(host, far)}")
        await asyncio.sleep(0.1)


def _way(host: LabHost, far: LabHost) -> str:
    try:
        peers = ask_at(str(host.registrar_socket), "peers")
    except WeftError as error:
        return str(error)
    return next((str(peer["way"]) for peer in peers if peer["node"] == far.name), "not known")


@cache
def networks() -> list[float]:
    """Milliseconds from Docker's answer to a route, on each other host; 0 for one that was there before the answer."""
    return asyncio.run(_networks())


async def _networks() -> list[float]:
    lab = await _up(docker=True)
    try:
        found: list[float] = []
        for number in range(NETWORKS):
            wanted = ContainerNetwork(f"bench{number}", (ip_network(f"10.9.{100 + number}.0/24"),))
            seen = await repair.spread(lab, registrars(lab)[0], wanted)
            found.extend(max(0.0, after) for after in seen.routed.values())
    finally:
        await lab.down()
    return found


@cache
def repairs() -> list[float]:
    """Milliseconds per deleted object, REPAIRS of each of FAULTS."""
    return asyncio.run(_repairs())


async def _repairs() -> list[float]:
    lab = await _up(docker=False)
    try:
        host = registrars(lab)[0]
        return [await repair.mended(host, fault) for fault in FAULTS for _ in range(REPAIRS)]
    finally:
        await lab.down()


# -- figures ----------------------------------------------------------------------------------------------------------


def network_to_route() -> Result:
    found = networks()
    detail = f"{len(found)} routes, from Docker's answer; worst {max(found):.0f} ms"
    return Result("registrar.network-to-route.p50", median(found), "ms", 150.0, "lower", detail)


def repair_median() -> Result:
    found = repairs()
    each = (found[at : at + REPAIRS] for at in range(0, len(found), REPAIRS))
    medians = ", ".join(f"{f.name} {median(taken):.1f}" for f, taken in zip(FAULTS, each, strict=True))
    return Result("registrar.repair.p50", median(found), "ms", 20.0, "lower", f"{len(found)} deletions: {medians}")


def repair_worst() -> Result:
    found = sorted(repairs())
    at = min(len(found) - 1, round(0.99 * len(found)))
    return Result("registrar.repair.p99", found[at], "ms", 200.0, "lower", f"worst {found[-1]:.1f} ms of {len(found)}")


BENCHMARKS: dict[str, Benchmark] = {
    "registrar.network-to-route.p50": Benchmark(
        network_to_route,
        "`docker network create` beside flannel: until the kernels of the others route to it",
        slow=True,
    ),
    "registrar.repair.p50": Benchmark(
        repair_median,
        "route, neighbour, FDB entry, next hop, device or chain deleted: until all is as before",
        slow=True,
    ),
    "registrar.repair.p99": Benchmark(repair_worst, "the same, the slow end", slow=True),
}
