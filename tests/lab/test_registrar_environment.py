"""`weft registrar` as one process with flannel-registrar's documented variables, against a real etcd and kernel: what
each of them comes to; flannel's container as health tells it; and INTERVAL as the backstop of a host whose kernel tells
of nothing.

Docker is a small engine in this process, whose containers stop and start at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import soon, until
from tests.support.fake_docker import FakeDocker, contained, listed
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root
from weft.backends.tunnel import REGISTRAR_METRICS

pytestmark = [needs_root, needs_etcd]

WEFT = (sys.executable, "-m", "weft.cli.main")
DEAF = (sys.executable, "-m", "tests.support.deaf")
ROOT = Path(__file__).parents[2]


@dataclass
class Here:
    """One host. `variables`: of its registrar, beside those that keep its files in `folder`."""

    ns: Namespace
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"RUN_DIR": str(self.folder / "run"), "WEFT_SOCKET": str(self.folder / "socket")}
        return {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **own, **self.variables}

    @contextlib.contextmanager
    def runs(self, program: tuple[str, ...] = WEFT, **variables: str) -> Iterator[None]:
        """`weft registrar`, for the length of the `with`."""
        self.variables |= variables
        command = self.ns.command("setpriv", "--pdeathsig", "KILL", *program, "registrar")
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(120)

    def weft(self, *words: str, **variables: str) -> tuple[int, str]:
        """Exit code and output of another verb."""
        line, environment = self.ns.command(*WEFT, *words), self.environment | variables
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def health(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "run" / "health_status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def told(self, kind: str) -> list[str]:
        """What health says of that kind."""
        return [issue["message"] for issue in self.health().get("issues", ()) if issue["type"] == kind]

    def routes(self) -> dict[str, str]:
        found = (r for r in self.ns.ip_json("route show proto 76") if r.get("metric") in REGISTRAR_METRICS)
        return {route["dst"]: route.get("gateway", "") for route in found}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Here, Here, Etcd]]:
    """Hosts a and b on one segment, with a Docker bridge each; etcd on a."""
    with namespace("a") as a, namespace("b") as b:
        veth(a, "eth0", b, "eth0")
        hosts = []
        for number, ns in ((1, a), (2, b)):
            ns.ip(f"address add 192.0.2.{number}/24 dev eth0")
            ns.ip("link add br-web type bridge")
            ns.ip(f"address add 10.9.{number}.1/24 dev br-web")
            ns.ip("link set br-web up")
            folder = tmp_path / ns.name
            folder.mkdir()
            hosts.append(Here(ns, folder))
        with cluster(namespace=a, address="192.0.2.1") as etcd:
            for here, name in zip(hosts, "ab", strict=True):
                static = {"ENGINE": "static", "NETWORKS": f"web=10.9.{'ab'.index(name) + 1}.0/24", "HEALTH_PORT": "0"}
                here.variables = {"ETCD_ENDPOINT": etcd.endpoints[0], "HOST_NAME": name, **static}
            yield hosts[0], hosts[1], etcd


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[tuple[FakeDocker, str]]:
    """An engine with the network shop, and flannel's container."""
    docker = FakeDocker()
    docker.add(listed("shop.net-1", ["10.9.7.0/24 via 10.9.7.1"]))
    docker.has(contained("site_flannel"))
    async with docker.serving(tmp_path / "docker.sock") as url:
        yield docker, url


