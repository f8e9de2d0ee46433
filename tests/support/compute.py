"""A local Google Compute Engine API for tests, with a checker that holds every call against Google's own published
discovery document.

    with compute(small(3)) as gce:
        gce.url                            # http://127.0.0.1:40001, for -google-endpoint
        gce.be_home(monkeypatch)           # google.auth asks here; gce.environment for other processes
        gce.faults.fail("routes.insert", 503, times=2)
        gce.history.gaps(ip_network("10.244.1.0/24"), start)

It runs on a thread of its own. What a test does with `gce` takes effect at once. When it ends, every request and every
answer since the start is checked; a violation fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from google.auth.compute_engine import _metadata

from tests.support.discovery_document import violations
from weft.lab.compute.access import Access
from weft.lab.compute.engine import Compute
from weft.lab.compute.faults import Faults
from weft.lab.compute.history import Call, Change, History
from weft.lab.compute.server import Cloud, Options, serving
from weft.lab.compute.table import Table, small

STARTING = 10.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Gce:
    """A local cloud that serves. `check`ed at the end: `violations` says what is wrong so far."""

    cloud: Cloud
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """For the environment of a process of its own: nothing goes anywhere else."""
        return {
            "GCE_METADATA_HOST": self.address,
            "GCE_METADATA_IP": self.address,
            "GCE_METADATA_ROOT": self.address,
            "NO_GCE_CHECK": "false",
        }

    def be_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """This process is on an instance of this cloud: google.auth, even if it was imported before (it reads
        GCE_METADATA_HOST but once), asks here and nowhere else."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", self.address)
        monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)

    @property
    def compute(self) -> Compute:
        return self.cloud.compute

    @property
    def faults(self) -> Faults:
        return self.cloud.faults

    @property
    def history(self) -> History:
        return self.cloud.history

    @property
    def access(self) -> Access:
        return self.cloud.access

    @property
    def now(self) -> float:
        """On the clock of the history."""
        return self.compute.now

    def violations(self) -> list[str]:
        """What of the calls so far isn't as the discovery document says."""
        return [text for call in list(self.history.calls) for text in violations(call)]


class Told(msgspec.Struct):
    """What GET /lab/history answers: for a local cloud that is another process. `--bodies`: to have calls checked."""

    now: float
    changes: list[Change]
    calls: list[Call]

    @classmethod
    def of(cls, answer: bytes) -> Told:
        return msgspec.json.decode(answer, type=cls)

    def violations(self) -> list[str]:
        return [text for call in self.calls for text in violations(call)]


@contextlib.contextmanager
def compute(table: Table | None = None, *, check: bool = True, **options: object) -> Iterator[Gce]:
    """A local cloud of this table (three hosts, if none is given). `options`: of `server.Options`. `check`: fail at the
    end if a call was not as the discovery document says."""
    cloud = Cloud(table or small(), Options(bodies=True, **options))  # type: ignore[arg-type]
    listening = threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    places: list[tuple[str, int]] = []
    failures: list[BaseException] = []

    async def serve() -> None:
        stop = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stop))
        async with serving(cloud) as place:
            places.append(place)
            listening.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 (it is raised in the test's thread)
            failures.append(error)
        finally:
            listening.set()

    thread = threading.Thread(target=run, name="local cloud", daemon=True)
    thread.start()
    assert listening.wait(STARTING), "the local cloud does not start"
    try:
        assert places, f"the local cloud can't start: {failures}"
        gce = Gce(cloud, *places[0])
        yield gce
    finally:
        for loop, stop in ends:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        thread.join(STARTING)
    assert not thread.is_alive(), "the local cloud does not end"
    assert not failures, failures
    if check:
        wrong = gce.violations()
        assert not wrong, "not as Google's discovery document says:\n" + "\n".join(wrong[:20])
