"""What runs in a lab's host: the commands of a Docker Engine and of the agent, and how each is started and ended.

`lab.Lab` calls this at `up`; `weft lab kill`, `start` and `restart` call it later.
"""

from __future__ import annotations

import shutil
import sys

from weft.errors import LabError
from weft.lab import state
from weft.lab.host import LabHost, ServiceName


async def start(host: LabHost, service: ServiceName) -> None:
    """Start a service and return when it answers. LabError if it isn't part of this host or doesn't come up."""
    if service == "docker":
        if host.host.engine != "docker":
            raise LabError(f"host {host.name} has `engine: {host.host.engine}`: there is no Docker Engine to start")
        host.docker_socket.unlink(missing_ok=True)
        await host.start("docker", dockerd(host), host.service_environment)
        await host.ready("docker", host.docker_socket)
        await _answers(host)
    else:
        if host.host.agent is None:
            raise LabError(f"host {host.name} has `agent: false` in its lab's file: there is no agent to start")
        await host.start("agent", agent(), host.service_environment | agent_environment(host))
        await host.ready("agent", host.agent_socket)


async def _answers(host: LabHost) -> None:
    """Wait until the engine serves requests: it listens before it can, and may yet end."""
    from weft.lab.engine import Engine  # an HTTP library: only where a lab has Docker Engines

    async with Engine(host.docker_socket) as engine:
        try:
            await engine.ping()
        except LabError as error:
            raise LabError(f"Docker Engine on {host.name} does not come up:\n{host.tail('docker')}") from error


async def stop(host: LabHost, service: ServiceName) -> None:
    """End a service in order (SIGTERM)."""
    await host.signal(service, "TERM")


async def kill(host: LabHost, service: ServiceName) -> None:
    """End a service as a crash would (SIGKILL)."""
    await host.signal(service, "KILL")


async def restart(host: LabHost, service: ServiceName) -> None:
    """End a service in order and start it again."""
    await stop(host, service)
    await start(host, service)


def agent() -> list[str]:
    """The command of the agent: this very installation's."""
    return [sys.executable, "-m", "weft.cli.main", "agent"]


def agent_environment(host: LabHost) -> dict[str, str]:
    """The agent's settings: what the lab knows of the host, and over it what the topology file says."""
    settings = {"node": host.name, "engine": "docker"}
    if host.host.engine == "none":
        exposed = (network for network in host.host.networks if host.host.exposes(network))
        named = [f"{network.name}={subnet}" for network in exposed for subnet in network.subnets]
        settings |= {"engine": "static", "networks": ",".join(named)}
    settings |= dict(host.host.agent or ())
    return {f"WEFT_{key.upper()}": value for key, value in settings.items()}


def dockerd(host: LabHost) -> list[str]:
    """The command of a Docker Engine that knows nothing of the machine's own one, all of it in the lab's folders."""
    data = state.data(host.lab) / host.name
    data.mkdir(parents=True, exist_ok=True)
    settings = host.folder / "daemon.json"
    settings.write_text("{}\n")  # not the machine's /etc/docker/daemon.json
    if not shutil.which("dockerd"):
        raise LabError(f"host {host.name} wants a Docker Engine and dockerd is not installed: run scripts/setup")
    return [
        "dockerd",
        f"--config-file={settings}",
        f"--host=unix://{host.docker_socket}",
        f"--data-root={data}",
        f"--exec-root={host.folder / 'docker'}",
        f"--pidfile={host.folder / 'docker.pid'}",
        f"--cgroup-parent=/weft-lab/{host.lab}/{host.name}",
        "--exec-opt=native.cgroupdriver=cgroupfs",  # systemd's would want to know our cgroups
        "--storage-driver=overlay2",
        "--userland-proxy=false",
    ]
