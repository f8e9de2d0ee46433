"""The loop's body: plan, read, diff, apply, account. Every daemon runs it; it knows no source or target by name.

One cycle is `read`, then `mend`, and between them the caller makes the View, which may depend on what was read (which
chains a firewall has). It is level-triggered: it compares the whole plan with what the targets hold. Where the targets
can tell what was touched since the last cycle, only those keys and the keys of changed parts of the plan are compared:
it comes to the same, and takes microseconds instead of a second among ten thousand peers.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import TypeVar

from weft.agent.status import Report, Status, next_status
from weft.core.commands import text
from weft.core.diff import Changes, Facts, Leave, diff
from weft.core.plan import Plan, plan
from weft.errors import TargetError
from weft.model import View
from weft.objects import Failure, Key, Object, Op
from weft.targets import Reading, Target

log = logging.getLogger("weft")

EVENTS_KEPT = 500
URGENCY = {"change": 0, "add": 1, "remove": 2}
REMOVALS = 5
"""Of what a target takes in a cycle, one part in so many may be removals: what is wanted again is spared the sooner."""
LEFT = Failure("it waits for its turn")

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Event:
    """One op that was carried out or refused: for `weft show events`. `at`: seconds since 1970. In words, for objects
    may be large: a discovery.json that is written every few seconds would be kept hundreds of times."""

    at: float
    action: str
    what: str
    why: str
    failure: str


@dataclass(slots=True)
class Clock:
    """`now` never jumps and times retries; `wall` is what people read. Tests bring their own."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


@dataclass(slots=True)
class Account:
    """What the loop knows about its own work. `statuses` holds what is not done."""

    statuses: dict[Key, Status] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    cycles: int = 0
    last: Report = field(default_factory=Report)


@dataclass(frozen=True, slots=True)
class Moments:
    """How far the last cycle was when, by the loop's clock: begun, all targets read, planned, carried out."""

    began: float = 0.0
    read: float = 0.0
    planned: float = 0.0
    applied: float = 0.0


