"""A store in memory: etcd as far as weft needs one, on a clock that is moved by hand, with switches that make it fail.

It ships, because it stands for etcd wherever there is none: the lease keeper's tests run on it, hours in milliseconds.
It passes the same contract suite as the real thing (`tests/contract/test_store.py`), so what it does when a lease
expires or its history is compacted is what etcd does.

    server = MemoryServer()
    mine, rival = MemoryStore(server), MemoryStore(server)
    server.advance(3600)                      # leases expire, watchers hear of it
    server.fail(StoreUnreachable("gone"))     # until server.fail(None)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from weft.errors import StoreError, StoreUnreachable
from weft.stores import Delete, Entries, Entry, Guard, Put, Snapshot

MOST_CHANGES = 128  # etcd's default for one transaction (--max-txn-ops)
SHORTEST_LEASE = 2  # seconds; etcd's with its default election timeout


@dataclass
class _Lease:
    seconds: int
    ends: float


@dataclass(eq=False)
class _Watcher:
    """`stale`: list anew. `failure`: to be raised."""

    prefix: str
    stale: bool = False
    failure: StoreError | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryServer:
    """What the stores of one test share. Nothing here waits: every method is done when it returns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 1
        self.entries: dict[str, Entry] = {}
        self.leases: dict[int, _Lease] = {}
        self.commits: list[tuple[Put | Delete, ...]] = []
        self._next_lease = 0x7E57
        self._watchers: set[_Watcher] = set()
        self._down: StoreError | None = None
        self._failing: list[StoreError] = []
        self._losing: list[StoreError] = []
        self._rivals: list[Callable[[], None]] = []

    # the switches

    def advance(self, seconds: float) -> None:
        """Move the clock; leases that end meanwhile end in their order, each with its keys."""
        until = self.now + seconds
        while ending := [(lease.ends, number) for number, lease in self.leases.items() if lease.ends <= until]:
            self.now, number = min(ending)
            self.end_lease(number)
        self.now = until

    def compact(self) -> None:
        """Forget the history: every watcher lists anew."""
        for watcher in self._watchers:
            watcher.stale = True
            watcher.woken.set()

    def fail(self, error: StoreError | None) -> None:
        """Every question raises this, and every watch, until `fail(None)`. The clock goes on, leases expire."""
        self._down = error
        if error:
            for watcher in self._watchers:
                watcher.failure = error
                watcher.woken.set()

    def fail_next(self, error: StoreError, count: int = 1) -> None:
        """The next `count` questions raise this, and nothing happens."""
        self._failing += [error] * count

    def lose_answer(self, error: StoreError, count: int = 1) -> None:
        """The next `count` commits are carried out, and raise this."""
        self._losing += [error] * count

    def before_commit(self, rival: Callable[[], None]) -> None:
        """Call this once, just before the next commit is judged: how a race is lost. It may use `change`."""
        self._rivals.append(rival)

    @property
    def outstanding(self) -> int:
        """How many failures and rivals that were asked for have not been met yet."""
        return len(self._failing) + len(self._losing) + len(self._rivals)

    # what stores, and tests that play another host, do

    def ask(self) -> None:
        """Raise what is to be raised now."""
        if self._down:
            raise self._down
        if self._failing:
            raise self._failing.pop(0)

    def list(self, prefix: str) -> Snapshot:
        inside = (entry for entry in self.entries.values() if entry.key.startswith(prefix))
        return Snapshot(Entries.of(inside), self.revision)

    def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard]) -> int | None:
        """As Store.commit says it, switches included."""
        if self._rivals:
            self._rivals.pop(0)()
        self._check(changes)
        for guard in guards:
            held = self.entries.get(guard.key)
            if (held.modified if held else 0) != guard.modified:
                return None
        if any(isinstance(change, Put) and change.lease and change.lease not in self.leases for change in changes):
            raise StoreError("memory: requested lease not found")
        self.change(*changes)
        self.commits.append(tuple(changes))
        if self._losing:
            raise self._losing.pop(0)
        return self.revision

    def change(self, *changes: Put | Delete) -> None:
        """Make these changes, whatever is there; one revision for all."""
        touched = []
        revision = self.revision + 1
        for change in changes:
            held = self.entries.pop(change.key, None) if isinstance(change, Delete) else self.entries.get(change.key)
            if isinstance(change, Put):
                created, version = (held.created, held.version + 1) if held else (revision, 1)
                self.entries[change.key] = Entry(change.key, change.value, created, revision, version, change.lease)
            elif held is None:
                continue
            touched.append(change.key)
        if not touched:
            return
        self.revision = revision
        for watcher in self._watchers:
            if any(key.startswith(watcher.prefix) for key in touched):
                watcher.stale = True
                watcher.woken.set()

    def grant(self, seconds: int) -> int:
        self._next_lease += 1
        seconds = max(seconds, SHORTEST_LEASE)
        self.leases[self._next_lease] = _Lease(seconds, self.now + seconds)
        return self._next_lease

    def end_lease(self, number: int) -> None:
        """The lease is gone, and its keys; no error if it was already."""
        if self.leases.pop(number, None):
            self.change(*(Delete(entry.key) for entry in list(self.entries.values()) if entry.lease == number))

    def keep_alive(self, number: int) -> int:
        lease = self.leases.get(number)
        if lease is None:
            return 0
        lease.ends = self.now + lease.seconds
        return lease.seconds

    def remaining(self, number: int) -> int:
        lease = self.leases.get(number)
        return int(lease.ends - self.now) if lease else 0

    def join(self, watcher: _Watcher) -> None:
        self._watchers.add(watcher)

    def leave(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)

    def _check(self, changes: Sequence[Put | Delete]) -> None:
        """Refuse what etcd refuses, in its words, whether the guards hold or not."""
        puts = [change.key for change in changes if isinstance(change, Put)]
        deleted = {change.key for change in changes if isinstance(change, Delete)}
        if len(changes) > MOST_CHANGES:
            raise StoreError("memory: too many operations in txn request")
        if len(set(puts)) < len(puts) or deleted & set(puts):
            raise StoreError("memory: duplicate key given in txn request")
        if "" in deleted or "" in puts:
            raise StoreError("memory: key is not provided")


