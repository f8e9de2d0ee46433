"""Keeps what this host says of itself in etcd, and tells what every host says: the registrar's source. Wired by
`daemons/registrar.py`; what is written is decided in `core/registering.py`.

It is one loop: a new set from one of the two watches, a word of the daemon's, or a date that came, and everything is
looked at anew. Nothing is believed to be written before the watch has shown it. This host's registrations hang on one
etcd lease (`stores/leasehold.py`), which lives on while a watch is begun anew: they go when the daemon is gone, not
before. Its entries below flannel's prefix hang on another one, and end with its flannel lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from weft.agent.leasehold import Companion
from weft.agent.marker import Owner, owner_here
from weft.core import registering
from weft.core.registering import Decision, Moment, Write
from weft.core.registry import SUBJECT, Announcement, Found, Prefixes, Reader, Registry, Row, config_of
from weft.errors import StoreError, WeftError, WireError
from weft.model import Problem
from weft.settings.flanneld import clean
from weft.stores import Delete, Guard, Put, Snapshot, Store
from weft.stores.leasehold import Leasehold
from weft.wire.flannel_config import parse_config
from weft.wire.registrar import Note, NoteKey

LEAST_TTL = 60
FIRST_RETRY = 0.2
LAST_RETRY = 10.0
PATIENCE = 10.0
"""Seconds for which a watch may owe what was written: then what it told last counts. Guards keep that harmless."""
BURST = 20.0
PACE = 2.0
"""Writes at once, and per second from then on: whoever else writes the same keys is not to be outrun."""
REST, LONGEST_REST = 10.0, 0.25
"""Sets that come in bursts are read when so many times the last reading's time has passed; and seconds, at most."""
AT_ONCE = 100
"""Changes in one transaction: etcd takes 128."""
BEATS = 6
"""Moments in an interval at which heartbeats are written, by the wall clock: hosts that beat together wake all others
once, not once each."""
WITHDRAWALS = 5
SHORTEST = 0.001
NEVER = float("inf")
Located: TypeAlias = tuple[tuple[Row, Found], ...]


@dataclass(frozen=True, slots=True)
class RegistrationOptions:
    """`interval`: seconds between heartbeats. `me`: this run of this daemon."""

    prefixes: Prefixes = field(default_factory=Prefixes)
    interval: float = 60.0
    me: Owner = field(default_factory=owner_here)

    @property
    def ttl(self) -> int:
        """Seconds that this host's keys outlive it."""
        return max(int(3 * self.interval), LEAST_TTL)


@dataclass(slots=True)
class _Side:
    """One watched prefix. `read`: the revision of what is decided on. `owed`: the one that the watch must show before
    anything more is decided, or `until` when."""

    prefix: str
    snapshot: Snapshot | None = None
    read: int = 0
    owed: int = 0
    until: float = 0.0
    highest: int = 0

    def is_current(self, now: float) -> bool:
        return self.snapshot is not None and (self.snapshot.revision >= self.owed or now >= self.until)


@dataclass(slots=True)
class _Duty:
    """One thing to look after, which fails and is tried again for itself. `budget`: writes that it has left."""

    work: Callable[[], Awaitable[None]]
    side: _Side
    what: str
    retry: float = 0.0
    not_before: float = 0.0
    trouble: Problem | None = None
    said: tuple[Problem, ...] = ()
    budget: float = BURST
    counted: float = 0.0

    def may_write(self, now: float) -> bool:
        """Takes one from the budget; if there is none left, `not_before` is when there will be."""
        self.budget = min(BURST, self.budget + (now - self.counted) * PACE)
        self.counted = now
        if self.budget < 1:
            self.not_before = now + (1 - self.budget) / PACE
            return False
        self.budget -= 1
        return True


