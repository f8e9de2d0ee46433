"""The discovery of the moment: made anew when this host's uplink changes. Wired by the daemons.

A discovery's sockets belong to one interface, which may change under a running agent (a VPN comes up, the default route
moves). What the kernel has for the peers stays meanwhile, since the new discovery's set isn't complete yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from weft.core.identity import Self
from weft.discovery import Discovery
from weft.model import Known, Node


class Announcer:
    """`make` builds the discovery for where this host is now. `announcing` False: it only listens and asks."""

    def __init__(self, make: Callable[[Self], Discovery], announcing: bool = True) -> None:
        self._make = make
        self._announcing = announcing
        self._here: Self | None = None
        self._moved = asyncio.Event()
        self._discovery: Discovery | None = None

    def tell(self, here: Self | None) -> None:
        """This is what this host is now; None: not known yet, nothing is told."""
        if here is None or here.node is None:
            return
        before, self._here = self._here, here
        if before is None or _place(before) != _place(here):
            self._moved.set()
        elif self._discovery is not None and self._announcing:
            self._discovery.announce(here.node)

    async def peers(self) -> AsyncIterator[Known[Node]]:
        """Full sets of peers, from one discovery after the other. Ends when the uplink changed: call again."""
        await self._moved.wait()
        self._moved.clear()
        if self._here is None or self._here.node is None:
            return
        await self._hang_up()
        discovery = self._discovery = self._make(self._here)
        if self._announcing:
            discovery.announce(self._here.node)
        source = discovery.peers()
        moved = asyncio.ensure_future(self._moved.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(source))
                await asyncio.wait({following, moved}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                yield following.result()
        finally:
            moved.cancel()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970."""
        return self._discovery.last_seen() if self._discovery is not None else {}

    async def close(self) -> None:
        """Say goodbye to the peers."""
        await self._hang_up()

    async def _hang_up(self) -> None:
        discovery, self._discovery = self._discovery, None
        if discovery is not None:
            await discovery.close()


def _place(here: Self) -> tuple[str, int]:
    return here.uplink, here.underlay
