"""Who reaches whom, and which neighbour is the next on a shortest way. Pure; called by `topology.py`, once per Sight.

Nodes are numbered in the order of their ids, sets of nodes are integers (bit n: node n). A *sure* edge is one that both
ends publish (of this host's own: that it judges up). A *likely* one, which counts where no sure way is left, leads to a
node that publishes nothing (plain flannel) and that the other end doesn't miss.

Nothing loops, because every host walks down the same distances: each host's next node is one nearer to the goal than
it is itself. A host whose gateway map names a relay goes there and nowhere else, so the others count it as one behind
that relay; and a host that has a sure way never hands on to one that has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weft.core.sight import Place


@dataclass(slots=True)
class Mesh:
    """`places`: all nodes, this one too, sorted by id; `numbers`: id → place in that order. `up`: ids that this host
    judges up, `doubted`: of these, those whose own word is that they don't reach this host."""

    places: tuple[Place, ...]
    numbers: Mapping[str, int]
    me: int
    up: frozenset[str]
    doubted: frozenset[str]
    relays: int
    hubs: int
    _sure: dict[int, int] = field(default_factory=dict)
    _likely: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, me: Place, places: Iterable[Place], up: frozenset[str], doubted: frozenset[str] = frozenset()) -> Mesh:
        everybody = tuple(sorted((*places, me), key=lambda place: place.id))
        relays = sum(1 << n for n, place in enumerate(everybody) if place.carries == "all")
        hubs = sum(1 << n for n, place in enumerate(everybody) if place.carries == "flannel")
        numbers = {place.id: number for number, place in enumerate(everybody)}
        return cls(everybody, numbers, numbers[me.id], up, doubted, relays, hubs)

    def next(self, goal: str, *, likely: bool = False) -> str:
        """The id of the neighbour that this host sends to for `goal`; "" if none leads there but the goal itself."""
        end, mine = self.numbers[goal], 1 << self.me
        edges = self.likely if likely else self.sure
        waiting, bound = self._bound(goal, likely)
        level = seen = 1 << end
        carriers = level
        while level:
            found = 0
            level &= carriers
            near = level & edges(self.me)
            if near:
                chosen = self.places[(near & -near).bit_length() - 1].id
                return "" if chosen == goal else chosen
            for number in _bits(level):
                found |= edges(number) & ~bound | waiting.get(number, 0)
            carriers = self.relays if seen != 1 << end else self.relays | self.hubs
            level = found & ~seen & ~mine
            seen |= level
        return ""

    def sure(self, number: int) -> int:
        """Neighbours by sure edges."""
        if number not in self._sure:
            place = self.places[number]
            told = self.up - self.doubted if number == self.me else place.reaches or ()
            among = (self.numbers[name] for name in told if name in self.numbers)
            self._sure[number] = sum(1 << n for n in among if n != number and self._confirms(n, number, place.id))
        return self._sure[number]

    def likely(self, number: int) -> int:
        """Neighbours by sure edges or likely ones."""
        if number not in self._likely:
            known = self.sure(number)
            for n in range(len(self.places)):
                if n != number and not known >> n & 1 and self._supposed(n, number):
                    known |= 1 << n
            self._likely[number] = known
        return self._likely[number]

    def _confirms(self, other: int, number: int, name: str) -> bool:
        """Whether `other` says that it reaches `number`, too. Of this host's own edges its own finding counts."""
        if self.me == number:
            return self.places[other].reaches is not None
        if self.me == other:
            return name in self.up and name not in self.doubted
        return name in (self.places[other].reaches or ())

    def _supposed(self, one: int, two: int) -> bool:
        """Nobody speaks against the edge, and one end says nothing at all. This host goes by what it judges."""
        if self.me in (one, two):
            return self.places[one if two == self.me else two].id in self.up
        first, second = self.places[one], self.places[two]
        silent = first.reaches is None or second.reaches is None
        return silent and second.id not in first.misses and first.id not in second.misses

    def _bound(self, goal: str, likely: bool) -> tuple[Mapping[int, int], int]:
        """Who goes to `goal` by a relay of a gateway map: relay → its followers, and all of them."""
        waiting: dict[int, int] = {}
        bound = 0
        announced = self.places[self.numbers[goal]].via
        for number, place in enumerate(self.places):
            if number == self.me or place.id == goal:
                continue
            relay = place.via.get(goal) or self._answering(number, announced.get(place.id, ""), goal)
            if relay:
                bound |= 1 << number
                at = self.numbers.get(relay)
                if at is not None and (self.likely if likely else self.sure)(number) >> at & 1:
                    waiting[at] = waiting.get(at, 0) | 1 << number
        return waiting, bound

    def _answering(self, number: int, relay: str, goal: str) -> str:
        """The relay that a node without a word of its own takes, since the goal announces to come through it."""
        if self.places[number].reaches is None or relay in ("", goal, self.places[number].id):
            return ""
        at = self.numbers.get(relay)
        return relay if at is not None and self.likely(number) >> at & 1 else ""


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
