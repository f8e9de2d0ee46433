"""routing.yaml while somebody edits it: a stack that told of no networks for an instant would lose all routes to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.eventually import soon
from weft.agent.routing_file import GRACE, RoutingFile
from weft.errors import SettingsError
from weft.settings.stack import StackSettings
from weft.wire.routing import StackConfig

HEAD = "version: 1\nstack_id: stack-a\nvni: 1000\nnetworks:\n"
FIRST, SECOND = "  - name: web\n    subnet: 172.20.0.0/16\n", "  - name: db\n    subnet: 172.30.0.0/16\n"


class Reader:
    """Follows the file; `told`: the names of the networks, each time, and the problem."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RoutingFile(StackSettings(stack_id="stack-a", vni=1000, routing_config=str(path)))
        self.told: list[tuple[list[str], str]] = []

    def take(self, stacks: tuple[StackConfig, ...]) -> None:
        self.told.append(([network.name for network in stacks[0].networks], self.file.problem))

    async def tells(self, condition: Callable[[list[str], str], bool], what: str) -> None:
        await soon(lambda: bool(self.told) and condition(*self.told[-1]), what)


@contextlib.asynccontextmanager
async def reader(path: Path) -> AsyncIterator[Reader]:
    made = Reader(path)

    async def follow() -> None:
        async for stacks in made.file.contents():
            made.take(stacks)

    task = asyncio.ensure_future(follow())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "routing.yaml"
    file.write_text(HEAD + FIRST)
    return file


async def test_an_editor_that_takes_the_file_away_and_writes_it_anew_is_one_change(path: Path) -> None:
    async with reader(path) as file:
        await file.tells(lambda names, problem: names == ["web"] and not problem, "the first one")
        path.rename(path.with_name("routing.yaml~"))
        await soon(lambda: "is missing" in file.file.problem, "it to be missed")
        path.write_text(HEAD + FIRST + SECOND)
        await file.tells(lambda names, problem: names == ["web", "db"] and not problem, "the second one")
        assert len(file.told) == 2


async def test_a_file_that_goes_takes_nothing_away_and_is_said(path: Path) -> None:
    async with reader(path) as file:
        await file.tells(lambda names, _: names == ["web"], "the first one")
        path.unlink()
        await file.tells(lambda names, problem: "is missing" in problem, "the problem")
        assert file.told[-1][0] == ["web"]
        path.write_text(HEAD + SECOND)
        await file.tells(lambda names, problem: names == ["db"] and not problem, "its end")


async def test_a_broken_file_is_said_after_a_moment_and_what_it_said_before_holds(path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with reader(path) as file:
        await file.tells(lambda names, _: names == ["web"], "the first one")
        began = loop.time()
        path.write_text("networks: 5\n")
        await file.tells(lambda names, problem: "what was said before holds" in problem, "the problem")
        assert loop.time() - began >= GRACE
        assert file.told[-1][0] == ["web"]


async def test_a_file_that_never_was_there_is_none_and_may_come(path: Path) -> None:
    path.unlink()
    async with reader(path) as file:
        await file.tells(lambda names, problem: names == [] and not problem, "what the environment says")
        path.write_text(HEAD + FIRST)
        await file.tells(lambda names, _: names == ["web"], "the file's")
    path.unlink()
    with pytest.raises(SettingsError, match="is missing"):
        file.file.read()
