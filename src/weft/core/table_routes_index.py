"""Which routes of a table hold others, which lie in them, and how many adjacent ones come to. Pure; called by
`table_routes.py`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from weft.core.ground import point, span
from weft.model import IPNetwork


class Index:
    """Destinations of one table. A question takes time that grows with the logarithm of their number."""

    def __init__(self, destinations: Iterable[IPNetwork]) -> None:
        self._by = {(point(dst.network_address), dst.prefixlen): dst for dst in destinations}
        self._sorted = sorted(self._by)
        self._lengths = sorted({length for _, length in self._by}, reverse=True)

    def around(self, dst: IPNetwork) -> IPNetwork | None:
        """The smallest one that holds `dst` and is larger: where its packets go without a route of their own."""
        first = point(dst.network_address)
        for length in self._lengths:
            if length < dst.prefixlen:
                shift = dst.max_prefixlen - length
                found = self._by.get((first >> shift << shift, length))
                if found is not None:
                    return found
        return None

    def inside(self, dst: IPNetwork) -> Iterator[IPNetwork]:
        """All that are smaller and lie in `dst`, by address."""
        first, last = span(dst)
        at = bisect_left(self._sorted, (first, dst.prefixlen + 1))
        while at < len(self._sorted) and self._sorted[at][0] <= last:
            yield self._by[self._sorted[at]]
            at += 1

    def serves(self, dst: IPNetwork) -> bool:
        """Whether every address in `dst` has a route."""
        if (point(dst.network_address), dst.prefixlen) in self._by or self.around(dst) is not None:
            return True
        reached, last = span(dst)
        for one in self.inside(dst):
            first, end = span(one)
            if first > reached:
                return False
            reached = max(reached, end + 1)
        return reached > last


def collapsed(subnets: Collection[IPNetwork], avoided: Collection[IPNetwork]) -> Iterator[IPNetwork]:
    """The fewest networks that hold the addresses of these subnets and no other; none of `avoided` that isn't a subnet
    itself, for somebody else's route stands there. Where one stands at a subnet itself, that is left as it is: packets
    go by the narrower route, so a larger one of ours would only hide the conflict."""
    fours = [subnet for subnet in subnets if isinstance(subnet, IPv4Network)]
    sixes = [subnet for subnet in subnets if isinstance(subnet, IPv6Network)]
    larger: list[IPNetwork] = [*collapse_addresses(fours), *collapse_addresses(sixes)]
    disputed = [subnet for subnet in subnets if subnet in avoided]
    for one in larger:
        yield from _around_foreign(one, subnets, avoided, disputed)


def _around_foreign(
    one: IPNetwork, subnets: Collection[IPNetwork], avoided: Collection[IPNetwork], disputed: Sequence[IPNetwork]
) -> Iterator[IPNetwork]:
    within = [subnet for subnet in disputed if subnet.version == one.version and subnet.network_address in one]
    if (one not in avoided and not within) or one in subnets:
        yield one
        return
    for half in one.subnets():
        yield from _around_foreign(half, subnets, avoided, within)
