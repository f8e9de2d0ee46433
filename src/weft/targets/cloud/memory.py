"""A cloud in memory: `-backend=memory`, and what loop tests run on. It passes the contract suite of all route tables
(`tests/contract/test_route_tables.py`), has faults to switch on, and remembers every state that a destination was in.

It is as awkward as Google's: a call takes time, a route can't be changed, so a change is an insertion and a deletion,
and after a failure between them a destination has two routes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from weft.core.cloud_names import other_name, route_name
from weft.errors import ProviderBusy, TargetError
from weft.model import IPAddress, IPNetwork
from weft.objects import Failure, Key, Op
from weft.objects.cloud import CloudRoute, cloud_key
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import Contents, Room
from weft.targets.cloud.pace import Pace, each

T = TypeVar("T")

Fault = Literal["refused", "lost", "busy"]
"""What becomes of a call: it is refused; it is done and the answer is lost; the provider is busy and asks for later."""
TWICE = "it is there twice"
UNPACED = 1e6
HISTORY_KEPT = 200_000


class _Refused(Exception):
    """The cloud's answer to a call that it won't carry out."""

    def __init__(self, message: str, conflict: bool = False) -> None:
        self.failure = Failure(message, conflict)
        super().__init__(message)


class CallFaults:
    """Failures to inject, and the record that they were met. Calls are numbered from 1 over the life of the tables."""

    def __init__(self) -> None:
        self.seen = 0
        self.met: list[tuple[str, Fault]] = []
        """Which calls (`insert flannel-…`) were made to fail, and how."""
        self._numbers: dict[int, Fault] = {}
        self._next: list[Fault] = []
        self._chance: Callable[[str], Fault | None] | None = None

    def next(self, fault: Fault, count: int = 1) -> None:
        """The next `count` calls fail."""
        self._next.extend([fault] * count)

    def at(self, fault: Fault, *numbers: int) -> None:
        """The calls of these numbers fail."""
        self._numbers.update(dict.fromkeys(numbers, fault))

    def by_chance(self, chance: Callable[[str], Fault | None] | None) -> None:
        """Whether a call (`insert flannel-…`) fails, and how, is asked of `chance`; None: of nobody any more."""
        self._chance = chance

    def clear(self) -> None:
        """No more faults; the record of those that were met stays."""
        self._numbers.clear()
        self._next.clear()
        self._chance = None

    @property
    def outstanding(self) -> int:
        """How many of the failures that were asked for by number have not been met yet."""
        return len(self._next) + len(self._numbers)

    def meet(self, call: str) -> Fault | None:
        """Count a call; how it is to fail."""
        self.seen += 1
        fault = self._numbers.pop(self.seen, None)
        if fault is None and self._next:
            fault = self._next.pop(0)
        if fault is None and self._chance is not None:
            fault = self._chance(call)
        if fault is not None:
            self.met.append((call, fault))
        return fault


@dataclass(frozen=True, slots=True)
class Entry:
    """One route of the cloud's. `whose`: who made it, "" for us."""

    name: str
    dst: IPNetwork
    via: IPAddress | None
    whose: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """From `at` (the event loop's time) until its next moment, these were all routes at `key`."""

    at: float
    key: Key
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Nature:
    """`latency`: seconds that a call takes. `page`: routes that one call lists. `limit`: routes that a table takes, 0:
    any number."""

    latency: float = 0.0
    page: int = 500
    limit: int = 0


