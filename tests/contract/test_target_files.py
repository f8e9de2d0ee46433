"""Files as a target: on a real file system, and on the memory target where that can tell the same."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.targets import add, by_key, change, done, held, refused, remove
from tests.support.namespace import run
from tests.support.needs import needs_root
from weft.errors import TargetError
from weft.objects import Failure, Sysctl
from weft.objects.outside import File
from weft.targets import Target
from weft.targets.files import FileTarget
from weft.targets.memory import MemoryTarget

ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.10.1/24\n"


@dataclass
class Place:
    target: Target
    path: str

    def file(self, content: str = ENV, mode: int = 0o644) -> File:
        return File(self.path, content, mode)


@pytest.fixture(params=["memory", "files"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    path = str(tmp_path / "run" / "flannel" / "subnet.env")
    return Place(MemoryTarget((File,)) if request.param == "memory" else FileTarget([path]), path)


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / "subnet.env"


@pytest.fixture
def target(env: Path) -> FileTarget:
    return FileTarget([str(env)])


async def test_a_file_is_added_changed_and_removed(place: Place) -> None:
    await done(place.target, add(place.file()))
    assert await held(place.target) == by_key(place.file())
    new = place.file("FLANNEL_MTU=1450\n", 0o600)
    await done(place.target, [change(place.file(), new)])
    assert await held(place.target) == by_key(new)
    await done(place.target, remove(new))
    assert await held(place.target) == {}


async def test_removing_what_is_gone_is_success(place: Place) -> None:
    await done(place.target, remove(place.file()))


async def test_the_file_is_what_was_asked_for(target: FileTarget, env: Path) -> None:
    before = os.umask(0o077)
    try:
        await done(target, add(File(str(env), ENV + "# größer\n", 0o644)))
    finally:
        os.umask(before)
    assert env.read_bytes() == (ENV + "# größer\n").encode()
    assert env.stat().st_mode & 0o7777 == 0o644
    assert [path.name for path in env.parent.iterdir()] == ["subnet.env"]


async def test_what_flannel_left_there_is_ours_to_change(target: FileTarget, env: Path) -> None:
    env.write_text("FLANNEL_NETWORK=10.9.0.0/16\n")
    env.chmod(0o640)
    (found,) = (await target.read()).objects.values()
    assert found == File(str(env), "FLANNEL_NETWORK=10.9.0.0/16\n", 0o640)
    await done(target, [change(found, File(str(env), ENV))])
    assert env.read_text() == ENV


async def test_other_files_are_never_looked_at(target: FileTarget, env: Path) -> None:
    other = env.with_name("other.env")
    other.write_text("mine\n")
    assert await held(target) == {}
    (answer,) = await target.apply(remove(File(str(other), "mine\n")))
    assert "not among the files that were named" in refused(answer)
    assert other.exists()


async def test_somebody_elses_change_is_told_once(target: FileTarget, env: Path) -> None:
    wanted = File(str(env), ENV)
    assert (await target.read()).touched is None
    await done(target, add(wanted))
    assert (await target.read()).touched == frozenset({wanted.key})
    assert (await target.read()).touched == frozenset()
    env.write_text("")
    assert (await target.read()).touched == frozenset({wanted.key})
    env.unlink()
    assert (await target.read()).touched == frozenset({wanted.key})
    env.mkdir()
    assert (await target.read()).touched == frozenset({wanted.key})
    assert (await target.read()).touched == frozenset()
    assert (await target.read(full=True)).touched is None


def a_folder(path: Path) -> None:
    path.mkdir()


def a_symbolic_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def a_device_pipe_or_socket(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("stand", [a_folder, a_symbolic_link, a_device_pipe_or_socket])
async def test_what_is_no_file_is_left_alone(target: FileTarget, env: Path, stand: Callable[[Path], None]) -> None:
    stand(env)
    words = stand.__name__.replace("_", " ").replace("device ", "device, ")
    wanted = File(str(env), ENV)
    reading = await target.read()
    assert (reading.objects, reading.foreign) == ({}, {wanted.key: words})
    for op in (*add(wanted), *remove(wanted)):
        (answer,) = await target.apply([op])
        assert answer == Failure(f"{op.action} {env}: {words} stands there; it was left alone", conflict=True)
    assert env.is_symlink() or not env.is_file()


async def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "flannel").write_text("")
    path = str(tmp_path / "flannel" / "subnet.env")
    target = FileTarget([path])
    assert await held(target) == {}
    (answer,) = await target.apply(add(File(path, ENV)))
    assert refused(answer) == f"add {path}: File exists ({tmp_path}/flannel)"


async def test_a_folder_that_can_not_be_looked_into_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(TargetError, match=r"loop/subnet.env can't be read: Too many levels of symbolic links"):
        await FileTarget([str(loop / "subnet.env")]).read()


async def test_what_a_killed_attempt_left_is_replaced(target: FileTarget, env: Path) -> None:
    env.with_name(".subnet.env.weft-new").write_text("half a fi")
    await done(target, add(File(str(env), ENV)))
    assert [path.name for path in env.parent.iterdir()] == ["subnet.env"]


async def test_octets_that_are_no_text_are_simply_other_content(target: FileTarget, env: Path) -> None:
    env.write_bytes(b"\xff\xfe\x00")
    (found,) = (await target.read()).objects.values()
    assert found != File(str(env), ENV)
    await done(target, [change(found, File(str(env), ENV))])
    assert await held(target) == by_key(File(str(env), ENV))


async def test_nobody_ever_reads_half_a_file(target: FileTarget, env: Path) -> None:
    files = [File(str(env), letter * 50_000) for letter in "abcdefgh"]
    await done(target, add(files[0]))
    seen: set[str] = set()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(env.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(20):
            for old, new in zip(files, files[1:] + files[:1], strict=True):
                await done(target, [change(old, new)])
    finally:
        over.set()
        reader.join()
    assert len(seen) > 1
    assert seen <= {file.content for file in files}


async def test_a_failure_of_one_does_not_stop_the_next(tmp_path: Path) -> None:
    bad, good = File(str(tmp_path / "dir"), ENV), File(str(tmp_path / "good"), ENV)
    target = FileTarget([bad.path, good.path])
    Path(bad.path).mkdir()
    answers = await target.apply([*add(bad, good), *add(Sysctl("net/ipv4/ip_forward", "1"))])
    assert "a folder stands there" in refused(answers[0])
    assert answers[1] is None
    assert "not the place for a Sysctl" in refused(answers[2])


async def test_whoever_touches_a_file_wakes_the_loop(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    env = folder / "subnet.env"
    target, woken = FileTarget([str(env)]), asyncio.Event()
    wanted = File(str(env), ENV)

    def moved_away() -> None:
        folder.rename(tmp_path / "elsewhere")

    def replaced() -> None:
        beside = folder / "new"
        beside.write_text("other")
        beside.rename(env)

    target.watch(woken.set)
    try:
        await done(target, add(wanted))
        for touch in (
            lambda: env.write_text("other"),
            lambda: env.unlink(),
            lambda: env.chmod(0o600),
            replaced,
            lambda: shutil.rmtree(folder),
            moved_away,
            lambda: env.unlink(),
        ):
            await target.read()
            await _quiet(woken)
            touch()
            await asyncio.wait_for(woken.wait(), 60)
            reading = await target.read()
            assert reading.touched == frozenset({wanted.key})
            (now,) = [*reading.objects.values(), None][:1]
            await done(target, add(wanted) if now is None else [change(now, wanted)])
            assert await held(target) == by_key(wanted)
        await _quiet(woken)
        (folder / "other").write_text("")
        env.with_name(".subnet.env.weft-new").write_text("")
        env.read_text()
        await _quiet(woken, never=True)
    finally:
        target.close()


async def _quiet(woken: asyncio.Event, never: bool = False) -> None:
    """Everything that was told so far has been heard: what the kernel has told is there to be read at once."""
    for _ in range(5):
        loop_turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(loop_turn.set_result, None)
        await loop_turn
    assert not (never and woken.is_set())
    woken.clear()


async def test_without_inotify_the_timer_has_to_do(
    target: FileTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("weft.targets.files_watch.Inotify", none_left)
    target.watch(lambda: None)
    assert "files can't be heard of ([Errno 24] Too many open files): the timer will find them" in caplog.text
    target.close()


READ_ONLY = """
import asyncio, sys
from weft.objects import Op, Why
from weft.objects.outside import File
from weft.targets.files import FileTarget
thing = File(sys.argv[1], "text")
print(asyncio.run(FileTarget([thing.path]).apply([Op("add", thing, Why("", "", ""))]))[0].message)
"""


@needs_root
def test_a_read_only_file_system_is_said(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"', str(tmp_path)]
    done = subprocess.run([*mount, sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True)
    assert done.stdout.startswith(f"add {path}: Read-only file system"), done.stderr


async def test_the_printed_lines_can_be_typed(target: FileTarget, env: Path) -> None:
    wanted = File(str(env), ENV + "it's 100 % \\n $HOME\n", 0o640)
    for line in target.lines(add(wanted)):
        run(["sh", "-c", line])
    assert await held(target) == by_key(wanted)
    for line in target.lines(remove(wanted)):
        run(["sh", "-c", line])
    assert await held(target) == {}
