"""routing.yaml as a source: followed while a daemon runs, so that a stack's new network needs no restart. Used by
`weft router` and `weft discovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from weft.agent.stacks import read_routing, settled
from weft.discovery.file_watch import PathWatch
from weft.errors import SettingsError
from weft.settings.stack import StackSettings
from weft.wire.routing import StackConfig

REFRESH = 30.0
"""Seconds after which the file is looked at in any case."""


class RoutingFile:
    """`problem`: why the file as it is now can't be used, "" if it can; what it said before holds meanwhile."""

    def __init__(self, settings: StackSettings) -> None:
        self.problem = ""
        self._settings = settings

    def read(self) -> tuple[StackConfig, ...]:
        """The stacks of this host. Raises SettingsError."""
        return settled(self._settings, read_routing(self._settings.routing))

    async def contents(self) -> AsyncIterator[tuple[StackConfig, ...]]:
        """Yield the stacks now, and whenever they, or `problem`, have changed."""
        woken = asyncio.Event()
        watches = [PathWatch(str(path), woken.set) for path in self._settings.routing]
        stacks: tuple[StackConfig, ...] = ()
        told: object = None
        try:
            while True:
                woken.clear()
                for watch in watches:
                    watch.renew()
                try:
                    stacks, self.problem = self.read(), ""
                except SettingsError as error:
                    self.problem = f"{error}; what was said before holds"
                if told != (stacks, self.problem):
                    told = (stacks, self.problem)
                    yield stacks
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH):
                        await woken.wait()
        finally:
            for watch in watches:
                watch.close()


def first(paths: tuple[Path, ...]) -> str:
    """The routing.yaml that is there, for people; "" if none is."""
    return next((str(path) for path in paths if path.exists()), "")
