"""Which of several managers writes: the one whose key is in etcd. Wired by `daemons/route_manager.py`.

The key hangs on an etcd lease of its holder's, and the holder believes in itself for as long as that lease must live:
by a clock that goes on while a machine sleeps, from before the renewal was sent, less a margin for what is under way to
the cloud. So of two managers the first has stopped believing before the second can begin, whatever stalls: etcd, the
network or a process. `leads()` is asked before each write; between that and the write itself there is the margin.

    there is no key                    whoever creates it first has it
    its holder marked it: resigned     whoever overwrites it first has it
    its holder is provably dead        the same: it ran here, and there is no such process any more (`contender.py`)
    it went when its lease was due     whoever creates it first has it
    it went before that                somebody deleted it, or etcd lost it: its holder may not know yet. Others wait
                                       for a lease's life, the holder writes it anew at once
    etcd was restored                  whatever it says of a key: who leads may not know yet. All wait for a lease's
                                       life, but for a leader whose key is there
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from weft.agent.contender import Contender, Leader, is_dead
from weft.agent.reconcile import Clock
from weft.errors import StoreError
from weft.stores import Entry, Guard, Put, Snapshot, Store

log = logging.getLogger("weft")

LIFE = 15
"""Seconds that the key outlives its holder."""
SHARE = 5
"""The lease is renewed, and looked at by the others, each time this part of its life is over; the margin is as much."""
RETRY = (0.2, 1.0)
"""Seconds until the next attempt after one that failed: the first, and the longest."""
FAREWELL = 3.0
SHORTEST = 0.001
NEVER = float("inf")


def boot_clock() -> Clock:
    """`now` goes on while the machine sleeps, as etcd's does."""
    return Clock(now=lambda: time.clock_gettime(time.CLOCK_BOOTTIME), wall=time.time)


@dataclass(frozen=True, slots=True)
class Standing:
    """`leads`: this manager may write. `leader`: who holds the key, None: nobody, as far as is known. `problem`: a
    sentence, "" if all is well."""

    leads: bool = False
    leader: Leader | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Term:
    """Until when this manager believes in itself, by both clocks: a machine that was paused from outside may find only
    its wall clock moved on."""

    now: float = -NEVER
    wall: float = -NEVER


@dataclass(frozen=True, slots=True)
class _Look:
    """What was left of another one's etcd lease when it was looked at: it ends at `ends`, unless it is renewed."""

    at: float = -NEVER
    ends: float = NEVER


