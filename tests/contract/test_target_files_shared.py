"""Files in a folder that others use, too: under the document's lock, on a disk that is full or read-only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.targets import add, by_key, change, done, held, refused, remove
from tests.support.eventually import soon, until
from tests.support.namespace import run
from tests.support.needs import needs_root
from weft.objects.outside import File
from weft.targets import files_lock
from weft.targets.files import FileTarget

TEXT = '{"version": 1}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker-router" / "discovery.json"


@pytest.fixture
def lock(path: Path) -> Path:
    return path.with_name("discovery.lock")


@pytest.fixture
def target(path: Path, lock: Path) -> FileTarget:
    return FileTarget([str(path)], str(lock))


@contextlib.contextmanager
def held_by_flock(lock: Path) -> Iterator[None]:
    """util-linux's flock holds it, as the document's shell does."""
    lock.parent.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["flock", "-x", str(lock), "sh", "-c", "echo held; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.communicate("end\n", timeout=120)


async def test_it_is_written_under_the_lock(target: FileTarget, path: Path, lock: Path) -> None:
    wanted = File(str(path), TEXT, 0o640)
    before = os.umask(0o077)
    try:
        await done(target, add(wanted))
    finally:
        os.umask(before)
    assert await held(target) == by_key(wanted)
    assert path.stat().st_mode & 0o7777 == 0o640
    assert sorted(p.name for p in path.parent.iterdir()) == ["discovery.json", "discovery.lock"]
    assert run(["flock", "-n", "-x", str(lock), "echo", "free"]) == "free\n"
    await done(target, remove(wanted))
    assert await held(target) == {}


async def test_who_holds_the_lock_for_long_is_named_as_the_reason_and_it_is_written_later(
    target: FileTarget, path: Path, lock: Path
) -> None:
    wanted = File(str(path), TEXT)
    with held_by_flock(lock):
        (answer,) = await target.apply(add(wanted))
        assert refused(answer) == (
            f"add {path}: somebody else holds the lock for over 1 s ({lock}); it is tried again; see who it is with "
            "`fuser -v`"
        )
        assert not path.exists()
    await done(target, add(wanted))


async def test_who_holds_it_for_a_moment_is_waited_for(
    target: FileTarget, path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    open_lock = files_lock.open_lock

    def counted(name: str) -> int:
        attempts.append(name)
        return open_lock(name)

    monkeypatch.setattr(files_lock, "open_lock", counted)
    with held_by_flock(lock):
        writing = asyncio.ensure_future(target.apply(add(File(str(path), TEXT))))
        await soon(lambda: len(attempts) > 2, "a few attempts")
        assert not path.exists()
    assert await writing == [None]
    assert path.read_text() == TEXT


async def test_two_that_write_by_its_leave_never_write_at_once(path: Path, lock: Path) -> None:
    """Each reads a number and writes the next one; nothing is lost."""
    path.parent.mkdir()
    counter = path.with_name("counter")
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with files_lock.locked(str(lock), 20):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "150"


def test_a_lock_that_was_removed_meanwhile_keeps_nobody_out(lock: Path) -> None:
    lock.parent.mkdir()
    with files_lock.locked(str(lock)):
        lock.unlink()
        with files_lock.locked(str(lock), 0.01):
            assert lock.exists()
        lock.unlink()
    descriptor = files_lock.open_lock(str(lock))
    try:
        assert files_lock.is_at(descriptor, str(lock))
        lock.unlink()
        assert not files_lock.is_at(descriptor, str(lock))
        lock.touch()
        assert not files_lock.is_at(descriptor, str(lock))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
async def test_what_is_no_lock_is_said(target: FileTarget, path: Path, lock: Path, make: object) -> None:
    path.parent.mkdir()
    assert callable(make)
    make(lock)
    (answer,) = await target.apply(add(File(str(path), TEXT)))
    assert str(lock) in refused(answer)
    assert not path.exists()


async def test_the_printed_lines_take_the_lock_too(target: FileTarget, path: Path, lock: Path) -> None:
    wanted = File(str(path), TEXT, 0o640)
    path.parent.mkdir()
    (line,) = target.lines(add(wanted))
    assert f"flock -x {lock} " in line
    run(["sh", "-c", line])
    assert await held(target) == by_key(wanted)
    (line,) = target.lines(remove(wanted))
    run(["sh", "-c", line])
    assert await held(target) == {}


async def test_a_file_of_20_000_peers_is_the_same_when_it_is_read_again(target: FileTarget, path: Path) -> None:
    wanted = File(str(path), "x" * (13 << 20), 0o640)
    await done(target, add(wanted))
    assert await held(target) == by_key(wanted)
    assert (await target.read()).touched == frozenset()


async def test_what_did_not_change_is_not_read_again_and_what_did_is(
    target: FileTarget, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.targets.files.SETTLED", -1.0)
    wanted = File(str(path), TEXT, 0o640)
    await done(target, add(wanted))
    (first,) = (await target.read()).objects.values()
    (again,) = (await target.read()).objects.values()
    assert again is first
    for touch in (
        lambda: path.write_text("{}"),
        lambda: path.chmod(0o600),
        lambda: path.write_text("[]"),  # as long as before
    ):
        until(lambda: _tick(path), "the file system's clock to go on")
        touch()
        assert (await target.read()).touched == frozenset({wanted.key})
    await done(target, [change(first, wanted)])
    assert await held(target) == by_key(wanted)


def _tick(path: Path) -> bool:
    probe = path.with_name("probe")
    probe.write_text("")
    later = probe.stat().st_ctime_ns > path.stat().st_ctime_ns
    probe.unlink()
    return later


async def test_two_changes_within_one_tick_are_both_seen(target: FileTarget, path: Path) -> None:
    path.parent.mkdir()
    for number in range(200):
        path.write_text(f"{number:04}")
        (found,) = (await target.read()).objects.values()
        assert isinstance(found, File)
        assert found.content == f"{number:04}"


ON_A_DISK = """
import asyncio, concurrent.futures.thread, json, os, subprocess, sys
from weft.objects import Op, Why
from weft.objects.outside import File
from weft.targets.files import FileTarget
folder, script = sys.argv[1:]
path = folder + "/discovery.json"
target = FileTarget([path], folder + "/discovery.lock")
told = []
def write(size, user=0):
    thing = File(path, "x" * size, 0o640)
    os.seteuid(user)
    (answer,) = asyncio.run(target.apply([Op("add", thing, Why("", "", ""))]))
    os.seteuid(0)
    told.append([answer and answer.message, sorted(os.listdir(folder)), os.path.exists(path) and os.path.getsize(path)])
