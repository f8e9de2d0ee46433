"""The registrar's wiring, where it is not simply wiring."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.build import view
from weft.agent.status import Status
from weft.core.sight import Chart
from weft.daemons import registrar
from weft.daemons.registrar import Registrar
from weft.model import View
from weft.settings.registrar import load
from weft.stores.memory import MemoryServer, MemoryStore


@contextmanager
def daemon(folder: Path) -> Iterator[Registrar]:
    given = {"ETCD_ENDPOINT": "http://192.0.2.9:2379", "HOST_NAME": "a", "ENGINE": "static", "RUN_DIR": str(folder)}
    settings, _ = load(given)
    one = Registrar(settings, MemoryStore(MemoryServer()), ())
    yield one


async def woken(one: Registrar, seen: View | None, again: float, within: float) -> bool:
    """Whether a cycle is asked for within so many seconds."""
    one.world.chart = Chart(courses={}, again=again)
    asked = asyncio.Event()
    one.loop.wake = asked.set  # type: ignore[method-assign]
    one._cycled(seen)
    try:
        async with asyncio.timeout(within):
            await asked.wait()
    except TimeoutError:
        return False
    return True


async def test_a_date_that_has_passed_wakes_nobody_while_nothing_is_planned(tmp_path: Path) -> None:
    """Else the loop would spin until Docker, or the address, is back."""
    with daemon(tmp_path) as one:
        assert await woken(one, view(), one.world.clock(), 20.0)
        assert not await woken(one, None, one.world.clock(), 0.3)
        await one.close()


async def test_what_stays_undone_for_good_does_not_keep_the_ladder_waiting(tmp_path: Path) -> None:
    with daemon(tmp_path) as one:
        assert one._is_pending(), "nothing was planned"
        one.loop.ready.set()
        statuses = one.loop.reconciler.account.statuses
        statuses["route", "10.9.1.0/24"] = Status("conflict", 0.0)
        statuses["sysctl", "net/ipv4/conf/vxlan7600/rp_filter"] = Status("error", 0.0)
        assert not one._is_pending()
        statuses["route", "10.9.2.0/24"] = Status("error", 0.0)
        assert one._is_pending()
        await one.close()


async def test_work_that_fails_by_a_fault_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registrar, "AFTER_A_FAULT", 0.0)
    begun, again = 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise KeyError("a fault")
        again.set()
        await asyncio.Event().wait()

    going = asyncio.ensure_future(registrar._going_on("ladder", work))
    with caplog.at_level(logging.ERROR, "weft"):
        await asyncio.wait_for(again.wait(), 60)
    going.cancel()
    assert "ladder: a fault in weft itself" in caplog.text
