"""Labs for tests: up for the length of a `with`, gone at its end, and named so that test runs don't meet.

with lab_up(example("plain")) as lab:
    assert ping(lab) == []
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.eventually import patience
from tests.support.namespace import is_left_over
from weft.errors import LabError
from weft.lab import matrix, removal, state
from weft.lab.lab import Lab

T = TypeVar("T")
AT_ONCE = 10.0
"""Seconds in which something is done that is done because it was heard of, on whatever machine: the next look comes
after 30 s or more. How fast it is on an idle one, the benchmarks tell."""
EXAMPLES = Path(__file__).parents[2] / "examples"
PREFIX = "t"
_begun: set[int] = set()


def do(work: Coroutine[Any, Any, T]) -> T:
    """Run one of the lab's coroutines to its end."""
    return asyncio.run(work)


def example(file: str, /, **changes: Any) -> dict[str, Any]:
    """The content of examples/<file>.yaml, with some top-level keys changed."""
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{file}.yaml").read_text())
    return content | changes


def without_agents(document: dict[str, Any]) -> dict[str, Any]:
    """The same lab with no agent on any host."""
    return document | {"hosts": {name: (host or {}) | {"agent": False} for name, host in document["hosts"].items()}}


def unique(label: str) -> str:
    """A lab's name that holds this process's pid: `t4711-plain`."""
    return f"{PREFIX}{os.getpid()}-{label}"


@contextlib.contextmanager
def lab_up(document: dict[str, Any], label: str) -> Iterator[Lab]:
    """The lab that the document describes, up and running."""
    sweep()
    name = unique(label)
    lab = do(Lab.up(document | {"name": name}, name))
    try:
        yield lab
    finally:
        do(lab.down())


def sweep() -> None:
    """Remove labs of test runs that were killed."""
    for name in state.labs():
        pid = name.partition("-")[0].removeprefix(PREFIX)
        if name.startswith(PREFIX) and is_left_over(pid, _begun):
            with contextlib.suppress(LabError):  # another worker may sweep at the same moment
                do(removal.remove(name))
    _begun.add(os.getpid())


def failing(lab: Lab, count: int = 2) -> list[str]:
    """`a/web1 → b/web1` of every pair that loses a ping; and at least one pair was pinged."""
    tallies = do(matrix.ping(lab, count=count, interval=0.05))
    assert tallies
    return [f"{tally.pair.source} → {tally.pair.target} {tally.pair.address}" for tally in tallies if not tally.ok]


def settle(lab: Lab, within: float = 30.0) -> None:
    """Wait until every pair answers; AssertionError after patience(`within`)."""
    seconds = patience(within)
    assert do(matrix.settle(lab, seconds)) is not None, f"no full connectivity within {seconds} s: {failing(lab)}"


def on(lab: Lab, where: str, command: str | Sequence[str], check: bool = True, timeout: float = 120.0) -> str:
    """Run a command (a text is split at spaces) in `host` or `host/container`; its stdout."""
    words = command.split() if isinstance(command, str) else list(command)
    name, _, container = where.partition("/")
    host = lab.host(name)
    line = do(lab.container_command(host, container, words)) if container else host.inside(words)
    done = subprocess.run(line, env=host.environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0 or not check, f"{where}: {' '.join(words)}: {done.returncode}: {done.stderr}"
    return done.stdout


def ip_json(lab: Lab, host: str, arguments: str) -> Any:
    """What `ip -j -d ARGUMENTS` tells on a host."""
    return json.loads(on(lab, host, f"ip -j -d {arguments}") or "[]")


def bridge_json(lab: Lab, host: str, arguments: str) -> Any:
    """What `bridge -j ARGUMENTS` tells on a host."""
    return json.loads(on(lab, host, f"bridge -j {arguments}") or "[]")
