"""The command line against a real server on a real unix socket, over a world in memory; and without any agent."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.build import PRIVATE, VNI, known, network, node, uplink
from weft import model
from weft.agent.loop import Loop
from weft.agent.reconcile import Reconciler
from weft.agent.world import World
from weft.cli import main as cli
from weft.cli.client import ask_at
from weft.core.identity import Identity
from weft.daemons.process import claim
from weft.errors import AgentUnreachable, WeftError
from weft.model import Host, Known, Problem, Profile, Reach
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.web.api import Api
from weft.web.local import LocalServer

HOST = Host((uplink("eth0", "192.0.2.1/24"), uplink("br-home", "10.1.0.1/24", default=())))
SECRET = replace(network("secret", "10.66.0.0/24", exposed=False), note="label weft.expose=false")
HOME = Known((network("home", "10.1.0.0/24"), SECRET), True)
PEERS = known(node("b", "192.0.2.2", "10.2.0.0/24"), node("far", "192.0.2.9", "10.9.0.0/24", vni=7))


class Voice:
    """What the discovery would tell."""

    def last_seen(self) -> Mapping[str, float]:
        return {"b": 1e9}

    def counters(self) -> Mapping[str, int]:
        return {"received.HELLO": 7, "refused.malformed": 3, "refused.replayed": 0}

    def within(self) -> Mapping[str, str]:
        return {}

    def rules(self) -> Mapping[str, str]:
        return {"b": "directly: its tunnel answers"}

    def probed(self) -> Mapping[str, Reach]:
        path = model.Path("b", "tunnel", "vxlan4096", ip_address("192.0.2.1"), ip_address("192.0.2.2"))
        return {"b": Reach(path, "up", 0.0, full=True)}


@dataclass
class Running:
    loop: Loop[World]
    kernel: MemoryTarget
    path: Path
    capture: pytest.CaptureFixture[str]

    async def weft(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `weft WORDS`."""

        def run() -> int:
            try:
                cli.main(list(words))
            except SystemExit as end:
                return int(end.code or 0)
            return 0

        self.capture.readouterr()
        code = await asyncio.to_thread(run)
        out, err = self.capture.readouterr()
        return code, out, err


