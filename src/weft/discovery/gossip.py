"""Discovery by gossip: members of any network tell each other who is there, and find in seconds who is dead.

Format, timing, security and limits: docs/discovery-gossip.md. This file is the I/O around `discovery/gossip_talk.py`:
sockets, connections, names, an event loop and a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from ipaddress import ip_address
from random import Random
from socket import socket
from typing import Any

from weft.core.swim_values import Address
from weft.discovery.gossip_options import GossipSettings
from weft.discovery.gossip_seeds import BACKOFF, REST, Seed, parse_seed, resolve
from weft.discovery.gossip_sockets import PATIENCE, Connection, Ends
from weft.discovery.gossip_talk import Talk
from weft.discovery.news import Clock, News, rest
from weft.errors import DiscoveryError, WireError
from weft.model import IPAddress, Known, Node

_AT_ONCE = 256
"""Datagrams taken from the socket before the rest of the program has its turn."""
_SERVED, _SERVED_EACH = 16, 4
"""Connections of others that are answered at a time, more wait; and of one host, more are closed."""
_BEGUN = 16
"""Connections to others at a time."""
_FAREWELL = 0.05
"""Seconds between the goodbye and its repetition: datagrams get lost."""
_LOST = (OSError, TimeoutError, EOFError, WireError)
"""What ends a connection and is no fault of ours."""


class Gossip:
    """A Discovery. Runs from the first call of `announce` or `peers` on the running event loop until `close`. Who never
    announces (a dry run) compares tables, and is no member."""

    name = "gossip"

    def __init__(self, settings: GossipSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._talk = Talk(settings, int(self._clock.wall() * 1000), Random(settings.instance), lambda: os.urandom(8))
        self._seeds = [parse_seed(text) for text in settings.seeds]
        self._source = settings.source
        self._ends: Ends | None = None
        self._random = Random(settings.instance)
        self._begun: set[asyncio.Task[object]] = set()
        self._answers: set[asyncio.Task[object]] = set()
        self._served: Counter[IPAddress] = Counter()
        self._slots = asyncio.Semaphore(_SERVED)
        self._wake = asyncio.Event()
        self._news = News(lambda: self._talk.version, self._talk.known)
        self._broken: DiscoveryError | None = None
        self._pause = BACKOFF[0]
        self._failed: dict[str, int] = {}

    # The Discovery. -------------------------------------------------------------------------------------------

    def announce(self, me: Node) -> None:
        """From now on tell the peers this; goes out at once if it is new. An endpoint that changed is followed."""
        self._start()
        version = self._settings.source.version
        source = me.endpoint(version)
        if source is None:
            text = f"{me.id} has no IPv{version} endpoint, and gossip is spoken over IPv{version}: peers refuse it"
            self._talk.complaints.report("family", me.id, text)
            self._news.tell()
            return
        self._talk.complaints.clear("family", me.id)
        if source != self._source:
            self._source = source
            self._broken = DiscoveryError(f"the endpoint of {me.id} is {source} now")
            self._talk.move(source, self._clock.monotonic())
        self._talk.announce(me, self._clock.monotonic())
        self._wake.set()

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set now and after each change; changes that come while the last one is worked on are told
        together. Ends after `close`."""
        self._start()
        return self._news.sets()

    def departed(self) -> Collection[str]:
        """Who said goodbye and is not heard again."""
        return self._talk.roster.departed()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970 when it was last known to be alive."""
        offset = self._clock.wall() - self._clock.monotonic()
        return {name: at + offset for name, at in self._talk.last_seen(self._clock.monotonic()).items()}

    def counters(self) -> Mapping[str, int]:
        """Datagrams and tables sent, received and refused since the start (`tally.Counters.flat`), and what came of
        probes."""
        tally = self._talk.swim.tally
        probes = {"gossip.suspected": tally.suspicions, "gossip.dead": tally.deaths, "gossip.refuted": tally.refuted}
        return {**self._talk.counters.flat(), **probes}

    async def close(self) -> None:
        """Say goodbye, if anything was ever announced, and give up the sockets."""
        await self._end(farewell=True)

    async def abandon(self) -> None:
        """Give up the sockets without a word, as one who is killed does."""
        await self._end(farewell=False)

    async def _end(self, farewell: bool) -> None:
        if self._news.closed:
            return
        beside = [*self._begun, *self._answers]
        for task in beside:
            task.cancel()
        await self._news.end()
        await asyncio.gather(*beside, return_exceptions=True)
        if self._ends is not None:
            goodbye = self._talk.farewell() if farewell and self._talk.announced else []
            self._send(goodbye)
            if goodbye:
                await asyncio.sleep(_FAREWELL)
                self._send(goodbye)
            self._leave(self._ends)

    # The loop. ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._news.idle:
            self._news.start(self._run(), "gossip discovery")

    async def _run(self) -> None:
        """Open the sockets, and take part until the address is gone; for ever. The peers stay meanwhile."""
        while True:
            beside: list[asyncio.Task[None]] = []
            try:
                self._broken = None
                ends = self._open()
                beside = [asyncio.create_task(self._seek(ends)), asyncio.create_task(self._serve(ends))]
                await self._take_part()
            except DiscoveryError as error:
                text = f"{error}; trying again. The known peers stay meanwhile"
                self._talk.complaints.report("link", self._settings.node, text)
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                if self._ends is not None and not self._news.closed:
                    self._leave(self._ends)
            self._news.tell()
            await self._sleep(self._clock.monotonic() + self._pause)
            self._pause = min(2 * self._pause, BACKOFF[1])

    def _open(self) -> Ends:
        """DiscoveryError if it can't be. Who only listens takes any port where a member has ours."""
        try:
            ends = Ends(self._source, self._settings.port)
        except DiscoveryError:
            if self._talk.announced:
                raise
            ends = Ends(self._source, 0)
        self._ends = ends
        asyncio.get_running_loop().add_reader(ends.datagrams, self._hear, ends)
        self._talk.complaints.clear("link", self._settings.node)
        return ends

    def _leave(self, ends: Ends) -> None:
        asyncio.get_running_loop().remove_reader(ends.datagrams)
        ends.close()
        self._ends = None

    async def _take_part(self) -> None:
        """Say what is due when it is due. Never returns; DiscoveryError when this host is not at its address."""
        while True:
            if self._broken is not None:
                raise self._broken
            now = self._clock.monotonic()
            if self._talk.announced and self._ends is not None:
                if self._ends.port != self._settings.port:
                    raise DiscoveryError("from now on this is a member")
                self._talk.start(now)
            self._act(now)
            await self._sleep(self._talk.next_event)

    def _act(self, now: float) -> None:
        """Do what follows from what was heard, and from the time."""
        self._send(self._talk.due(now))
        swim = self._talk.swim
        while swim.wanted and self._ends is not None:
            self._begin(self._compare(self._ends, swim.wanted.pop()))
        while swim.fetches and self._ends is not None:
            self._begin(self._fetch(self._ends, *swim.fetches.pop()))
        self._news.tell()

    def _send(self, datagrams: list[tuple[Address, bytes]]) -> None:
        for to, datagram in datagrams:
            if self._ends is None:
                return
            try:
                if self._ends.send(datagram, to):
                    self._talk.counters.sent["failed"] += 1
            except DiscoveryError as error:
                self._broken = error
                self._wake.set()
                return

    async def _sleep(self, until: float) -> None:
        """Until that time of our clock, or until something wakes us."""
        await rest(self._wake, until - self._clock.monotonic())
        self._wake.clear()

    def _hear(self, ends: Ends) -> None:
        now = self._clock.monotonic()
        before = self._talk.next_event
        try:
            for datagram, source in ends.receive(_AT_ONCE):
                self._talk.receive(datagram, source, now)
                self._pause = BACKOFF[0]
        except DiscoveryError as error:
            self._broken = error
        self._act(now)
        if self._broken is not None or self._talk.next_event < before:
            self._wake.set()

    # Connections. ---------------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Beside the rest; not at all if there is much of it already: what it is for comes up again."""
        if len(self._begun) >= _BEGUN:
            work.close()
        else:
            self._spawn(work, self._begun)

    def _spawn(self, work: Coroutine[Any, Any, object], among: set[asyncio.Task[object]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    async def _compare(self, ends: Ends, to: Address) -> str:
        """Compare tables with whoever is there. Why that did not work, or ""."""
        try:
            async with asyncio.timeout(PATIENCE), ends.connection(to) as other:
                asked = self._talk.ask()
                await other.send(asked)
                answer = await other.receive()
                more = self._talk.answered(asked, answer, to.ip, self._clock.monotonic())
                self._act(self._clock.monotonic())
                if more is not None:
                    await other.send(more)
        except _LOST as error:
            self._news.tell()
            return "it closed the connection" if isinstance(error, EOFError) else str(error) or "it does not answer"
        self._wake.set()
        return ""

    async def _fetch(self, ends: Ends, member: str, to: Address) -> None:
        """Get that member's payload from whoever is there; if it isn't had, that comes up again."""
        with contextlib.suppress(*_LOST):
            async with asyncio.timeout(PATIENCE), ends.connection(to) as other:
                asked = self._talk.fetch(member)
                await other.send(asked)
                self._talk.answered(asked, await other.receive(), to.ip, self._clock.monotonic())
                self._act(self._clock.monotonic())

    async def _serve(self, ends: Ends) -> None:
        """Answer who connects."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                opened, (host, *_) = await loop.sock_accept(ends.listener)
            except OSError:  # of that one connection, or no more descriptors
                await asyncio.sleep(BACKOFF[0])
                continue
            source = ip_address(host.partition("%")[0])
            if self._served[source] >= _SERVED_EACH:
                opened.close()
                continue
            await self._slots.acquire()
            self._served[source] += 1
            self._spawn(self._answer(opened, source), self._answers)

    async def _answer(self, opened: socket, source: IPAddress) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                other = Connection(*await asyncio.open_connection(sock=opened))
                try:
                    asked = await other.receive()
                    answer, more = self._talk.asked(asked, source, self._clock.monotonic())
                    self._act(self._clock.monotonic())
                    await other.send(answer)
                    if more:
                        self._talk.given(asked, await other.receive(), source, self._clock.monotonic())
                        self._act(self._clock.monotonic())
                finally:
                    await other.close()
        except _LOST:
            self._news.tell()
        finally:
            opened.close()
            self._slots.release()
            self._served[source] -= 1
            self._served += Counter()  # drops those that are 0
        self._wake.set()

    # Seeds. ---------------------------------------------------------------------------------------------------

    async def _seek(self, ends: Ends) -> None:
        """Join by the seeds, and look after them for ever."""
        pause = BACKOFF[0]
        while True:
            found = await asyncio.gather(*(self._try(ends, seed) for seed in self._seeds))
            if any(found) or all(one is None for one in found):
                self._talk.join(self._clock.monotonic())
                self._wake.set()
            await asyncio.sleep((REST if self._talk.joined else pause) * (0.75 + 0.5 * self._random.random()))
            pause = min(2 * pause, BACKOFF[1])

    async def _try(self, ends: Ends, seed: Seed) -> bool | None:
        """Whether a live member is there; None: it is this one."""
        try:
            addresses = await resolve(seed, ends.source.version, ends.port)
        except OSError as error:
            return self._missed(seed, f"its name can't be resolved: {error.strerror or error}")
        live = {member.address for member in self._talk.swim.table.live}
        others = [address for address in addresses if address != (ends.source.packed, ends.port)]
        if live.intersection(others):
            return self._met(seed)
        whys = []
        for address in others:
            why = await self._compare(ends, address)
            if not why:
                return self._met(seed)
            whys.append(f"{address}: {why}")
        if not others or len(others) < len(addresses):
            self._met(seed)
            return None
        return self._missed(seed, "; ".join(whys))

    def _met(self, seed: Seed) -> bool:
        self._failed.pop(seed.text, None)
        self._talk.complaints.clear("seed", seed.text)
        return True

    def _missed(self, seed: Seed, why: str) -> bool:
        """It is a problem from the second time on: hosts that start together find each other a moment later."""
        self._failed[seed.text] = self._failed.get(seed.text, 0) + 1
        if self._failed[seed.text] > 1:
            text = f"the seed {seed.text} is no live member: {why}; trying on"
            self._talk.complaints.report("seed", seed.text, text)
            self._news.tell()
        return False
