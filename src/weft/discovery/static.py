"""Discovery without discovering: the peers stand in the settings, and nobody is told about this host.

Format: docs/discovery-static.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace

from weft.model import Known, Node


class Static:
    """A Discovery. `peers`: all nodes, this one (`node`) may be among them: one list serves all hosts."""

    name = "static"

    def __init__(self, node: str, peers: tuple[Node, ...], wall: Callable[[], float] = time.time) -> None:
        named = {peer.id: replace(peer, source=self.name) for peer in peers if peer.id != node}
        self._known = Known(tuple(named[name] for name in sorted(named)), complete=True)
        self._wall = wall
        self._closed = asyncio.Event()

    def announce(self, me: Node) -> None:
        """Nobody is told."""

    async def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the one set, complete at once. Ends after `close`."""
        yield self._known
        await self._closed.wait()

    def departed(self) -> Collection[str]:
        """Nobody: who is in the settings is there."""
        return ()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → now: the settings vouch for it."""
        now = self._wall()
        return {peer.id: now for peer in self._known.items}

    def counters(self) -> Mapping[str, int]:
        """Nothing is sent or received."""
        return {}

    async def close(self) -> None:
        self._closed.set()
