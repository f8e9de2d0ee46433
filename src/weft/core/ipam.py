"""Which subnet a host gets: flannel's way of choosing one that is free. Called by `core/tenancy.py`.

flannel walks up from SubnetMin, collects the first 100 free subnets and takes one of them at random: hosts that start
at the same instant seldom meet, and the pool still fills from its lower end. So does this, at a cost that depends on
how many leases there are, never on how large the pool is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import overload

from weft.errors import OutOfSubnets
from weft.model import IPAddress, IPNetwork
from weft.wire.flannel import Pool4, Pool6

CANDIDATES = 100
"""flannel's number: of so many free subnets one is taken."""


@overload
def choose(
    pool: Pool4, taken: Iterable[IPv4Network], random: float, previous: IPv4Network | None = None
) -> IPv4Network | None: ...


@overload
def choose(
    pool: Pool6, taken: Iterable[IPv6Network], random: float, previous: IPv6Network | None = None
) -> IPv6Network | None: ...


def choose(
    pool: Pool4 | Pool6, taken: Iterable[IPNetwork], random: float, previous: IPNetwork | None = None
) -> IPNetwork | None:
    """A subnet of the pool that overlaps with nothing in `taken`, whatever the lengths there; None if there is none.

    `previous` if the pool would give it out and it is free; else one of the first hundred. `random`: from 0 up to,
    without, 1.
    """
    places = _places(pool, taken)
    if previous is not None and fits(previous, pool) and places.free(_place(previous, pool)):
        return previous
    free = places.first_free(_place(pool.first, pool), _place(pool.last, pool))
    if not free:
        return None
    start = free[int(random * len(free))] << _bits(pool)
    return IPv4Network((start, pool.length)) if isinstance(pool, Pool4) else IPv6Network((start, pool.length))


def fits(subnet: IPNetwork, pool: Pool4 | Pool6) -> bool:
    """Whether the pool gives out such a subnet: of its family and length, between its first and its last."""
    if subnet.version != pool.network.version or subnet.prefixlen != pool.length:
        return False
    return int(pool.first) <= int(subnet.network_address) <= int(pool.last)


def exhausted(pool: Pool4 | Pool6, taken: Iterable[IPNetwork]) -> OutOfSubnets:
    """The error for a pool in which `choose` finds nothing free: a command raises it, a daemon tells it and waits."""
    first, last = int(pool.first), int(pool.last) | (1 << _bits(pool)) - 1
    leases = sum(1 for t in taken if int(t.network_address) <= last and int(t.broadcast_address) >= first)
    return OutOfSubnets(
        f"out of subnets: {leases} leases hold all of {(last - first >> _bits(pool)) + 1} subnets of /{pool.length} "
        f"from {pool.first} to {pool.last}; `weft leases` shows them, `weft leases release SUBNET` frees a dead "
        "host's, and a wider Network or SubnetMax in the config makes room"
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """What is taken, counted in places: the first place is address 0, each is as long as a lease of the pool.

    `wide`: first and last place of what is longer than one, from when the config gave out larger subnets; sorted."""

    single: set[int]
    wide: list[tuple[int, int]]

    def free(self, place: int) -> bool:
        return place not in self.single and not any(first <= place <= last for first, last in self.wide)

    def first_free(self, first: int, last: int) -> list[int]:
        """The lowest free places from `first` to `last`, as many as flannel looks at."""
        found: list[int] = []
        here = first
        for start, end in [*self.wide, (last + 1, last + 1)]:
            while here < start and here <= last:
                if here not in self.single:
                    found.append(here)
                    if len(found) == CANDIDATES:
                        return found
                here += 1
            here = max(here, end + 1)
        return found


def _places(pool: Pool4 | Pool6, taken: Iterable[IPNetwork]) -> _Places:
    single: set[int] = set()
    wide: list[tuple[int, int]] = []
    bits, length = _bits(pool), pool.length
    for subnet in taken:
        start = int(subnet.network_address) >> bits
        if subnet.prefixlen >= length:
            single.add(start)
        else:
            wide.append((start, start + (1 << length - subnet.prefixlen) - 1))
    return _Places(single, sorted(wide))


def _place(where: IPAddress | IPNetwork, pool: Pool4 | Pool6) -> int:
    return int(where if isinstance(where, IPAddress) else where.network_address) >> _bits(pool)


def _bits(pool: Pool4 | Pool6) -> int:
    return pool.network.max_prefixlen - pool.length
