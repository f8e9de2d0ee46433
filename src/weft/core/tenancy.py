"""Which subnet in the store is this host's, and what must be written so that it stays so. Pure; called by
`agent/leases.py`, which does what is decided here, and by `cli/leases.py`.

The rules are flannel's (its acquire order, Documentation/reservations.md) with the holes closed: a lost race is tried
again, a reservation is never touched, nothing of another host's is ever overwritten. docs/leases.md tells them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from weft.core import ipam
from weft.core.edits import Kept
from weft.core.ipam import choose, exhausted
from weft.model import IPAddress, IPNetwork, Problem
from weft.wire.flannel import BackendData, Config, Lease, Pool4, Pool6, lease_value

SUBJECT = "leases"
Span: TypeAlias = tuple[int, int]
"""First and last address of a subnet, as numbers: compared a thousand times for each change in the store."""
NOTHING: Span = (1 << 128, -1)
"""Of no subnet: overlaps with nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What this host is, as its lease is to say. `previous`, `previous6`: the subnets in subnet.env.

    An IPv4 public address is what a host is known by, as with flannel; the IPv6 one where there is no other."""

    public_ip: IPv4Address | None
    public_ip6: IPv6Address | None = None
    backend: str = ""
    data: BackendData | None = None
    data6: BackendData | None = None
    previous: IPv4Network | None = None
    previous6: IPv6Network | None = None

    @property
    def address(self) -> IPAddress | None:
        """What the other hosts know this one by."""
        return self.public_ip if self.public_ip is not None else self.public_ip6

    def lease(self, subnet: IPv4Network | None, subnet6: IPv6Network | None) -> Lease:
        """The lease on these subnets as this host publishes it."""
        return Lease(subnet, subnet6, self.public_ip, self.public_ip6, self.backend, self.data, self.data6)


@dataclass(frozen=True, slots=True)
class Held:
    """One key under `<prefix>/subnets/` as it is in the store. `created`, `modified`: revisions. `hangs_on`: an etcd
    lease; 0: it is a reservation. `readable` False: only the key is, so the subnet is taken, nobody knows by whom.
    `added`: a registrar wrote it for a Docker network: it is nobody's lease."""

    key: str
    lease: Lease
    created: int
    modified: int
    hangs_on: int = 0
    readable: bool = True
    added: bool = False
    address: IPAddress | None = field(init=False)
    known_by: int = field(init=False)
    span4: Span = field(init=False)
    span6: Span = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", address_of(self.lease))
        object.__setattr__(self, "known_by", _number(self.address))
        object.__setattr__(self, "span4", _span(self.lease.subnet))
        object.__setattr__(self, "span6", _span(self.lease.subnet6))

    @property
    def owner(self) -> str:
        """For a sentence: who holds it."""
        return str(self.address or "somebody whose value can't be read")


@dataclass(frozen=True, slots=True)
class Book:
    """All leases as of one revision of the store, sorted by key. `problems`: what could not be read."""

    revision: int
    held: tuple[Held, ...] = ()
    problems: tuple[Problem, ...] = ()
    _overlaps: dict[tuple[Span, Span], tuple[Held, ...]] = field(default_factory=dict, compare=False, repr=False)

    def find(self, lease: Lease) -> Held | None:
        """The key on exactly these subnets."""
        span4, span6 = _span(lease.subnet), _span(lease.subnet6)
        return next((h for h in self.overlapping(lease) if h.span4 == span4 and h.span6 == span6), None)

    def overlapping(self, lease: Lease) -> tuple[Held, ...]:
        """Every key on these subnets or a part of them. Looked up once: it is asked for three times per change."""
        spans = (first, last), (first6, last6) = _span(lease.subnet), _span(lease.subnet6)
        if spans not in self._overlaps:
            self._overlaps[spans] = tuple(
                h
                for h in self.held
                if (h.span4[0] <= last and h.span4[1] >= first) or (h.span6[0] <= last6 and h.span6[1] >= first6)
            )
        return self._overlaps[spans]

    def of(self, address: IPAddress | None) -> tuple[Held, ...]:
        """Every key that says that the host with this public address holds it."""
        number = _number(address)
        return tuple(h for h in self.held if h.known_by == number and h.readable and number)


