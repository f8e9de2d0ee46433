"""Docker Engine as a source of networks. `agent/world.py` reads it through the Engine protocol.

Level, not edge: an event only wakes, the engine's whole list decides. The event stream is asked for everything that the
engine remembers (`since`), so what happens between subscribing and listing wakes us too, in whichever order they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from weft.engines.docker_networks import Expose, printable, read_networks
from weft.errors import EngineError
from weft.model import Known, Network, Problem

if TYPE_CHECKING:
    from aiodocker import Docker as Client

T = TypeVar("T")

DEFAULT_URL = "unix:///var/run/docker.sock"
ANSWER = 5.0
"""Seconds that the engine may take for one answer; a list of networks takes a millisecond."""
RETRY_FIRST, RETRY_LONGEST = 0.1, 10.0
"""Seconds between two attempts to reach the engine: doubled each time, with jitter, for ever."""
SETTLED = 1.0
"""Seconds that a new connection must hold, its event stream too, before an outage is over."""
_EVENTS = {"type": ["network"], "event": ["create", "destroy", "remove", "prune", "update"]}
"""Not connect and disconnect: a container that comes or goes changes no network."""


def url_of(url: str) -> str:
    """Where the engine is; EngineError for a URL of a kind that can't be used."""
    url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
    if not re.match(r"unix:///.|(tcp|https?)://.", url):
        raise EngineError(f"docker_host {url!r} is not a URL that weft can use: unix:///PATH or tcp://HOST:PORT")
    return url


class Docker:
    """The networks of one Docker Engine, at `url` (unix://… or tcp://…; default: $DOCKER_HOST, then Docker's own
    socket; TLS as Docker's own tools: $DOCKER_TLS_VERIFY, $DOCKER_CERT_PATH).

    `resync`: seconds after which the list is read even if no event came. Raises EngineError for a URL of another kind.
    """

    name = "docker"

    def __init__(self, url: str = "", expose: Expose = "all", resync: float = 60.0) -> None:
        self.url = url_of(url)
        self._expose = expose
        self._resync = resync
        self._line: Line | None = None
        self._closing = asyncio.Event()

    async def networks(self) -> AsyncIterator[Known[Network]]:
        """As the Engine protocol says; ends after `close`."""
        good: Known[Network] = Known()
        told: Known[Network] | None = None
        outage = _Outage(self.url)
        try:
            while not self._closing.is_set():
                try:
                    line = self._line = self._line or Line(self.url, _EVENTS)
                    rang = await line.rings(self._resync)
                    listing = await line.ask(lambda client: client.networks.list())
                    networks, problems = read_networks(listing, self._expose)
                except EngineError as error:
                    await self._hang_up()
                    outage.goes_on(error, good)
                else:
                    if line.proven:
                        outage.ends()
                    if not rang and networks != good.items:
                        await self._hang_up()  # no event told of this: the stream is dead without having ended
                    good = Known(networks, complete=True, problems=problems)
                now = replace(good, problems=good.problems + outage.problems)
                if now != told and not self._closing.is_set():
                    told = now
                    yield now
                if self._line is None:
                    await self._pause(outage.pause())
        finally:
            await self._hang_up()

    async def close(self) -> None:
        self._closing.set()
        await self._hang_up()

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):  # the pause is over
            async with asyncio.timeout(seconds):
                await self._closing.wait()


