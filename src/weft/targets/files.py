"""Files for other programs, as a target: subnet.env of flannel, discovery.json of docker-router, whatever is text.

Run by the reconciler. Who reads such a file must never see half of one, so each is written beside its place, flushed to
the disk and renamed; a file is thus always the old or the new one, also after a power failure. Only the paths that the
target was given are ever looked at: naming a path makes the file there ours, whoever wrote it before.

With a lock, others that write by its leave (`flock -x`, as in the docker-router document) and we never write at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from weft.errors import TargetError
from weft.objects import Failure, Key, Object, Op
from weft.objects.outside import File
from weft.targets import Reading
from weft.targets.files_lock import locked

if TYPE_CHECKING:
    from weft.targets.files_watch import FolderWatch

log = logging.getLogger("weft")

FOLDER_MODE = 0o755
LARGEST = 64 << 20
"""Octets: of a longer file, that much is read. No file of ours is longer, so it differs in any case."""
SETTLED = 2.0
"""Seconds after which a file's time of change tells two changes apart on every file system."""
ADVICE = {
    errno.ENOSPC: "free some in its folder",
    errno.EDQUOT: "free some of it",
    errno.EROFS: "mount its folder so that it can be written",
    errno.EACCES: "its folder must be writable for the user that weft runs as",
    errno.EPERM: "its folder must be writable for the user that weft runs as",
    errno.ETIMEDOUT: "it is tried again; see who it is with `fuser -v`",
}
"""What to do about an errno."""

_Signature: TypeAlias = tuple[int, int, int, int, int]


class FileTarget:
    """`paths`: absolute; the only ones that are read, written or removed. `lock`: path of the file whose lock is held
    for each write and removal, "" for none."""

    def __init__(self, paths: Iterable[str], lock: str = "") -> None:
        self._paths = frozenset(paths)
        self._lock = lock
        self._known: dict[str, tuple[_Signature, File]] = {}
        self._objects: dict[Key, File] = {}
        self._foreign: dict[Key, str] = {}
        self._read = False
        self._watch: FolderWatch | None = None

    @property
    def name(self) -> str:
        return "files"

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return (File,)

    async def read(self, full: bool = False) -> Reading:
        """What stands at our paths now; that is looked up each time, for it costs microseconds. What is no regular file
        (a folder, a symbolic link) is somebody else's. Raises TargetError if a path can't be looked at."""
        objects, foreign = self._objects, self._foreign
        self._objects, self._foreign = self._look()
        first, self._read = not self._read, True
        if full or first:
            return Reading(self._objects, self._foreign)
        touched = {key for key in objects | self._objects if objects.get(key) != self._objects.get(key)}
        touched.update(foreign.keys() ^ self._foreign.keys())
        return Reading(self._objects, self._foreign, frozenset(touched))

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Write or remove; one answer each. A disk may take its time, so it is done in a thread."""
        answers = [await asyncio.to_thread(self._apply, op) for op in ops]
        if self._watch is not None:
            with contextlib.suppress(OSError):  # no more watches are to be had: the timer is the backstop
                self._watch.renew()
        return answers

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """With coreutils' install, which does not rename: by hand, a moment of half a file is taken into account."""
        return [_line(op, self._lock) for op in ops]

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running event loop when one of the files comes, changes or goes. Where inotify can't be
        had, that is logged: the timer finds changes."""
        from weft.targets.files_watch import FolderWatch  # 10 ms that a command which only plans can do without

        if self._watch is not None:
            self._watch.close()
        try:
            self._watch = FolderWatch(self._paths, wake)
        except OSError as error:
            self._watch = None
            log.warning("changes of files can't be heard of (%s): the timer will find them", error)

    def close(self) -> None:
        """Stop listening; the files stay."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def _look(self) -> tuple[dict[Key, File], dict[Key, str]]:
        objects: dict[Key, File] = {}
        foreign: dict[Key, str] = {}
        for path in sorted(self._paths):
            try:
                who = _in_the_way(path)
                if not who:
                    found = self._found(path)
                    objects[found.key] = found
                elif who != NOTHING:
                    foreign["file", path] = who
            except FileNotFoundError:
                continue  # it went between the two looks
            except OSError as error:
                raise TargetError(f"{path} can't be read: {error.strerror}") from error
        return objects, foreign

    def _found(self, path: str) -> File:
        """What is at the path; a file that did not change since it was read is not read again."""
        signature = _signature(os.lstat(path))
        known = self._known.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        found = _read(path)
        self._known.pop(path, None)
        # Two changes within one tick of the file system's clock can't be told apart; and what changed meanwhile
        # has another signature than the one from before it was read.
        if time.time() - signature[-1] / 1e9 > SETTLED:
            self._known[path] = (signature, found)
        return found

    def _apply(self, op: Op) -> Failure | None:
        thing = op.object
        if not isinstance(thing, File):
            return Failure(f"{op.action} {thing.key}: files are not the place for a {type(thing).__name__}")
        if thing.path not in self._paths:
            return Failure(f"{op.action} {thing.path}: it is not among the files that were named; it was left alone")
        try:
            who = _in_the_way(thing.path)
            if who and who != NOTHING:
                return Failure(f"{op.action} {thing.path}: {who} stands there; it was left alone", conflict=True)
            if op.action == "remove" and who == NOTHING:
                return None
            with self._locked(thing.path):
                if op.action == "remove":
                    Path(thing.path).unlink(missing_ok=True)
                else:
                    _write(thing)
        except OSError as error:
            about = f" ({error.filename})" if error.filename not in (None, thing.path) else ""
            advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
            return Failure(f"{op.action} {thing.path}: {error.strerror}{about}{advice}")
        return None

    def _locked(self, path: str) -> contextlib.AbstractContextManager[None]:
        if not self._lock:
            return contextlib.nullcontext()
        Path(path).parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)  # as a rule, the lock is beside the file
        return locked(self._lock)


