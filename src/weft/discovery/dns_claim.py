"""What to change in DNS so that this node is registered, and when not to: without I/O, time is an argument.

`discovery/dns_register.py` reads what stands under our names (`Standing`), asks `Registration` what to do, and does it.

Our TXT record is the claim on our id. It stands in a set of records that other routers of the stack share, so each
change says in its prerequisites what the whole set was when we looked (RFC 2136, 2.4.2): if two hosts want one id, the
slower one's change fails, it looks again, and finds the other's claim. A claim is

    ours          it has this start's `instance`
    ours          it has our endpoint, or is of this very program, and this start has not registered yet: a former one
    another's     anything else, for as long as it is refreshed; one that we saw unchanged for its whole timeout is
                  dead, and its id is free. Clocks are not compared: only what changes while we look counts.

Of SRV, A and AAAA records, only those that our claim says we added are ever removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from weft.discovery.dns_options import DnsSettings
from weft.errors import WireError
from weft.model import IPAddress, Node
from weft.wire.dns import (
    SERVICE,
    Entry,
    Name,
    Record,
    RecordType,
    Srv,
    Strings,
    decode_txt,
    encode_txt,
    fields,
    folded,
    host_label,
    name_text,
    shown_id,
    stack_label,
)
from weft.wire.hello import Stamp

LONGEST = 86400.0
FAMILY: dict[int, RecordType] = {4: "A", 6: "AAAA"}


@dataclass(frozen=True, slots=True)
class Names:
    """Where the records of one node are."""

    service: Name
    stack: Name
    host: Name

    @classmethod
    def of(cls, me: Node, domain: Name) -> Names:
        service = (*SERVICE, *domain)
        return cls(service, (stack_label(me.stack or me.id), *service), (host_label(me.id), *domain))


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands there. `txt`: the records at the stack's name; `srv`: those of the service that lead to our host's
    name; `addresses`: of that name; `alias`: it is a CNAME."""

    txt: frozenset[Strings] = frozenset()
    srv: frozenset[Srv] = frozenset()
    addresses: frozenset[IPAddress] = frozenset()
    alias: bool = False

    def family(self, version: int) -> frozenset[IPAddress]:
        return frozenset(address for address in self.addresses if address.version == version)


@dataclass(frozen=True, slots=True)
class Expected:
    """A prerequisite: the set of records is exactly this; with none, there is no such set."""

    name: Name
    rtype: RecordType
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One update, all of it or nothing. What is removed is named with its value."""

    expected: tuple[Expected, ...]
    removed: tuple[Record, ...]
    added: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Somebody else has our name; the message names both."""

    message: str


Verdict: TypeAlias = Change | Conflict


def silence(entry: Entry, least: float, cached: bool) -> float:
    """Seconds without a refresh after which its owner is gone. `cached`: a resolver's cache is between."""
    return min(max(least, 3 * entry.every) + (entry.ttl if cached else 0), LONGEST)


