"""What tests of `weft discovery` and `weft router` look at in a lab: the files that the two share, routes and entries
in the kernel, their word, and what their processes may do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.harness import bridge_json, do, ip_json, on
from tests.lab.registrar_lab import never_more
from tests.support.eventually import until
from weft.lab import docker_router, services
from weft.lab.lab import Lab
from weft.lab.topology import ServiceName

needs_named = pytest.mark.skipif(
    not (shutil.which("named") and shutil.which("dig")), reason="needs named and dig: run scripts/setup as root"
)
QUICK = {"ANNOUNCE_INTERVAL": 1, "PEER_TIMEOUT": 3, "GOODBYE_HOLD": 1}
"""Who falls silent is stale after 3 s and gone after 6; who says goodbye is gone after 1."""
PAIR: tuple[ServiceName, ...] = ("discovery", "router")
HEALTH = {"discovery": 9477, "router": 9478}
ZERO = "00:00:00:00:00:00"


def service(lab: Lab, verb: str, name: ServiceName, *hosts: str) -> None:
    """`weft lab VERB HOST SERVICE`, on each of these hosts."""
    for host in hosts:
        do(getattr(services, verb)(lab.host(host), name))


def whole(lab: Lab) -> None:
    """Start what a test that failed has left dead."""
    dead = [(host, name) for host in lab.hosts for name in host.host.services if host.running(name) is None]
    for host, name in dead:
        do(services.start(host, name))
    if dead:
        well(lab, *(host.name for host in lab.hosts if host.host.stacks is not None))


# -- the folder -------------------------------------------------------------------------------------------------------


def shared(lab: Lab, host: str) -> Path:
    """The folder that the two share."""
    return docker_router.data(lab.host(host))


def discovered(lab: Lab, host: str) -> dict[str, Any]:
    """discovery.json; nothing before there is one."""
    try:
        found: dict[str, Any] = json.loads((shared(lab, host) / "discovery.json").read_text())
    except FileNotFoundError:
        return {"peers": []}
    return found


def peers(lab: Lab, host: str) -> dict[str, str]:
    """Stack → status, of discovery.json."""
    return {peer["stack_id"]: peer["status"] for peer in discovered(lab, host)["peers"]}


def problems(lab: Lab, host: str) -> list[str]:
    """What discovery says is wrong, in discovery.json."""
    found = discovered(lab, host).get("weft", {}).get("problems", [])
    return [problem["message"] for problem in found if problem.get("wrong", True)]


def replace(lab: Lab, host: str, content: str) -> None:
    """Put something else in discovery.json's place, as an editor does it."""
    beside = shared(lab, host) / "by-hand"
    beside.write_text(content)
    beside.rename(shared(lab, host) / "discovery.json")


# -- the kernel -------------------------------------------------------------------------------------------------------


def routes(lab: Lab, host: str, version: int = 4) -> dict[str, frozenset[str]]:
    """Destination → gateways of every route of weft's to another stack."""
    found: dict[str, frozenset[str]] = {}
    for route in ip_json(lab, host, f"-{version} route show proto 76"):
        if gateways := frozenset(hop["gateway"] for hop in route.get("nexthops", [route]) if "gateway" in hop):
            found[route["dst"]] = gateways
    return found


def entries(lab: Lab, host: str, device: str = "vxlan1000") -> set[tuple[str, str]]:
    """(MAC, endpoint) of every forwarding entry."""
    return {
        (entry["mac"], entry["dst"]) for entry in bridge_json(lab, host, f"fdb show dev {device}") if "dst" in entry
    }


def routed(lab: Lab, hosts: Iterable[str], subnet: str) -> bool:
    """Whether all of them have a route to that subnet."""
    return all(subnet in routes(lab, host) for host in hosts)


def unrouted(lab: Lab, hosts: Iterable[str], subnet: str) -> bool:
    """Whether none of them has one."""
    return not any(subnet in routes(lab, host) for host in hosts)


def forgotten(lab: Lab, hosts: Iterable[str], subnet: str, timeout: float = 20) -> None:
    """Returns when none of them has a route to that subnet any more."""
    where = list(hosts)
    until(lambda: unrouted(lab, where, subnet), f"{', '.join(where)} to forget {subnet}", timeout)


# -- the daemons ------------------------------------------------------------------------------------------------------


def show(lab: Lab, host: str, *words: str) -> Any:
    """`weft WORDS --json` on a host."""
    environment = services.daemon_environment(lab.host(host))
    settings = [f"{key}={text}" for key, text in environment.items()]
    return json.loads(on(lab, host, ["env", *settings, "weft", *words, "--json"], check=False) or "null")


def health(lab: Lab, host: str, name: ServiceName) -> dict[str, Any]:
    """GET /health."""
    said = on(lab, host, f"curl -s --max-time 5 http://127.0.0.1:{HEALTH[name]}/health", check=False)
    found: dict[str, Any] = json.loads(said or "{}")
    return found


def well(lab: Lab, *hosts: str) -> None:
    """Returns when discovery and router of these hosts say that they are, and that nobody is waited for."""
    for host in hosts:
        _well(lab, host)


def _well(lab: Lab, host: str) -> None:
    def ill() -> str:
        told = discovered(lab, host).get("weft", {"complete": False})
        said = show(lab, host, "router", "show", "status") or {"health": "starting", "problems": []}
        complete = told.get("complete", True) and not problems(lab, host)
        return "" if complete and said["health"] == "ok" else f"{said['problems']}, discovery: {told}"

    never_more(ill, 20)


def process(lab: Lab, host: str, name: ServiceName) -> Path:
    """/proc/… of the daemon."""
    mark = lab.host(host).running(name)
    assert mark is not None, f"{name} does not run on {host}: {lab.host(host).tail(name)}"
    return lab.host(host).proc / str(mark.pid)


def rights(lab: Lab, host: str, name: ServiceName) -> dict[str, str]:
    """`CapEff`, `Uid`, `NoNewPrivs`, `Seccomp`, … of /proc/…/status."""
    lines = (process(lab, host, name) / "status").read_text().splitlines()
    return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


def sockets(lab: Lab, host: str, name: ServiceName) -> set[str]:
    """`udp 0.0.0.0:4790`, …: the daemon's sockets to the network."""
    pid = process(lab, host, name).name
    lines = on(lab, host, "ss -H -tuwanp").splitlines()
    return {" ".join((line.split()[0], line.split()[4])) for line in lines if f"pid={pid}," in line}


def log_of(lab: Lab, host: str, name: ServiceName) -> str:
    return lab.host(host).log(name).read_text()
