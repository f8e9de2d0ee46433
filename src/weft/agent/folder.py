"""Whose the data folder is: one `weft discovery` writes to it, and a second one is told whose it is. Used by
`daemons/discovery.py`.

lock.json is held by flock for the process's life, so whoever is killed leaves nothing that blocks; what stands in it is
for people. It works between containers that share the folder, too, where the pid is that of the other's own.

    {"pid":1,"stack_ids":["stack-a"],"since":"2026-01-31T12:00:00Z"}
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from weft.errors import WeftError
from weft.targets.files_lock import is_at, open_lock
from weft.wire import texts

NAME = "lock.json"
MODE = 0o640
LONGEST = 1 << 16
ATTEMPTS = 10


class Wall(Protocol):
    """Seconds since 1970."""

    def __call__(self) -> float: ...


class Owner(msgspec.Struct, frozen=True):
    """What stands in the file."""

    pid: int
    stack_ids: tuple[str, ...]
    since: str


class FolderClaim:
    """Be the only one that writes to `folder`, as long as this is entered. `problem`: why the file does not say who we
    are (the disk is full), "" if it does; the claim holds all the same.

        with FolderClaim(Path("/var/lib/docker-router"), ["stack-a"]):
            ...
    """

    def __init__(self, folder: Path, stack_ids: Sequence[str], wall: Wall = time.time) -> None:
        self.path = folder / NAME
        self.problem = ""
        self._stack_ids = tuple(stack_ids)
        self._wall = wall
        self._held = -1

    def __enter__(self) -> FolderClaim:
        """Raises WeftError if another process has the folder, naming it, or if nothing can be written there."""
        try:
            self.path.parent.mkdir(0o755, parents=True, exist_ok=True)
            self._held = self._take()
        except OSError as error:
            raise WeftError(
                f"{self.path} can't be locked: {error.strerror or error}; DATA_DIR must be a folder that user "
                f"{os.geteuid()} may write to"
            ) from error
        self._tell()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # what is left blocks nobody
            if is_at(self._held, str(self.path)):
                self.path.unlink()
        os.close(self._held)

    def _take(self) -> int:
        """A descriptor that has the lock on what has the name."""
        for _ in range(ATTEMPTS):
            descriptor = open_lock(str(self.path), MODE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(descriptor, str(self.path)):  # its last owner removes it when it ends
                    return descriptor
            except BlockingIOError:
                raise WeftError(self._taken(descriptor)) from None
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise WeftError(f"{self.path} is removed again and again, so this folder can't be had; who does that?")

    def _taken(self, descriptor: int) -> str:
        body = os.pread(descriptor, LONGEST, 0)
        os.close(descriptor)
        try:
            owner = msgspec.json.decode(body, type=Owner)
        except msgspec.DecodeError:
            who = "another process, which does not say which"
        else:
            stacks = ", ".join(texts.shortened(name) for name in owner.stack_ids[:10]) or "no stack"
            who = f"another weft discovery (pid {owner.pid}, for {stacks}, since {texts.shortened(owner.since)})"
        return f"{self.path.parent} belongs to {who}; end that first, or give this one a DATA_DIR of its own"

    def _tell(self) -> None:
        since = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = msgspec.json.encode(Owner(os.getpid(), self._stack_ids, since)) + b"\n"
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(self.path, flags), "wb", buffering=0) as file:
                file.write(body)
        except OSError as error:
            self.problem = f"{self.path} can't be written: {error.strerror or error}"
