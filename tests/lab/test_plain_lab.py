"""`weft lab` itself, without Docker and without agents: it builds what the file says and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.harness import do, example, failing, ip_json, lab_up, on, settle, unique, without_agents
from tests.support.eventually import until
from tests.support.needs import needs_root
from weft.errors import LabError
from weft.lab import matrix, netns, removal, state, wiring
from weft.lab.lab import Lab

pytestmark = needs_root

COUNTED_DOWN = ("expires", "valid_life_time", "preferred_life_time")
STATIC = {  # routes by hand, in place of agents
    "a": ["10.2.1.0/24 via 192.168.77.12", "fd00:2:1::/64 via fd77::12", "fd00:2:6::/64 via fd77::12"],
    "b": ["10.1.1.0/24 via 192.168.77.11", "fd00:1:1::/64 via fd77::11"],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(without_agents(example("plain")), "plain") as found:
        yield found


def weft_lab(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`weft lab …` as a user runs it."""
    command = [sys.executable, "-m", "weft.cli.main", "lab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_hosts_reach_each_other_over_the_segment(lab: Lab) -> None:
    assert " 0% packet loss" in on(lab, "a", "ping -c1 -W2 192.168.77.12")
    assert " 0% packet loss" in on(lab, "a", "ping -c1 -W2 fd77::13")


def test_containers_reach_their_own_network_and_nothing_connects_the_hosts_yet(lab: Lab) -> None:
    assert "a/shop → a/blog 10.1.1.3" not in failing(lab, count=1)
    assert "a/shop → b/web1 10.2.1.2" in failing(lab, count=1)


def test_a_host_does_not_forward_until_somebody_says_so(lab: Lab) -> None:
    assert on(lab, "a", "cat /proc/sys/net/ipv4/ip_forward").strip() == "0"


def test_with_routes_by_hand_the_containers_of_two_hosts_answer(lab: Lab) -> None:
    for host, routes in STATIC.items():
        netns.set_sysctls(
            lab.host(host).namespace, [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]
        )
        for route in routes:
            on(lab, host, f"ip route add {route}")
    try:
        assert [line for line in failing(lab) if " c/" not in line and not line.startswith("c/")] == []
    finally:
        for host, routes in STATIC.items():
            for route in routes:
                on(lab, host, f"ip route del {route}")


def test_a_command_runs_in_the_namespaces_of_its_host_with_its_exit_code(lab: Lab) -> None:
    assert on(lab, "a", "cat /proc/sys/kernel/hostname") == "a\n"
    assert [link["ifname"] for link in ip_json(lab, "a/shop", "link")] == ["lo", "eth0"]
    done = weft_lab("exec", "--lab", lab.name, "b", "--", "sh", "-c", "echo $WEFT_SOCKET; exit 7")
    assert (done.returncode, done.stdout) == (7, f"/run/weft-lab/{lab.name}/b/agent.sock\n")


def test_the_matrix_as_json_says_what_fails_and_the_exit_code_is_one(lab: Lab) -> None:
    done = weft_lab("ping", "--lab", lab.name, "--count", "1", "--timeout", "1.5", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert not told["ok"]
    pair = next(p for p in told["pairs"] if (p["source"], p["target"]) == ("a/shop", "a/blog"))
    assert (pair["sent"], pair["answered"], pair["loss"]) == (1, 1, 0)
    assert pair["rtt_ms"] > 0
    lost = next(p for p in told["pairs"] if (p["source"], p["target"]) == ("a/shop", "c/db1"))
    assert (lost["answered"], lost["loss"], lost["rtt_ms"]) == (0, 1, None)


def test_the_matrix_for_people_names_every_pair_that_fails(lab: Lab) -> None:
    done = weft_lab("ping", "--lab", lab.name, "--count", "1", "--timeout", "1.5")
    split = [line.split() for line in done.stdout.splitlines()]
    rows = {words[1]: words[2:] for words in split if words and words[0].isdigit() and "/" in words[1]}
    assert [cell in ("lost", "·") for cell in rows["a/blog"]] == [False, True, True, True]  # IPv6's: the later table
    assert "! a/shop → c/db2 (10.3.1.3): 1 of 1 lost" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("6 of 30 pairs answer; round trip ")


def test_status_and_list_show_what_runs_and_what_is_cut(lab: Lab) -> None:
    do(lab.cut("c", "lan"))
    try:
        done = weft_lab("status", "--lab", lab.name)
    finally:
        do(lab.heal("c", "lan"))
    assert done.returncode == 0
    assert "host c: eth0 192.168.77.13/24, fd77::13/64 on lan, CUT" in done.stdout
    assert "host b: eth0 192.168.77.12/24, fd77::12/64 on lan\n" in done.stdout
    told = json.loads(weft_lab("status", "--lab", lab.name, "--json").stdout)
    assert told["hosts"]["a"]["networks"]["web"]["containers"]["blog"] == ["10.1.1.3", "fd00:1:1::3"]
    assert {"lab": lab.name, "hosts": ["a", "b", "c"], "whole": True} in json.loads(weft_lab("list", "--json").stdout)


@pytest.mark.parametrize("keep_carrier", [False, True])
def test_a_cut_cable_carries_nothing_until_it_is_healed(lab: Lab, keep_carrier: bool) -> None:
    do(lab.cut("b", "lan", keep_carrier))
    assert do(lab.cables_cut()) == {("b", "lan")}
    assert on(lab, "b", "cat /sys/class/net/eth0/carrier").strip() == str(int(keep_carrier))
    assert "100% packet loss" in on(lab, "a", "ping -c1 -W1 192.168.77.12", check=False)
    do(lab.heal("b", "lan"))
    assert do(lab.cables_cut()) == set()
    answers = lambda: " 0% packet loss" in on(lab, "a", "ping -c1 -W1 192.168.77.12", check=False)  # noqa: E731
    until(answers, "b to answer again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("exec", "d", "--", "true"), "there is no host 'd'"),
        (("exec", "a/shp", "--", "true"), "there is no container 'shp' on host a; did you mean 'shop'?"),
        (("cut", "a", "wan"), "a is not on segment 'wan'"),
        (("cut", "x", "lan"), "there is no host or router 'x'"),
        (("start", "a", "docker"), "host a has `engine: none`"),
        (("start", "a", "agent"), "host a has `agent: false`"),
        (("kill", "a", "agent"), "agent does not run on a"),
    ],
)
def test_what_can_not_be_done_is_said_with_what_there_is(lab: Lab, arguments: tuple[str, ...], message: str) -> None:
    verb, *rest = arguments
    done = weft_lab(verb, "--lab", lab.name, *rest)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_second_lab_runs_beside_it_and_takes_nothing_along(lab: Lab) -> None:
    with lab_up(without_agents(example("plain")), "beside") as other:
        assert lab.name in state.labs()
        assert other.name in state.labs()
        assert " 0% packet loss" in on(other, "a", "ping -c1 -W2 192.168.77.13")
        with pytest.raises(LabError, match="is up already"):
            do(Lab.up(example("plain", name=other.name), other.name))
    assert other.name not in state.labs()
    assert " 0% packet loss" in on(lab, "a", "ping -c1 -W2 192.168.77.13")


def test_the_machines_own_network_stays_as_it_was() -> None:
    before = machine()
    with lab_up(without_agents(example("two-segments")), "trace") as lab:
        assert machine() == before
        assert failing(lab)
    assert machine() == before
    assert leftovers(lab.name) == []


def test_a_router_says_that_a_packet_is_too_big_for_the_narrow_segment() -> None:
    with lab_up(without_agents(example("two-segments")), "router") as lab:
        said = on(lab, "a", "ping -c2 -M do -s 1450 192.168.2.11", check=False)
        assert "Frag needed and DF set (mtu = 1400)" in said or "mtu=1400" in said
        assert " 0% packet loss" in on(lab, "a", "ping -c1 -M do -s 1372 192.168.2.11")


def test_an_interrupt_undoes_what_up_has_done(tmp_path: Path) -> None:
    name = unique("interrupt")
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(slow(name)))
    process = begin_up(file)
    try:
        until(lambda: netns.path(wiring.namespace(name, "h9")).exists(), "the namespaces")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert leftovers(name) == []
    finally:
        finish(process, name)


