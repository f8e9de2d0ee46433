"""Container networks in the subnet that flanneld got for a host: known from subnet.env, made when it is there.

    flanneld ─► subnet.env ─► bridge and containers        as Docker's --bip does it on a Docker host

`services` calls `arrived` and `place` when flanneld was started; `lab.Lab` calls `known` whenever it is asked.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from weft.errors import LabError
from weft.lab import netns, shell, wiring
from weft.lab.host import START, LabHost
from weft.lab.topology import Host, Topology
from weft.model import IPNetwork
from weft.wire.subnet_env import parse_subnet_env


def known(topology: Topology) -> Topology:
    """The topology with the leases that its hosts have now; a host without one keeps a network without subnets."""
    return replace(topology, hosts=tuple(_known(LabHost(topology.name, host)) for host in topology.hosts))


def _known(host: LabHost) -> Host:
    if not any(network.leased for network in host.host.networks):
        return host.host
    try:
        return host.host.leasing(subnets(host))
    except (LabError, IndexError):
        return host.host


def subnets(host: LabHost) -> tuple[IPNetwork, ...]:
    """What subnet.env says on this host; nothing if there is none. LabError if the host is gone or it can't be read."""
    path = _subnet_file(host)
    try:
        said = parse_subnet_env(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} can't be read: {error}") from error
    return tuple(subnet for subnet in (said.subnet, said.subnet6) if subnet is not None)


def _subnet_file(host: LabHost) -> Path:
    if host.host.flanneld is None:
        raise LabError(f"host {host.name} runs no flanneld")
    return Path(f"/proc/{host.init().pid}/root") / host.host.flanneld.subnet_file.lstrip("/")


async def arrived(host: LabHost) -> None:
    """Wait until flanneld has a subnet. LabError with the end of its log if it ends, or has none in time."""
    deadline = asyncio.get_running_loop().time() + START
    await shell.until(lambda: bool(subnets(host)) or host.running("flanneld") is None, deadline)
    if host.running("flanneld") is None:
        raise LabError(f"flanneld on {host.name} ended:\n{host.tail('flanneld')}")
    if not subnets(host):
        raise LabError(f"flanneld on {host.name} has no subnet after {START:g} s:\n{host.tail('flanneld')}")


async def place(host: LabHost) -> None:
    """Make the bridge of this host's subnet, and its containers; anew if the subnet is another one than before."""
    there = replace(host, host=host.host.leasing(subnets(host)))
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
