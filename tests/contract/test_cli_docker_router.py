"""`weft discovery` and `weft router` from the command line: help, errors, what they show; as real processes in a
namespace: both together, twice, and without what they need."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace
from tests.support.needs import needs_root
from weft.daemons.pair import environment_of
from weft.settings import discovery, router
from weft.wire.discovery_data import decode

WEFT = (sys.executable, "-m", "weft.cli.main")
STACK = {"STACK_ID": "shop", "VNI": "1000", "LOCAL_VXLAN_IP": "192.168.100.1", "NETWORKS": "web=172.20.0.0/16"}
DOCUMENT = """{"version": 1, "last_update": "2024-01-15T10:30:00Z", "peers": [
 {"stack_id": "stack-a", "host_ip": "10.0.1.5", "vxlan_endpoint": "10.0.1.5:4789", "vni": 1000,
  "last_seen": "2024-01-15T10:30:00Z", "status": "active"},
 {"stack_id": "stack-b", "host_ip": "10.0.2.6", "vxlan_endpoint": "10.0.2.6:4789", "vni": 1001,
  "last_seen": "2024-01-15T10:29:45Z", "status": "stale"}]}"""


def weft(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A verb that ends by itself, and touches no network."""
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([*WEFT, *words], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(("verb", "variables"), [("discovery", discovery.VARIABLES), ("router", router.VARIABLES)])
def test_help_names_every_variable(verb: str, variables: frozenset[str]) -> None:
    done = weft(verb, "--help")
    assert done.returncode == 0
    missing = {name for name in variables - set(discovery.ALSO) if f"  {name}" not in done.stdout}
    assert not missing
    assert "show" in done.stdout


def test_settings_are_listed_and_secrets_are_not() -> None:
    done = weft("discovery", "--settings", STACK_ID="shop", KEY="hush-hush", DISCOVERY_MODE="gossip")
    assert "hush-hush" not in done.stdout
    assert "gossip" in done.stdout
    assert weft("router", "--settings", **STACK).returncode == 0


@pytest.mark.parametrize(
    ("verb", "variables", "message"),
    [
        ("discovery", {**STACK, "DISCOVERY_MODE": "dns"}, "DISCOVERY_MODE=dns needs DNS_DOMAIN"),
        ("discovery", {"VNI": "1000"}, "STACK_ID isn't set"),
        ("discovery", {**STACK, "DISCOVERY_MODE": "static", "STATIC_PEERS": "b"}, "it is not STACK=ADDRESS"),
        ("discovery", {**STACK, "DISCOVERY_MODE": "dns", "DNS_DOMAIN": "a..b"}, "DNS_DOMAIN = 'a..b' is no domain"),
        (
            "discovery",
            {**STACK, "DISCOVERY_MODE": "dns", "DNS_DOMAIN": "a.b", "DNS_SERVER": "192.0.2.1", "DNS_KEY": "x"},
            "DNS_KEY must be [algorithm:]name:base64",
        ),
        ("discovery", {**STACK, "DISCOVERY_MODE": "etcd", "ETCD_ENDPOINTS": "unix:///etcd"}, "scheme 'unix'"),
        ("router", {"STACK_ID": "shop"}, "VNI isn't set"),
        ("router", {**STACK, "VXLAN_FDB": "flod"}, "did you mean flood"),
        ("router", {**STACK, "ROUTING_CONFIG": "relative"}, "must be an absolute path"),
    ],
)
def test_what_can_not_be_used_is_said_before_anything_is_done(
    verb: str, variables: dict[str, str], message: str
) -> None:
    done = weft(verb, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_routing_yaml_that_can_not_be_used_is_said_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("stack_id: a\nvni: 1000\nremote_stacks: [{stack_id: b, vxlan_gateway: x, networks: []}]\n")
    done = weft("router", ROUTING_CONFIG=str(file))
    assert done.returncode == 2
    assert f"{file}: " in done.stderr
    assert "remote_stacks[0].vxlan_gateway" in done.stderr


def test_discovery_shows_its_file_without_running(tmp_path: Path) -> None:
    nothing = weft("discovery", "show", DATA_DIR=str(tmp_path))
    assert nothing.returncode == 3
    assert "does `weft discovery` run, with this DATA_DIR?" in nothing.stderr
    (tmp_path / "discovery.json").write_text(DOCUMENT)
    shown = weft("discovery", "show", DATA_DIR=str(tmp_path))
    assert shown.returncode == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert "10.0.1.5:4789" in lines["stack-a"]
    assert "active" in lines["stack-a"]
    assert "stale" in lines["stack-b"]
    told = weft("discovery", "show", "--json", "--file", str(tmp_path / "discovery.json"))
    assert json.loads(told.stdout) == json.loads(DOCUMENT)
    (tmp_path / "discovery.json").write_text("{")
    done = weft("discovery", "show", DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/discovery.json: " in done.stderr


def test_a_router_that_does_not_run_can_not_be_asked(tmp_path: Path) -> None:
    done = weft("router", "show", "peers", WEFT_SOCKET=str(tmp_path / "router.sock"))
    assert done.returncode == 3
    assert "no router answers on" in done.stderr
    assert "is `weft router` running, and are you root? (WEFT_SOCKET)" in done.stderr


# -- as processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace("host") as ns:
        ns.ip("link add eth0 type veth peer name cable")
        ns.ip("link set cable up")
        ns.ip("addr add 192.0.2.1/24 dev eth0")
        ns.ip("link set eth0 up")
        ns.ip("route add default via 192.0.2.254")
        yield ns


def variables_in(folder: Path) -> dict[str, str]:
    return {
        **STACK,
        "VXLAN_SUBNET": "192.168.100.0/24",
        "DATA_DIR": str(folder),
        "RUN_DIR": str(folder / "run"),
        "WEFT_SOCKET": str(folder / "router.sock"),
    }


@contextlib.contextmanager
def running(ns: Namespace, variables: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon in the namespace, ended at the end."""
    process = subprocess.Popen(
        ns.command(*WEFT, *words),
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=120)


def children(pid: int) -> dict[str, int]:
    """The daemons that a process has started, by their verbs."""
    found = {}
    for child in Path("/proc", str(pid), "task", str(pid), "children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):  # it has just ended
            found[Path("/proc", child, "cmdline").read_bytes().split(b"\0")[-2].decode()] = int(child)
    return found


@needs_root
def test_both_run_in_one_container_and_what_is_killed_is_started_again(host: Namespace, tmp_path: Path) -> None:
    variables = variables_in(tmp_path)
    with running(host, variables, "router", "--with-discovery") as process:
        until(lambda: "vxlan1000" in host.ip("-br link"), "the router's device")
        until(lambda: (tmp_path / "discovery.json").exists(), "discovery.json")
        until(lambda: decode((tmp_path / "discovery.json").read_bytes()).here, "this host's own entry")
        before = children(process.pid)
        assert set(before) == {"discovery", "router"}
        os.kill(before["router"], signal.SIGKILL)
        until(lambda: children(process.pid).get("router", before["router"]) != before["router"], "another router")
        assert children(process.pid)["discovery"] == before["discovery"]
        until(lambda: weft("router", "show", "vxlan", **variables).returncode == 0, "its answer")
        process.terminate()
        assert process.wait(120) == 0
        assert "vxlan1000" in host.ip("-br link"), "what was set up stays"
    assert all(not Path("/proc", str(pid)).exists() for pid in before.values())


def test_one_health_port_is_two() -> None:
    assert environment_of("discovery", {"HEALTH_PORT": "9000", "A": "b"}) == {"HEALTH_PORT": "9000", "A": "b"}
    assert environment_of("router", {"HEALTH_PORT": "9000", "A": "b"}) == {"HEALTH_PORT": "9001", "A": "b"}
    assert environment_of("router", {"HEALTH_PORT": "0"}) == {"HEALTH_PORT": "0"}
    assert environment_of("router", {}) == {}


@needs_root
def test_both_end_if_the_settings_are_wrong(host: Namespace, tmp_path: Path) -> None:
    with running(host, {**variables_in(tmp_path), "DISCOVERY_MODE": "dns"}, "router", "--with-discovery") as process:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "needs DNS_DOMAIN" in out


@needs_root
def test_a_second_one_says_who_is_there(host: Namespace, tmp_path: Path) -> None:
    variables = variables_in(tmp_path)
    with running(host, variables, "router"), running(host, variables, "discovery") as first:
        until(lambda: "vxlan1000" in host.ip("-br link"), "the router's device")
        until(lambda: (tmp_path / "discovery.json").exists(), "discovery.json")
        with running(host, {**variables, "WEFT_SOCKET": str(tmp_path / "other.sock")}, "router") as second:
            out, _ = second.communicate(timeout=120)
            assert second.returncode == 1
            assert "router-1000 is running in this network namespace already" in out
            assert "list them under `stacks:`" in out
        with running(host, {**variables, "HEALTH_PORT": "0"}, "discovery") as second:
            out, _ = second.communicate(timeout=120)
            assert second.returncode == 1
            assert str(first.pid) in out
        assert first.poll() is None


@needs_root
def test_a_router_that_can_not_write_routes_json_works_and_says_so(host: Namespace, tmp_path: Path) -> None:
    (tmp_path / "routes.json").mkdir()
    nothing_heard(tmp_path)
    ask = "from urllib.request import urlopen as o; print(o('http://127.0.0.1:9478/readyz').read())"
    variables = variables_in(tmp_path)

    def is_ready() -> bool:
        asked = host.command(sys.executable, "-c", ask)
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0  # 503 is an error to urlopen

    with running(host, variables, "router"):
        until(is_ready, "a router that is ready")
        until(lambda: "routes.json" in weft("router", "show", "status", **variables).stdout, "a word about the file")


# -- several routers of one host ------------------------------------------------------------------------------------


def of_file(folder: Path, name: str, *stacks: tuple[str, int]) -> dict[str, str]:
    """A router of these stacks (id, VNI), with a folder of its own."""
    mine = folder / name
    mine.mkdir(exist_ok=True)
    lines = [
        f"  - {{stack_id: {stack}, vni: {vni}, local_vxlan_ip: 10.{part}.0.1, vxlan_subnet: 10.{part}.0.0/24}}"
        for stack, vni, part in ((stack, vni, vni - 900) for stack, vni in stacks)
    ]
    written = mine / "routing.new"
    written.write_text("\n".join(["version: 1", "stacks:", *lines, ""]))
    written.rename(mine / "routing.yaml")
    return {
        "ROUTING_CONFIG": str(mine / "routing.yaml"),
        "DATA_DIR": str(mine),
        "RUN_DIR": str(mine / "run"),
        "WEFT_SOCKET": str(mine / "router.sock"),
        "HEALTH_PORT": "0",
    }


def devices(ns: Namespace) -> dict[str, str]:
    """Of each VXLAN device, its index: another one has another."""
    return {words[1].rstrip(":"): words[0] for words in map(str.split, ns.ip("-o link show type vxlan").splitlines())}


def nothing_heard(folder: Path) -> None:
    """A discovery.json that vouches for having nobody in it: from then on a router removes."""
    text = '{"version": 1, "last_update": "2026-01-01T00:00:00Z", "peers": []}'
    (folder / "discovery.new").write_text(text)
    (folder / "discovery.new").rename(folder / "discovery.json")


@needs_root
def test_routers_of_several_stacks_each_leave_each_other_alone(host: Namespace, tmp_path: Path) -> None:
    one = of_file(tmp_path, "one", ("s1", 1001), ("s2", 1002))
    two = of_file(tmp_path, "two", ("s3", 1003), ("s4", 1004))
    for name in ("one", "two"):
        nothing_heard(tmp_path / name)
    with running(host, one, "router"):
        until(lambda: {"vxlan1001", "vxlan1002"} <= set(devices(host)), "the first router's devices")
        before = devices(host)
        with running(host, two, "router"):
            until(lambda: len(devices(host)) == 4, "both routers' devices")
            until(lambda: (tmp_path / "two" / "routes.json").exists(), "the second one's first round")
            both = devices(host)
        assert {name: both[name] for name in before} == before
    of_file(tmp_path, "one", ("s1", 1001))
    with running(host, one, "router"):
        until(lambda: "vxlan1002" not in devices(host), "the end of what is no longer its stack")
        assert devices(host) == {name: both[name] for name in both if name != "vxlan1002"}


@needs_root
def test_two_routers_of_one_name_are_one_too_many(host: Namespace, tmp_path: Path) -> None:
    one, two = of_file(tmp_path, "one", ("s1", 1001)), of_file(tmp_path, "two", ("s1", 1002))
    with running(host, one, "router"):
        until(lambda: "vxlan1001" in devices(host), "the first router's device")
        with running(host, two, "router") as second:
            out, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert "a weft router s1 is running" in out
        assert "PEER_ID of its own" in out
        assert set(devices(host)) == {"vxlan1001"}


@needs_root
def test_a_vni_that_comes_while_it_runs_and_is_another_routers(host: Namespace, tmp_path: Path) -> None:
    one, two = of_file(tmp_path, "one", ("s1", 1001)), of_file(tmp_path, "two", ("s2", 1002))
    for name in ("one", "two"):
        nothing_heard(tmp_path / name)

    def status() -> str:
        return weft("router", "show", "status", **one).stdout

    with running(host, one, "router"):
        with running(host, two, "router"):
            until(lambda: len(devices(host)) == 2, "both routers' devices")
            before = devices(host)
            of_file(tmp_path, "one", ("s1", 1001), ("s2", 1002), ("s5", 1005))
            until(lambda: "vxlan1005" in devices(host), "the stack that came")
            until(lambda: "router-1002 is running in this network namespace already" in status(), "a word of the other")
            assert {name: devices(host)[name] for name in before} == before
        of_file(tmp_path, "one", ("s1", 1001), ("s2", 1002))
        until(lambda: "vxlan1005" not in devices(host), "the end of the stack that went")
        until(lambda: "router-1002" not in status(), "the VNI is its own")
        with running(host, two, "router") as second:
            out, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert "router-1002 is running" in out
    assert {name: devices(host)[name] for name in before} == before
