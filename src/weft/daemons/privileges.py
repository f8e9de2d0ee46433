"""What a daemon gives up once it has started: capabilities, and the ways to new ones. Called by `weft discovery` (which
keeps none) and `weft router` (which keeps NET_ADMIN), before they hear anything from outside.

Capabilities belong to a thread (capabilities(7)), so this comes before any other thread is started; one that was there
before is told. What system calls are left is `confinement.py`'s.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weft.model import Problem

NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
"""linux/capability.h, by number."""
SETPCAP = 1 << NAMES.index("SETPCAP")

# linux/prctl.h, linux/securebits.h, linux/capability.h
PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP = 4, 23, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 38, 47
AMBIENT_RAISE, AMBIENT_CLEAR_ALL = 2, 4
NOROOT, NO_SETUID_FIXUP, KEEP_CAPS = 0, 2, 4
"""Bits of securebits; the lock of each is the bit above it."""
ORDINARY_ROOT = 0b11 << NOROOT | 0b11 << NO_SETUID_FIXUP | 0b10 << KEEP_CAPS
"""User 0 gains nothing by executing a program, and that is final."""
VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Sets:
    """A thread's capabilities, as bits by number."""

    effective: int
    permitted: int
    inheritable: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop(keep: frozenset[str]) -> tuple[Problem, ...]:
    """Keep these capabilities (`NET_ADMIN`) and no other, for this process and every program that it starts, as user 0
    or as any other; nothing that it starts can gain one. Returns what could not be had or done. Raises ValueError for a
    name that is no capability's."""
    wanted = _bits(keep)
    given_up = (Problem("privileges", text) for text in _drop(wanted))
    return (*given_up, *(Problem("threads", text) for text in _left_behind(wanted)))


def held() -> frozenset[str]:
    """The calling thread's effective capabilities. Raises OSError if the kernel doesn't say."""
    return frozenset(_names(_capget().effective))


def forbid_dumps() -> tuple[Problem, ...]:
    """No core dump of this process, and no debugger of its own user's: it holds keys. Not for a process that starts
    others: they would have to close each descriptor that there could be (/proc/self/fd is root's then)."""
    try:
        prctl(PR_SET_DUMPABLE, 0)
    except OSError as error:
        return (Problem("core dumps", f"core dumps can't be forbidden: {error.strerror}"),)
    return ()


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). Raises OSError."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *padded), "prctl")


def libc_syscall(number: int, *arguments: int) -> int:
    """syscall(2), for what has no function in the C library. Raises OSError."""
    return _checked(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments)), "syscall")


def _drop(wanted: int) -> Iterator[str]:
    try:
        have = _capget()
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)
        if have.effective & SETPCAP:
            prctl(PR_SET_SECUREBITS, ORDINARY_ROOT)
            _bound(wanted)
        kept = wanted & have.permitted
        _capset(Sets(kept, kept, kept))
        for number in _numbers(kept):
            prctl(PR_CAP_AMBIENT, AMBIENT_RAISE, number)
    except OSError as error:
        yield (
            f"privileges can't be given up here ({error.strerror}): the daemon runs with what it was started with, "
            f"{_listed(_effective())}; a kernel from 4.3 on lets them be given up"
        )
        return
    if kept != wanted:
        yield (
            f"this needs {_listed(wanted & ~kept)}, and the process was started without: cap_add in a compose file, "
            "AmbientCapabilities in a systemd unit, or run it as root"
        )


def _bound(wanted: int) -> None:
    """Take everything else out of the bounding set."""
    for number in range(64):
        try:
            there = prctl(PR_CAPBSET_READ, number)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # past the last one that this kernel has
            raise
        if there and not wanted >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def _left_behind(wanted: int) -> Iterator[str]:
    """Other threads of this process with more than that."""
    more = [task for task in Path("/proc/self/task").iterdir() if _of_task(task) & ~wanted]
    if more:
        yield (
            "a thread that was started before keeps capabilities that the process has given up (there are "
            f"{len(more)}): a fault in weft itself, please report it"
        )


def _of_task(task: Path) -> int:
    try:
        status = (task / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0  # it has ended, or /proc isn't there to tell
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:")), 0)


def _effective() -> int:
    try:
        return _capget().effective
    except OSError:
        return 0


def _capget() -> Sets:
    header, data = _Header(VERSION_3, 0), (_Data * 2)()
    _checked(_libc.capget(ctypes.byref(header), data), "capget")
    low, high = data
    return Sets(*(getattr(low, name) | getattr(high, name) << 32 for name, _ in _Data._fields_))


def _capset(sets: Sets) -> None:
    header, data = _Header(VERSION_3, 0), (_Data * 2)()
    for at, part in enumerate(data):
        for name, _ in _Data._fields_:
            setattr(part, name, getattr(sets, name) >> 32 * at & 0xFFFFFFFF)
    _checked(_libc.capset(ctypes.byref(header), data), "capset")


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _bits(names: Iterable[str]) -> int:
    return sum(1 << NAMES.index(name) for name in frozenset(names))


def _numbers(bits: int) -> list[int]:
    return [number for number in range(64) if bits >> number & 1]


def _names(bits: int) -> list[str]:
    return [NAMES[number] if number < len(NAMES) else str(number) for number in _numbers(bits)]


def _listed(bits: int) -> str:
    names = _names(bits)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
