"""The ladder's steps, on a real kernel: what each does, what it leaves alone, what is remembered of it."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.contract.test_cycling import two_hosts
from tests.support.needs import needs_root
from weft.agent.attempts import Attempts
from weft.agent.healing import Healed, Healer, Means
from weft.core.ladder import Attempt, Step
from weft.core.stale import Wanted
from weft.model import parse_mac

B = parse_mac("02:00:00:00:00:02")
WANTED = Wanted("flannel.1", {B: ip_address("192.0.2.2")}, {ip_address("10.5.2.0"): B})


def healer(tmp_path: Path, netns: Path | None = None, restart: str = "") -> Healer:
    means = Means(f"unix://{tmp_path}/docker.sock", "flannel", restart, str(netns) if netns else None)
    return Healer(means, Attempts(tmp_path / "run" / "recovery.json"))


@needs_root
async def test_entries_are_corrected_and_the_peer_answers_again(tmp_path: Path) -> None:
    with two_hosts() as (a, _):
        a.bridge("fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.9 self permanent")
        a.bridge("fdb add 02:00:00:00:00:77 dev flannel.1 dst 192.0.2.2 self permanent")
        a.ip("neighbour replace 10.5.2.0 lladdr 02:00:00:00:00:77 nud permanent dev flannel.1")
        a.ip("neighbour add 10.66.0.3 lladdr 02:00:00:00:00:33 nud permanent dev flannel.1")
        one = healer(tmp_path, a.path)
        assert len(await one.stale(WANTED)) == 3
        done = await one.take(Step("fdb", "flannel.1", "somebody broke it"), WANTED)
        assert done.failures == ()
        assert len(done.lines) == 3
        assert await one.stale(WANTED) == ()
        a.run("ping", "-c1", "-W2", "-I", "10.5.1.0", "10.5.2.0")
        assert "10.66.0.3" in a.ip("neighbour show dev flannel.1"), "no lease speaks of it"


@needs_root
async def test_a_cycle_is_told_and_remembered(tmp_path: Path) -> None:
    with two_hosts() as (a, _):
        one = healer(tmp_path, a.path)
        done = await one.take(Step("cycle", "flannel.1", "nobody answers"), WANTED)
        assert done.failures == ()
        assert done.lines[0].startswith("ip link set flannel.1 down; ip link set flannel.1 up   # and 2 routes, neigh")
        a.run("ping", "-c1", "-W2", "-I", "10.5.1.0", "10.5.2.0")
        (attempt,), said = healer(tmp_path, a.path).history()
        assert said == ""
        assert (attempt.rung, attempt.device, attempt.reason) == ("cycle", "flannel.1", "nobody answers")
        assert (await one.take(Step("cycle", "flannel.9", "?"), WANTED)).failures[0].startswith("there is no link flan")
        assert (
            (await one.take(Step("fdb", "flannel.9", "?"), Wanted("flannel.9")))
            .failures[0]
            .startswith("there is no link flan")
        )


async def test_what_may_not_be_restarted_is_not_and_what_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step("restart", "flannel.1", "it hangs")
    assert (await healer(tmp_path).take(step, WANTED)).failures == (
        "RESTART_FLANNEL names nothing that may be restarted",
    )
    (failure,) = (await healer(tmp_path, restart="container").take(step, WANTED)).failures
    assert failure.startswith(f"docker at unix://{tmp_path}/docker.sock can't be asked: ")
    tool = tmp_path / "systemctl"
    tool.write_text(
        '#!/bin/sh\necho "$@" >>"$0.said"\n[ "$2" = flanneld.service ] || { echo no such unit >&2; exit 5; }\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    good = await healer(tmp_path, restart="service:flanneld.service").take(step, WANTED)
    assert good == Healed(("systemctl restart flanneld.service",))
    assert (tmp_path / "systemctl.said").read_text() == "restart flanneld.service\n"
    bad = await healer(tmp_path, restart="service:other.service").take(step, WANTED)
    assert bad.failures == ("systemctl restart other.service ended with 5: no such unit",)
    monkeypatch.setenv("PATH", "/nonexistent")
    none = await healer(tmp_path, restart="service:flanneld.service").take(step, WANTED)
    assert none.failures == (
        "systemctl restart flanneld.service: No such file or directory; is this the host, or a container on it?",
    )


def test_the_words_for_what_is_restarted() -> None:
    assert Means().words == ""
    assert Means(container="f1", restart="container").words == "container f1"
    assert Means(restart="service:flanneld.service").words == "service flanneld.service"


def test_attempts_survive_a_restart_and_a_broken_file_does_not_stop_anything(tmp_path: Path) -> None:
    now = time.time()
    book = Attempts(tmp_path / "run" / "recovery.json")
    assert book.read(now) == ((), "")
    old, late = Attempt("cycle", "flannel.1", now - 90000.0), Attempt("fdb", "flannel.1", now - 5.0, "why")
    assert book.add(old) == ""
    assert book.add(late) == ""
    assert Attempts(tmp_path / "run" / "recovery.json").read(now) == ((late,), "")
    told = json.loads((tmp_path / "run" / "recovery.json").read_text())
    assert told == {
        "version": 1,
        "attempts": [{"rung": "fdb", "device": "flannel.1", "at": late.at, "reason": "why"}],
    }, "what is older than a day goes"
    for text in ("{", '{"attempts":[{"rung":"up","device":"x","at":1}]}', "[]"):
        (tmp_path / "run" / "recovery.json").write_text(text)
        found, said = book.read(now)
        assert found == ()
        assert "recovery.json can't be read" in said
        assert "what was tried before is forgotten" in said
    assert book.add(late) == ""
    assert book.read(now) == ((late,), "")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = Attempts(tmp_path / "file" / "recovery.json").add(Attempt("fdb", "flannel.1", 1.0))
    assert "can't be written" in said
