"""The agent's HTTP server on a unix socket: GET /v1/<what> answers JSON. Started by the daemons.

aiohttp, because the Docker client needs it anyway. Only root (and the socket's group) may connect: mode 0660.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from weft.errors import WeftError
from weft.web.api import Api


class Server:
    """Serves one Api on the unix socket at `path`."""

    def __init__(self, api: Api, path: Path) -> None:
        self._api = api
        self._path = path
        self._runner: web.AppRunner | None = None
        self._made = 0

    async def start(self) -> None:
        """Raises WeftError if the socket can't be made, or another agent answers on it."""
        app = web.Application()
        app.router.add_get("/v1/plan", self._plan)
        app.router.add_get("/v1/explain", self._explain)
        for name in ("peers", "networks", "routes", "vxlan", "status", "events"):
            app.router.add_get(f"/v1/{name}", _plain(getattr(self._api, name)))
        self._runner = web.AppRunner(app, access_log=None)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            await _make_room(self._path)
            await self._runner.setup()
            await web.UnixSite(self._runner, str(self._path)).start()
            os.chmod(self._path, 0o660)
            self._made = self._path.stat().st_ino
        except OSError as error:
            raise WeftError(f"the agent's socket {self._path} can't be made: {error}") from error

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            with contextlib.suppress(FileNotFoundError):  # somebody tidied up before us
                if self._path.stat().st_ino == self._made:
                    self._path.unlink()

    async def _plan(self, _: web.Request) -> web.Response:
        planned = await self._api.plan()
        if planned is None:
            status = self._api.status()
            reasons = "; ".join(status.problems) or "waiting for " + ", ".join(status.waiting_for)
            return _json({"error": f"nothing is planned yet: {reasons}"}, 503)
        return _json(planned)

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            return _json(self._api.explain(request.query.get("q", "")))
        except ValueError as error:
            return _json({"error": str(error)}, 400)


def _plain(ask: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_: web.Request) -> web.StreamResponse:
        return _json(ask())

    return handler


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def _make_room(path: Path) -> None:
    """Remove the socket that an agent left behind. Raises WeftError if one answers on it, or if it is no socket."""
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
    raise WeftError(f"another agent answers on {path}; give this one its own `socket`")
