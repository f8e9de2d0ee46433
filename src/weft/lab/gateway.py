"""`python -m weft.lab.gateway`: a local cloud on a lab's host that is the router of its network, too. `vpc` starts it
there: the Compute API, the metadata server, the kernel's routes as the API's table has them.

Unlike the API alone (`python -m weft.lab.compute`) it remembers its routes over a restart, as a cloud does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from msgspec.json import decode, encode

from weft.lab import forwarding
from weft.lab.compute.engine import Compute
from weft.lab.compute.operations import Timing
from weft.lab.compute.resources import Route
from weft.lab.compute.server import Cloud, Options, serving
from weft.lab.compute.table import Table

EVERYWHERE = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Memory:
    """The routes of a former run, in a file."""

    path: Path

    def recall(self, engine: Compute) -> None:
        """Make the table as it was; as it is at the beginning, if there was no former run."""
        if not self.path.exists():
            return
        kept = decode(self.path.read_bytes(), type=list[Route])
        for name in engine.routes().keys() - {route.name for route in kept}:
            engine.drop(name)
        for route in kept:
            engine.put(route)

    def keep(self, engine: Compute) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_bytes(encode(list(engine.routes().values())))
        draft.replace(self.path)


async def run(cloud: Cloud, network: str, memory: Memory, port: int) -> None:
    """Until SIGTERM or SIGINT; the kernel's routes stay."""
    memory.recall(cloud.compute)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serving(cloud, EVERYWHERE, port):
        following = asyncio.create_task(forwarding.follow(cloud.compute, network, memory.keep))
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def main() -> None:
    """The command line; `vpc` alone writes it."""
    parser = ArgumentParser(prog="python -m weft.lab.gateway", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--network", required=True)
    parser.add_argument("--routes", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, required=True)
    told = parser.parse_args()
    timing = Timing(pending=told.delay / 3, running=told.delay * 2 / 3)
    cloud = Cloud(Table.of_yaml(told.table.read_text()), Options(timing=timing))
    asyncio.run(run(cloud, told.network, Memory(told.routes), told.port))


if __name__ == "__main__":
    main()