async def test_the_documented_variables(pair: tuple[Here, Here, Etcd], engine: tuple[FakeDocker, str]) -> None:
    """All of them with other values than their defaults."""
    here, other, etcd = pair
    docker, url = engine
    documented = {
        "ETCD_ENDPOINT": etcd.endpoints[0],
        "FLANNEL_PREFIX": "/site/flannel",
        "FLANNEL_CONFIG_PREFIX": "/site/networks",
        "HOST_NAME": "my-host.example",
        "INTERVAL": "40",
        "RUN_AS_ROOT": "true",
        "FLANNELD_PUBLIC_IP": "192.0.2.1",
        "HOST_GATEWAY_MAP": "nonsense,198.51.100.7:192.0.2.2",
        "FLANNEL_ROUTES_EXTRA": "10.88.0.0/24:192.0.2.2",
        "FLANNEL_CONTAINER_NAME": "site_flannel",
        "DEBUG": "true",
        "MONITORING_INTERVAL": "15",
        "ETCD_TIMEOUT": "4",
        "ETCDCTL_API": "3",
        "FLANNEL_MTU": "1400",
    }
    here.variables.pop("NETWORKS")
    with here.runs(WEFT, **documented, ENGINE="docker", DOCKER_HOST=url):
        asked = ("get", "--prefix", "/site", "-w", "json")

        def keys() -> dict[str, int]:
            return {kv["key"]: kv["lease"] for kv in json.loads(etcd.ctl(*asked)).get("kvs", [])}

        await soon(lambda: len(keys()) == 3, "its three keys", 20)
        here_at = "/site/networks/my-host.example/shop.net-1"
        assert etcd.ctl("get", "--print-value-only", here_at) == "10.9.7.0/24\n"
        status = etcd.ctl("get", "--print-value-only", "/site/networks/_host_status/my-host.example")
        assert json.loads(status)["public_ip"] == "192.0.2.1"
        (lease,) = set(keys().values())
        (granted,) = re.findall(r"granted with TTL\((\d+)s\)", etcd.ctl("lease", "timetolive", f"{lease:x}"))
        assert int(granted) == 120, "three intervals"
        await soon(lambda: here.routes().get("10.88.0.0/24") == "192.0.2.2", "the extra route", 10)
        await soon(
            lambda: any("nonsense" in issue["message"] for issue in here.health().get("issues", ())),
            "the bad entry to be named",
            10,
        )
        assert " DEBUG " in here.log()
        assert here.health()["hostname"] == "my-host.example"

        # Names that the old program wrote and never read back.
        places = {name: documented[name] for name in ("FLANNEL_PREFIX", "FLANNEL_CONFIG_PREFIX")}
        with other.runs(WEFT, **places, HOST_NAME="lower-case_host.2"):
            await soon(lambda: other.routes().get("10.9.7.0/24"), "the other host's route to here", 20)
            await soon(lambda: plain_routes(here) >= {"10.9.2.0/24"}, "the route to the other host", 20)
            (link,) = here.ns.ip_json("link show dev vxlan7600")
            assert link["mtu"] == 1400, "FLANNEL_MTU"
            (route,) = here.ns.ip_json("route show 10.9.2.0/24")
            assert route["dev"] == "vxlan7600"

        # FLANNEL_CONTAINER_NAME
        assert here.told("container") == []
        docker.has(contained("site_flannel", "exited"), event="die")
        await soon(lambda: "site_flannel" in "".join(here.told("container")), "health to tell that it stopped", 10)
        assert here.health()["status"] != "healthy"
        code, page = await asyncio.to_thread(here.weft, "registrar", "--diagnose")  # the engine goes on
        assert code == 1
        assert "flannel's container site_flannel has stopped" in page
        docker.has(contained("site_flannel"))
        await soon(lambda: here.told("container") == [], "health to tell that it runs again", 10)

        # What is new is registered at once, not at the next INTERVAL.
        docker.add(listed("Second_net", ["10.9.8.0/24"]))
        await soon(lambda: "/site/networks/my-host.example/Second_net" in keys_of(etcd), "the new network", 5)
        docker.remove("Second_net")
        await soon(lambda: "/site/networks/my-host.example/Second_net" not in keys_of(etcd), "it to be withdrawn", 5)


def keys_of(etcd: Etcd) -> list[str]:
    return etcd.ctl("get", "--prefix", "--keys-only", "/site").split()


