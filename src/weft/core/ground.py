"""What each node takes for itself, as numbers, and where two of them meet. Pure; called by `acceptance.py`.

Endpoints, MACs and subnets of everybody lie sorted on one line, so "does this node meet any other?" is a binary search
among ten thousand. Who is in the right where some do is `dispute.py`'s business.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from weft.model import IPAddress, IPNetwork, Node

FAMILY = 128
"""Bits below the IP version: the address. A MAC has version 0."""
KEY = 1 << 512
"""Above all addresses: WireGuard's public keys."""


def point(address: IPAddress) -> int:
    """An address as a number that no other address has, IPv6 or IPv4."""
    return address.version << FAMILY | int(address)


def span(subnet: IPNetwork) -> tuple[int, int]:
    """The first and the last address of a subnet, as such numbers."""
    first = point(subnet.network_address)
    return first, first + (1 << (subnet.max_prefixlen - subnet.prefixlen)) - 1


class Stake(NamedTuple):
    """`marks`: a node's endpoints, MAC and WireGuard key, each once. `ranges`: first and last address of its subnets,
    sorted, without those that lie in another one of its own."""

    marks: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, node: Node) -> Stake:
        marks = [point(address) for address in node.endpoints]
        if any(node.mac):
            marks.append(int.from_bytes(node.mac, "big"))
        if node.backend == "wireguard" and node.key:
            marks.append(KEY | int.from_bytes(node.key.encode(), "big"))
        spans = [span(subnet) for network in node.networks for subnet in network.subnets]
        return cls(tuple(dict.fromkeys(marks)), _outermost(spans) if len(spans) > 1 else tuple(spans))


@dataclass(slots=True)
class Ground:
    """All nodes' stakes. `marks`, `firsts` and `lasts` are sorted; firsts[i]…lasts[i] is a subnet that lies in no other
    one. Once a memory holds it, it is only copied."""

    marks: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)

    def copy(self) -> Ground:
        return Ground(self.marks.copy(), self.firsts.copy(), self.lasts.copy())

    def take(self, stake: Stake) -> bool:
        """Add a stake; False, and it is half added, if it meets anything that is there, or itself: a mark that another
        node has, a subnet that overlaps another node's, an endpoint in a subnet."""
        for mark in stake.marks:
            at = bisect_left(self.marks, mark)
            if self.marks[at : at + 1] == [mark] or self._around(mark) is not None:
                return False
            self.marks.insert(at, mark)
        for first, last in stake.ranges:
            at = bisect_left(self.marks, first)
            if at < len(self.marks) and self.marks[at] <= last:
                return False
            at = bisect_right(self.firsts, last)
            if at and self.lasts[at - 1] >= first:
                return False
            self.firsts.insert(at, first)
            self.lasts.insert(at, last)
        return True

    def leave(self, stake: Stake) -> None:
        """Take away the stake of a node that met none."""
        for mark in stake.marks:
            del self.marks[bisect_left(self.marks, mark)]
        for first, _ in stake.ranges:
            at = bisect_left(self.firsts, first)
            del self.firsts[at], self.lasts[at]

    def _around(self, mark: int) -> int | None:
        """Which subnet holds this endpoint. A MAC lies below all of them."""
        at = bisect_right(self.firsts, mark) - 1
        return at if at >= 0 and self.lasts[at] >= mark else None

    @classmethod
    def of(cls, stakes: Iterable[tuple[str, Stake]]) -> tuple[Ground, frozenset[str]]:
        """Everybody's stakes by the node's id, and the ids of those that meet another or themselves."""
        owners: dict[int, str] = {}
        spans: list[tuple[int, int, str]] = []
        parties: set[str] = set()
        for name, stake in stakes:
            for mark in stake.marks:
                other = owners.setdefault(mark, name)
                if other != name:
                    parties.update((name, other))
            spans.extend((first, -last, name) for first, last in stake.ranges)
        ground, holders = cls(sorted(owners)), []
        for first, negated_last, name in sorted(spans):
            if not ground.lasts or first > ground.lasts[-1]:
                ground.firsts.append(first)
                ground.lasts.append(-negated_last)
                holders.append(name)
            else:
                parties.update((name, holders[-1]))
        for mark, name in owners.items():
            at = ground._around(mark)
            if at is not None:
                parties.update((name, holders[at]))
        return ground, frozenset(parties)


def _outermost(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Of subnets, one of two that overlap lies in the other."""
    kept: list[tuple[int, int]] = []
    for first, last in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or first > kept[-1][1]:
            kept.append((first, last))
    return tuple(kept)
