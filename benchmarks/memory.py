"""A real agent process among 10,000 peers: real HELLOs, each from its own address, over a veth into its namespace."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import Benchmark, Result
from benchmarks.cycle import PEERS, VNI, peers
from benchmarks.namespace import namespace
from weft.model import Node
from weft.targets.kernel.netns import inside
from weft.wire.hello import Stamp
from weft.wire.router import encode_hello

GROUP = "239.1.1.1"
PORT = 4790
BURST = 50
"""HELLOs between two pauses of a millisecond: the agent's socket buffer is to hold them."""
DEADLINE = 120.0


@contextmanager
def agent(netns: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`weft agent` without Docker on 198.19.255.1, in its namespace."""
    environment = {
        "PATH": os.environ["PATH"],
        "WEFT_NODE": "bench",
        "WEFT_ENGINE": "static",
        "WEFT_NETWORKS": "home=172.30.0.0/24",
        "WEFT_INTERFACE": "eth0",
        "WEFT_VNI": str(VNI),
        "WEFT_SOCKET": str(folder / "agent.sock"),
        "WEFT_LOG_LEVEL": "error",
    }
    command = ["nsenter", f"--net={netns}", sys.executable, "-m", "weft.cli.main", "agent"]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def ten_thousand() -> Result:
    with tempfile.TemporaryDirectory() as folder, namespace("memory") as here, namespace("others") as there:
        one, other = Path(here).name, Path(there).name
        for line in (
            f"ip -n {one} link add eth0 mtu 1500 type veth peer name eth0 netns {other}",
            f"ip -n {one} address add 198.19.255.1/15 dev eth0",
            f"ip -n {other} address add 198.19.255.2/15 dev eth0",
            f"ip -n {one} link set eth0 up",
            f"ip -n {other} link set eth0 up",
            f"ip -n {one} route add default via 198.19.255.2",
        ):
            subprocess.run(line.split(), check=True)
        sender = inside(there, _raw_socket)
        with sender, agent(here, Path(folder)) as process:
            started = time.perf_counter()
            routes = _tell(sender, process, one)
            seconds = time.perf_counter() - started
            rss = _rss(process.pid)
            peak = _rss(process.pid, "VmHWM")
    detail = f"{routes} routes {seconds:.1f} s after the first HELLO; peak {peak:.0f} MiB"
    return Result("agent.rss.10k", rss, "MiB", 130.0, "lower", detail)


def _tell(sender: socket.socket, process: subprocess.Popen[bytes], netns: str) -> int:
    """Send every HELLO again and again until the kernel has every route, as the real hosts would."""
    nodes = peers(PEERS)
    until = time.monotonic() + DEADLINE
    sequence = 0
    while process.poll() is None and time.monotonic() < until:
        sequence += 1
        for at, node in enumerate(nodes):
            sender.sendto(_datagram(node, sequence), (GROUP, 0))
            if at % BURST == BURST - 1:
                time.sleep(0.001)
        settled = time.monotonic() + 3
        while time.monotonic() < settled:
            shown = subprocess.run(["ip", "-n", netns, "route", "show", "proto", "76"], check=True, capture_output=True)
            if (count := shown.stdout.count(b"\n")) == PEERS:
                return count
            time.sleep(0.2)
    raise RuntimeError(f"the agent did not come to {PEERS} routes within {DEADLINE:.0f} s")


def _datagram(node: Node, sequence: int) -> bytes:
    """An IPv4 packet with the node's endpoint as its source; the kernel fills in length, id and checksum."""
    (body,) = encode_hello(node, Stamp(f"instance-{node.id}", 1, sequence), 1400)
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(body), 0) + body
    source = node.endpoints[0].packed
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 1, socket.IPPROTO_UDP, 0, source, socket.inet_aton(GROUP))
    return header + udp


def _raw_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setsockopt(socket.SOL_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.19.255.2"))
    return made


def _rss(pid: int, field: str = "VmRSS") -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


BENCHMARKS: dict[str, Benchmark] = {
    "agent.rss.10k": Benchmark(ten_thousand, "resident memory of an agent process with 10,000 peers", slow=True)
}
