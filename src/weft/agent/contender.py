"""Who stands for election among several managers, and whether one that led is provably dead. Used by `election.py`.

    <key> = {"host": "vm-1", "pid": 4711, "instance": "…", "place": "…", "started": 815, "since": 1760000000.0}

`place` is one boot of one kernel and one namespace of processes and of clocks in it: where that is the same, a process
is known by its id and by when it started, and that there is no such one any more can be seen.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import msgspec

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACES = ("/proc/self/ns/pid", "/proc/self/ns/time")


class Contender(msgspec.Struct, frozen=True):
    """One run of a manager. `host`, `pid`: for people. `instance`: random. `place`: "" where nothing can be proved.
    `started`: clock ticks since boot, 0: not known."""

    host: str
    pid: int
    instance: str
    place: str = ""
    started: int = 0


class Leader(Contender, frozen=True):
    """Who holds the key. `since`: seconds since 1970 when it took it. `resigned`: it writes no more, for ever."""

    since: float = 0.0
    resigned: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.host} (pid {self.pid})"


def contender_here() -> Contender:
    """This run of this process."""
    pid = os.getpid()
    return Contender(socket.gethostname(), pid, secrets.token_hex(8), _place(), _started(pid))


def is_dead(one: Contender) -> bool:
    """Whether that process is no more, which can be said of a process in this one's own place alone."""
    if not one.place or not one.started or one.pid <= 0 or one.place != _place():
        return False
    try:
        os.kill(one.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and another user's
    return _started(one.pid) not in (0, one.started)


def _place() -> str:
    """ "" if /proc shows other processes than those that this one could send signals to."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        spaces = [str(os.stat(name).st_ino) for name in NAMESPACES if os.path.exists(name)]
        return "/".join([BOOT_ID.read_text().strip(), *spaces])
    except OSError:
        return ""


def _started(pid: int) -> int:
    """Clock ticks from boot to when a process began (proc(5), /proc/PID/stat, field 22); 0: it can't be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
