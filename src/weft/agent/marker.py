"""The mark that a daemon leaves in the store, by which a second one with the same public address knows that it is the
second. Used by `agent/leases.py`; told in docs/leases.md.

    <prefix>/weft/daemons/<public ip> = {"host": "…", "name": "…", "instance": "…"}   on an etcd lease of its own, 60 s

flannel reads nothing there. The host's id is what makes a restart quick: what an earlier daemon of this host left is
taken over at once, since `daemons/process.py` lets no two of them run in one network namespace.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from weft.errors import StoreForbidden
from weft.stores import Entry, Guard, Put, Snapshot, Store

TTL = 60
RENEW = 20.0
"""Seconds between renewals; who wonders whether a mark is a dead daemon's knows it after so long, or after TTL."""
LOOK = 2.0
SLACK = 2.0
"""Seconds by which what is left of a lease may differ from what was expected: etcd tells whole seconds."""

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/net")
FIRST_NAMESPACE = Path("/proc/1/ns/net")


class Owner(msgspec.Struct, frozen=True):
    """Who left a mark. `host`: one network namespace of one machine. `name`: for people. `instance`: one run."""

    host: str
    name: str
    instance: str


@dataclass(frozen=True, slots=True)
class Standing:
    """`alone`: this daemon may go on. `final`: it never may, another lives. `why`: a sentence, "" if all is well."""

    alone: bool
    final: bool = False
    why: str = ""


@dataclass(slots=True)
class _Suspect:
    """Another host's mark, and what was left of its lease when it was first seen."""

    modified: int
    remaining: int
    at: float


class Marker:
    """`me`: what this daemon writes."""

    def __init__(self, store: Store, prefix: str, me: Owner) -> None:
        self.due = 0.0
        """When `hold` wants to be called again at the latest, by the event loop's clock."""
        self._store = store
        self._prefix = prefix
        self._me = me
        self._key = ""
        self._lease = 0
        self._written = 0
        self._had = False
        self._suspect: _Suspect | None = None
        self._standing = Standing(False)

    async def hold(self, address: str, snapshot: Snapshot) -> Standing:
        """Leave the mark for this public address, or keep it alive. Raises StoreError; call it again then."""
        key = mark_of(self._prefix, address)
        if key != self._key:
            await self.release()
            self._key, self._had, self._written = key, False, 0
        if snapshot.revision >= self._written:
            try:
                self._standing = await self._hold(snapshot.entries.get(key))
            except StoreForbidden as error:
                self._standing = Standing(True, why=self._unmarked(error))
                self.due = _now() + RENEW
        return self._standing

    async def release(self) -> None:
        """Take the mark away."""
        lease, self._lease = self._lease, 0
        if lease:
            await self._store.revoke(lease)

    def forget_revisions(self) -> None:
        """The next snapshot is read anew, and the store may be another by now."""
        self._written = 0

    async def _hold(self, entry: Entry | None) -> Standing:
        owner = _owner(entry)
        if entry is None or (owner is not None and owner.host == self._me.host and not self._had):
            return await self._put(entry)
        if owner is not None and owner.instance == self._me.instance:
            return await self._renew(entry)
        who = f"{owner.name or 'a host'} (host id {owner.host})" if owner is not None else "somebody unknown"
        if self._had:
            self.due = _now() + RENEW
            return Standing(True, why=f"{self._second(entry, who)} started while this one runs; stop one of them")
        return await self._suspicion(entry, who)

    async def _put(self, entry: Entry | None) -> Standing:
        if not self._lease or not await self._store.keep_alive(self._lease):
            self._lease = await self._store.grant(TTL)
        guard = Guard(self._key, entry.modified if entry is not None else 0)
        written = await self._store.commit([Put(self._key, msgspec.json.encode(self._me), self._lease)], [guard])
        if written is None:
            return Standing(self._had)  # somebody was quicker: the next snapshot tells who
        self._written, self._had, self.due = written, True, _now() + RENEW
        return Standing(True)

    async def _renew(self, entry: Entry) -> Standing:
        self._lease, self._had = entry.lease, True
        if _now() >= self.due:
            if not await self._store.keep_alive(entry.lease):
                self._lease = 0
            self.due = _now() + RENEW
        return Standing(True)

    async def _suspicion(self, entry: Entry, who: str) -> Standing:
        """A mark of another host: its lease is renewed (that daemon lives), or it runs out."""
        now = _now()
        self.due = now + LOOK
        remaining = await self._store.remaining(entry.lease) if entry.lease else TTL
        seen = self._suspect
        if seen is None or seen.modified != entry.modified:
            self._suspect = seen = _Suspect(entry.modified, remaining, now)
        text = self._second(entry, who)
        if remaining > seen.remaining - (now - seen.at) + SLACK or not entry.lease:
            return Standing(False, True, f"{text} lives: this one stops. Give one of the two another -public-ip")
        return Standing(False, False, f"{text} was there in the last {TTL} s; waiting to see whether it still is")

    def _second(self, entry: Entry, who: str) -> str:
        return f"another daemon with the public address {entry.key.rpartition('/')[2]} on this prefix, on {who},"

    def _unmarked(self, error: StoreForbidden) -> str:
        return (
            f"this daemon can't leave its mark {self._key}, so a second one with the same public address would go"
            f" unnoticed: {error}; allow it to write below {self._prefix}/weft/"
        )


def mark_of(prefix: str, address: str) -> str:
    """The key of the mark of the daemon with this public address."""
    return f"{prefix}/weft/daemons/{address}"


def owner_here() -> Owner:
    """This run of this daemon."""
    return Owner(host_id(), socket.gethostname(), secrets.token_hex(8))


def host_id() -> str:
    """This machine's id, and its network namespace's if it isn't the machine's first: one daemon runs in each."""
    source = MACHINE_ID if MACHINE_ID.exists() and MACHINE_ID.stat().st_size else BOOT_ID
    machine = source.read_text().strip()
    here = NAMESPACE.stat().st_ino
    try:
        first = FIRST_NAMESPACE.stat().st_ino == here
    except OSError:
        first = False
    return machine if first else f"{machine}-{here}"


def _owner(entry: Entry | None) -> Owner | None:
    try:
        return msgspec.json.decode(entry.value, type=Owner) if entry is not None else None
    except msgspec.DecodeError:
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
