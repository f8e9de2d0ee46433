"""Whose the data folder is: one process's, and nobody's after it ended, however it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_root
from weft.agent.folder import FolderClaim
from weft.errors import WeftError
from weft.targets.files_lock import open_lock

OTHER = """
import sys
from pathlib import Path
from weft.agent.folder import FolderClaim
with FolderClaim(Path(sys.argv[1]), ["stack-b", "stack-c"], lambda: 1_700_000_000.0):
    print("held", flush=True)
    sys.stdin.read()
"""


def other(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the folder until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_says_who_has_it_and_goes_with_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "docker-router"
    claim = FolderClaim(folder, ["stack-a"], lambda: 1_700_000_000.9)
    with claim:
        assert json.loads(claim.path.read_text()) == {
            "pid": os.getpid(),
            "stack_ids": ["stack-a"],
            "since": "2023-11-14T22:13:20Z",
        }
        assert claim.path.stat().st_mode & 0o777 == 0o640
        assert claim.problem == ""
    assert list(folder.iterdir()) == []


def test_a_second_one_is_told_whose_it_is(tmp_path: Path) -> None:
    process = other(tmp_path)
    try:
        with pytest.raises(WeftError) as caught, FolderClaim(tmp_path, ["stack-a"]):
            pass
        assert str(caught.value) == (
            f"{tmp_path} belongs to another weft discovery (pid {process.pid}, for stack-b, stack-c, since "
            "2023-11-14T22:13:20Z); end that first, or give this one a DATA_DIR of its own"
        )
    finally:
        process.communicate(timeout=120)
    with FolderClaim(tmp_path, ["stack-a"]):
        pass


def test_who_was_killed_blocks_nobody(tmp_path: Path) -> None:
    process = other(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    assert "stack-b" in (tmp_path / "lock.json").read_text()
    with FolderClaim(tmp_path, ["stack-a"]) as claim:
        assert json.loads(claim.path.read_text())["stack_ids"] == ["stack-a"], "and nothing of the longer one is left"


def test_what_it_says_may_be_anything(tmp_path: Path) -> None:
    process = other(tmp_path)
    try:
        for body, words in (
            (b"\xff", "another process, which does not say which"),
            (b'{"pid":1,"stack_ids":["a\\nb"],"since":"x"}', r"for a\?b, since x"),
            (b'{"pid":1,"stack_ids":[],"since":""}', "for no stack"),
        ):
            (tmp_path / "lock.json").write_bytes(body)
            with pytest.raises(WeftError, match=words), FolderClaim(tmp_path, []):
                pass
    finally:
        process.communicate(timeout=120)


def test_many_in_turn(tmp_path: Path) -> None:
    """Each ends and removes its file while the next one opens it: two never have the folder at once."""
    script = """
import os, sys
from pathlib import Path
from weft.agent.folder import FolderClaim
from weft.errors import WeftError
folder, done = Path(sys.argv[1]), 0
while done < 200:
    try:
        with FolderClaim(folder, []):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "inside")
            done += 1
    except WeftError:
        pass
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]


def test_a_folder_that_can_not_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeftError, match=r"lock.json can't be locked: .*; DATA_DIR must be a folder"):
        FolderClaim(tmp_path / "file", []).__enter__()
    os.mkfifo(tmp_path / "lock.json")
    with pytest.raises(WeftError, match="a device or pipe stands there"):
        FolderClaim(tmp_path, []).__enter__()


def test_a_last_owner_that_removes_it_just_when_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_and_lose(path: str, mode: int) -> int:
        descriptor = open_lock(path, mode)
        if not opened:
            os.unlink(path)
        opened.append(path)
        return descriptor

    monkeypatch.setattr("weft.agent.folder.open_lock", open_and_lose)
    with FolderClaim(tmp_path, []) as claim:
        assert len(opened) == 2
        assert claim.path.exists(), "what is held is what others would find"


def test_one_that_is_removed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.agent.folder.is_at", lambda *_: False)
    with pytest.raises(WeftError, match="who does that"):
        FolderClaim(tmp_path, []).__enter__()


READ_ONLY = """
import os, subprocess, sys
from pathlib import Path
from weft.agent.folder import FolderClaim
folder = sys.argv[1]
with FolderClaim(Path(folder), ["stack-a"]):
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
print(os.listdir(folder))
try:
    FolderClaim(Path(folder), ["stack-a"]).__enter__()
    print("held: the file is there")
    os.unlink(folder + "/x")
except Exception as error:
    print(error)
"""


@needs_root
def test_who_holds_it_does_not_keep_the_disk_from_becoming_read_only(tmp_path: Path) -> None:
    shell = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", shell, str(tmp_path), sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0] == "['lock.json']", done.stderr
    assert "Read-only file system" in done.stdout


FULL = """
import sys
from pathlib import Path
from weft.agent.folder import FolderClaim
with FolderClaim(Path(sys.argv[1]), ["stack-a"]) as claim:
    print(claim.problem)
"""


@needs_root
def test_on_a_full_disk_it_holds_all_the_same(tmp_path: Path) -> None:
    shell = 'mount -t tmpfs -o size=16k tmpfs "$0" && { cat /dev/zero >"$0/filler" 2>/dev/null; exec "$@"; }'
    command = ["unshare", "--mount", "sh", "-c", shell, str(tmp_path), sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{tmp_path}/lock.json can't be written: No space left on device\n", done.stderr
