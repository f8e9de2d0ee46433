"""What `weft route-manager` knows: the hosts that its sources tell of, what a cloud's route tables hold; and the View.

The counterpart of `world.py`. Each source replaces its set here and wakes the loop (`agent/loop.py`), which asks for a
View; what is to be in the tables is decided in `core/table_routes.py`. `daemons/route_manager.py` wires it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import cast

from weft.agent.broken import Broken
from weft.agent.unseen import Unseen
from weft.core.acceptance import Accepted, Policy, accept
from weft.core.table_routes import Decision, Table, Terms, decide
from weft.core.table_routes_guard import MaxDelete
from weft.core.table_routes_hosts import ANY, Asked, Hosts, destinations, gather, nobody
from weft.core.table_routes_hosts import FLANNEL as FLANNEL
from weft.model import IPNetwork, Known, Network, Node, Problem, Profile, View
from weft.objects import Key
from weft.objects.cloud import CloudRoute
from weft.settings import PRIVATE
from weft.targets.cloud import Contents, Room

ROLE = "route-manager"
ELECTION, TABLES = "election", "tables"
"""What a manager waits for that doesn't lead, and one that leads and has not read the tables yet."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator set. `name`: of this manager. `sources`: names of those that must have spoken before anything
    goes; with FLANNEL, its config too. `allowed`: (), flannel's own network and private ones. `delete_all`: nothing is
    wanted, whoever says what, and no guard asks. `grace`: seconds for which what nobody asks for stays at first."""

    name: str
    sources: tuple[str, ...] = (FLANNEL,)
    allowed: tuple[IPNetwork, ...] = ()
    aggregate: bool = False
    max_delete: MaxDelete = field(default_factory=MaxDelete)
    delete_all: bool = False
    grace: float = 0.0


@dataclass(frozen=True, slots=True)
class Tables:
    """Asks the target and its provider. `names`: of the tables. `contents`: what they hold; None: it was not read, or
    this manager doesn't lead. `room`: by table, as far as a quota was read. `now`: seconds, of a clock that never
    jumps. `last`: what they held as far as anybody knows, for people; None: another manager knows better."""

    names: Callable[[], tuple[str, ...]]
    contents: Callable[[], Contents | None]
    room: Callable[[], Mapping[str, Room]]
    now: Callable[[], float]
    last: Callable[[], Contents | None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the sources' sets came to. `made_from`: the sets, and what is allowed."""

    made_from: tuple[tuple[Known[Node], ...], tuple[IPNetwork, ...]]
    hosts: Hosts
    accepted: Accepted
    asked: Asked


