"""Network namespaces for tests: unique names, gone at the end of the `with`, also after a failure.

    with namespace() as a, namespace() as b:
        veth(a, "eth0", b, "eth0")
        a.ip("address add 192.0.2.1/24 dev eth0")
        a.run("ping", "-c1", "192.0.2.2")

A test run that was killed leaves its namespaces behind; their names hold its pid, so the next run removes those whose
process is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "wefttest"
RUN = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # sched.h
_numbers = itertools.count()
_begun: set[int] = set()
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Namespace:
    """A network namespace that `ip netns` knows by `name`."""

    name: str

    @property
    def path(self) -> Path:
        return RUN / self.name

    def command(self, *command: str) -> list[str]:
        """The same command, run inside. `nsenter`, since `ip netns exec` hides the cgroup mounts."""
        return ["nsenter", f"--net={self.path}", *command]

    def run(self, *command: str, stdin: str | None = None, check: bool = True, timeout: float = 120.0) -> str:
        """Run a command inside and return its stdout; AssertionError with its stderr if it fails and `check` is set."""
        return run(self.command(*command), stdin=stdin, check=check, timeout=timeout)

    def ip(self, arguments: str) -> str:
        """`ip ARGUMENTS`, split at spaces."""
        return run(["ip", "-n", self.name, *arguments.split()])

    def ip_json(self, arguments: str) -> Any:
        """What `ip -j -d ARGUMENTS` tells. The oracle of the kernel tests: iproute2 is not our code."""
        return json.loads(run(["ip", "-n", self.name, "-j", "-d", *arguments.split()]) or "[]")

    def bridge(self, arguments: str) -> str:
        """`bridge ARGUMENTS`, split at spaces."""
        return run(["bridge", "-n", self.name, *arguments.split()])

    def bridge_json(self, arguments: str) -> Any:
        """What `bridge -j ARGUMENTS` tells."""
        return json.loads(run(["bridge", "-n", self.name, "-j", *arguments.split()]) or "[]")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, the calling thread is in this namespace: sockets that it makes stay there. Not across an `await`."""
        with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as home, open(self.path) as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())


def run(command: Sequence[str], stdin: str | None = None, check: bool = True, timeout: float = 120.0) -> str:
    """Run a command and return its stdout; AssertionError with its stderr if it fails and `check` is set."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip() or done.stdout}")
    return done.stdout


@contextlib.contextmanager
def namespace(label: str = "") -> Iterator[Namespace]:
    """A new network namespace with its loopback up, `wefttest-<pid>-<number>[-<label>]`."""
    _sweep()
    ns = Namespace("-".join(filter(None, (PREFIX, str(os.getpid()), str(next(_numbers)), label))))
    run(["ip", "netns", "add", ns.name])
    try:
        ns.ip("link set lo up")
        yield ns
    finally:
        run(["ip", "netns", "delete", ns.name])


def veth(a: Namespace, name_a: str, b: Namespace, name_b: str, mtu: int = 1500) -> None:
    """A cable between two namespaces, both ends up; it is never seen in any other namespace."""
    a.ip(f"link add {name_a} mtu {mtu} type veth peer name {name_b} mtu {mtu} netns {b.name}")
    a.ip(f"link set {name_a} up")
    b.ip(f"link set {name_b} up")


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def is_left_over(pid: str, begun: set[int]) -> bool:
    """Whether what bears this pid is of a test run that no longer lives: of nobody, or of somebody who had our own
    number before us. `begun`: empty before this process has made anything of the kind."""
    mine = os.getpid()
    first = mine not in begun
    return pid.isdigit() and (not Path("/proc", pid).exists() or (first and int(pid) == mine))


def _sweep() -> None:
    """Remove the namespaces of test runs that no longer live."""
    for path in RUN.glob(f"{PREFIX}-*"):
        if is_left_over(path.name.split("-")[1], _begun):
            run(["ip", "netns", "delete", path.name], check=False)  # another run may sweep at the same moment
    _begun.add(os.getpid())
