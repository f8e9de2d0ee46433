"""The two places that the store contract is tested in: memory, on a clock that is moved, and a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from tests.support.etcd import Etcd
from tests.support.eventually import patience
from weft.errors import StoreForbidden, StoreUnreachable
from weft.stores import Delete, Put, Snapshot, Store
from weft.stores.etcd import EtcdOptions, EtcdStore
from weft.stores.memory import MemoryServer, MemoryStore

PREFIX = "/coreos.com/network/subnets/"
BACK = 2.0  # seconds after its return in which a store must answer again
Sets = AsyncGenerator[Snapshot, None]


class Case(Protocol):
    """A store under test, and the other side of it."""

    @property
    def shortest(self) -> int:
        """Seconds of the shortest lease."""
        ...

    def store(self) -> Store:
        """One more client, closed at the end."""
        ...

    def other_put(self, key: str, value: bytes) -> None:
        """What somebody else writes, not through a Store."""
        ...

    def other_delete(self, key: str) -> None: ...

    def compact(self) -> None:
        """The history is forgotten."""
        ...

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass, if that can be done at once."""
        ...

    def outage(self) -> None:
        """Nobody answers any more."""
        ...

    def heal(self) -> None: ...

    def forbid(self) -> None:
        """The clients made from now on are allowed nothing."""
        ...

    async def close(self) -> None: ...


class MemoryCase:
    shortest = 2

    def __init__(self) -> None:
        self.server = MemoryServer()
        self._forbidden: StoreForbidden | None = None

    def store(self) -> Store:
        store = MemoryStore(self.server)
        store.fail(self._forbidden)
        return store

    def other_put(self, key: str, value: bytes) -> None:
        self.server.change(Put(key, value))

    def other_delete(self, key: str) -> None:
        self.server.change(Delete(key))

    def compact(self) -> None:
        self.server.compact()

    def wait(self, seconds: float) -> None:
        self.server.advance(seconds)

    def outage(self) -> None:
        self.server.fail(StoreUnreachable("memory: an outage"))

    def heal(self) -> None:
        self.server.fail(None)

    def forbid(self) -> None:
        self._forbidden = StoreForbidden("memory: not allowed")

    async def close(self) -> None: ...


class EtcdCase:
    """The keys of the last test are deleted; the cluster is the module's."""

    shortest = 3

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.stores: list[EtcdStore] = []
        self._user = ""
        etcd.ctl("del", "--prefix", "")

    def store(self) -> Store:
        wrong = "wrong" if self._user else ""
        options = EtcdOptions(self.etcd.endpoints, username=self._user, password=wrong, timeout=3)
        self.stores.append(EtcdStore(options))
        return self.stores[-1]

    def other_put(self, key: str, value: bytes) -> None:
        self.etcd.ctl("put", "--", key, value.decode())

    def other_delete(self, key: str) -> None:
        self.etcd.ctl("del", "--", key)

    def compact(self) -> None:
        self.etcd.compact()

    def wait(self, seconds: float) -> None:
        """Time passes by itself here; whoever waits for an expiry watches for it."""

    def outage(self) -> None:
        for member in self.etcd.members:
            member.kill()

    def heal(self) -> None:
        for member in self.etcd.members:
            member.start()

    def forbid(self) -> None:
        self.etcd.enable_auth("weft", "secret", "/weft")
        self._user = "weft"

    async def close(self) -> None:
        for store in self.stores:
            await store.close()
        if self._user:
            self.etcd.disable_auth(self._user)


@contextlib.asynccontextmanager
async def watching(store: Store, prefix: str = PREFIX) -> AsyncIterator[Sets]:
    """A watch that has told its first set."""
    async with contextlib.aclosing(store.watch(prefix)) as sets:
        await anext(sets)
        yield sets


async def seen(sets: Sets, condition: Callable[[Snapshot], bool]) -> Snapshot:
    """The first set for which the condition holds."""
    async with asyncio.timeout(patience(20)):
        async for snapshot in sets:
            if condition(snapshot):
                return snapshot
    raise AssertionError("the watch ended by itself")


async def back(store: Store, key: str = "/a") -> None:
    """Returns when the store answers again; that must not take long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience(BACK)
    while True:
        try:
            await store.get(key)
            return
        except StoreUnreachable:
            assert loop.time() < deadline, f"it is back for {patience(BACK)} s and can't be asked"
            tick = loop.create_future()
            loop.call_later(0.02, tick.set_result, None)
            await tick
