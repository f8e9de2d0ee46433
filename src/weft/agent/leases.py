"""The lease keeper: finds this host's lease in the store or takes one, keeps it, and tells who holds the others. Wired
by the daemons that speak flannel; what it does is decided in `core/tenancy.py`.

It is one loop: a new set from the watch, a word of the daemon's, or a date that came, and everything is looked at anew.
Nothing is believed to be written before the watch has shown it. What failed, or was never answered, is tried again on
what the store holds by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from weft.agent.lease_book import Reader, config_of
from weft.agent.marker import Marker, Owner, owner_here
from weft.core import tenancy
from weft.core.tenancy import SUBJECT, Book, Candidate, Full, Held, Keep, Lost, Mine, Sorted, Take, Tenancy, Write
from weft.errors import StoreError, WireError
from weft.model import Problem
from weft.settings.flanneld import clean
from weft.stores import Delete, Guard, Put, Snapshot, Store
from weft.wire.flannel import Config, Lease, lease_key, lease_value
from weft.wire.flannel_config import parse_config

TTL = 86400
"""Seconds that a lease lives without a renewal: flannel's."""
FIRST_RETRY = 0.2
LAST_RETRY = 10.0
SPREAD = 0.05
"""Seconds within which those who lost a race try again, more after each one that is lost, up to LAST_SPREAD."""
LAST_SPREAD = 1.0
PACE = 1.0
"""Seconds between two rewritings of our own value: whoever else writes it, too, is not to be outrun."""
GRACE = float(TTL)
"""Seconds for which leases are remembered that a store without its latest history doesn't know."""
SHORTEST = 0.001
"""Seconds of a wait: timers may fire a little early, and what is not due then would be asked for again at once."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """`renew_margin`: seconds before expiry. `config`: from a file, for operators who keep it there; None: the store's
    is used. `me`: this daemon, for the mark that it leaves."""

    prefix: str
    renew_margin: float = 3600.0
    config: Config | None = None
    me: Owner = field(default_factory=owner_here)


@dataclass(slots=True)
class _Term:
    """How long the etcd lease `lease` lives, by the event loop's clock and by the wall's: one stands still while a
    machine is suspended, the other may be set. `due`: when it is to be renewed."""

    lease: int = 0
    expiry: float | None = None
    due: float = NEVER
    wall_due: float = NEVER


class Keeper:
    """`wall`: seconds since 1970; `dice`: from 0 up to, without, 1."""

    def __init__(
        self,
        store: Store,
        options: KeeperOptions,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._options = options = replace(options, prefix=clean(options.prefix))
        self._wall = wall
        self._dice = dice
        self._reader = Reader(options.prefix)
        self._marker = Marker(store, options.prefix, options.me)
        self._told = asyncio.Event()
        self._ended = asyncio.Event()
        self._config = options.config
        self._config_problem: Problem | None = None
        self._config_value: bytes | None = None
        self._candidate: Candidate | None = None
        self._snapshot: Snapshot | None = None
        self._book = Book(0)
        self._sorted = Sorted()
        self._mine: Mine | None = None
        self._term = _Term()
        self._spare = 0
        self._tried = ""
        self._after = 0
        self._not_before = 0.0
        self._wrote_at = -NEVER
        self._lost_races = 0
        self._retry = 0.0
        self._trouble: Problem | None = None
        self._obstacle: Problem | None = None
        self._former: tuple[Lease, ...] = ()
        self._former_until = 0.0

    def tell(self, candidate: Candidate) -> None:
        """This is what this host is now; without that no lease is taken. Any time, any number of times."""
        if candidate != self._candidate:
            self._candidate = candidate
            self._told.set()

    def existing(self, candidate: Candidate) -> Lease | None:
        """The lease that the store has for this host already. Of the candidate only the addresses and the previous
        subnets count. None if there is none, and before the first Tenancy."""
        if self._config is None:
            return None
        held = tenancy.adoptable(self._book, self._config, candidate)
        return held.lease if held is not None else None

    async def stopped(self) -> str:
        """Waits until this daemon must end, since another one with its public address lives: a sentence for the log."""
        await self._ended.wait()
        return self._obstacle.message if self._obstacle is not None else ""

    async def close(self) -> None:
        """Take this daemon's mark away. The lease stays: a restart finds it again."""
        with contextlib.suppress(StoreError):
            await self._marker.release()

    async def tenancies(self) -> AsyncIterator[Tenancy]:
        """Full sets, each time something changes. Raises StoreError when the store can't be asked any more; called
        again, it goes on with what is true by then, and tells nothing before the watch has: that would be a word of the
        store's while it is away."""
        self._after = 0
        self._marker.forget_revisions()
        said: Tenancy | None = None
        heard = False
        watching = self._store.watch(f"{self._options.prefix}/")
        following = self._next_of(watching)
        try:
            while True:
                await self._something()
                if following.done():
                    snapshot = following.result()
                    if snapshot is None:
                        return
                    self._take_in(snapshot)
                    heard = True
                    following = self._next_of(watching)
                await self._act()
                if heard and (now := self._tenancy()) != said:
                    said = now
                    yield now
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _next_of(self, watching: AsyncIterator[Snapshot]) -> asyncio.Future[Snapshot | None]:
        following: asyncio.Future[Snapshot | None] = asyncio.ensure_future(anext(watching, None))
        following.add_done_callback(lambda _: self._told.set())
        return following

    async def _something(self) -> None:
        """Wait for a new set, a new candidate, or the next date."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._until_next()):
                await self._told.wait()
        self._told.clear()

    def _until_next(self) -> float | None:
        now, wall = _now(), self._wall()
        dates = [self._former_until - now] if self._former_until > now else []
        if self._not_before > now:
            dates.append(self._not_before - now)
        elif not self._waiting():
            dates.extend((self._term.due - now, self._term.wall_due - wall, self._marker.due - now))
        soonest = min(dates, default=NEVER)
        return max(soonest, SHORTEST) if soonest != NEVER else None

    def _waiting(self) -> bool:
        """Nothing can be done before something is told to us."""
        if self._snapshot is None or self._config is None or self._candidate is None or self._candidate.address is None:
            return True
        return self._snapshot.revision < self._after or self._ended.is_set()

    def _take_in(self, snapshot: Snapshot) -> None:
        before = self._snapshot
        if before is not None and snapshot.revision < before.revision and self._candidate and self._mine:
            self._former = self._everybody()
            self._former_until = _now() + GRACE
        self._snapshot = snapshot
        self._book = self._reader.book(snapshot)
        if self._options.config is None:
            self._read_config(snapshot)

    def _read_config(self, snapshot: Snapshot) -> None:
        """The first valid one holds for as long as this daemon runs: what it says is built into devices and files."""
        key = config_of(self._options.prefix)
        entry = snapshot.entries.get(key)
        value = entry.value if entry is not None else None
        if value is not None and value == self._config_value:
            return
        self._config_value, problem = value, ""
        try:
            config = parse_config(value) if value is not None else None
        except WireError as error:
            config, problem = None, f"the network config in {key} can't be used: {error}"
        if self._config is None:
            self._config = config
            wait = problem or f"there is no network config in {key}"
            self._config_problem = None if config is not None else Problem(SUBJECT, f"{wait}; {EXAMPLE}")
        elif config != self._config:
            what = problem or f"the network config in {key} {'was deleted' if value is None else 'changed'}"
            rest = "this daemon goes on with the old one; restart it to take over what is there"
            self._config_problem = Problem(SUBJECT, f"{what}: {rest}")
        else:
            self._config_problem = None

    async def _act(self) -> None:
        """Do what is due. What the store refuses is a problem that is told, and tried again."""
        if self._waiting() or _now() < self._not_before:
            return
        assert self._config is not None
        assert self._candidate is not None
        try:
            if await self._alone(self._candidate):
                await self._decided(self._book, self._config, self._candidate)
        except StoreError as error:
            self._retry = min(self._retry * 2, LAST_RETRY) if self._retry else FIRST_RETRY
            self._not_before = _now() + self._retry
            self._trouble = Problem(SUBJECT, f"this host's lease can't be looked after: {error}; it is tried again")
        else:
            self._retry, self._trouble = 0.0, None

    async def _alone(self, candidate: Candidate) -> bool:
        assert self._snapshot is not None
        standing = await self._marker.hold(str(candidate.address), self._snapshot)
        self._obstacle = Problem(SUBJECT, standing.why) if standing.why else None
        if standing.final:
            self._ended.set()
        return standing.alone

    async def _decided(self, book: Book, config: Config, candidate: Candidate) -> None:
        self._recognise(book)
        if not await self._nothing_in_doubt(book):
            return
        near = self._sort(candidate, self._mine.lease).near if self._mine is not None else None
        action = tenancy.decide(book, config, candidate, self._mine, self._dice(), near)
        match action:
            case Keep(held):
                await self._keep(held)
            case Write(held, lease):
                await self._write(held, lease)
            case Take(lease, instead):
                await self._take(book, lease, instead)
            case Lost():
                self._term = _Term()
            case Full(why):
                self._obstacle = Problem(SUBJECT, f"{why}; this host waits")

    def _recognise(self, book: Book) -> None:
        """A key of ours of which we never heard that it was written is still to be judged as new."""
        written = next((held for held in book.held if held.hangs_on == self._spare), None) if self._spare else None
        if written is not None:
            self._spare = 0
            self._mine = self._mine or Mine(written.lease, fresh=True)

    async def _nothing_in_doubt(self, book: Book) -> bool:
        """Whether what was tried last, and never answered, is known to the book if it was done: else a second key would
        be taken beside it."""
        if self._tried:
            entry = await self._store.get(self._tried)
            self._tried = ""
            if entry is not None and entry.modified > book.revision:
                self._after = entry.modified
                return False
        return True

    async def _keep(self, held: Held) -> None:
        """It is ours and right: from now on the others on this host may know of it, and it is renewed in time."""
        self._mine, self._lost_races = Mine(held.lease), 0
        if not held.hangs_on:
            self._term = _Term()
        elif held.hangs_on != self._term.lease or _now() >= self._term.due or self._wall() >= self._term.wall_due:
            await self._renew(held)

    async def _renew(self, held: Held) -> None:
        """Renew the etcd lease; if it is gone (and the key about to go), put the key on a new one."""
        now, wall = _now(), self._wall()
        seconds = await self._store.keep_alive(held.hangs_on)
        if not seconds:
            return await self._put(held, held.lease, await self._granted())
        soon = seconds - min(self._options.renew_margin, seconds * 2 / 3)
        self._term = _Term(held.hangs_on, wall + seconds, now + soon, wall + soon)

    async def _write(self, held: Held, lease: Lease) -> None:
        """Say what is true now; at once, but not faster than somebody else may say something else."""
        if _now() < self._wrote_at + PACE:
            self._not_before = self._wrote_at + PACE
            return
        self._wrote_at = _now()
        await self._put(held, lease, held.hangs_on)

    async def _put(self, held: Held, lease: Lease, hangs_on: int) -> None:
        written = await self._store.commit(
            [Put(held.key, lease_value(lease), hangs_on)], [Guard(held.key, held.modified)]
        )
        self._written(written)

    async def _take(self, book: Book, lease: Lease, instead: tuple[Held, ...]) -> None:
        key = f"{self._options.prefix}/subnets/{lease_key(lease)}"
        hangs_on = await self._granted()
        changes: list[Put | Delete] = [*(Delete(held.key) for held in instead), Put(key, lease_value(lease), hangs_on)]
        guards = [*(Guard(held.key, held.modified) for held in instead), Guard(key)]
        self._tried = key
        written = await self._store.commit(changes, guards)
        self._tried = ""
        if written is not None:
            self._spare = 0
            self._mine = Mine(lease, fresh=self._mine is None or self._mine.fresh)
        self._written(written)

    def _written(self, revision: int | None) -> None:
        """What was written must come back by the watch first; who lost a race looks at what is there by then."""
        if revision is not None:
            self._after = revision
            return
        self._lost_races += 1
        spread = min(SPREAD * self._lost_races, LAST_SPREAD)
        self._after = self._book.revision + 1
        self._not_before = _now() + spread * self._dice()

    async def _granted(self) -> int:
        """An etcd lease on which nothing hangs yet; one that a lost race left over is used again."""
        if self._spare and await self._store.keep_alive(self._spare):
            return self._spare
        self._spare = await self._store.grant(TTL)
        return self._spare

    def _tenancy(self) -> Tenancy:
        problems = [p for p in (self._config_problem, self._obstacle, self._trouble) if p is not None]
        problems.extend(self._book.problems)
        mine = self._mine.lease if self._mine is not None and not self._mine.fresh else None
        if self._config is None or self._candidate is None or mine is None:
            return Tenancy(self._config, problems=tuple(problems))
        near = self._sort(self._candidate, mine).near
        problems.extend(tenancy.remarks(near, self._config, self._candidate, mine))
        settled = _now() >= self._former_until
        if not settled:
            problems.append(Problem(SUBJECT, FORGETFUL))
        return Tenancy(self._config, mine, self._everybody(), self._term.expiry, tuple(problems), settled)

    def _everybody(self) -> tuple[Lease, ...]:
        """The other hosts' leases, with those that a store without its history does not know."""
        assert self._candidate is not None
        assert self._mine is not None
        mine = self._mine.lease
        now = self._sort(self._candidate, mine).others
        return now if _now() >= self._former_until else tenancy.remembering(now, self._former, mine)

    def _sort(self, candidate: Candidate, mine: Lease) -> Sorted:
        self._sorted = self._sorted.after(self._book, candidate, mine)
        return self._sorted


EXAMPLE = (
    "this host waits for one, e.g. weft flannel-config set "
    """'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}' (with the same --etcd-prefix)"""
)
FORGETFUL = (
    "the store's history is shorter than it was (restored from a backup, or set up anew): leases that it does not know"
    f" are kept for {GRACE / 3600:.0f} h, in which their hosts write them again"
)


def _now() -> float:
    return asyncio.get_running_loop().time()
