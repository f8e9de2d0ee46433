"""What tests of `weft registrar` look at in a lab: its routes and others', keys in etcd, its word, its files.

The registrar's routes are told from flanneld's by their metric (REGISTRAR_METRICS); all have protocol 76.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.lab.harness import bridge_json, do, ip_json, on
from tests.support.eventually import patience, until
from weft.backends.tunnel import REGISTRAR_METRICS
from weft.lab import services
from weft.lab.lab import Lab

FLANNEL = "/coreos.com/network/subnets/"
REGISTERED = "/flannel/network/subnets/"
HEALTH = "/var/run/flannel-registrar/health_status.json"
PATIENT = {"BFD_PACKETS": 10}
"""1.5 seconds of silence, not 0.6, until a tunnel is taken to be cut: on a machine that is so busy that registrars say
nothing for as long as that, hosts would turn to each other for a way to the third, and lose packets."""


# -- etcd -------------------------------------------------------------------------------------------------------------


def etcdctl(lab: Lab, *words: str) -> str:
    """etcdctl's word, from the first host that has an etcd."""
    return on(lab, store(lab), ["env", "ETCDCTL_API=3", "etcdctl", *words])


def store(lab: Lab) -> str:
    return next(host.name for host in lab.hosts if host.host.etcd is not None)


def keys(lab: Lab, prefix: str = REGISTERED) -> dict[str, str]:
    """Key, without the prefix → value."""
    found = json.loads(etcdctl(lab, "get", "--prefix", prefix, "-w", "json")).get("kvs", [])
    return {_text(kv["key"]).removeprefix(prefix): _text(kv["value"]) for kv in found}


def networks(lab: Lab) -> dict[str, str]:
    """`babka/media` → `10.9.2.0/24`, as registered."""
    return {key: value for key, value in keys(lab).items() if not key.startswith("_")}


def owned(lab: Lab, prefix: str = REGISTERED) -> dict[str, int]:
    """Key, without the prefix → etcd's lease that it is attached to, 0 for none."""
    found = json.loads(etcdctl(lab, "get", "--prefix", prefix, "-w", "json")).get("kvs", [])
    return {_text(kv["key"]).removeprefix(prefix): kv.get("lease", 0) for kv in found}


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


# -- the kernel -------------------------------------------------------------------------------------------------------


def routes(lab: Lab, host: str) -> dict[str, str]:
    """Destination → gateway of the registrar's own routes, `dev DEVICE` for those without one."""
    found = ip_json(lab, host, "route show proto 76")
    own = (route for route in found if route.get("metric", 0) in REGISTRAR_METRICS)
    return {route["dst"]: route.get("gateway", f"dev {route['dev']}") for route in own}


def foreign(lab: Lab, host: str) -> list[str]:
    """All that flanneld has in the kernel, and nothing of the registrar's: routes, neighbours, FDB, the device."""
    found = [
        f"route {r}" for r in ip_json(lab, host, "route show proto 76") if r.get("metric") not in REGISTRAR_METRICS
    ]
    found += [f"neighbour {n}" for n in ip_json(lab, host, "neighbour show dev flannel.1 nud permanent")]
    found += [f"fdb {entry}" for entry in bridge_json(lab, host, "fdb show dev flannel.1")]
    (link,) = ip_json(lab, host, "link show dev flannel.1")
    found.append(f"link {link['ifindex']} {link['address']} {link['mtu']} {link['linkinfo']['info_data']}")
    return sorted(found)


def routed(lab: Lab, host: str, subnet: str) -> bool:
    """Whether a route of the registrar's leads to that subnet."""
    line = ["ip", "-n", lab.host(host).namespace, "-j", "route", "show", subnet, "proto", "76"]
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout or "[]")
    return any(route.get("metric") in REGISTRAR_METRICS for route in found)


# -- the daemon -------------------------------------------------------------------------------------------------------


def registrars(lab: Lab) -> list[str]:
    return [host.name for host in lab.hosts if host.host.registrar is not None]


def show(lab: Lab, host: str, what: str = "status") -> Any:
    """`weft show WHAT --json` on a host."""
    return json.loads(on(lab, host, f"weft show {what} --json", check=False) or "{}")


def explain(lab: Lab, host: str, address: str) -> str:
    """`weft explain ADDRESS`, as a person reads it."""
    return on(lab, host, f"weft explain {address}", check=False)


def health(lab: Lab, host: str) -> dict[str, Any]:
    """health_status.json; empty before the first one."""
    found: dict[str, Any] = json.loads(on(lab, host, f"cat {HEALTH}", check=False) or "{}")
    return found


