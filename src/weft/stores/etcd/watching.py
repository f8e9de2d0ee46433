"""One watch on etcd: events come in, full sets go out. Made by `store.EtcdStore.watch`, once per listing.

A task reads events as they come, so that a consumer who takes his time finds one set and not a queue. A second one
asks for a sign of life when all is quiet: a member that hangs keeps its connection open and says nothing. What the
member tells another watch on the same connection is such a sign, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from weft.errors import StoreError, StoreUnreachable
from weft.stores import Entry, Snapshot
from weft.stores.etcd.connection import CLOSED, Call, Connection, read, write
from weft.stores.etcd.messages import (
    DELETED,
    WATCH,
    Event,
    KeyValue,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from weft.stores.etcd.options import Endpoint
from weft.stores.etcd.refusals import of_watch

PACE = 0.008  # seconds from one set to the next while changes come in a burst: else one falls ever further behind
STABLE = 1.0  # seconds; a watch that held for so long and is lost is begun anew before anyone is told


def entry(kv: KeyValue) -> Entry:
    """A key that is not UTF-8 is kept whole, in surrogates."""
    return Entry(kv.key.decode("utf-8", "surrogateescape"), kv.value, kv.created, kv.modified, kv.version, kv.lease)


class Listing:
    """A full set that events change."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._revision = snapshot.revision
        self._changes: dict[str, Entry | None] = {}
        self.in_a_burst = False
        """Several keys had changed when the last set was made."""

    def apply(self, events: list[Event]) -> None:
        for event in events:
            changed = entry(event.kv)
            self._changes[changed.key] = None if event.type == DELETED else changed
            self._revision = changed.modified

    def snapshot(self) -> Snapshot:
        changes, self._changes = self._changes, {}
        self.in_a_burst = len(changes) > 1
        self._snapshot = Snapshot(self._snapshot.entries.after(changes), self._revision)
        return self._snapshot


class Watch:
    """One stream. `sets` ends where the keys must be listed anew, and raises StoreUnreachable when the stream is lost,
    StoreForbidden when it is refused. `held`: seconds that it ran."""

    def __init__(self, connection: Connection, keys: tuple[bytes, bytes], listed: Snapshot, asked: str) -> None:
        self._connection = connection
        self._create = WatchCreateRequest(*keys, listed.revision + 1)
        self._listing = Listing(listed)
        self._asked = asked
        self._woken = asyncio.Event()
        self._changed = False
        self._over = False
        self._failure: StoreError | None = None
        self.held = 0.0

    async def sets(self) -> AsyncGenerator[Snapshot, None]:
        """A full set after each change, or after several that came together."""
        create = WatchRequest(create=self._create)
        call, first = await self._connection.open(WATCH, create, self._asked, _refusal)
        endpoint = self._connection.endpoint
        loop = asyncio.get_running_loop()
        began = self._connection.heard[endpoint] = loop.time()
        tasks = [
            asyncio.create_task(self._read(call, first, endpoint)),
            asyncio.create_task(self._pulse(call, endpoint)),
        ]
        told = began - PACE
        try:
            while not self._over:
                await self._woken.wait()
                if self._listing.in_a_burst:
                    await asyncio.sleep(told + PACE - loop.time())
                self._woken.clear()
                if self._changed:
                    self._changed, told = False, loop.time()
                    yield self._listing.snapshot()
        finally:
            self.held = loop.time() - began
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure:
            if isinstance(self._failure, StoreUnreachable):
                self._connection.leave(endpoint)
            raise type(self._failure)(f"etcd, asked to {self._asked}: {endpoint}: {self._failure}")

    async def _read(self, call: Call, answer: WatchResponse, endpoint: Endpoint) -> None:
        """Take in what the stream tells, until it ends; then say why."""
        loop = asyncio.get_running_loop()
        try:
            while not answer.canceled:
                if answer.events:
                    self._listing.apply(answer.events)
                    self._changed = True
                    self._woken.set()
                answer = await read(call, WATCH)
                self._connection.heard[endpoint] = loop.time()
            self._end(None if answer.compacted else of_watch(answer.reason))
        except StoreError as error:
            self._end(error)
        except asyncio.CancelledError:  # of this task, or of the call: the store was closed
            self._end(StoreUnreachable(CLOSED))
            raise

    async def _pulse(self, call: Call, endpoint: Endpoint) -> None:
        """Ask for a sign of life after `quiet` seconds of silence; after as many more without one, all is over."""
        quiet, heard = self._connection.timeout, self._connection.heard
        loop = asyncio.get_running_loop()
        asked_at = 0.0
        while True:
            silent = loop.time() - heard[endpoint]
            if silent < quiet:
                await asyncio.sleep(quiet - silent)
                continue
            if heard[endpoint] < asked_at:
                self._end(StoreUnreachable(f"it is connected and has said nothing for {silent:.1f} s"))
                return
            asked_at = loop.time()
            try:
                async with asyncio.timeout(quiet):
                    await write(call, WatchRequest(progress=WatchProgressRequest()))
            except (TimeoutError, StoreError):
                continue  # the reader is told why, or the next round finds it silent
            await asyncio.sleep(quiet)

    def _end(self, failure: StoreError | None) -> None:
        if not self._over:
            self._over, self._failure = True, failure
            self._woken.set()


def _refusal(answer: WatchResponse) -> StoreError | None:
    return of_watch(answer.reason) if answer.canceled and not answer.compacted else None
