"""Run a function inside a network namespace. Used for sockets (which stay in the namespace that they were made in) and
for /proc/sys/net (which shows the namespace of the thread that opens a file there).

setns(2) changes one thread only: a short-lived thread enters, and the process stays where it is.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from weft.errors import TargetError

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
"""sched.h; os.setns comes with Python 3.12 only."""
_libc = ctypes.CDLL(None, use_errno=True)


def inside(netns: str | None, function: Callable[[], T]) -> T:
    """What `function` returns, called in the namespace that the path `netns` names (None: the current one). Raises
    TargetError if it can't be entered, and whatever `function` raises."""
    if netns is None:
        return function()
    visit = _Visit(netns, function)
    visit.start()
    visit.join()
    return visit.outcome()


class _Visit(threading.Thread, Generic[T]):
    def __init__(self, netns: str, function: Callable[[], T]) -> None:
        super().__init__(name=f"in {netns}")
        self._netns = netns
        self._function = function
        self._results: list[T] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            _enter(self._netns)
            self._results.append(self._function())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            self._error = error

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]


def _enter(netns: str) -> None:
    try:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"network namespace {netns} can't be opened: {error.strerror}") from error
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise TargetError(f"network namespace {netns} can't be entered: {reason} (CAP_SYS_ADMIN is needed)")
    finally:
        os.close(fd)
