"""/healthz, /readyz, /health and /metrics, over real TCP on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.ports import free_port
from weft.core.health import Status
from weft.errors import WeftError
from weft.web.health import HealthPage, HealthServer, Pages
from weft.web.metrics import Readings, metrics_of


@pytest.fixture
def port() -> int:
    """A free one."""
    return free_port()


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
    with pytest.raises(WeftError, match=f"/health can't listen on 127.0.0.1 port {port}: Address already in use"):
        await HealthServer("127.0.0.1", port, str).start()


async def test_flanneld_has_neither_health_nor_metrics(port: int, reasons: list[str]) -> None:
    assert (await asked(port, "/health"))[0] == 404
    assert (await asked(port, "/metrics"))[0] == 404


def page_of(status: Status) -> HealthPage:
    return HealthPage(
        status=status,
        last_check=1_700_000_000,
        message="said",
        hostname="babka",
        version="0.1.0",
        uptime=5.5,
        peers={"direct": 2},
        routes=7,
        not_done=0,
        etcd_connected=True,
    )


@pytest.mark.parametrize(
    ("status", "code"), [("healthy", 200), ("degraded", 200), ("starting", 503), ("critical", 503), ("unknown", 503)]
)
async def test_health_is_the_file_and_more(port: int, status: Status, code: int) -> None:
    pages = Pages("the registrar", lambda: page_of(status), lambda: list(metrics_of(Readings(status, True))))
    server = HealthServer("127.0.0.1", port, str, pages)
    await server.start()
    try:
        assert (await asked(port, "/healthz")) == (200, "the registrar is running\n")
        answered, text = await asked(port, "/health")
        assert answered == code
        told = json.loads(text)
        assert list(told)[:5] == ["status", "last_check", "message", "hostname", "issues"]
        assert (told["status"], told["peers"]) == (status, {"direct": 2})
        answered, text = await asked(port, "/metrics")
        assert answered == 200
        assert f'weft_health_status{{status="{status}"}} 1\n' in text
    finally:
        await server.stop()
