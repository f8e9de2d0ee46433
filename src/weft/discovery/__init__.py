"""Discoveries tell the other hosts about this one and learn theirs. This module holds their one Protocol and table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from weft.model import Known, Node


class Discovery(Protocol):
    """A source of peers, and the way to tell them about this node."""

    @property
    def name(self) -> str: ...

    def announce(self, me: Node) -> None:
        """From now on tell peers this. A value that differs from the last one goes out at once; before the first call
        nothing is told (a HELLO without networks would make the peers drop our routes)."""
        ...

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set of peers, sorted by id and without this node, at start and whenever it changed."""
        ...

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970 when the node was last heard."""
        ...

    async def close(self) -> None:
        """Say goodbye if there is a way to, and give up sockets."""
        ...
