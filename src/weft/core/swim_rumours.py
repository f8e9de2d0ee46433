"""News that waits to be passed on, each so many times and no more. `core/swim.py` holds one.

What was told least often goes first. Of two things said of one member, the latter takes the former's place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log10

from weft.core.swim_values import Update


def transmissions(members: int) -> int:
    """How often each member passes a thing on: each is then missed by all the others with a chance of
    e^-(4 + 4 log10 n), and one in a hundred changes by anybody, with one datagram in twenty lost."""
    return 4 + ceil(4 * log10(max(members, 1) + 1))


class Rumours:
    """`size`: octets that an update takes in a datagram."""

    def __init__(self, size: Callable[[Update], int]) -> None:
        self._size = size
        self._tiers: list[dict[str, tuple[Update, int]]] = [{}]  # by how often it was told; then in the order of coming
        self._tier: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tier)

    @property
    def fresh(self) -> bool:
        """There is something that was told to nobody yet."""
        return bool(self._tiers[0])

    def add(self, update: Update) -> None:
        self.drop(update.id)
        self._tier[update.id] = 0
        self._tiers[0][update.id] = (update, self._size(update))

    def drop(self, member: str) -> None:
        tier = self._tier.pop(member, None)
        if tier is not None:
            del self._tiers[tier][member]

    def take(self, room: int, limit: int) -> tuple[Update, ...]:
        """As many as fit into `room` octets, to be told once more; what was told `limit` times is over."""
        taken: list[Update] = []
        moved: list[tuple[str, int, tuple[Update, int]]] = []
        for number, tier in enumerate(self._tiers):
            for member, item in tier.items():
                if item[1] <= room:
                    room -= item[1]
                    taken.append(item[0])
                    moved.append((member, number, item))
            if room < 16:
                break
        for member, number, item in moved:
            del self._tiers[number][member]
            if number + 1 >= limit:
                del self._tier[member]
                continue
            if number + 1 == len(self._tiers):
                self._tiers.append({})
            self._tiers[number + 1][member] = item
            self._tier[member] = number + 1
        return tuple(taken)
