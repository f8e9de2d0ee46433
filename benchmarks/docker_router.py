"""docker-router in a lab: a stack joins, by each of the four modes; discovery.json is replaced, with a few peers and
with a thousand; and fifty stacks start at once.

What is timed is seen from outside: from the moment that the joining discovery says that it is ready, or that the file
was renamed, to the kernels' own notifications of the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import cache, partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import Benchmark, Result, shown
from benchmarks.fifty_hosts import began, rss
from benchmarks.flanneld import Routes
from weft.backends.tunnel import vtep_mac
from weft.lab import docker_router, matrix, netns, schema, services, shell
from weft.lab.host import LabHost
from weft.lab.lab import STARTING, Lab
from weft.lab.topology import ServiceName
from weft.model import DiscoveryData, Network, Node, Peer
from weft.wire.discovery_data import encode

ROUNDS = 10
REPLACEMENTS = 100
CROWD = 1000
CROWD_ROUNDS = 5
STACKS = int(os.environ.get("WEFT_BENCH_HOSTS", "50"))
PATIENCE = 60.0
NAME = "bench-router"
NEWCOMER = "d"
DNS_INTERVAL = 2
MODES: dict[str, dict[str, Any]] = {
    "multicast": {},
    "etcd": {},
    "gossip": {"KEY": "correct-horse-battery-staple"},
    "dns": {"DNS_UPDATE_INTERVAL": DNS_INTERVAL, "DNS_TTL": 4},
}
BARS = {"multicast": 0.5, "etcd": 0.2, "gossip": 0.5, "dns": DNS_INTERVAL + 1.0}
"""Seconds."""
PAIR: tuple[ServiceName, ...] = ("discovery", "router")
SERVERS: dict[str, dict[str, Any]] = {"etcd": {"etcd": {}}, "dns": {"bind": {"domain": "example.com"}}}


@contextlib.asynccontextmanager
async def up(document: Mapping[str, Any]) -> AsyncIterator[Lab]:
    lab = await Lab.up({**document, "name": NAME, "engine": "none"}, NAME)
    try:
        yield lab
    finally:
        await lab.down()


# -- a stack joins ----------------------------------------------------------------------------------------------------


def _four_stacks(mode: str) -> dict[str, Any]:
    told = {"DISCOVERY_MODE": mode, "GOODBYE_HOLD": 0, **MODES[mode]}
    hosts: dict[str, Any] = {
        name: {"networks": {"web": {"subnet": f"172.20.{number}.0/24"}}} for number, name in enumerate("abcd")
    }
    if mode in SERVERS:
        hosts["store"] = {"daemon": "none", **SERVERS[mode]}
    return {"daemon": ["discovery", "router"], "discovery": told, "hosts": hosts}


@cache
def joins(mode: str) -> tuple[float, ...]:
    """Seconds, one for each time that the fourth stack came."""
    return asyncio.run(_joins(mode))


async def _joins(mode: str) -> tuple[float, ...]:
    async with up(_four_stacks(mode)) as lab:
        if await matrix.settle(lab, PATIENCE) is None:
            raise RuntimeError(f"not every stack reached every other one by {mode} within {PATIENCE:g} s")
        newcomer, others = lab.host(NEWCOMER), [host for host in lab.hosts if host.name in "abc"]
        return tuple([await _join(newcomer, others) for _ in range(ROUNDS)])


async def _join(newcomer: LabHost, others: list[LabHost]) -> float:
    with _told(others) as told:
        await services.stop(newcomer, "discovery")
        for routes in told:
            await _until(lambda: bool(routes.gone), "the route to be gone")  # noqa: B023
    with _told(others) as told, _supervisor(newcomer) as (place, ready):
        await services.begin_discovery(newcomer, place)
        last = max([await routes.until(1) for routes in told])
    return last - ready[0]


@contextlib.contextmanager
def _told(hosts: list[LabHost]) -> Iterator[list[Routes]]:
    """What the kernels of these hosts tell of routes, from now on."""
    found = [Routes(str(netns.path(host.namespace))) for host in hosts]
    try:
        yield found
    finally:
        for routes in found:
            routes.close()


@contextlib.contextmanager
def _supervisor(host: LabHost) -> Iterator[tuple[Path, list[float]]]:
    """A socket for sd_notify(3), and when something was heard there, by time.monotonic()."""
    heard: list[float] = []
    path = host.folder / "bench.notify"
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))

        def hear() -> None:
            sock.recv(4096)
            heard.append(time.monotonic())

        loop.add_reader(sock, hear)
        try:
            yield path, heard
        finally:
            loop.remove_reader(sock)


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE:g} s for {what}")
        await asyncio.sleep(0.005)


# -- discovery.json is replaced ----------------------------------------------------------------------------------------


def _data(count: int) -> DiscoveryData:
    """So many stacks, each with one network."""
    return DiscoveryData(tuple(_peer(number) for number in range(count)), last_update=time.time())


def _peer(number: int) -> Peer:
    endpoint = ip_address("10.64.0.1") + number
    subnet = ip_network((int(ip_address("10.128.0.0")) + (number << 8), 24))
    node = Node(
        id=f"stack-{number:05}",
        endpoints=(endpoint,),
        port=4789,
        vni=1000,
        mac=vtep_mac(str(endpoint), 1000),
        mtu=1500,
        networks=(Network("web", (subnet,), since=0.0),),
        overlay=(ip_address("192.168.128.1") + number,),
        source="bench",
        stack=f"stack-{number:05}",
    )
    return Peer(node, time.time())


@cache
def replacements() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds from the rename to the last route: of one peer more among ten, and of a thousand at once."""
    return asyncio.run(_replacements())


