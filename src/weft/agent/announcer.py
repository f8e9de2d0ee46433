"""The discovery of the moment: made anew when this host's uplink changes. Wired by the daemons.

A discovery's sockets belong to one interface, which may change under a running agent (a VPN comes up, the default route
moves). The peers that were known stay until the new place's discovery has had its time to hear them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace

from weft.core.identity import Self
from weft.discovery import Discovery
from weft.model import Known, Node, Reach


class Announcer:
    """`make` builds the discovery for where this host is now. `announcing` False: it only listens and asks."""

    def __init__(self, make: Callable[[Self], Discovery], announcing: bool = True) -> None:
        self._make = make
        self._announcing = announcing
        self._here: Self | None = None
        self._moved = asyncio.Event()
        self._discovery: Discovery | None = None
        self._place: tuple[str, int] | None = None
        self._last: tuple[Node, ...] = ()
        self._former: dict[str, Node] = {}

    def tell(self, here: Self | None) -> None:
        """This is what this host is now; None: not known yet, nothing is told."""
        if here is None or here.node is None:
            return
        self._here = here
        if self._place != _place(here):
            self._moved.set()
        elif self._discovery is not None and self._announcing:
            self._discovery.announce(here.node)

    async def peers(self) -> AsyncIterator[Known[Node]]:
        """Full sets of peers. Ends when the uplink changed; called again, also after an error, it goes on with what is
        true by then. Raises DiscoveryError if there can be no discovery here.

        The old discovery is closed after the new one has spoken: its goodbye is older by then, and no peer heeds it."""
        while self._here is None or self._here.node is None:
            await self._moved.wait()
            self._moved.clear()
        if self._discovery is None or self._place != _place(self._here):
            self._moved.clear()
            await self._move(self._here, self._here.node)
        if self._discovery is not None:
            try:
                async for known in self._until_moved(self._discovery):
                    yield self._remembering(known)
            except Exception:
                await self._give_up()
                raise

    async def _move(self, here: Self, node: Node) -> None:
        new = self._make(here)
        if self._announcing:
            new.announce(node)
        self._former = {known.id: known for known in self._last}
        old, self._discovery, self._place = self._discovery, new, _place(here)
        if old is not None:
            await old.close()

    async def _give_up(self) -> None:
        """What a fault has ended goes on with a new discovery; the peers stay until that has had its time."""
        self._former = {known.id: known for known in self._last}
        await self.close()

    def _remembering(self, known: Known[Node]) -> Known[Node]:
        """A new place's set, and until that is complete, who was known in the old one: not heard yet is not gone."""
        if known.complete:
            self._former = {}
        else:
            kept = {**self._former, **{node.id: node for node in known.items}}
            known = replace(known, items=tuple(kept[name] for name in sorted(kept)))
        self._last = known.items
        return known

    async def _until_moved(self, discovery: Discovery) -> AsyncIterator[Known[Node]]:
        source = discovery.peers()
        moved = asyncio.ensure_future(self._moved.wait())
        following = asyncio.ensure_future(anext(source, None))
        try:
            while True:
                await asyncio.wait({following, moved}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done() or (known := following.result()) is None:
                    return
                yield known
                following = asyncio.ensure_future(anext(source, None))
        finally:
            following.cancel()
            moved.cancel()

    def departed(self) -> Collection[str]:
        """Ids of nodes that said goodbye."""
        return self._discovery.departed() if self._discovery is not None else ()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970."""
        return self._discovery.last_seen() if self._discovery is not None else {}

    def within(self) -> Mapping[str, str]:
        """None: every node is planned under its own name."""
        return {}

    def rules(self) -> Mapping[str, str]:
        """None: every peer is reached directly."""
        return {}

    def probed(self) -> Mapping[str, Reach]:
        """None: nobody is probed."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """What the discovery counted, by flat names such as `refused.malformed`."""
        return self._discovery.counters() if self._discovery is not None else {}

    async def close(self) -> None:
        """Say goodbye to the peers."""
        discovery, self._discovery = self._discovery, None
        if discovery is not None:
            await discovery.close()


def _place(here: Self) -> tuple[str, int]:
    return here.uplink, here.underlay
