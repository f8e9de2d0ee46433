"""flannel-route-manager's README, example by example: real processes, a real etcd, the local Compute Engine API."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.support.compute import Gce, compute
from tests.support.etcd import Etcd, cluster, needs_etcd
from tests.support.eventually import until
from tests.support.ports import free_port
from weft.lab.compute.faults import Fault

pytestmark = needs_etcd

NUMBERS = itertools.count(1)
STAMP = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
SUBNET = ip_network("10.244.72.0/24")
NAME = "flannel-default-10-244-72-0-24"


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with cluster() as one:
        yield one


@dataclass
class Site:
    """An etcd prefix of its own, a cloud, and managers on them."""

    etcd: Etcd
    gce: Gce
    folder: Path
    prefix: str
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def lease(self, subnet: str, host: str) -> None:
        value = json.dumps({"PublicIP": host})
        self.etcd.ctl("put", f"{self.prefix}/subnets/{subnet.replace('/', '-')}", value)

    def release(self, subnet: str) -> None:
        self.etcd.ctl("del", f"{self.prefix}/subnets/{subnet.replace('/', '-')}")

    def command(self, *flags: str) -> list[str]:
        common = (f"-etcd-endpoint={self.etcd.endpoints[0]}", f"-etcd-prefix={self.prefix}")
        google = f"-google-endpoint={self.gce.url}"
        quiet = (f"-socket={self.folder}/{next(NUMBERS)}.sock", "-health-port=0")
        return [sys.executable, "-m", "weft.cli.main", "route-manager", *common, google, *quiet, *flags]

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.gce.environment, "PYTHONUNBUFFERED": "1"}

    def run(self, *flags: str) -> tuple[int, str, str]:
        """One that ends: exit code, stdout, log without its times."""
        done = subprocess.run(
            self.command(*flags), env=self.environment, capture_output=True, text=True, timeout=100, check=False
        )
        return done.returncode, done.stdout, STAMP.sub("", done.stderr)

    @contextlib.contextmanager
    def runs(self, name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """One that goes on; SIGTERM at the end, and that it ends well."""
        with open(self.folder / name, "w") as log:
            process = subprocess.Popen(
                self.command(*flags), env=self.environment, stdout=log, stderr=log, text=True, start_new_session=True
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, self.log(name)
        finally:
            process.kill()
            process.wait()

    def log(self, name: str) -> list[str]:
        """Lines without their times."""
        return [STAMP.sub("", line) for line in (self.folder / name).read_text().splitlines()]

    def routes(self) -> dict[str, str]:
        """Of flannel's: name → next hop."""
        now = self.gce.history.at(self.gce.now)
        return {name: route.next_hop_ip for name, route in now.items() if name.startswith("flannel-")}


@pytest.fixture
def site(etcd: Etcd, tmp_path: Path) -> Iterator[Site]:
    with compute() as gce:
        prefix = f"/site{next(NUMBERS)}/network"
        one = Site(etcd, gce, tmp_path, prefix)
        etcd.ctl("put", f"{prefix}/config", '{"Network": "10.244.0.0/16", "Backend": {"Type": "alloc"}}')
        yield one


def hosts(site: Site) -> list[str]:
    """Addresses of the cloud's instances."""
    return ["10.128.0.2", "10.128.0.3", "10.128.0.4"]


def test_monitor_subnet_changes_and_sync_routes(site: Site) -> None:
    """The log is the document's, line for line; what is wrong with a route never is in it."""
    first, second, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    with site.runs("log"):
        until(lambda: "reconciler done" in site.log("log"), "the first comparison")
        assert site.routes() == {NAME: first}
        site.release("10.244.72.0/24")
        until(lambda: not site.routes(), "the route to go")
        site.lease("10.244.72.0/24", first)
        until(lambda: site.routes() == {NAME: first}, "the route to come back")
        until(lambda: f"monitor: inserted {NAME}" in site.log("log"), "the log to say so")
        began = site.gce.now
        site.lease("10.244.72.0/24", second)
        until(lambda: set(site.routes().values()) == {second}, "the route to lead to the other host")
        until(lambda: any("replaced" in line for line in site.log("log")), "the log to say so")
        assert site.gce.history.always(SUBNET, began), "no moment without a route"
    said = [line for line in site.log("log") if not line.startswith("weft ")]
    assert said[:6] == [
        "starting fleet route manager...",
        "reconciler starting...",
        f"reconciler: inserted {NAME}",
        "reconciler done",
        f"monitor: deleted {NAME}",
        f"monitor: inserted {NAME}",
    ]
    assert said[6] == f"monitor: replaced {NAME}: {first} → {second}"
    assert STAMP.match((site.folder / "log").read_text())


def test_delete_all_routes(site: Site) -> None:
    first, second, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    site.lease("10.244.73.0/24", second)
    assert site.run("-once")[0] == 0
    before = site.gce.history.at(site.gce.now)
    code, out, log = site.run("-delete-all-routes", "-dry-run")
    assert (code, out.count("gcloud compute routes delete")) == (0, 2), out
    assert len(site.routes()) == 2, "a dry run writes nothing"
    code, _, log = site.run("-delete-all-routes")
    assert code == 0
    lines = log.splitlines()
    assert lines[0] == "deleting all routes"
    assert sorted(lines[1:]) == [f"deleted: {NAME}", "deleted: flannel-default-10-244-73-0-24"]
    after = site.gce.history.at(site.gce.now)
    assert after.keys() == {name for name in before if not name.startswith("flannel-")}