class MemoryStore:
    """A Store; see there. One client of `server`; `fail` cuts off this one alone."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._cut: StoreError | None = None
        self._watchers: set[_Watcher] = set()

    def fail(self, error: StoreError | None) -> None:
        """Every question of this client raises this, and every watch of its own, until `fail(None)`."""
        self._cut = error
        if error:
            for watcher in self._watchers:
                watcher.failure = error
                watcher.woken.set()

    async def get(self, key: str) -> Entry | None:
        return (await self._reached()).entries.get(key)

    async def range(self, prefix: str) -> Snapshot:
        return (await self._reached()).list(prefix)

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot, None]:
        server = await self._reached()
        watcher = _Watcher(prefix)
        self._watchers.add(watcher)
        server.join(watcher)
        try:
            yield server.list(prefix)
            while True:
                await watcher.woken.wait()
                watcher.woken.clear()
                if watcher.failure:
                    raise watcher.failure
                if watcher.stale:
                    watcher.stale = False
                    yield server.list(prefix)
        finally:
            server.leave(watcher)
            self._watchers.discard(watcher)

    async def commit(self, changes: Sequence[Put | Delete], guards: Sequence[Guard] = ()) -> int | None:
        return (await self._reached()).commit(changes, guards)

    async def grant(self, seconds: int) -> int:
        return (await self._reached()).grant(seconds)

    async def keep_alive(self, lease: int) -> int:
        return (await self._reached()).keep_alive(lease)

    async def remaining(self, lease: int) -> int:
        return (await self._reached()).remaining(lease)

    async def revoke(self, lease: int) -> None:
        (await self._reached()).end_lease(lease)

    async def close(self) -> None:
        self.fail(StoreUnreachable("memory: this store was closed"))

    async def _reached(self) -> MemoryServer:
        await asyncio.sleep(0)  # a question takes a while: others come in between
        if self._cut:
            raise self._cut
        self._server.ask()
        return self._server
