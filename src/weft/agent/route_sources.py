"""What routes in a cloud are made of, as etcd has it: flannel's leases, the registrar's networks, agents and
docker-routers. `daemons/route_manager.py` follows each with `Loop.follow`. They look only: nothing is written here.

Each yields full sets, and keeps for a grace time what ran out (`route_feed.py`, `core/lapsing.py`). A node has no
tunnel here: its id, where it is, and what lies behind it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from weft.agent.lease_book import Reader, config_of
from weft.agent.reconcile import Clock
from weft.agent.route_feed import Feed, Part
from weft.core.edits import Kept, altered, edits
from weft.core.lapsing import Claim, Moment
from weft.core.registry import Prefixes, Registered, Registry
from weft.core.registry import Reader as RegistryReader
from weft.core.tenancy import Held, name
from weft.discovery.directory import Directory
from weft.discovery.options import EtcdSettings
from weft.discovery.tally import Complaints, Counters
from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Known, Mac, Network, Node, Problem
from weft.settings.flanneld import clean
from weft.stores import Entries, Entry, Snapshot, Store
from weft.wire.discovery_keys import folder
from weft.wire.flannel_config import parse_networks
from weft.wire.registrar import NetworkKey, NoteKey, StatusKey

BACKEND = "cloud"
NO_MAC = Mac(bytes(6))
BROADCAST = IPv4Address("255.255.255.255")
FLANNEL, REGISTRAR, ETCD = "flannel", "registrar", "etcd"
"""`Node.source` of each."""
LEASE, RESERVATION, ADDED = "lease", "reservation", "docker network"
"""`Network.name` of what stands below flannel's prefix."""


@dataclass(frozen=True, slots=True)
class Leases:
    """`spans`: the networks that flannel's config gives leases from; () while that can't be read."""

    known: Known[Node]
    spans: tuple[IPNetwork, ...] = ()


class FlannelLeases:
    """flannel's leases: a Node for each key below `<prefix>/subnets/`, whatever its backend, be it a lease, a
    reservation (its host keeps that for ever) or an entry that a registrar added: flannel's own hosts route to all of
    them. `grace`: seconds for which one is kept whose etcd lease ran out."""

    def __init__(self, store: Store, prefix: str, grace: float, clocks: Clock | None = None) -> None:
        self._part = _Subnets(clean(prefix))
        self._feed = Feed(store, self._part, grace, clocks)

    async def sets(self) -> AsyncGenerator[Leases, None]:
        """As `Feed.sets`."""
        said: Leases | None = None
        async with contextlib.aclosing(self._feed.sets()) as sets:
            async for known in sets:
                if (now := Leases(known, self._part.spans)) != said:
                    said = now
                    yield now


class RegistrarNetworks:
    """The Docker networks of every host that is registered, by flannel-registrar or weft's. Of `prefixes`, flannel's is
    read too: its leases tell where hosts are whose registrars are older and don't."""

    def __init__(self, store: Store, prefixes: Prefixes, grace: float, clocks: Clock | None = None) -> None:
        part = _Registrations(Prefixes(clean(prefixes.config), clean(prefixes.flannel)))
        self._feed = Feed(store, part, grace, clocks)

    def sets(self) -> AsyncGenerator[Known[Node], None]:
        """As `Feed.sets`."""
        return self._feed.sets()


class EtcdNodes:
    """The agents and docker-routers that are registered in etcd, also those that tell no end of a tunnel. Nothing is
    announced: this daemon is none of them."""

    def __init__(self, store: Store, prefix: str, grace: float, clocks: Clock | None = None) -> None:
        self._feed = Feed(store, _Peers(clean(prefix)), grace, clocks)

    def sets(self) -> AsyncGenerator[Known[Node], None]:
        """As `Feed.sets`."""
        return self._feed.sets()


