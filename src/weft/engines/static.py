"""The networks that the operator named in the settings, for a host without Docker. `agent/world.py` reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from weft.model import Known, Network


class Static:
    """A set that never changes. `since` is 0: what an operator wrote down is older than any engine's claim."""

    name = "static"

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = tuple(sorted((replace(n, since=0.0) for n in networks), key=lambda n: n.name))
        self._closing = asyncio.Event()

    async def networks(self) -> AsyncIterator[Known[Network]]:
        """As the Engine protocol says; ends after `close`."""
        yield Known(self._networks, complete=True)
        await self._closing.wait()

    async def close(self) -> None:
        self._closing.set()
