"""Web servers in containers that are namespaces (`serve: 8000`): each tells its container's name, as Docker's ones do.

`lab` starts them at the end of `up`. They end with their host.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from weft.errors import LabError
from weft.lab import netns, shell, wiring
from weft.lab.host import START, LabHost
from weft.lab.topology import Container, ContainerNetwork


async def start(host: LabHost) -> None:
    """Start one in every container of the networks that want it, and return when all of them answer."""
    if host.host.engine == "none":
        wanted = [(network, container) for network, container in host.host.containers() if network.serve]
        await shell.together(*(_start(host, network, container) for network, container in wanted))


async def _start(host: LabHost, network: ContainerNetwork, container: Container) -> None:
    serve = [sys.executable, "-m", "weft.lab.answer", str(network.serve), container.name]
    log = host.folder / f"{container.name}.log"
    await shell.detach(host.inside_container(container.name, serve), log, host.service_environment)
    space = netns.path(wiring.namespace(host.lab, host.name, container.name))
    deadline = asyncio.get_running_loop().time() + START
    if not await shell.until(lambda: _listens(space, network.serve), deadline):
        raise LabError(f"{host.name}/{container.name} does not serve port {network.serve}: {log.read_text().strip()}")


def _listens(space: Path, port: int) -> bool:
    """Whether somebody accepts connections to this port inside that namespace."""
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
