"""The operator's own commands of flannel's extension backend: how they are read, and how they are run.

Called by `targets/extension.py` for each lease, and by the daemon for the two commands of its start.

flannel up to 0.25 handed each command to `sh -c`; it now splits it into words, puts variables in, and runs it without a
shell. So do we, and quotes hold words together; `shell` brings the old way back. What comes out of a lease can't become
a command either way: subnets and addresses are put in or set as variables, the published text goes to stdin alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from weft.errors import SettingsError, TargetError
from weft.model import IPAddress, IPNetwork

TIMEOUT = 30.0
"""Seconds after which a command that doesn't end is killed, with whatever it started."""
_OPERATORS = frozenset("();<>|&")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_WITH_SHELL = "set extension-shell (FLANNELD_EXTENSION_SHELL) to run it with `sh -c`, or put it in a script"


@dataclass(frozen=True, slots=True)
class Variables:
    """What a command is told in its environment. `network`: flannel's whole network, which only the commands of this
    host's own start are told; the rest is of one lease, this host's or a remote one."""

    subnet: IPNetwork | None = None
    subnet6: IPNetwork | None = None
    public_ip: IPAddress | None = None
    public_ip6: IPAddress | None = None
    network: IPNetwork | None = None

    def environment(self) -> dict[str, str]:
        """By flannel's names; "" for what there is not."""
        values = {
            "NETWORK": self.network,
            "SUBNET": self.subnet,
            "IPV6SUBNET": self.subnet6,
            "PUBLIC_IP": self.public_ip,
            "PUBLIC_IPV6": self.public_ip6,
        }
        return {name: str(value) if value is not None else "" for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be run: `text` as the operator wrote it. Raises SettingsError if it has no word in it, if its
    quotes don't close, or if it needs a shell and isn't to get one. `timeout`: seconds."""

    text: str
    shell: bool = False
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        try:
            if not shlex.split(self.text):
                raise SettingsError("the command is empty; leave the setting out instead")
            needs = "" if self.shell else _shell_only(self.text)
        except ValueError as error:
            raise SettingsError(f"`{self.text}` can't be read: {error}") from error
        if needs:
            raise SettingsError(f"`{self.text}` needs a shell ({needs}) and is run without one: {_WITH_SHELL}")

    def words(self, variables: Variables) -> list[str]:
        """The program and its arguments, with variables put in; names that nobody has set stay as they are."""
        if self.shell:
            return ["sh", "-c", self.text]
        known = {**os.environ, **variables.environment()}
        return [_filled(word, known) for word in shlex.split(self.text)]

    async def run(self, variables: Variables, data: str = "") -> str:
        """What it prints, without white space around it. `data` and a line end go to its stdin, as flannel's do.
        Raises TargetError if it can't be started, ends with another code than 0, or doesn't end in time."""
        words = self.words(variables)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env={**os.environ, **variables.environment()},
                start_new_session=True,
            )
        except OSError as error:
            hint = "" if self.shell else f"; if it is a word of the shell's, {_WITH_SHELL}"
            raise TargetError(f"`{words[0]}` can't be started: {error.strerror}{hint}") from error
        try:
            async with asyncio.timeout(self.timeout):
                out, said = await process.communicate(data.encode() + b"\n")
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):  # all of it ended at this very moment
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise Hung(f"{self._shown(words)} did not end within {self.timeout:g} s and was killed") from error
            raise
        if process.returncode:
            raise TargetError(f"{self._shown(words)} {_ending(process.returncode)}: {_last_line(said)}")
        return out.decode(errors="replace").strip()

    def line(self, variables: Variables, data: str) -> str:
        """One line for a person's shell that does the same."""
        told = (f"{name}={shlex.quote(value)}" for name, value in variables.environment().items() if value)
        return f"printf '%s\\n' {shlex.quote(data)} | {' '.join(told)} {shlex.join(self.words(variables))}"

    def _shown(self, words: list[str]) -> str:
        return f"`{self.text if self.shell else shlex.join(words)}`"


class Hung(TargetError):
    """A command did not end in time."""


def _shell_only(text: str) -> str:
    """What in a command only a shell understands; "" if nothing."""
    reader = shlex.shlex(text, posix=False, punctuation_chars=True)  # keeps the quotes: what is inside is plain text
    reader.commenters = ""
    reader.whitespace_split = True
    for at, word in enumerate(reader):
        if set(word) <= _OPERATORS:
            return word
        if not at and _ASSIGNMENT.match(word):
            return word
        if not word.startswith("'") and ("`" in word or "$(" in word):
            return word
    return ""


def _filled(word: str, known: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: known.get(found[1] or found[2], found[0]), word)


def _ending(code: int) -> str:
    return f"ended with {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"
