"""Whether a process is provably no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from weft.agent import contender
from weft.agent.contender import Contender, Leader, contender_here, is_dead

CODE = """
import msgspec
from weft.agent.contender import contender_here
print(msgspec.json.encode(contender_here()).decode(), flush=True)
input()
"""


def test_this_process_is_alive_and_what_had_its_number_before_is_not() -> None:
    me = contender_here()
    assert me.pid == os.getpid()
    assert me.place
    assert me.instance != contender_here().instance
    assert not is_dead(me)
    assert is_dead(msgspec.structs.replace(me, started=me.started - 1))


def test_another_process_is_dead_once_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        one = msgspec.json.decode(child.stdout.readline(), type=Contender)
        assert one.pid == child.pid
        assert not is_dead(one)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_dead(one), "a zombie may have threads that live"
    assert is_dead(one)


def test_of_another_place_nothing_can_be_said() -> None:
    me = contender_here()
    gone = msgspec.structs.replace(me, pid=2**22 + 1)
    assert is_dead(gone)
    for changes in ({"place": "another boot"}, {"place": ""}, {"started": 0}, {"pid": 0}, {"pid": -1}):
        assert not is_dead(msgspec.structs.replace(gone, **changes))


def test_another_users_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert not is_dead(contender_here())


def test_where_proc_shows_others_nothing_can_be_proved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    me = contender_here()
    monkeypatch.setattr(contender, "BOOT_ID", tmp_path / "missing")
    assert contender_here().place == ""
    monkeypatch.undo()
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    assert contender_here().place == ""
    assert not is_dead(msgspec.structs.replace(me, pid=2**22 + 1))


def test_a_leader_is_called_by_its_host_and_pid() -> None:
    assert Leader("vm-1", 7, "a").name == "vm-1 (pid 7)"
