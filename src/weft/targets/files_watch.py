"""Hears that somebody touched one of our files. Used by `targets/files.py`, and imported only where there is a loop to
wake.

Folders are watched, not files: a file that is replaced is another inode, and a watch on it would die with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from weft.targets.inotify import Inotify, Mask

TOUCHED = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CREATE | Mask.ATTRIB
GONE = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED


class FolderWatch:
    """Calls `heard` on the running event loop when one of `paths` (or the folder that it is in) comes, changes or goes,
    until `close`. Raises OSError if the kernel has no inotify to give."""

    def __init__(self, paths: Iterable[str], heard: Callable[[], None]) -> None:
        self._paths = frozenset(map(Path, paths))
        self._heard = heard
        self._watches: dict[Path, int] = {}
        self._inotify = Inotify()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fd, self._read)
        self.renew()

    def renew(self) -> None:
        """Watch the folders that are there and aren't watched: to be called whenever one may have been made. Raises
        OSError if the kernel allows no more watches."""
        for folder in {path.parent for path in self._paths} - self._watches.keys():
            if folder.is_dir():
                self._watches[folder] = self._inotify.add_watch(folder, TOUCHED | GONE | Mask.ONLYDIR)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._inotify.fd)
        self._inotify.close()

    def _read(self) -> None:
        news = False
        while (event := self._inotify.next()) is not None:
            if event.mask & GONE:
                news = True
                self._forget(event.folder, event.mask)
            elif event.folder is not None and event.name:
                news |= event.folder / event.name in self._paths
            else:
                news = True  # events were lost
        if news:
            self._heard()

    def _forget(self, folder: Path | None, mask: int) -> None:
        watch = self._watches.pop(folder, None) if folder is not None else None
        if watch is not None and not mask & Mask.IGNORED:
            try:
                self._inotify.rm_watch(watch)  # a folder that was moved is watched wherever it went
            except OSError:
                return  # it was deleted, and the watch with it
