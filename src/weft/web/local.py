"""A daemon's Api on a unix socket: GET /v1/<what> answers JSON. Started by `weft agent`, `weft flanneld`,
`weft registrar` and `weft router`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from weft.errors import WeftError
from weft.web.api import AgentStatus, ExplainAnswer, PlanAnswer
from weft.web.lean import Answer, LeanServer, Page

WORDS = ("peers", "networks", "routes", "vxlan", "status", "events")
"""What is answered under /v1/ as it stands, as far as the Api has it."""


class Answering(Protocol):
    """`web.api.Api`; what else it has of WORDS is asked by name."""

    def status(self) -> AgentStatus: ...

    async def plan(self) -> PlanAnswer | None: ...

    def explain(self, asked: str) -> ExplainAnswer: ...


class LocalServer:
    """Serves one Api on the unix socket at `path`. Only root (and the socket's group) may connect: mode 0660."""

    def __init__(self, api: Answering, path: Path) -> None:
        self._api = api
        self._path = path
        self._made = 0
        told = {f"/v1/{word}": _page(getattr(api, word)) for word in WORDS if hasattr(api, word)}
        self._server = LeanServer({**told, "/v1/plan": self._plan, "/v1/explain": self._explain})

    async def start(self) -> None:
        """Raises WeftError if the socket can't be made, or another daemon answers on it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            await _make_room(self._path)
            await self._server.listen_unix(str(self._path))
            os.chmod(self._path, 0o660)
            self._made = self._path.stat().st_ino
        except OSError as error:
            raise WeftError(f"the daemon's socket {self._path} can't be made: {error}") from error

    async def stop(self) -> None:
        await self._server.stop()
        with contextlib.suppress(OSError):  # somebody tidied up before us, or the folder is read-only by now
            if self._made and self._path.stat().st_ino == self._made:
                self._path.unlink()

    async def _plan(self, _: Mapping[str, str]) -> Answer:
        planned = await self._api.plan()
        if planned is None:
            status = self._api.status()
            reasons = "; ".join(status.problems) or "waiting for " + ", ".join(status.waiting_for)
            return _json({"error": f"nothing is planned yet: {reasons}"}, 503)
        return _json(planned)

    def _explain(self, query: Mapping[str, str]) -> Answer:
        try:
            return _json(self._api.explain(query.get("q", "")))
        except ValueError as error:
            return _json({"error": str(error)}, 400)


def _page(ask: Callable[[], object]) -> Page:
    def page(_: Mapping[str, str]) -> Answer | Awaitable[Answer]:
        return _json(ask())

    return page


def _json(value: object, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(value), status)


async def _make_room(path: Path) -> None:
    """Remove the socket that a daemon left behind. Raises WeftError if one answers on it, or if it is no socket."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise WeftError(f"{path} exists and is no socket: it is left alone; set another `socket`")
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except ConnectionRefusedError:
        path.unlink()
        return
    writer.close()
    raise WeftError(f"another daemon answers on {path}; give this one its own `socket`")
