"""The lock under which a file is written that others read or write, too: `flock -x` of another file beside it.

Used by `files.py`, in a thread. A lock belongs to an open file and goes with its process (flock(2)): who is killed
holds nobody up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

PATIENCE = 1.0
"""Seconds that another holder is waited for: a file is written in milliseconds, so it hangs."""
POLL = 0.005
MODE = 0o660


@contextlib.contextmanager
def locked(path: str, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock; the file is made if there is none. Raises OSError if it can't be opened, TimeoutError (ETIMEDOUT)
    if somebody else holds it for longer than `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        descriptor = open_lock(path)
        try:
            if _taken(descriptor) and is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"somebody else holds the lock for over {patience:g} s", path)
        time.sleep(POLL)


def open_lock(path: str, mode: int = MODE) -> int:
    """A descriptor of a regular file, made if there is none. Never waits. Raises OSError. To read only, which is enough
    for a lock: with a file that is open to be written, nobody can remount the file system read-only."""
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "a device or pipe stands there, not a regular file", path)


def is_at(descriptor: int, path: str) -> bool:
    """The open file is the one that has this name: a lock on one that was removed or replaced keeps nobody out."""
    mine = os.fstat(descriptor)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