def healthy(lab: Lab, hosts: list[str] | None = None) -> bool:
    """Whether health_status.json says so on all of these hosts (default: all with a registrar)."""
    return all(health(lab, host).get("status") == "healthy" for host in hosts or registrars(lab))


def ways(lab: Lab) -> dict[tuple[str, str], str]:
    """(host, peer) → how the host reaches it, in words."""
    return {(host, peer["node"]): peer["way"] for host in registrars(lab) for peer in show(lab, host, "peers")}


Relayed = Callable[[str, str], bool]


def nobody(host: str, peer: str) -> bool:
    """A `Relayed` for hosts that all reach each other directly."""
    return False


def astray(lab: Lab, relayed: Relayed = nobody) -> dict[object, object]:
    """Who is reached otherwise than directly, or through a relay if `relayed` says so."""
    return {
        (host, peer): way
        for (host, peer), way in ways(lab).items()
        if way.startswith("directly: its tunnel answers") == relayed(host, peer)
    }


def amiss(lab: Lab, relayed: Relayed = nobody) -> dict[object, object]:
    """Who is `astray`, hosts that are not healthy, and what is not yet in their kernels."""
    ill = {host: said for host in registrars(lab) if (said := health(lab, host)).get("status") != "healthy"}
    return astray(lab, relayed) | ill | undone(lab)


def undone(lab: Lab) -> dict[object, object]:
    """Host → objects that are not as planned (health says nothing of what the next attempt mends), and sources that
    have not spoken since the registrar began (health_status.json is its predecessor's for a while)."""
    told = {host: show(lab, host) for host in registrars(lab)}
    rows = {host: said.get("not_done", []) + said.get("waiting_for", ["it"]) for host, said in told.items()}
    return {(host, "not done"): row for host, row in rows.items() if row}


def never_more(amiss: Callable[[], object], timeout: float) -> None:
    """Wait until nothing is `amiss`; AssertionError names what is, after patience(`timeout`)."""
    deadline = time.monotonic() + patience(timeout)
    pause = threading.Event()
    while found := amiss():
        assert time.monotonic() < deadline, f"after {patience(timeout)} s: {found}"
        pause.wait(0.1)


def changed(lab: Lab, held: dict[str, dict[str, str]]) -> dict[str, object]:
    """Host → routes of the registrar's that are other ones than `held`."""
    now = {host: set(routes(lab, host).items()) for host in held}
    return {host: now[host] ^ set(before.items()) for host, before in held.items() if now[host] != set(before.items())}


def log_of(lab: Lab, host: str) -> str:
    return lab.host(host).log("registrar").read_text()


# -- what goes over the wire ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def captured(lab: Lab, host: str, expression: str) -> Iterator[list[tuple[str, str]]]:
    """(source, destination) of every packet that tcpdump sees on a host: `192.168.4.88.5`, `172.24.90.6.8472`."""
    command = ["tcpdump", "-i", "any", "-n", "-l", "-q", "--immediate-mode", expression]
    line = ["nsenter", f"--net=/run/netns/{lab.host(host).namespace}", *command]
    seen: list[tuple[str, str]] = []
    listening = threading.Event()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said, told = process.stderr, process.stdout

        def hear() -> None:
            for text in said:
                if "listening on" in text:
                    listening.set()

        def read() -> None:
            for text in told:
                if found := re.search(r"IP (\S+) > (\S+?):", text):
                    seen.append((found[1], found[2]))

        readers = [threading.Thread(target=work, daemon=True) for work in (hear, read)]
        for reader in readers:
            reader.start()
        try:
            until(listening.is_set, "tcpdump to listen", 10)
            yield seen
        finally:
            process.terminate()
            for reader in readers:
                reader.join(10)


def docker(lab: Lab, host: str, *words: str) -> str:
    return on(lab, host, ["docker", *words])


def service(lab: Lab, host: str, verb: str, name: str = "registrar") -> None:
    """`weft lab VERB HOST SERVICE`."""
    do(getattr(services, verb)(lab.host(host), name))


@contextlib.contextmanager
def between(lab: Lab, *ends: str) -> Iterator[None]:
    """While it lasts, nothing gets from one of two hosts to the other one over their segment."""
    one, other = (str(lab.host(end).host.ports[0].addresses[0].ip) for end in ends)
    lines = [(ends[0], other), (ends[1], one)]
    for host, far in lines:
        on(lab, host, f"iptables -t raw -I PREROUTING -s {far} -j DROP")
    try:
        yield
    finally:
        for host, far in lines:
            on(lab, host, f"iptables -t raw -D PREROUTING -s {far} -j DROP")
