"""The members that one member knows, in the orders in which they are needed: by id, by address, to be probed, to be
told, and as one hash of all that is believed. What is believed is decided in `core/swim.py`, the only caller.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from hashlib import blake2b

from weft.core.swim_suspicion import Suspicion
from weft.core.swim_values import Address, Chance, State, Update, check_of


@dataclass(slots=True, eq=False)
class Member:
    """Another member. `digest`: of the payload that it has; `has`: of the one that is known here, in `payload`.
    `since`: when its state began. `heard`: when it last spoke to us itself."""

    id: str
    address: Address
    incarnation: int
    since: float
    state: State = State.ALIVE
    digest: bytes = b""
    payload: bytes = b""
    has: bytes = b""
    heard: float = float("-inf")
    suspicion: Suspicion | None = None
    check: int = 0
    place: int = 0
    slot: int = -1
    """Among those who are told; -1: it is not."""
    told: int = 0
    """What it adds to the hash of all; 0: nothing."""

    @property
    def live(self) -> bool:
        return self.state <= State.SUSPECT

    @property
    def missing(self) -> bool:
        """It has a payload that is not known here."""
        return self.digest != self.has

    def as_update(self, payload: bool = False) -> Update:
        by = "" if self.state in (State.ALIVE, State.LEFT) else self.suspicion.by[0] if self.suspicion else "-"
        shown = self.payload if payload and not self.missing else None
        return Update(self.state, self.id, self.incarnation, by, self.address, self.digest, shown)


@dataclass(slots=True)
class Table:
    """`me`: this member's id, which is not in it, `chance`: where randomness comes from."""

    me: str
    chance: Chance
    members: dict[str, Member] = field(default_factory=dict)
    at: dict[Address, Member] = field(default_factory=dict)
    live: list[Member] = field(default_factory=list)
    hash: int = 0
    _mine: int = 0
    _place: int = 0
    _ring: list[tuple[int, str]] = field(default_factory=list)
    _turn: list[Member] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        self._place = _place_of(self.me)

    def add(self, member: Member) -> None:
        member.check, member.place = check_of(member.id), _place_of(member.id)
        self.members[member.id] = member
        self.settle(member)

    def settle(self, member: Member) -> None:
        """Its state, incarnation, address or digest is another than before."""
        if member.live:
            self.at[member.address] = member
        else:
            self.at.setdefault(member.address, member)
        if member.live and member.slot < 0:
            self._enter(member)
        elif not member.live and member.slot >= 0:
            self._leave(member)
        told = hash_of(member.id, member.incarnation, member.digest) if member.live else 0
        self.hash ^= member.told ^ told
        member.told = told

    def settle_me(self, incarnation: int, digest: bytes) -> None:
        told = hash_of(self.me, incarnation, digest)
        self.hash ^= self._mine ^ told
        self._mine = told

    def move(self, member: Member, address: Address) -> None:
        if self.at.get(member.address) is member:
            del self.at[member.address]
        member.address = address

    def forget(self, member: Member) -> None:
        """One that is not live."""
        del self.members[member.id]
        if self.at.get(member.address) is member:
            del self.at[member.address]

    def _enter(self, member: Member) -> None:
        member.slot = len(self.live)
        self.live.append(member)
        insort(self._ring, (member.place, member.id))
        self._turn.insert(int(self.chance.random() * (len(self._turn) + 1)), member)

    def _leave(self, member: Member) -> None:
        last = self.live.pop()
        if last is not member:
            self.live[member.slot] = last
            last.slot = member.slot
        member.slot = -1
        self._ring.remove((member.place, member.id))

    # Who is next. ---------------------------------------------------------------------------------------------

    def in_turn(self) -> Member | None:
        """Round and round through all who are live, in an order that is shuffled with each round (SWIM, 4.3)."""
        for _ in range(2):
            while self._next < len(self._turn):
                member = self._turn[self._next]
                self._next += 1
                if member.slot >= 0:
                    return member
            self._turn = list(self.live)
            self.chance.shuffle(self._turn)
            self._next = 0
        return None

    def successor(self) -> Member | None:
        """The one behind us on the ring of all ids' hashes: so each member is somebody's, whose it stays. Past those
        who are suspected: they are looked at already."""
        start = bisect_right(self._ring, (self._place, self.me))
        for number in range(len(self._ring)):
            member = self.members[self._ring[(start + number) % len(self._ring)][1]]
            if member.state is State.ALIVE:
                return member
        return None

    def some(self, count: int, but: Member | None = None) -> list[Member]:
        """So many who are live, at random and each once; fewer if there are fewer."""
        live, random = self.live, self.chance.random
        if len(live) <= count + 1:
            return [member for member in live if member is not but][:count]
        chosen: dict[str, Member] = {}
        while len(chosen) < count:
            member = live[int(random() * len(live))]
            if member is not but:
                chosen[member.id] = member
        return list(chosen.values())

    def dead(self) -> list[Member]:
        return [member for member in self.members.values() if member.state is State.DEAD]


def hash_of(member: str, incarnation: int, digest: bytes) -> int:
    """64 bits; those of all members together are combined by exclusive or."""
    hashed = blake2b(digest + incarnation.to_bytes(8, "big") + member.encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "big")


def _place_of(member: str) -> int:
    return int.from_bytes(blake2b(member.encode(), digest_size=8, person=b"ring").digest(), "big")
