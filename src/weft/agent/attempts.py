"""What the ladder did, kept in a file so that a restart doesn't start counting anew. Used by `agent/healing.py`.

`<RUN_DIR>/recovery.json`, shared by the running registrar and `weft recover`; replaced by rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from weft.core.ladder import Attempt, kept

FILE = "recovery.json"


class Record(msgspec.Struct, frozen=True):
    """The file."""

    version: int = 1
    attempts: tuple[Attempt, ...] = ()


class Attempts:
    """The attempts of the last day. `path`: of the file; its folder is made when something is written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, now: float) -> tuple[tuple[Attempt, ...], str]:
        """What is remembered, and what is wrong with the file ("" for nothing): what can't be read counts as empty."""
        try:
            record = msgspec.json.decode(self._path.read_bytes(), type=Record)
        except FileNotFoundError:
            return (), ""
        except (OSError, msgspec.DecodeError) as error:
            return (), f"{self._path} can't be read ({error}); what was tried before is forgotten"
        return kept(record.attempts, now), ""

    def add(self, attempt: Attempt) -> str:
        """Remember one more; why it could not be written, "" if it was."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                before, _ = self.read(attempt.at)
                draft = self._path.with_suffix(".new")
                draft.write_bytes(msgspec.json.encode(Record(attempts=(*before, attempt))) + b"\n")
                draft.replace(self._path)
        except OSError as error:
            return f"{self._path} can't be written ({error}); a restart will not know of this attempt"
        return ""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The daemon and a person may add at the same moment."""
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
