"""routing.yaml as a source: followed while a daemon runs, so that a stack's new network needs no restart. Used by
`weft router` and `weft discovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from weft.agent.stacks import read_routing, settled
from weft.discovery.file_watch import PathWatch
from weft.errors import SettingsError
from weft.settings.stack import StackSettings
from weft.wire.routing import StackConfig

REFRESH = 30.0
"""Seconds after which the file is looked at in any case."""


class RoutingFile:
    """`stacks`: this host's. `problem`: why the file as it is now can't be used, "" if it can; what it said before
    holds meanwhile."""

    def __init__(self, settings: StackSettings) -> None:
        self.problem = ""
        self._settings = settings
        self.stacks: tuple[StackConfig, ...] = ()

    def read(self) -> tuple[StackConfig, ...]:
        """The stacks of this host. Raises SettingsError."""
        self.stacks = settled(self._settings, read_routing(self._settings.routing))
        return self.stacks

    async def contents(self) -> AsyncIterator[tuple[StackConfig, ...]]:
        """Yield the stacks now, and whenever they, or `problem`, have changed."""
        woken = asyncio.Event()
        watches = [PathWatch(str(path), woken.set) for path in self._settings.routing]
        told: object = None
        try:
            while True:
                woken.clear()
                for watch in watches:
                    watch.renew()
                try:
                    self.read()
                    self.problem = ""
                except SettingsError as error:
                    self.problem = f"{error}; what was said before holds"
                if self.stacks and told != (now := (self.stacks, self.problem)):
                    told = now
                    yield self.stacks
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH):
                        await woken.wait()
        finally:
            for watch in watches:
                watch.close()
