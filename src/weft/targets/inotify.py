"""inotify(7): what happens to files in a folder. Used by `files_watch.py` and `discovery/file_watch.py`.

Four calls of the C library and one struct. The packages that have them look for that library at their import, with
ldconfig and a compiler, and bring modules along that nothing else of weft's needs: 12 ms and 1 MiB of each daemon.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import deque
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_HEAD = struct.Struct("iIII")
"""struct inotify_event: watch descriptor, mask, cookie, length of the name that follows, filled up with zeros."""
_ROOM = 1 << 16
"""Octets of one read: some 200 events with the longest names, thousands of the usual ones."""


class Mask(IntFlag):
    """Events, and how a watch is to be (linux/inotify.h)."""

    ATTRIB = 0x4
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000


@dataclass(frozen=True, slots=True)
class Event:
    """`folder`: as it was named when it was watched; None: events were lost, or it isn't watched any more. `name`: what
    it happened to in there, "" for the folder itself."""

    folder: Path | None
    mask: int
    name: str


class Inotify:
    """Raises OSError if the kernel has none to give. `fd` is readable when there are events."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, Path] = {}
        self._events: deque[Event] = deque()

    def add_watch(self, folder: Path, mask: int) -> int:
        """The watch's number: the same as before if the folder is watched already, under whatever name. Raises OSError
        if it isn't there, is no folder, or the kernel allows no more watches."""
        number = _checked(_libc.inotify_add_watch(self.fd, os.fsencode(folder), mask))
        self._folders[number] = folder
        return number

    def rm_watch(self, number: int) -> None:
        """OSError if it went by itself."""
        _checked(_libc.inotify_rm_watch(self.fd, number))

    def next(self) -> Event | None:
        """The next event; None if there is none just now."""
        if not self._events:
            self._read()
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        os.close(self.fd)

    def _read(self) -> None:
        try:
            octets = os.read(self.fd, _ROOM)
        except BlockingIOError:
            return
        at = 0
        while at < len(octets):
            number, mask, _, length = _HEAD.unpack_from(octets, at)
            at += _HEAD.size
            name = octets[at : at + length].rstrip(b"\0")
            at += length
            self._events.append(Event(self._folders.get(number), mask, os.fsdecode(name)))
            if mask & Mask.IGNORED:
                self._folders.pop(number, None)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