def test_once_and_init_config(pair: tuple[Here, Here, Etcd]) -> None:
    here, _, etcd = pair
    config = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
    code, said = here.weft("registrar", "--once")
    assert code == 0, said
    assert etcd.ctl("get", "--print-value-only", "/flannel/network/subnets/a/web") == "10.9.1.0/24\n"
    assert etcd.ctl("get", "--prefix", "/coreos.com") == "", "a config is never made up"
    code, said = here.weft("registrar", "--init-config", config)
    assert (code, said) == (0, "written: /coreos.com/network/config\n")
    code, said = here.weft("registrar", "--init-config", config.replace("10.5", "10.6"))
    assert code != 0
    assert "holds another config" in said
    assert etcd.ctl("get", "--print-value-only", "/coreos.com/network/config").strip() == config
    etcd.members[0].stop()
    code, said = here.weft("registrar", "--once", "--wait", "1", ETCD_TIMEOUT="1")
    assert code == 1
    assert "not done within 1 s" in said


def test_no_default_route_no_networks_and_no_flannel_are_a_normal_state(pair: tuple[Here, Here, Etcd]) -> None:
    here, _, etcd = pair
    here.ns.ip("link delete br-web")
    assert here.ns.ip("route show default") == ""
    with here.runs(NETWORKS=""):
        until(lambda: here.health().get("status") == "healthy", "it to be well", 20)
        status = etcd.ctl("get", "--print-value-only", "/flannel/network/subnets/_host_status/a")
        assert json.loads(status)["public_ip"] == "192.0.2.1", "where etcd is reached from"


def test_with_no_word_from_the_kernel_all_is_repaired_within_interval(pair: tuple[Here, Here, Etcd]) -> None:
    """Route, forwarding entry, neighbour, chain, and then the device itself."""
    a, b, _ = pair
    with b.runs(), a.runs(DEAF, INTERVAL="5"):
        until(lambda: "10.9.2.0/24" in plain_routes(a), "the route to b's network", 20)
        until(lambda: "1 reached directly" in a.health().get("message", ""), "it to be well", 20)
        assert a.process is not None
        assert groups(a.process.pid) == set(), "it hears of nothing"
        before = everything(a)
        a.process.send_signal(signal.SIGSTOP)  # the next look is not to come in between
        a.ns.ip("route delete 10.9.2.0/24")
        a.ns.ip("neighbour flush dev vxlan7600 nud permanent")
        (mac,) = (entry["mac"] for entry in a.ns.bridge_json("fdb show dev vxlan7600") if "dst" in entry)
        a.ns.bridge(f"fdb delete {mac} dev vxlan7600")
        for line in [line for line in a.ns.run("iptables-save", "-t", "filter").splitlines() if "-A WEFT" in line][:1]:
            a.ns.run("iptables", "-F", line.split()[1])
        assert everything(a) != before
        a.process.send_signal(signal.SIGCONT)
        until(lambda: everything(a) == before, "all to be as it was", 5 + 5)
        a.ns.ip("link delete vxlan7600")
        until(lambda: everything(a) == before, "the device to be back, with all that is on it", 5 + 5)


def plain_routes(here: Here) -> set[str]:
    return {route["dst"] for route in here.ns.ip_json("route show proto 76")}


def everything(here: Here) -> list[str]:
    """What is weft's in the kernel, as its own tools print it."""
    found = [f"{r['dst']} {r.get('gateway')} {r.get('metric')}" for r in here.ns.ip_json("route show proto 76")]
    found += [f"{n['dst']} {n['lladdr']}" for n in here.ns.ip_json("neighbour show nud permanent")]
    devices = [link["ifname"] for link in here.ns.ip_json("link show type vxlan")]
    found += [f"{e['mac']} {e['dst']}" for d in devices for e in here.ns.bridge_json(f"fdb show dev {d}") if "dst" in e]
    rules = here.ns.run("iptables-save").splitlines()
    return sorted([*found, *devices, *(rule for rule in rules if "WEFT" in rule and rule.startswith("-A"))])


def groups(pid: int) -> set[str]:
    """Netlink groups that a process has joined, as `protocol:mask`."""
    lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {f"{row[1]}:{row[3]}" for row in rows if int(row[3], 16)}
