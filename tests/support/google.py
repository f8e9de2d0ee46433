"""Managers of Google routes beside a local cloud, for tests: whatever google-auth looks for, it finds there.

with google_world.cloud(small(3)) as gce:
    async with manager(gce, adopt=True) as tables:
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import google.auth.compute_engine._metadata as google_metadata
import pytest

from tests.support.compute import Gce, compute
from weft.lab.compute.operations import Timing
from weft.lab.compute.table import Table
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import google_operations, pace
from weft.targets.cloud.google import GoogleRoutes

QUICK = Timing(pending=0.002, running=0.004)


class World:
    """Local clouds. Whatever waits for them, waits less: nothing here is about how long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(home))
        monkeypatch.setattr(pace, "FIRST_DELAY", 0.01)
        monkeypatch.setattr(google_operations, "FIRST_PAUSE", 0.005)
        monkeypatch.setattr(google_operations, "EACH", 0.002)
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
            monkeypatch.delenv(name, raising=False)

    @contextmanager
    def cloud(self, table: Table | None = None, **options: object) -> Iterator[Gce]:
        with compute(table, **{"timing": QUICK, **options}) as gce:  # type: ignore[arg-type]
            for name, value in gce.environment.items():
                self._monkeypatch.setenv(name, value)
            # google-auth reads this variable when it is imported, which another test may have done.
            self._monkeypatch.setattr(google_metadata, "_GCE_METADATA_HOST", gce.address)
            yield gce


@asynccontextmanager
async def manager(gce: Gce, **flags: object) -> AsyncIterator[GoogleRoutes]:
    settings = RouteManagerSettings(**{"google_endpoint": gce.url, "requests_per_second": 5000.0, **flags})  # type: ignore[arg-type]
    tables = GoogleRoutes.of(settings)
    try:
        yield tables
    finally:
        await tables.close()