class _Outage:
    """What is told while an engine can't be asked, and how long to wait before the next attempt."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._failures = 0
        self._since = 0.0
        self.problems: tuple[Problem, ...] = ()

    def goes_on(self, error: EngineError, good: Known[Network]) -> None:
        self._failures += 1
        self._since = self._since or time.time()
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self._since))
        kept = f"keeping the last known {len(good.items)} networks"
        unknown = "no network is known yet: does it run, and is docker_host right?"
        text = f"docker at {self._url} can't be asked since {when}: {error}; {kept if good.complete else unknown}"
        self.problems = (Problem(Docker.name, text),)

    def ends(self) -> None:
        self._failures, self._since, self.problems = 0, 0.0, ()

    def pause(self) -> float:
        """Seconds; 0 if nothing failed."""
        return pause_after(self._failures)


def pause_after(failures: int) -> float:
    """Seconds before the next attempt to reach an engine; 0 if nothing failed."""
    if not failures:
        return 0.0
    return min(RETRY_LONGEST, RETRY_FIRST * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)


class Line:
    """One connection to an engine: its event stream rings, `ask` asks. Every trouble with it is an EngineError.
    `events`: Docker's filters of the events that ring. `containers.py` has a line of its own."""

    def __init__(self, url: str, events: Mapping[str, Sequence[str]]) -> None:
        self._answers = 0
        self._client = _client(url)
        self._events = self._client.events.subscribe(create_task=False)  # type: ignore[no-untyped-call]  # aiodocker's
        self._stream = asyncio.create_task(self._client.events.run(since="1", filters=json.dumps(events)))

    @property
    def proven(self) -> bool:
        """The engine answered, and again some time later, and the event stream is still there."""
        return self._answers > 1

    async def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """An answer of the engine's, as decoded JSON."""
        try:
            answer = await question(self._client)
        except _trouble() as error:
            raise EngineError(_reason(error)) from error
        self._answers += 1
        return answer

    async def rings(self, within: float) -> bool:
        """Wait for an event, or a burst of them; False: none came within so many seconds. A new line rings at once."""
        if not self._answers:
            return True
        if not self.proven:
            within = min(within, SETTLED)
        try:
            async with asyncio.timeout(within):  # not wait_for: in Python 3.11 an event in time swallows a cancellation
                event = await self._events.get()
        except TimeoutError:
            return False
        while event is not None and not self._events.queue.empty():
            event = self._events.queue.get_nowait()
        if event is None:  # aiodocker's mark for the end of the stream
            raise await self._end()
        return True

    async def close(self) -> None:
        self._stream.cancel()
        try:
            await asyncio.gather(self._stream, return_exceptions=True)
        finally:
            await self._client.close()

    async def _end(self) -> EngineError:
        """Why the event stream ended."""
        await asyncio.wait({self._stream})
        error = None if self._stream.cancelled() else self._stream.exception()
        if error is None:
            return EngineError("it ended the stream of events")
        if isinstance(error, _trouble()):
            return EngineError(_reason(error))
        raise error


def _client(url: str) -> Client:
    import aiodocker  # here and below: 100 ms that `weft --help` need not wait
    import aiohttp

    try:
        return aiodocker.Docker(url, timeout=aiohttp.ClientTimeout(total=ANSWER))
    except (ValueError, OSError) as error:
        raise EngineError(f"{error} (see $DOCKER_TLS_VERIFY and $DOCKER_CERT_PATH)") from error


def _trouble() -> tuple[type[Exception], ...]:
    """What aiodocker raises if the engine can't be asked, or if something other than an engine answers."""
    import aiodocker
    import aiohttp

    return (
        aiodocker.DockerError,
        aiohttp.ClientError,
        OSError,  # TimeoutError too
        ValueError,  # the answer is no JSON
        TypeError,  # ... of another content type
        KeyError,  # ... no version, or an error without a message
        RuntimeError,  # `close` was called meanwhile
    )


def _reason(error: BaseException) -> str:
    import aiodocker
    import aiohttp

    cause = error.__context__
    if isinstance(cause, aiohttp.ClientConnectorError) and cause.os_error.strerror:
        return cause.os_error.strerror
    if isinstance(error, aiodocker.DockerError):
        said = printable(str(error.message))
        return f"it answered {error.status}: {said}" if error.status < 900 else said
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "it closed the connection"
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER:g} s"
    return printable(f"{type(error).__name__}: {error}")
