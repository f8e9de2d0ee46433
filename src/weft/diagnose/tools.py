"""Other programs' answers, each within a time limit. One that isn't here, or that hangs, is a remark, no error."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from weft.diagnose.facts import Remark
from weft.targets.processes import finished

TIMEOUT = 10.0
"""Seconds that a program may take; `ip` takes some 5 ms, iptables-save with a held lock up to LOCK_WAIT."""
SEARCH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


@dataclass(slots=True)
class Tools:
    """Runs programs and keeps what could not be asked in `remarks`."""

    remarks: list[Remark] = field(default_factory=list)

    async def ask(self, section: str, *command: str) -> str | None:
        """What the command prints on stdout; None, and a remark, if it can't be run or fails."""
        try:
            code, out, said = await run(command)
        except OSError as error:
            self.remark(section, f"{command[0]} can't be run: {error.strerror or error}; install it to see more")
        except TimeoutError:
            self.remark(section, f"`{' '.join(command)}` did not end within {TIMEOUT:g} s")
        else:
            if code == 0:
                return out
            first = next(iter(said.strip().splitlines()), "no reason given")
            self.remark(section, f"`{' '.join(command)}` ended with {code}: {first}")
        return None

    def remark(self, section: str, text: str) -> None:
        self.remarks.append(Remark(section, text))


def there(program: str) -> bool:
    """Whether it is installed."""
    return shutil.which(program, path=_path()) is not None


async def run(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr. Raises OSError if it can't be started, TimeoutError if it was killed."""
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    out, said = await finished(process, "", TIMEOUT)
    return process.returncode or 0, out, said


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *SEARCH))
