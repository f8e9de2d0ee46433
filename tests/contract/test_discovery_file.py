"""discovery.json as a source, on a real file system: replaced, removed, broken, and written by somebody hostile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.eventually import patience, soon
from weft.discovery import file as discovery_file
from weft.discovery.file import DiscoveryFile, read_regular
from weft.errors import WireError
from weft.model import DiscoveryData, Mac, Node, Peer
from weft.wire.discovery_data import encode

BACKSTOP = 3600.0
"""Seconds that no test waits for: what is heard within is heard from the kernel."""


def data(*names: str) -> DiscoveryData:
    peers = (Node(name, (IPv4Address("10.0.1.5"),), 4789, 1000, Mac(bytes(6)), 0, stack=name) for name in names)
    return DiscoveryData(tuple(Peer(node, 1e9) for node in peers), last_update=1e9)


def replace(path: Path, *names: str) -> None:
    """As the document's writer: beside, then renamed."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(encode(data(*names), "multicast"))
    beside.rename(path)


class Reader:
    """Follows a DiscoveryFile. `seen`: for each yield, the ids of the peers and the problem."""

    def __init__(self, source: DiscoveryFile) -> None:
        self.source = source
        self.seen: list[tuple[tuple[str, ...], str]] = []
        self.at = 0.0

    async def follow(self) -> None:
        async for found in self.source.contents():
            self.at = time.perf_counter()
            self.seen.append((tuple(peer.node.id for peer in found.peers), self.source.problem))

    @property
    def names(self) -> tuple[str, ...]:
        return self.seen[-1][0] if self.seen else ("?",)

    @property
    def problem(self) -> str:
        return self.seen[-1][1] if self.seen else ""

    async def have(self, *names: str) -> None:
        await soon(lambda: (self.names, self.problem) == (names, ""), f"{names}, and not {self.seen[-1:]}")

    async def hears(self, words: str) -> None:
        await soon(lambda: words in self.problem, f"a problem {words!r}, and not {self.problem!r}")


@contextlib.asynccontextmanager
async def reading(path: Path, watch: bool = True, refresh: float = BACKSTOP) -> AsyncIterator[Reader]:
    reader = Reader(DiscoveryFile(str(path), watch, refresh))
    task = asyncio.ensure_future(reader.follow())
    try:
        yield reader
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "docker-router"
    folder.mkdir()
    return folder / "discovery.json"