@dataclass(slots=True)
class RouteWorld(Broken, Unseen):
    """`spans`: flannel's own networks, by its config; None: not known yet, (): it has no config. `leading`: whether
    this manager may write; one that may not plans nothing. `writes`: which other one does, "" for none that is known.
    """

    wishes: Wishes
    tables: Tables
    leading: Callable[[], bool]
    spans: tuple[IPNetwork, ...] | None = None
    writes: str = ""
    _heard: dict[str, Known[Node]] = field(default_factory=dict)
    _judged: _Judged | None = None
    _decision: Decision = field(default_factory=Decision)
    _synced_at: float | None = None

    def hear(self, source: str, known: Known[Node]) -> None:
        """A source's full set."""
        self._heard[source] = known

    def hear_leases(self, known: Known[Node], spans: tuple[IPNetwork, ...]) -> None:
        """flannel's leases, and the networks that its config gives them from; (): that can't be read, and whatever it
        said before holds."""
        if spans or self.spans is None:
            self.spans = spans
        self.hear(FLANNEL, known)

    @property
    def name(self) -> str:
        """This manager's, among those that may lead."""
        return self.wishes.name

    @property
    def device(self) -> str:
        """The tables."""
        return ", ".join(self.tables.names())

    @property
    def engine(self) -> Known[Network]:
        """None: a manager has no networks of its own."""
        return Known((), True)

    @property
    def peers(self) -> Known[Node] | None:
        """The hosts, each with all of its subnets, accepted or not; None: no source has spoken."""
        if not self._heard:
            return None
        problems = tuple(problem for known in self._heard.values() for problem in known.problems)
        return Known(self._judge().hosts.nodes, not self._silent(), problems)

    @property
    def unfinished(self) -> bool:
        """A cycle that has changed something is to be followed by another: some routes are there only until others,
        which it may have made, take their place."""
        return self._decision.unfinished

    def view(self) -> View | None:
        """What to plan from; None while this manager doesn't lead, or nothing is known of the hosts: of leases, only
        together with the network that they are taken from. Of tables that were not read it asks nothing, but there is a
        View: what keeps them from being read has its Status then."""
        leading = self.leading()
        contents = self.tables.contents() if leading else None
        me, profile = nobody(self.name), Profile(ROLE, plane=False)
        if contents is None:
            self._decision = Decision(past=self._decision.past)
            return View(me, profile=profile, synced=False) if leading else None
        if self.wishes.delete_all:
            return View(me, profile=profile, synced=True, problems=tuple(self.problems()))
        if not self._heard or (self._allowed_by_flannel() and self.spans is None):
            return None
        judged, synced, now = self._judge(), not self._silent(), self.tables.now()
        if synced and self._synced_at is None:
            self._synced_at = now
        sparing = self._synced_at is None or now < self._synced_at + self.wishes.grace
        terms = Terms(self.wishes.aggregate, self.wishes.max_delete, synced, sparing and self.wishes.grace > 0)
        asked, past = judged.asked.destinations, self._decision.past
        self._decision = decide(asked, self._tables(contents), terms, past, now)
        return View(
            me=me,
            nodes=judged.accepted.nodes,
            problems=tuple(self.problems()),
            profile=profile,
            synced=synced,
            table_routes=self._decision.routes,
        )

    def _judge(self) -> _Judged:
        known = tuple(self._heard[name] for name in sorted(self._heard))
        allowed = self._allowed()
        before = self._judged
        if before is not None and before.made_from[1] == allowed and _same(before.made_from[0], known):
            return before
        hosts = gather((node for one in known for node in one.items), before.hosts if before is not None else None)
        policy = Policy(nobody(self.name), ANY, allowed, (), ())
        accepted = accept(hosts.nodes, policy, before.accepted if before is not None else None)
        asked = destinations(accepted.nodes, hosts, before.asked if before is not None else None)
        self._judged = _Judged((known, allowed), hosts, accepted, asked)
        return self._judged

    @property
    def allowed(self) -> tuple[IPNetwork, ...]:
        """What may be routed. (): that isn't known yet; or it is everything, for who deletes all."""
        if self.wishes.delete_all:
            return self.wishes.allowed
        return () if self._allowed_by_flannel() and self.spans is None else self._allowed()

    def _allowed(self) -> tuple[IPNetwork, ...]:
        """Where leases alone are routed, private networks at large are only for want of flannel's."""
        if self.wishes.allowed:
            return self.wishes.allowed
        spans = self.spans or ()
        return spans if spans and self.wishes.sources == (FLANNEL,) else (*spans, *PRIVATE)

    def _allowed_by_flannel(self) -> bool:
        return FLANNEL in self.wishes.sources and not self.wishes.allowed

    def _tables(self, contents: Contents) -> list[Table]:
        held: dict[str, dict[IPNetwork, CloudRoute]] = {name: {} for name in self.tables.names()}
        foreign: dict[str, set[IPNetwork]] = {name: set() for name in held}
        for route in contents.routes.values():
            held.setdefault(route.table, {})[route.dst] = route
        for key in contents.foreign:
            table, dst = _place(key)
            foreign.setdefault(table, set()).add(dst)
        room = self.tables.room()
        return [Table(name, held[name], foreign.get(name, frozenset()), room.get(name)) for name in held]

    def problems(self) -> Iterator[Problem]:
        """Everything that a person should know. Of tables, who leads knows."""
        yield from self.broken.values()
        for known in self._heard.values():
            yield from known.problems
        if self._judged is not None and not self.wishes.delete_all:
            yield from self._judged.hosts.problems
            yield from self._judged.accepted.problems
        contents = self.tables.contents() or self.tables.last()
        if contents is not None:
            yield from contents.problems
        if self.writes:
            yield Problem(ELECTION, f"standing by: {self.writes} writes", wrong=False)
        yield from self._decision.problems

    def waiting(self) -> list[str]:
        """What has not spoken or vouched for its set yet, or was not read: nothing is removed until then."""
        waiting = [] if self.wishes.delete_all else self._silent()
        if not self.leading():
            return [*waiting, ELECTION]
        return waiting if self.tables.contents() is not None else [*waiting, TABLES]

    def _silent(self) -> list[str]:
        silent = [name for name in self.wishes.sources if name not in self._heard or not self._heard[name].complete]
        return silent if self.spans is not None or not self._allowed_by_flannel() else [*silent, "config"]


def _same(one: tuple[Known[Node], ...], other: tuple[Known[Node], ...]) -> bool:
    return len(one) == len(other) and all(a.items is b.items for a, b in zip(one, other, strict=True))


def _place(key: Key) -> tuple[str, IPNetwork]:
    """What `objects.cloud.cloud_key` was made of."""
    _, table, address, length = cast("tuple[str, str, bytes, int]", key)
    return table, ip_network((address, length))
