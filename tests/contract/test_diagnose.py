"""`weft diagnose` on two hosts, real kernels, real etcd: each fault is planted and must be named first, with its fix.

The hosts are laid out by hand as flannel does it, so that what is judged is no code of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.namespace import Namespace, namespace, run, veth
from tests.support.needs import needs_root

pytestmark = [needs_root, needs_etcd]

HERE, THERE = "192.0.2.1", "192.0.2.2"
MACS = {HERE: "02:00:00:00:00:01", THERE: "02:00:00:00:00:02"}
LEASES = {HERE: "10.5.10.0", THERE: "10.5.20.0"}
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
PREFIX, REGISTRY = "/coreos.com/network", "/flannel/network/subnets"
SECRET = "correct-horse-battery"


@dataclass
class Rig:
    """Two hosts beside each other, `etcd` on the first one's loopback. `environment`: of `weft registrar` there."""

    here: Namespace
    there: Namespace
    etcd: Etcd
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def diagnose(self, *options: str, code: int | None = None) -> str:
        """What `weft diagnose` prints on the first host."""
        command = self.here.command(sys.executable, "-m", "weft.cli.main", "diagnose", *options)
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        wanted = (0, 1) if code is None else (code,)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in wanted, done.stderr or done.stdout
        return done.stdout

    def findings(self, *options: str) -> list[dict[str, str]]:
        answer: Any = json.loads(self.diagnose("--json", "--no-probe", *options))
        return [one for one in answer["findings"] if one["severity"] != "note"]


def lay_out(host: Namespace, own: str, other: str) -> None:
    """A host's end of flannel's overlay, as flanneld leaves it."""
    host.ip("address add " + own + "/24 dev eth0")
    host.ip(f"link add flannel.1 address {MACS[own]} mtu 1450 type vxlan id 1 dstport 8472 local {own} nolearning")
    host.ip("link set flannel.1 up")
    host.ip(f"address add {LEASES[own]}/32 dev flannel.1")
    host.ip(f"neighbour replace {LEASES[other]} lladdr {MACS[other]} dev flannel.1 nud permanent")
    host.bridge(f"fdb append {MACS[other]} dev flannel.1 dst {other} self permanent")
    host.ip(f"route add {LEASES[other]}/24 via {LEASES[other]} dev flannel.1 onlink")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")


def register(etcd: Etcd) -> None:
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    lease = etcd.ctl("lease", "grant", "3600").split()[1]
    for place in (HERE, THERE):
        data = f'{{"VNI":1,"VtepMAC":"{MACS[place]}"}}'
        value = f'{{"PublicIP":"{place}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}'
        etcd.ctl("put", f"{PREFIX}/subnets/{LEASES[place]}-24", value, f"--lease={lease}")
    lease = etcd.ctl("lease", "grant", "3600").split()[1]
    for name, place, subnet in (("here", HERE, "10.9.1.0/24"), ("there", THERE, "10.9.2.0/24")):
        status = {"hostname": name, "vtep_mac": MACS[place], "primary_ip": place, "public_ip": place, "timestamp": 1}
        etcd.ctl("put", f"{REGISTRY}/{name}/web", subnet, f"--lease={lease}")
        etcd.ctl("put", f"{REGISTRY}/_host_status/{name}", json.dumps(status), f"--lease={lease}")


STATUS = {"health": "ok", "version": "0", "uptime": 5.0, "waiting_for": [], "problems": [], "not_done": [], "peers": 1}


@pytest.fixture(scope="module")
def etcd_here() -> Iterator[tuple[Namespace, Etcd]]:
    """etcd on the first host's loopback: one for all tests."""
    with namespace("here") as here, cluster(namespace=here) as etcd:
        yield here, etcd


@pytest.fixture
def rig(etcd_here: tuple[Namespace, Etcd], tmp_path: Path) -> Iterator[Rig]:
    here, etcd = etcd_here
    with namespace("there") as there:
        veth(here, "eth0", there, "eth0")
        try:
            lay_out(here, HERE, THERE)
            lay_out(there, THERE, HERE)
            here.ip("route add 10.9.2.0/24 via 10.5.20.0 dev flannel.1 onlink proto 76 metric 8624")
            etcd.ctl("del", "/", "--prefix")
            register(etcd)
            environment = {
                "ETCD_ENDPOINT": etcd.endpoints[0],
                "HOST_NAME": "here",
                "ENGINE": "static",
                "NETWORKS": "web=10.9.1.0/24",
                "RUN_DIR": str(tmp_path / "run"),
                "WEFT_SOCKET": str(tmp_path / "registrar.sock"),
                "ETCD_TIMEOUT": "2",
            }
            yield Rig(here, there, etcd, tmp_path, environment)
        finally:
            here.run("ip", "link", "delete", "flannel.1", check=False)
            here.run("ip", "link", "delete", "eth0", check=False)
            here.run("iptables", "-F", check=False)


