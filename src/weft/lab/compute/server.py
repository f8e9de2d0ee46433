"""All of it behind one address: the API, the metadata server and the lab's own door. Started by `__main__`, and by
tests on a thread of theirs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

from weft.errors import LabError
from weft.lab.compute.access import UNLIMITED, Access, Rate, Token
from weft.lab.compute.api import PREFIX, Api
from weft.lab.compute.control import Control
from weft.lab.compute.engine import Compute, QuotaAs
from weft.lab.compute.faults import Faults
from weft.lab.compute.history import History
from weft.lab.compute.metadata import PREFIX as METADATA
from weft.lab.compute.metadata import Metadata
from weft.lab.compute.oauth import Keys
from weft.lab.compute.operations import DEFAULT_TIMING, Timing
from weft.lab.compute.paging import WHOLE, Paging
from weft.lab.compute.table import Table

LARGEST = 1 << 20
"""Octets of a request's body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the local cloud behaves. `open`: calls without a token are let in; `bodies`: the history keeps them;
    `clock`: seconds, any zero."""

    timing: Timing = DEFAULT_TIMING
    rate: Rate = UNLIMITED
    paging: Paging = WHOLE
    quota_as: QuotaAs = "answer"
    open: bool = False
    bodies: bool = False
    seed: int = 1
    clock: Callable[[], float] = time.monotonic


class Cloud:
    """The parts, put together."""

    def __init__(self, table: Table, options: Options) -> None:
        self.compute = Compute(table, options.timing, options.quota_as, options.clock, options.seed)
        self.access = Access(
            lambda: self.compute.table.account,
            lambda: self.compute.now,
            table.project,
            table.number,
            options.rate,
            options.open,
        )
        self.keys = Keys(self.compute, self.access)
        self.api = Api(self.compute, self.access, options.paging, options.bodies)

    @property
    def history(self) -> History:
        return self.compute.history

    @property
    def faults(self) -> Faults:
        return self.compute.faults

    def token(self) -> Token:
        return self.access.token()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST)
        application.add_routes(Control(self.compute, self.access, self.keys).routes())
        application.router.add_post("/token", self.keys.handle)
        metadata = Metadata(self.compute, self.access)
        application.router.add_route("*", PREFIX + "{rest:.*}", self.api.handle)
        application.router.add_route("*", METADATA + "{rest:.*}", metadata.handle)
        application.router.add_route("*", "/", metadata.handle)
        return application


@contextlib.asynccontextmanager
async def serving(cloud: Cloud, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, int]]:
    """Serve on this event loop; where. LabError: the address can't be had."""
    runner = web.AppRunner(cloud.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise LabError(f"the local cloud can't listen on {host}:{port}: {error.strerror}") from error
        address = runner.addresses[0]
        yield str(address[0]), int(address[1])
    finally:
        await runner.cleanup()