@dataclass(frozen=True, slots=True)
class Mine:
    """What this run of the daemon holds, as it published it last. `fresh`: it was created by this run and has not been
    seen in the store yet, so nobody on this host knows of it and it can be given up without harm."""

    lease: Lease
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """`held` is this host's and says what it is to say."""

    held: Held


@dataclass(frozen=True, slots=True)
class Write:
    """`held` is this host's and is to say `lease` from now on: same subnets, same etcd lease."""

    held: Held
    lease: Lease


@dataclass(frozen=True, slots=True)
class Take:
    """Create the key of `lease`; in the same transaction delete `instead`, which is this host's and of no use to it."""

    lease: Lease
    instead: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """This host's subnet is held by others now. Nothing is written; what to do is for a person to say (ADR 8)."""

    rivals: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """The config leaves no subnet that is free; `why` is a sentence for people."""

    why: str


Action: TypeAlias = Keep | Write | Take | Lost | Full


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What the store says about this host and the others: a full set.

    `config`: as it was when it was first valid. `mine`: None until this host has a lease. `others`: every other host's,
    by key. `expiry`: of `mine`, seconds since 1970; None for a reservation, and while the lease is disputed.
    `complete`: whoever is not in it is gone."""

    config: Config | None = None
    mine: Lease | None = None
    others: tuple[Lease, ...] = ()
    expiry: float | None = None
    problems: tuple[Problem, ...] = ()
    complete: bool = False


def decide(
    book: Book, config: Config, candidate: Candidate, mine: Mine | None, random: float, near: Book | None = None
) -> Action:
    """What to do now. `mine`: None before this run of the daemon had a lease. `random`: from 0 up to, without, 1.
    `near`: the part of the book that concerns this host (`Sorted`), where that is known already."""
    if mine is None:
        return _acquire(book, config, candidate, random)
    near = book if near is None else near
    held = near.find(mine.lease)
    rivals = disputes(near, candidate, mine.lease)
    if held is None or not _ours(held, candidate, mine.lease):
        if mine.fresh:
            return _acquire(book, config, candidate, random)
        return Lost(rivals) if rivals else Take(candidate.lease(mine.lease.subnet, mine.lease.subnet6))
    if mine.fresh and any(rival.created < held.created for rival in rivals):
        return _take(book, config, candidate, (held,), random)
    return _as_it_should(held, candidate)


def disputes(book: Book, candidate: Candidate, mine: Lease) -> tuple[Held, ...]:
    """Every key of another host on this host's subnets or a part of them."""
    return tuple(h for h in book.overlapping(mine) if not _ours(h, candidate, mine))


def fits(config: Config, subnet: IPv4Network | None, subnet6: IPv6Network | None) -> bool:
    """Whether the config would give these out: its families, its length, between its Min and Max."""
    return _fits(config.ipv4, subnet) and _fits(config.ipv6, subnet6)


@dataclass(frozen=True, slots=True)
class Sorted:
    """A book as it is seen by the host that holds `mine`, kept from one book to the next. `near`: what overlaps this
    host's subnets or names its public address, whoever holds it. `others`: every other host's lease; what is near is
    left out, since following it would take the packets away from the containers that have these addresses."""

    near: Book = Book(0)
    others: tuple[Lease, ...] = ()
    _terms: tuple[object, ...] = ()
    _book: Book = Book(0)
    _near: Kept[Held, Held] = field(default_factory=Kept)
    _others: Kept[Held, Lease] = field(default_factory=Kept)

    def after(self, book: Book, candidate: Candidate, mine: Lease) -> Sorted:
        """The same as that after an empty one; only keys that changed since are looked at."""
        terms = (_number(candidate.address), _span(mine.subnet), _span(mine.subnet6))
        if self._book is book and self._terms == terms:
            return self
        if self._terms != terms:
            return Sorted(_terms=terms).after(book, candidate, mine)
        near = self._near.after(book.held, lambda held: held if _is_near(held, *terms) else None)
        others = self._others.after(
            book.held, lambda held: held.lease if held.readable and not _is_near(held, *terms) else None
        )
        return Sorted(Book(book.revision, near.made, book.problems), others.made, terms, book, near, others)