async def _replacements() -> tuple[tuple[float, ...], tuple[float, ...]]:
    router = {"VXLAN_SUBNET": "192.168.128.0/17", "LOCAL_VXLAN_IP": "192.168.255.1"}
    document = {
        "daemon": "router",
        "segments": {"lan": {"subnet": "10.64.0.0/16"}},
        "hosts": {"a": {"segments": {"lan": "10.64.255.1"}, "networks": {"web": "172.20.0.0/16"}, "router": router}},
    }
    async with up(document) as lab:
        host = lab.host("a")
        few, many = [], []
        await _replaced(host, 10, 10)
        for _ in range(REPLACEMENTS):
            few.append(await _replaced(host, 11, 1))
            await _replaced(host, 10, -1)
        await _replaced(host, 0, -10)
        for _ in range(CROWD_ROUNDS):
            many.append(await _replaced(host, CROWD, CROWD))
            await _replaced(host, 0, -CROWD)
        return tuple(few), tuple(many)


async def _replaced(host: LabHost, count: int, more: int) -> float:
    """Put a file with so many peers in the place of the one that is there; seconds until the last route came or, of
    fewer peers, went."""
    folder = docker_router.data(host)
    beside = folder / "bench.json"
    beside.write_text(encode(_data(count), "bench"))
    with _told([host]) as (routes,):
        begun = time.monotonic()
        beside.rename(folder / "discovery.json")
        events = routes.came if more > 0 else routes.gone
        await _until(lambda: len(events) >= abs(more), f"{more} routes")
        return max(events.values()) - begun


# -- fifty stacks -----------------------------------------------------------------------------------------------------


def _crowd() -> dict[str, Any]:
    hosts = {f"s{n}": {"networks": {"internal": {"subnet": f"172.20.{n}.0/24"}}} for n in range(1, STACKS + 1)}
    return {
        "name": NAME,
        "engine": "none",
        "daemon": ["discovery", "router"],
        "discovery": {"DISCOVERY_MODE": "gossip"},
        "segments": {"lan": {"subnet": "192.168.64.0/22"}},
        "hosts": hosts,
    }


@cache
def crowd() -> Mapping[str, tuple[float, str]]:
    return asyncio.run(_measure_crowd())


