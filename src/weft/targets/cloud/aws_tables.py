"""One route table of AWS as it was read last, kept up by what was written since; which of its routes are ours, and what
its tags are to say. No calls are made here. Used by `aws.py` (read) and `aws_writing.py` (apply).

A route is ours if a program made it (not AWS, not a VPN gateway), if it leads to a network interface, and if the tags
of the table list its destination. Destinations are listed before their routes are made and taken off once they are
deleted. What is about to be made or deleted is listed with its interface (`Claims.new`): if this process dies between
tag and route, and somebody makes a route there meanwhile, that is not taken for ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork, Problem
from weft.objects import Key
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud import Room
from weft.targets.cloud.aws_interfaces import Interfaces
from weft.targets.cloud.aws_shapes import Interface, RouteSeen, TableSeen
from weft.wire.aws_tags import Claims, claims_of, mark, portions

MADE = "CreateRoute"
PROPAGATED = frozenset({"EnableVgwRoutePropagation", "Advertisement"})
ECHO = 5.0
"""Seconds for which DescribeRouteTables may show what was before a write of ours: EC2 is eventually consistent."""
LIMIT_HOLDS = 600.0
"""Seconds for which a limit that was met is believed; after that, one more route is tried: it may have been raised."""
BLACKHOLE = "blackhole"
UNMADE = "listed in the table's tags, and not in the table"
CHECKED = "the source/destination check of its interface is on"

Hints = Mapping[Key, IPAddress]
"""By which of its addresses an interface was meant, when a route was written."""


@dataclass(frozen=True, slots=True)
class _Limit:
    routes: int
    until: float


@dataclass(slots=True)
class Table:
    """`owner`: what the keys of our tags begin with. `trouble`: why nothing is written to it, "" for nothing. `tried`:
    keys of a write of tags that may have been carried out or not; until one is known to have been, all are written."""

    id: str
    vpc: str
    owner: str
    trouble: str = ""
    claims: Claims = field(default_factory=Claims)
    tags: dict[str, str] = field(default_factory=dict)
    read_at: float = float("-inf")
    routes: dict[IPNetwork, tuple[RouteSeen, ...]] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    _made: dict[IPNetwork, tuple[str, float]] = field(default_factory=dict)
    _confirmed: set[IPNetwork] = field(default_factory=set)
    _tagged_at: float = float("-inf")
    _limits: dict[int, _Limit] = field(default_factory=dict)

    def take(self, seen: TableSeen, now: float) -> None:
        """What a reading shows. `now`: the event loop's time."""
        self.read_at = now
        self._made = {dst: made for dst, made in self._made.items() if now - made[1] < ECHO}
        routes: dict[IPNetwork, tuple[RouteSeen, ...]] = {}
        for route in seen.routes:
            routes[route.dst] = (*routes.get(route.dst, ()), route)
        self.routes = routes
        tags = dict(seen.tags)
        if now - self._tagged_at < ECHO:
            tags = {key: value for key, value in tags.items() if not key.startswith(self.owner)} | self.own_tags()
        self.tags = tags
        self._claim()

    def tagged(self, tags: Mapping[str, str], gone: Collection[str], now: float) -> None:
        """Tags were written and deleted."""
        self._tagged_at = now
        self.tags.update(tags)
        for key in gone:
            self.tags.pop(key, None)
        self._claim()

    def tags_unsure(self, keys: Collection[str], now: float) -> None:
        """A write of these tags may have been carried out. What was there before it stays what is listed: all of our
        routes are on that, since none is made before its write is known to be done, nor taken off before it is gone."""
        self.tried |= set(keys)
        self._tagged_at = now

    def ours(self, dst: IPNetwork) -> RouteSeen | None:
        held = self.claims
        for route in self.routes.get(dst, ()):
            if route.origin == MADE and not route.other:
                settled = dst in held.settled or dst in self._confirmed
                return route if settled or held.new.get(dst) == mark(route.interface) else None
        return None

    def somebodys(self, dst: IPNetwork) -> RouteSeen | None:
        """A route to `dst` where there is none of ours."""
        return None if self.ours(dst) is not None else next(iter(self.routes.get(dst, ())), None)

    def put(self, dst: IPNetwork, interface: Interface, now: float) -> None:
        """We made this route, or led it elsewhere."""
        others = tuple(route for route in self.routes.get(dst, ()) if route.origin in PROPAGATED)
        self.routes[dst] = (RouteSeen(dst, interface.id, interface.instance), *others)
        self._made[dst] = interface.id, now
        if dst in self.claims.new:
            self._confirmed.add(dst)

    def drop(self, dst: IPNetwork) -> None:
        """Our route is gone."""
        ours = self.ours(dst)
        self.routes[dst] = tuple(route for route in self.routes.get(dst, ()) if route is not ours)
        if not self.routes[dst]:
            del self.routes[dst]
        self._confirmed.discard(dst)
        self._made.pop(dst, None)

    def unseen(self, dst: IPNetwork) -> str:
        """Of a listed destination without a route: to which interface we made one just now. A reading that lags behind
        doesn't show it; to take it off the list would leave it for ever. "": none."""
        listed = dst in self.claims and dst not in self.routes
        return self._made[dst][0] if listed and dst in self._made else ""

    def planned(self, new: Mapping[IPNetwork, str], given_back: Collection[IPNetwork] = ()) -> Claims:
        """The claims with `new` ones, without those given back. What is known to be done is settled; where somebody
        else's route stands, we claim nothing."""
        settled, waiting = set(), {}
        for dst in self.claims:
            if dst in new or dst in given_back:
                continue
            if self.ours(dst) is not None:
                settled.add(dst)
            elif dst not in self.routes and dst in self.claims.new:
                waiting[dst] = self.claims.new[dst]
            elif dst not in self.routes:
                settled.add(dst)
        if len(portions((dst, dst) for dst in (*waiting, *new))) > 1:
            settled, waiting = settled | waiting.keys(), {}
        return Claims(frozenset(settled), waiting | dict(new))

    def own_keys(self) -> list[str]:
        return [key for key in self.tags if key.startswith(self.owner)]

    def own_tags(self) -> dict[str, str]:
        return {key: self.tags[key] for key in self.own_keys()}

    def count(self, version: int) -> int:
        """Routes that count against the limit: IPv4 and IPv6 apart, propagated ones in neither."""
        every = (route for routes in self.routes.values() for route in routes)
        return sum(route.dst.version == version and route.origin not in PROPAGATED for route in every)

    def full(self, version: int, now: float) -> None:
        """AWS takes no further route of this IP version."""
        self._limits[version] = _Limit(self.count(version), now + LIMIT_HOLDS)

    def room(self, now: float, version: int | None = None) -> Room | None:
        """Of the IP version that has least, or of this one. None: no limit was met lately."""
        rooms = [
            Room(f"table {self.id} (IPv{family} routes)", limit.routes, max(limit.routes - self.count(family), 0))
            for family, limit in self._limits.items()
            if limit.until > now and version in (None, family)
        ]
        return min(rooms, key=lambda room: room.free, default=None)

    def tags_of_others(self) -> int:
        return len(self.tags) - len(self.own_keys())

    def _claim(self) -> None:
        try:
            self.claims, self.trouble = claims_of(self.owner, self.tags), ""
        except WireError as error:
            self.claims = Claims()
            self.trouble = (
                f"{error}: which routes of {self.id} are ours isn't known, so none is changed: mend the tag "
                f"(docs/cloud-routes-aws.md), or delete it, which makes its routes somebody else's"
            )
        self._confirmed = {dst for dst in self.claims.new if self.ours(dst) is not None}