def _is_near(held: Held, own: int, span4: Span, span6: Span) -> bool:
    if held.known_by == own and own:
        return True
    meets4 = held.span4[0] <= span4[1] and held.span4[1] >= span4[0]
    return meets4 or (held.span6[0] <= span6[1] and held.span6[1] >= span6[0])


def remarks(book: Book, config: Config, candidate: Candidate, mine: Lease) -> tuple[Problem, ...]:
    """What a person should know about the lease of this host."""
    said = []
    rivals = disputes(book, candidate, mine)
    if rivals:
        said.append(Problem(SUBJECT, _disputed(mine, rivals, candidate)))
    own = book.find(mine)
    said.extend(
        Problem(SUBJECT, _double(held, mine, config))
        for held in book.of(candidate.address)
        if not _same(held.lease, mine) and not (own is not None and _is_added(held, own))
    )
    for before, now in ((candidate.previous, mine.subnet), (candidate.previous6, mine.subnet6)):
        if before is not None and now is not None and before != now:
            said.append(Problem(SUBJECT, _moved(before, now), wrong=False))
    return tuple(said)


def name(lease: Lease) -> str:
    """`10.5.1.0/24`, or `10.5.1.0/24 & fd00:5:1::/64`."""
    return " & ".join(str(net) for net in (lease.subnet, lease.subnet6) if net is not None)


def address_of(lease: Lease) -> IPAddress | None:
    """What a lease's host is known by."""
    return lease.public_ip if lease.public_ip is not None else lease.public_ip6


def adoptable(book: Book, config: Config, candidate: Candidate) -> Held | None:
    """The key that is this host's already and that the config would give out: that of subnet.env before a reservation,
    a reservation before a lease, and of two leases the older one: what a registrar added came later (`_is_added`)."""
    own = (h for h in book.of(candidate.address) if not h.added and fits(config, h.lease.subnet, h.lease.subnet6))
    return min(own, key=lambda h: _rank(h, candidate), default=None)


def remembering(now: tuple[Lease, ...], former: tuple[Lease, ...], mine: Lease) -> tuple[Lease, ...]:
    """What a store holds `now` that may have forgotten, and of `former` what contradicts nothing of it."""
    kept = Book(0, tuple(Held("", lease, 0, 0) for lease in (mine, *now)))
    addresses = {address_of(lease) for lease in now}
    return (*now, *(old for old in former if address_of(old) not in addresses and not kept.overlapping(old)))


def _acquire(book: Book, config: Config, candidate: Candidate, random: float) -> Action:
    """flannel's order: the key that names this host, that of subnet.env, a free one. What names this host and does not
    fit goes, unless it is a reservation: a person wrote that."""
    held = adoptable(book, config, candidate)
    if held is not None:
        return _as_it_should(held, candidate)
    own = sorted((h for h in book.of(candidate.address) if not h.added), key=lambda h: _rank(h, candidate))
    leases = [h for h in own if h.hangs_on]
    return _take(book, config, candidate, tuple(h for h in leases if not _is_added(h, leases[0])), random)


def _take(book: Book, config: Config, candidate: Candidate, instead: tuple[Held, ...], random: float) -> Take | Full:
    """A new key. Each family's subnet stays if it can: that of a key that goes, then that of subnet.env."""
    gone = {h.key for h in instead}
    staying = [h.lease for h in book.held if h.key not in gone]
    subnet: IPv4Network | None = None
    subnet6: IPv6Network | None = None
    if config.ipv4 is not None:
        before = next((h.lease.subnet for h in instead if _fits(config.ipv4, h.lease.subnet)), candidate.previous)
        taken = [lease.subnet for lease in staying if lease.subnet is not None]
        subnet = choose(config.ipv4, taken, random, before)
        if subnet is None:
            return Full(str(exhausted(config.ipv4, taken)))
    if config.ipv6 is not None:
        before6 = next((h.lease.subnet6 for h in instead if _fits(config.ipv6, h.lease.subnet6)), candidate.previous6)
        taken6 = [lease.subnet6 for lease in staying if lease.subnet6 is not None]
        subnet6 = choose(config.ipv6, taken6, random, before6)
        if subnet6 is None:
            return Full(str(exhausted(config.ipv6, taken6)))
    return Take(candidate.lease(subnet, subnet6), instead)