def test_a_route_that_could_not_be_deleted_is_not_told_as_deleted(site: Site) -> None:
    first, second, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    site.lease("10.244.73.0/24", second)
    assert site.run("-once")[0] == 0
    number = site.gce.history.at(site.gce.now)[NAME].id
    fault = site.gce.faults.order(Fault(method="routes.delete", status=403, times=None, when=number))
    code, _, log = site.run("-delete-all-routes")
    assert code == 1, log
    assert "deleted: flannel-default-10-244-73-0-24" in log
    assert f"deleted: {NAME}" not in log
    assert "error: not done: 1; the first is cloud route 10.244.72.0/24" in log
    assert "403" in log or "compute.routes.delete" in log
    assert fault.taken
    assert list(site.routes()) == [NAME]


def test_once_and_dry_run(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    code, out, _ = site.run("-dry-run")
    assert code == 0
    assert f"gcloud compute routes create {NAME}" in out
    code, out, _ = site.run("-dry-run", "-output=json")
    (line,) = json.loads(out)["plan"]
    assert (line["action"], line["name"], line["via"]) == ("add", NAME, first)
    assert site.routes() == {}
    code, _, log = site.run("-once")
    assert (code, log.splitlines()[-1]) == (0, "reconciler done")
    assert site.routes() == {NAME: first}
    code, out, _ = site.run("-dry-run")
    assert (code, out) == (0, "plan: nothing is to be done\n")


def test_one_bad_lease_stops_nobody_and_is_told(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    site.etcd.ctl("put", f"{site.prefix}/subnets/10.244.80.0-24", "{broken")
    site.etcd.ctl("put", f"{site.prefix}/subnets/what-is-this", '{"PublicIP": "10.0.0.1"}')
    site.lease("10.244.81.0/24", "127.0.0.1")
    site.lease("192.0.2.0/24", first)
    code, _, log = site.run("-once")
    assert site.routes() == {NAME: first}
    assert code == 1
    for part in ("10.244.80.0-24", "what-is-this", "10.244.81.0/24", "192.0.2.0/24"):
        assert part in log, part


def test_two_subnets_of_one_host(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    site.lease("10.244.73.0/24", first)
    assert site.run("-once")[0] == 0
    assert site.routes() == {NAME: first, "flannel-default-10-244-73-0-24": first}
    site.release("10.244.73.0/24")
    assert site.run("-once")[0] == 0
    assert site.routes() == {NAME: first}


def test_of_two_managers_one_writes_and_the_other_takes_over(site: Site) -> None:
    first, *_ = hosts(site)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(contextlib.ExitStack())
        one.enter_context(site.runs("one"))
        until(lambda: "reconciler done" in site.log("one"), "the first to lead")
        stack.enter_context(site.runs("two"))
        code, _, log = site.run("-once")
        assert code == 1
        assert "writes" in log
        site.lease("10.244.72.0/24", first)
        until(lambda: site.routes() == {NAME: first}, "the leader to write")
        assert not [line for line in site.log("two") if "inserted" in line]
        one.close()
        site.lease("10.244.73.0/24", first)
        until(lambda: len(site.routes()) == 2, "the other to go on")
        until(lambda: any("inserted flannel-default-10-244-73-0-24" in line for line in site.log("two")), "its log")


def test_while_etcd_is_away_nothing_goes_and_it_ends_when_told_to(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    with cluster() as own:
        away = Site(own, site.gce, site.folder, site.prefix)
        away.lease("10.244.72.0/24", first)
        with away.runs("log"):
            until(lambda: "reconciler done" in away.log("log"), "the first comparison")
            own.members[0].kill()
            until(lambda: any("source flannel" in line for line in away.log("log")), "it to be told")
            assert away.routes() == {NAME: first}
            own.members[0].start()
            away.lease("10.244.73.0/24", first)
            until(lambda: len(away.routes()) == 2, "it to go on")


def test_health_metrics_and_show(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    with contextlib.ExitStack() as stack:
        port = free_port()
        path = site.folder / "show.sock"
        stack.enter_context(site.runs("log", f"-health-port={port}", f"-socket={path}"))
        until(lambda: "reconciler done" in site.log("log"), "the first comparison")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            health = json.load(answer)
        assert (health["status"], health["backend"], health["leading"]) == ("healthy", "google", True)
        assert health["tables"] == {"default": 1}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            metrics = answer.read().decode()
        assert 'weft_cloud_calls_total{method="routes.insert",outcome="ok"} 1' in metrics
        assert 'weft_cloud_routes{table="default"} 1' in metrics
        shown = [sys.executable, "-m", "weft.cli.main", "explain", "10.244.72.9", "--socket", str(path)]
        told = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        assert f"cloud route 10.244.72.0/24 via {first} in table default" in told


def test_stdout_needs_no_cloud(site: Site) -> None:
    first, *_ = hosts(site)
    site.lease("10.244.72.0/24", first)
    calls = len(site.gce.history.calls)
    code, out, _ = site.run("-backend=stdout", "-once")
    assert code == 0
    assert out.startswith(f"+ {NAME}: 10.244.72.0/24 via {first} in default # ")
    assert len(site.gce.history.calls) == calls


def test_what_is_no_flag_and_no_backend_is_told(site: Site) -> None:
    assert site.run("-backen=google")[0] == 2
    code, _, log = site.run("-backend=azure")
    assert code == 2
    assert "there is no such backend; there is aws, google, memory, stdout" in log
