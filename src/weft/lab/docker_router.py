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

USER = 61976
"""Of the discovery, and the group of what the two share: out of those that systemd keeps for services."""
FOLDER_MODE = 0o2770
"""Both write there (discovery.json, routes.json), and nobody else looks."""
NOBODY = ("--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
NET_ADMIN = ("--groups", str(USER), "--bounding-set=-all,+net_admin", "--inh-caps=-all")
RIGHTS: dict[ServiceName, tuple[str, ...]] = {"discovery": NOBODY, "router": NET_ADMIN}


def confined(service: ServiceName, command: Sequence[str]) -> list[str]:
    """The command, with the rights of that service."""
    return ["setpriv", *RIGHTS[service], "--no-new-privs", "--", *command]


def prepare(host: LabHost) -> None:
    """The folder and routing.yaml, as the topology file says it."""
    folder = data(host)
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, USER, USER)
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
        places |= {"RUN_DIR": str(host.folder / "router"), "WEFT_SOCKET": str(host.router_socket)}
    return places | told


def _said(host: LabHost) -> DockerRouter:
    if host.host.stacks is None:
        raise LabError(f"host {host.name} runs neither discovery nor router")
    return host.host.stacks