NOTHING = "nothing"
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISREG, ""),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
)


def _in_the_way(path: str) -> str:
    """What stands at `path`: "" for a regular file, NOTHING, or a phrase that names it."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device, pipe or socket")


def _signature(status: os.stat_result) -> _Signature:
    """What is another one after each change; its last part (nanoseconds since 1970) can't be set by anybody."""
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns


def _read(path: str) -> File:
    """Octets that aren't UTF-8 come as U+FFFD: nothing that weft writes holds that, so such a file differs. So does one
    that may not be read (left by another user): whoever may write to the folder can replace it all the same."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return File(path, "\ufffd", stat.S_IMODE(os.lstat(path).st_mode))
    with open(fd, "rb") as file:
        content = file.read(LARGEST)
        return File(path, content.decode(errors="replace"), stat.S_IMODE(os.fstat(fd).st_mode))


def _write(file: File) -> None:
    """Beside its place, then renamed. What an earlier attempt left under the same name is replaced."""
    path = Path(file.path)
    path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.weft-new")
    beside.unlink(missing_ok=True)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(file.content.encode())
            os.fchmod(out.fileno(), file.mode)
            out.flush()
            os.fsync(out.fileno())
        beside.rename(path)
    except OSError:
        with contextlib.suppress(OSError):  # what failed says more
            beside.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """The new name itself is on the disk. Where a file system can't do that for a folder, there is none to lose."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def _line(op: Op, lock: str) -> str:
    thing = op.object
    if not isinstance(thing, File):
        raise TypeError(f"files are not the place for a {type(thing).__name__}")
    path = shlex.quote(thing.path)
    under = f"flock -x {shlex.quote(lock)} " if lock else ""
    if op.action == "remove":
        return f"{under}rm -f {path}"
    return f"printf %s {shlex.quote(thing.content)} | {under}install -D -m {thing.mode:o} /dev/stdin {path}"