@pytest.fixture
async def agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Running]:
    path = tmp_path / "run" / "agent.sock"
    for name in [name for name in os.environ if name.startswith("WEFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WEFT_SOCKET", str(path))
    world = World(Identity("a", VNI, 4789, "test"), Profile(), PRIVATE, HOME, PEERS, HOST)
    kernel = MemoryTarget(KERNEL_KINDS + FIREWALL_KINDS)
    loop = Loop(world, Reconciler((kernel,)), 3600.0)
    server = LocalServer(Api(loop, Voice()), path)
    await server.start()
    await loop.step()
    yield Running(loop, kernel, path, capsys)
    await server.stop()


async def test_show_peers_names_the_ones_that_are_not_routed_to(agent: Running) -> None:
    code, out, _ = await agent.weft("show", "peers")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["NODE", "ENDPOINT", "ROUTED", "SEEN", "SOURCE", "NETWORKS"]
    assert "192.0.2.2" in lines[1]
    assert "yes" in lines[1]
    assert "no" in lines[2]
    assert lines[3] == "b: directly: its tunnel answers"
    assert lines[4] == "! node far is not routed to: its VNI is 7, this host's is 4096"
    _, out, _ = await agent.weft("show", "peers", "--json")
    assert [(p["node"], p["routed"], p["liveness"], p["full"]) for p in json.loads(out)] == [
        ("b", True, "up", True),
        ("far", False, "", None),
    ]


async def test_show_networks_routes_and_events(agent: Running) -> None:
    _, out, _ = await agent.weft("show", "networks")
    assert "label weft.expose=false" in out
    _, out, _ = await agent.weft("show", "routes")
    assert out.splitlines()[1].split()[:5] == ["10.2.0.0/24", "192.0.2.2", "vxlan4096", "b", "done"]
    _, out, _ = await agent.weft("show", "events")
    assert "add route 10.2.0.0/24" in out
    agent.loop.world.peers = known(node("b", "192.0.2.2", "10.2.0.0/24", "10.3.0.0/24"))
    agent.kernel.faults.fail_next(1)
    await agent.loop.step()
    _, out, _ = await agent.weft("show", "events")
    assert "FAILED" in out
    _, out, _ = await agent.weft("show", "routes", "--json")
    assert {r["destination"]: r["state"] for r in json.loads(out)} == {"10.2.0.0/24": "done", "10.3.0.0/24": "error"}


async def test_status_is_ok_or_says_what_is_wrong(agent: Running) -> None:
    agent.loop.world.peers = known(node("b", "192.0.2.2", "10.2.0.0/24"))
    await agent.loop.step()
    code, out, _ = await agent.weft("show", "status")
    assert code == 0, out
    assert "health ok" in out
    assert "1 peers, 1 routes on vxlan4096" in out
    assert "refused datagrams: malformed 3\n" in out
    agent.loop.world.peers = known(node("b", "192.0.2.2", "10.2.0.0/24"), complete=False)
    agent.loop.world.engine = replace(HOME, problems=(Problem("docker", "docker is away"),))
    agent.kernel.put_foreign(("route", *next(k for k in agent.loop.reconciler.plan.wanted if k[0] == "route")[1:]), "x")
    await agent.loop.step()
    code, out, _ = await agent.weft("show", "status")
    assert code == 1
    assert "waiting for discovery: nothing is removed until then" in out
    assert "! docker is away" in out
    assert "conflict" in out
    _, out, _ = await agent.weft("show", "status", "--json")
    assert json.loads(out)["health"] == "degraded"


async def test_explain_follows_the_packet_and_says_why_there_is_no_way(agent: Running) -> None:
    code, out, _ = await agent.weft("explain", "10.2.0.5")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "route",
        "nexthop",
        "neigh",
        "fdb",
        "b:",
    ]
    assert "because: network web of node b (b, told by multicast)" in out
    code, out, _ = await agent.weft("explain", "10.9.0.1", "--json")
    assert code == 1
    assert json.loads(out)["lines"][0]["text"].startswith("node far is not routed to: its VNI is 7")
    code, _, err = await agent.weft("explain", "what")
    assert code == 1
    assert "weft: 'what' is no address, no prefix and no known node; nodes: b, far" in err


async def test_plan_exits_with_2_if_something_is_pending_and_changes_nothing(agent: Running) -> None:
    assert await agent.weft("plan") == (0, "", "")
    agent.kernel.tamper_delete(("fdb", "vxlan4096", PEERS.items[0].mac))
    applied = len(agent.kernel.applied)
    code, out, _ = await agent.weft("plan")
    assert (code, out) == (2, "bridge fdb add 86:dd:f6:c2:3c:41 dev vxlan4096 dst 192.0.2.2 self permanent\n")
    code, out, _ = await agent.weft("plan", "--json")
    assert len(json.loads(out)["changes"]) == 1
    assert len(agent.kernel.applied) == applied
    agent.loop.world.peers = known(complete=False)
    agent.kernel.put_foreign(("link", "vxlan4096"), "a bridge of somebody else's")
    await agent.loop.step()
    code, out, err = await agent.weft("plan")
    assert "# conflict, left alone: link vxlan4096 type vxlan id 4096" in err
    assert ": a bridge of somebody else's" in err


