"""Which node is at which endpoint: of one VNI and port there can be only one. Used by `discovery/peers.py`.

A host that comes back under another name (renamed, installed anew) is where its former self was. The newcomer takes the
place, but a place changes hands at most CHANGES times within one peer timeout: two programs that are restarted in turn
would otherwise take all routes from each other for ever.

Sans I/O: time is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

from weft.model import IPAddress, Node

CHANGES = 2


class Place(NamedTuple):
    """Where datagrams come from, and the tunnel there. Nodes of two VNIs or ports don't stand in each other's way."""

    source: IPAddress
    vni: int
    port: int

    @classmethod
    def of(cls, node: Node, source: IPAddress) -> Place:
        return cls(source, node.vni, node.port)


class Places:
    """Each node's place and each place's node. `timeout`: the peer timeout, seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._nodes: dict[Place, str] = {}
        self._places: dict[str, Place] = {}
        self._changes: dict[Place, list[float]] = {}

    def node_at(self, place: Place) -> str | None:
        return self._nodes.get(place)

    def may_change(self, place: Place, now: float) -> bool:
        """Whether another node may take this place from the one that has it."""
        return len(self._recent(place, now)) < CHANGES

    def changes(self, place: Place, now: float) -> None:
        """Another node takes this place from the one that has it."""
        self._changes[place] = [*self._recent(place, now), now]

    def settle(self, node_id: str, place: Place) -> None:
        """The node is here now, and nowhere else."""
        if self._places.get(node_id) != place:
            self.leave(node_id)
            self._places[node_id] = place
        self._nodes[place] = node_id

    def leave(self, node_id: str) -> None:
        """The node is nowhere. What a place went through is forgotten when it is empty."""
        place = self._places.pop(node_id, None)
        if place is not None and self._nodes.get(place) == node_id:
            del self._nodes[place]
            self._changes.pop(place, None)

    def _recent(self, place: Place, now: float) -> list[float]:
        return [at for at in self._changes.get(place, ()) if at + self._timeout > now]
