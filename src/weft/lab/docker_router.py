"""`weft discovery` and `weft router` on a lab's host: who they run as, the folder that they share, their variables.

Both run as their service units let them: discovery as an ordinary user that may do nothing, the router with NET_ADMIN
alone; what they give up themselves comes on top of that. `services` calls this.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from weft.errors import LabError
from weft.lab import bind
from weft.lab.host import LabHost
from weft.lab.topology import DockerRouter, ServiceName

FIRST_USER, GROUP = 62000, 61999
"""Out of those ids that systemd keeps for services. Each host's two have users of their own, as on machines of their
own: the kernel counts some things by user (inotify's instances)."""
FOLDER_MODE = 0o2770
"""Both write there (discovery.json, routes.json), and nobody else looks."""
PAIR: tuple[ServiceName, ...] = ("discovery", "router")
CAPABILITIES: dict[ServiceName, str] = {"discovery": "-all", "router": "-all,+net_admin"}


def user(host: LabHost, service: ServiceName) -> int:
    """Whom the daemon runs as."""
    return FIRST_USER + len(PAIR) * _said(host).number + PAIR.index(service)


def confined(host: LabHost, service: ServiceName, command: Sequence[str]) -> list[str]:
    """The command, with the rights of that daemon."""
    sets = [f"--{kind}={CAPABILITIES[service]}" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    who = ["--reuid", str(user(host, service)), "--regid", str(GROUP), "--clear-groups"]
    return ["setpriv", *who, *sets, "--no-new-privs", "--", *command]


def prepare(host: LabHost) -> None:
    """The folders, and routing.yaml as the topology file says it."""
    for service, folder in zip(PAIR, (data(host), host.router_socket.parent), strict=True):
        if not folder.exists():
            folder.mkdir()
            os.chown(folder, user(host, service), GROUP)
            folder.chmod(FOLDER_MODE)
    if (said := _said(host).routing) and not routing(host).exists():
        routing(host).write_text(said)


def data(host: LabHost) -> Path:
    """The folder that the two share; the same path for the machine and for the host."""
    return host.folder / "docker-router"


def routing(host: LabHost) -> Path:
    """Where this host's routing.yaml is."""
    return host.folder / "routing.yaml"


def environment(host: LabHost, service: ServiceName) -> dict[str, str]:
    """The variables of that daemon: what the lab knows of the host, and over it what the topology file says."""
    said = _said(host)
    told = dict((said.discovery if service == "discovery" else said.router) or ())
    places = {"DATA_DIR": str(data(host)), "ROUTING_CONFIG": str(routing(host))}
    if service == "discovery" and said.keyed:
        places["DNS_KEY"] = bind.key(host.lab, said.keyed)
    if service == "router":
        places |= {"RUN_DIR": str(host.router_socket.parent), "WEFT_SOCKET": str(host.router_socket)}
    return places | told


def _said(host: LabHost) -> DockerRouter:
    if host.host.stacks is None:
        raise LabError(f"host {host.name} runs neither discovery nor router")
    return host.host.stacks