def test_down_removes_what_a_killed_up_left(tmp_path: Path) -> None:
    name = unique("killed")
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(slow(name)))
    process = begin_up(file)
    try:
        until(lambda: netns.path(wiring.namespace(name, "h9")).exists(), "the namespaces")
        process.kill()
        process.wait(120)
        assert leftovers(name)
        assert name in weft_lab("list").stdout
        done = weft_lab("down", name)
        assert (done.returncode, done.stdout) == (0, f"lab {name} is gone\n")
        assert leftovers(name) == []
    finally:
        finish(process, name)


def test_down_ends_processes_that_nobody_knows_of() -> None:
    with lab_up(without_agents(example("plain")), "strays") as lab:
        line = ["nsenter", f"--net={netns.path(lab.host('a').namespace)}", "sleep", "1000"]  # outside of its pid space
        stray = subprocess.Popen(line, start_new_session=True)
        until(lambda: netns.is_in(stray.pid, lab.host("a").namespace), "the stray to enter")
        (state.folder(lab.name) / "state.json").unlink()
        do(removal.remove(lab.name))
        assert stray.wait(120) == -signal.SIGKILL
        assert leftovers(lab.name) == []


def test_a_namespace_of_somebody_elses_keeps_its_name_and_is_not_taken_for_a_lab() -> None:
    name = unique("foreign")
    subprocess.run(["ip", "netns", "add", wiring.fabric(name)], check=True)
    try:
        assert name not in state.labs()
        with pytest.raises(LabError, match="is there already and no lab's"):
            do(Lab.up(without_agents(example("plain", name=name)), name))
        assert wiring.fabric(name) in netns.names()
    finally:
        subprocess.run(["ip", "netns", "delete", wiring.fabric(name)], check=True)


