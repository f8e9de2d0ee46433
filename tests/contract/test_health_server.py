"""/healthz and /readyz, over real TCP on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from weft.errors import WeftError
from weft.web.health import HealthServer


@pytest.fixture
def port() -> int:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
async def reasons(port: int) -> AsyncIterator[list[str]]:
    """What the server's daemon waits for, while it serves on `port`."""
    waiting: list[str] = ["waiting for leases"]
    server = HealthServer("127.0.0.1", port, lambda: waiting[0])
    await server.start()
    yield waiting
    await server.stop()


async def asked(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_alive_is_not_ready(port: int, reasons: list[str]) -> None:
    assert await asked(port, "/healthz") == (200, "flanneld is running\n")
    assert await asked(port, "/readyz") == (503, "not ready: waiting for leases\n")
    reasons[0] = ""
    assert await asked(port, "/readyz") == (200, "ready\n")


async def test_a_port_that_is_taken_is_named(port: int, reasons: list[str]) -> None:
    with pytest.raises(WeftError, match=f"/healthz can't listen on 127.0.0.1 port {port}"):
        await HealthServer("127.0.0.1", port, str).start()
