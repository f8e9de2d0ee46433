"""Hosts that discover by DNS, for tests: each is a `Dns` whose sets are kept.

async with Stage(server) as stage:
    a = stage.host("a")                  # registers as node `a`, 192.0.2.1, and follows
    await a.sees("b")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from tests.build import node
from tests.support.bind import Bind
from tests.support.eventually import soon
from weft.discovery.dns import Dns
from weft.discovery.dns_options import DnsSettings, parse_key, parse_servers
from weft.discovery.news import Clock
from weft.model import Known, Node

INTERVAL = 0.3
TIMEOUT = 1.2


def router(name: str, number: int, *subnets: str, stack: str = "") -> Node:
    """A router of the stack of its own name, or of `stack`, at 192.0.2.<number>."""
    own = subnets or (f"172.20.{number}.0/24",)
    return replace(node(name, f"192.0.2.{number}", *own), source="dns", stack=stack or name)


@dataclass
class DnsHost:
    """One `Dns` that runs. `known`: every set that it yielded."""

    dns: Dns
    me: Node | None
    known: list[Known[Node]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    crashed: bool = False

    def start(self) -> None:
        if self.me is not None:
            self.dns.announce(self.me)
        self.task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        async for known in self.dns.peers():
            self.known.append(known)

    @property
    def now(self) -> Known[Node]:
        return self.known[-1] if self.known else Known()

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.now.items]

    @property
    def problems(self) -> str:
        return "\n".join(f"{one.subject}: {one.message}" for one in self.now.problems)

    async def sees(self, *ids: str, complete: bool = True, timeout: float = 5.0) -> Known[Node]:
        """Waits until its set is exactly these."""
        await soon(
            lambda: self.ids == sorted(ids) and self.now.complete == complete,
            f"{self.me.id if self.me else 'a listener'} to see {ids}, complete {complete}, not {self.now}",
            timeout,
        )
        return self.now

    async def says(self, *words: str, timeout: float = 5.0) -> str:
        """Waits for problems in which all of these words are."""
        await soon(lambda: all(word in self.problems for word in words), f"{words} in {self.problems!r}", timeout)
        return self.problems

    async def looked(self, rounds: int = 2) -> None:
        """Waits until so many more rounds have been answered or given up."""
        before = self.dns._book.rounds
        await soon(lambda: self.dns._book.rounds >= before + rounds, f"{rounds} rounds")

    async def close(self) -> None:
        if self.crashed:
            return
        await self.dns.close()
        if self.task is not None:
            await self.task

    async def crash(self) -> None:
        """Stops without a word: its records stay."""
        await self.dns._news.end()
        if self.task is not None:
            await self.task
        self.crashed = True


class Stage:
    """Hosts of one server; all are closed at the end."""

    def __init__(self, server: Bind, **settings: object) -> None:
        self.server = server
        self.hosts: list[DnsHost] = []
        base = DnsSettings("", "", server.zone, interval=INTERVAL, peer_timeout=TIMEOUT, goodbye_hold=0.0, ttl=1)
        self.settings = replace(base, **settings)  # type: ignore[arg-type]

    def host(
        self,
        me: Node | None,
        *,
        key: str | None = None,
        servers: Sequence[str] | None = None,
        wall: Callable[[], float] = time.time,
        **changes: object,
    ) -> DnsHost:
        """One more, started. `me` None: it registers nothing. `key`, `servers`: others than the server's own."""
        name = me.id if me is not None else "listener"
        settings = replace(
            self.settings,
            node=name,
            instance=f"{name}-{len(self.hosts)}-{time.monotonic_ns():x}",
            servers=parse_servers(",".join([self.server.endpoint] if servers is None else servers)),
            key=parse_key(self.server.key if key is None else key),
            **changes,  # type: ignore[arg-type]
        )
        host = DnsHost(Dns(settings, Clock(wall=wall)), me)
        self.hosts.append(host)
        host.start()
        return host

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            await host.close()
