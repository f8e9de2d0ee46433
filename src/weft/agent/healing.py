"""Does what the ladder (`core/ladder.py`) says: corrects entries, cycles a device, restarts flannel.

Each step is written down before it is taken, so that one which ends this process is not taken over and over. Used by
the running registrar and by `weft recover`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from weft.agent.attempts import Attempts
from weft.core import commands
from weft.core.ladder import Attempt, Step
from weft.core.stale import Wanted, corrections
from weft.engines.restarting import restart_container
from weft.errors import WeftError
from weft.objects import Op
from weft.targets.kernel.borrowed import read_entries, write_entries
from weft.targets.kernel.cycling import cycle
from weft.targets.processes import finished

RESTART = 60.0
"""Seconds that a restart of flannel may take: it waits for etcd."""
SERVICE = "service:"


@dataclass(frozen=True, slots=True)
class Healed:
    """What a step came to: `lines`, what was done, as a person reads it; `failures`, what could not be."""

    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Means:
    """`docker`: URL of the engine ("": its usual place). `container`: flannel's. `restart`: RESTART_FLANNEL: "",
    `container`, `service:<unit>`. `netns`: path of the network namespace whose devices are meant, None: this one."""

    docker: str = ""
    container: str = "flannel"
    restart: str = ""
    netns: str | None = None

    @property
    def words(self) -> str:
        """What is restarted, for people; "" for nothing."""
        kind, _, unit = self.restart.partition(":")
        return f"service {unit}" if unit else f"container {self.container}" if kind == "container" else ""


class Healer:
    """No method raises for what the kernel, Docker or systemd refuse: it is in `failures`."""

    def __init__(self, means: Means, attempts: Attempts) -> None:
        self.means = means
        self.attempts = attempts

    def history(self) -> tuple[tuple[Attempt, ...], str]:
        """What was tried before, and what is wrong with the memory of it."""
        return self.attempts.read(time.time())

    async def stale(self, wanted: Wanted) -> tuple[Op, ...]:
        """The corrections that the device needs now; nothing is changed. Raises TargetError if it can't be read."""
        return corrections(wanted, await asyncio.to_thread(read_entries, self.means.netns, wanted.device))

    async def take(self, step: Step, wanted: Wanted) -> Healed:
        """Take one step, whichever it is. `wanted`: for the rung `fdb`."""
        forgotten = self.attempts.add(Attempt(step.rung, step.device, time.time(), step.reason))
        try:
            if step.rung == "fdb":
                done = await self.fix(wanted)
            elif step.rung == "cycle":
                done = await self.cycle(step.device)
            else:
                done = await self.restart()
        except (WeftError, OSError) as error:
            done = Healed(failures=(str(error),))
        return Healed(done.lines, (*done.failures, *((forgotten,) if forgotten else ())))

    async def fix(self, wanted: Wanted) -> Healed:
        """Correct the entries of a device. Raises TargetError if there is no such device."""
        ops = await self.stale(wanted)
        answers = await asyncio.to_thread(write_entries, self.means.netns, wanted.device, ops)
        done = tuple(commands.lines(op)[0] for op, failure in zip(ops, answers, strict=True) if failure is None)
        return Healed(done, tuple(failure.message for failure in answers if failure is not None))

    async def cycle(self, device: str) -> Healed:
        """Take a device down and up, with all that is on it. Raises TargetError. It is done in one go, without a look
        at anything else in between: an event loop that is held for some milliseconds is no outage, half a cycle is."""
        done = cycle(self.means.netns, device)
        head = f"ip link set {device} down; ip link set {device} up"
        line = f"{head}   # and {done.lost} routes, neighbours and the like at once again, {done.seconds * 1000:.0f} ms"
        return Healed((line,), tuple(f"not put back: {lacking}" for lacking in done.lacking))

    async def restart(self) -> Healed:
        """Restart what RESTART_FLANNEL names. Raises EngineError for the container."""
        how = self.means.restart
        if how.startswith(SERVICE):
            return await _run(["systemctl", "restart", how.removeprefix(SERVICE)])
        if how == "container":
            name = await restart_container(self.means.container, self.means.docker, RESTART)
            return Healed((f"docker restart {name}",))
        return Healed(failures=("RESTART_FLANNEL names nothing that may be restarted",))


async def _run(command: Sequence[str]) -> Healed:
    line = " ".join(command)
    environment = {**os.environ, "LC_ALL": "C"}
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        _, said = await finished(process, "", RESTART)
    except OSError as error:
        return Healed(failures=(f"{line}: {error.strerror}; is this the host, or a container on it?",))
    except TimeoutError:
        return Healed(failures=(f"{line} did not end within {RESTART:.0f} s",))
    if process.returncode:
        return Healed(failures=(f"{line} ended with {process.returncode}: {' '.join(said.split())}",))
    return Healed((line,))
