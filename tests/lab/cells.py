"""Labs whose hosts run flanneld on an etcd of their own, and what tests look at in them: pings by the sequence number,
what the kernel tells of changes, leases, the daemon's word.

with lab_up(cells("ab"), "label") as lab:
    with pinging(lab, "a", "b") as ping:
        ...
    assert ping.lost() == []
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from tests.lab.harness import do, on
from tests.support.eventually import until
from weft.cli.client import ask_at
from weft.errors import WeftError
from weft.lab import repair
from weft.lab.host import LabHost
from weft.lab.lab import Lab

PREFIX = "/coreos.com/network"
DEVICE = "flannel.1"
ADDRESSES = {"a": "192.168.77.11", "b": "192.168.77.12", "c": "192.168.77.13", "store": "192.168.77.99"}
CONFIG = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.10.0", "SubnetMax": "10.5.99.0", "Backend": {"Type": "vxlan"}}
PERIOD = {"1 kHz": "0.001", "100 Hz": "0.01"}
_markers = itertools.cycle(range(1, 255))


def cells(hosts: Iterable[str], store: str = "store") -> dict[str, Any]:
    """These hosts, each with a container con-HOST in the subnet that flanneld leases; etcd on a host of its own, or on
    the hosts themselves (`store` empty)."""
    etcd = {"etcd": {"config": CONFIG}}
    members: dict[str, Any] = {store: {"daemon": "none", **_plug(store), **etcd}} if store else {}
    for host in hosts:
        network = {"subnet": "flannel", "bridge": "br0", "containers": [f"con-{host}"]}
        members[host] = {"networks": {"cell": network}, **_plug(host)}
    if not store:
        for host in members.values():
            host["etcd"] = {}
        members[next(iter(members))] |= etcd
    segments = {"lan": {"subnet": "192.168.77.0/24"}}
    return {"engine": "none", "daemon": "flanneld", "segments": segments, "hosts": members}


def _plug(host: str) -> dict[str, Any]:
    return {"segments": {"lan": ADDRESSES[host]}} if host in ADDRESSES else {}


# -- etcd -------------------------------------------------------------------------------------------------------------


def etcdctl(lab: Lab, *words: str, at: str = "store") -> str:
    """etcdctl's word, from the member on that host."""
    return on(lab, at, ["env", "ETCDCTL_API=3", "etcdctl", *words])


def leases(lab: Lab, at: str = "store", prefix: str = PREFIX) -> dict[str, dict[str, Any]]:
    """Key → value of every lease; each value with the revision of its last change as `revision`."""
    answer = json.loads(etcdctl(lab, "get", "--prefix", f"{prefix}/subnets/", "-w", "json", at=at))
    found = {}
    for kv in answer.get("kvs", []):
        key, value = (_text(kv[part]) for part in ("key", "value"))
        found[key] = json.loads(value) | {"revision": kv["mod_revision"]}
    return found


def lease_of(lab: Lab, host: str, at: str = "store") -> tuple[str, dict[str, Any]]:
    """The key of this host's lease, and its value."""
    ((key, value),) = ((k, v) for k, v in leases(lab, at).items() if v["PublicIP"] == ADDRESSES[host])
    return key, value


