"""A lease that is kept alive whatever else happens: what hangs on it goes only when this daemon is gone. Used by
`agent/registration.py` and `discovery/etcd.py`.

It is renewed by a task of its own, so also while a watch is lost and begun anew. Who is about to write asks for it
first (`ensure`): a lease that ran out meanwhile is then replaced before anything is hung on it.
"""

from __future__ import annotations

import asyncio

from weft.errors import StoreError
from weft.stores import Store

SHARE = 3
"""It is renewed when this part of its life is over."""
RETRY = 1.0
"""Seconds until the next attempt, after one that failed."""


class Leasehold:
    """`seconds`: how long it lives without a renewal."""

    def __init__(self, store: Store, seconds: int) -> None:
        self.seconds = seconds
        self.id = 0
        self._store = store
        self._task: asyncio.Task[None] | None = None

    async def ensure(self) -> int:
        """The lease, alive as of now; a new one if it isn't. Raises StoreError."""
        if not self.id or not await self._store.keep_alive(self.id):
            self.id = 0
            self.id = await self._store.grant(self.seconds)
        self._begin()
        return self.id

    async def adopt(self, lease: int) -> bool:
        """Go on with a lease that an earlier run left, if it is alive and as long as this one's. Raises StoreError."""
        if await self._store.keep_alive(lease) != self.seconds:
            return False
        self.id = lease
        self._begin()
        return True

    async def revoke(self) -> None:
        """End it; what hangs on it goes at once. Raises StoreError."""
        await self.close()
        lease, self.id = self.id, 0
        if lease:
            await self._store.revoke(lease)

    async def close(self) -> None:
        """No more renewals: it lives as long as the last one lasts."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._renew(), name="etcd lease")

    async def _renew(self) -> None:
        delay = self.seconds / SHARE
        while True:
            await asyncio.sleep(delay)
            delay = self.seconds / SHARE
            try:
                await self._store.keep_alive(self.id)  # if it is gone, so are its keys, and the watch tells that
            except StoreError:
                delay = RETRY
