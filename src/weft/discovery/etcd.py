"""Discovery by etcd: each router's keys hang on a lease of its own, and everybody watches all of them.

Format and rules: docs/discovery-etcd.md. This file is the I/O around `discovery/directory.py` (what the others say) and
`discovery/claim.py` (what this node writes). A restart finds its former run's keys and goes on with them: they are
never missing. While etcd can't be asked, all that was known holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, replace

from weft.discovery.claim import Whose, change, guards, judge
from weft.discovery.directory import Directory
from weft.discovery.news import Clock, News, rest
from weft.discovery.options import EtcdSettings
from weft.discovery.tally import Complaints, Counters, Refused
from weft.errors import StoreError, WireError
from weft.model import Known, Node
from weft.stores import Entry, Put, Store
from weft.stores.leasehold import SHARE, Leasehold
from weft.wire.discovery_keys import LAST_SEEN, folder, values
from weft.wire.hello import Stamp

BACKOFF = (0.1, 5.0)
"""Seconds between attempts: the first, and the longest; doubling between."""
LOOK = 2.0
"""Seconds between looks at a registration that stands in our way."""
PATIENCE = 10.0
"""Seconds for which the watch may owe what was written: then what it told last counts. Guards keep that harmless."""
BURST, PACE = 10.0, 1.0
"""Writes at once, and per second from then on: with another program that writes the same keys there is no race."""
SHORTEST_HOLD = 2
"""Seconds that a mark of departure stands at least: etcd knows no shorter lease, and everybody is to see it."""
FAREWELL = 5.0
BEATS = 6
"""Moments in an interval at which heartbeats are written, by the wall clock: hosts that beat together wake all others
once, not once each."""
INFINITY = float("inf")


@dataclass(slots=True)
class _Budget:
    """Writes that are left."""

    left: float = BURST
    counted: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next write may be; 0: now, and it counts."""
        self.left = min(BURST, self.left + (now - self.counted) * PACE)
        self.counted = now
        if self.left < 1:
            return (1 - self.left) / PACE
        self.left -= 1
        return 0.0


