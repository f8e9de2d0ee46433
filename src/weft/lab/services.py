"""What runs in a lab's host: servers, a Docker Engine, weft's daemons; how each is started and ended.

`lab.Lab` calls this at `up`; `weft lab kill`, `stop`, `start` and `restart` call it later.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from weft.errors import LabError
from weft.lab import bind, docker_router, etcd, leases, state, vpc
from weft.lab.host import LabHost
from weft.lab.topology import SERVERS, Flanneld, ServiceName


async def start(host: LabHost, service: ServiceName) -> None:
    """Start a service and return when it answers. LabError if it isn't part of this host or doesn't come up."""
    if not host.host.runs(service):
        raise LabError(f"host {host.name} has {_instead(host, service)} to start")
    await STARTS[service](host)


def _instead(host: LabHost, service: ServiceName) -> str:
    if service == "docker":
        return f"`engine: {host.host.engine}`: there is no Docker Engine"
    if service in SERVERS:
        return f"no `{service}` in its lab's file: there is none"
    there = [one for one in host.host.services if one not in (*SERVERS, "docker")]
    other = f"[{', '.join(there)}]" if len(there) > 1 else there[0] if there else "none"
    said = "`agent: false`" if (service, other) == ("agent", "none") else f"`daemon: {other}`"
    return f"{said} in its lab's file: there is no {service}"


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


# -- etcd -----------------------------------------------------------------------------------------------------------


async def _start_etcd(host: LabHost) -> None:
    assert host.host.etcd is not None
    await host.start("etcd", etcd.command(host, host.host.etcd), host.service_environment)
    await etcd.healthy(host, host.host.etcd)


# -- BIND -----------------------------------------------------------------------------------------------------------


async def _start_bind(host: LabHost) -> None:
    assert host.host.bind is not None
    await host.start("bind", bind.command(host, host.host.bind), host.service_environment)
    await bind.answers(host, host.host.bind)


# -- a cloud --------------------------------------------------------------------------------------------------------


async def _start_compute(host: LabHost) -> None:
    assert host.host.compute is not None
    await host.start("compute", vpc.command(host, host.host.compute), host.service_environment)
    await vpc.answers(host, host.host.compute)


# -- Docker Engine --------------------------------------------------------------------------------------------------


async def _start_docker(host: LabHost) -> None:
    host.docker_socket.unlink(missing_ok=True)
    await host.start("docker", dockerd(host), host.service_environment)
    await host.ready("docker", host.docker_socket)
    await _answers(host)


async def _answers(host: LabHost) -> None:
    """Wait until the engine serves requests: it listens before it can, and may yet end."""
    from weft.lab.engine import Engine  # an HTTP library: only where a lab has Docker Engines

    async with Engine(host.docker_socket) as engine:
        try:
            await engine.ping()
        except LabError as error:
            raise LabError(f"Docker Engine on {host.name} does not come up:\n{host.tail('docker')}") from error


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
        *(leases.docker_options(host) if host.host.flanneld is not None else ()),
    ]


# -- weft's own -----------------------------------------------------------------------------------------------------


async def _start_agent(host: LabHost) -> None:
    await host.start("agent", weft("agent"), host.service_environment | agent_environment(host))
    await host.ready("agent", host.agent_socket)


async def _start_registrar(host: LabHost) -> None:
    await host.start("registrar", weft("registrar"), host.service_environment | registrar_environment(host))
    await host.ready("registrar", host.registrar_socket)


async def _start_discovery(host: LabHost) -> None:
    with leases.Listener(host.folder / "discovery.notify") as listener:
        await begin_discovery(host, listener.path)
        await host.told("discovery", listener.ready)


async def begin_discovery(host: LabHost, supervisor: Path) -> None:
    """Start a discovery and return when its process has begun. `supervisor`: the socket that it tells how it fares
    (sd_notify(3))."""
    docker_router.prepare(host)
    supervisor.chmod(0o666)
    environment = host.service_environment | docker_router.environment(host, "discovery")
    del environment["WEFT_SOCKET"]  # the router's
    command = docker_router.confined(host, "discovery", weft("discovery"))
    await host.start("discovery", command, environment | {"HOME": "/", "NOTIFY_SOCKET": str(supervisor)})


async def _start_router(host: LabHost) -> None:
    docker_router.prepare(host)
    command = docker_router.confined(host, "router", weft("router"))
    environment = host.service_environment | docker_router.environment(host, "router") | {"HOME": "/"}
    await host.start("router", command, environment)
    await host.ready("router", host.router_socket)


async def _start_manager(host: LabHost) -> None:
    vpc.prepare(host)
    environment = host.service_environment | vpc.environment(host) | {"HOME": "/"}
    await host.start("route-manager", vpc.confined(weft("route-manager")), environment)
    await host.ready("route-manager", host.manager_socket)


async def _start_flanneld(host: LabHost) -> None:
    assert host.host.flanneld is not None
    environment = flanneld_environment(host, host.host.flanneld)
    with leases.Listener(host.folder / "notify.sock") as listener:
        await host.start("flanneld", flanneld(host.host.flanneld), environment | {"NOTIFY_SOCKET": str(listener.path)})
        await leases.arrived(host, listener)
    await leases.place(host)


def weft(*words: str) -> list[str]:
    """A command of this very installation's `weft`."""
    return [sys.executable, "-m", "weft.cli.main", *words]


def flanneld(options: Flanneld) -> list[str]:
    """The command of flanneld."""
    return weft("flanneld", *options.flags)


def flanneld_environment(host: LabHost, options: Flanneld) -> dict[str, str]:
    """flanneld's variables, over those of every service."""
    return host.service_environment | dict(options.environment)


def agent_environment(host: LabHost) -> dict[str, str]:
    """The agent's settings: what the lab knows of the host, and over it what the topology file says."""
    settings = {"node": host.name, **_engine(host)} | dict(host.host.agent or ())
    return {f"WEFT_{key.upper()}": value for key, value in settings.items()}


def registrar_environment(host: LabHost) -> dict[str, str]:
    """The registrar's variables: what the lab knows of the host, and over it what the topology file says."""
    known = {"host_name": host.name, **_engine(host)}
    return {key.upper(): value for key, value in known.items()} | dict(host.host.registrar or ())


def _engine(host: LabHost) -> dict[str, str]:
    """Who knows the host's networks. Without an engine: their names; flanneld's own is not the operator's to name."""
    if host.host.engine != "none":
        return {"engine": "docker"}
    exposed = (network for network in host.host.networks if host.host.exposes(network) and not network.leased)
    named = [f"{network.name}={subnet}" for network in exposed for subnet in network.subnets]
    return {"engine": "static", "networks": ",".join(named)}


def daemon_environment(host: LabHost) -> dict[str, str]:
    """What a person's command in this host finds set of its daemon's settings; of two, the union."""
    if host.host.stacks is not None:
        told = [docker_router.environment(host, kind) for kind in docker_router.PAIR if host.host.runs(kind)]
        return {key: text for environment in told for key, text in environment.items() if key != "DNS_KEY"}
    if host.host.route_manager is not None:
        return vpc.environment(host)
    return registrar_environment(host) if host.host.registrar is not None else agent_environment(host)


STARTS: dict[ServiceName, Callable[[LabHost], Awaitable[None]]] = {
    "etcd": _start_etcd,
    "bind": _start_bind,
    "compute": _start_compute,
    "docker": _start_docker,
    "flanneld": _start_flanneld,
    "registrar": _start_registrar,
    "agent": _start_agent,
    "discovery": _start_discovery,
    "router": _start_router,
    "route-manager": _start_manager,
}