def _as_it_should(held: Held, candidate: Candidate) -> Keep | Write:
    """Compared as written."""
    lease = candidate.lease(held.lease.subnet, held.lease.subnet6)
    return Keep(held) if lease_value(held.lease) == lease_value(lease) else Write(held, lease)


def _ours(held: Held, candidate: Candidate, mine: Lease) -> bool:
    """It names this host's public address, or the one that this host published last."""
    return held.readable and held.address in (candidate.address, address_of(mine))


def _rank(held: Held, candidate: Candidate) -> tuple[bool, bool, int, str]:
    return not _of_the_file(held, candidate), held.hangs_on != 0, held.created, held.key


def _is_added(held: Held, own: Held) -> bool:
    """Whether this is an entry for a Docker network that a registrar on this host keeps beside its lease `own`: it says
    so; or it says the same of the host, and hangs on another etcd lease. It is not ours to look after."""
    if held.added:
        return True
    alike = (held.lease.backend, held.lease.data) == (own.lease.backend, own.lease.data)
    return alike and bool(own.lease.backend) and bool(held.hangs_on) and held.hangs_on != own.hangs_on


def _same(one: Lease, other: Lease) -> bool:
    return one.subnet == other.subnet and one.subnet6 == other.subnet6


def _of_the_file(held: Held, candidate: Candidate) -> bool:
    return held.lease.subnet == candidate.previous and held.lease.subnet6 == candidate.previous6


def _fits(pool: Pool4 | Pool6 | None, subnet: IPNetwork | None) -> bool:
    if pool is None or subnet is None:
        return pool is None and subnet is None
    return ipam.fits(subnet, pool)


def _number(address: IPAddress | None) -> int:
    """Compared a thousand times for each change in the store: `ipaddress` compares in Python. 0: no address."""
    return int(address) | address.version << 128 if address is not None else 0


def _span(subnet: IPNetwork | None) -> Span:
    if subnet is None:
        return NOTHING
    first = int(subnet.network_address)  # `broadcast_address` would stay in each of thousands of networks: 350 octets
    return first, first + (1 << (subnet.max_prefixlen - subnet.prefixlen)) - 1


def _disputed(mine: Lease, rivals: tuple[Held, ...], candidate: Candidate) -> str:
    theirs = ", ".join(f"{h.owner} ({name(h.lease)})" for h in rivals)
    release = " or ".join(f"`weft leases release '{name(h.lease)}'`" for h in rivals)
    return (
        f"the subnet {name(mine)} of this host ({candidate.address}) is held by {theirs} now: nothing is overwritten,"
        " and this host keeps its addresses and routes, but the other hosts may send its packets elsewhere."
        f" Stop the other host, or {release}, and this one takes it back at once;"
        " or restart this daemon, and it takes another subnet"
    )


def _double(held: Held, mine: Lease, config: Config) -> str:
    kind, verb = ("leased to", "release") if held.hangs_on else ("reserved for", "unreserve")
    misfit = "" if fits(config, held.lease.subnet, held.lease.subnet6) else ", does not fit the config,"
    return (
        f"{name(held.lease)} is {kind} this host's public address {held.owner} too{misfit} and nobody routes to it;"
        f" this host has {name(mine)}. If no other host has that address: weft leases {verb} '{name(held.lease)}'"
    )


def _moved(before: IPNetwork, now: IPNetwork) -> str:
    return (
        f"subnet.env named {before}, which is held by another host or does not fit the config: this host has {now} now."
        " What was made with the old subnet (a bridge, Docker's bip) must be made anew"
    )
