"""A lab: bring it up, break it, mend it, look at it.

The verbs of `weft lab` (cli/lab.py), the demo and the lab tests are made of this.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weft.errors import LabError
from weft.lab import (
    bind,
    etcd,
    fields,
    leases,
    netns,
    removal,
    schema,
    servers,
    services,
    shell,
    state,
    tunnels,
    wiring,
)
from weft.lab.host import LabHost
from weft.lab.topology import Container, ContainerNetwork, Host, ServiceName, Topology, Tunnel

STARTING = 8 * (os.cpu_count() or 1)
"""How many services start side by side. More of them take no less time all together, and longer each."""
ORDER: tuple[ServiceName, ...] = ("flanneld", "docker", "registrar", "agent", "discovery", "router", "route-manager")
TITLES = {"docker": "Docker Engine"}
Progress = Callable[[str], None]
"""Is told, in a few words, what happens now."""


def silent(_: str) -> None:
    """The Progress of callers that show none."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up."""

    topology: Topology

    @property
    def name(self) -> str:
        return self.topology.name

    @classmethod
    async def up(cls, document: object, name: str, file: str = "", progress: Progress = silent) -> Lab:
        """Build the lab that a parsed topology file describes, and return when everything in it answers.

        If that fails or is cancelled, what was built is removed again before the error goes on."""
        topology = schema.read(document, name)
        tunnels.check(topology)
        state.create(topology, document, file)
        try:
            await _build(topology, progress)
        except BaseException:
            progress(f"not up: removing what there is of {topology.name}")
            await removal.remove(topology.name)
            raise
        return cls(leases.known(topology))

    @classmethod
    def load(cls, name: str | None = None) -> Lab:
        """The lab of that name, or the only one. LabError if there is none."""
        return cls(leases.known(state.load(name or state.only())))

    async def down(self) -> None:
        """Remove it, whatever became of it in the meantime."""
        await removal.remove(self.name)

    def host(self, name: str) -> LabHost:
        """The host of that name. LabError names the nearest one."""
        found = self.topology.host(name)
        if found is None:
            known = [host.name for host in self.topology.hosts]
            raise LabError(f"there is no host {name!r} in lab {self.name}; {fields.nearest(name, known)}")
        return LabHost(self.name, found)

    @property
    def hosts(self) -> tuple[LabHost, ...]:
        return tuple(LabHost(self.name, host) for host in self.topology.hosts)

    def container(self, host: str, name: str) -> tuple[ContainerNetwork, Container]:
        """That container of that host, with its network. LabError names the nearest one."""
        listed = list(self.host(host).host.containers())
        for network, container in listed:
            if container.name == name:
                return network, container
        hint = fields.nearest(name, [container.name for _, container in listed])
        raise LabError(f"there is no container {name!r} on host {host}; {hint}")

    # -- the cables -----------------------------------------------------------------------------------------------

    async def cut(self, member: str, segment: str, keep_carrier: bool = False) -> None:
        """Pull a cable: the member's interface loses its carrier. With `keep_carrier` frames vanish and the interface
        does not notice, as behind a broken switch. In place of the segment a tunnel may be named: its end goes down."""
        if tunnel := self._tunnel(member, segment):
            if keep_carrier:
                raise LabError(f"{segment} is a tunnel and has no carrier to keep: cut what it runs over in its place")
            return await tunnels.cut(self.host(member), tunnel)
        end = self._cable(member, segment)
        change = f"link set {end} nomaster" if keep_carrier else f"link set {end} down"
        await shell.ip([change], wiring.fabric(self.name))

    async def heal(self, member: str, segment: str) -> None:
        """Plug a cable in again, however it was cut; a tunnel's end goes up."""
        if tunnel := self._tunnel(member, segment):
            return await tunnels.heal(self.host(member), tunnel)
        end = self._cable(member, segment)
        master = wiring.bridge(self.topology, segment)
        await shell.ip([f"link set {end} master {master} up"], wiring.fabric(self.name))

    async def cables_cut(self) -> set[tuple[str, str]]:
        """(host or router, segment or tunnel) of every cable that is cut now, as the kernel says."""
        found = json.loads(await shell.run(["ip", "-n", wiring.fabric(self.name), "-json", "link", "show"]))
        whole = {link["ifname"] for link in found if "UP" in link["flags"] and "master" in link}
        plugs = {(m.name, port.segment.name) for m in self.topology.members for port in m.ports}
        ends = [(host, tunnel) for host in self.hosts for tunnel in host.host.tunnels]
        down = {(host.name, tunnel.device) for host, tunnel in ends if await tunnels.is_cut(host, tunnel)}
        return {plug for plug in plugs if wiring.cable(self.topology, *plug) not in whole} | down

    def _tunnel(self, member: str, name: str) -> Tunnel | None:
        found = self.topology.host(member)
        return next((tunnel for tunnel in found.tunnels if tunnel.device == name), None) if found else None

    def _cable(self, member: str, segment: str) -> str:
        try:
            return wiring.cable(self.topology, member, segment)
        except KeyError as error:
            known = {m.name: [port.segment.name for port in m.ports] for m in self.topology.members}
            for host in self.topology.hosts:
                known[host.name] += [tunnel.device for tunnel in host.tunnels]
            if member not in known:
                hint = f"there is no host or router {member!r}; {fields.nearest(member, known)}"
            else:
                hint = f"{member} is not on segment {segment!r}; {fields.nearest(segment, known[member])}"
            raise LabError(f"lab {self.name}: {hint}") from error

    # -- containers -----------------------------------------------------------------------------------------------

    async def container_namespace(self, host: LabHost, container: Container) -> Path:
        """The container's network namespace, as a file. LabError if the container doesn't run."""
        if host.host.engine == "none":
            return netns.path(wiring.namespace(self.name, host.name, container.name))
        return await self._container_process(host, container.name) / "ns/net"

    async def container_command(self, host: LabHost, container: str, command: list[str]) -> list[str]:
        """A command that runs `command` inside a container, in all of its namespaces."""
        _, found = self.container(host.name, container)
        if host.host.engine == "none":
            return host.inside_container(found.name, command)
        process = await self._container_process(host, container)
        spaces = [f"--{kind}={process}/ns/{file}" for kind, file in _NAMESPACES.items()]
        clean = ["env", "-i", "PATH=/bin", "HOME=/root", f"HOSTNAME={container}", "TERM=xterm"]
        return ["nsenter", *spaces, f"--root={process}/root", f"--wd={process}/root", "--", *clean, *command]

    async def _container_process(self, host: LabHost, container: str) -> Path:
        """/proc/… of the first process of a Docker container, seen through its host's own /proc."""
        from weft.lab.engine import Engine  # an HTTP library: only where a lab has Docker Engines

        async with Engine(host.docker_socket) as engine:
            pid = await engine.pid(container)
        if not pid:
            raise LabError(f"container {container} on host {host.name} is not running: docker logs {container}")
        return host.proc / str(pid)


