"""What `weft show` makes of answers: ages, peers that are not routed to, peers of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contract.test_cli import Voice
from tests.loop.test_router_world import Router
from tests.support.stacks import data
from tests.support.stacks import peer as peer_of
from weft.cli import main as cli
from weft.cli.client import ago
from weft.cli.show import page
from weft.objects import Why
from weft.web.api import Api

NOW = 1_705_314_600.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s ago"),
        (0, "0 s ago"),
        (599, "599 s ago"),
        (600, "10 min ago"),
        (7199, "120 min ago"),
        (7200, "2 h ago"),
        (172_799, "48 h ago"),
        (172_800, "2 days ago"),
        (89_890_594, "1040 days ago"),
    ],
)
def test_an_age_is_said_in_the_unit_that_says_it_best(seconds: float, said: str) -> None:
    assert ago(NOW - seconds, NOW) == said


def test_never_is_no_age() -> None:
    assert ago(0.0, NOW) == "-"


def peer(**other: object) -> dict[str, Any]:
    row = {"node": "z", "endpoints": ["10.0.0.9"], "networks": [], "routed": False, "last_seen": 0.0, "source": ""}
    return {**row, "way": "", "problems": [], **other}


def test_why_a_peer_is_not_routed_to_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    why = "stack z is not routed to: its VNI is 1001, this host's is 1000"
    page("peers", False, [peer(way=why, problems=[why]), peer(node="y", way="directly")])
    said = capsys.readouterr().out
    assert said.count(why) == 1
    assert "y: directly" in said


def test_who_wrote_a_plain_discovery_json_is_another_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        str(Why("", "stack-b", "tunnel to node stack-b")) == "tunnel to node stack-b (stack-b, told by another program)"
    )
    page("peers", False, [peer()])
    assert capsys.readouterr().out.splitlines()[1].split() == ["z", "10.0.0.9", "no", "-", "-", "-"]


async def test_a_route_is_shown_with_all_its_gateways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    router = Router(tmp_path)
    twin = peer_of("stack-b", "10.0.0.3", "192.168.100.3", "172.21.0.0/16", id="stack-b-2")
    await router.takes(data(peer_of("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16"), twin))
    found = Api(router.loop, Voice()).routes()
    assert {row.destination: row.via for row in found} == {
        "172.21.0.0/16": ["192.168.100.2", "192.168.100.3"],
        "192.168.100.0/24": [],
    }
    page("routes", False, msgspec.to_builtins(found))
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["172.21.0.0/16", "192.168.100.2,", "192.168.100.3"],
        ["192.168.100.0/24", "-", "vxlan1000"],
    ]


def test_who_may_not_read_discovery_json_is_told_who_may(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refused)  # root reads everything
    with pytest.raises(SystemExit) as end:
        cli.main(["discovery", "show", "--file", "/data/discovery.json"])
    assert end.value.code == 3
    said = "weft: /data/discovery.json can't be read: Permission denied; be root, or of its group\n"
    assert capsys.readouterr().err == said
