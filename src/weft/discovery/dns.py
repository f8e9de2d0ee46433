"""Discovery by DNS: hosts register SRV and TXT records in a zone that takes dynamic updates, and look for the others'.

Records, timing, errors and an example with BIND: docs/discovery-dns.md. This file is the two loops (look and register)
and the clock around `dns_look`, `dns_register` and `dns_book`. Made by the factory in `discovery/__init__.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from random import Random

from weft.discovery.dns_book import Book
from weft.discovery.dns_client import Client, domain_name
from weft.discovery.dns_look import Look
from weft.discovery.dns_options import DnsSettings
from weft.discovery.dns_register import Registrar
from weft.discovery.news import Clock, News, rest
from weft.discovery.tally import Complaints
from weft.errors import DiscoveryError, WireError
from weft.model import Known, Node
from weft.wire.dns import name_text

RETRY = 1.0
"""Seconds to the next attempt after the first failure; doubling up to the update interval."""
LEAST = 1.0
"""Seconds at least between two rounds, whatever a TTL says."""
FAREWELL = 5.0
"""Seconds that taking out our records may take at the end."""
JITTER = 0.9
"""Rounds and refreshes come after 0.9 to 1 of the interval, so that hosts don't stay in step; never later."""
PROBLEMS = 256


class Dns:
    """A Discovery. Runs from the first call of `announce` or `peers` on the running event loop until `close`.
    SettingsError for a domain or a key that can't be one."""

    name = "dns"

    def __init__(self, settings: DnsSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._random = Random(settings.instance)
        self._domain = domain_name(settings.domain)
        self._client = Client(settings.servers, settings.key)
        self._complaints = Complaints(PROBLEMS)
        self._book = Book(settings, self._complaints)
        self._look = Look(self._client, self._domain)
        epoch = int(self._clock.wall() * 1000)
        self._registrar = Registrar(self._client, settings, self._domain, epoch)
        self._me: Node | None = None
        self._look_now = asyncio.Event()
        self._register_now = asyncio.Event()
        self._news = News(self._book.known, self._book.known)

    # The Discovery. -------------------------------------------------------------------------------------------

    def announce(self, me: Node) -> None:
        """From now on have this in DNS; goes there at once if it is new. Without DNS_SERVER, that is said instead."""
        first, new = self._me is None, me != self._me
        self._me = me
        self._start()
        if not self._settings.servers:
            text = f"DNS_SERVER isn't set: {me.id} is not registered, and only finds others; they don't find it"
            self._complaints.report("register", me.id, text, wrong=False)
            self._news.tell()
        elif new:
            self._register_now.set()
        if first:
            self._look_now.set()  # other programs' nodes can be judged now

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set now and after each change; changes that come while the last one is worked on are told
        together. Ends after `close`."""
        self._start()
        return self._news.sets()

    def departed(self) -> Collection[str]:
        """Who took its records out, for an hour."""
        return self._book.departed()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970, by our clock, when its records were first found refreshed."""
        return self._book.last_seen()

    def counters(self) -> Mapping[str, int]:
        """Messages since the start: `sent.QUERY`, `sent.UPDATE`, `received.NOERROR`, `updated.REFUSED`, …"""
        return dict(sorted(self._client.counted.items()))

    async def close(self) -> None:
        """Take our records out, and nobody else's."""
        if self._news.closed:
            return
        await self._news.end()
        with contextlib.suppress(DiscoveryError, TimeoutError):  # then they go stale
            async with asyncio.timeout(FAREWELL):
                await self._registrar.withdraw()

    # The loops. -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._news.idle:
            self._news.start(self._keep_looking(), "dns look")
            if self._settings.servers:
                self._news.start(self._keep_registered(), "dns register")

    async def _keep_looking(self) -> None:
        """A round by the TTL and the interval, and when somebody's time is up; for ever."""
        failures = 0
        while True:
            self._look_now.clear()
            began = self._clock.monotonic()
            try:
                found = await self._look.round(began, self._clock.wall(), self._me, self._settings.plain)
            except DiscoveryError as error:
                failures += 1
                self._book.failed()
                text = f"the peers can't be looked up, and stay as they are: {error}"
                self._complaints.report("look", self._settings.domain, text)
            else:
                failures = 1 if found.unanswered else 0
                self._complaints.clear("look", self._settings.domain)
                if found.unanswered:
                    some = name_text(min(found.unanswered))
                    text = f"{len(found.unanswered)} names can't be looked up, among them {some}: their peers stay"
                    self._complaints.report("look", self._settings.domain, text)
                if not self._book.take(found):
                    self._register_now.set()
            self._news.tell()
            await rest(self._look_now, self._until_next(began, failures))

    def _until_next(self, began: float, failures: int) -> float:
        """Seconds to wait for the next round."""
        now = self._clock.monotonic()
        if failures:
            return self._retry(failures)
        holds = min(self._settings.interval, max(self._look.ttl, LEAST)) * self._random.uniform(JITTER, 1.0)
        return max(min(began + holds, self._book.next_expiry) - now, min(LEAST, holds))

    def _retry(self, failures: int) -> float:
        return float(min(RETRY * 2.0 ** min(failures - 1, 10), self._settings.interval))

    async def _keep_registered(self) -> None:
        """Refresh our records each interval, and at once if there is something new; for ever."""
        failures = 0
        while True:
            self._register_now.clear()
            if self._me is None:
                await self._register_now.wait()
                continue
            failures = 0 if await self._register(self._me) else failures + 1
            self._news.tell()
            pause = self._settings.interval * self._random.uniform(JITTER, 1.0)
            await rest(self._register_now, self._retry(failures) if failures else pause)

    async def _register(self, me: Node) -> bool:
        """Once. Returns False if it should be tried again soon."""
        subject = me.id
        try:
            conflict = await self._registrar.register(me, self._clock.monotonic(), self._clock.wall())
        except WireError as error:
            self._unregistered(subject, str(error))
            return True
        except DiscoveryError as error:
            self._unregistered(subject, f"{me.id} can't be registered in DNS: {error}; trying again")
            return False
        if conflict is not None:
            self._unregistered(subject, f"{conflict.message}; nothing of the other's was changed")
            return False  # a former self may just be leaving
        self._complaints.clear("register", subject)
        if self._registrar.lost:
            self._book.shaken()
        self._book.registered_since = min(self._book.registered_since, self._clock.monotonic())
        return True

    def _unregistered(self, subject: str, text: str) -> None:
        self._complaints.report("register", subject, text)
        self._book.registered_since = float("inf")