class Registration:
    """`wall`: seconds since 1970."""

    def __init__(self, store: Store, options: RegistrationOptions, wall: Callable[[], float] = time.time) -> None:
        prefixes = Prefixes(clean(options.prefixes.config), clean(options.prefixes.flannel))
        self._store = store
        self._options = options
        self._wall = wall
        self._prefixes = prefixes
        self._woken = asyncio.Event()
        self._lease = Leasehold(store, options.ttl)
        self._companion = Companion(store, options.interval)
        self._reader = Reader(prefixes)
        self._own = _Side(f"{prefixes.config}/")
        self._flannel = _Side(f"{prefixes.flannel}/")
        self._registering = _Duty(self._register, self._own, "this host can't be registered")
        self._adding = _Duty(self._add_entries, self._flannel, "its entries below flannel's prefix can't be written")
        self._duties = (
            self._cleaner(self._own, self._reader.registrations),
            self._cleaner(self._flannel, self._reader.leases),
            self._registering,
            self._adding,
        )
        self._announcement: Announcement | None = None
        self._rival = False
        self._removed: dict[Problem, float] = {}
        self._next_beat = 0.0
        self._seen = False
        self._forgetful_until = 0.0
        self._rested_at = 0.0
        self._done: tuple[Registry, Announcement | None] | None = None

    def tell(self, announcement: Announcement) -> None:
        """This is what this host is to have in etcd. Any time, any number of times."""
        told = registering.complete(announcement, self._options.me.host, self._options.me.instance)
        if told != self._announcement:
            self._announcement = told
            self._woken.set()

    def last_seen(self) -> Mapping[str, int]:
        """Host → when it last said that it is there, seconds since 1970."""
        return self._reader.last_seen()

    async def registries(self) -> AsyncGenerator[Registry, None]:
        """Full sets, each time something but a heartbeat changes. Raises StoreError when the store can't be asked any
        more; called again, it goes on with what is true by then. What was written is kept alive meanwhile."""
        sides = (self._own, self._flannel)
        for side in sides:
            side.snapshot, side.owed = None, 0
        watches = [asyncio.ensure_future(self._follow(side)) for side in sides]
        for watch in watches:
            watch.add_done_callback(lambda _: self._woken.set())
        said: Registry | None = None
        try:
            while not any(watch.done() for watch in watches):
                if all(side.snapshot is not None for side in sides):
                    if (now := self._read_in_time()) != said:
                        said = now
                        yield now
                    if not self._is_done(now):
                        await self._act()
                        if self._read() != said:
                            continue
                await self._something()
            for watch in watches:
                if watch.done():
                    watch.result()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def close(self) -> None:
        """End without a word: the keys stay for as long as their lease lives, so that a restart finds them."""
        await self._lease.close()

    async def withdraw(self) -> None:
        """Take this host's keys away, those of an earlier run too. Raises StoreError, and WeftError if the store
        changes so fast that nothing can be taken from it."""
        host = self._announcement.host if self._announcement is not None else ""
        lost = 0
        while lost < WITHDRAWALS:
            for side in (self._own, self._flannel):
                side.snapshot = await self._store.range(side.prefix)
            self._read()
            note, _ = self._note(host)
            if self._seen and note is not None and note.instance != self._options.me.instance:
                return await self.close()  # a second run on this machine goes on with the lease
            if note is not None and note.machine != self._options.me.host:
                return await self.close()  # another machine has this name
            if not self._lease.id:
                await self._adopt(host)
            self._announcement = None
            rows, hold = self._reader.leases(), self._companion
            hold.adopt(hold.id or registering.added(host, rows))
            gone = registering.entries(Announcement(host), rows, self._prefixes, hold.id)
            if not gone.writes:
                await hold.revoke()
                return await self._lease.revoke()
            lost += not await self._commit(self._flannel, gone.writes)
        raise WeftError(f"the keys below {self._flannel.prefix} change too fast to be taken away: try again")

    async def _follow(self, side: _Side) -> None:
        async with contextlib.aclosing(self._store.watch(side.prefix)) as sets:
            async for snapshot in sets:
                if snapshot.revision < side.highest:
                    self._forgetful_until, side.owed = _now() + self._options.ttl, 0
                side.highest, side.snapshot = snapshot.revision, snapshot
                self._woken.set()

    async def _something(self) -> None:
        """Wait for a new set, a new announcement, or the next date; in a burst of sets, a while longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._until_next()):
                await self._woken.wait()
                await asyncio.sleep(self._rested_at - _now())
        self._woken.clear()

    def _until_next(self) -> float | None:
        now = _now()
        dates = [self._forgetful_until, *self._removed.values(), *(duty.not_before for duty in self._duties)]
        dates.extend(side.until for side in (self._own, self._flannel) if not side.is_current(now))
        dates = [date for date in dates if date > now]
        if self._announcement is not None and self._registering.not_before <= now and self._own.is_current(now):
            dates.append(self._next_beat)
        soonest = min(dates, default=NEVER)
        return max(soonest - now, SHORTEST) if soonest != NEVER else None

    def _read_in_time(self) -> Registry:
        began = _now()
        registry = self._read()
        ended = _now()
        self._rested_at = ended + min(REST * (ended - began), LONGEST_REST)
        return registry

    def _is_done(self, registry: Registry) -> bool:
        """Whether there was nothing to do when all was as it is now: most sets tell nothing but others' heartbeats."""
        done = self._done is not None and self._done[0] is registry and self._done[1] is self._announcement
        return done and _now() < self._next_beat

    def _read(self) -> Registry:
        """Everything that the last sets say, and what there is to say of it."""
        assert self._own.snapshot is not None
        assert self._flannel.snapshot is not None
        now = _now()
        self._own.read, self._flannel.read = self._own.snapshot.revision, self._flannel.snapshot.revision
        own, flannel = self._own.snapshot.entries.rows, self._flannel.snapshot.entries.rows
        registry = self._reader.read(own, flannel, now >= self._forgetful_until)
        self._removed = {problem: until for problem, until in self._removed.items() if until > now}
        said = [problem for duty in self._duties for problem in (*duty.said, duty.trouble) if problem is not None]
        if not said and not self._removed:
            return registry
        return replace(registry, problems=(*registry.problems, *said, *self._removed))

    async def _act(self) -> None:
        """Do what is due. What the store refuses is a problem that is told, and tried again."""
        announcement, owed, done = self._announcement, (self._own.owed, self._flannel.owed), True
        for duty in self._duties:
            now = _now()
            if now < duty.not_before or not duty.side.is_current(now):
                done = False
                continue
            self._read()
            try:
                await duty.work()
            except StoreError as error:
                done = False
                duty.retry = min(duty.retry * 2, LAST_RETRY) if duty.retry else FIRST_RETRY
                duty.not_before = _now() + duty.retry
                duty.trouble = Problem(SUBJECT, f"{duty.what}: {error}; it is tried again")
            else:
                duty.retry, duty.trouble = 0.0, None
        done = done and owed == (self._own.owed, self._flannel.owed)
        self._done = (self._read(), announcement) if done else None

    async def _register(self) -> None:
        """The note, the heartbeat and the networks."""
        announcement, duty = self._announcement, self._registering
        if announcement is None:
            return
        self._seen = self._seen or self._is_ours(announcement.host)
        beat = _now() >= self._next_beat
        decision = self._decided(announcement, beat)
        self._rival = decision.rival
        if not decision.rival and (decision.writes or not self._lease.id):
            if not self._lease.id:
                await self._adopt(announcement.host)
            await self._lease.ensure()
            decision = self._decided(announcement, beat)
        duty.said = decision.problems
        if decision.writes and not duty.may_write(_now()):
            return
        if await self._commit(duty.side, decision.writes) and beat:
            self._next_beat = _now() + self._until_beat()

    def _until_beat(self) -> float:
        """Seconds, the interval or a little less."""
        interval = self._options.interval
        return interval - (self._wall() + interval) % (interval / BEATS)

    def _decided(self, announcement: Announcement, beat: bool) -> Decision:
        moment = Moment(self._lease.id, self._wall(), beat, self._seen)
        return registering.registrations(announcement, self._reader.registrations(), self._prefixes, moment)

    async def _add_entries(self) -> None:
        announcement, duty = self._announcement, self._adding
        if announcement is None or self._rival or not self._lease.id:
            duty.said = ()
            return
        rows, hold = self._reader.leases(), self._companion
        hold.adopt(hold.id or registering.added(announcement.host, rows))
        lease = registering.beside(announcement, rows)
        if lease is None:  # flanneld would take an entry for its own
            announcement = replace(announcement, entries=())
        elif not await hold.ensure(lease.lease):
            return
        decision = registering.entries(announcement, rows, self._prefixes, hold.id)
        duty.said = decision.problems
        if not decision.writes or not duty.may_write(_now()):
            return
        if lease is None or await hold.ensure(lease.lease, alive=True):
            await self._commit(duty.side, decision.writes)

    def _cleaner(self, side: _Side, rows: Callable[[], Located]) -> _Duty:
        duty = _Duty(lambda: self._clean(duty, rows()), side, f"a bad address below {side.prefix} can't be removed")
        return duty

    async def _clean(self, duty: _Duty, rows: Located) -> None:
        """Each on its own: of some another registrar is quicker."""
        decision = registering.nowhere(rows)
        for write, problem in zip(decision.writes, decision.problems, strict=True):
            if not duty.may_write(_now()):
                return
            self._removed[problem] = _now() + self._options.interval
            await self._commit(duty.side, (write,))

    async def _commit(self, side: _Side, writes: tuple[Write, ...]) -> bool:
        """Whether all was written. Until the watch shows that, or what was there instead, nothing is decided."""
        for start in range(0, len(writes), AT_ONCE):
            some = writes[start : start + AT_ONCE]
            guards = [Guard(write.key, write.modified) for write in some]
            hold = self._lease if side is self._own else self._companion
            revision = await self._store.commit([_change(write, hold.id) for write in some], guards)
            side.owed = revision if revision is not None else side.read + 1
            side.until = _now() + PATIENCE
            if revision is None:
                return False
        return True

    async def _adopt(self, host: str) -> None:
        """Go on with the lease of an earlier run on this machine: nothing need be written again."""
        note, row = self._note(host)
        if note is not None and row is not None and row.lease and note.machine == self._options.me.host:
            await self._lease.adopt(row.lease)

    def _is_ours(self, host: str) -> bool:
        note, _ = self._note(host)
        return note is not None and note.instance == self._options.me.instance

    def _note(self, host: str) -> tuple[Note | None, Row | None]:
        rows = ((found.note, row) for row, found in self._reader.registrations() if found.key == NoteKey(host))
        return next(rows, (None, None))


async def init_config(store: Store, prefix: str, text: str) -> str:
    """Write flannel's network config if there is none; a sentence on what came of it. WireError if flannel could not
    read it, WeftError if there is another one, StoreError if the store can't be asked: then nothing is known of what is
    there, and nothing is written."""
    config, key = parse_config(text), config_of(Prefixes(flannel=clean(prefix)))
    if await store.commit([Put(key, text.encode())], [Guard(key)]) is not None:
        return f"written: {key}"
    there = await store.get(key)
    with contextlib.suppress(WireError):
        if there is not None and parse_config(there.value) == config:
            return f"{key} says that already; nothing was written"
    raise WeftError(
        f"{key} holds another config, by which the hosts' subnets were given out: nothing was written."
        " `weft flannel-config show` prints it, and `set` replaces it and says which leases would not fit"
    )


def _change(write: Write, lease: int) -> Put | Delete:
    if write.value is None:
        return Delete(write.key)
    return Put(write.key, write.value, lease if write.lease is None else write.lease)


def _now() -> float:
    return asyncio.get_running_loop().time()
