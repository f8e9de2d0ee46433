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
    judges up, `doubted`: of these, those whose own word is that they don't reach this host. `relays`: who carries all,
    `hubs`: who carries only to its neighbours (plain flannel). `mapped`: whose gateway map names relays."""

    places: tuple[Place, ...]
    numbers: Mapping[str, int]
    me: int
    up: frozenset[str]
    doubted: frozenset[str]
    relays: int
    hubs: int
    mapped: frozenset[int]
    _sure: dict[int, int] = field(default_factory=dict)
    _likely: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, me: Place, places: Iterable[Place], up: frozenset[str], doubted: frozenset[str] = frozenset()) -> Mesh:
        everybody = tuple(sorted((*places, me), key=lambda place: place.id))
        relays = sum(1 << n for n, place in enumerate(everybody) if place.carries == "all")
        hubs = sum(1 << n for n, place in enumerate(everybody) if place.carries == "flannel")
        numbers = {place.id: number for number, place in enumerate(everybody)}
        mapped = frozenset(number for number, place in enumerate(everybody) if place.via)
        return cls(everybody, numbers, numbers[me.id], up, doubted, relays, hubs, mapped)

    def next(self, goal: str, *, likely: bool = False, start: str = "") -> str:
        """The id of the neighbour that this host sends to for `goal` (`start`: that that node sends to, and not through
        this host); "" if there is none, or it is the goal itself."""
        end = self.numbers[goal]
        edges = self.likely if likely else self.sure
        own = edges(self.numbers[start] if start else self.me)
        if not own:
            return ""
        waiting, bound = self._bound(goal, likely)
        level = seen = 1 << end
        carriers = level
        while level:
            found = 0
            level &= carriers
            near = level & own
            if near:
                chosen = self.places[(near & -near).bit_length() - 1].id
                return "" if chosen == goal else chosen
            for number in _bits(level):
                found |= edges(number) & ~bound | waiting.get(number, 0)
            carriers = self.relays if seen != 1 << end else self.relays | self.hubs
            level = found & ~seen & ~(1 << self.me)
            seen |= level
        return ""

    def bound(self, number: int, goal: str) -> str:
        """The relay that a node takes for `goal` whatever the distances: by its own map, or because the goal announces
        to come through that relay. "": none."""
        return self.places[number].via.get(goal) or self.announced(number, self.places[self.numbers[goal]])

    def announced(self, number: int, goal: Place) -> str:
        """The relay by which the goal announces to reach a node: so is it reached in turn, unless the node can't, or
        the relay goes by a map of its own (which could lead back here)."""
        place = self.places[number]
        name = goal.via.get(place.id, "")
        at = self.numbers.get(name, number)
        relay = self.places[at]
        fit = at != number and relay is not goal and relay.carries != "none"
        free = relay.via.get(goal.id, goal.id) == goal.id and goal.via.get(name, name) == name
        told = place.reaches is not None or number == self.me
        return name if fit and free and told and self.likely(number) >> at & 1 else ""

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
        """Whether `other` says that it reaches `number`, too. Of this host's own edges its own finding counts; from the
        others' side they are not looked at, since no way leads on through this host."""
        if self.me == number:
            return self.places[other].reaches is not None
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
        announced = {self.numbers[name] for name in self.places[self.numbers[goal]].via if name in self.numbers}
        for number in (self.mapped | announced) - {self.me, self.numbers[goal]}:
            relay = self.bound(number, goal)
            if relay:
                bound |= 1 << number
                at = self.numbers.get(relay)
                if at is not None and (self.likely if likely else self.sure)(number) >> at & 1:
                    waiting[at] = waiting.get(at, 0) | 1 << number
        return waiting, bound


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
