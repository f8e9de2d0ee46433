"""What a daemon leaves in its folder for people and monitoring: events.log, and the registrar health_status.json.

Nothing here can hold up or break the loop: whatever is written is handed to one thread (`Scribe`), and a disk that is
full, read-only or hung is a sentence (`Scribe.problem`) that the daemon reports, once. Used by `daemons/registrar.py`
and `daemons/discovery.py`.

events.log: one JSON object per line, oldest first; at `LARGEST` octets it becomes events.log.1, of which there is one.

    {"time":"2026-01-31T12:00:00.123Z","kind":"repair","subject":"route 10.9.1.0/24","done":"added","reason":"…"}
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from weft.core.health import Health
from weft.errors import WireError
from weft.wire.health import encode_health

LARGEST = 1 << 20
"""Octets of events.log before it is put aside: some 5,000 events."""
LONGEST_QUEUE = 2000
"""Events that wait for a slow disk; the oldest are dropped first, and how many is told."""
FAREWELL = 2.0
"""Seconds that the end of the daemon waits for what is still unwritten."""


class Event(msgspec.Struct, frozen=True):
    """Something that was done, or happened. `kind`: a word (repair, course, ladder, registration, health, …).
    `subject`: what it was done to. `done`: what was done. `reason`: why."""

    time: str
    kind: str
    subject: str
    done: str
    reason: str


class Wall(Protocol):
    """Seconds since 1970."""

    def __call__(self) -> float: ...


class Scribe:
    """One thread that writes files; handing something to it never waits. Jobs are carried out in order; each is retried
    with the next one if it failed, so nothing is lost while a disk is full for a while. `setting`: which one names the
    folder, for people. `mode`: of files that are made."""

    def __init__(self, setting: str = "RUN_DIR", mode: int = 0o644) -> None:
        self.problem = ""
        """Why nothing can be written just now; "" if all is well."""
        self._setting = setting
        self._mode = mode
        self._lines: dict[Path, deque[bytes]] = {}
        self._files: dict[Path, bytes] = {}
        self._dropped = 0
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, path: Path, line: bytes) -> None:
        """Add a line to a log that is rotated."""
        with self._lock:
            lines = self._lines.setdefault(path, deque())
            lines.append(line)
            if len(lines) > LONGEST_QUEUE:
                lines.popleft()
                self._dropped += 1
        self._wake()

    def replace(self, path: Path, content: bytes) -> None:
        """Write a file whole, by rename; only the newest content counts."""
        with self._lock:
            self._files[path] = content
        self._wake()

    def close(self, seconds: float = FAREWELL) -> None:
        """Write what is left, for so long at the most."""
        self._idle.wait(seconds)
        self._closed = True
        self._wanted.set()

    def settle(self, seconds: float = FAREWELL) -> bool:
        """Wait until everything was tried; False if it took longer."""
        return self._idle.wait(seconds)

    def _wake(self) -> None:
        with self._lock:
            self._idle.clear()
            self._wanted.set()
        if self._thread is None:
            # daemon: a hung disk must not hold up the exit
            self._thread = threading.Thread(target=self._run, name="weft-scribe", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            self._wanted.wait()
            self._wanted.clear()
            problem = self._write_files() or self._write_lines()
            with self._lock:
                self.problem = problem
                if not self._wanted.is_set():
                    self._idle.set()

    def _write_files(self) -> str:
        with self._lock:
            files = dict(self._files)
        for path, content in files.items():
            try:
                write_whole(path, content, self._mode)
            except OSError as error:
                return self._sentence(path, error)
            with self._lock:
                if self._files.get(path) is content:
                    del self._files[path]
        return ""

    def _write_lines(self) -> str:
        with self._lock:
            paths = [path for path, lines in self._lines.items() if lines]
        for path in paths:
            try:
                self._append(path)
            except OSError as error:
                return self._sentence(path, error)
        return ""

    def _sentence(self, path: Path, error: OSError) -> str:
        return (
            f"{path} can't be written: {error.strerror or error}; free space, or set {self._setting} to a folder that "
            "can be"
        )

    def _append(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            lines, dropped = list(self._lines[path]), self._dropped
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size >= LARGEST:
                path.replace(path.with_name(path.name + ".1"))
        lost = [_lost(path.name, dropped)] if dropped else []
        with open(_opened(path, self._mode), "ab", buffering=0) as log:
            before = log.seek(0, os.SEEK_END)
            try:
                _write_all(log.fileno(), b"".join([*lost, *lines]))
            except OSError:
                log.truncate(before)  # half a line would be glued to the next
                raise
        with self._lock:
            self._dropped -= dropped
            queue = self._lines[path]
            for line in lines:
                if queue and queue[0] is line:
                    queue.popleft()


class Journal:
    """The events log `name` in `folder`. `counts`: events by kind since the start, for /metrics. `recent`: the last
    ones."""

    def __init__(self, folder: Path, scribe: Scribe, wall: Wall = time.time, name: str = "events.log") -> None:
        self.path = folder / name
        self.counts: Counter[str] = Counter()
        self.recent: deque[Event] = deque(maxlen=200)
        self._scribe = scribe
        self._wall = wall

    def note(self, kind: str, subject: str, done: str, reason: str) -> None:
        """Something was done, or happened. Never waits, never raises."""
        event = Event(_stamp(self._wall()), kind, subject, done, reason)
        self.counts[kind] += 1
        self.recent.append(event)
        self._scribe.append(self.path, msgspec.json.encode(event) + b"\n")


@dataclass(frozen=True, slots=True)
class HealthFileOptions:
    """`every`: seconds after which the file is written even if nothing changed (min of INTERVAL and
    MONITORING_INTERVAL)."""

    folder: Path
    hostname: str
    every: float


class HealthFile:
    """health_status.json: written at each change of the verdict, and every so often. `last`: the last verdict. A change
    of the status is an event. `tell` may be called as often as one likes."""

    def __init__(self, options: HealthFileOptions, scribe: Scribe, journal: Journal, wall: Wall = time.time) -> None:
        self.path = options.folder / "health_status.json"
        self.last = Health("starting", "nothing is known yet")
        self.judged = 0.0
        """When that was, seconds since 1970."""
        self._options = options
        self._scribe = scribe
        self._journal = journal
        self._wall = wall
        self._written = 0.0
        self._woken = asyncio.Event()

    def tell(self, health: Health) -> None:
        """The verdict of now. Never waits, never raises."""
        now = self._wall()
        changed = health != self.last
        if health.status != self.last.status:
            done = f"{self.last.status} → {health.status}"
            self._journal.note("health", self._options.hostname, done, health.message)
        self.last, self.judged = health, now
        if changed or now - self._written >= self._options.every or now < self._written:
            self._written = now
            self._scribe.replace(self.path, encode_health(health, self._options.hostname, now))

    def wake(self) -> None:
        """Something happened: judge again soon."""
        self._woken.set()

    async def run(self, ask: Callable[[], Health]) -> None:
        """Judge when woken, and every so often, until cancelled."""
        while True:
            self.tell(ask())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.every):
                    await self._woken.wait()
            self._woken.clear()


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """A file that is never seen half written; its folder is made. Raises OSError, and leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_events(path: Path, most: int = 200) -> tuple[Event, ...]:
    """The last events of a log, oldest first; lines that can't be read are left out. Raises WireError if the file can't
    be read."""
    try:
        lines = path.read_bytes().splitlines()[-most:]
    except OSError as error:
        raise WireError(f"{path} can't be read: {error.strerror or error}") from error
    events = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            events.append(msgspec.json.decode(line, type=Event))
    return tuple(events)


def _opened(path: Path, mode: int) -> int:
    """To append to. Others may write to the folder, too: what stands there is no way to another file (a link), and
    nothing that would have to be waited for (a pipe)."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _stamp(seconds: float) -> str:
    """RFC 3339 in UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lost(name: str, number: int) -> bytes:
    event = Event(_stamp(time.time()), "log", name, f"{number} events were dropped", "the disk took none")
    return msgspec.json.encode(event) + b"\n"