class Election:
    """One manager's part in it, on the running event loop from the first call of `standings` until `resign` or `close`.
    `seconds`: that the key outlives its holder."""

    def __init__(self, store: Store, key: str, me: Contender, seconds: int = LIFE, clocks: Clock | None = None) -> None:
        self._store = store
        self._key = key
        self._me = me
        self._seconds = seconds
        self._pause = seconds / SHARE
        self._clock = clocks or boot_clock()
        self._entry: Entry | None = None
        self._owner: Leader | None = None
        self._heard = False
        self._highest = self._floor = 0
        self._lease = 0
        self._verified = False  # the key was seen to be ours, on `_lease`, since that was granted
        self._term = _Term()
        self._look = _Look()
        self._free_at = self._due = self._not_before = self._quiet_until = -NEVER
        self._retry = 0.0
        self._troubles: dict[str, str] = {}
        self._resigned = False
        self._wake, self._news = asyncio.Event(), asyncio.Event()
        self._told = Standing()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # What the daemon asks.

    def leads(self) -> bool:
        """Whether this manager may write now. Ask before each write."""
        return self._verified and not self._resigned and self._believes()

    @property
    def leader(self) -> Leader | None:
        """Who holds the key, as far as is known; perhaps this one, which may have stopped believing in itself."""
        return self._owner if self._owner is not None and not self._owner.resigned else None

    def standing(self) -> Standing:
        """As of now."""
        problem = "; ".join(text for _, text in sorted(self._troubles.items()) if text)
        return Standing(self.leads(), self.leader, problem or self._stuck())

    async def standings(self) -> AsyncGenerator[Standing, None]:
        """Now, and after each change. No error of the store's ends it. Ends after `resign` and `close`."""
        said: Standing | None = None
        while not self._resigned:
            self._start()
            self._news.clear()
            now = self.standing()
            if now == said:
                await self._news.wait()
                continue
            said = now
            yield now

    def stand_back(self, seconds: float) -> None:
        """Let another one try: for so long nothing is renewed, and nothing is taken. As if it had died, it leads until
        its term ends, and its key goes with the lease."""
        self._not_before = self._clock.now() + seconds

    async def resign(self) -> None:
        """Stop believing at once, and let another one lead. Call it when no write is under way any more."""
        entry, mine = self._entry, self._is_mine()
        await self.close()
        if entry is None or not mine:
            return
        value = msgspec.json.encode(msgspec.structs.replace(self._owner_here(), resigned=True))
        with contextlib.suppress(StoreError, TimeoutError):  # then the lease ends by itself
            async with asyncio.timeout(FAREWELL):
                await self._store.commit([Put(self._key, value, entry.lease)], [Guard(self._key, entry.modified)])

    async def close(self) -> None:
        """End without a word: the key stays for as long as its lease lives."""
        self._resigned = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._tell()

    # The loops.

    def _start(self) -> None:
        for name, work in (("election watch", self._listen), ("election", self._keep)):
            if name not in self._tasks or self._tasks[name].done():
                self._tasks[name] = asyncio.get_running_loop().create_task(self._for_ever(name, work()), name=name)

    async def _for_ever(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # a fault of weft's own must not leave it without a leader for ever
            log.exception("%s: a fault in weft itself; please report it", name)
            await asyncio.sleep(RETRY[1])
        finally:
            self._news.set()

    async def _listen(self) -> None:
        """Take in who holds the key, for ever."""
        pause = RETRY[0]
        while True:
            self._floor = 0  # it may be another etcd by now
            try:
                async with contextlib.aclosing(self._store.watch(self._key)) as sets:
                    async for snapshot in sets:
                        pause = RETRY[0]
                        self._trouble("watch", "")
                        self._take_in(snapshot)
                        self._wake.set()
            except StoreError as error:
                self._trouble("watch", f"who leads is not known: {error}; it is asked again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY[1])

    async def _keep(self) -> None:
        """Do what is due, for ever."""
        while True:
            self._wake.clear()
            if self._heard and self._clock.now() >= self._not_before:
                try:
                    await self._step()
                except StoreError as error:
                    self._retry = min(2 * self._retry, RETRY[1]) if self._retry else RETRY[0]
                    self._not_before = max(self._not_before, self._clock.now() + self._retry)
                    self._trouble("key", f"{self._key} can't be looked after: {error}; it is tried again")
                else:
                    self._retry = 0.0
                    self._trouble("key", "")
            self._tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_next()):
                    await self._wake.wait()

    def _until_next(self) -> float | None:
        if not self._heard:
            return None
        date = self._due if self._entry is not None else max(self._free_at, self._quiet_until)
        return max(max(date, self._not_before) - self._clock.now(), SHORTEST)

    async def _step(self) -> None:
        entry, owner, now = self._entry, self._owner, self._clock.now()
        quiet = now < self._quiet_until and not self.leads()
        if entry is None:
            if now >= self._free_at and not quiet:
                await self._take(0)
        elif self._is_ours() and not quiet:
            if now >= self._due or not self.leads():
                await self._renew()
        elif not quiet and owner is not None and (owner.resigned or self._is_mine() or is_dead(owner)):
            await self._take(entry.modified)
        elif now >= self._due:
            left = await self._store.remaining(entry.lease) if entry.lease else self._seconds
            self._look, self._due = _Look(now, now + left), now + self._pause

    # What is seen.

    def _take_in(self, snapshot: Snapshot) -> None:
        shorter, self._highest = snapshot.revision < self._highest, snapshot.revision
        self._floor = 0 if shorter else self._floor
        if snapshot.revision < self._floor:
            return  # what this one wrote itself is newer
        self._see(snapshot.entries.get(self._key))
        if shorter and not self.leads():
            self._quiet_until = self._clock.now() + self._seconds
        self._heard = True
        self._tell()

    def _see(self, entry: Entry | None) -> None:
        before, was_mine, now = self._entry, self._is_mine(), self._clock.now()
        if entry is None and before is not None:
            due = self._look.ends <= now <= self._look.at + 2 * self._pause
            free = was_mine or due or (self._owner is not None and self._owner.resigned)
            self._free_at = now if free else now + self._seconds
        if entry is not None and (before is None or entry.modified != before.modified):
            self._look, self._due = _Look(), now
        self._entry, self._owner = entry, leader_of(entry)
        self._verified = self._verified and self._is_ours()

    def _is_mine(self) -> bool:
        owner = self._owner
        return owner is not None and owner.instance == self._me.instance and not owner.resigned

    def _is_ours(self) -> bool:
        """It hangs on the etcd lease that this manager renews."""
        entry = self._entry
        return self._is_mine() and entry is not None and entry.lease == self._lease and self._lease != 0

    # What is written.

    async def _take(self, modified: int) -> None:
        """Create the key, or overwrite what its holder needs no more."""
        sent, life = self._moment(), self._seconds
        if self._lease:
            life = min(await self._store.keep_alive(self._lease), life)
        if not self._lease or not life:
            self._lease = 0
            sent, life = self._moment(), self._seconds
            self._lease = await self._store.grant(self._seconds)
        value = msgspec.json.encode(self._owner_here())
        revision = await self._store.commit([Put(self._key, value, self._lease)], [Guard(self._key, modified)])
        if revision is None:
            self._see(await self._store.get(self._key))
            self._not_before = max(self._not_before, self._clock.now() + RETRY[0])
            return
        self._floor = revision
        self._see(Entry(self._key, value, revision, revision, 1, self._lease))
        self._verified = True
        self._believe(sent, life)

    async def _renew(self) -> None:
        """Once it has stopped believing in itself, that the lease lives is not enough: etcd's majority must have the
        key, since a member that was cut off may say so of a lease that ended."""
        sent = self._moment()
        life = await self._store.keep_alive(self._lease)
        if not life or not self.leads():
            self._see(await self._store.get(self._key))
            self._lease = self._lease if life else 0
            self._verified = self._is_ours()
            if not self._verified:
                return
        self._believe(sent, min(life, self._seconds))

    def _believe(self, sent: _Term, life: int) -> None:
        """`sent`: before the question was asked to which the answer is that the lease lives so long."""
        left = life - self._pause
        self._term = _Term(sent.now + left, sent.wall + left)
        self._due = sent.now + self._pause
        if self._timer is not None:
            self._timer.cancel()
        until = self._term.now - self._clock.now() + SHORTEST
        self._timer = asyncio.get_running_loop().call_later(until, self._tell)
        self._tell()

    def _believes(self) -> bool:
        return self._clock.now() < self._term.now and self._clock.wall() < self._term.wall

    def _moment(self) -> _Term:
        return _Term(self._clock.now(), self._clock.wall())

    def _owner_here(self) -> Leader:
        me = msgspec.structs.asdict(self._me)
        return Leader(**me, since=round(self._clock.wall(), 3))

    # What is told.

    def _trouble(self, what: str, text: str) -> None:
        self._troubles[what] = text
        self._tell()

    def _tell(self) -> None:
        now = self.standing()
        if now != self._told or self._resigned:
            self._told = now
            self._news.set()

    def _stuck(self) -> str:
        """A key that never ends by itself, if nobody looks after it."""
        entry = self._entry
        if entry is None or entry.lease or self._is_mine():
            return ""
        who = self._owner.name if self._owner is not None else "somebody whose value can't be read"
        return f"{self._key} is held by {who} without an etcd lease, so for ever: if no such manager runs, delete it"


def leader_of(entry: Entry | None) -> Leader | None:
    """Whom an election's key names; None: there is no key, or its value can't be read."""
    try:
        return msgspec.json.decode(entry.value, type=Leader) if entry is not None else None
    except (msgspec.DecodeError, RecursionError):
        return None
