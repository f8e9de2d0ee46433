"""`weft router --with-discovery`: both processes of docker-router in one container. Called by `cli/router.py`.

They stay two processes with two sets of rights, and share nothing but the folder: the router's filter would follow it
into a child of its own. This one only starts them, starts again what ended, and passes signals on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from weft.daemons.process import log_to_stderr

log = logging.getLogger("weft")

PAIR = ("discovery", "router")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before what ended is started again: after the first time, and at the most."""
STEADY = 60.0
"""Seconds after which a process that ends is taken for one that had run well."""
WRONG_SETTINGS = 2
"""Exit code of a process that would say the same again."""
PATIENCE = 10.0
"""Seconds that the two may take to end."""


async def run(level: str, verbs: Sequence[str] = PAIR) -> int:
    """Until SIGTERM or SIGINT (0), or until one of them can't do with its settings (2)."""
    log_to_stderr(level)
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    keeping = [asyncio.ensure_future(_keep(verb)) for verb in verbs]
    stop = asyncio.ensure_future(asked.wait())
    done, _ = await asyncio.wait({*keeping, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    return 0 if stop in done else WRONG_SETTINGS


def environment_of(verb: str, environment: Mapping[str, str]) -> dict[str, str]:
    """One environment for two: of HEALTH_PORT, the router has the next one, as it has by default."""
    port = environment.get("HEALTH_PORT", "").strip()
    shifted = {"HEALTH_PORT": str(int(port) + 1)} if verb == "router" and port.isdigit() and int(port) else {}
    return {**environment, **shifted}


async def _keep(verb: str) -> None:
    """Returns only if its settings are wrong. The process ends when this is cancelled."""
    pause = FIRST_PAUSE
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "weft.cli.main", verb, env=environment_of(verb, os.environ)
        )
        try:
            code = await process.wait()
        finally:
            await _end(process)
        if code == WRONG_SETTINGS:
            return
        pause = FIRST_PAUSE if loop.time() - began > STEADY else pause
        log.error("weft %s ended with code %d; started again in %g s", verb, code, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
