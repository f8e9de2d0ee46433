"""An etcd lease that ends with another one, which is flanneld's: what hangs on it outlives this daemon for as long as
that one. Used by `agent/registration.py`, beside the lease of its own (`stores/leasehold.py`).
"""

from __future__ import annotations

import asyncio

from weft.stores import Store
from weft.stores.leasehold import SHARE

DAY = 86400
"""Seconds that flannel's leases live."""
LEEWAY = 60
"""Seconds by which two ends may differ and be one: whole seconds are told, and a renewal takes its time."""


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
