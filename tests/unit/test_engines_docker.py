"""The Docker source's ways through trouble, on a small engine in this process (a real server on a real socket)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.eventually import soon
from tests.support.fake_docker import FakeDocker, listed
from tests.support.sets import Sets, reading
from weft.engines import docker
from weft.engines.docker import Docker
from weft.errors import EngineError
from weft.model import Known, Network

Fits = Callable[[Known[Network]], bool]


@pytest.fixture(autouse=True)
def _settle_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "SETTLED", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[Docker]:
    engine = Docker(f"unix://{path}")
    yield engine
    await engine.close()


def names(known: Known[Network]) -> list[str]:
    return [n.name for n in known.items]


def has(*wanted: str) -> Fits:
    return lambda known: known.complete and not known.problems and names(known) == sorted(wanted)


def troubled(*phrases: str) -> Fits:
    return lambda known: len(known.problems) == 1 and all(p in known.problems[0].message for p in phrases)


async def settled(fake: FakeDocker, sets: Sets[Network]) -> None:
    """Wait until the first set is there and the event stream is up, so that what comes next comes by an event."""
    await sets.wait(lambda k: k.complete and not k.problems, "the first set")
    await soon(lambda: fake.listening == 1, "the event stream")


async def test_the_first_answer_is_complete_and_events_bring_the_next(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        fake.add(listed("blue", ["10.1.0.0/24"]))
        await sets.wait(has("blue", "bridge"), "the new network")
        fake.remove("blue")
        await sets.wait(has("bridge"), "the network to go")
    assert [names(k) for k in sets.seen] == [["bridge"], ["blue", "bridge"], ["bridge"]]


async def test_over_tcp(path: Path) -> None:
    fake = FakeDocker()
    async with fake.serving(0) as url:
        engine = Docker(url)
        async with reading(engine.networks()) as sets:
            await settled(fake, sets)
            fake.add(listed("blue", ["10.1.0.0/24"]))
            await sets.wait(has("blue", "bridge"), "the new network")
        await engine.close()


async def test_nothing_is_yielded_twice_and_a_burst_costs_few_lists(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        before = fake.lists
        for number in range(200):
            fake.add(listed(f"n{number}", [f"10.1.{number}.0/24"]))
        fake.end_streams()
        await soon(lambda: fake.streams == 2, "a second stream: all events of the first were read")
        await sets.wait(lambda known: len(known.items) == 201, "all of them")
        assert fake.lists - before < 50
        assert all(a != b for a, b in zip(sets.seen, sets.seen[1:], strict=False))


async def test_what_happened_before_the_stream_was_up_wakes_too(
    engine: Docker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine replays what it remembers: a network made between our first list and our subscription isn't missed."""
    monkeypatch.setattr(docker, "SETTLED", 3600.0)
    fake = FakeDocker()
    fake.add(listed("blue", ["10.1.0.0/24"]))
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        await soon(lambda: fake.lists == 2, "a second list, after the replayed event")
    assert len(sets.seen) == 1


async def test_an_engine_that_never_answered(engine: Docker, path: Path) -> None:
    async with reading(engine.networks()) as sets:
        first = await sets.wait(troubled(), "a problem")
        assert (first.items, first.complete) == ((), False)
        assert first.problems[0].message.startswith(f"docker at unix://{path} can't be asked since ")
        assert first.problems[0].message.endswith(
            "Z: No such file or directory; no network is known yet: does it run, and is docker_host right?"
        )
        fake = FakeDocker()
        async with fake.serving(path):
            await sets.wait(has("bridge"), "the engine to be found")


