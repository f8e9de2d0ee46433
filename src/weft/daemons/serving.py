"""What several daemons do alike at their start: answer GET /health and /metrics. Called by `weft discovery`,
`weft router` and `weft route-manager`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from weft.agent.loop import Loop
from weft.errors import WeftError
from weft.model import IPAddress
from weft.web.health import HealthServer
from weft.web.pages import Pages


async def serve_health(
    closing: AsyncExitStack, place: tuple[IPAddress, int], pages: Pages, loop: Loop[Any], setting: str = "HEALTH_PORT"
) -> None:
    """Answer there until `closing` is left; port 0: don't. A port that is taken is a problem and no reason to end: a
    host may have several stacks. `setting`: which one names the port."""
    address, port = place
    if not port:
        return

    def unready() -> str:
        return "" if loop.ready.is_set() else "waiting for " + ", ".join(loop.world.waiting() or ["the first plan"])

    server = HealthServer(str(address), port, unready, pages)
    try:
        await server.start()
    except WeftError as error:
        loop.world.report("health", f"{error}; set {setting} to a free one, or to 0")
    else:
        closing.push_async_callback(server.stop)