_NAMESPACES = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "net": "net", "pid": "pid"}


async def _build(topology: Topology, progress: Progress) -> None:
    progress(f"underlay: {counted(len(topology.segments), 'segment')}, {counted(len(topology.members), 'machine')}")
    spaces = wiring.namespaces(topology)
    await shell.ip(f"netns add {name}" for name in spaces)
    batches = [*wiring.underlay(topology)]
    for host in topology.hosts:
        if host.engine == "none":
            batches += wiring.networks(topology.name, host)
    await netns.build(batches)
    hosts = tuple(LabHost(topology.name, host) for host in topology.hosts)
    await tunnels.make_keys(hosts)
    for there in hosts:
        if there.host.bind is not None:
            bind.make_key(there)
    await shell.together(*(_boot(host, progress) for host in hosts))
    turns = asyncio.Semaphore(STARTING)
    await shell.together(*(_furnish(host, progress, turns) for host in hosts))


async def _boot(host: LabHost, progress: Progress) -> None:
    """A host's init, firewall and tunnels, and the store that daemons on every host may ask as soon as they begin."""
    await host.boot()
    for command in host.host.firewall:
        await shell.run(host.inside(command))
    await tunnels.start(host)
    if host.host.etcd is not None:
        progress(f"{host.name}: etcd")
        await services.start(host, "etcd")
        await etcd.fill(host, host.host.etcd)
    if host.host.bind is not None:
        progress(f"{host.name}: name server")
        await services.start(host, "bind")
    if host.host.compute is not None:
        progress(f"{host.name}: the cloud's API")
        await services.start(host, "compute")


async def _furnish(host: LabHost, progress: Progress, turns: asyncio.Semaphore) -> None:
    """What else the topology wants in a host: flanneld first, since Docker's own bridge is in its subnet."""
    for service in ORDER:
        if not host.host.runs(service):
            continue
        async with turns:
            progress(f"{host.name}: {TITLES.get(service, service)}")
            await services.start(host, service)
        if service == "docker":
            await _furnish_engine(host, progress)
    await servers.start(host)


async def _furnish_engine(host: LabHost, progress: Progress) -> None:
    from weft.lab.engine import Engine  # an HTTP library: only where a lab has Docker Engines

    progress(f"{host.name}: {_furniture(host.host)}")
    async with Engine(host.docker_socket) as engine:
        await engine.furnish(host.host)


def _furniture(host: Host) -> str:
    return f"{counted(len(host.networks), 'network')}, {counted(len(list(host.containers())), 'container')}"


def counted(number: int, thing: str) -> str:
    """`1 network`, `2 networks`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")
