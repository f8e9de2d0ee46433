"""alloc: a lease and subnet.env, and no data plane: something else (a cloud's route table) carries the packets."""

from __future__ import annotations

from collections.abc import Iterator

from weft.backends.tunnel import Tunnel
from weft.model import Node, View
from weft.objects import Object, Why


def here(view: View) -> Iterator[tuple[Object, Why]]:
    """Nothing."""
    yield from ()


def reach(node: Node, tunnel: Tunnel, slot: int) -> Iterator[tuple[Object, Why]]:
    """Nothing."""
    yield from ()
