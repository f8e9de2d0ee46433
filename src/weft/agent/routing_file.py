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
GRACE = 0.2
"""Seconds for which it must say the same before that is believed: an editor takes a file away and writes it anew, and a
stack that told of no networks meanwhile would lose all routes to it."""


class RoutingFile:
    """`problem`: why the file as it is now can't be used, "" if it can; `stacks`, what it said last, hold meanwhile."""

    def __init__(self, settings: StackSettings) -> None:
        self.problem = ""
        self._settings = settings
        self.stacks: tuple[StackConfig, ...] = ()
        self._found = False

    def read(self) -> tuple[StackConfig, ...]:
        """The stacks of this host. Raises SettingsError, also if a file that was there is not there any more."""
        config = read_routing(self._settings.routing)
        if config is None and self._found:
            places = " or ".join(map(str, self._settings.routing))
            raise SettingsError(f"{places} is missing; put it back, or restart this if it is to go")
        self.stacks = settled(self._settings, config)
        self._found = config is not None
        return self.stacks

    async def contents(self) -> AsyncIterator[tuple[StackConfig, ...]]:
        """Yield the stacks now, and whenever they, or `problem`, have changed and stay so for a moment."""
        woken = asyncio.Event()
        clock = asyncio.get_running_loop().time
        watches = [PathWatch(str(path), woken.set) for path in self._settings.routing]
        told: object = None
        seen: tuple[object, float] = (None, 0.0)
        try:
            while True:
                woken.clear()
                for watch in watches:
                    watch.renew()
                self._look()
                now = (self.stacks, self.problem)
                if seen[0] != now:
                    seen = (now, clock())
                pause = seen[1] + GRACE - clock() if self.stacks and told not in (None, now) else 0.0
                if self.stacks and told != now and pause <= 0:
                    told = now
                    yield self.stacks
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause if pause > 0 else REFRESH):
                        await woken.wait()
        finally:
            for watch in watches:
                watch.close()

    def _look(self) -> None:
        try:
            self.read()
            self.problem = ""
        except SettingsError as error:
            self.problem = f"{error}; what was said before holds"