def test_settling_gives_up_at_its_deadline(lab: Lab) -> None:
    assert do(matrix.settle(lab, 0.1)) is None
    with pytest.raises(AssertionError, match="no full connectivity"):
        settle(lab, 0.1)


# -- helpers --------------------------------------------------------------------------------------------------------


def slow(name: str) -> dict[str, Any]:
    """A lab that is not up before somebody ends it: a host waits for a lease, and no etcd gives one."""
    waiting = {"flanneld": {"etcd-endpoints": "http://127.0.0.1:1"}, "networks": {"docker0": {"subnet": "flannel"}}}
    return {"name": name, "engine": "none", "agent": False, "hosts": {"h0": None, "h9": waiting}}


def begin_up(file: Path) -> subprocess.Popen[str]:
    """It heeds SIGINT, also where these tests run in the background of a shell, which has its children ignore it."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "weft.cli.main", "lab", "up", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], name: str) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()
    do(removal.remove(name))


def leftovers(lab: str) -> list[str]:
    """Everything that still bears the lab's name."""
    found = [name for name in netns.names() if wiring.belongs(name, lab)]
    found += [str(top) for top in (state.folder(lab), state.data(lab)) if top.exists()]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/weft-lab/{lab}")]
    return found


def machine() -> dict[str, Any]:
    """What the machine's own network namespace holds: links, addresses, routes, rules, settings."""
    told: dict[str, Any] = {}
    for what in ("link", "address", "route", "-6 route", "rule", "neighbour"):
        told[what] = ip_machine(what)
    with contextlib.suppress(FileNotFoundError):  # no nft: then no rules of it either
        told["rules"] = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    for family in ("ipv4", "ipv6"):
        for path in sorted(Path(f"/proc/sys/net/{family}").rglob("*forward*")):
            told[str(path)] = path.read_text()
        for path in sorted(Path(f"/proc/sys/net/{family}/conf").rglob("*")):
            if path.is_file() and os.access(path, os.R_OK) and path.name != "stable_secret":
                told[str(path)] = path.read_text()
    return told


def ip_machine(what: str) -> list[Any]:
    words = what.split()
    options, object_ = words[:-1], words[-1]
    done = subprocess.run(["ip", *options, "-j", object_, "show"], capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout or "[]")
    if object_ == "neighbour":  # others come and go as the machine talks to somebody
        return sorted((entry["dst"], entry["dev"]) for entry in found if "PERMANENT" in entry["state"])
    return [bare(entry) for entry in found]


def bare(told: Any) -> Any:
    """Without what the kernel counts down (addresses and routes of DHCP's and routers')."""
    if isinstance(told, dict):
        return {key: bare(value) for key, value in told.items() if key not in COUNTED_DOWN}
    return [bare(one) for one in told] if isinstance(told, list) else told