class EtcdDiscovery:
    """A Discovery; see there. Runs from the first call of `announce` or `peers` on the running event loop until
    `close`, which closes the store too."""

    name = "etcd"

    def __init__(self, settings: EtcdSettings, store: Store, clock: Clock | None = None) -> None:
        self._settings = settings
        self._store = store
        self._wall = (clock or Clock()).wall
        epoch = int(self._wall() * 1000)
        self._stamp = Stamp(f"{settings.instance}.{epoch:x}", epoch, 1)
        self._folder = folder(settings.prefix, settings.node)
        self._counters = Counters()
        self._complaints = Complaints(settings.limits.problems)
        self._directory = Directory(settings, self._counters, self._complaints)
        self._lease = Leasehold(store, settings.lease_ttl)
        self._budget = _Budget()
        self._me: Node | None = None
        self._wake = asyncio.Event()
        self._heard_at: int | None = None  # the revision of the last set; None while etcd is not watched
        self._asked = False  # etcd was asked once, and told all
        self._owed, self._owed_until = 0, 0.0
        self._next_beat = self._not_before = 0.0
        self._pause = BACKOFF[0]
        self._registered = False
        self._news = News(lambda: self._version, self._known)

    # The Discovery. -------------------------------------------------------------------------------------------

    def announce(self, me: Node) -> None:
        """From now on register this; written at once if it is new."""
        if me != self._me:
            self._me = me
            self._stamp = replace(self._stamp, seq=self._stamp.seq + 1)
            self._not_before = self._next_beat = 0.0
            self._wake.set()
        self._start()

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set now and after each change. Complete as soon as etcd has told all. Ends after `close`."""
        self._start()
        return self._news.sets()

    def departed(self) -> Collection[str]:
        """Who left a mark of departure, and whose keys are gone."""
        return self._directory.departed()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970 when its keys last changed, by this host's clock."""
        return dict(self._directory.last_seen())

    def counters(self) -> Mapping[str, int]:
        """Transactions and leases sent, sets and changed peers received, entries refused."""
        return self._counters.flat()

    async def close(self) -> None:
        """Mark the keys as a departed node's, on a lease that ends after `goodbye_hold`, and give up the store."""
        if self._news.closed:
            return
        await self._news.end()
        if self._registered:
            with contextlib.suppress(StoreError, TimeoutError):  # the lease ends by itself
                async with asyncio.timeout(FAREWELL):
                    while not await self._depart():
                        continue  # a write that was under way when the loops ended has come between
        await self._lease.close()
        await self._store.close()

    # The loops. -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._news.idle:
            self._news.start(self._listen(), "etcd discovery")
            self._news.start(self._keep(), "etcd registration")

    async def _listen(self) -> None:
        """Take in what is there, for ever."""
        pause = BACKOFF[0]
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(self._settings.prefix + "/")) as sets:
                    async for snapshot in sets:
                        self._directory.take(snapshot.entries, _now(), self._wall())
                        self._heard_at, self._asked, pause = snapshot.revision, True, BACKOFF[0]
                        self._complaints.clear("etcd", "etcd")
                        self._wake.set()
                        self._news.tell()
            except StoreError as error:
                text = f"{error}; trying again. The known peers stay meanwhile"
                self._complaints.report("etcd", "etcd", text, _now() + 86400)
            self._heard_at, self._owed = None, 0  # it may be another etcd by then
            self._directory.lost()
            self._news.tell()
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF[1])

    async def _keep(self) -> None:
        """Write what is to be written, and let go what is over, for ever."""
        while True:
            self._wake.clear()
            now = _now()
            if self._me is not None and self._is_current(now) and now >= self._not_before:
                await self._attempt(self._me)
            self._directory.expire(_now())
            self._complaints.expire(_now())
            self._news.tell()
            await rest(self._wake, self._until_next())

    def _is_current(self, now: float) -> bool:
        return self._heard_at is not None and (self._heard_at >= self._owed or now >= self._owed_until)

    def _until_next(self) -> float:
        now = _now()
        dates = [self._directory.next_event, self._complaints.next_expiry]
        if self._me is not None and self._heard_at is not None:
            dates.append(self._owed_until if not self._is_current(now) else max(self._next_beat, self._not_before))
        return max(min(dates) - now, 0.001)

    async def _attempt(self, me: Node) -> None:
        try:
            await self._register(me)
        except StoreError as error:
            text = f"{self._settings.node} can't be registered: {error}; trying again"
            self._complaints.report("register", "etcd", text, _now() + 86400)
            self._not_before = _now() + self._pause
            self._pause = min(2 * self._pause, BACKOFF[1])
        except WireError as error:
            self._complaints.report("announce", self._settings.node, str(error))
            self._not_before = INFINITY
        else:
            self._complaints.clear("register", "etcd")
            self._pause = BACKOFF[0]

    # What is written. -----------------------------------------------------------------------------------------

    async def _register(self, me: Node) -> None:
        """Make our keys what they should be, if they are ours."""
        now, rows = _now(), self._directory.own
        wanted = values(me, self._stamp, self._wall())
        self._complaints.clear("announce", me.id)
        whose, address = judge(rows, me, self._stamp)
        if whose is Whose.NEWER and await self._is_dead(rows):
            whose = Whose.LEFT
        if whose in (Whose.NEWER, Whose.FOREIGN):
            self._step_back(whose, address)
            return
        self._complaints.clear("duplicate", self._settings.node)
        beat = now >= self._next_beat or whose is not Whose.OURS
        pending = change(self._folder, rows, wanted, self._lease.id, beat)
        if not pending.changes:
            self._next_beat = now + self._until_beat() if beat else self._next_beat
            return
        if wait := self._budget.wait(now):
            self._not_before = now + wait
            return
        if await self._lease.ensure() and self._lease.id:
            pending = change(self._folder, rows, wanted, self._lease.id, beat)
        is_beat = [one.key for one in pending.changes] == [self._folder + LAST_SEEN]
        self._counters.sent["heartbeat" if is_beat else "registration"] += 1
        revision = await self._store.commit(pending.changes, pending.guards)
        self._owed = revision if revision is not None else (self._heard_at or 0) + 1
        self._owed_until = _now() + PATIENCE
        if revision is not None:
            self._registered = True
            self._next_beat = _now() + self._until_beat()

    def _until_beat(self) -> float:
        """Seconds, the interval or a little less."""
        interval = self._settings.announce_interval
        return interval - (self._wall() + interval) % (interval / BEATS)

    async def _is_dead(self, rows: Mapping[str, Entry]) -> bool:
        """Whether nobody renews the lease: a run that lives renews it when a third is over."""
        lease = max((row.lease for row in rows.values()), default=0)
        left = await self._store.remaining(lease) if lease else 0
        return left < self._settings.lease_ttl * (1 - 1.5 / SHARE)

    def _step_back(self, whose: Whose, address: str) -> None:
        self._registered = False
        self._not_before = _now() + LOOK
        self._counters.refused[Refused.DUPLICATE] += 1
        name = self._settings.node
        text = (
            f"another weft on this host is registered as {name!r} and started later: stop one of them, "
            f"or set another PEER_ID there"
            if whose is Whose.NEWER
            else f"{name!r} is registered by another host, {address}, and not overwritten: set another PEER_ID (or "
            f"STACK_ID) on one of the two; if that host is gone, its keys below {self._folder} go when their lease ends"
        )
        self._complaints.report("duplicate", name, text)

    async def _depart(self) -> bool:
        """The keys stay for `goodbye_hold`, so that a restart finds them and nobody's packets are lost meanwhile. False
        if somebody has written to them since they were looked at."""
        if self._me is None:
            return True
        snapshot = await self._store.range(self._folder)
        rows = {row.key.removeprefix(self._folder): row for row in snapshot.entries.rows}
        if judge(rows, self._me, self._stamp)[0] is not Whose.OURS:
            return True
        lease = await self._store.grant(max(int(self._settings.goodbye_hold), SHORTEST_HOLD))
        marked = values(self._me, self._stamp, self._wall(), departed=True)
        puts = [Put(self._folder + name, value, lease) for name, value in marked.items()]
        self._counters.sent["departure"] += 1
        if await self._store.commit(puts, guards(self._folder, rows)) is None:
            return False
        await self._lease.revoke()
        return True

    # ----------------------------------------------------------------------------------------------------------

    @property
    def _version(self) -> tuple[int, int, bool]:
        return self._directory.version, self._complaints.version, self._asked

    def _known(self) -> Known[Node]:
        return Known(self._directory.nodes, self._asked, self._complaints.problems)


def _now() -> float:
    return asyncio.get_running_loop().time()
