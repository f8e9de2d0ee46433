"""Fifty real members of weft's gossip, and fifty of Debian's serf, each in a network namespace of their own on one
machine: `python -m benchmarks.gossip --serf`. Needs root and `apt-get install serf`.

Members are addresses on the namespace's loopback. weft's live in one process, serf's in one each, as it has it. What is
measured: a change (a new network, a new tag) at one member until all others know it, a kill without a goodbye until all
others know it, and octets of IP packets sent per second when nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Protocol

from benchmarks.namespace import namespace
from weft.core.swim_values import PACES
from weft.discovery.gossip import Gossip
from weft.discovery.gossip_options import GossipSettings
from weft.model import Known, Mac, Network, Node
from weft.targets.kernel.netns import inside

MEMBERS, TRIALS, IDLE = 50, 10, 30.0
PATIENCE = 60.0


class Cluster(Protocol):
    """Members by number, from 0."""

    name: str

    async def change(self, number: int, value: int) -> None: ...

    def knows(self, number: int, of: int, value: int) -> bool:
        """Whether it has heard of that change."""
        ...

    async def kill(self, number: int) -> None: ...

    def buried(self, number: int, whom: int) -> bool: ...

    def sees(self, number: int) -> int:
        """How many others."""
        ...

    def memory(self) -> str: ...


def address(number: int) -> str:
    return f"10.9.0.{number + 1}"


class Weft:
    """All in this process, and its event loop."""

    def __init__(self, profile: str) -> None:
        self.name = f"weft {profile}"
        self._profile = profile
        self._members: list[Gossip] = []
        self._known: list[Known[Node]] = [Known() for _ in range(MEMBERS)]
        self._tasks: list[asyncio.Task[None]] = []

    def _node(self, number: int, value: int) -> Node:
        network = Network("web", (IPv4Network(f"10.{number + 10}.{value}.0/24"),), since=1.0)
        mac = Mac(bytes((2, 0, 0, 0, 0, number)))
        return Node(f"host-{number}", (ip_address(address(number)),), 4789, 1000, mac, 1500, (network,), stack="a")

    async def start(self) -> None:
        for number in range(MEMBERS):
            settings = GossipSettings(
                node=f"host-{number}",
                source=ip_address(address(number)),
                instance=f"bench-{number}",
                seeds=(address(0),),
                pace=PACES[self._profile],
                keys=(b"benchmark",),
            )
            member = Gossip(settings)
            member.announce(self._node(number, 0))
            self._members.append(member)
            self._tasks.append(asyncio.create_task(self._follow(number, member)))

    async def _follow(self, number: int, member: Gossip) -> None:
        async for known in member.peers():
            self._known[number] = known

    async def change(self, number: int, value: int) -> None:
        self._members[number].announce(self._node(number, value))

    def knows(self, number: int, of: int, value: int) -> bool:
        wanted = self._node(of, value).networks
        return any(node.id == f"host-{of}" and node.networks == wanted for node in self._known[number].items)

    async def kill(self, number: int) -> None:
        await self._members[number].abandon()

    def buried(self, number: int, whom: int) -> bool:
        return all(node.id != f"host-{whom}" for node in self._known[number].items)

    def sees(self, number: int) -> int:
        return len(self._known[number].items)

    def memory(self) -> str:
        return f"{_rss('self')} MiB, all in one process"

    async def stop(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members))
        await asyncio.gather(*self._tasks)


@dataclass
class _Agent:
    process: asyncio.subprocess.Process
    up: set[str] = field(default_factory=set)
    updates: dict[str, int] = field(default_factory=dict)


class Serf:
    """One process each; what they know is told by their logs."""

    def __init__(self, netns: str) -> None:
        self.name = "serf lan"
        self._netns = netns
        self._agents: list[_Agent] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for number in range(MEMBERS):
            at = address(number)
            command = ["serf", "agent", f"-node=host-{number}", f"-bind={at}:7946", f"-rpc-addr={at}:7373"]
            command += ["-tag=value=0", "-log-level=info", "-profile=lan", "-encrypt=" + "A" * 43 + "="]
            command += [f"-retry-join={address(0)}", "-retry-interval=1s"] if number else []
            process = await asyncio.create_subprocess_exec(
                "nsenter", f"--net={self._netns}", *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            agent = _Agent(process)
            self._agents.append(agent)
            self._tasks.append(asyncio.create_task(self._read(agent)))

    async def _read(self, agent: _Agent) -> None:
        assert agent.process.stdout is not None
        async for line in agent.process.stdout:
            words = line.decode(errors="replace").split()
            for event in ("EventMemberJoin:", "EventMemberUpdate:", "EventMemberFailed:", "EventMemberLeave:"):
                if event in words and "serf:" in words:
                    name = words[words.index(event) + 1]
                    if event == "EventMemberUpdate:":
                        agent.updates[name] = agent.updates.get(name, 0) + 1
                    elif event == "EventMemberJoin:":
                        agent.up.add(name)
                    else:
                        agent.up.discard(name)

    async def change(self, number: int, value: int) -> None:
        for agent in self._agents:
            agent.updates.pop(f"host-{number}", None)
        command = ["serf", "tags", f"-rpc-addr={address(number)}:7373", "-set", f"value={value}"]
        done = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={self._netns}", *command, stdout=subprocess.DEVNULL
        )
        await done.wait()

    def knows(self, number: int, of: int, value: int) -> bool:
        return f"host-{of}" in self._agents[number].updates

    async def kill(self, number: int) -> None:
        self._agents[number].process.kill()

    def buried(self, number: int, whom: int) -> bool:
        return f"host-{whom}" not in self._agents[number].up

    def sees(self, number: int) -> int:
        return len(self._agents[number].up - {f"host-{number}"})

    def memory(self) -> str:
        return f"{_rss(str(self._agents[0].process.pid))} MiB, one member"

    async def stop(self) -> None:
        for agent in self._agents:
            if agent.process.returncode is None:
                agent.process.kill()
        await asyncio.gather(*(agent.process.wait() for agent in self._agents), *self._tasks)


def _rss(pid: str) -> int:
    status = Path("/proc", pid, "status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmRSS:"))


async def _until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience:
            raise AssertionError(f"waited {patience} s for {what}")
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def _measure(cluster: Cluster, netns: str) -> None:
    everybody = set(range(MEMBERS))
    joined = await _until(lambda: all(cluster.sees(n) == MEMBERS - 1 for n in everybody), "all to know all")
    await asyncio.sleep(15)
    began, before = time.monotonic(), _sent(netns)
    await asyncio.sleep(IDLE)
    octets = (_sent(netns) - before) / (time.monotonic() - began) / MEMBERS
    changes, kills = [], []
    for trial in range(1, TRIALS + 1):
        others = everybody - {trial}
        began = time.monotonic()
        await cluster.change(trial, trial)
        await _until(partial(_all_know, cluster, others, trial), "a change to be known")
        changes.append(time.monotonic() - began)
        await asyncio.sleep(1)
    for victim in range(MEMBERS - TRIALS // 2, MEMBERS):
        everybody.discard(victim)
        await cluster.kill(victim)
        kills.append(await _until(partial(_all_buried, cluster, everybody, victim), "a death to be known"))
        await asyncio.sleep(1)
    print(
        f"{cluster.name:10}  change to all {_figures(changes)}  kill to all {_figures(kills)}  idle {octets:.0f} B/s "
        f"per member  all know all after {joined:.1f} s  RSS {cluster.memory()}",
        flush=True,
    )


def _all_know(cluster: Cluster, members: set[int], trial: int) -> bool:
    return all(cluster.knows(member, trial, trial) for member in members)


def _all_buried(cluster: Cluster, members: set[int], victim: int) -> bool:
    return all(cluster.buried(member, victim) for member in members)


def _figures(taken: list[float]) -> str:
    taken = sorted(taken)
    return f"p50 {taken[len(taken) // 2]:.2f} max {taken[-1]:.2f} s"


def _sent(netns: str) -> int:
    """Octets of IP packets that were sent in that namespace: the loopback counts no Ethernet headers."""
    command = ["nsenter", f"--net={netns}", "cat", "/proc/net/dev"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = next(line for line in printed.splitlines() if line.strip().startswith("lo:")).partition(":")[2].split()
    return int(fields[8])


@contextlib.asynccontextmanager
async def _running(cluster: Weft | Serf) -> AsyncIterator[None]:
    await cluster.start()
    try:
        yield
    finally:
        await cluster.stop()


def compare() -> int:
    """Print both sides' figures."""
    if shutil.which("serf") is None:
        print("bench: there is no serf; apt-get install serf", file=sys.stderr)
        return 1
    for profile in ("lan", "fast", "serf"):
        with namespace("gossip") as netns:
            name = Path(netns).name
            for number in range(MEMBERS):
                subprocess.run(["ip", "-n", name, "address", "add", f"{address(number)}/32", "dev", "lo"], check=True)
            _run(Serf(netns) if profile == "serf" else Weft(profile), netns)
    return 0


def _run(cluster: Weft | Serf, netns: str) -> None:
    async def run() -> None:
        async with _running(cluster):
            await _measure(cluster, netns)

    inside(netns, lambda: asyncio.run(run()))


if __name__ == "__main__":
    sys.exit(compare())
