"""`weft recover` and `weft boot`, run as their units run them, on hosts whose flannel has done its work and now does
nothing: what is wrong stays wrong until somebody mends it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.test_cycling import two_hosts
from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import until
from tests.support.namespace import Namespace
from tests.support.needs import needs_root

pytestmark = [needs_root, needs_etcd]
PREFIX = "/coreos.com/network"
WEFT = (sys.executable, "-m", "weft.cli.main")


@dataclass
class Site:
    """Hosts a and b with flannel's devices, leases and etcd (on a). `tools`: a folder in front of $PATH."""

    a: Namespace
    b: Namespace
    etcd: Etcd
    folder: Path

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    @property
    def environment(self) -> dict[str, str]:
        variables = {
            "ETCD_ENDPOINT": self.etcd.endpoints[0],
            "FLANNELD_PUBLIC_IP": "192.0.2.1",
            "HOST_NAME": "a",
            "ENGINE": "static",
            "NETWORKS": "web=10.9.1.0/24",
            "RUN_DIR": str(self.folder / "run"),
            "HEALTH_PORT": "0",
        }
        return {"PATH": f"{self.tools}:{os.environ['PATH']}", "PYTHONWARNINGS": "error", **variables}

    def weft(self, *words: str, **variables: str) -> tuple[int, str]:
        """Exit code and output of a verb on host a."""
        done = subprocess.run(
            self.a.command(*WEFT, *words), env=self.environment | variables, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def tool(self, name: str, *lines: str) -> Path:
        """Put a command in front of the machine's own; the file in which it notes its arguments."""
        path = self.tools / name
        path.write_text("\n".join(("#!/bin/sh", 'echo "$@" >>"$0.said"', *lines)) + "\n")
        path.chmod(0o755)
        return path.with_name(f"{name}.said")

    def lease(self, number: int, public_ip: str) -> None:
        """In etcd, as flannel writes it."""
        vtep = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:0{number}"}
        value = {"PublicIP": public_ip, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": vtep}
        self.etcd.ctl("put", f"{PREFIX}/subnets/10.5.{number}.0-24", json.dumps(value))

    def answers(self) -> bool:
        command = ("ping", "-c1", "-W1", "-I", "10.5.1.0", "10.5.2.0")
        return ", 0% packet loss" in self.a.run(*command, check=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with two_hosts() as (a, b), cluster(namespace=a, address="192.0.2.1") as etcd:
        (tmp_path / "tools").mkdir()
        etcd.ctl("put", f"{PREFIX}/config", '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
        found = Site(a, b, etcd, tmp_path)
        for number in (1, 2):
            found.lease(number, f"192.0.2.{number}")
        found.tool("modprobe")
        yield found


# -- recover --------------------------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_nothing_is_done_but_the_registrars_pass(site: Site) -> None:
    code, said = site.weft("recover")
    assert code == 0, said
    assert "ok   flannel.1: 1 of 1 hosts answer through it" in said
    assert "now: weft registrar --once" in said
    assert "BAD" not in said
    assert not (site.folder / "run" / "recovery.json").exists()
    assert "10.9.1.0/24" in site.etcd.ctl("get", "/flannel/network/subnets/a/web")


def test_a_wrong_entry_is_found_shown_and_mended_without_a_cycle(site: Site) -> None:
    site.a.bridge("fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.77 self permanent")
    site.a.ip("route delete 10.5.2.0/24")
    index = site.a.ip_json("link show dev flannel.1")
    code, said = site.weft("recover", "--dry-run")
    assert code == 1
    assert "BAD  192.0.2.2 does not answer through flannel.1; beside it, it does" in said
    assert "BAD  frames for 02:00:00:00:00:02 go to 192.0.2.77, its lease is at 192.0.2.2: bridge fdb replace" in said
    assert "would: fdb flannel.1" in said
    assert not site.answers()
    assert site.etcd.ctl("get", "--prefix", "/flannel/") == "", "nothing is written"
    code, said = site.weft("recover")
    assert code == 0, said
    assert "  bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent" in said
    assert "  ip route add 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 76" in said
    assert "cycle" not in said
    assert site.answers()
    assert site.a.ip_json("link show dev flannel.1") == index


def test_a_device_that_is_down_comes_up_with_all_that_belongs_on_it(site: Site) -> None:
    site.a.ip("link set flannel.1 down")
    code, said = site.weft("recover")
    assert code == 0, said
    assert said.index("now: cycle flannel.1: flannel.1 is set down") < said.index("now: fdb flannel.1")
    assert site.answers()


def test_the_last_rung_is_flannel_itself_where_that_was_allowed(site: Site) -> None:
    """The other end is broken: entries are right here, the underlay carries packets, and a cycle does not help."""
    site.b.ip("link set flannel.1 down")
    code, said = site.weft("recover", "--settle", "0.5")
    assert code == 1
    assert "now: cycle flannel.1: nobody answers through flannel.1, 192.0.2.2 can be reached beside it" in said
    assert said.count("now: cycle") == 1
    assert "held: to take flannel.1 down and up waits for" in said
    assert "--now does it all the same" in said
    code, said = site.weft("recover", "--settle", "0.5")
    assert "now: cycle" not in said, "what another run has done a moment ago is not done again"
    mended = f"ip -n {site.b.name} link set flannel.1 up; ip -n {site.b.name} neighbour add 10.5.1.0 lladdr"
    noted = site.tool(
        "systemctl",
        f"{mended} 02:00:00:00:00:01 nud permanent dev flannel.1",
        f"ip -n {site.b.name} route add 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink",
    )
    code, said = site.weft("recover", "--settle", "0.5", "--now", "--restart", "service:flanneld.service")
    assert code == 0, said
    assert said.index("now: cycle flannel.1") < said.index("now: restart flannel.1")
    assert noted.read_text() == "restart flanneld.service\n"
    rungs = [one["rung"] for one in json.loads((site.folder / "run" / "recovery.json").read_text())["attempts"]]
    assert rungs == ["cycle", "cycle", "restart"]


def test_a_broken_underlay_is_named_and_nothing_is_cycled(site: Site) -> None:
    site.b.ip("link set eth0 down")
    code, said = site.weft("recover")
    assert code == 1
    assert "the underlay, or a firewall on it, is at fault, not this device" in said
    assert "now: cycle" not in said


def test_without_etcd_it_says_so_and_touches_nothing(site: Site) -> None:
    site.etcd.members[0].stop()
    code, said = site.weft("recover", "--wait", "1", ETCD_TIMEOUT="1")
    assert code == 1
    assert "BAD  flannel's leases can't be read" in said
    assert "now: fdb" not in said
    assert "now: cycle" not in said


def test_behind_nat_this_hosts_own_lease_is_nobody_elses(site: Site) -> None:
    site.a.ip("route add default via 192.0.2.2")
    site.lease(1, "198.51.100.7")
    code, said = site.weft("recover", FLANNELD_PUBLIC_IP="198.51.100.7")
    assert code == 0, said
    assert "ok   flannel.1: 1 of 1 hosts answer through it" in said
    assert "198.51.100.7" not in said.replace("FLANNELD_PUBLIC_IP = 198.51.100.7", "")


# -- boot -----------------------------------------------------------------------------------------------------------


def test_boot_waits_for_what_is_not_there_yet_and_says_for_what(site: Site, tmp_path: Path) -> None:
    site.etcd.members[0].stop()
    site.a.ip("link set flannel.1 name late")
    site.a.ip("address delete 192.0.2.1/24 dev eth0")
    site.a.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(100)
        process = subprocess.Popen(
            site.a.command(*WEFT, "boot", "--timeout", "150"),
            env=site.environment | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "ETCD_TIMEOUT": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

        def told(words: str) -> None:
            until(lambda: words in systemd.recv(4096).decode(), words, 20)

        told("there is no default route, and FLANNELD_PUBLIC_IP = 192.0.2.1 is on no interface")
        site.a.ip("address add 192.0.2.1/24 dev eth0")
        told("STATUS=waiting for etcd (http://192.0.2.1")
        site.etcd.members[0].start()
        told("STATUS=waiting for flannel's device flannel.1: does flannel run?")
        site.a.ip("link set late name flannel.1")
        told("READY=1")
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert site.a.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert "net/ipv4/ip_forward was 0 and is 1 now" in said
    assert "10.9.1.0/24" in site.etcd.ctl("get", "/flannel/network/subnets/a/web")


def test_boot_gives_up_in_time_and_says_what_is_missing(site: Site) -> None:
    site.a.ip("link delete flannel.1")
    code, said = site.weft("boot", "--timeout", "4")
    assert code == 1
    assert "not there within 4 s: flannel's device flannel.1: does flannel run?" in said
    code, said = site.weft("boot", "--timeout", "2", ENGINE="docker", DOCKER_HOST="unix:///nonexistent.sock")
    assert code == 1
    assert "Docker: docker at unix:///nonexistent.sock can't be asked" in said


def test_boot_needs_no_default_route_where_etcd_answers(site: Site) -> None:
    assert "default" not in site.a.ip("route show")
    code, said = site.weft("boot", "--timeout", "60", FLANNELD_PUBLIC_IP="")
    assert code == 0, said
    assert "10.9.1.0/24" in site.etcd.ctl("get", "/flannel/network/subnets/a/web")


def test_boot_does_not_wait_for_an_address_that_is_the_routers(site: Site) -> None:
    site.lease(1, "198.51.100.7")
    code, said = site.weft("boot", "--timeout", "60", FLANNELD_PUBLIC_IP="198.51.100.7")
    assert code == 0, "etcd answers: " + said
    site.a.ip("route add default via 192.0.2.2")
    site.etcd.members[0].stop()
    code, said = site.weft("boot", "--timeout", "2", FLANNELD_PUBLIC_IP="198.51.100.7", ETCD_TIMEOUT="1")
    assert "not there within 2 s: etcd (http" in said, "a default route is enough of a network"


def test_boot_loads_the_modules_that_are_missing_and_goes_on_without(site: Site) -> None:
    noted = site.tool("modprobe", "echo no such module >&2; exit 1")
    code, said = site.weft("boot")
    assert code == 0, said
    loaded = set(noted.read_text().split()) if noted.exists() else set()
    missing = {name for name in ("vxlan", "br_netfilter") if not Path("/sys/module", name).exists()}
    assert loaded == missing
    for name in missing:
        assert f"kernel module {name} (" in said
    assert said.count("no such module") == len(missing)