async def test_an_outage_keeps_the_last_set_and_ends(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    fake.add(listed("blue", ["10.1.0.0/24"]))
    async with reading(engine.networks()) as sets:
        async with fake.serving(path):
            await settled(fake, sets)
        down = await sets.wait(troubled("keeping the last known 2 networks", "No such file"), "the outage to be told")
        assert (names(down), down.complete) == (["blue", "bridge"], True)
        fake.networks.pop()
        async with fake.serving(path):
            await sets.wait(has("bridge"), "the recovery")
    told = [k for k in sets.seen if k.problems]
    assert len(told) == len(set(told)) == 3, "refused, no such file, and the new set before the outage is over"


async def test_retries_come_ever_more_slowly_and_never_end(
    engine: Docker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def jitter(low: float, high: float) -> float:
        assert (low, high) == (0.5, 1.0)
        return 1.0

    async def pause(self: Docker, seconds: float) -> None:
        pauses.append(seconds)
        await really_pause(self, 0.0)

    really_pause = Docker._pause
    monkeypatch.setattr(Docker, "_pause", pause)
    monkeypatch.setattr(random, "uniform", jitter)
    async with reading(engine.networks()) as sets:
        await soon(lambda: len(pauses) >= 20, "20 attempts")
        assert len(sets.seen) == 1, "an outage is told once, since when it began"
        async with FakeDocker().serving(path):
            await sets.wait(has("bridge"), "the engine to be found at last")
            pauses.clear()
        await soon(lambda: len(pauses) >= 9, "9 more attempts")
    assert pauses[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_a_stream_that_ends_is_taken_anew(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        fake.end_streams()
        await soon(lambda: fake.streams == 2 and fake.listening == 1, "a second event stream")
        fake.add(listed("blue", ["10.1.0.0/24"]))
        await sets.wait(has("blue", "bridge"), "the new network")


async def test_an_engine_that_hangs_is_an_outage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ANSWER", 0.1)
    fake, engine = FakeDocker(), Docker(f"unix://{path}", resync=0.1)
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        fake.hung = True
        down = await sets.wait(troubled("no answer within 0.1 s; keeping the last known 1 networks"), "the outage")
        assert names(down) == ["bridge"]
        fake.hung = False
        await sets.wait(has("bridge"), "the recovery")
    await engine.close()


async def test_the_timer_finds_what_no_event_told_and_takes_a_new_stream(path: Path) -> None:
    fake, engine = FakeDocker(), Docker(f"unix://{path}", resync=0.1)
    async with fake.serving(path), reading(engine.networks()) as sets:
        await settled(fake, sets)
        await soon(lambda: fake.lists >= 4, "the timer to ask a few times")
        assert fake.streams == 1
        fake.mute = True
        fake.add(listed("blue", ["10.1.0.0/24"]))
        await sets.wait(has("blue", "bridge"), "the new network")
        await soon(lambda: fake.streams == 2, "a new stream, since the old one told nothing")
    await engine.close()


async def test_an_outage_does_not_hide_what_else_is_wrong(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    fake.add(listed("blue", ["10.1.0.0/24"], labels={"weft.expose": "maybe"}))
    async with reading(engine.networks()) as sets:
        async with fake.serving(path):
            await sets.wait(troubled("label weft.expose='maybe'"), "the bad label")
        down = await sets.wait(lambda k: len(k.problems) == 2, "the outage beside it")
        assert [p.subject for p in down.problems] == ["network blue", "docker"]


async def test_lists_without_events_are_one_lasting_problem(engine: Docker, path: Path) -> None:
    """As behind a proxy that forbids /events: the set is kept up to date, and the problem does not come and go."""
    fake = FakeDocker()
    fake.refuse = {"/events"}
    async with fake.serving(path), reading(engine.networks()) as sets:
        await sets.wait(troubled("/events is forbidden here"), "the problem")
        fake.add(listed("blue", ["10.1.0.0/24"]))
        await sets.wait(lambda k: names(k) == ["blue", "bridge"], "the new network")
        await soon(lambda: fake.lists >= 5, "a few more attempts")
        assert sum(not k.problems for k in sets.seen) <= 1


@pytest.mark.parametrize(
    ("refuse", "broken", "phrase"),
    [
        ("/networks", None, "it answered 403: /networks is forbidden here"),
        ("/events", None, "it answered 403: /events is forbidden here"),
        ("/version", None, "it answered 403: /version is forbidden here"),
        ("", {"not": "a list"}, "its list of networks can't be read"),
        ("", [{"Name": "blue"}], "its list of networks can't be read"),
    ],
)
async def test_a_wrong_answer_is_told(engine: Docker, path: Path, refuse: str, broken: object, phrase: str) -> None:
    fake = FakeDocker()
    fake.refuse = {refuse}
    fake.broken = broken  # type: ignore[assignment]
    async with fake.serving(path), reading(engine.networks()) as sets:
        await sets.wait(troubled(phrase), f"the problem {phrase!r}")
        fake.refuse, fake.broken = set(), None
        await sets.wait(has("bridge"), "the recovery")


async def test_an_answer_forges_no_line_of_the_log(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    fake.refuse, fake.why = {"/networks"}, "no\n2026-11-20 weft: forged"
    async with fake.serving(path), reading(engine.networks()) as sets:
        down = await sets.wait(troubled("it answered 403: /networks is no?2026-11-20 weft: forged"), "the problem")
        assert down.problems[0].message.isprintable()


async def test_close_ends_the_source_also_in_the_middle_of_a_wait(engine: Docker, path: Path) -> None:
    fake = FakeDocker()
    seen: list[Known[Network]] = []

    async def collect() -> None:
        async for known in engine.networks():
            seen.append(known)

    async with fake.serving(path):
        task = asyncio.create_task(collect())
        await soon(lambda: seen and fake.listening == 1, "the first set and the event stream")
        await engine.close()
        await asyncio.wait_for(task, 60)
        await soon(lambda: fake.listening == 0, "the event stream to be given up")
    assert [names(k) for k in seen] == [["bridge"]]


@pytest.mark.parametrize("steps", range(20))
async def test_who_reads_can_be_cancelled_at_any_moment(engine: Docker, path: Path, steps: int) -> None:
    """An event that comes with the cancellation must not swallow it (as wait_for of Python 3.11 would)."""
    fake = FakeDocker()
    source = engine.networks()
    async with fake.serving(path):
        await anext(source)
        waiting = asyncio.ensure_future(anext(source))
        await soon(lambda: fake.listening == 1, "the event stream")
        fake.add(listed("blue", ["10.1.0.0/24"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled = waiting.cancel()
        await asyncio.wait({waiting}, timeout=60)
        assert waiting.cancelled() is cancelled


async def test_close_ends_the_source_also_in_the_middle_of_a_pause(
    engine: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "RETRY_FIRST", 3600.0)
    monkeypatch.setattr(docker, "RETRY_LONGEST", 3600.0)
    async with reading(engine.networks()) as sets:
        await sets.wait(troubled("No such file"), "the outage")
        await asyncio.sleep(0)
        await engine.close()
        await soon(lambda: sets.ended, "the source to end")


async def test_bad_tls_files_are_a_problem_until_they_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    engine = Docker("tcp://127.0.0.1:1")
    async with reading(engine.networks()) as sets:
        first = await sets.wait(troubled("No such file or directory", "(see $DOCKER_TLS_VERIFY"), "the missing files")
        assert (first.items, first.complete) == ((), False)
        for name in ("ca", "cert", "key"):
            (tmp_path / f"{name}.pem").write_text("rubbish")
        await sets.wait(troubled("$DOCKER_CERT_PATH"), "the bad files")
        assert not sets.ended
    await engine.close()


async def test_tls_without_a_directory_of_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.delenv("DOCKER_CERT_PATH", raising=False)
    engine = Docker("tcp://127.0.0.1:1")
    async with reading(engine.networks()) as sets:
        await sets.wait(troubled("DOCKER_CERT_PATH is not set"), "the problem")
    await engine.close()


@pytest.mark.parametrize("url", ["ssh://host", "/var/run/docker.sock", "unix://", "fd://", "tcp://"])
def test_a_url_of_another_kind(url: str) -> None:
    with pytest.raises(EngineError, match="is not a URL that weft can use: unix:///PATH or tcp://HOST:PORT"):
        Docker(url)


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert Docker().url == "tcp://192.0.2.1:2375"
    assert Docker("unix:///run/mine.sock").url == "unix:///run/mine.sock"
    monkeypatch.delenv("DOCKER_HOST")
    assert Docker().url == "unix:///var/run/docker.sock"