@dataclass(frozen=True, slots=True)
class Part:
    """What one table gives to a reading."""

    routes: Mapping[Key, CloudRoute] = field(default_factory=dict)
    foreign: Mapping[Key, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def part_of(table: Table, interfaces: Interfaces, hints: Hints, mend_checks: bool) -> Part:
    """`mend_checks`: a source/destination check that is on is a flaw of the route; else it is told by others."""
    routes: dict[Key, CloudRoute] = {}
    foreign: dict[Key, str] = {}
    problems = [Problem(table.id, table.trouble)] if table.trouble else []
    for dst, shown in table.routes.items():
        key, ours = cloud_key(table.id, dst), table.ours(dst)
        if ours is None:
            foreign[key] = phrase(shown[0], table.id)
            continue
        interface = interfaces.get(ours.interface)
        if interface is None:
            routes[key] = CloudRoute(table.id, dst, None, BLACKHOLE if ours.blackhole else "")
            continue
        flaw = CHECKED if mend_checks and interface.check else ""
        routes[key] = CloudRoute(table.id, dst, _meant(interface, dst, hints.get(key)), flaw)
        if ours.blackhole:
            problems.append(Problem(table.id, _dead(dst, interface)))
    for dst in table.claims:
        if dst not in table.routes:
            routes[cloud_key(table.id, dst)] = CloudRoute(table.id, dst, None, UNMADE)
    return Part(routes, foreign, tuple(problems))


def phrase(route: RouteSeen, table: str) -> str:
    """Somebody else's route, in words."""
    to = route.other or route.interface or "nowhere"
    if route.other == "local":
        return f"the local route of {table}'s VPC"
    if route.origin in PROPAGATED:
        return f"a propagated route of {table} to {to}"
    return f"a route of {table} to {to} that somebody else made"


def checked(interface: Interface) -> Problem:
    """For people, of an interface that routes of ours lead to."""
    return Problem(
        interface.instance or interface.id,
        f"the source/destination check of {interface} is on: AWS drops what our routes lead there; switch it off: aws "
        f"ec2 modify-network-interface-attribute --network-interface-id {interface.id} --no-source-dest-check, or with "
        "-aws-disable-source-dest-check",
    )


def _meant(interface: Interface, dst: IPNetwork, hint: IPAddress | None) -> IPAddress | None:
    """Of an interface's addresses, the one that its host is known by: as when the route was written, else its primary
    one of the family of the destination. Where that is a wrong guess, a change is asked for, which writes nothing."""
    if hint in interface.addresses:
        return hint
    same = [address for address in interface.addresses if address.version == dst.version]
    return next(iter((*same, *interface.addresses)), None)


def _dead(dst: IPNetwork, interface: Interface) -> str:
    what = "that instance is stopped, or is going" if interface.instance else "it has to be attached to its instance"
    return f"the route to {dst} is a blackhole, though it leads where it should, to {interface}: {what}"
