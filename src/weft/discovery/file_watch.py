"""Hears when one file comes, is replaced, changes or goes, wherever its folder is just then. Used by `file.py`.

The folder is watched, not the file: who replaces a file by rename makes another inode, and a watch on the old one dies
with it. The folder's own folder is watched, too, for the same may happen to the folder; and where there is none yet,
the nearest one above it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from weft.targets.inotify import Inotify, Mask

log = logging.getLogger("weft")

TOUCHED = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CREATE | Mask.ATTRIB
GONE = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.UNMOUNT
AT_ONCE = 256
"""Events that are read before others get their turn: whoever may write to the folder can make any number."""
ATTEMPTS = 8


class PathWatch:
    """Calls `heard` on the running event loop when something happens to what is at `path`, until `close`. Where inotify
    can't be had, that is logged once."""

    def __init__(self, path: str, heard: Callable[[], None]) -> None:
        self._path = Path(os.path.abspath(path))
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._inotify: Inotify | None = None
        self._names: dict[Path, str] = {}
        self._places: tuple[tuple[Path, tuple[int, int]], ...] = ()
        self._deaf = False
        self.renew()

    def renew(self) -> None:
        """Watch what is at the path now: to be called after each `heard`, and every so often."""
        try:
            for _ in range(ATTEMPTS):  # whoever makes and removes folders all the time does not keep us here
                places = self._look()
                if places == self._places and self._inotify is not None:
                    break
                self._watch(places)
        except OSError as error:
            self.close()
            if not self._deaf:
                why = error.strerror
                log.warning("changes of %s can't be heard of (%s): the timer will find them", self._path, why)
            self._deaf = True
        else:
            self._deaf = False

    def close(self) -> None:
        """Stop listening."""
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
        self._inotify, self._names, self._places = None, {}, ()

    def _look(self) -> tuple[tuple[Path, tuple[int, int]], ...]:
        """The folders to be watched, and which ones they are: that of the file and the one above, or the nearest."""
        found = []
        for folder in self._path.parents:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(folder)
                found.append((folder, (status.st_dev, status.st_ino)))
                if len(found) == 2 or folder != self._path.parent:
                    break
        return tuple(found)

    def _watch(self, places: tuple[tuple[Path, tuple[int, int]], ...]) -> None:
        self.close()
        self._inotify = Inotify()
        self._loop.add_reader(self._inotify.fd, self._read)
        for folder, _ in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it went just now: the next look sees it
                self._inotify.add_watch(folder, TOUCHED | GONE | Mask.ONLYDIR)
                self._names[folder] = self._path.relative_to(folder).parts[0]
        self._places = places

    def _read(self) -> None:
        news = False
        for _ in range(AT_ONCE):
            event = self._inotify.next() if self._inotify is not None else None
            if event is None:
                break
            if event.mask & GONE or not event.name or event.folder is None:
                news = True  # a folder went, or events were lost
                self._places = ()  # a new folder may well have the old one's number
            else:
                news |= event.name == self._names.get(event.folder)
        else:
            self._loop.call_soon(self._read)  # what was read with them makes nothing readable any more
        if news:
            self._heard()
