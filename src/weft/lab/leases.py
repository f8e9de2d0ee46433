"""Container networks in the subnet that flanneld got for a host: known from subnet.env, made when it is there.

    flanneld ─► subnet.env ─► bridge and containers        as Docker's --bip does it on a Docker host

`services` calls `arrived` and `place` when flanneld was started; `lab.Lab` calls `known` whenever it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import replace
from pathlib import Path

from weft.errors import LabError
from weft.lab import netns, shell, wiring
from weft.lab.host import START, LabHost
from weft.lab.topology import Host, Topology
from weft.model import IPNetwork
from weft.wire.subnet_env import SubnetEnv, parse_subnet_env

FORMER = 20.0
"""Seconds until a flanneld that finds a former run's subnet is taken to wait for etcd. Taken so too early, on a busy
machine, its containers would be given addresses of the former subnet."""


def known(topology: Topology) -> Topology:
    """The topology with the leases that its hosts have now; a host without one keeps a network without subnets."""
    return replace(topology, hosts=tuple(_known(LabHost(topology.name, host)) for host in topology.hosts))


def _known(host: LabHost) -> Host:
    if not any(network.leased for network in host.host.networks):
        return host.host
    try:
        return leasing(host)
    except (LabError, IndexError):
        return host.host


def leasing(host: LabHost) -> Host:
    """The host with what subnet.env says now. LabError if it is gone, IndexError if its subnet is too small."""
    said = subnet_env(host)
    return host.host.leasing(subnets(said), said.mtu or 0)


def subnets(said: SubnetEnv) -> tuple[IPNetwork, ...]:
    """The host's own subnets, IPv4's first; nothing without a lease."""
    return tuple(subnet for subnet in (said.subnet, said.subnet6) if subnet is not None)


def subnet_env(host: LabHost) -> SubnetEnv:
    """What subnet.env says on this host; nothing if there is none. LabError if the host is gone or it can't be read."""
    path = _subnet_file(host)
    try:
        return parse_subnet_env(path.read_bytes())
    except FileNotFoundError:
        return SubnetEnv()
    except OSError as error:
        raise LabError(f"{path} can't be read: {error}") from error


def _subnet_file(host: LabHost) -> Path:
    if host.host.flanneld is None:
        raise LabError(f"host {host.name} runs no flanneld")
    return Path(f"/proc/{host.init().pid}/root") / host.host.flanneld.subnet_file.lstrip("/")


class Listener:
    """Hears what a service tells its supervisor (sd_notify(3)), from the `with` on, at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ready = False

    def __enter__(self) -> Listener:
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def ready(self) -> bool:
        """Whether it has said so by now."""
        with contextlib.suppress(BlockingIOError):
            while not self._ready:
                self._ready = b"READY=1" in self._socket.recv(4096).split(b"\n")
        return self._ready


async def arrived(host: LabHost, listener: Listener) -> None:
    """Wait until flanneld is ready and has a subnet. LabError with the end of its log if it ends, or has none in time.

    With a former run's subnet it may also wait for its etcd for ever, and that is no error."""
    former = bool(subnets(subnet_env(host)))
    deadline = asyncio.get_running_loop().time() + (FORMER if former else START)
    await shell.until(lambda: listener.ready() or host.running("flanneld") is None, deadline)
    if host.running("flanneld") is None:
        raise LabError(f"flanneld on {host.name} ended:\n{host.tail('flanneld')}")
    if not subnets(subnet_env(host)):
        raise LabError(f"flanneld on {host.name} has no subnet after {START:g} s:\n{host.tail('flanneld')}")


def docker_options(host: LabHost) -> list[str]:
    """What a Docker Engine beside flanneld is told, as `weft docker-opts` says it: its own bridge is in the lease."""
    said = subnet_env(host)
    options = [f"--bip={said.subnet[1]}/{said.subnet.prefixlen}"] if said.subnet else []
    options += ["--ipv6", f"--fixed-cidr-v6={said.subnet6}"] if said.subnet6 else []
    options += [f"--mtu={said.mtu}"] if said.mtu else []
    return [*options, f"--ip-masq={str(not said.ipmasq).lower()}"]


async def place(host: LabHost) -> None:
    """Make the bridge of this host's subnet, and its containers; anew if the subnet is another one than before. With a
    Docker Engine they are the engine's to make."""
    if host.host.engine != "none":
        return
    there = replace(host, host=leasing(host))
    for network in there.host.networks:
        if not network.leased:
            continue
        device = wiring.bridge_name(network)
        wanted = {str(gateway) for gateway in network.gateways}
        found = await _addresses(host, device)
        if found is not None and wanted <= found:
            return
        if found is not None:
            ports = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", "link", "show", "master", device]))
            await shell.ip([f"link delete {port['ifname']}" for port in ports], host.namespace)
            await shell.ip([f"link delete {device}"], host.namespace)
        await netns.build(wiring.networks(host.lab, there.host, leased=True))


async def _addresses(host: LabHost, device: str) -> set[str] | None:
    """`172.16.24.1/24` and so on; None if there is no such device."""
    shown = json.loads(await shell.run(["ip", "-n", host.namespace, "-j", "address", "show"]))
    infos = {link["ifname"]: link["addr_info"] for link in shown if "ifname" in link}
    if device not in infos:
        return None
    return {f"{info['local']}/{info['prefixlen']}" for info in infos[device]}
