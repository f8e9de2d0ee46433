"""Networks from the settings, and the table of engines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import ip_network

import pytest

from tests.support.sets import reading
from weft.engines import ENGINES
from weft.engines.docker import Docker
from weft.engines.static import Static
from weft.model import Known, Network
from weft.settings import Settings

WEB = Network("web", (ip_network("10.1.0.0/24"),), since=0.0)
DB = Network("db", (ip_network("10.2.0.0/24"),), since=0.0)


async def test_one_complete_set_sorted_and_older_than_any_claim() -> None:
    engine = Static((WEB, Network("db", DB.subnets)))
    async with reading(engine.networks()) as sets:
        assert await sets.wait(lambda k: k.complete, "the set") == Known((DB, WEB), complete=True)
        assert len(sets.seen) == 1
        assert not sets.ended


async def test_ends_when_closed() -> None:
    engine = Static(())
    sets = engine.networks()
    await anext(sets)
    await engine.close()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(sets), 60)


def test_the_table_makes_what_the_settings_name() -> None:
    docker = ENGINES["docker"](Settings(docker_host="unix:///run/other.sock", expose="labelled"))
    assert isinstance(docker, Docker)
    assert docker.url == "unix:///run/other.sock"
    assert isinstance(ENGINES["static"](Settings(networks=(WEB,))), Static)


DAEMONS = ("agent", "boot", "discovery", "flanneld", "recover", "registrar", "router")


@pytest.mark.parametrize("module", ["engines", "engines.docker", *(f"daemons.{name}" for name in DAEMONS)])
def test_only_who_asks_docker_loads_its_client(module: str) -> None:
    code = f"import sys, weft.{module}; print([m for m in ('aiohttp', 'aiodocker') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
