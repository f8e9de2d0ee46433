"""Puts the parts of a HELLO together. A set is handed on only when it is whole: half of one would delete the rest.

Used by `discovery/peers.py`. Sans I/O: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from weft.wire.hello import Hello, Stamp, merge

PATIENCE = 5.0
"""Seconds until the parts of a set that never got whole are given up; a sender sends all parts at once."""


@dataclass(slots=True)
class _Pile:
    seq: int
    parts: int
    started: float
    octets: int = 0
    hellos: dict[int, Hello] = field(default_factory=dict)


class Assembler:
    """Holds at most `limit` octets of parts; the oldest piles give way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._piles: dict[tuple[str, str], _Pile] = {}
        self.octets = 0

    def add(self, hello: Hello, stamp: Stamp, size: int, now: float) -> tuple[Hello, int] | None:
        """The whole HELLO and its size in octets if this part completes it. `stamp` is the HELLO's own. WireError if
        the parts contradict each other."""
        if hello.parts == 1:
            return (merge([hello]) if hello.open_ended else hello), size
        key = (hello.peer_id, stamp.instance)
        pile = self._piles.get(key)
        if pile is None or pile.seq < stamp.seq or pile.parts != hello.parts:
            self._drop(key)
            pile = self._piles[key] = _Pile(stamp.seq, hello.parts, now)
        if pile.seq > stamp.seq or hello.part in pile.hellos:
            return None
        pile.hellos[hello.part] = hello
        pile.octets += size
        self.octets += size
        if len(pile.hellos) == pile.parts:
            self._drop(key)
            return merge([pile.hellos[number] for number in sorted(pile.hellos)]), pile.octets
        self._make_room(now)
        return None

    def _make_room(self, now: float) -> None:
        """Piles stand in the order in which they were begun."""
        while self._piles:
            key, pile = next(iter(self._piles.items()))
            if self.octets <= self._limit and now - pile.started < PATIENCE:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        pile = self._piles.pop(key, None)
        if pile is not None:
            self.octets -= pile.octets
