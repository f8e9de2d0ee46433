"""Discovery by multicast: hosts of one network segment find each other with nothing set up.

Format, timing, security and limits: docs/discovery-multicast.md. This file is the I/O around
`discovery/conversation.py`: sockets, an event loop and a clock. `daemons/agent.py` makes one; `weft plan` makes one and
never calls `announce`, so that it listens and asks without becoming anybody's peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from random import Random
from socket import socket

from weft.discovery.conversation import Conversation
from weft.discovery.group import Group, InterfaceWatch
from weft.discovery.news import Clock, News, rest
from weft.discovery.options import MulticastSettings
from weft.errors import DiscoveryError
from weft.model import IPAddress, Known, Node

BACKOFF = (0.05, 10.0)
"""Seconds between attempts to join: the first, and the longest; doubling between. A change of the interface, which the
kernel tells, ends the wait at once."""
_AT_ONCE = 256
"""Datagrams taken from a socket before the rest of the program has its turn."""
_SETTLE = 0.02
"""Seconds that interfaces get to settle before ours is looked at: changes come in bursts, and mostly elsewhere."""
_numbers = itertools.count()


class Multicast:
    """A Discovery. Runs from the first call of `announce` or `peers` on the running event loop until `close`."""

    name = "multicast"

    def __init__(self, settings: MulticastSettings, clock: Clock | None = None) -> None:
        # Several of one program are several speakers, also when they are made within one millisecond.
        settings = replace(settings, instance=f"{settings.instance}.{next(_numbers):x}")
        self._settings = settings
        self._clock = clock or Clock()
        self._talk = Conversation(settings, int(self._clock.wall() * 1000), Random(settings.instance))
        self._source = settings.source
        self._group: Group | None = None
        self._watch: InterfaceWatch | None = None
        self._wake = asyncio.Event()
        self._news = News(lambda: self._talk.version, self._talk.known)
        self._broken: DiscoveryError | None = None
        self._pause = BACKOFF[0]
        self._looking = False

    # The Discovery. -------------------------------------------------------------------------------------------

    def announce(self, me: Node) -> None:
        """From now on tell the peers this; goes out at once if it is new. An endpoint that changed is followed."""
        self._start()
        version = self._settings.group.version
        source = me.endpoint(version)
        if source is None:
            text = (
                f"{me.id} has no IPv{version} endpoint, and discovery speaks to {self._settings.group}: peers refuse it"
            )
            self._talk.complaints.report("family", me.id, text)
            self._news.tell()
            return
        self._talk.complaints.clear("family", me.id)
        self._talk.announce(me, self._clock.monotonic())
        if source != self._source:
            self._source = self._talk.table.source = source
            self._broken = DiscoveryError(f"the endpoint of {me.id} is {source} now")
        self._wake.set()

    def peers(self) -> AsyncIterator[Known[Node]]:
        """Yield the full set now and after each change; changes that come while the last one is worked on are told
        together. Ends after `close`."""
        self._start()
        return self._news.sets()

    def departed(self) -> Collection[str]:
        """Who said goodbye and is not heard again."""
        return self._talk.table.departed()

    def last_seen(self) -> Mapping[str, float]:
        """Node id → seconds since 1970 when it was last heard."""
        offset = self._clock.wall() - self._clock.monotonic()
        return {node_id: heard + offset for node_id, heard in self._talk.table.heard()}

    def counters(self) -> Mapping[str, int]:
        """Datagrams sent, received and refused since the start (`tally.Counters.flat`)."""
        return self._talk.counters.flat()

    async def close(self) -> None:
        """Say goodbye, if anything was ever announced, and give up the sockets."""
        if self._news.closed:
            return
        await self._news.end()
        if self._group is not None:
            with contextlib.suppress(DiscoveryError):  # nobody can be told any more
                self._send(self._group, self._talk.farewell())
            self._leave(self._group)
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.socket)
            self._watch.close()

    # The loop. ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._news.idle:
            self._watch = InterfaceWatch()
            asyncio.get_running_loop().add_reader(self._watch.socket, self._interface_changed, self._watch)
            self._news.start(self._run(), "multicast discovery")

    async def _run(self) -> None:
        """Join, and take part until the interface breaks; for ever. The peers stay while they can't be heard."""
        while True:
            try:
                self._broken = None
                group = self._join()
                await self._take_part(group)
            except DiscoveryError as error:
                text = f"{error}; trying again. The known peers stay meanwhile"
                self._talk.complaints.report("link", self._settings.interface, text)
                if self._group is not None:
                    self._leave(self._group)
            self._talk.due(self._clock.monotonic(), 0, 0)
            self._news.tell()
            await self._sleep(min(self._clock.monotonic() + self._pause, self._talk.next_event))
            self._pause = min(2 * self._pause, BACKOFF[1])

    def _join(self) -> Group:
        group = self._group = Group(self._settings, self._source)
        loop = asyncio.get_running_loop()
        loop.add_reader(group.ears, self._hear, group, group.ears, False)
        loop.add_reader(group.mouth, self._hear, group, group.mouth, True)
        self._talk.joined(self._clock.monotonic())
        return group

    def _leave(self, group: Group) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(group.ears)
        loop.remove_reader(group.mouth)
        group.close()
        self._group = None
        self._talk.lost()

    async def _take_part(self, group: Group) -> None:
        """Say what is due when it is due. Never returns; DiscoveryError when the interface does not carry it."""
        while True:
            if self._broken is not None:
                raise self._broken
            was_deaf = self._talk.deaf
            datagrams = self._talk.due(self._clock.monotonic(), group.limit, self._clock.wall())
            if datagrams:
                group.check()
                self._send(group, datagrams)
                self._talk.complaints.clear("link", self._settings.interface)
                self._pause = BACKOFF[0]
            if self._talk.deaf and not was_deaf:
                group.renew()
            self._news.tell()
            await self._sleep(self._talk.next_event)

    def _send(self, group: Group, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            group.send(datagram)
        for host in {*self._settings.direct, *self._talk.table.direct()} - {self._source}:
            failures = [why for datagram in datagrams if (why := group.tell(datagram, host))]
            self._talk.told(host, failures[-1] if failures else "", self._clock.monotonic())

    async def _sleep(self, until: float) -> None:
        """Until that time of our clock, or until something wakes us."""
        await rest(self._wake, until - self._clock.monotonic())
        self._wake.clear()

    # What wakes it. -------------------------------------------------------------------------------------------

    def _hear(self, group: Group, listener: socket, direct: bool) -> None:
        before = self._talk.next_event
        try:
            for datagram, source in group.receive(listener, _AT_ONCE):
                self._take(group, datagram, source, direct)
        except DiscoveryError as error:
            self._broken = error
        if self._broken is not None or self._talk.next_event < before:
            self._wake.set()
        self._news.tell()

    def _take(self, group: Group, datagram: bytes, source: IPAddress, direct: bool) -> None:
        """One datagram. Where several programs of this host listen, what came to one alone is told to all."""
        now = self._clock.monotonic()
        if self._settings.crowded and direct:
            group.hand_on(datagram, source)
        elif handed := group.handed_on(datagram, source):
            datagram, source = handed
            direct = True
            if not datagram or not self._settings.crowded:
                return
        self._talk.receive(datagram, source, now, direct)

    def _interface_changed(self, watch: InterfaceWatch) -> None:
        watch.drain()
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(_SETTLE, self._look)

    def _look(self) -> None:
        """Some interface changed: is ours still what we joined the group on?"""
        self._looking = False
        if self._news.closed:
            return
        if self._group is not None:
            try:
                self._group.check()
                return
            except DiscoveryError as error:
                self._broken = error
        self._wake.set()
