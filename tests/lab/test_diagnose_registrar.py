"""`weft flanneld`, `weft registrar` and `weft diagnose` together on two hosts: well, then with a blocked port."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import cluster, needs_etcd
from tests.support.eventually import until
from tests.support.namespace import Namespace, namespace, veth
from tests.support.needs import needs_root

pytestmark = [needs_root, needs_etcd, pytest.mark.timeout(240)]

CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'


@dataclass
class HostHere:
    """One host, with its files in `folder`."""

    name: str
    ns: Namespace
    folder: Path
    etcd: str

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "ETCD_ENDPOINT": self.etcd,
            "HOST_NAME": self.name,
            "ENGINE": "static",
            "NETWORKS": f"web=10.9.{ord(self.name)}.0/24",
            "RUN_DIR": str(self.folder / "run"),
            "WEFT_SOCKET": str(self.folder / "registrar.sock"),
            "FLANNELD_SOCKET": str(self.folder / "flanneld.sock"),
            "INTERVAL": "10",
        }
        return {**os.environ, **settings}

    @contextlib.contextmanager
    def runs(self, *arguments: str) -> Iterator[None]:
        command = self.ns.command(sys.executable, "-m", "weft.cli.main", *arguments)
        with open(self.folder / f"{arguments[0]}.log", "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(120)

    def health(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "run" / "health_status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def curl(self, page: str) -> str:
        """The answer, and its code on the last line."""
        return self.ns.run("curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:9476/{page}")

    def diagnose(self) -> tuple[int, str]:
        command = self.ns.command(sys.executable, "-m", "weft.cli.main", "diagnose")
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[HostHere]]:
    with namespace("a") as a, namespace("b") as b, contextlib.ExitStack() as stack:
        veth(a, "eth0", b, "eth0")
        a.ip("address add 192.0.2.1/24 dev eth0")
        b.ip("address add 192.0.2.2/24 dev eth0")
        etcd = stack.enter_context(cluster(namespace=a, address="192.0.2.1"))
        etcd.ctl("put", "/coreos.com/network/config", CONFIG)
        found = []
        for name, ns in (("a", a), ("b", b)):
            folder = tmp_path / name
            folder.mkdir()
            ns.ip("link add br-web type bridge")
            ns.ip(f"address add 10.9.{ord(name)}.1/24 dev br-web")
            ns.ip("link set br-web up")
            host = HostHere(name, ns, folder, etcd.endpoints[0])
            found.append(host)
            flags = ("-etcd-endpoints", host.etcd, "-subnet-file", str(folder / "subnet.env"), "-iface", "eth0")
            stack.enter_context(host.runs("flanneld", *flags))
            stack.enter_context(host.runs("registrar"))
        yield found


def told(text: str) -> str:
    return text.split("What to do next")[1].split("\nHost\n")[0]


def test_all_is_well_and_then_a_port_is_blocked(hosts: list[HostHere]) -> None:
    a, b = hosts
    well = "all is well: 1 other host, 1 reached directly, 0 through another host"
    try:
        until(lambda: all(h.health().get("message") == well for h in hosts), "both to be well", 90)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{a.logs()}\n{b.logs()}") from error

    answer, _, code = a.curl("health").rpartition("\n")
    assert (code, json.loads(answer)["peers"]) == ("200", {"direct": 1})
    assert 'weft_path_up{node="b",path="tunnel"} 1\n' in a.curl("metrics")
    code_, page = a.diagnose()
    assert code_ == 0, page
    assert "nothing is wrong" in page
    assert "directly: its tunnel answers" in page

    b.ns.run("iptables", "-I", "INPUT", "-p", "udp", "--dport", "8472", "-j", "DROP")
    until(lambda: a.health()["status"] == "critical", "the loss to be noticed", 30)
    assert a.health()["issues"][0]["type"] == "connectivity"
    assert a.curl("health").endswith("\n503")
    code_, page = a.diagnose()
    assert code_ == 1
    assert "1. CRITICAL paths: b answers on the underlay and not through flannel.1" in told(page)
    code_, page = b.diagnose()
    assert "1. CRITICAL firewall: the tunnel's packets (UDP 8472) are refused" in told(page)

    b.ns.run("iptables", "-D", "INPUT", "-p", "udp", "--dport", "8472", "-j", "DROP")
    until(lambda: a.health()["message"] == well, "it to be well again", 60)

    def verdicts() -> list[str]:
        events = [json.loads(line) for line in (a.folder / "run" / "events.log").read_text().splitlines()]
        return [one["done"] for one in events if one["kind"] == "health"]

    until(lambda: verdicts()[-2:] == ["healthy → critical", "critical → healthy"], "both to be noted")
