"""The Store's methods in etcd's terms. Made by daemons and by the verbs that look into etcd."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

from weft.errors import StoreError, StoreUnreachable
from weft.stores import Delete, Entries, Entry, Guard, Put, Snapshot
from weft.stores.etcd.connection import Connection
from weft.stores.etcd.messages import (
    GRANT,
    KEEP_ALIVE,
    RANGE,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    Compare,
    DeleteRequest,
    LeaseGrantRequest,
    LeaseRequest,
    Operation,
    PutRequest,
    RangeRequest,
    TxnRequest,
)
from weft.stores.etcd.options import EtcdOptions
from weft.stores.etcd.watching import STABLE, Watch, entry

PAGE = 1000  # keys of one answer: read in a few ms, so that the event loop is never held for long
LISTINGS = 5  # how often a listing is begun anew when etcd compacts under it
COMPACTED = "revision has been compacted"
NO_LEASE = "requested lease not found"


class EtcdStore:
    """A Store; see there. Constructing does no I/O and raises SettingsError if the options can't be meant. It connects
    when it is first asked, and belongs to the event loop that runs then."""

    def __init__(self, options: EtcdOptions) -> None:
        self._connection = Connection(options)

    @property
    def endpoint(self) -> str:
        """The member that is asked at present, "http://10.0.1.2:2379"."""
        return str(self._connection.endpoint)

    async def get(self, key: str) -> Entry | None:
        answer = await self._connection.ask(RANGE, RangeRequest(_octets(key)), f"the key {key!r}")
        return entry(answer.kvs[0]) if answer.kvs else None

    async def range(self, prefix: str) -> Snapshot:
        for _ in range(LISTINGS):
            try:
                return await self._list(prefix)
            except StoreError as error:
                if COMPACTED not in str(error):
                    raise
        raise StoreError(f"etcd compacted its history {LISTINGS} times while keys under {prefix!r} were read")

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
        while True:
            listed = await self.range(prefix)
            yield listed
            watch = Watch(self._connection, prefix_range(prefix), listed, f"watch keys under {prefix!r}")
            try:
                async with contextlib.aclosing(watch.sets()) as sets:
                    async for snapshot in sets:
                        yield snapshot
            except StoreUnreachable:
                if watch.held < STABLE:
                    raise

    async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        question = TxnRequest(
            [Compare(key=_octets(guard.key), modified=guard.modified) for guard in guards],
            [_operation(change) for change in changes],
        )
        keys = ", ".join(repr(change.key) for change in changes[:3]) + (", …" if len(changes) > 3 else "")
        answer = await self._connection.ask(TXN, question, f"a change of {keys or 'nothing'}")
        return answer.header.revision if answer.succeeded else None

    async def grant(self, seconds: int) -> int:
        answer = await self._connection.ask(GRANT, LeaseGrantRequest(seconds), f"a lease of {seconds} s")
        return answer.id

    async def keep_alive(self, lease: int) -> int:
        answer = await self._connection.ask(KEEP_ALIVE, LeaseRequest(lease), f"a renewal of lease {lease:x}")
        return max(answer.ttl, 0)

    async def remaining(self, lease: int) -> int:
        answer = await self._connection.ask(TIME_TO_LIVE, LeaseRequest(lease), f"the rest of lease {lease:x}")
        return max(answer.ttl, 0)

    async def revoke(self, lease: int) -> None:
        try:
            await self._connection.ask(REVOKE, LeaseRequest(lease), f"the end of lease {lease:x}")
        except StoreError as error:
            if NO_LEASE not in str(error):
                raise

    async def close(self) -> None:
        await self._connection.close()

    async def _list(self, prefix: str) -> Snapshot:
        key, end = prefix_range(prefix)
        entries: list[Entry] = []
        revision, more = 0, True
        while more:
            question = RangeRequest(key, end, PAGE, revision)
            answer = await self._connection.ask(RANGE, question, f"keys under {prefix!r}")
            revision = revision or answer.header.revision
            entries.extend(map(entry, answer.kvs))
            more = answer.more and bool(answer.kvs)
            key = answer.kvs[-1].key + b"\0" if more else key
        return Snapshot(Entries.of(entries), revision)


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """First key and end of a range that holds every key with this prefix: the end is the prefix with its last octet
    one higher; octets that can't be are dropped, and an end of one zero octet is no end."""
    first = _octets(prefix)
    stem = first.rstrip(b"\xff")
    return first or b"\0", stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def _operation(change: Put | Delete) -> Operation:
    if isinstance(change, Put):
        return Operation(put=PutRequest(_octets(change.key), change.value, change.lease))
    return Operation(delete=DeleteRequest(_octets(change.key)))


def _octets(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
