"""/healthz and /readyz over TCP, as flannel has them, for supervisors and load balancers; /health and /metrics where a
daemon has them to tell. Started by the daemons."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from weft.errors import WeftError
from weft.web.lean import Answer, LeanServer
from weft.web.lean import Page as Handler
from weft.web.metrics import CONTENT_TYPE, exposition
from weft.web.pages import WELL, HealthPage, Page, Pages

__all__ = ["WELL", "HealthPage", "HealthServer", "Page", "Pages"]

TEXT = "text/plain; charset=utf-8"


class HealthServer:
    """`unready`: why this daemon isn't ready, "" if it is. GET /healthz: 200 while the process lives; GET /readyz: 200,
    or 503 with the reason."""

    def __init__(self, host: str, port: int, unready: Callable[[], str], pages: Pages | None = None) -> None:
        self._host = host
        self._port = port
        self._server = LeanServer(answers(unready, pages or Pages()))

    async def start(self) -> None:
        """Raises WeftError if the port can't be listened on."""
        try:
            await self._server.listen(self._host, self._port)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)  # asyncio's own words repeat the address
            raise WeftError(f"/health can't listen on {self._host} port {self._port}: {why}") from error

    async def stop(self) -> None:
        await self._server.stop()


def answers(unready: Callable[[], str], pages: Pages) -> Mapping[str, Handler]:
    """By path."""

    def healthz(_: Mapping[str, str]) -> Answer:
        return Answer(f"{pages.name} is running\n".encode(), kind=TEXT)

    def readyz(_: Mapping[str, str]) -> Answer:
        reason = unready()
        return Answer(f"not ready: {reason}\n".encode(), 503, TEXT) if reason else Answer(b"ready\n", kind=TEXT)

    def health(_: Mapping[str, str]) -> Answer:
        assert pages.health is not None
        page = pages.health()
        return Answer(msgspec.json.encode(page), 200 if page.status in WELL else 503)

    def metrics(_: Mapping[str, str]) -> Answer:
        assert pages.metrics is not None
        return Answer(exposition(pages.metrics()).encode(), kind=CONTENT_TYPE)

    told: dict[str, Handler] = {"/healthz": healthz, "/readyz": readyz}
    told.update({"/health": health} if pages.health is not None else {})
    told.update({"/metrics": metrics} if pages.metrics is not None else {})
    return told
