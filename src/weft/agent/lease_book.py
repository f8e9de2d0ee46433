"""What stands under a flannel prefix, read: the config and the book of leases. Used by `agent/leases.py` and `cli/`.

A set of thousands of entries comes anew with each change; only those that differ from the last time are parsed.
"""

from __future__ import annotations

from weft.core.edits import Kept
from weft.core.tenancy import SUBJECT, Book, Held
from weft.errors import WireError
from weft.model import Problem
from weft.stores import Entry, Snapshot
from weft.wire.flannel import Lease, parse_key, parse_lease
from weft.wire.registrar import registrar_of


class Reader:
    """Reads the snapshots of one prefix, one after the other."""

    def __init__(self, prefix: str) -> None:
        self._subnets = subnets_of(prefix)
        self._held: Kept[Entry, Held] = Kept()
        self._problems: Kept[Entry, Problem] = Kept()

    def book(self, snapshot: Snapshot) -> Book:
        """Every lease. An entry that can't be read is a problem; if its key can be, its subnet is taken too."""
        read: dict[str, tuple[Held | None, Problem | None]] = {}

        def held(entry: Entry) -> Held | None:
            read[entry.key] = _read(entry) if entry.key.startswith(self._subnets) else (None, None)
            return read[entry.key][0]

        rows = snapshot.entries.rows
        self._held = self._held.after(rows, held)
        self._problems = self._problems.after(rows, lambda entry: read[entry.key][1])
        return Book(snapshot.revision, self._held.made, self._problems.made)


def subnets_of(prefix: str) -> str:
    """What the keys of leases begin with."""
    return f"{prefix}/subnets/"


def config_of(prefix: str) -> str:
    """The key of flannel's config."""
    return f"{prefix}/config"


def _read(entry: Entry) -> tuple[Held | None, Problem | None]:
    try:
        lease, problem, readable = parse_lease(entry.key, entry.value, entry.created), None, True
    except WireError as error:
        problem, readable = Problem(SUBJECT, str(error)), False
        try:
            lease = Lease(*parse_key(entry.key))
        except WireError:
            return None, problem
    added = bool(registrar_of(entry.value))
    return Held(entry.key, lease, entry.created, entry.modified, entry.lease, readable, added), problem
