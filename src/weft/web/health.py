"""/healthz and /readyz over TCP, as flannel has them, for supervisors and load balancers. Started by the daemons."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from weft.errors import WeftError


class HealthServer:
    """`unready`: why this daemon isn't ready, "" if it is. GET /healthz: 200 while the process lives; GET /readyz: 200,
    or 503 with the reason."""

    def __init__(self, host: str, port: int, unready: Callable[[], str]) -> None:
        self._host = host
        self._port = port
        self._unready = unready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises WeftError if the port can't be listened on."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
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
        return web.Response(text="flanneld is running\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._unready()
        return web.Response(text=f"not ready: {reason}\n", status=503) if reason else web.Response(text="ready\n")
