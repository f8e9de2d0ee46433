"""The Target that any `RouteTables` is for the loop. Made by `daemons/route_manager.py`, read and written by the loop.

A cloud tells nobody when a route changes, and counts calls. So the target holds a mirror of the last reading that its
own successes keep up, and reads anew only now and then. It speaks with the provider only while this manager leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TypeVar

from weft.errors import TargetError
from weft.model import IPNetwork, Problem
from weft.objects import Failure, Key, Object, Op
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets import Reading
from weft.targets.cloud import Contents, RouteTables
from weft.targets.cloud.pace import NOT_LEADING, always, fenced
from weft.targets.cloud.refusals import Refusals

V = TypeVar("V")

TAKES = 50
SPAN = 5.0
"""Seconds' worth of calls that one cycle takes at first."""
LONGEST = 8
"""So many times as many it may come to take, where a provider takes long over each change."""
NAMED = 5
"""How many routes or networks a sentence names."""
DRY = "dry run: nothing is written"
SOON = 1.0
"""Seconds, for each call that a reading takes, between two readings while something is in doubt."""
FENCE = 0.1
"""Seconds after which a batch that is under way notices that this manager leads no longer."""


@dataclass(frozen=True, slots=True)
class CloudOptions:
    """`sync_interval`: seconds between readings, for each call that one takes. `dry_run`: reads, and writes nothing.
    `takes`: ops that are written in one cycle; what is more waits for the next, so that what comes meanwhile doesn't
    wait for all of it. `per_second`: calls that the provider allows. `lead`: whether this manager may speak with the
    provider now; asked before and during each batch, so it must answer at once. Whoever changes its answer wakes the
    loop. `inside`: the networks that this manager may route, () for all; a route elsewhere isn't its own."""

    sync_interval: float = 30.0
    dry_run: bool = False
    takes: int = TAKES
    lead: Callable[[], bool] = always
    per_second: float = 10.0
    inside: Callable[[], tuple[IPNetwork, ...]] = tuple

    @classmethod
    def of(
        cls, settings: RouteManagerSettings, lead: Callable[[], bool], inside: Callable[[], tuple[IPNetwork, ...]]
    ) -> CloudOptions:
        """As the flags say."""
        rate = settings.requests_per_second
        return cls(settings.sync_interval, settings.dry_run, max(round(SPAN * rate), TAKES // 5), lead, rate, inside)


class CloudTarget:
    """`tables` as a Target. Times are the event loop's."""

    def __init__(self, tables: RouteTables, options: CloudOptions | None = None) -> None:
        self.tables = tables
        self.options = options if options is not None else CloudOptions()
        self.readings = 0
        """How many real ones were tried."""
        self._takes = self.options.takes
        self._routes: dict[Key, CloudRoute] = {}
        self._aside: dict[Key, CloudRoute] = {}
        self._inside: tuple[IPNetwork, ...] = ()
        self._found = Contents({})
        self._contents: Contents | None = None
        self._last: Contents | None = None
        self._refusals = Refusals()
        self._asked_at: float | None = None
        self._cost = 1
        self._doubtful = False
        self._led = False
        self._broken: str | None = None
        self._wake: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.tables.name

    @property
    def kinds(self) -> tuple[type[Object], ...]:
        return (CloudRoute,)

    @property
    def contents(self) -> Contents | None:
        """What the tables hold, as far as this manager knows; `routes` is live: its own successes are in it. None: it
        doesn't lead, or has not read them since it does."""
        return self._contents

    @property
    def last(self) -> Contents | None:
        """What they held when this manager was last one that knew: for people. None: it never was."""
        return self._contents or self._last

    async def read(self, full: bool = False) -> Reading:
        """The mirror; a real reading if one is due, or if something is in doubt. `full` alone is no reason for one:
        calls are counted. Raises TargetError: the tables can't be read. While this manager doesn't lead, and in a dry
        run, it takes no ops."""
        if not self.options.lead():
            return self._rest()
        if not self._led:
            self._led, self._asked_at, self._broken = True, None, None
        now = asyncio.get_running_loop().time()
        touched: frozenset[Key] | None = frozenset()
        if now >= self._due_at():
            touched = await self._read(now)
        elif self._broken is not None:
            raise TargetError(self._broken)
        if self.options.inside() != self._inside:
            aside = self._aside.keys()
            self._sort()
            touched = touched | (aside ^ self._aside.keys()) if touched is not None else None
        self._start_timer()
        return self._mirror(touched)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        """Carry out ops; the mirror follows what the provider said is done. Whatever else comes of it (failures, a
        batch cut off because it was cancelled or because this manager leads no longer) is in doubt until the next
        reading, which is a real one and comes soon."""
        if self.options.dry_run:
            return [Failure(DRY)] * len(ops)
        if not (self._led and self.options.lead()):
            return [Failure(NOT_LEADING)] * len(ops)
        now = asyncio.get_running_loop().time()
        self._refusals.forget(now)
        known = [self._refusals.answer(op, now) for op in ops]
        answers = iter(await self._tried([op for op, answer in zip(ops, known, strict=True) if answer is None]))
        return [next(answers) if answer is None else answer for answer in known]

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return self.tables.lines(ops)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when a real reading is due."""
        self._wake = wake

    def close(self) -> None:
        """Wake nobody any more. `tables` are their owner's to close."""
        self._wake = None
        self._stop_timer()

    async def _read(self, now: float) -> frozenset[Key] | None:
        """A real reading. The keys that are not as the mirror had them; None: there was none."""
        self._asked_at = now
        self._doubtful = True
        self.readings += 1
        try:
            with fenced(self.options.lead):
                found = await self.tables.read()
        except TargetError as error:
            self._broken = str(error)
            raise
        self._broken = None
        self._doubtful = False
        self._cost = max(found.calls, 1)
        before, known = self._contents, dict(self._routes)
        self._routes.clear()
        self._routes.update(found.routes)
        self._aside.clear()
        self._found = found
        now_held = self._sort()
        if before is None:
            return None
        return frozenset(_differing(known, self._routes) | _differing(before.foreign, now_held.foreign))

    def _sort(self) -> Contents:
        """What bears our mark and leads outside of the networks that this manager may route was made by another one
        with the same prefix, or by this one when it had others: it stays as it is."""
        self._inside = self.options.inside()
        everything = {**self._routes, **self._aside}
        spans = _joined(self._inside)
        self._aside = {key: route for key, route in everything.items() if spans and not _lies_in(route.dst, spans)}
        self._routes.clear()
        self._routes.update((key, route) for key, route in everything.items() if key not in self._aside)
        who = f"a route of a manager with this -etcd-prefix, outside of {_listed(self._inside)}"
        foreign = {**self._found.foreign, **dict.fromkeys(self._aside, who)}
        problems = (*self._found.problems, *self._told_aside())
        self._contents = Contents(self._routes, foreign, problems, self._found.calls)
        return self._contents

    def _told_aside(self) -> Iterator[Problem]:
        if self._aside:
            names = [self.tables.called(route) for route in self._aside.values()]
            yield Problem(
                self.name,
                f"outside of what this manager may route ({_listed(self._inside)}), but with its mark, and left alone: "
                f"{_listed(names)}. Another cluster's manager needs an -etcd-prefix of its own; what a former network "
                "left goes if that is in -allowed, too",
                wrong=False,
            )

    def _rest(self) -> Reading:
        """Another manager leads: whatever was known here is its to change."""
        self._stop_timer()
        self._refusals.clear()
        self._last = self.last
        was_known, self._contents, self._led = self._contents is not None, None, False
        self._routes, self._aside = {}, {}
        return Reading(self._routes, {}, None if was_known else frozenset(), 0, NOT_LEADING)

    def _mirror(self, touched: frozenset[Key] | None) -> Reading:
        foreign = self._contents.foreign if self._contents is not None else {}
        takes = 0 if self.options.dry_run or self._doubtful else self._takes
        return Reading(self._routes, foreign, touched, takes, DRY if self.options.dry_run else "")

    def _note(self, op: Op) -> None:
        thing = op.object
        if op.action == "remove":
            self._routes.pop(thing.key, None)
        elif isinstance(thing, CloudRoute):
            self._routes[thing.key] = thing

    def _measure(self, count: int, seconds: float) -> None:
        """A provider that takes ten seconds over a change has them for each batch anew, so where much is left to do,
        batches are to be long beside that."""
        options = self.options
        if count < options.takes:
            self._takes = options.takes
        elif count >= self._takes:
            waited = seconds - count / options.per_second
            self._takes = min(max(round(2 * waited * options.per_second), options.takes), LONGEST * options.takes)

    async def _tried(self, ops: Sequence[Op]) -> list[Failure | None]:
        if not ops:
            return []
        self._doubtful = True
        began = asyncio.get_running_loop().time()
        answers = await self._fenced(ops)
        ended = asyncio.get_running_loop().time()
        self._measure(len(ops), ended - began)
        if len(answers) != len(ops):
            raise TargetError(f"{self.name} gave {len(answers)} answers to {len(ops)} changes; please report it")
        self._doubtful = any(answers)
        for op, failure in zip(ops, answers, strict=True):
            self._refusals.note(op, failure, ended)
            if failure is None:
                self._note(op)
        self._start_timer()
        return answers

    async def _fenced(self, ops: Sequence[Op]) -> list[Failure | None]:
        """The batch; it is cut off once this manager leads no longer."""
        with fenced(self.options.lead):
            work = asyncio.ensure_future(self.tables.apply(ops))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=FENCE)
                if not work.done() and not self.options.lead():
                    break
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        return [Failure(NOT_LEADING)] * len(ops) if work.cancelled() else work.result()

    def _due_at(self) -> float:
        """When the next real reading is."""
        if self._asked_at is None:
            return 0.0
        return self._asked_at + self._cost * (SOON if self._doubtful else self.options.sync_interval)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_at(self._due_at(), self._call_wake)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call_wake(self) -> None:
        self._timer = None
        if self._wake is not None:
            self._wake()


def _joined(spans: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Adjacent ones as one: an aggregate may lie across them."""
    spans = tuple(spans)
    four = collapse_addresses(one for one in spans if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in spans if isinstance(one, IPv6Network))
    return [*four, *six]


def _lies_in(dst: IPNetwork, spans: Iterable[IPNetwork]) -> bool:
    return any(
        dst.version == one.version and dst.prefixlen >= one.prefixlen and dst.network_address in one for one in spans
    )


def _listed(things: Sequence[object]) -> str:
    more = len(things) - NAMED
    return ", ".join(map(str, things[:NAMED])) + (f" and {more} more" if more > 0 else "")


def _differing(before: Mapping[Key, V], after: Mapping[Key, V]) -> set[Key]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
