"""WireGuard tunnels, routes and firewalls of a lab's hosts, without any daemon of weft's."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.flannel_lab import answers, counting
from tests.lab.harness import do, ip_json, lab_up, on
from tests.lab.test_plain_lab import leftovers, weft_lab
from tests.support.eventually import until
from tests.support.needs import needs_wireguard
from weft.errors import LabError
from weft.lab import state
from weft.lab.lab import Lab

pytestmark = needs_wireguard

DOCUMENT = {
    "engine": "none",
    "daemon": "none",
    "segments": {"internet": {"subnet": "198.51.100.0/24"}, "home": {"subnet": "192.168.4.0/24"}},
    "tunnels": {
        "wg0": {
            "subnet": "172.24.90.0/24",
            "over": "internet",
            "listen": "vps",
            "keepalive": 1,
            "members": {"vps": "172.24.90.1", "gate": {"address": "172.24.90.6", "behind": "192.168.4.0/24"}},
        }
    },
    "hosts": {
        "vps": {"segments": "internet"},
        "gate": {
            "segments": {"internet": None, "home": "192.168.4.6"},
            "forward": True,
            "firewall": ["iptables -A FORWARD -p udp --dport 8472 -j DROP"],
        },
        "box": {"segments": {"home": "192.168.4.88"}, "routes": [{"to": "default", "via": "192.168.4.6"}]},
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(DOCUMENT, "tunnel") as found:
        yield found


def through(lab: Lab) -> bool:
    return answers(lab, "vps", "192.168.4.88") and answers(lab, "box", "172.24.90.1")


def test_what_is_behind_the_other_end_is_reached_and_between_them_there_is_nothing_but_wireguard(lab: Lab) -> None:
    until(lambda: through(lab), "an answer through the tunnel")
    with counting(lab, "vps", "input", "iif eth0 udp dport 51820", "iif eth0 ip protocol icmp") as counters:
        assert answers(lab, "box", "172.24.90.1")
        assert answers(lab, "vps", "192.168.4.88")
        wrapped, bare = counters.read()
    assert wrapped >= 2
    assert bare == 0
    assert not answers(lab, "vps", "192.168.4.88", "-M", "do", "-s", str(1420 - 27)), "its MTU is 1420"


def test_a_hosts_firewall_is_as_the_file_says(lab: Lab) -> None:
    assert "-A FORWARD -p udp -m udp --dport 8472 -j DROP" in on(lab, "gate", "iptables -S")


def test_a_tunnel_is_cut_and_healed_as_a_cable_is(lab: Lab) -> None:
    until(lambda: through(lab), "an answer through the tunnel")
    for end in ("vps", "gate"):
        do(lab.cut(end, "wg0"))
        assert do(lab.cables_cut()) == {(end, "wg0")}
        assert "wg0 172.24.90" in (shown := weft_lab("status", "--lab", lab.name).stdout)
        assert "on wg0, CUT" in shown
        assert not answers(lab, "vps", "192.168.4.88")
        do(lab.heal(end, "wg0"))
        until(lambda: through(lab), "an answer through the tunnel")
    assert do(lab.cables_cut()) == set()


def test_a_killed_wireguard_go_is_replaced_by_heal(lab: Lab) -> None:
    on(lab, "gate", ["sh", "-c", "kill -KILL $(pgrep -x wireguard-go)"])
    until(lambda: do(lab.cables_cut()) == {("gate", "wg0")}, "the device to go")
    do(lab.heal("gate", "wg0"))
    until(lambda: through(lab), "an answer through the tunnel")


def test_what_a_tunnel_can_not_do_is_said(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"wg0 is a tunnel and has no carrier to keep: cut what it runs over"):
        do(lab.cut("gate", "wg0", keep_carrier=True))
    with pytest.raises(LabError, match=r"vps is not on segment 'wg1'; did you mean 'wg0'\?"):
        do(lab.cut("vps", "wg1"))


def test_the_keys_are_for_root_alone_and_on_no_command_line(lab: Lab) -> None:
    folder = state.folder(lab.name) / "gate"
    for kind in ("key", "conf"):
        assert stat.S_IMODE((folder / f"wg0.{kind}").stat().st_mode) == 0o600
    key = (folder / "wg0.key").read_text().strip()
    assert key in (folder / "wg0.conf").read_text()
    assert key not in (state.folder(lab.name) / "vps" / "wg0.conf").read_text()
    assert on(lab, "gate", "wg show wg0 public-key") == (folder / "wg0.pub").read_text()
    assert key not in subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout


def test_the_tunnel_ends_with_the_lab() -> None:
    with lab_up(DOCUMENT, "gone") as lab:
        assert [link["ifname"] for link in ip_json(lab, "vps", "link show wg0")] == ["wg0"]
        told = json.loads(weft_lab("status", "--lab", lab.name, "--json").stdout)
        assert told["hosts"]["vps"]["ports"][1]["interface"] == "wg0"
    assert leftovers(lab.name) == []
