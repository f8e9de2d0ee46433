"""A tool's process, fed and heard to its end. Used by the targets that call commands."""

from __future__ import annotations

import asyncio
import contextlib


async def finished(process: asyncio.subprocess.Process, text: str, timeout: float) -> tuple[str, str]:
    """What it prints on stdout and on stderr when it gets `text`. It is killed if it takes longer than `timeout`
    seconds, or if the caller is interrupted. Raises TimeoutError."""
    try:
        async with asyncio.timeout(timeout):
            out, said = await process.communicate(text.encode())
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended at this very moment
                process.kill()
            await process.wait()
    return out.decode(errors="replace"), said.decode(errors="replace")
