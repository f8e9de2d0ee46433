"""Network namespaces by name: sockets and settings in them, and the processes that live in them.

Called by `lab`, `leases`, `host`, `matrix`, `watch` and the demo. Names are those of `ip netns`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from weft.errors import LabError
from weft.lab import shell
from weft.lab.wiring import Batch
from weft.targets.kernel.netns import inside

NAMED = Path("/run/netns")
Identity = tuple[int, int]
"""What tells one namespace from another: the device and inode of its file."""


def path(name: str) -> Path:
    """Where `ip netns` keeps a namespace of that name."""
    return NAMED / name


def names() -> list[str]:
    """All named namespaces."""
    return sorted(entry.name for entry in NAMED.iterdir()) if NAMED.is_dir() else []


def socket_in(namespace: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of that namespace, for good: the caller, who is elsewhere, can go on using it."""
    return inside(str(namespace), lambda: socket.socket(family, kind, protocol))


def set_sysctls(name: str, settings: Iterable[tuple[str, str]]) -> None:
    """Write settings (path under /proc/sys) in a namespace; one that this kernel doesn't have is left out."""
    given = list(settings)

    def write() -> None:
        for key, value in given:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                Path("/proc/sys", key).write_text(value)

    inside(str(path(name)), write)


async def build(batches: Sequence[Batch]) -> None:
    """Make what the batches say. LabError names the line that the kernel refused."""
    for batch in batches:  # settings first: links take the defaults at their birth
        if batch.sysctls:
            set_sysctls(batch.namespace, batch.sysctls)
    for batch in batches:
        await shell.ip(batch.lines, batch.namespace)


@contextlib.contextmanager
def held(names_: Iterable[str]) -> Iterator[frozenset[Identity]]:
    """Identities of the named namespaces, each held open so that the kernel can't give its number to another one."""
    with contextlib.ExitStack() as stack:
        found = set()
        for name in names_:
            with contextlib.suppress(OSError):  # a name that a crashed `ip netns add` left without a namespace
                handle = stack.enter_context(open(path(name)))
                found.add(_identity(handle.fileno()))
        yield frozenset(found)


def is_in(pid: int, name: str) -> bool:
    """Whether that process lives and is in the named namespace."""
    try:
        return _identity(f"/proc/{pid}/ns/net") == _identity(path(name))
    except OSError:
        return False


def end_processes(namespaces: frozenset[Identity], patience: float = 10.0) -> int:
    """Kill every process in these namespaces and wait until they are gone; how many they were.

    No pid is trusted: each is held by a pidfd first and looked at again through it, so that a pid which was handed to
    another process in the meantime is not hit. All are killed before any is waited for: the first process of a PID
    namespace ends only when whoever entered it from outside has reaped its own. LabError if one won't go."""
    ended = 0
    deadline = time.monotonic() + patience
    while found := [pid for pid in _processes(namespaces) if not _is_dead(pid)]:
        with contextlib.ExitStack() as stack:
            killed = [handle for pid in found if (handle := _kill(pid, namespaces, stack)) is not None]
            for handle in killed:
                poll = select.poll()  # a pidfd is readable when its process has ended
                poll.register(handle, select.POLLIN)
                poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            ended += len(killed)
        if time.monotonic() > deadline:
            raise LabError(f"processes {found} do not end after SIGKILL; what does `ps` say of them?")
    return ended


def _processes(namespaces: frozenset[Identity]) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _lives_in(int(entry.name), namespaces):
            yield int(entry.name)


def _lives_in(pid: int, namespaces: frozenset[Identity]) -> bool:
    try:
        return _identity(f"/proc/{pid}/ns/net") in namespaces
    except OSError:  # it ended while we looked
        return False


def _kill(pid: int, namespaces: frozenset[Identity], stack: contextlib.ExitStack) -> int | None:
    """A pidfd of the process, killed by now, until `stack` ends; None if it is gone or not in these namespaces."""
    try:
        handle = os.pidfd_open(pid)
        stack.callback(os.close, handle)
        if not _lives_in(pid, namespaces):
            return None
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return handle


def _is_dead(pid: int) -> bool:
    """A zombie has ended; that its parent hasn't asked yet doesn't concern us."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _identity(namespace: Path | str | int) -> Identity:
    """Of a path or an open file."""
    found = os.stat(namespace)
    return found.st_dev, found.st_ino
