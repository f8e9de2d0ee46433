"""What an operator does with leases from outside: list, release, reserve. Called by `cli/leases.py`.

Everything is guarded by the revision that was judged: a lease that changes meanwhile is not touched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from weft.agent.lease_book import Reader, config_of, subnets_of
from weft.agent.marker import mark_of
from weft.core.tenancy import Book, Held, fits, name
from weft.errors import WeftError, WireError
from weft.settings.flanneld import clean
from weft.stores import Delete, Entry, Guard, Put, Store
from weft.wire.flannel import Config, Lease, lease_key, lease_value, parse_key
from weft.wire.flannel_config import parse_config

AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One lease. `remaining`: seconds, None for a reservation. `marked`: a weft daemon was there within a minute."""

    held: Held
    remaining: int | None
    marked: bool


class Desk:
    """One look at a prefix, and what can be done on the strength of it."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self.prefix = clean(prefix)
        self.book = Book(0)
        self.config: Config | None = None
        self.config_entry: Entry | None = None
        self.config_error = ""
        self._marks: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Read everything under the prefix."""
        snapshot = await self._store.range(f"{self.prefix}/")
        self.book = Reader(self.prefix).book(snapshot)
        self._marks = frozenset(key for key in snapshot.entries if key.startswith(mark_of(self.prefix, "")))
        self.config_entry = snapshot.entries.get(config_of(self.prefix))
        try:
            self.config = parse_config(self.config_entry.value) if self.config_entry is not None else None
        except WireError as error:
            self.config_error = str(error)

    async def rows(self) -> list[Row]:
        """Every lease, with what etcd says of its lifetime."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def remaining(lease: int) -> tuple[int, int]:
            async with gate:
                return lease, await self._store.remaining(lease)

        leases = {held.hangs_on for held in self.book.held if held.hangs_on}
        left = dict(await asyncio.gather(*map(remaining, leases)))
        return [Row(held, left.get(held.hangs_on), self.marked(held)) for held in self.book.held]

    def marked(self, held: Held) -> bool:
        """Whether a weft daemon left its mark for this lease's public address."""
        return mark_of(self.prefix, str(held.address)) in self._marks

    def find(self, subnet: IPv4Network | IPv6Network) -> Held:
        """The lease on this subnet, of either family. WeftError if there is none."""
        for held in self.book.held:
            if subnet in (held.lease.subnet, held.lease.subnet6):
                return held
        raise WeftError(f"nobody holds {subnet} under {subnets_of(self.prefix)}; `weft leases` lists what is held")

    async def free(self, held: Held) -> None:
        """Delete the key. The etcd lease is left to run out: other keys may hang on it, which nobody sees from here."""
        done = await self._store.commit([Delete(held.key)], [Guard(held.key, held.modified)])
        if done is None:
            raise WeftError(f"{name(held.lease)} changed at this very moment: look again (`weft leases`)")

    async def reserve(self, lease: Lease, force: bool) -> str:
        """Hold subnets for a host, for ever; a sentence on what was done. A lease of that host is made a reservation.
        WeftError if somebody else holds a part of them, or if the config would never give them out (`force`: all the
        same)."""
        self._check(lease, force)
        held = self.book.find(lease)
        same = held is not None and held.address == lease.public_ip
        others = [h for h in self.book.overlapping(lease) if h is not held or not same]
        if others:
            rivals = ", ".join(f"{name(h.lease)} is held by {h.owner}" for h in others)
            raise WeftError(f"{name(lease)} can't be reserved for {lease.public_ip}: {rivals}")
        if held is not None:
            lease = held.lease
        guard = Guard(self._key(lease), held.modified if held is not None else 0)
        done = await self._store.commit([Put(guard.key, lease_value(lease))], [guard])
        if done is None:
            raise WeftError(f"{name(lease)} changed at this very moment: look again (`weft leases`)")
        return f"{name(lease)} is reserved for {lease.public_ip}" + self._elsewhere(lease)

    def _check(self, lease: Lease, force: bool) -> None:
        if self.config is None:
            why = self.config_error or f"there is no config in {config_of(self.prefix)}"
        elif not fits(self.config, lease.subnet, lease.subnet6):
            why = "the config would not give that out (its length, SubnetMin to SubnetMax, IPv4 and IPv6)"
        else:
            return
        if not force:
            raise WeftError(f"{name(lease)} can't be reserved: {why}, and the host would pass over it; or use --force")

    def _elsewhere(self, lease: Lease) -> str:
        now = [h for h in self.book.of(lease.public_ip) if h.key != self._key(lease)]
        if not now:
            return ""
        return (
            f"; that host has {name(now[0].lease)} now. To move it: stop its daemon, delete its subnet.env, weft leases"
            f" release '{name(now[0].lease)}', start it"
        )

    def _key(self, lease: Lease) -> str:
        return subnets_of(self.prefix) + lease_key(lease)

    async def write_config(self, text: bytes) -> None:
        """Put it where every host reads it."""
        key = config_of(self.prefix)
        guard = Guard(key, self.config_entry.modified if self.config_entry is not None else 0)
        if await self._store.commit([Put(key, text)], [guard]) is None:
            raise WeftError(f"{key} changed at this very moment: look again (`weft flannel-config show`)")

    def misfits(self, config: Config) -> list[Held]:
        """Leases that a config would not have given out."""
        return [h for h in self.book.held if not fits(config, h.lease.subnet, h.lease.subnet6)]


def subnet_of(text: str) -> IPv4Network | IPv6Network:
    """`10.5.1.0/24`, or as in a key: `10.5.1.0-24`. WireError if it is none."""
    key = text.replace("/", "-")
    try:
        subnet, subnet6 = parse_key(f"0.0.0.0-0&{key}" if ":" in key else key)
    except WireError as error:
        raise WireError(f"{text!r} is not a subnet such as 10.5.1.0/24: {error}") from error
    found = subnet or subnet6
    assert found is not None
    return found


def lease_of(subnets: list[IPv4Network | IPv6Network], public_ip: IPv4Address) -> Lease:
    """A bare reservation, as flannel's documentation has it. WeftError if a family comes twice."""
    four = [net for net in subnets if isinstance(net, IPv4Network)]
    six = [net for net in subnets if isinstance(net, IPv6Network)]
    if len(four) > 1 or len(six) > 1 or not subnets:
        raise WeftError("a host has one subnet of each family: give one, or one IPv4 and one IPv6 subnet")
    return Lease(four[0] if four else None, six[0] if six else None, public_ip)
