"""Stores are key-value databases that many hosts share. This module holds their one Protocol and their table.

Keys are text, values are octets, every change has a revision, and a key may hang on a lease that its owner must renew:
etcd's model (https://etcd.io/docs/v3.5/learning/data_model/), and no more of it than weft needs. What can go wrong has
three names: a key is not there (None), the store could not be asked (StoreUnreachable), it said no (StoreForbidden).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from weft.core.edits import resorted


class Entry(msgspec.Struct, frozen=True):
    """One key with its value. `created`, `modified`: revisions of the store. `version`: 1 after creation, one more with
    each put. `lease`: the id of the lease that the key hangs on, 0 for none."""

    key: str
    value: bytes
    created: int
    modified: int
    version: int
    lease: int = 0


def _key(entry: Entry) -> str:
    return entry.key


class Entries(Mapping[str, Entry]):
    """Entries by key. `rows`: they themselves, sorted by key. Never changed."""

    __slots__ = ("rows",)

    def __init__(self, rows: tuple[Entry, ...] = ()) -> None:
        """`rows`: sorted by key; see `of`."""
        self.rows = rows

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Entries:
        return cls(tuple(sorted(entries, key=_key)))

    def after(self, changes: Mapping[str, Entry | None]) -> Entries:
        """These with what changed since; None: the key is gone."""
        return Entries(resorted(self.rows, changes, _key))

    def __getitem__(self, key: str) -> Entry:
        at = bisect_left(self.rows, key, key=_key)
        if at < len(self.rows) and self.rows[at].key == key:
            return self.rows[at]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return map(_key, self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every key under a prefix, sorted by key, as of `revision`."""

    entries: Entries
    revision: int


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition of a commit: `key` was last modified at this revision; 0: there is no such key."""

    key: str
    modified: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """`lease` 0: the key hangs on none, also if it did before."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


class Store(Protocol):
    """Every method but `close` raises StoreUnreachable, StoreForbidden, or StoreError for anything else."""

    async def get(self, key: str) -> Entry | None:
        """One key, as the store's majority has it; None if it is not there."""
        ...

    async def range(self, prefix: str) -> Snapshot:
        """Every key that begins with `prefix`, all as of one revision, however many there are."""
        ...

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
        """FULL SETS: at once what is there, then again after each change (several that came together are one). Falling
        behind the store's history is no error: the set is read anew. Raises when the store can't be asked any more;
        whoever watches starts again, and the first set holds whatever happened meanwhile.
        Who breaks off closes it: `async with contextlib.aclosing(store.watch(prefix)) as sets`."""
        ...

    async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        """All changes at once if every guard holds: the new revision; else nothing, and None."""
        ...

    async def grant(self, seconds: int) -> int:
        """A new lease that lives so long without a renewal: its id, never 0."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease: seconds that it lives from now; 0 if there is no such lease (any more)."""
        ...

    async def remaining(self, lease: int) -> int:
        """Seconds that a lease has left, without renewing it; 0 if there is no such lease (any more)."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease; its keys go with it. That it is gone already is success."""
        ...

    async def close(self) -> None:
        """Give up connections and watches. What was written stays, leases too."""
        ...
