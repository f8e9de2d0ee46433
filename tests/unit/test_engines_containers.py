"""Whether flannel's container runs, on a small engine in this process (a real server on a real socket)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.eventually import soon
from tests.support.fake_docker import FakeDocker, contained
from weft.core.health import Container
from weft.engines import docker
from weft.engines.containers import Containers
from weft.errors import EngineError

STARTED = 1704164645.0


@pytest.fixture(autouse=True)
def _settle_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "SETTLED", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


class Seen:
    """What the source yielded, newest last."""

    def __init__(self) -> None:
        self.all: list[Container] = []

    async def wait(self, fits: Callable[[Container], bool], what: str) -> Container:
        await soon(lambda: bool(self.all) and fits(self.all[-1]), what)
        return self.all[-1]


@asynccontextmanager
async def watching(path: Path, name: str = "flannel", resync: float = 60.0) -> AsyncIterator[Seen]:
    source = Containers(name, f"unix://{path}", resync)
    seen = Seen()

    async def read() -> None:
        async for state in source.containers():
            seen.all.append(state)

    reading = asyncio.ensure_future(read())
    try:
        yield seen
    finally:
        await source.close()
        await asyncio.wait_for(reading, 60)


def is_(state: str) -> Callable[[Container], bool]:
    return lambda found: found.state == state


async def test_events_bring_each_change(path: Path) -> None:
    fake = FakeDocker()
    async with fake.serving(path), watching(path) as seen:
        await seen.wait(is_("absent"), "the first answer")
        await soon(lambda: fake.listening == 1, "the event stream")
        one = contained("flannel", health="healthy")
        fake.has(one)
        found = await seen.wait(is_("running"), "it to run")
        assert found == Container("flannel", "running", "healthy", STARTED, "flannel:v0.22", seen=True)
        fake.has({**one, "State": {"Status": "exited", "StartedAt": "2024-01-02T03:04:05Z"}}, event="die")
        assert (await seen.wait(is_("stopped"), "it to stop")).started == 0
        fake.has(event="destroy")
        assert (await seen.wait(is_("absent"), "it to go")).seen
    assert [c.state for c in seen.all] == ["absent", "running", "stopped", "absent"]


@pytest.mark.parametrize("state", ["created", "paused", "restarting", "removing", "exited", "dead"])
async def test_whatever_does_not_run_has_stopped(path: Path, state: str) -> None:
    fake = FakeDocker()
    fake.has(contained("flannel", state))
    async with fake.serving(path), watching(path) as seen:
        await seen.wait(is_("stopped"), "its state")


async def test_the_exact_name_wins_over_compose_s_service(path: Path) -> None:
    fake = FakeDocker()
    fake.has(
        contained("flannel-registrar"),
        contained("net-flannel-1", service="flannel"),
        contained("flannel", "exited"),
    )
    async with fake.serving(path), watching(path, "/flannel") as seen:
        assert (await seen.wait(is_("stopped"), "its state")).name == "flannel"


async def test_compose_s_service_is_found_by_its_label(path: Path) -> None:
    fake = FakeDocker()
    fake.has(
        contained("flannel-registrar"),
        contained("net-flannel-1", "exited", service="flannel"),
        contained("overlay", service="flannel"),
    )
    async with fake.serving(path), watching(path) as seen:
        assert (await seen.wait(is_("running"), "its state")).name == "overlay"
        fake.has(contained("flannel-registrar"), contained("net-flannel-1", "exited", service="flannel"))
        assert (await seen.wait(is_("stopped"), "the other")).name == "net-flannel-1"


async def test_an_engine_that_is_away_leaves_the_state_unknown(path: Path) -> None:
    async with watching(path) as seen:
        lost = await seen.wait(is_("unknown"), "the outage")
        assert "can't be asked" in lost.error
        fake = FakeDocker()
        fake.has(contained("flannel"))
        async with fake.serving(path):
            await seen.wait(is_("running"), "its state")
        again = await seen.wait(is_("unknown"), "the second outage")
        assert again.seen


async def test_an_answer_that_can_not_be_read_is_an_outage(path: Path) -> None:
    fake = FakeDocker()
    fake.has({**contained("flannel"), "State": "fine"})
    fake.containers[0]["State"] = {"Status": 7}
    async with fake.serving(path), watching(path) as seen:
        await seen.wait(is_("unknown"), "the outage")


async def test_without_events_it_is_looked_at_every_so_often(path: Path) -> None:
    fake = FakeDocker()
    fake.mute = True
    async with fake.serving(path), watching(path, resync=0.05) as seen:
        await seen.wait(is_("absent"), "the first answer")
        fake.has(contained("flannel"))
        await seen.wait(is_("running"), "it to be seen")


def test_a_url_of_another_kind() -> None:
    with pytest.raises(EngineError, match="unix:///PATH"):
        Containers("flannel", "ssh://somewhere")


async def test_a_start_that_can_not_be_read_is_no_start(path: Path) -> None:
    fake = FakeDocker()
    one = contained("flannel")
    fake.has({**one, "State": {"Status": "running", "StartedAt": "yesterday"}})
    async with fake.serving(path), watching(path) as seen:
        assert (await seen.wait(is_("running"), "its state")).started == 0
