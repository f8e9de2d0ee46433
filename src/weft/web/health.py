"""/healthz and /readyz over TCP, as flannel has them, for supervisors and load balancers; /health and /metrics where a
daemon has them to tell. Started by the daemons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from weft.errors import WeftError
from weft.web.metrics import CONTENT_TYPE, Metric, exposition
from weft.wire.health import HealthStatus

WELL = frozenset({"healthy", "degraded"})
"""Statuses that a load balancer may go on with: GET /health answers 200, otherwise 503."""


class HealthPage(HealthStatus, frozen=True, kw_only=True):
    """GET /health: health_status.json, and what it has no place for. `uptime`: seconds. `peers`: other hosts by the way
    that they are reached. `not_done`: objects that are not as planned."""

    version: str
    uptime: float
    peers: dict[str, int]
    routes: int
    not_done: int
    etcd_connected: bool


@dataclass(frozen=True, slots=True)
class Pages:
    """What else a daemon answers. `name`: what /healthz says is running. None: there is no such page (404)."""

    name: str = "flanneld"
    health: Callable[[], HealthPage] | None = None
    metrics: Callable[[], list[Metric]] | None = None


class HealthServer:
    """`unready`: why this daemon isn't ready, "" if it is. GET /healthz: 200 while the process lives; GET /readyz: 200,
    or 503 with the reason."""

    def __init__(self, host: str, port: int, unready: Callable[[], str], pages: Pages | None = None) -> None:
        self._host = host
        self._port = port
        self._unready = unready
        self._pages = pages or Pages()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises WeftError if the port can't be listened on."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise WeftError(f"/healthz can't listen on {self._host} port {self._port}: {error}") from error

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{self._pages.name} is running\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._unready()
        return web.Response(text=f"not ready: {reason}\n", status=503) if reason else web.Response(text="ready\n")

    async def _health(self, _: web.Request) -> web.Response:
        if self._pages.health is None:
            raise web.HTTPNotFound
        page = self._pages.health()
        body = msgspec.json.encode(page)
        return web.Response(body=body, status=200 if page.status in WELL else 503, content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._pages.metrics is None:
            raise web.HTTPNotFound
        return web.Response(body=exposition(self._pages.metrics()).encode(), headers={"Content-Type": CONTENT_TYPE})
