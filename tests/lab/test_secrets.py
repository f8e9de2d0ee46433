"""An agent's pre-shared key in a topology file is for that agent: nobody else on the machine gets to read it."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import do, lab_up, settle
from tests.support.needs import needs_root
from weft.errors import LabError
from weft.lab import shell, state
from weft.lab.lab import Lab
from weft.lab.netns import is_in

pytestmark = needs_root

KEY = "correct-horse-battery-staple"
TOKEN = "of-no-concern-to-the-lab"
TWO_HOSTS = {
    "engine": "none",
    "agent": {"key": KEY},
    "hosts": {"a": {"networks": {"web": "10.1.1.0/24"}}, "b": {"networks": {"web": "10.2.1.0/24"}}},
}


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """Every word of every command that the lab was brought up with, also of those that have ended."""
    return []


@pytest.fixture(scope="module")
def lab(commands: list[str]) -> Iterator[Lab]:
    execute = asyncio.create_subprocess_exec

    async def recorded(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        commands.extend(map(str, command))
        return await execute(*command, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", recorded)
        patch.setenv("SOMEBODYS_TOKEN", TOKEN)
        with lab_up(TWO_HOSTS, "secrets") as found:
            settle(found)
            yield found


def test_the_key_is_in_no_command_line(lab: Lab, commands: list[str]) -> None:
    assert "weft.cli.main" in commands
    assert not [word for word in commands if KEY in word]
    seen = [path for host in lab.hosts for path in (*processes(lab, Path("/proc")), *processes(lab, host.proc))]
    lines = {path: (path / "cmdline").read_bytes().replace(b"\0", b" ").decode() for path in seen}
    assert sum("weft.cli.main agent" in line for line in lines.values()) >= 4, "each agent, from in- and outside"
    assert not {path: line for path, line in lines.items() if KEY in line}


def processes(lab: Lab, proc: Path) -> list[Path]:
    """Folders of the processes in the lab that a /proc shows."""
    found = [path for path in proc.iterdir() if path.name.isdigit()]
    if proc != Path("/proc"):
        return found  # a host's own: all of them are the lab's
    return [path for path in found if any(is_in(int(path.name), host.namespace) for host in lab.hosts)]


def test_a_service_is_told_its_settings_and_little_else_of_our_environment(lab: Lab) -> None:
    host = lab.host("a")
    agent = host.running("agent")
    assert agent is not None
    told = (host.proc / str(agent.pid) / "environ").read_text().split("\0")
    assert f"WEFT_KEY={KEY}" in told
    assert "HOSTNAME=a" in told
    assert any(entry.startswith("PATH=") for entry in told)
    assert not [entry for entry in told if TOKEN in entry]
    init = Path(f"/proc/{host.init().pid}/environ").read_text()
    assert not [text for text in (TOKEN, KEY) if text in init]


def test_only_root_reads_what_the_lab_writes(lab: Lab) -> None:
    top = state.folder(lab.name)
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    logs = [log for host in lab.hosts for log in (host.log("agent"), host.folder / "init.log")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (top / "state.json", *logs)} == {0o600}
    assert KEY in (top / "state.json").read_text()
    assert not [log for log in logs if KEY in log.read_text()]


def test_a_command_in_a_container_does_not_get_the_key_and_one_in_its_host_does(lab: Lab) -> None:
    assert f"WEFT_KEY={KEY}" in environment_of(lab, "a")
    assert f"SOMEBODYS_TOKEN={TOKEN}" in environment_of(lab, "a"), "who runs a command keeps the own variables"
    assert KEY not in environment_of(lab, "a/web1")


def environment_of(lab: Lab, where: str) -> str:
    """What a command finds set that `weft lab exec` runs."""
    line = [sys.executable, "-m", "weft.cli.main", "lab", "exec", "--lab", lab.name, where, "--", "env"]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_error_of_a_failed_command_does_not_print_its_environment() -> None:
    with pytest.raises(LabError, match="`false` ended with 1") as raised:
        do(shell.run(["false"], environment={**os.environ, "WEFT_KEY": KEY}))
    assert KEY not in str(raised.value)