class _Subnets(Part):
    """flannel's keys. What can't be read says what it said before, for as long as it is there: flannel ignores such a
    change as well."""

    def __init__(self, prefix: str) -> None:
        self.prefixes = (f"{prefix}/",)
        self.spans: tuple[IPNetwork, ...] = ()
        self._config = config_of(prefix)
        self._config_value: bytes | None = b""
        self._config_problem: Problem | None = None
        self._reader = Reader(prefix)
        self._claims: Kept[Held, Claim] = Kept()
        self._flaws: Kept[Held, Problem] = Kept()
        self._unread: tuple[Problem, ...] = ()
        self._twice: tuple[Problem, ...] = ()
        self._live: tuple[Claim, ...] = ()

    def take(self, snapshots: Sequence[Snapshot], moment: Moment) -> tuple[Claim, ...]:
        (snapshot,) = snapshots
        book, found = self._reader.book(snapshot), dict[str, tuple[Claim | None, Problem | None]]()
        self._unread = book.problems

        def claim(held: Held) -> Claim | None:
            found[held.key] = self._claim(held)
            return found[held.key][0]

        before = self._claims.made
        self._claims = self._claims.after(book.held, claim)
        self._flaws = self._flaws.after(book.held, lambda held: found[held.key][1])
        if self._claims.made is not before:
            self._live, self._twice = _one_each(self._claims.made)
        self._read_config(snapshot)
        return self._live

    def problems(self) -> Iterator[Problem]:
        if self._config_problem is not None:
            yield self._config_problem
        yield from self._unread
        yield from self._flaws.made
        yield from self._twice

    def _claim(self, held: Held) -> tuple[Claim | None, Problem | None]:
        lease, noun = held.lease, f"lease {name(held.lease)}"
        told = [address for address in (lease.public_ip, lease.public_ip6) if address is not None]
        places = tuple(filter(_is_place, told))
        if held.readable and places:
            kind = ADDED if held.added else LEASE if held.hangs_on else RESERVATION
            subnets = tuple(subnet for subnet in (lease.subnet, lease.subnet6) if subnet is not None)
            networks = (Network(kind, subnets, since=float(held.created)),)
            return Claim(held.key, held.hangs_on, _node(name(lease), places, networks, FLANNEL), noun), None
        why = f"{noun} names {' and '.join(map(str, told))}, where no host can be" if held.readable else ""
        former = self._former(held.key)
        if former is None:
            what = "nothing is routed to it, before its host writes it anew"
            return None, Problem(name(lease), f"{why}: {what}") if why else None
        where = ", ".join(map(str, former.node.endpoints))
        text = f"{why or f'{noun} can not be read any more'}: it is routed to {where}, as before, while it is there"
        return replace(former, lease=held.hangs_on), Problem(former.node.id, text)

    def _former(self, key: str) -> Claim | None:
        claims = self._claims.made
        at = bisect_left(claims, key, key=lambda claim: claim.key)
        return claims[at] if at < len(claims) and claims[at].key == key else None

    def _read_config(self, snapshot: Snapshot) -> None:
        """It says what flannel gives leases from, and no lease needs it."""
        entry = snapshot.entries.get(self._config)
        value = entry.value if entry is not None else None
        if value == self._config_value:
            return
        self._config_value, self.spans, self._config_problem = value, (), None
        if value is None:
            text = f"there is no network config in {self._config} (-etcd-prefix says where); leases are routed without"
            self._config_problem = Problem("config", text, wrong=False)
            return
        try:
            self.spans = parse_networks(value)
        except WireError as error:
            text = f"the network config in {self._config} can't be read: {error}. Leases are routed all the same"
            self._config_problem = Problem("config", text)


class _Registrations(Part):
    """The registrar's keys, and flannel's."""

    def __init__(self, prefixes: Prefixes) -> None:
        self.prefixes = (f"{prefixes.config}/", f"{prefixes.flannel}/")
        self._reader = RegistryReader(prefixes)
        self._registry: Registry | None = None
        self._by_host: dict[str, Claim] = {}
        self._live: tuple[Claim, ...] = ()
        self._nowhere: tuple[Problem, ...] = ()

    def take(self, snapshots: Sequence[Snapshot], moment: Moment) -> tuple[Claim, ...]:
        own, flannel = snapshots
        registry = self._reader.read(own.entries.rows, flannel.entries.rows)
        if registry is not self._registry:
            self._registry = registry
            self._assemble(registry.hosts, self._leases())
        return self._live

    def problems(self) -> Iterator[Problem]:
        hosts = {one.host for one in self._registry.hosts} if self._registry is not None else set()
        said = self._registry.problems if self._registry is not None else ()
        yield from (problem for problem in said if problem.subject in hosts)  # flannel's own are told by FlannelLeases
        yield from self._nowhere

    def _assemble(self, hosts: Iterable[Registered], leases: Mapping[str, int]) -> None:
        claims: dict[str, Claim] = {}
        nowhere: list[Problem] = []
        for one in hosts:
            places = _places(one)
            if not places and one.networks:
                text = f"host {one.host} registered networks and no address that packets could be sent to"
                nowhere.append(Problem(one.host, f"{text}: nothing is routed to it. Does its registrar run?"))
            elif places:
                node = _node(one.host, places, one.networks, REGISTRAR)
                claim = Claim(one.host, leases.get(one.host, 0), node, f"host {one.host}")
                former = self._by_host.get(one.host)
                claims[one.host] = former if former == claim else claim
        self._by_host, self._nowhere = claims, tuple(nowhere)
        self._live = tuple(claims[host] for host in sorted(claims))

    def _leases(self) -> dict[str, int]:
        """Host → the etcd lease of its heartbeat, else of its note, else of its networks."""
        ranks = {NetworkKey: 0, NoteKey: 1, StatusKey: 2}
        best: dict[str, tuple[int, int]] = {}
        for row, found in (*self._reader.registrations(), *self._reader.leases()):
            if found.key is not None and row.lease:
                best[found.key.host] = max(best.get(found.key.host, (0, 0)), (ranks[type(found.key)], row.lease))
        return {host: lease for host, (_, lease) in best.items()}


