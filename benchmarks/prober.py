"""Probes paths inside a namespace, as a process of its own: one end of what `liveness.py` and `starvation.py` measure.

Arguments: budget, then `node,device,local,remote,mtu` for each path. A line of JSON per full set of reaches: the
time.monotonic() at which it was known, and node → [state, reason].
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path as File

from weft.agent.liveness import Liveness, LivenessOptions
from weft.model import Path


async def main(budget: str, *paths: str) -> None:
    liveness = Liveness(LivenessOptions(int(budget)))
    liveness.probe([_path(*text.split(",")) for text in paths])
    async for reaches in liveness.reaches():
        states = {node: [reach.state, reach.reason] for (node, _), reach in reaches.items()}
        print(json.dumps([time.monotonic(), states]), flush=True)


def _path(node: str, device: str, local: str, remote: str, mtu: str) -> Path:
    return Path(node, "tunnel", device, ip_address(local), ip_address(remote), int(mtu))


def start(netns: str, budget: int, paths: list[str], out: File) -> subprocess.Popen[bytes]:
    """This module as a process in the namespace (a path of it), its lines in `out`."""
    command = ["nsenter", f"--net={netns}", sys.executable, "-m", "benchmarks.prober", str(budget), *paths]
    with open(out, "wb") as lines:
        return subprocess.Popen(command, stdout=lines)


def sets(out: File) -> list[tuple[float, dict[str, tuple[str, str]]]]:
    """What it has told so far: (time, node → (state, reason))."""
    lines = out.read_text().splitlines(keepends=True)
    read = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(at, {node: (state, reason) for node, (state, reason) in states.items()}) for at, states in read]


def processor_time(pid: int) -> float:
    """Seconds that all threads of a process have run (/proc/…/schedstat, in nanoseconds)."""
    tasks = File("/proc", str(pid), "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def packets(netns: str) -> int:
    """UDP datagrams that were sent and heard in the namespace."""
    table = subprocess.run(
        ["nsenter", f"--net={netns}", "cat", "/proc/net/snmp"], check=True, capture_output=True, text=True
    ).stdout
    names, values = (line.split() for line in table.splitlines() if line.startswith("Udp:"))
    udp = dict(zip(names, values, strict=True))
    return int(udp["InDatagrams"]) + int(udp["OutDatagrams"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
