"""This host's etcd leases. Used by `agent/registration.py`.

`Leasehold` is kept alive whatever else happens: what hangs on it goes only when this daemon is gone. It is renewed by a
task of its own, so also while a watch is lost and begun anew. Who is about to write asks for it first (`ensure`): a
lease that ran out meanwhile is then replaced before anything is hung on it.

`Companion` ends with another one, which is flanneld's: what hangs on it outlives this daemon for as long as that one.
"""

from __future__ import annotations

import asyncio

from weft.errors import StoreError
from weft.stores import Store

SHARE = 3
"""It is renewed when this part of its life is over."""
RETRY = 1.0
"""Seconds until the next attempt, after one that failed."""
DAY = 86400
"""Seconds that flannel's leases live."""
LEEWAY = 60
"""Seconds by which two ends may differ and be one: whole seconds are told, and a renewal takes its time."""


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


class Companion:
    """An etcd lease that ends when flanneld's own does, and never later than that: flanneld, coming back after its
    lease has ended, takes the first key that names its address for it, and an entry must not be the only one there.
    Neither may it end much sooner: with an entry, flanneld elsewhere forgets its host's VTEP. So it is never renewed,
    but replaced when flanneld has renewed its own. `id`: 0 while there is none; `adopt` what an earlier run left."""

    def __init__(self, store: Store, interval: float) -> None:
        """`interval`: seconds for which an answer on how long the two live holds."""
        self.id = 0
        self._store = store
        self._interval = interval
        self._other = 0
        self._again = 0.0

    def adopt(self, lease: int) -> None:
        """Go on with this one, for as long as it serves."""
        self.id = lease

    async def ensure(self, other: int, alive: bool = False) -> bool:
        """Have one that serves beside `other` (0: what never ends, then a day); False if `other` is about to end.
        `alive`: as of now. Raises StoreError."""
        now = asyncio.get_running_loop().time()
        if self.id and other == self._other and now < self._again and not alive:
            return True
        wanted = min(await self._store.remaining(other), DAY) if other else DAY
        if wanted <= LEEWAY:
            return False
        left = await self._store.remaining(self.id) if self.id else 0
        if not wanted - max(left / SHARE, LEEWAY) <= left <= wanted + LEEWAY:
            self.id = await self._store.grant(wanted)
        self._other, self._again = other, now + self._interval
        return True

    async def revoke(self) -> None:
        """End it; what hangs on it goes at once. Raises StoreError."""
        lease, self.id = self.id, 0
        if lease:
            await self._store.revoke(lease)