class Registration:
    """One start's registration of one node. `epoch`: milliseconds since 1970 at that start."""

    def __init__(self, settings: DnsSettings, epoch: int) -> None:
        self._settings = settings
        self._stamp = Stamp(f"{settings.instance}.{epoch:x}", epoch, 0)
        self._rivals: dict[Strings, float] = {}  # another's claim on our id, and since when it did not change
        self.written = False
        """This start has had its claim in DNS."""
        self.lost = False
        """It had been there, and was not when `claim` was called last: nobody else takes it out, so the server has lost
        its zone, or part of it."""

    def interrupted(self) -> None:
        """The server could not be asked: nobody else could refresh a claim either."""
        self._rivals = {}

    def claim(self, me: Node, names: Names, standing: Standing, now: float, wall: float) -> Verdict:
        """What makes `me` registered, with a fresh time. WireError if nobody would believe `me`."""
        own = dict(_claims(standing, me.id))
        self._rivals = {strings: since for strings, since in self._rivals.items() if strings in own}
        self.lost = self.written and not own
        for strings, entry in own.items():
            if not self._is_ours(me, entry) and not self._is_dead(strings, entry, now):
                return Conflict(_taken(me, entry, names))
        foreign = self._foreign_addresses(me, names, standing, own.values())
        if isinstance(foreign, Conflict):
            return foreign
        self._stamp = replace(self._stamp, seq=self._stamp.seq + 1)
        settings = self._settings
        srv = Srv(settings.priority, settings.weight, settings.port, names.host)
        old_srv = _made_srv(own.values(), names)
        made = set(foreign)
        if _same(srv, old_srv) or not _same(srv, standing.srv):
            made.add("srv")
        numbers = (srv.priority, srv.weight, srv.port)
        entry = Entry(me, self._stamp, wall, settings.interval, settings.ttl, numbers, frozenset(made))
        added = [
            Record(names.stack, "TXT", encode_txt(me, entry)),
            Record(names.service, "SRV", srv),
            Record(names.service, "PTR", names.stack),
        ]
        added += [Record(names.host, FAMILY[a.version], a) for a in me.endpoints if FAMILY[a.version].lower() in made]
        wanted = {(record.rtype, record.value) for record in added}
        removed = [one for one in _old(own, names) if (one.rtype, one.value) not in wanted]
        return Change(_as_it_is(names, standing), tuple(removed), tuple(added))

    def withdrawal(self, me: Node, names: Names, standing: Standing) -> Change | None:
        """What takes this start's records out again; None if there are none."""
        own = {
            strings: entry
            for strings, entry in _claims(standing, me.id)
            if entry is not None and entry.stamp.instance == self._stamp.instance
        }
        if not own:
            return None
        removed = list(_old(own, names))
        if not any(strings not in own and _is_weft(strings) for strings in standing.txt):
            removed.append(Record(names.service, "PTR", names.stack))
        return Change(_as_it_is(names, standing), tuple(removed), ())

    def _is_ours(self, me: Node, entry: Entry | None) -> bool:
        if entry is None:
            return False
        if entry.stamp.instance == self._stamp.instance:
            return True
        program = entry.stamp.instance.rpartition(".")[0] == self._settings.instance
        return not self.written and (program or entry.node.endpoints[0] == me.endpoints[0])

    def _is_dead(self, strings: Strings, entry: Entry | None, now: float) -> bool:
        least = self._settings.peer_timeout
        since = self._rivals.setdefault(strings, now)
        return now - since >= (least if entry is None else silence(entry, least, False))

    def _foreign_addresses(
        self, me: Node, names: Names, standing: Standing, own: Collection[Entry | None]
    ) -> Conflict | set[str]:
        """Which of "a" and "aaaa" are ours to add; a Conflict if the host's name leads elsewhere."""
        mine: set[str] = set()
        before = {a for e in own if e is not None for a in e.node.endpoints if FAMILY[a.version].lower() in e.made}
        for endpoint in me.endpoints:
            theirs = standing.family(endpoint.version) - before
            if theirs and endpoint not in theirs:
                return Conflict(
                    f"{name_text(names.host)} has the address {min(theirs)}, which somebody else put there, and "
                    f"{me.id} is at {endpoint}: give this host another PEER_ID, or remove that record"
                )
            if not theirs and standing.alias:
                return Conflict(
                    f"{name_text(names.host)} is an alias (CNAME) that does not lead to {endpoint}, where {me.id} is: "
                    f"give this host another PEER_ID, or remove that record"
                )
            if not theirs:
                mine.add(FAMILY[endpoint.version].lower())
        return mine


def _claims(standing: Standing, peer: str) -> Iterator[tuple[Strings, Entry | None]]:
    """The TXT records that claim this id; None for one that can't be read."""
    for strings in sorted(standing.txt):
        try:
            entry = decode_txt(strings)
        except WireError:
            if shown_id(fields(strings)) == peer:
                yield strings, None
            continue
        if entry is not None and entry.node.id == peer:
            yield strings, entry


def _is_weft(strings: Strings) -> bool:
    try:
        return decode_txt(strings) is not None
    except WireError:
        return True


def _taken(me: Node, entry: Entry | None, names: Names) -> str:
    where = name_text(names.stack)
    if entry is None:
        return f"a TXT record at {where} claims the id {me.id} and can't be read: this host ({me.endpoints[0]}) waits"
    other = entry.node.endpoints[0]
    who = f"the host {other}" if other != me.endpoints[0] else f"another program on this host ({other})"
    return (
        f"{who} has registered as {me.id} at {where}, and so would this one ({me.endpoints[0]}): "
        f"give one of them another PEER_ID (or STACK_ID)"
    )


def _made_srv(entries: Collection[Entry | None], names: Names) -> frozenset[Srv]:
    return frozenset(Srv(*entry.srv, names.host) for entry in entries if entry is not None and "srv" in entry.made)


def _same(srv: Srv, others: Collection[Srv]) -> bool:
    return any(replace(one, target=folded(one.target)) == srv for one in others)


def _old(own: Mapping[Strings, Entry | None], names: Names) -> Iterator[Record]:
    """What earlier claims on the id added."""
    for strings, entry in own.items():
        yield Record(names.stack, "TXT", strings)
        if entry is None:
            continue
        for srv in _made_srv([entry], names):
            yield Record(names.service, "SRV", srv)
        for address in entry.node.endpoints:
            if FAMILY[address.version].lower() in entry.made:
                yield Record(names.host, FAMILY[address.version], address)


def _as_it_is(names: Names, standing: Standing) -> tuple[Expected, ...]:
    """Nothing has changed since we looked. What a CNAME leads to can't be a prerequisite."""
    txt = Expected(names.stack, "TXT", tuple(Record(names.stack, "TXT", one) for one in sorted(standing.txt)))
    if standing.alias:
        return (txt,)
    hosts: tuple[type[IPv4Address | IPv6Address], ...] = (IPv4Address, IPv6Address)
    sets = []
    for kind in hosts:
        found = sorted(a for a in standing.addresses if isinstance(a, kind))
        rtype = FAMILY[4 if kind is IPv4Address else 6]
        sets.append(Expected(names.host, rtype, tuple(Record(names.host, rtype, a) for a in found)))
    return (txt, *sets)
