"""A cloud on a lab's host, its API with the router of its network; and managers, who ask it. `services` calls this."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from msgspec.json import encode

from weft.errors import LabError
from weft.lab import netns, shell, state
from weft.lab.docker_router import GROUP
from weft.lab.host import START, LabHost
from weft.lab.topology import COMPUTE, Compute
from weft.settings import route_manager as settings

USER = 61998
"""Whom managers run as: out of those ids that systemd keeps for services (DynamicUser)."""


def command(host: LabHost, cloud: Compute) -> list[str]:
    """The command of the API and the gateway, and what there is at the beginning."""
    data = state.data(host.lab) / host.name
    data.mkdir(parents=True, exist_ok=True)
    table = host.folder / "compute.yaml"
    table.write_bytes(encode(cloud.table, enc_hook=str))
    return [
        *(sys.executable, "-m", "weft.lab.gateway", str(table)),
        *(f"--network={cloud.network}", f"--routes={data / 'routes.json'}"),
        *(f"--port={COMPUTE}", f"--delay={cloud.delay:g}"),
    ]


async def answers(host: LabHost, cloud: Compute) -> None:
    """Wait until it takes connections. LabError with the end of its log if that doesn't come."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if cloud.address.version == 4 else socket.AF_INET6

    def listens() -> bool:
        with netns.socket_in(netns.path(host.namespace), family, socket.SOCK_STREAM) as probe:
            return probe.connect_ex((str(cloud.address), COMPUTE)) == 0

    await shell.until(lambda: listens() or host.running("compute") is None, loop.time() + START)
    if host.running("compute") is None or not listens():
        raise LabError(f"the cloud's API on {host.name} does not come up:\n{host.tail('compute')}")


def prepare(host: LabHost) -> None:
    """The folder of the manager's socket, which is all that it may write to."""
    folder = host.manager_socket.parent
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, USER, GROUP)


def confined(command: Sequence[str]) -> list[str]:
    """The command, as its service unit lets it be: an ordinary user who may do nothing."""
    sets = [f"--{kind}=-all" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    who = ["--reuid", str(USER), "--regid", str(GROUP), "--clear-groups"]
    return ["setpriv", *who, *sets, "--no-new-privs", "--", *command]


def environment(host: LabHost) -> dict[str, str]:
    """A manager's variables, for the service and for a person's command in this host: who has an account at Google has
    it outside of the lab."""
    if host.host.route_manager is None:
        raise LabError(f"host {host.name} runs no route-manager")
    places = {settings.FLAGS.variable("socket"): host.manager_socket, "CLOUDSDK_CONFIG": host.folder / "gcloud"}
    return {name: str(path) for name, path in places.items()} | dict(host.host.route_manager)
