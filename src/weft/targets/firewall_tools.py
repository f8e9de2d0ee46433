"""iptables-save and iptables-restore as subprocesses, in a given network namespace. Called by `targets/firewall.py`.

A Linux host may have two implementations of iptables, with separate rules that all apply: iptables-nft and
iptables-legacy. `Backend` is one of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.core.ruleset import FAMILIES, Family, Ruleset, parse_save
from weft.errors import DecodeError, FirewallError
from weft.targets.processes import finished

SBIN: tuple[str, ...] = ("/usr/sbin", "/sbin")
"""Where the tools are, though a service's PATH often lacks them."""
LOCK_WAIT = 5
"""Seconds that iptables-legacy waits for another program to let go of its lock."""
NO_TABLE = 3
"""Exit code of iptables for a table that the kernel doesn't have (xtables.h, VERSION_PROBLEM)."""
INSTALL = "apt-get install iptables"
TIMEOUT = 20.0
"""Seconds after which a tool that doesn't end is killed."""
IPV6 = Path("/proc/sys/net/ipv6")
"""Not there if the kernel was started with ipv6.disable=1."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of iptables. `suffix`: `-nft`, `-legacy`, or nothing where there is only one and its name
    doesn't say which. `notifies`: the kernel tells about changes (nf_tables does, the old tables don't)."""

    suffix: str
    notifies: bool

    def tool(self, family: Family, verb: str = "") -> str:
        """`ip6tables-nft-save`."""
        return f"ip{'6' if family == 6 else ''}tables{self.suffix}{verb}"

    def families(self) -> tuple[Family, ...]:
        """The families that there is a tool for, and that the kernel has."""
        return tuple(f for f in _families() if shutil.which(self.tool(f, "-restore"), path=_search()))


def find_backends() -> tuple[Backend, ...]:
    """All that are installed, the one that plain `iptables` stands for first; empty if there is none."""
    default = _version()
    named = (Backend("-nft", True), Backend("-legacy", False))
    found = [backend for backend in named if backend.families()]
    if not found and default:
        found = [Backend("", "nf_tables" in default)]
    found.sort(key=lambda backend: backend.notifies == ("legacy" in default))
    return tuple(found)


def lacking(backend: Backend | None) -> str:
    """One sentence on what this host lacks if this is all that it has; "" if nothing is missing."""
    if backend is None:
        return (
            "neither iptables-nft nor iptables-legacy is installed, so there are no firewall rules of weft's: networks "
            "that are not exposed are not kept out of the overlay, and what else filters or masquerades here may stop "
            f"it; {INSTALL}"
        )
    for family in _families():
        if family not in backend.families():
            tool = backend.tool(family)
            return f"{tool} is not installed, so there are no firewall rules of weft's for IPv{family}; {INSTALL}"
    return ""


def _families() -> tuple[Family, ...]:
    """Those that the kernel has."""
    return FAMILIES if IPV6.exists() else FAMILIES[:1]


def _search() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))


def _version() -> str:
    """`iptables v1.8.9 (nf_tables)`; empty if there is no plain iptables."""
    path = shutil.which("iptables", path=_search())
    if path is None:
        return ""
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout


class RestoreError(FirewallError):
    """iptables-restore refused its input. `line`: the line of the input that it names, or an empty text."""

    def __init__(self, tool: str, said: str, line: str) -> None:
        self.line = line
        about = f'"{line}"' if line else "its input"
        super().__init__(f"{tool} refused {about}: {said}")


class Tools:
    """Runs the tools in the network namespace that the path `netns` names, or in the current one (None).

    `pids`: the processes that changed rules for us last, or are about to."""

    def __init__(self, netns: str | None = None) -> None:
        self._enter = [] if netns is None else ["nsenter", f"--net={netns}"]
        self.pids: deque[int] = deque(maxlen=16)

    async def save(self, backend: Backend, family: Family) -> Ruleset:
        """Everything there is. FirewallError if the tool fails or prints what it shouldn't."""
        tool = backend.tool(family, "-save")
        code, out, said = await self._run([tool])
        if code != 0:
            raise FirewallError(f"{tool} ended with {code}: {_one_line(said)}; see if it works by hand")
        try:
            return parse_save(family, out)
        except DecodeError as error:
            raise FirewallError(f"{tool}: {error}") from error

    async def restore(self, backend: Backend, family: Family, text: str) -> None:
        """Change rules; each table of `text` is one transaction. RestoreError if a line is refused."""
        tool = backend.tool(family, "-restore")
        code, _, said = await self._run([tool, "--noflush", f"--wait={LOCK_WAIT}"], text)
        if code != 0:
            raise RestoreError(tool, _one_line(said), _named_line(said, text))

    async def has_table(self, backend: Backend, family: Family, table: str) -> bool:
        """The kernel has this table (it may have to load a module for the answer)."""
        command = [backend.tool(family), "-t", table, f"--wait={LOCK_WAIT}", "-S", "OUTPUT"]
        code, _, _ = await self._run(command)
        return code != NO_TABLE

    async def _run(self, command: Sequence[str], text: str = "") -> tuple[int, str, str]:
        environment = {**os.environ, "PATH": _search(), "LC_ALL": "C"}
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self._enter, *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
            )
        except OSError as error:
            raise FirewallError(f"{command[0]} can't be started: {error}") from error
        if text:
            # It can't change a rule before it has its input, so its pid is known before its change is heard of.
            self.pids.append(process.pid)
        try:
            out, said = await finished(process, text, TIMEOUT)
        except TimeoutError as error:
            raise FirewallError(f"{command[0]} did not end within {TIMEOUT:.0f} s and was killed") from error
        return process.returncode or 0, out, said


def _one_line(said: str) -> str:
    """What iptables said, without its advice to read the manual."""
    lines = [line.strip() for line in said.splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith("Try `")) or "no reason given"


def _named_line(said: str, text: str) -> str:
    """`line 4: RULE_APPEND failed`, `Error occurred at line: 3`: that line of the input, if it is one."""
    match = re.search(r"\bline:? (\d+)", said)
    lines = text.splitlines()
    at = int(match[1]) - 1 if match else -1
    return lines[at] if 0 <= at < len(lines) else ""