def in_etcd(*command: str) -> Callable[[Rig], None]:
    def plant(rig: Rig) -> None:
        rig.etcd.ctl(*command)

    return plant


def on_host(*command: str) -> Callable[[Rig], None]:
    return lambda rig: (run(rig.here.command(*command)) and None) or None


STALE = "02:00:00:00:00:99"
FAULTS: dict[str, tuple[Callable[[Rig], None], str, str, str]] = {
    "a stale entry": (
        on_host(*f"bridge fdb append {STALE} dev flannel.1 dst 192.0.2.9 self permanent".split()),
        "warning",
        f"the forwarding entry {STALE} → 192.0.2.9 on flannel.1 is stale",
        f"bridge fdb del {STALE} dev flannel.1 dst 192.0.2.9",
    ),
    "an entry to the wrong host": (
        on_host(*f"bridge fdb replace {MACS[THERE]} dev flannel.1 dst 192.0.2.9 self permanent".split()),
        "critical",
        f"points to the wrong host: there is at {THERE}",
        f"bridge fdb replace {MACS[THERE]} dev flannel.1 dst {THERE} self permanent",
    ),
    "a neighbour with another's MAC": (
        on_host(*f"ip neighbour replace 10.5.20.0 lladdr {STALE} dev flannel.1 nud permanent".split()),
        "critical",
        f"the neighbour 10.5.20.0 ({STALE}) on flannel.1 has the wrong MAC",
        f"ip neighbour replace 10.5.20.0 lladdr {MACS[THERE]} dev flannel.1 nud permanent",
    ),
    "a neighbour that is gone": (
        on_host(*["ip", "neighbour", "del", "10.5.20.0", "dev", "flannel.1"]),
        "critical",
        "flannel.1 has no neighbour 10.5.20.0 for there's lease 10.5.20.0/24",
        f"ip neighbour replace 10.5.20.0 lladdr {MACS[THERE]} dev flannel.1 nud permanent",
    ),
    "a wrong MTU": (
        on_host(*["ip", "link", "set", "flannel.1", "mtu", "1500"]),
        "critical",
        "flannel.1 has MTU 1500; its underlay eth0 (1500) leaves room for 1450 octets",
        "ip link set flannel.1 mtu 1450",
    ),
    "a route that is missing": (
        on_host(*["ip", "route", "del", "10.9.2.0/24"]),
        "critical",
        "there is no route to 10.9.2.0/24 (network web of host there)",
        "ip route add 10.9.2.0/24 via 10.5.20.0 dev flannel.1 onlink proto 76",
    ),
    "somebody else's route": (
        on_host(*["ip", "route", "add", "10.9.2.0/24", "via", "192.0.2.7", "dev", "eth0"]),
        "critical",
        "10.9.2.0/24 (network web of host there) goes out of eth0 by a route of somebody else's",
        "ip route del 10.9.2.0/24 via 192.0.2.7 dev eth0 metric 0",
    ),
    "forwarding that is off": (
        on_host(*["sysctl", "-qw", "net.ipv4.ip_forward=0"]),
        "critical",
        "IP forwarding is off (net.ipv4.ip_forward = 0)",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "a device that is missing": (
        on_host(*["ip", "link", "delete", "flannel.1"]),
        "critical",
        "etcd has flannel's lease 10.5.10.0/24 for this host, and flannel.1 is missing",
        "start flannel",
    ),
    "a device that is down": (
        on_host(*["ip", "link", "set", "flannel.1", "down"]),
        "critical",
        "flannel.1 is down",
        "ip link set flannel.1 up",
    ),
    "a lease of localhost": (
        in_etcd(
            "put",
            f"{PREFIX}/subnets/10.5.30.0-24",
            '{"PublicIP":"127.0.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"'
            + STALE
            + '"}}',
        ),
        "critical",
        f"{PREFIX}/subnets/10.5.30.0-24 says that its host is at a loopback address",
        f"etcdctl del '{PREFIX}/subnets/10.5.30.0-24'",
    ),
    "two hosts with one subnet": (
        in_etcd("put", f"{REGISTRY}/there/db", "10.9.1.128/25"),
        "critical",
        "10.9.1.0/24 of host here (web) and 10.9.1.128/25 of host there (db) overlap",
        "docker network create --subnet",
    ),
    "a network that overlaps the underlay": (
        in_etcd("put", f"{REGISTRY}/there/db", "192.0.2.0/25"),
        "critical",
        "192.0.2.0/25 of host there (db) overlaps 192.0.2.0/24, which this host's eth0 is on",
        "another subnet",
    ),
    "a config that can't be used": (
        in_etcd("put", f"{PREFIX}/config", '{"Network":"10.5.0.0/30"}'),
        "critical",
        "flannel's config can't be used",
        "weft flannel-config check",
    ),
    "a lease with another MAC than the device": (
        on_host(*f"ip link set flannel.1 address {STALE}".split()),
        "critical",
        f"flannel.1 has MAC {STALE}, and this host's lease 10.5.10.0/24 tells the others {MACS[HERE]}",
        "restart flannel",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_first_with_its_fix(rig: Rig, fault: str) -> None:
    plant, severity, what, fix = FAULTS[fault]
    plant(rig)
    found = rig.findings()
    assert found, "nothing was found"
    assert found[0]["severity"] == severity, found
    assert what in found[0]["what"], found
    assert fix in found[0]["fix"], found


def test_etcd_that_does_not_answer_is_named_first(rig: Rig) -> None:
    rig.environment["ETCD_ENDPOINT"] = "http://127.0.0.1:1"
    first = rig.findings()[0]
    assert first["severity"] == "critical"
    assert "etcd at http://127.0.0.1:1 can't be asked" in first["what"]
    assert "ETCD_ENDPOINT" in first["fix"]


def test_docker_that_does_not_answer_is_named(rig: Rig) -> None:
    rig.environment |= {"ENGINE": "docker", "DOCKER_HOST": f"unix://{rig.folder}/nobody.sock"}
    del rig.environment["NETWORKS"]
    first = rig.findings()[0]
    assert "can't be asked" in first["what"]
    assert first["section"] == "docker"


def test_a_blocked_port_shows_on_the_path(rig: Rig) -> None:
    """The other host drops the tunnel's packets; here, nothing is wrong."""
    run(rig.there.command("iptables", "-A", "INPUT", "-p", "udp", "--dport", "8472", "-j", "DROP"))
    first = json.loads(rig.diagnose("--json"))["findings"][0]
    assert first["what"] == "there answers on the underlay and not through flannel.1"
    assert "UDP 8472" in first["fix"]


def test_a_small_mtu_on_the_way_shows_on_the_path(rig: Rig) -> None:
    """The other end of the cable takes no frame of more than 1400 octets, and says nothing."""
    rig.there.ip("link set eth0 mtu 1400")
    first = json.loads(rig.diagnose("--json"))["findings"][0]
    assert first["what"] == "packets of 1450 octets to there through flannel.1 get lost, small ones arrive"
    assert "FLANNEL_MTU" in first["fix"]


async def test_nothing_wrong_is_said_and_exit_code_0(rig: Rig) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(STATUS if request.path == "/v1/status" else [{"node": "there", "routed": True}])

    app = web.Application()
    app.router.add_get("/v1/{what}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, rig.environment["WEFT_SOCKET"]).start()
    try:
        page = await asyncio.to_thread(rig.diagnose, code=0)
    finally:
        await runner.cleanup()
    assert "nothing is wrong" in page
    assert "yes, 1450 octets too" in page


def test_without_a_daemon_all_else_is_told(rig: Rig) -> None:
    page = rig.diagnose("--no-probe", code=1)
    assert "no `weft registrar` answers" in page
    assert "10.5.20.0/24  192.0.2.2" in page
    assert "not probed (--no-probe)" in page


def test_the_archive_holds_no_secret(rig: Rig) -> None:
    """Planted where an administrator might have left one: environment, a comment of iptables, etcd, the log."""
    key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
    rule = f"-A INPUT -m comment --comment password={SECRET} -j ACCEPT"
    run(rig.here.command("iptables", *rule.split()))
    rig.environment |= {"BFD_KEY": SECRET, "ETCD_USERNAME": "root", "ETCD_PASSWORD": SECRET}
    config = f'{{"Network":"10.5.0.0/16","Backend":{{"Type":"wireguard","PSK":"{key}"}}}}'
    rig.etcd.ctl("put", f"{PREFIX}/config", config)
    folder = rig.folder / "run"
    folder.mkdir()
    (folder / "events.log").write_text(f'{{"reason":"http://root:{SECRET}@192.0.2.1:2379"}}\n')
    archive = rig.folder / "help.tar.gz"
    rig.diagnose("--no-probe", "--bundle", str(archive), code=1)
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as tar:
        tar.extractall(rig.folder, filter="data")
    files = {path.name: path.read_text() for path in (rig.folder / "help").iterdir()}
    assert {"page.txt", "diagnose.json", "ip-link.txt", "bridge-fdb.txt", "events.log"} <= set(files)
    assert any("password=***" in text for text in files.values()), "the planted rule is in no file"
    for name, text in files.items():
        assert SECRET not in text, name
        assert key not in text, name
    assert "flannel.1" in files["ip-link.txt"]