def sh(line):
    subprocess.run(line, shell=True, check=True, cwd=folder)
exec(script)
print(json.dumps(told))
"""


def on_a_disk(folder: Path, options: str, script: str) -> list[tuple[str | None, list[str], int]]:
    """Run a script on a tmpfs of its own; for each `write(size)`: the answer, the names in the folder, the size."""
    mount = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', str(folder)]
    done = subprocess.run(
        [*mount, sys.executable, "-c", ON_A_DISK, str(folder), script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [(answer, names, size) for answer, names, size in json.loads(done.stdout)]


BOTH = ["discovery.json", "discovery.lock"]


@needs_root
def test_a_file_that_another_user_left_unreadable_is_replaced_where_the_folder_allows_it() -> None:
    """As after a run as root: it would stand there for ever."""
    script = """
os.chown(folder, 65534, 65534)
open(path, "w").close()
os.chmod(path, 0)
os.seteuid(65534)
(found,) = asyncio.run(target.read()).objects.values()
told.append([str(found.mode), [], len(found.content)])
write(9, 65534)
told.append([str(os.stat(path).st_uid), [], 0])
"""
    told = on_a_disk(Path("/mnt"), "size=64k", script)  # a test's own folder is root's alone
    assert told == [("0", [], 1), (None, BOTH, 9), ("65534", [], 0)]


@needs_root
def test_a_full_folder_is_said_leaves_the_old_file_and_recovers(tmp_path: Path) -> None:
    script = "write(1000); sh('cat /dev/zero >filler || true'); write(9000); sh('rm filler'); write(9000)"
    first, full, free = on_a_disk(tmp_path, "size=64k", script)
    assert first == (None, BOTH, 1000)
    assert full[0] == f"add {tmp_path}/discovery.json: No space left on device; free some in its folder"
    assert full[1:] == ([*BOTH, "filler"], 1000)
    assert free == (None, BOTH, 9000)


@needs_root
def test_no_room_even_for_a_name(tmp_path: Path) -> None:
    script = "write(10); sh('for n in 1 2 3 4 5; do touch $n; done || true'); write(20); sh('rm 1'); write(20)"
    first, full, free = on_a_disk(tmp_path, "nr_inodes=6", script)
    assert first[0] is None
    assert f"add {tmp_path}/discovery.json: No space left on device" in str(full[0])
    assert full[2] == 10
    assert free[0] is None
    assert free[2] == 20


@needs_root
def test_a_folder_that_becomes_read_only_and_writable_again(tmp_path: Path) -> None:
    script = "write(10); sh('mount -o remount,ro .'); write(20); sh('mount -o remount,rw .'); write(20)"
    first, read_only, again = on_a_disk(tmp_path, "rw", script)
    assert first == (None, BOTH, 10)
    assert str(read_only[0]).startswith(f"add {tmp_path}/discovery.json: Read-only file system")
    assert str(read_only[0]).endswith("; mount its folder so that it can be written")
    assert read_only[2] == 10
    assert again == (None, BOTH, 20)


@needs_root
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    script = "write(10, user=7600)"
    (answer,) = on_a_disk(tmp_path, "mode=755", script)
    assert answer[0] is not None
    assert answer[0].endswith("; its folder must be writable for the user that weft runs as")
