"""What a daemon is to the system around it: log lines, signals, systemd. Called by every daemon."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from weft.agent.loop import Loop
from weft.errors import WeftError


def spare_the_collector() -> None:
    """Let the cyclic garbage collector look at the whole heap rarely. Nodes, plans and kernel objects form no cycles
    and live long; with Python's defaults a cold start among 10,000 peers is searched through a dozen times in vain
    (measured: 0.9 s instead of 0.7 s)."""
    gc.set_threshold(50_000, 20, 100)


ONE_ARENA = (-8, 1)
"""M_ARENA_MAX (glibc, malloc.h): how many heaps all threads share. With one each, a daemon's few threads, who hold
little and one at a time, keep what each of them once needed."""


def _share_one_heap() -> None:
    """Before threads are there. A C library without heaps of this kind has no mallopt."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(*ONE_ARENA)


def _return_memory() -> None:
    """What starting took for a moment (modules are read, unpacked and thrown away; all peers come at once) goes back to
    the system. glibc keeps it otherwise: 1 to 2 MiB of a small daemon."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class GoLines(logging.Formatter):
    """`2014/10/13 07:17:40 reconciler done`, as Go's package log writes them; what is wrong says so before it."""

    def __init__(self, under_journald: bool) -> None:
        super().__init__("%(message)s" if under_journald else "%(asctime)s %(message)s", "%Y/%m/%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        if record.levelno != logging.INFO:
            record.message = f"{record.levelname.lower()}: {record.message}"
        return super().formatMessage(record)


def log_to_stderr(level: str, as_go: bool = False) -> None:
    """One line per event; the time is left to journald where it reads us. `as_go`: in the form of a program written in
    Go that weft takes the place of."""
    under_journald = "JOURNAL_STREAM" in os.environ
    form = "%(levelname)s %(message)s" if under_journald else "%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(GoLines(under_journald) if as_go else logging.Formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.ERROR)


LONGEST_NAME = 107
"""Octets of an abstract socket's name (sun_path of unix(7), without its first)."""
CLAIM = "@weft/"
"""What the names of our abstract sockets begin with, as /proc/net/unix shows them."""


def claim(role: str) -> socket.socket:
    """Be the only daemon of this role in this network namespace, for as long as the socket that is returned is open.
    Two would undo each other's work. Raises WeftError if there is one.

    The names of abstract unix sockets belong to a network namespace and go with their process (unix(7)): no file, no
    stale lock, and it holds between containers that share the namespace."""
    return _claim(f"{CLAIM}{role}", f"a weft {role} is running in this network namespace already; stop it first")


def claim_file(path: str) -> socket.socket:
    """Be the only daemon in this network namespace that writes this file. Raises WeftError if there is another."""
    return _claim(f"@weft-file{path}", f"another weft daemon writes {path}; give each its own")


def _claim(name: str, taken: str) -> socket.socket:
    """`name`: as /proc/net/unix shows it; cut where it is longer than a name may be."""
    octets = name[1:].encode()
    if len(octets) > LONGEST_NAME:
        octets = octets[: LONGEST_NAME - 16] + blake2b(octets, digest_size=8).hexdigest().encode()
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(b"\0" + octets)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise WeftError(f"this network namespace can't be marked as taken ({name}): {error}") from error
        raise WeftError(taken) from error
    return held


def claimed() -> list[str]:
    """The roles of all daemons in this network namespace, sorted."""
    names = (line.split()[-1] for line in Path("/proc/self/net/unix").read_text().splitlines())
    return sorted(name.removeprefix(CLAIM) for name in names if name.startswith(CLAIM))


PATIENCE = 60
"""Seconds that a supervisor is asked to wait for, again and again, by a daemon that says READY only when it is."""


SETTLED = 10.0
"""Seconds after which what a start took for a moment is not needed any more."""
LONGEST_STATUS = 1000
"""Characters: a datagram with every peer's problem in it would not be sent at all."""


async def run_until_signalled(loop: Loop[Any], ready_when_done: bool = False) -> None:
    """Run the loop until SIGTERM or SIGINT. Tells systemd READY at once (sd_notify(3)): what is waited for after that,
    Docker say, may take any time, and no supervisor is to lose patience. `ready_when_done`: tell it when the first plan
    was carried out, for daemons whose work others wait for (flannel's subnet.env)."""
    _share_one_heap()
    first, then = (["READY=1", "STATUS=waiting for its sources"], ["STATUS=running"])
    if ready_when_done:
        first, then = ["STATUS=starting"], ["READY=1", "STATUS=running"]
    notify(os.environ, *first)
    running = asyncio.ensure_future(loop.run())
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    ready = asyncio.ensure_future(loop.ready.wait())
    ready.add_done_callback(lambda done: done.cancelled() or notify(os.environ, *then))
    trimming = asyncio.get_running_loop().call_later(SETTLED, _return_memory)
    waiting = asyncio.ensure_future(_ask_for_patience(loop)) if ready_when_done else ready
    stop = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:  # whoever cancels this closes the targets next
        notify(os.environ, "STOPPING=1")
        trimming.cancel()
        for task in (waiting, ready, stop, running):
            task.cancel()
        results = await asyncio.gather(running, return_exceptions=True)
    for error in results:
        if isinstance(error, Exception):
            raise error


async def _ask_for_patience(loop: Loop[Any]) -> None:
    """As long as nothing could be planned: a supervisor's limit for the start is put off, and told why, anew when that
    becomes another reason."""
    told = ""
    for second in itertools.count():
        if loop.ready.is_set():
            return
        reasons = "; ".join(problem.message for problem in loop.world.problems())
        status = (reasons or "waiting for " + ", ".join(loop.world.waiting()))[:LONGEST_STATUS]
        if status != told or second % (PATIENCE // 4) == 0:
            told = status
            notify(os.environ, f"EXTEND_TIMEOUT_USEC={PATIENCE * 1_000_000}", f"STATUS={status}")
        await asyncio.sleep(1)


def notify(environment: Mapping[str, str], *states: str) -> bool:
    """Send states such as `READY=1` to $NOTIFY_SOCKET, each on one line whatever is in it (a peer's word may be); False
    if there is none, or if its reader is gone."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(" ".join(state.splitlines()) for state in states).encode(), address)
        return True
    return False
