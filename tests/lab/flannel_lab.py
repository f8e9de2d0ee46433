"""What the tests of `weft flanneld` do in a lab: leases in etcd, another config, pings while something happens."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.lab.harness import do, on
from tests.support.eventually import until
from weft.lab import netns, services, shell
from weft.lab.host import LabHost
from weft.lab.lab import Lab
from weft.lab.topology import Flanneld

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets/"
DUAL = {"EnableIPv6": True, "Network": "10.5.0.0/16", "IPv6Network": "fc00:5::/48"}
FOUR = {"Network": "10.5.0.0/16"}
_numbers = itertools.count()


def etcdctl(lab: Lab, *words: str) -> str:
    return on(lab, "etcd", ["env", "ETCDCTL_API=3", "etcdctl", *words])


def leases(lab: Lab) -> dict[str, dict[str, Any]]:
    """`10.5.3.0-24` → its lease's value, of every key under `subnets/`."""
    lines = etcdctl(lab, "get", "--prefix", SUBNETS).splitlines()
    return dict(zip([key.removeprefix(SUBNETS) for key in lines[::2]], map(json.loads, lines[1::2]), strict=True))


def lease_of(lab: Lab, host: str) -> tuple[str, dict[str, Any]]:
    """The key (without its prefix) and the value of a host's lease."""
    (port, *_) = lab.host(host).host.ports
    own = {str(address.ip) for address in port.addresses}
    ((key, value),) = ((k, v) for k, v in leases(lab).items() if own & {v["PublicIP"], v["PublicIPv6"]})
    return key, value


def subnet(lab: Lab, host: str) -> str:
    """The IPv4 subnet of a host's lease: `10.5.3.0/24`."""
    return lease_of(lab, host)[0].partition("&")[0].replace("-", "/")


def lease_id(lab: Lab, host: str) -> str:
    """etcd's lease that a host's key is attached to, as etcdctl takes it."""
    found = json.loads(etcdctl(lab, "get", "-w", "json", SUBNETS + lease_of(lab, host)[0]))
    return f"{found['kvs'][0]['lease']:x}"


def daemons(lab: Lab) -> list[LabHost]:
    return [host for host in lab.hosts if host.host.flanneld is not None]


def reconfigure(lab: Lab, config: dict[str, Any], flags: Sequence[str] = (), forget: bool = True) -> Lab:
    """Another config in etcd, no leases, and every flanneld started anew; the lab with what they have got then. What
    the former backend left in the kernel is theirs to clear away. `forget`: subnet.env is removed too."""
    do(shell.together(*(services.stop(host, "flanneld") for host in daemons(lab) if host.running("flanneld"))))
    etcdctl(lab, "del", "--prefix", SUBNETS)
    etcdctl(lab, "put", f"{PREFIX}/config", json.dumps(config))
    for host in daemons(lab) if forget else []:
        on(lab, host.name, "rm -f /run/flannel/subnet.env")
    do(shell.together(*(services.start(flagged(lab, host.name, flags), "flanneld") for host in daemons(lab))))
    return Lab.load(lab.name)


def more(lab: Lab, host: str, flags: Sequence[str]) -> Flanneld:
    """The flanneld of a host, told more."""
    flanneld = lab.host(host).host.flanneld
    assert flanneld is not None
    return replace(flanneld, flags=(*flanneld.flags, *flags))


@contextlib.contextmanager
def beside(
    lab: Lab, host: str, config: dict[str, Any], *flags: str, path: Path | None = None
) -> Iterator[Callable[[], str]]:
    """A flanneld on `host`, in a network of its own beside the lab's; what is yielded reads its log. `path`: the only
    folder that it finds tools in."""
    name = f"beside{next(_numbers)}"
    etcdctl(lab, "put", f"/{name}/config", json.dumps(config))
    own = [f"-etcd-prefix=/{name}", f"-subnet-file=/run/{name}.env", f"-socket=/run/{name}.sock"]
    alone = ["env", f"PATH={path}"] if path is not None else []
    with tempfile.NamedTemporaryFile() as told, tempfile.NamedTemporaryFile() as pid:
        begin = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', pid.name]
        words = [*begin, *alone, *services.flanneld(more(lab, daemons(lab)[0].name, [*own, *flags]))]
        there = lab.host(host)
        with subprocess.Popen(there.inside(words), stderr=told, env=there.environment):
            try:
                yield lambda: Path(told.name).read_text()
            finally:
                on(lab, host, f"kill {Path(pid.name).read_text()}")


