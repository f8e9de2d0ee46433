"""Commands that the lab runs, with errors that say which, and what it answered.

Everything in weft.lab that starts a program and waits for it goes through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path

from weft.errors import LabError

POLL = 0.01
PATIENCE = 60.0
"""Seconds after which a command that should take milliseconds is given up."""


async def run(command: Sequence[str], stdin: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its stdout. LabError with its stderr if it fails or isn't installed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C is ours to handle: the command ends in order
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed: run scripts/setup") from error
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(stdin.encode())
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself in the meantime
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise LabError(f"`{shlex.join(command)}` did not end within {PATIENCE:g} s") from error
        raise
    if process.returncode != 0:
        said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
        raise LabError(f"`{shlex.join(command)}` ended with {process.returncode}: {said}")
    return out.decode()


async def ip(lines: Iterable[str], namespace: str = "") -> None:
    """`ip -batch` with these lines, in a namespace. LabError names the line that the kernel refused."""
    given = list(lines)
    if not given:
        return
    where = ["-n", namespace] if namespace else []
    try:
        await run(["ip", *where, "-batch", "-"], "\n".join(given) + "\n")
    except LabError as error:
        text = str(error)
        marker = "Command failed -:"
        if marker not in text:
            raise
        number = int(text.split(marker, 1)[1].split()[0])
        raise LabError(f"in namespace {namespace or 'of the machine'}: `ip {given[number - 1]}`: {text}") from error


async def detach(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Start a program that outlives us: in a session of its own, writing to `log` (readable by root alone), nobody's
    child. Its environment is never put on a command line, where everybody could read the keys in it."""
    log.touch(mode=0o600)
    redirect = 'exec "$@" >>"$0" 2>&1 </dev/null'
    await run(["setsid", "--fork", "sh", "-c", redirect, str(log), *command], environment=environment)


async def until(condition: Callable[[], bool], deadline: float) -> bool:
    """Ask `condition` every few milliseconds until it holds or the event loop's time is past `deadline`; whether it
    came to hold."""
    loop = asyncio.get_running_loop()
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(POLL)
    return True


async def together(*work: Coroutine[object, object, None]) -> None:
    """Do all of it side by side. The first error ends the rest and is raised, by itself rather than in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
