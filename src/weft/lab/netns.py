"""Network namespaces by name: sockets and settings in them, and the processes that live in them.

Called by `lab`, `host`, `matrix`, `watch` and the demo. Names are those of `ip netns`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from weft.errors import LabError

NAMED = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def path(name: str) -> Path:
    """Where `ip netns` keeps a namespace of that name."""
    return NAMED / name


def names() -> list[str]:
    """All named namespaces."""
    return sorted(entry.name for entry in NAMED.iterdir()) if NAMED.is_dir() else []


def within(namespace: Path, work: Callable[[], T]) -> T:
    """The result of `work`, done by a thread that is in the namespace and ends with it.

    A socket that it opens belongs to that namespace for good, so the caller's own thread can go on using it."""

    def enter() -> T:
        with open(namespace) as there:
            if _libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns to {namespace}: {os.strerror(number)}")
        return work()

    with ThreadPoolExecutor(1, thread_name_prefix=f"in {namespace.name}") as thread:
        return thread.submit(enter).result()


def socket_in(namespace: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of that namespace."""
    return within(namespace, lambda: socket.socket(family, kind, protocol))


def set_sysctls(name: str, settings: Iterable[tuple[str, str]]) -> None:
    """Write settings (path under /proc/sys) in a namespace; one that this kernel doesn't have is left out."""
    given = list(settings)

    def write() -> None:
        for key, value in given:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                Path("/proc/sys", key).write_text(value)

    within(path(name), write)


def processes(namespaces: Iterable[str]) -> Iterator[int]:
    """Pids of all processes that are in one of the named namespaces now."""
    wanted = set()
    for name in namespaces:
        with contextlib.suppress(OSError):  # a name that a crashed `ip netns add` left without a namespace
            wanted.add(_identity(path(name)))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                if _identity(entry / "ns/net") in wanted:
                    yield int(entry.name)


def is_in(pid: int, name: str) -> bool:
    """Whether that process lives and is in the named namespace."""
    try:
        return _identity(Path(f"/proc/{pid}/ns/net")) == _identity(path(name))
    except OSError:
        return False


def end_processes(namespaces: Iterable[str], patience: float = 10.0) -> int:
    """Kill every process in these namespaces and wait until they are gone; how many they were.

    No pid is trusted: each is held by a pidfd first and looked at again through it, so that a pid which was handed to
    another process in the meantime is not hit. LabError if one won't go."""
    wanted = list(namespaces)
    ended = 0
    deadline = time.monotonic() + patience
    while found := [pid for pid in processes(wanted) if not _is_dead(pid)]:
        for pid in found:
            ended += _end(pid, wanted, deadline)
        if time.monotonic() > deadline:
            raise LabError(
                f"processes {found} in {', '.join(wanted)} do not end after SIGKILL; look at `ps -p` of them"
            )
    return ended


def _end(pid: int, namespaces: list[str], deadline: float) -> int:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        if not any(is_in(pid, name) for name in namespaces):
            return 0
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()  # a pidfd is readable when its process has ended
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    except ProcessLookupError:
        return 0
    finally:
        os.close(handle)
    return 1


def _is_dead(pid: int) -> bool:
    """A zombie has ended; that its parent hasn't asked yet doesn't concern us."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _identity(namespace: Path) -> tuple[int, int]:
    found = os.stat(namespace)
    return found.st_dev, found.st_ino