async def test_every_verb_that_asks_an_agent_takes_a_settings_file(agent: Running, tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text(f"socket: {agent.path}\n")
    os.environ.pop("WEFT_SOCKET")
    for words in (("show", "status"), ("explain", "10.2.0.5"), ("plan",)):
        if words != ("plan",):  # without an agent that would look around on this very machine
            assert (await agent.weft(*words))[0] == 3
        code, _, err = await agent.weft(*words, "--config", str(file))
        assert (code, err) in ((0, ""), (1, ""))


async def test_held_removals_are_shown_as_held(agent: Running) -> None:
    agent.loop.world.peers = known(complete=False)
    agent.loop.reconciler = Reconciler((agent.kernel,))  # as after a restart
    await agent.loop.step()
    code, out, _ = await agent.weft("plan")
    assert code == 0
    assert "# held until every source has spoken: ip route del 10.2.0.0/24 proto 76 metric 7600" in out


async def test_before_anything_can_be_planned_the_answers_say_what_is_waited_for(agent: Running) -> None:
    agent.loop.world.engine = None
    await agent.loop.step()
    code, _, err = await agent.weft("plan")
    assert code == 3
    assert "nothing is planned yet: waiting for engine" in err
    code, out, _ = await agent.weft("explain", "10.2.0.5")
    assert (code, out.splitlines()[-1]) == (1, "node far is not routed to: its VNI is 7, this host's is 4096")
    _, out, _ = await agent.weft("show", "networks", "--json")
    assert json.loads(out) == []


async def test_cleanup_refuses_while_an_agent_runs_whatever_its_socket(agent: Running) -> None:
    with claim("agent"):
        code, _, err = await agent.weft("cleanup")
        assert code == 1
        assert "a weft agent is running in this network namespace already; stop it first" in err
        with pytest.raises(WeftError, match="a weft agent is running in this network namespace already"):
            claim("agent")
        claim("flanneld").close()
    claim("agent").close()


async def test_a_second_agent_on_the_socket_is_refused_and_a_dead_ones_socket_is_not(
    agent: Running, tmp_path: Path
) -> None:
    with pytest.raises(WeftError, match="another daemon answers on"):
        await LocalServer(Api(agent.loop, Voice()), agent.path).start()
    stale = tmp_path / "stale.sock"
    first = LocalServer(Api(agent.loop, Voice()), stale)
    await first.start()
    assert stat.S_IMODE(stale.stat().st_mode) == 0o660
    await first.stop()
    assert not stale.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    again = LocalServer(Api(agent.loop, Voice()), stale)
    await again.start()
    await again.stop()
    precious = tmp_path / "weft.yaml"
    precious.write_text("vni: 7\n")
    with pytest.raises(WeftError, match="exists and is no socket: it is left alone"):
        await LocalServer(Api(agent.loop, Voice()), precious).start()
    assert precious.read_text() == "vni: 7\n"
    with pytest.raises(WeftError, match="can't be made"):
        await LocalServer(Api(agent.loop, Voice()), Path("/proc/nowhere/agent.sock")).start()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "peers"), 3, "no agent answers on"),
        (("explain", "10.0.0.1"), 3, "is `weft agent` running, and are you root?"),
        (("show", "everything"), 2, "'everything' is not one of"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("agent", "--vni", "0"), 2, "--vni = '0': expected a whole number >= 1"),
        (("agent", "--config", "/nonexistent"), 2, "does not exist"),
    ],
)
def test_exit_codes_and_errors_without_an_agent(
    words: tuple[str, ...],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("WEFT_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    assert end.value.code == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    assert "Usage: " in capsys.readouterr().out


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["settings"], "WEFT_PEER_TIMEOUT"), (["settings", "--json"], '"variable": "WEFT_VNI"')):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert said in capsys.readouterr().out


def test_an_answer_that_is_no_json_is_no_agent(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable):
        ask_at(str(tmp_path), "status")


async def test_the_only_daemon_that_runs_is_asked_whatever_it_is(agent: Running) -> None:
    other = agent.path.with_name("flanneld.sock")
    agent.path.rename(other)
    code, out, _ = await agent.weft("show", "status")
    assert (code, "on vxlan4096" in out) == (0, True)
    code, out, _ = await agent.weft("show", "status", "--socket", str(other))
    assert (code, "on vxlan4096" in out) == (0, True)
    other.with_name("third.sock").touch()
    code, out, _ = await agent.weft("show", "status")
    assert code == 0, "flanneld's is one of those that are preferred"
    other.rename(other.with_name("fourth.sock"))
    code, _, err = await agent.weft("show", "status")
    assert code == 3
    assert f"no agent answers on {agent.path}" in err


async def test_a_fault_of_the_agents_is_no_silence(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(agent.loop.world), "problems", None)
    code, _, err = await agent.weft("show", "status")
    assert code == 1
    assert f"{agent.path} could not answer, by a fault in weft itself; its log says more" in err
