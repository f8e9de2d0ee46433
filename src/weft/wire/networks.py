"""Subnets in one list, and behind it how many of them belong to which network: so datagrams and discovery.json have it.
Called by their codecs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from weft.model import IPNetwork, Network
from weft.wire import texts


class Named(Protocol):
    """The next `subnets` belong to this one. `since`: seconds since 1970, None if that isn't known."""

    @property
    def name(self) -> str: ...

    @property
    def subnets(self) -> int: ...

    @property
    def since(self) -> float | None: ...


def dealt(subnets: Sequence[IPNetwork], named: Sequence[Named]) -> tuple[Network, ...]:
    """The networks. ValueError for a bad name, and if the numbers don't come to that of the subnets."""
    networks = []
    start = 0
    for entry in named:
        end = start + entry.subnets
        since = float("inf") if entry.since is None else entry.since
        networks.append(Network(texts.label(entry.name), tuple(subnets[start:end]), since=since))
        start = end
    if start != len(subnets):
        raise ValueError(f"{len(subnets)} subnets, and names for {start}")
    return tuple(networks)