async def test_what_could_not_be_read_is_looked_at_again_before_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder that may not be entered, the kernel tells nothing."""
    monkeypatch.setattr(discovery_file, "AGAIN", 0.02)
    async with reading(path, watch=False) as reader:
        await reader.hears("missing")
        replace(path, "a")
        await reader.have("a")


async def test_each_replacement_is_read(path: Path) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        for names in (("a", "b"), ("b",), (), ("c",)):
            replace(path, *names)
            await reader.have(*names)
        assert reader.source.data == data("c")
        assert len(reader.seen) == 5


async def test_it_is_read_at_once(path: Path) -> None:
    """0.4 ms on an idle machine; on any, long before the timer."""
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        took = []
        for number in range(40):
            start = time.perf_counter()
            replace(path, f"peer-{number}")
            await reader.have(f"peer-{number}")
            took.append(reader.at - start)
        assert statistics.median(took) < patience(0.05), took


async def test_other_files_wake_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def counted(name: str, most: int) -> bytes:
        looks.append(name)
        return read_regular(name, most)

    monkeypatch.setattr(discovery_file, "read_regular", counted)
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        before = len(looks)
        for name in ("events.log", "routes.json", "lock.json", "discovery.json.tmp"):
            path.with_name(name).write_text("x")
        path.parent.with_name("other").write_text("x")
        replace(path, "b")
        await reader.have("b")
        assert len(looks) <= before + 2


async def test_the_same_again_is_no_news(path: Path) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        replace(path, "a")
        os.utime(path)
        replace(path, "b")
        await reader.have("b")
        assert reader.seen == [(("a",), ""), (("b",), "")]


async def test_a_missing_file_is_said_and_what_was_known_is_kept(path: Path) -> None:
    async with reading(path) as reader:
        await reader.hears(f"{path} is missing, since 20")
        assert "does `weft discovery` run here, with the same DATA_DIR?" in reader.problem
        assert reader.source.data == DiscoveryData(complete=False), "nobody is removed on its word"
        replace(path, "a", "b")
        await reader.have("a", "b")
        path.unlink()
        await reader.hears("what it said last is kept")
        assert reader.names == ("a", "b")
        replace(path, "a", "b")
        await reader.have("a", "b")


async def test_a_moment_without_a_file_is_nothing(path: Path) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        for number in range(5):
            path.unlink()
            await turns()
            replace(path, f"{number}")
            await reader.have(f"{number}")
        assert {problem for _, problem in reader.seen} == {""}


async def turns() -> None:
    """What the kernel has told so far is heard."""
    for _ in range(5):
        turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turn.set_result, None)
        await turn


async def test_a_broken_file_is_said_and_what_was_known_is_kept(path: Path) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        path.write_text("{half")
        await reader.hears("is broken (5 octets are no discovery.json of version 1: ")
        assert reader.names == ("a",)
        path.write_bytes(b"")
        await reader.hears("is broken (0 octets")
        replace(path, "b")
        await reader.have("b")


async def test_a_writer_in_place_is_waited_for(path: Path) -> None:
    replace(path, "a")
    text = encode(data("b"), "multicast")
    async with reading(path) as reader:
        await reader.have("a")
        with path.open("w", buffering=1) as out:
            for line in text.splitlines(keepends=True):
                out.write(line)
        await reader.have("b")
        assert {problem for _, problem in reader.seen} == {""}


async def test_the_folder_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "docker-router" / "discovery.json"
    async with reading(path) as reader:
        await reader.hears("is missing")
        (tmp_path / "var").mkdir()
        await turns()
        path.parent.mkdir(parents=True)
        replace(path, "a")
        await reader.have("a")


def removed_and_made(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def swapped(folder: Path) -> None:
    folder.rename(folder.with_name("former"))
    folder.mkdir()


def another_in_its_place(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    folder.rename(folder.with_name("former"))
    other.rename(folder)


def another_by_a_link(folder: Path) -> None:
    other = folder.with_name("linked")
    other.mkdir()
    link = folder.with_name("link")
    link.symlink_to(other)
    folder.rename(folder.with_name("former"))
    link.rename(folder)


@pytest.mark.parametrize("happens", [removed_and_made, swapped, another_in_its_place, another_by_a_link])
async def test_the_folder_is_replaced(path: Path, happens: Callable[[Path], None]) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        happens(path.parent)
        replace(path, "b")
        await reader.have("b")
        replace(path, "c")
        await reader.have("c")
        former = path.parent.with_name("former") / path.name
        if former.parent.exists():
            replace(former, "d")
            replace(path, "e")
            await reader.have("e")
            assert ("d",) not in [names for names, _ in reader.seen]


async def test_without_watching_the_interval_finds_it(path: Path) -> None:
    replace(path, "a")
    async with reading(path, watch=False, refresh=0.02) as reader:
        await reader.have("a")
        replace(path, "b")
        await reader.have("b")
        path.unlink()
        await reader.hears("is missing")
    async with reading(path, watch=False) as reader:
        await reader.hears("is missing")
        replace(path, "c")
        await turns()
        assert reader.names == ()


async def test_who_may_not_read_it_is_told_what_is_needed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    replace(path, "a")
    monkeypatch.setattr(discovery_file, "read_regular", refused)  # root reads everything
    async with reading(path) as reader:
        await reader.hears(f"user {os.geteuid()} must be of the group that it belongs to")


async def test_without_inotify_the_interval_has_to_do(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("weft.discovery.file_watch.Inotify", none_left)
    replace(path, "a")
    async with reading(path, refresh=0.02) as reader:
        await reader.have("a")
        replace(path, "b")
        await reader.have("b")
        assert caplog.text.count("can't be heard of (Too many open files): the timer will find them") == 1
        monkeypatch.undo()
        replace(path, "c")
        await reader.have("c")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_a_file(path: Path) -> None:
    replace(path.with_name("secret"), "secret")
    path.symlink_to(path.with_name("secret"))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))


def a_file_without_end(path: Path) -> None:
    with open(path, "wb") as out:
        out.truncate(1 << 40)


@pytest.mark.parametrize(
    "trick", [a_pipe, a_folder, a_link_to_a_device, a_link_to_itself, a_link_to_a_file, a_socket, a_file_without_end]
)
async def test_what_somebody_hostile_puts_there_holds_nobody_up(path: Path, trick: Callable[[Path], None]) -> None:
    replace(path, "a")
    async with reading(path) as reader:
        await reader.have("a")
        path.unlink()
        trick(path)
        await reader.hears("what it said last is kept, and so are all routes")
        assert reader.names == ("a",)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        replace(path, "b")
        await reader.have("b")


def test_a_lease_on_the_file_holds_nobody_up(path: Path) -> None:
    """F_SETLEASE makes others that open a file wait for /proc/sys/fs/lease-break-time: 45 s."""
    replace(path, "a")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the holder is told so
    with open(path, "r+b") as held:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        start = time.monotonic()
        with pytest.raises(BlockingIOError):
            read_regular(str(path), 1 << 20)
        assert time.monotonic() - start < patience(5), "the lease would be broken after 45 s"
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


def test_a_file_that_grows_is_not_read_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"x" * 10)
    read = os.read

    def grow(descriptor: int, most: int) -> bytes:
        with open(path, "ab") as out:
            out.write(b"y" * 10)
        return read(descriptor, most)

    monkeypatch.setattr("weft.discovery.file.os.read", grow)
    with pytest.raises(WireError, match="somebody is writing to it instead of replacing it"):
        read_regular(str(path), 100)
    assert path.stat().st_size < 200


async def test_many_peers_are_read_beside_everything_else(path: Path) -> None:
    names = tuple(f"stack-{number:05}" for number in range(5000))
    replace(path, *names)
    assert path.stat().st_size > discovery_file.INLINE
    async with reading(path) as reader:
        await reader.have(*names)
        replace(path, "a")
        await reader.have("a")