async def _measure_crowd() -> dict[str, tuple[float, str]]:
    said = _crowd()
    without = said | {"hosts": {name: host | {"daemon": "none"} for name, host in said["hosts"].items()}}
    async with up(without) as lab:
        hosts = [LabHost(NAME, host) for host in schema.read(said, NAME).hosts]
        begun = time.monotonic()
        last, converged = await _start(hosts)
        for host in hosts:
            await _right(host, hosts)
        if await matrix.settle(Lab(schema.read(said, NAME)), PATIENCE) is None:
            raise RuntimeError(f"not every container reached every other one within {PATIENCE:g} s")
        sizes = {kind: [rss(host, kind) for host in hosts] for kind in PAIR}
        assert lab.hosts
    detail = f"{len(hosts)} stacks, from the start of the last process; all were started within {last - begun:.1f} s"
    found = {"converged": (converged - last, detail)}
    for kind, seen in sizes.items():
        found[f"rss.{kind}"] = (max(seen), f"largest of {len(seen)}, all of them {sum(seen):.0f} MiB")
    return found


async def _start(hosts: list[LabHost]) -> tuple[float, float]:
    """By time.monotonic(): when the last process began, and when the last route on any host came."""
    turns = asyncio.Semaphore(STARTING)

    async def start(host: LabHost) -> None:
        async with turns:
            for kind in PAIR:
                await services.start(host, kind)

    with _told(hosts) as told:
        await asyncio.gather(*map(start, hosts))
        last = max(began(host, kind) for host in hosts for kind in PAIR)
        # One for each other stack, and the overlay's own.
        return last, max([await routes.until(len(hosts)) for routes in told])


async def _right(host: LabHost, hosts: list[LabHost]) -> None:
    """RuntimeError if this host doesn't route to each other one's network by its overlay address."""
    wanted = {
        str(other.host.networks[0].subnets[0]): dict(other.host.stacks.router or ())["LOCAL_VXLAN_IP"]
        for other in hosts
        if other is not host and other.host.stacks is not None
    }
    shown = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", "route", "show", "proto", "76"]))
    found = {route["dst"]: route["gateway"] for route in shown if "gateway" in route}
    if found != wanted:
        raise RuntimeError(f"{host.name} routes otherwise: {found.items() ^ wanted.items()}")


# -- figures ----------------------------------------------------------------------------------------------------------


def _joined(mode: str) -> Result:
    found = joins(mode)
    detail = f"{len(found)} times, from its discovery's READY; worst {max(found):.3f} s"
    return Result(f"docker-router.join.{mode}.p50", median(found), "s", BARS[mode], "lower", detail)


def _replacement() -> Result:
    found = sorted(1000 * seconds for seconds in replacements()[0])
    detail = f"{len(found)} times, one peer more among ten; p90 {found[len(found) * 9 // 10]:.1f} ms"
    return Result("docker-router.replace.p50", median(found), "ms", 10.0, "lower", detail)


def _thousand() -> Result:
    found = replacements()[1]
    return Result("docker-router.thousand", median(found), "s", 0.5, "lower", shown(found))


def _of_the_crowd(what: str, unit: str, bar: float) -> Result:
    value, detail = crowd()[what]
    return Result(f"docker-router.fifty.{what}", value, unit, bar, "lower", detail)


BENCHMARKS: dict[str, Benchmark] = {
    **{
        f"docker-router.join.{mode}.p50": Benchmark(
            partial(_joined, mode),
            f"a fourth stack joins by {mode}: until the kernels of the other three route to it",
            True,
        )
        for mode in MODES
    },
    "docker-router.replace.p50": Benchmark(
        _replacement, "discovery.json replaced: until the kernel has the route", True
    ),
    "docker-router.thousand": Benchmark(
        _thousand, f"{CROWD} peers in discovery.json: read, planned and in the kernel", True
    ),
    "docker-router.fifty.converged": Benchmark(
        lambda: _of_the_crowd("converged", "s", 15.0),
        "50 stacks by gossip: from the start of the last process to the last route on any host",
        True,
    ),
    **{
        f"docker-router.fifty.rss.{kind}": Benchmark(
            partial(_of_the_crowd, f"rss.{kind}", "MiB", 45.0),
            f"resident memory of each {kind} of them, the largest",
            True,
        )
        for kind in PAIR
    },
}