class Reconciler:
    """Keeps `targets` as the View demands. Single-threaded: one cycle at a time."""

    def __init__(self, targets: Sequence[Target], clock: Clock | None = None) -> None:
        self.targets = tuple(targets)
        self.clock = clock if clock is not None else Clock()
        self.account = Account()
        self.plan = Plan()
        self.moments = Moments()
        self.left: tuple[Op, ...] = ()
        """Of the last cycle, what was to be done and wasn't tried: its target did not take it (`Reading.takes`)."""
        self._synced = False
        self._settled: set[Key] = set()
        self._whole = False
        self._doubtful = True
        self._dirty: set[Key] = set()
        self._waiting: set[Key] = set()
        self._repairing: set[Key] = set()
        self._readings: dict[str, Reading] = {}
        self._reads: dict[Key, Failure | None] = {}
        self._unread: set[str] = set()
        self._started = 0.0
        self._read_at = 0.0
        self._target_of = {kind: target for target in self.targets for kind in target.kinds}

    def join(self, target: Target) -> None:
        """One target more, known to be needed only now. From the next cycle on it is read and written."""
        self.targets = (*self.targets, target)
        self._target_of.update(dict.fromkeys(target.kinds, target))
        self._doubtful = True

    async def read(self, full: bool = False) -> None:
        """Read every target. Never raises for a target's failure: one that can't be read gets a Status of its own, is
        left alone in this cycle, and is read again when that is due."""
        self._started = self.clock.now()
        self._reads = {}
        for target in self.targets:
            key = ("target", target.name)
            before = self.account.statuses.get(key)
            if before is not None and before.retry_at > self._started:
                continue
            try:
                reading = await target.read(full)
            except TargetError as error:
                self._reads[key] = Failure(f"it can't be read: {error}")
                self._unread.add(target.name)
                self._waiting.discard(key)
                continue
            self._reads[key] = None
            self._unread.discard(target.name)
            self._waiting.add(key)  # for a plan: then its Status goes
            if reading.resting:
                self._shelve(target, reading.resting)
            self._readings[target.name] = reading
            if reading.touched is None or full:
                self._doubtful = True
            else:
                self._dirty |= reading.touched
                self._now_due(reading.touched)
        self._read_at = self.clock.now()

    async def mend(self, view: View) -> Report:
        """After `read`: make the targets what `view` demands, as far as that works now."""
        before = self.plan
        self._adopt(plan(view, before), view.synced)
        as_before = _AsBefore(before, frozenset(self.account.statuses), frozenset(self._waiting))
        changes = self._changes(view.synced)
        self._doubtful = bool(self._unread)
        possible = [op for op in changes.ops if self._target_of[type(op.object)].name not in self._unread]
        self._waiting = {op.object.key for op in (*changes.ops, *changes.held)} - {op.object.key for op in possible}
        planned_at = self.clock.now()
        answers = await self._apply(self._take([op for op in possible if self._due(op)]))
        self.moments = Moments(self._started, self._read_at, planned_at, self.clock.now())
        self._settle(changes, answers, view.synced)
        repaired = self._repaired(answers, as_before) if self.account.cycles else ()
        report = replace(self._account(changes, dict(self._reads), answers), repaired=repaired)
        self._put_off()
        self.account.cycles += 1
        self.account.last = report
        return report

    def preview(self, view: View) -> Changes:
        """After `read(full=True)`: what `mend` would do. Nothing is changed."""
        new = plan(view, self.plan)
        return diff(new.wanted, _facts(self._readings.values()), Leave(view.synced, self._settled))

    def lines(self, ops: Sequence[Op]) -> list[str]:
        """The shell lines that would carry out `ops`, as each one's target says it."""
        runs = groupby(ops, key=lambda op: self._target_of[type(op.object)])
        return [line for target, run in runs for line in target.lines(list(run))]

    def name(self, key: Key) -> str:
        """An object's key in a person's words."""
        want = self.plan.wanted.get(key)
        thing = want.object if want is not None else self._held(key)
        return text(thing) if thing is not None else " ".join(str(part) for part in key)

    def actual(self) -> Iterator[Object]:
        """Every object of ours that the targets held at the last reading."""
        for reading in self._readings.values():
            yield from reading.objects.values()

    def next_retry(self) -> float | None:
        """When (on the loop's clock) the next failed object is due, or None. What waits for something else than time (a
        target that can't be read, a source that hasn't spoken) is not."""
        statuses = self.account.statuses.items()
        return min((status.retry_at for key, status in statuses if key not in self._waiting), default=None)

    def _adopt(self, new: Plan, synced: bool) -> None:
        for key in new.moved:
            status = self.account.statuses.get(key)
            if status is not None and self.plan.wanted.get(key) != new.wanted.get(key):
                self.account.statuses[key] = Status("pending", status.since, message=status.message)
        self._dirty |= new.moved
        if synced and not self._synced:
            self._doubtful = True
        self._synced = synced
        self.plan = new

    def _changes(self, synced: bool) -> Changes:
        now = self.clock.now()
        only: Iterable[Key] | None = None
        if not self._doubtful:
            due = (key for key, status in self.account.statuses.items() if status.retry_at <= now)
            only = self._dirty.union(due)
        self._dirty = set()
        self._whole = only is None
        facts = _facts(self._readings.values(), copied=self._whole)
        wanted = self.plan.wanted.flat() if self._whole else self.plan.wanted
        return diff(wanted, facts, Leave(synced, self._settled), only)

    def _due(self, op: Op) -> bool:
        status = self.account.statuses.get(op.object.key)
        return status is None or status.retry_at <= self.clock.now()

    def _settle(self, changes: Changes, answers: list[tuple[Op, Failure | None]], synced: bool) -> None:
        """Remember what this run has brought about or found right: only that may be changed or removed at will before
        every source has spoken. The rest is an earlier run's, which may have known better."""
        if synced:
            self._settled.clear()
            return
        if self._whole:
            open_ = {op.object.key for op in (*changes.ops, *changes.held)}
            self._settled.update(key for key in self.plan.wanted if key not in open_ and key not in changes.conflicts)
        self._settled.update(op.object.key for op, failure in answers if failure is None)

    def _take(self, due: list[Op]) -> list[Op]:
        """What the targets want of it in this cycle, changes before additions before removals; the rest is `left`. What
        failed comes behind that, in the order in which it became due: a thousand that fail for ever let others by."""
        taken = set(range(len(due)))
        takes = {name: reading.takes for name, reading in self._readings.items() if reading.takes is not None}
        room = {name: [number, min(number, max(number // REMOVALS, 1))] for name, number in takes.items()}
        for number in sorted(taken, key=lambda n: self._turn(due[n])) if room else ():
            places = room.get(self._target_of[type(due[number].object)].name)
            if places is None:
                continue
            if not places[0] or (due[number].action == "remove" and not places[1]):
                taken.remove(number)
                continue
            places[0] -= 1
            places[1] -= due[number].action == "remove"
        self.left = tuple(op for number, op in enumerate(due) if number not in taken)
        self._waiting |= {op.object.key for op in self.left if self._idle(op)}
        return [op for number, op in enumerate(due) if number in taken]

    def _turn(self, op: Op) -> tuple[float, int]:
        """A change that failed once is as urgent as before: packets go where they shouldn't."""
        status = self.account.statuses.get(op.object.key)
        failed = status is not None and (status.told or op.action != "change")
        return status.retry_at if status is not None and failed else 0.0, URGENCY[op.action]

    def _idle(self, op: Op) -> bool:
        return self._readings[self._target_of[type(op.object)].name].takes == 0

    def _put_off(self) -> None:
        """What is left is due in the next cycle."""
        for op in self.left:
            why = self._readings[self._target_of[type(op.object)].name].resting or LEFT.message
            self.account.statuses.setdefault(op.object.key, Status("pending", self.clock.wall(), message=why))

    def _shelve(self, target: Target, why: str) -> None:
        """It rests: nobody tries again what failed there, and what waited for its turn has none."""
        self.account.statuses.pop(("target", target.name), None)
        statuses = self.account.statuses.items()
        for key in [key for key, status in statuses if status.state != "pending" or status.message != why]:
            want = self.plan.wanted.get(key)
            thing = want.object if want is not None else self._held(key)
            if isinstance(thing, target.kinds):
                del self.account.statuses[key]

    async def _apply(self, ops: list[Op]) -> list[tuple[Op, Failure | None]]:
        answers: list[tuple[Op, Failure | None]] = []
        for target, run in groupby(ops, key=lambda op: self._target_of[type(op.object)]):
            batch = list(run)
            try:
                answers.extend(zip(batch, await target.apply(batch), strict=True))
            except TargetError as error:
                answers.extend((op, Failure(str(error))) for op in batch)
                self._doubtful = True
            except Exception as error:  # a fault of weft's own must not take the rest of the network with it
                log.exception("%s: a fault in weft itself; please report it", target.name)
                answers.extend((op, Failure(f"a fault in weft itself: {error!r}")) for op in batch)
                self._doubtful = True
            except BaseException:  # cut off: nobody accounts for what was done
                self._doubtful = True
                raise
        return answers

    def _repaired(self, answers: list[tuple[Op, Failure | None]], before: _AsBefore) -> tuple[Op, ...]:
        """What was put right that had been right, by the plan as it was; also if that took several attempts."""
        repaired: list[Op] = []
        outcomes = [*answers, *((op, LEFT) for op in self.left)]
        for op, failure in outcomes:
            key = op.object.key
            known = key in self._repairing if key in before.statuses else key not in before.waiting
            was_right = known and before.plan.wanted.get(key) == self.plan.wanted.get(key)
            if was_right and failure is None:
                repaired.append(op)
            if was_right and failure is not None:
                self._repairing.add(key)
            else:
                self._repairing.discard(key)
        self._repairing &= before.statuses | {op.object.key for op, _ in outcomes}
        return tuple(repaired)

    def _account(
        self,
        changes: Changes,
        tried: dict[Key, Failure | None],
        answers: list[tuple[Op, Failure | None]],
    ) -> Report:
        wall, now = self.clock.wall(), self.clock.now()
        newly: dict[Key, str] = {}
        recovered: list[Key] = []
        tried.update((op.object.key, failure) for op, failure in answers)
        tried.update((key, Failure(f"left alone: {who}", conflict=True)) for key, who in changes.conflicts.items())
        for key, failure in tried.items():
            before = self.account.statuses.get(key)
            after = next_status(before, failure, wall, now)
            if failure is None:
                if before is not None and before.told:
                    recovered.append(key)
                self.account.statuses.pop(key, None)
                continue
            self.account.statuses[key] = after
            if after.told and (before is None or not before.told or before.message != after.message):
                newly[key] = failure.message
        self._forget(changes, tried.keys())
        self._now_due(self._on({op.object.key for op, failure in answers if failure is None and op.action != "remove"}))
        self.account.events.extend(_event(wall, op, failure) for op, failure in answers[-EVENTS_KEPT:])
        done = tuple(op for op, failure in answers if failure is None)
        refused = tuple(op for op, failure in answers if failure is not None)
        return Report(done, newly, tuple(recovered), len(changes.held), now - self._started, refused=refused)

    def _on(self, done: Set[Key]) -> list[Key]:
        """What failed and stands on something that is there now."""
        wants = ((key, self.plan.wanted.get(key)) for key in self.account.statuses)
        things = ((key, want.object) for key, want in wants if want is not None)
        return [key for key, thing in things if any(need in done for need in (*thing.needs, *thing.beside))]

    def _now_due(self, keys: Iterable[Key]) -> None:
        """Something happened to these: whoever of them waits for another attempt need not."""
        for key in keys:
            status = self.account.statuses.get(key)
            if status is not None:
                self.account.statuses[key] = replace(status, retry_at=0.0)

    def _forget(self, changes: Changes, tried: Set[Key]) -> None:
        """Drop the status of an object that is right by now, or that nobody wants and nobody has."""
        asked = {op.object.key for op in changes.ops} | {op.object.key for op in changes.held}
        for key in list(self.account.statuses):
            if key[0] != "target" and key not in asked and key not in tried and self._right(key):
                del self.account.statuses[key]

    def _held(self, key: Key) -> Object | None:
        return next((r.objects[key] for r in self._readings.values() if key in r.objects), None)

    def _right(self, key: Key) -> bool:
        want, have = self.plan.wanted.get(key), self._held(key)
        return have is None if want is None else have == want.object


def _event(at: float, op: Op, failure: Failure | None) -> Event:
    return Event(at, op.action, text(op.object), str(op.why), failure.message if failure is not None else "")


@dataclass(frozen=True, slots=True)
class _AsBefore:
    """How a cycle begins: the plan until then, what was not done, and of that what waited for something."""

    plan: Plan
    statuses: frozenset[Key]
    waiting: frozenset[Key]


class _Together(Mapping[Key, V]):
    """Several dicts that share no key, as one, without copying them."""

    def __init__(self, dicts: Sequence[Mapping[Key, V]]) -> None:
        self._dicts = dicts

    def __getitem__(self, key: Key) -> V:
        for one in self._dicts:
            if key in one:
                return one[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._dicts)

    def __len__(self) -> int:
        return sum(map(len, self._dicts))


def _facts(readings: Iterable[Reading], copied: bool = True) -> Facts:
    """All targets' readings as one: no two targets share a kind of object, so no two share a key. `copied`: quick where
    all are looked at; else there at once."""
    objects, foreign = [], []
    for reading in readings:
        objects.append(reading.objects)
        foreign.append(reading.foreign)
    if len(objects) == 1:
        return Facts(objects[0], foreign[0])
    if not copied:
        return Facts(_Together(objects), _Together(foreign))
    return Facts(_united(objects), _united(foreign))


def _united(dicts: Iterable[Mapping[Key, V]]) -> dict[Key, V]:
    united: dict[Key, V] = {}
    for one in dicts:
        united.update(one)
    return united
