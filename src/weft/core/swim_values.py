"""The values of gossip's membership protocol: who is said to be alive, by which messages, and at which pace.

`core/swim.py` acts on them, `wire/gossip.py` makes datagrams of them, `wire/table_sync.py` tables. The protocol is SWIM
(Das, Gupta, Motivala 2002) with the refinements of Lifeguard (Dadgar, Phillips, Currey 2018).
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from ipaddress import ip_address
from math import log10
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from weft.model import IPAddress

DIGEST = 8
"""Octets of a payload's digest."""
CONFIRMATIONS = 2
"""Independent suspicions beside the first that bring the time of a suspicion down to its least."""
RELAYS = 3
"""Members asked to probe one that did not answer."""
FANOUT = 4
"""Members told at a time."""
MAX_HEALTH = 8
NEVER = float("inf")


class Chance(Protocol):
    """What is needed of `random.Random`; an argument, since the core imports none."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...

    def shuffle(self, x: MutableSequence[Any]) -> None: ...


class Address(NamedTuple):
    """Where a member takes datagrams and connections. `packed`: 4 or 16 octets; bytes, since it is looked up with each
    datagram."""

    packed: bytes
    port: int

    @property
    def ip(self) -> IPAddress:
        return ip_address(self.packed)

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}" if len(self.packed) == 4 else f"[{self.ip}]:{self.port}"


class State(IntEnum):
    """What is said of a member. Of equal incarnations, the higher one holds."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


class Update(msgspec.Struct, frozen=True, gc=False):
    """One thing said of one member. `incarnation`: rises with all that the member itself says, and nobody else raises
    it. `by`: who suspects it or found it dead. Of ALIVE: where it is, and its payload or only the payload's digest."""

    state: State
    id: str
    incarnation: int
    by: str = ""
    address: Address | None = None
    digest: bytes = b""
    payload: bytes | None = None


Updates: TypeAlias = tuple[Update, ...]


class Ping(msgspec.Struct, frozen=True, gc=False):
    """Are you there? `check`: of the id that is meant (`check_of`). `table`: hash of all that the sender believes."""

    seq: int
    check: int
    table: int
    updates: Updates = ()


class Ack(msgspec.Struct, frozen=True, gc=False):
    seq: int
    updates: Updates = ()


class Nack(msgspec.Struct, frozen=True, gc=False):
    """I was asked to probe another one, I am well, and it has not answered yet."""

    seq: int
    updates: Updates = ()


class Indirect(msgspec.Struct, frozen=True, gc=False):
    """Please probe that one for me."""

    seq: int
    address: Address
    check: int
    updates: Updates = ()


class Rumour(msgspec.Struct, frozen=True, gc=False):
    """News alone."""

    updates: Updates


Message: TypeAlias = Ping | Ack | Nack | Indirect | Rumour


def check_of(member: str) -> int:
    """32 bits that tell one id from another at the same address."""
    return int.from_bytes(blake2b(member.encode(), digest_size=4).digest(), "big")


def digest_of(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=DIGEST).digest()


class Pace(NamedTuple):
    """Seconds. `interval`: between two probes of one member. `direct`: until others are asked to probe it too.
    `patience`: until it is suspected. `gossip`: between two rounds of telling the same news, `soon`: until the first
    one, `gap`: between rounds of different news. `grace`: of a suspicion that others confirm, in the smallest cluster,
    and `slope`: more for each tenfold of members. `stretch`: an unconfirmed one lasts so many times as long. `revival`:
    between probes of members that are dead. `quiet`: after the last change, until two tables that differ are compared.
    """

    interval: float
    direct: float
    patience: float
    gossip: float
    soon: float
    gap: float
    grace: float
    slope: float
    stretch: float
    revival: float
    quiet: float

    def least(self, members: int) -> float:
        """Seconds that a suspicion lasts which others confirm."""
        return self.grace + self.slope * log10(max(members, 1))

    def most(self, members: int) -> float:
        """... that nobody confirms."""
        return self.stretch * self.least(members)

    @property
    def silence(self) -> float:
        """Seconds without a word from anybody after which the fault is ours: three and a half intervals."""
        return 3.5 * self.interval


LAN = Pace(
    interval=0.6,
    direct=0.25,
    patience=0.5,
    gossip=0.1,
    soon=0.01,
    gap=0.05,
    grace=2.0,
    slope=0.25,
    stretch=3.0,
    revival=5.0,
    quiet=1.5,
)
FAST = Pace(
    interval=0.2,
    direct=0.08,
    patience=0.16,
    gossip=0.05,
    soon=0.005,
    gap=0.025,
    grace=0.4,
    slope=0.1,
    stretch=3.0,
    revival=2.0,
    quiet=0.8,
)
PACES = {"lan": LAN, "fast": FAST}


@dataclass(frozen=True, slots=True)
class Shape:
    """What does not change in a member's life. `size`: octets that an update takes in a datagram, `room`: for all of
    them in one. `limit`: members, at most; `octets`: of
    all their payloads."""

    id: str
    pace: Pace
    size: Callable[[Update], int]
    room: int = 1100
    limit: int = 20_000
    octets: int = 32 << 20


@dataclass(slots=True)
class Tally:
    """What happened since the start, and whom it was about."""

    suspicions: int = 0
    deaths: int = 0
    refuted: int = 0
    farewells: int = 0
    """How often others said goodbye for us."""
    strangers: int = 0
    full: int = 0
    twins: dict[str, tuple[Address, Address]] = field(default_factory=dict)
    """Ids that are used at two addresses: the one that was first, and the other one."""