def strange(number: int) -> tuple[str, str, str]:
    """Key, value and subnet of a lease of a host that doesn't exist."""
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"}
    value = {"PublicIP": f"192.168.77.{200 + number}", "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data}
    return f"{PREFIX}/subnets/10.5.{200 + number}.0-24", json.dumps(value), f"10.5.{200 + number}.0/24"


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


# -- the daemon -------------------------------------------------------------------------------------------------------


def status(lab: Lab, host: str, path: str = "") -> dict[str, Any]:
    """`weft show status --json`; health "away" if nobody answers."""
    machine = lab.host(host)
    assert machine.host.flanneld is not None
    try:
        answer: dict[str, Any] = ask_at(inside(machine, path or machine.host.flanneld.socket), "status")
    except WeftError as error:
        return {"health": "away", "problems": [str(error)]}
    return answer


def well(lab: Lab, hosts: Iterable[str] = "abc") -> bool:
    """Every daemon says that all is as it should be."""
    return all(said["health"] == "ok" and not said["waiting_for"] for said in (status(lab, host) for host in hosts))


def inside(host: LabHost, path: str) -> str:
    """A path on this host, as the machine sees it."""
    return f"/proc/{host.init().pid}/root{path}"


def log_of(lab: Lab, host: str) -> list[str]:
    """Every line that its flanneld has written."""
    return lab.host(host).log("flanneld").read_text().splitlines()


# -- the kernel -------------------------------------------------------------------------------------------------------


def whole(lab: Lab, host: str) -> frozenset[str]:
    """Everything of weft's on a host, a line each: what `repair` sees, the device itself, forwarding, subnet.env."""
    asked = f"ip -o link show dev {DEVICE}; ip -o -4 address show dev {DEVICE}; sysctl net.ipv4.ip_forward"
    told = on(lab, host, ["sh", "-c", f"{asked}; cat /run/flannel/subnet.env"], check=False)
    return do(repair.snapshot(lab.host(host))) | {re.sub(r"^\d+: ", "", line) for line in told.splitlines()}


def routed(lab: Lab, host: str, subnet: str) -> bool:
    """Whether a route of weft's leads to that subnet."""
    line = ["ip", "-n", lab.host(host).namespace, "route", "show", subnet, "proto", "76"]
    return bool(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def ages(lab: Lab, host: str) -> dict[str, int]:
    """Seconds since each neighbour and FDB entry of the device was written."""
    found: dict[str, int] = {}
    entries = json.loads(on(lab, host, f"ip -j -s neighbour show dev {DEVICE} nud permanent") or "[]")
    found |= {f"neighbour {entry['dst']}": entry["updated"] for entry in entries}
    entries = json.loads(on(lab, host, f"bridge -j -s fdb show dev {DEVICE}") or "[]")
    return found | {f"fdb {entry['mac']}": entry["updated"] for entry in entries}


class Changes:
    """What `ip monitor` tells of a host while the `with` lasts; at its end, `lines` holds what concerns weft's objects:
    its devices, and whatever has its protocol number. Deletions begin with `Deleted`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def deleted(self) -> list[str]:
        return [line for line in self.lines if line.startswith("Deleted")]


@contextlib.contextmanager
def changes(lab: Lab, host: str) -> Iterator[Changes]:
    """Nothing is missed: a route of our own comes and goes at the start and at the end, and both must be told."""
    told: list[str] = []
    command = ["ip", "-n", lab.host(host).namespace, "-o", "monitor", "link", "address", "route", "neigh", "nexthop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: told.extend(_lines(process)), daemon=True)
        reader.start()
        found = Changes()
        try:
            _mark(lab, host, told)
            del told[:]
            yield found
            _mark(lab, host, told)
        finally:
            process.kill()
            reader.join(10)
    found.lines += [line for line in told if _ours(line)]


def _mark(lab: Lab, host: str, told: list[str]) -> None:
    """Returns when a route that was made after all else has been told of."""
    marker = f"blackhole 198.51.100.{next(_markers)}"

    def heard() -> bool:
        on(lab, host, ["sh", "-c", f"ip route add {marker} && ip route delete {marker}"])
        return any(line.startswith(marker) for line in told)

    until(heard, "ip monitor to tell of a route")


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from (line.strip() for line in process.stdout)


def _ours(line: str) -> bool:
    """The kernel's own IPv6 on the device (multicast, link-local) comes and goes as it likes."""
    return bool(re.search(r"\bflannel\.|proto 76", line)) and not re.search(r"(^|\s)(ff02|ff00|fe80)::", line)


# -- ping -------------------------------------------------------------------------------------------------------------


class Ping:
    """Pings that are under way. `seen`: sequence numbers that were answered, in the order of the answers."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.sent = 0

    def goes_on(self, answers: int = 30) -> None:
        """Returns when so many more have been answered."""
        enough = len(self.seen) + answers
        until(lambda: len(self.seen) >= enough, f"{answers} more pings to be answered", 10)

    def lost(self) -> list[int]:
        """Sequence numbers that were never answered; the very last one may be under way."""
        assert self.sent, "ping has not told how many it sent"
        return sorted(set(range(1, self.sent)) - set(self.seen))


@contextlib.contextmanager
def pinging(lab: Lab, source: str, target: str, period: str = PERIOD["1 kHz"]) -> Iterator[Ping]:
    """Ping con-TARGET from con-SOURCE for the length of the `with`, every `period` seconds."""
    address = str(Lab.load(lab.name).container(target, f"con-{target}")[1].addresses[0].ip)
    words = ["stdbuf", "-oL", "ping", "-n", "-i", period, address]
    line = do(lab.container_command(lab.host(source), f"con-{source}", words))
    ping = Ping()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        reader = threading.Thread(target=_read, args=(process, ping), daemon=True)
        reader.start()
        try:
            ping.goes_on()
            yield ping
            ping.goes_on()
        finally:
            os.killpg(process.pid, signal.SIGINT)  # nsenter, and the ping that is its child
            reader.join(10)


def _read(process: subprocess.Popen[str], ping: Ping) -> None:
    for line in _lines(process):
        if answer := re.search(r"bytes from .* icmp_seq=(\d+)", line):
            ping.seen.append(int(answer[1]))
        elif count := re.match(r"(\d+) packets transmitted", line):
            ping.sent = int(count[1])
