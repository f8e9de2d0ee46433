"""A number for each node of one overlay, from which next-hop ids are made. Pure; called by `plan.py`.

The number follows from a hash of the node's id, so that a node keeps it while others come and go. Where two meet, the
node that sorts first stays, and the other one takes the next free number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from weft.backends.tunnel import SLOTS
from weft.model import Node


@dataclass(frozen=True, slots=True)
class Slots:
    """`salt`: of the device, since next-hop ids are one space for all devices of a host. `taken`: sorted. `displaced`:
    nodes that don't have the number of their hash, and what they have instead; `crowd`: those, and the nodes that stood
    in their way. Of all others, each can come and go and nobody else's number changes."""

    salt: int
    taken: list[int] = field(default_factory=list)
    displaced: Mapping[str, int] = field(default_factory=dict)
    crowd: frozenset[str] = frozenset()

    @classmethod
    def of(cls, nodes: Sequence[Node], device: str) -> Slots:
        """`nodes`: sorted by id."""
        empty = cls(crc32(device.encode()))
        owners: dict[int, str] = {}
        displaced: dict[str, int] = {}
        crowd: set[str] = set()
        for node in nodes:
            slot = empty.hashed(node.id)
            if slot in owners:
                while slot in owners:
                    crowd.add(owners[slot])
                    slot = (slot + 1) % SLOTS
                displaced[node.id] = slot
                crowd.add(node.id)
            owners[slot] = node.id
        return cls(empty.salt, sorted(owners), displaced, frozenset(crowd))

    def after(self, gone: Sequence[Node], came: Sequence[Node]) -> Slots | None:
        """The slots when these are gone and those have come; None if other nodes' may change with that."""
        taken = self.taken.copy()
        for node in gone:
            if node.id in self.crowd:
                return None
            del taken[bisect_left(taken, self.hashed(node.id))]
        for node in came:
            slot = self.hashed(node.id)
            at = bisect_left(taken, slot)
            if taken[at : at + 1] == [slot]:
                return None
            taken.insert(at, slot)
        return Slots(self.salt, taken, self.displaced, self.crowd)

    def slot(self, node: Node) -> int:
        """The number of one of the nodes; below `SLOTS`."""
        return self.displaced.get(node.id, self.hashed(node.id)) if self.displaced else self.hashed(node.id)

    def hashed(self, name: str) -> int:
        """The number that a node's id comes to."""
        return crc32(name.encode(), self.salt) % SLOTS