def flagged(lab: Lab, host: str, flags: Sequence[str]) -> LabHost:
    """The same host, whose flanneld is told more."""
    found = lab.host(host)
    return replace(found, host=replace(found.host, flanneld=more(lab, host, flags)))


def status(lab: Lab, host: str) -> dict[str, Any]:
    """`weft show status --json` on a host."""
    found: dict[str, Any] = json.loads(on(lab, host, "weft show status --json", check=False))
    return found


def log(lab: Lab, host: str) -> str:
    return lab.host(host).log("flanneld").read_text()


def address(lab: Lab, where: str, version: int = 4) -> str:
    """The address of `host/container`."""
    host, _, name = where.partition("/")
    _, container = Lab.load(lab.name).container(host, name)
    return next(str(a.ip) for a in container.addresses if a.version == version)


def answers(lab: Lab, where: str, target: str, *options: str) -> bool:
    """Whether one ping from `host/container` is answered."""
    words = [*inside(lab, where), "ping", "-c1", "-W1", *options, target]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def inside(lab: Lab, where: str) -> list[str]:
    """The beginning of a command in the network of `host` or `host/container`; a signal sent to it arrives."""
    host, _, name = where.partition("/")
    if not name:
        return ["nsenter", f"--net={netns.path(lab.host(host).namespace)}"]
    _, container = lab.container(host, name)
    return ["nsenter", f"--net={do(lab.container_namespace(lab.host(host), container))}"]


def udp(lab: Lab, where: str) -> socket.socket:
    """A UDP socket in the network of `host` or `host/container`."""
    space = Path(inside(lab, where)[1].removeprefix("--net="))
    found = netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM)
    found.settimeout(10)
    return found


@dataclass(slots=True)
class Pings:
    """What became of them, once they are over."""

    sent: int = 0
    lost: int = 0


@contextlib.contextmanager
def pinged(lab: Lab, where: str, target: str, period: str = "0.005") -> Iterator[Pings]:
    """A ping around what is done inside, each `period` seconds: it begins when the first one was answered, and goes on
    for some more at the end."""
    with tempfile.NamedTemporaryFile() as told:
        words = [*inside(lab, where), "ping", "-n", "-O", "-i", period, target]
        found = Pings()
        with subprocess.Popen(words, stdout=told) as process:

            def count() -> int:
                return Path(told.name).read_text().count("icmp_seq=")

            try:
                until(lambda: "bytes from" in Path(told.name).read_text(), "the first answer")
                yield found
                done = count()
                until(lambda: count() > done + 10, "some more pings")
            finally:
                process.send_signal(signal.SIGINT)
        said = Path(told.name).read_text()
    match = re.search(r"(\d+) packets transmitted", said)
    assert match, said
    found.sent = int(match[1])
    answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", said)}
    found.lost = len(set(range(1, found.sent)) - answered)  # the very last one may be under way


@contextlib.contextmanager
def counting(lab: Lab, where: str, hook: str, *matches: str) -> Iterator[Counters]:
    """Counts packets that pass `hook` (`output`, `forward`, …) of a host or router: one counter for each match."""
    nft = ["nsenter", f"--net={netns.path(f'weft.{lab.name}.{where}')}", "nft"]
    rules = "\n".join(f"{match} counter" for match in matches)
    chain = f"chain c {{ type filter hook {hook} priority 0; policy accept;\n{rules}\n}}"
    subprocess.run([*nft, "-f", "-"], input=f"table inet counted {{\n{chain}\n}}\n", text=True, check=True)
    try:
        yield Counters(nft)
    finally:
        subprocess.run([*nft, "delete", "table", "inet", "counted"], check=True)


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one `counting`."""

    nft: list[str]

    def read(self) -> list[int]:
        """Packets so far, for each match."""
        done = subprocess.run([*self.nft, "-j", "list", "table", "inet", "counted"], capture_output=True, check=True)
        found = [entry["rule"]["expr"] for entry in json.loads(done.stdout)["nftables"] if "rule" in entry]
        return [part["counter"]["packets"] for expression in found for part in expression if "counter" in part]