class MemoryRoutes:
    """Tables of routes in dicts."""

    def __init__(
        self, tables: Iterable[str] = ("memory",), nature: Nature | None = None, pace: Pace | None = None
    ) -> None:
        self.nature = nature if nature is not None else Nature()
        self.faults = CallFaults()
        self.history: deque[Moment] = deque(maxlen=HISTORY_KEPT)
        """Every state of every destination, oldest first."""
        self._tables: dict[str, dict[Key, tuple[Entry, ...]]] = {table: {} for table in tables}
        self._pace = pace if pace is not None else Pace(UNPACED)
        self._calls: Counter[tuple[str, str]] = Counter()

    @classmethod
    def of(cls, settings: RouteManagerSettings) -> MemoryRoutes:
        """As `-backend=memory` has it: one table, empty at the start, with the pace of the settings."""
        return cls((settings.google_network or "default",), pace=Pace(settings.requests_per_second))

    @property
    def name(self) -> str:
        return "memory"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self._tables)

    @property
    def room(self) -> Mapping[str, Room]:
        limit = self.nature.limit
        return {t: Room(f"table {t}", limit, limit - self._size(t)) for t in self._tables} if limit else {}

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        return self._calls

    async def read(self) -> Contents:
        """Raises TargetError if `faults` says so."""
        held: list[tuple[str, Key, tuple[Entry, ...]]] = []
        calls = 0
        for table in self._tables:
            for page in range(max(-(-self._size(table) // self.nature.page), 1)):
                found = await self._call("list", f"page {page + 1} of {table}", lambda table=table: self._all(table))  # type: ignore[misc]
                calls += 1
            held.extend(found)
        routes = {key: _route(table, key, entries) for table, key, entries in held if _ours(entries)}
        foreign = {key: whose for _, key, entries in held for e in entries if (whose := e.whose)}
        return Contents(routes, foreign, calls=max(calls, 1))

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        return await each(ops, self._one)

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """In the words of `gcloud`, without the options that a real one needs."""
        return [_line(op.action, route, self.called(route)) for op in ops if isinstance(route := op.object, CloudRoute)]

    def called(self, route: CloudRoute) -> str:
        return route_name(route.table, route.dst)

    async def close(self) -> None:
        """There is nothing to give up."""

    # What somebody else does.

    def put_foreign(self, table: str, dst: IPNetwork, whose: str) -> None:
        """Somebody else's route stands there from now on, in place of ours."""
        self._set(table, cloud_key(table, dst), (Entry("foreign", dst, None, whose),))

    def put(self, route: CloudRoute, *more: IPAddress) -> None:
        """Routes with our mark stand there: a former run's; with `more`, what an interrupted change left."""
        names = (self.called(route), *(other_name(route.table, route.dst, str(via)) for via in more))
        entries = (Entry(name, route.dst, via) for name, via in zip(names, (route.via, *more), strict=True))
        self._set(route.table, route.key, tuple(entries))

    def tamper_delete(self, table: str, dst: IPNetwork) -> None:
        """Somebody deletes whatever routes there are to `dst`; KeyError if there are none."""
        key = cloud_key(table, dst)
        if not self._tables[table].get(key):
            raise KeyError(key)
        self._set(table, key, ())

    def entries(self, table: str, dst: IPNetwork) -> tuple[Entry, ...]:
        """All routes to `dst` now, anybody's."""
        return self._tables[table].get(cloud_key(table, dst), ())

    # The backend.

    async def _one(self, op: Op) -> Failure | None:
        route = op.object
        if not isinstance(route, CloudRoute) or route.table not in self._tables:
            return Failure(f"{op.action} {route.key}: there is no such table; there is {', '.join(self._tables)}")
        try:
            if op.action == "remove":
                await self._delete_but(route, frozenset())
            else:
                await self._replace(route)
        except _Refused as refused:
            return refused.failure
        return None

    async def _replace(self, route: CloudRoute) -> None:
        """What leads to the wrong hop goes only once what leads to the right one is there."""
        ours = _ours(self.entries(route.table, route.dst))
        kept = next((e.name for e in ours if e.via == route.via), None)
        if kept is None:
            taken = {e.name for e in ours}
            plain = self.called(route)
            kept = plain if plain not in taken else other_name(route.table, route.dst, str(route.via))
            new = Entry(kept, route.dst, route.via)
            await self._call("insert", kept, lambda: self._insert(route.table, new))
        await self._delete_but(route, frozenset({kept}))

    async def _delete_but(self, route: CloudRoute, kept: frozenset[str]) -> None:
        for entry in _ours(self.entries(route.table, route.dst)):
            if entry.name not in kept:
                await self._call("delete", entry.name, lambda entry=entry: self._delete(route.table, entry))  # type: ignore[misc]

    async def _call(self, method: str, what: str, act: Callable[[], T]) -> T:
        async def once() -> T:
            asked = f"{method} {what}"
            fault = self.faults.meet(asked)
            await asyncio.sleep(self.nature.latency / 2)
            if fault == "refused":
                raise self._failed(method, TargetError(f"{asked}: made to fail"))
            if fault == "busy":
                raise self._failed(method, ProviderBusy(f"{asked}: made to be busy"))
            try:
                answer = act()
            except _Refused:
                self._calls[method, "refused"] += 1
                raise
            await asyncio.sleep(self.nature.latency / 2)
            if fault == "lost":
                raise self._failed(method, TargetError(f"{asked}: its answer was lost"))
            self._calls[method, "ok"] += 1
            return answer

        return await self._pace.call(once)

    def _failed(self, method: str, error: TargetError) -> TargetError:
        self._calls[method, "busy" if isinstance(error, ProviderBusy) else "error"] += 1
        return error

    # The cloud.

    def _size(self, table: str) -> int:
        return sum(map(len, self._tables[table].values()))

    def _all(self, table: str) -> list[tuple[str, Key, tuple[Entry, ...]]]:
        return [(table, key, entries) for key, entries in self._tables[table].items() if entries]

    def _insert(self, table: str, new: Entry) -> None:
        asked = f"insert {new.name}"
        there = self.entries(table, new.dst)
        for entry in there:
            if entry.whose:
                raise _Refused(f"{asked}: {entry.whose} stands there and was left alone", conflict=True)
            if entry.name == new.name and entry.via != new.via:
                raise _Refused(f"{asked}: a route of this name leads to {entry.via}")
        if new in there:
            return
        if self.nature.limit and self._size(table) >= self.nature.limit:
            raise _Refused(f"{asked}: table {table} is full, it takes {self.nature.limit} routes; raise its quota")
        self._set(table, cloud_key(table, new.dst), (*there, new))

    def _delete(self, table: str, gone: Entry) -> None:
        there = self.entries(table, gone.dst)
        if gone in there:
            self._set(table, cloud_key(table, gone.dst), tuple(entry for entry in there if entry != gone))

    def _set(self, table: str, key: Key, entries: tuple[Entry, ...]) -> None:
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:  # a test that prepares its table
            now = 0.0
        self._tables[table][key] = entries
        if not entries:
            del self._tables[table][key]
        self.history.append(Moment(now, key, entries))


def _ours(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if not entry.whose]


def _route(table: str, key: Key, entries: tuple[Entry, ...]) -> CloudRoute:
    first, *more = _ours(entries)
    return CloudRoute(table, first.dst, first.via, TWICE if more else "")


def _line(action: str, route: CloudRoute, name: str) -> str:
    if action == "remove":
        return f"memory routes delete {name}"
    return f"memory routes create {name} --network={route.table} --destination-range={route.dst} --next-hop={route.via}"
