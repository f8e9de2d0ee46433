"""events.log and health_status.json on a disk that may be full, read-only or hung."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import soon, until
from tests.support.namespace import namespace
from tests.support.needs import needs_root
from weft.agent import journal
from weft.agent.counters import is_up, read_counters
from weft.agent.journal import HealthFile, HealthFileOptions, Journal, Scribe, read_events, write_whole
from weft.core.health import Health, Issue
from weft.errors import WireError
from weft.wire.health import decode_health

WELL = Health("healthy", "all is well")
SICK = Health("degraded", "pita is not reachable", (Issue("connectivity", "pita is not reachable"),))


@pytest.fixture
def scribe() -> Iterator[Scribe]:
    scribe = Scribe()
    yield scribe
    scribe.close()


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_a_line_of_json_and_its_folder_is_made(tmp_path: Path, scribe: Scribe) -> None:
    log = Journal(tmp_path / "run" / "deep", scribe, lambda: 1_700_000_000.25)
    log.note("repair", "route 10.9.1.0/24", "added", "somebody removed it")
    assert scribe.settle(60)
    assert lines(log.path) == [
        {
            "time": "2023-11-14T22:13:20.250Z",
            "kind": "repair",
            "subject": "route 10.9.1.0/24",
            "done": "added",
            "reason": "somebody removed it",
        }
    ]
    assert log.counts == {"repair": 1}
    assert read_events(log.path)[0] == log.recent[0]


def test_the_log_is_put_aside_when_it_is_large(tmp_path: Path, scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LARGEST", 1000)
    log = Journal(tmp_path, scribe)
    for number in range(40):
        log.note("repair", f"route {number}", "added", "x" * 50)
        assert scribe.settle(60)
    old = log.path.with_name("events.log.1")
    assert old.stat().st_size < 1200
    assert log.path.stat().st_size < 1200
    assert lines(log.path)[-1]["subject"] == "route 39"
    assert not log.path.with_name("events.log.2").exists()


def test_another_name_setting_and_mode(tmp_path: Path) -> None:
    scribe = Scribe("DATA_DIR", 0o640)
    try:
        log = Journal(tmp_path / "data", scribe, lambda: 0.0, name="peers.log")
        (tmp_path / "data").write_text("")
        log.note("peer", "stack-b", "found", "multicast")
        assert scribe.settle(60)
        assert scribe.problem.endswith("free space, or set DATA_DIR to a folder that can be")
        (tmp_path / "data").unlink()
        log.note("peer", "stack-b", "stale", "silent for 90 s")
        scribe.replace(tmp_path / "data" / "whole", b"whole")
        until(lambda: (tmp_path / "data" / "whole").exists() and log.path.exists(), "both files")
        assert scribe.settle(60)
        assert [one["done"] for one in lines(tmp_path / "data" / "peers.log")] == ["found", "stale"]
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o640}
    finally:
        scribe.close()


def test_what_somebody_else_put_in_its_place_holds_nobody_up(tmp_path: Path, scribe: Scribe) -> None:
    log = Journal(tmp_path, scribe)
    secret = tmp_path / "secret"
    secret.write_text("")
    for make in (os.mkfifo, lambda path: os.symlink(secret, path)):
        make(log.path)
        log.note("repair", "one", "added", "")
        assert scribe.settle(60)
        assert f"{log.path} can't be written: " in scribe.problem
        log.path.unlink()
    assert secret.read_text() == ""
    log.note("repair", "two", "added", "")
    until(lambda: log.path.exists() and len(lines(log.path)) == 3, "all three")


def test_a_folder_that_can_not_be_made_is_a_problem_and_nothing_is_lost(tmp_path: Path, scribe: Scribe) -> None:
    (tmp_path / "run").write_text("a file stands here")
    log = Journal(tmp_path / "run", scribe)
    log.note("repair", "one", "added", "")
    assert scribe.settle(60)
    assert f"{log.path} can't be written: " in scribe.problem
    (tmp_path / "run").unlink()
    log.note("repair", "two", "added", "")
    until(lambda: not scribe.problem and log.path.exists(), "the disk to be used again")
    assert [one["subject"] for one in lines(log.path)] == ["one", "two"]


def test_a_full_disk_leaves_no_half_lines(tmp_path: Path, scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Journal(tmp_path, scribe)
    log.note("repair", "before", "added", "")
    assert scribe.settle(60)
    room = iter([20])
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        left = next(room, 0)
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:left])

    monkeypatch.setattr("weft.agent.journal.os.write", full)
    log.note("repair", "lost?", "added", "")
    assert scribe.settle(60)
    assert "No space left on device; free space" in scribe.problem
    assert [one["subject"] for one in lines(log.path)] == ["before"]
    monkeypatch.setattr("weft.agent.journal.os.write", write)
    log.note("repair", "after", "added", "")
    until(lambda: len(lines(log.path)) == 3, "the lines that were kept")
    assert [one["subject"] for one in lines(log.path)] == ["before", "lost?", "after"]


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung, released, scribe = threading.Event(), threading.Event(), Scribe()
    write = os.write

    def hang(descriptor: int, data: bytes) -> int:
        hung.set()
        released.wait(120)
        return write(descriptor, data)

    monkeypatch.setattr("weft.agent.journal.os.write", hang)
    monkeypatch.setattr(journal, "LONGEST_QUEUE", 10)
    log = Journal(tmp_path, scribe)
    log.note("repair", "0", "added", "")
    assert hung.wait(120)
    for number in range(1, 50):
        log.note("repair", str(number), "added", "")  # returns at once, or the test's time is up
    scribe.close(0.01)
    released.set()
    until(lambda: len(log.recent) == 50, "all to be noted")


def test_what_was_dropped_is_told(tmp_path: Path, scribe: Scribe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LONGEST_QUEUE", 3)
    (tmp_path / "run").write_text("")
    log = Journal(tmp_path / "run", scribe)
    for number in range(5):
        log.note("repair", str(number), "added", "")
    assert scribe.settle(60)
    (tmp_path / "run").unlink()
    log.note("repair", "5", "added", "")
    until(log.path.exists, "the log")
    assert scribe.settle(60)
    assert lines(log.path)[0]["done"] == "3 events were dropped"
    assert [one["subject"] for one in lines(log.path)][1:] == ["3", "4", "5"]


def test_the_health_file_is_written_at_each_change_and_every_so_often(tmp_path: Path, scribe: Scribe) -> None:
    now = [1000.0]
    log = Journal(tmp_path, scribe, lambda: now[0])
    file = HealthFile(HealthFileOptions(tmp_path / "new", "babka", 60), scribe, log, lambda: now[0])

    def told(health: Health) -> int:
        file.tell(health)
        assert scribe.settle(60)
        status = decode_health(file.path.read_bytes())
        assert (status.hostname, status.status) == ("babka", health.status)
        return status.last_check

    assert told(WELL) == 1000
    now[0] = 1030
    assert told(WELL) == 1000
    assert told(SICK) == 1030
    now[0] = 1091
    assert told(SICK) == 1091
    now[0] = 500  # the clock was set back
    assert told(SICK) == 500
    assert [e.done for e in log.recent] == ["starting → healthy", "healthy → degraded"]
    assert (file.last, file.judged) == (SICK, 500)


async def test_it_is_judged_when_woken(tmp_path: Path, scribe: Scribe) -> None:
    verdicts = [WELL, SICK, SICK]
    asked = []

    def ask() -> Health:
        asked.append(1)
        return verdicts[min(len(asked), 3) - 1]

    file = HealthFile(HealthFileOptions(tmp_path, "babka", 3600), scribe, Journal(tmp_path, scribe))
    running = asyncio.ensure_future(file.run(ask))
    try:
        await soon(lambda: file.last == WELL, "the first verdict")
        file.wake()
        await soon(lambda: file.last == SICK, "the second")
        assert len(asked) == 2
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_it_is_judged_every_so_often(tmp_path: Path, scribe: Scribe) -> None:
    asked: list[int] = []

    def ask() -> Health:
        asked.append(1)
        return WELL

    file = HealthFile(HealthFileOptions(tmp_path, "babka", 0.01), scribe, Journal(tmp_path, scribe))
    running = asyncio.ensure_future(file.run(ask))
    await soon(lambda: len(asked) > 2, "three verdicts")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "health_status.json"
    write_whole(path, b"zeroth")
    with open(path, "rb") as reader:
        write_whole(path, b"first")
        assert reader.read() == b"zeroth"  # whoever reads has one or the other
    assert list(tmp_path.iterdir()) == [path]

    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("weft.agent.journal.os.write", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_lines_that_are_no_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    path.write_text('garbage\n{"time":"t","kind":"k","subject":"s","done":"d","reason":"r"}\n{"half":')
    assert [e.kind for e in read_events(path)] == ["k"]
    with pytest.raises(WireError, match="can't be read"):
        read_events(tmp_path / "none")


def test_counters_of_a_device(tmp_path: Path) -> None:
    table = tmp_path / "dev"
    table.write_text(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop ...\n"
        "    lo: 9 8 0 0 0 0 0 0 9 8 0 0 0 0 0 0\n"
        "flannel.1:1234 5 0 0 0 0 0 0 600 7 0 0 0 0 0 0\n"
    )
    found = read_counters("flannel.1", 3.0, table)
    assert found is not None
    assert (found.at, found.rx_bytes, found.rx_packets, found.tx_bytes, found.tx_packets) == (3.0, 1234, 5, 600, 7)
    assert read_counters("flannel.2", 3.0, table) is None
    assert read_counters("flannel.1", 3.0, tmp_path / "none") is None
    assert read_counters("lo", 3.0) is not None


@needs_root
def test_a_device_that_is_up() -> None:
    with namespace() as ns:
        ns.ip("link add br0 type bridge")
        with ns.entered():
            assert is_up("lo")
            assert not is_up("br0")
            ns.ip("link set br0 up")
            assert is_up("br0")
            assert not is_up("none")
