"""What a daemon is to the system around it: systemd's datagrams, signals, and one daemon per network namespace."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build import PRIVATE, VNI, known, network, node, uplink
from tests.support.eventually import soon
from tests.support.namespace import namespace
from tests.support.needs import needs_root
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.world import World
from weft.core.identity import Identity
from weft.daemons.process import claim, claim_file, log_to_stderr, notify, run_until_signalled
from weft.errors import WeftError
from weft.model import Host, Known, Profile
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The supervisor's end of $NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@weft-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name if request.param == "file" else "\0" + name[1:])
        end.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield end


def test_states_go_to_whoever_asked_for_them(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notify(os.environ, "READY=1", "STATUS=ok")
    assert systemd.recv(100) == b"READY=1\nSTATUS=ok"
    assert notify(os.environ, "STATUS=the lease a\nREADY=1\n10.5.2.0-24 can't be read")
    assert systemd.recv(100) == b"STATUS=the lease a READY=1 10.5.2.0-24 can't be read"
    assert not notify({}, "READY=1")
    assert not notify({"NOTIFY_SOCKET": "/nonexistent/notify"}, "READY=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_is_ready_at_once_runs_and_stops_when_it_is_told(
    systemd: socket.socket, number: signal.Signals
) -> None:
    host = Host((uplink("eth0", "192.0.2.1/24"),))
    peers = known(node("b", "192.0.2.2", "10.2.0.0/24"))
    world = World(Identity("a", VNI, 4789, "test"), Profile(), PRIVATE, None, peers, host)
    kernel = MemoryTarget(KERNEL_KINDS + FIREWALL_KINDS)
    loop = Loop(world, Reconciler((kernel,)), 3600.0)
    running = asyncio.ensure_future(run_until_signalled(loop))
    await soon(lambda: loop.reconciler.targets[0] is kernel and not running.done(), "the start")
    assert await _said(systemd) == b"READY=1\nSTATUS=waiting for its sources"
    world.engine = Known((network("home", "10.1.0.0/24"),), True)
    loop.wake()
    assert await _said(systemd) == b"STATUS=running"
    os.kill(os.getpid(), number)
    await asyncio.wait_for(running, 60)
    assert await _said(systemd) == b"STOPPING=1"
    assert any(key[0] == "route" for key in (await kernel.read()).objects), "what was set up stays"


async def test_nothing_runs_on_when_the_daemon_is_cancelled(systemd: socket.socket) -> None:
    """A second daemon with one public address ends so, and closes its targets next."""
    world = World(Identity("a", VNI, 4789, "test"), Profile(), PRIVATE)
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(run_until_signalled(Loop(world, Reconciler(()), 3600.0), ready_when_done=True))
    assert await _said(systemd) == b"STATUS=starting"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await soon(lambda: asyncio.all_tasks() == before, "every task to end", 2)
    while (said := await _said(systemd)) != b"STOPPING=1":
        assert said.startswith(b"EXTEND_TIMEOUT_USEC=")


async def _said(systemd: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(systemd, 200), 60)


@needs_root
def test_a_role_is_claimed_once_per_network_namespace() -> None:
    with namespace("one") as one, namespace("two") as two:
        with one.entered():
            held = claim("agent")
            with pytest.raises(WeftError, match="a weft agent is running in this network namespace already"):
                claim("agent")
        with two.entered():
            claim("agent").close()
        held.close()
        with one.entered():
            claim("agent").close()


def test_log_lines_leave_the_time_to_journald(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for stream, stamped in (("8:1", False), (None, True)):
            root.handlers.clear()
            monkeypatch.delenv("JOURNAL_STREAM", raising=False)
            if stream:
                monkeypatch.setenv("JOURNAL_STREAM", stream)
            log_to_stderr("warning")
            form = root.handlers[0].formatter
            assert form is not None
            assert ("asctime" in (form._fmt or "")) is stamped
            assert root.level == logging.WARNING
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_a_file_has_one_writer_and_a_long_name_is_cut() -> None:
    long = "/run/" + "x" * 200
    with (
        claim_file(long + "a"),
        claim_file(long + "b"),
        pytest.raises(WeftError, match=r"another weft daemon writes /run/x+a; give each its own"),
    ):
        claim_file(long + "a")
    claim_file(long + "a").close()