class _Peers(Part):
    """The keys of agents and docker-routers."""

    def __init__(self, prefix: str) -> None:
        settings = EtcdSettings(node="", instance="", prefix=prefix, plain=True)
        self.prefixes = (f"{prefix}/",)
        self._prefix = prefix
        self._complaints = Complaints(settings.limits.problems)
        self._directory = Directory(settings, Counters(), self._complaints)
        self._entries = Entries()
        self._made: Kept[Node, Claim] = Kept()
        self._nowhere: Kept[Node, Problem] = Kept()
        self._went: dict[str, int] = {}
        self._hanging: dict[str, int] = {}

    @property
    def next_event(self) -> float:
        return min(self._directory.next_event, self._complaints.next_expiry)

    def take(self, snapshots: Sequence[Snapshot], moment: Moment) -> tuple[Claim, ...]:
        (snapshot,) = snapshots
        before, self._entries = self._entries, snapshot.entries
        went = (row for run, _ in edits(before.rows, snapshot.entries.rows) for row in before.rows[run])
        self._went = {row.key.rpartition("/")[0] + "/": row.lease for row in went}
        self._directory.take(snapshot.entries, moment.now, moment.wall)
        return self._claims()

    def expire(self, moment: Moment) -> tuple[Claim, ...]:
        self._directory.expire(moment.now)
        self._complaints.expire(moment.now)
        return self._claims()

    def lost(self) -> None:
        self._directory.lost()

    def departed(self) -> Collection[str]:
        return self._directory.departed()

    def hanging(self) -> Mapping[str, int]:
        """A claim tells the etcd lease that its keys hung on when it was made; they may hang on another one since."""
        return self._hanging

    def problems(self) -> Iterator[Problem]:
        yield from self._complaints.problems
        yield from self._nowhere.made

    def _claims(self) -> tuple[Claim, ...]:
        before, nodes = self._made.made, self._directory.nodes
        self._made = self._made.after(nodes, self._claim)
        self._nowhere = self._nowhere.after(nodes, _unplaced)
        gone, _ = altered(before, self._made.made)
        folders = ((claim.key, folder(self._prefix, claim.key)) for claim in gone)
        self._hanging = {key: self._went[own] for key, own in folders if own in self._went}
        return self._made.made

    def _claim(self, node: Node) -> Claim | None:
        places = tuple(filter(_is_place, node.endpoints))
        if not places:
            return None
        routed = replace(_node(node.id, places, node.networks, ETCD), stack=node.stack)
        return Claim(node.id, self._lease(node.id), routed, f"node {node.id}")

    def _lease(self, peer: str) -> int:
        """The etcd lease that its keys hang on."""
        rows, own = self._entries.rows, folder(self._prefix, peer)
        at = bisect_left(rows, own, key=_key)
        return rows[at].lease if at < len(rows) and rows[at].key.startswith(own) else 0


def _node(called: str, places: tuple[IPAddress, ...], networks: tuple[Network, ...], source: str) -> Node:
    return Node(called, places, 0, 0, NO_MAC, 0, networks, backend=BACKEND, source=source)


def _places(host: Registered) -> tuple[IPAddress, ...]:
    """Where a registered host is, at most one address per IP version."""
    told = [host.status.address if host.status is not None else None]
    told.extend(host.note.endpoints if host.note is not None else ())
    found = {address.version: address for address in reversed(told) if address is not None and _is_place(address)}
    return tuple(found[version] for version in sorted(found))


def _is_place(address: IPAddress) -> bool:
    """Whether packets can be sent there from anywhere but the host itself."""
    nowhere = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    return not nowhere and address != BROADCAST


def _unplaced(node: Node) -> Problem | None:
    if any(map(_is_place, node.endpoints)):
        return None
    told = ", ".join(map(str, node.endpoints))
    return Problem(node.id, f"node {node.id} says that it is at {told}, where no host can be: nothing is routed to it")


def _one_each(claims: tuple[Claim, ...]) -> tuple[tuple[Claim, ...], tuple[Problem, ...]]:
    """Of keys that are written differently and name the same subnets, the one in flannel's own form holds (a key below
    no folder), and of such the oldest."""
    holding: dict[str, Claim] = {}
    for claim in sorted(claims, key=lambda c: (c.key.count("/"), c.node.networks[0].since)):
        holding.setdefault(claim.node.id, claim)
    if len(holding) == len(claims):
        return claims, ()
    others = [claim for claim in claims if holding[claim.node.id] is not claim]
    text = "{} is there twice: {} counts, and {} does not"
    problems = (Problem(c.node.id, text.format(c.noun, holding[c.node.id].key, c.key)) for c in others)
    return tuple(claim for claim in claims if holding[claim.node.id] is claim), tuple(problems)


def _key(entry: Entry) -> str:
    return entry.key
