"""Whether one container is there and runs: FLANNEL_CONTAINER_NAME, for the health of `weft registrar`.

The connection, its outages and its events are those of `docker.py`: an event only wakes, what the engine says about the
container decides. The engine can't be asked: the state is unknown, and why is told.

Source of the format: Docker Engine API, GET /containers/json and GET /containers/ID/json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from weft.core.health import Container
from weft.engines.docker import Line, pause_after, url_of
from weft.engines.docker_networks import printable
from weft.errors import EngineError

if TYPE_CHECKING:
    from aiodocker import Docker as Client

_EVENTS = {
    "type": ["container"],
    "event": ["create", "start", "die", "stop", "pause", "unpause", "destroy", "rename", "health_status"],
}
SERVICE = "com.docker.compose.service"
"""Compose's label: its containers are called `<project>-<service>-<number>`."""


class _State(msgspec.Struct, rename="pascal"):
    status: str
    """created | running | paused | restarting | removing | exited | dead"""
    started_at: str = ""
    health: _Check | None = None


class _Check(msgspec.Struct, rename="pascal"):
    status: str = ""


class _Config(msgspec.Struct, rename="pascal"):
    image: str = ""


class _Inspected(msgspec.Struct, rename="pascal"):
    name: str
    state: _State
    config: _Config


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    created: int = 0
    state: str = ""
    names: list[str] | None = None
    labels: dict[str, str] | None = None


class Containers:
    """The container called `name` on the engine at `url` (as `docker.Docker` has it): the one of exactly that name,
    else the newest of Compose's service of that name, a running one first. `resync`: seconds after which it is looked
    at even if no event came. Raises EngineError for a URL of another kind."""

    def __init__(self, name: str, url: str = "", resync: float = 60.0) -> None:
        self._name = name.removeprefix("/")
        self._url = url_of(url)
        self._resync = resync
        self._closing = asyncio.Event()

    async def containers(self) -> AsyncIterator[Container]:
        """Its state at once and each time that it changed; ends after `close`."""
        told: Container | None = None
        line: Line | None = None
        failures = 0
        seen = False
        try:
            while not self._closing.is_set():
                try:
                    line = line or Line(self._url, _EVENTS)
                    if await self._closed_before(line):
                        return
                    now = await line.ask(lambda client: look(client, self._name))
                except EngineError as error:
                    failures += 1
                    await _hang_up(line)
                    line = None
                    now = Container(self._name, error=f"docker at {self._url} can't be asked: {error}")
                else:
                    failures = 0 if line.proven else failures
                seen = seen or now.state in ("running", "stopped")
                now = replace(now, seen=seen)
                if now != told:
                    told = now
                    yield now
                if line is None:
                    await self._pause(pause_after(failures))
        finally:
            await _hang_up(line)

    async def close(self) -> None:
        self._closing.set()

    async def _closed_before(self, line: Line) -> bool:
        """Wait for an event, or until it is time to look again; True if `close` was called first."""
        rung = asyncio.ensure_future(line.rings(self._resync))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({rung, closing}, return_when=asyncio.FIRST_COMPLETED)
            if rung.done():
                rung.result()
            return closing.done()
        finally:
            for task in (rung, closing):
                task.cancel()
            await asyncio.gather(rung, closing, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):  # the pause is over
            async with asyncio.timeout(seconds):
                await self._closing.wait()


async def look(client: Client, name: str) -> Container:
    """The container of this name, now."""
    listed: list[_Listed] = []
    for filters in ({"name": [name]}, {"label": [f"{SERVICE}={name}"]}):
        found = await client.containers.list(all="1", filters=json.dumps(filters))
        listed += msgspec.convert([one._container for one in found], list[_Listed])
    best = _pick(listed, name)
    if best is None:
        return Container(name, "absent")
    return _told(await client.containers.container(best.id).show())


async def _hang_up(line: Line | None) -> None:
    if line is not None:
        await line.close()


def _pick(listed: Sequence[_Listed], name: str) -> _Listed | None:
    """Docker's name filter finds every name that the text is a part of."""
    exact = [one for one in listed if f"/{name}" in (one.names or ())]
    of_service = [one for one in listed if (one.labels or {}).get(SERVICE) == name]
    best = sorted(exact or of_service, key=lambda one: (one.state == "running", one.created))
    return best[-1] if best else None


def _told(answer: object) -> Container:
    inspected = msgspec.convert(answer, _Inspected)
    state = inspected.state
    running = state.status in ("running", "paused")
    return Container(
        name=printable(inspected.name.removeprefix("/")),
        state="running" if state.status == "running" else "stopped",
        health=printable(state.health.status) if state.health is not None and state.health.status != "none" else "",
        started=_moment(state.started_at) if running else 0.0,
        image=printable(inspected.config.image),
    )


def _moment(text: str) -> float:
    """Docker's nanoseconds are more digits than Python reads in 3.11; seconds will do."""
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(f"{text[:19]}+00:00")
        return moment.timestamp() if moment.year > 1 else 0.0
    return 0.0
