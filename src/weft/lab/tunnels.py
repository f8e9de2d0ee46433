"""WireGuard tunnels between hosts of a lab: a wireguard-go per end, in its host's namespaces, which ends with the host.

`lab` checks and makes them at `up`; `weft lab cut` and `heal` take an end down and up. A lab's keys are made for it and
lie in its folder, for root alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from weft.errors import LabError
from weft.lab import shell, state
from weft.lab.host import LabHost
from weft.lab.topology import Topology, Tunnel, TunnelPeer

TUN = Path("/dev/net/tun")
PACKAGES = {"wireguard-go": "wireguard-go", "wg": "wireguard-tools"}


def check(topology: Topology) -> None:
    """LabError if the topology has tunnels and this machine can't carry them."""
    named = sorted({tunnel.device for host in topology.hosts for tunnel in host.tunnels})
    if not named:
        return
    missing = [
        f"{tool} is not installed (Debian: {package})" for tool, package in PACKAGES.items() if not _is_there(tool)
    ]
    missing += [] if TUN.exists() else [f"there is no {TUN}"]
    if missing:
        raise LabError(
            f"tunnels.{named[0]}: {' and '.join(missing)}; without it, a segment in its place (`segments: {{{named[0]}:"
            f" {{subnet: …}}}}` and `segments` of its members) is a plain Ethernet with the same addresses"
        )


def _is_there(tool: str) -> bool:
    return shutil.which(tool) is not None


async def make_keys(hosts: tuple[LabHost, ...]) -> None:
    """A key pair for every end: the private one for root alone."""
    for host in hosts:
        for tunnel in host.host.tunnels:
            private = await shell.run(["wg", "genkey"])
            path = _file(host, tunnel, "key")
            path.touch(mode=0o600)
            path.write_text(private)
            _file(host, tunnel, "pub").write_text(await shell.run(["wg", "pubkey"], private))


async def start(host: LabHost) -> None:
    """Every end on this host, up and configured. LabError with what a tool said."""
    for tunnel in host.host.tunnels:
        await _start(host, tunnel)


async def _start(host: LabHost, tunnel: Tunnel) -> None:
    await shell.run(host.inside(["wireguard-go", tunnel.device]), environment=host.service_environment)
    conf = _file(host, tunnel, "conf")
    conf.touch(mode=0o600)
    conf.write_text(
        "\n".join([*_own(host, tunnel), *(line for peer in tunnel.peers for line in _peer(host, tunnel, peer))])
    )
    await shell.run(host.inside(["wg", "setconf", tunnel.device, str(conf)]))
    addresses = [f"address add {address} dev {tunnel.device} nodad" for address in tunnel.addresses]
    await shell.ip([*addresses, f"link set {tunnel.device} mtu {tunnel.mtu}", *_up(tunnel)], host.namespace)


def _own(host: LabHost, tunnel: Tunnel) -> Iterator[str]:
    """The format is that of `wg setconf` (wg(8))."""
    yield "[Interface]"
    yield f"PrivateKey = {_file(host, tunnel, 'key').read_text().strip()}"
    yield f"ListenPort = {tunnel.port}"


def _peer(host: LabHost, tunnel: Tunnel, peer: TunnelPeer) -> Iterator[str]:
    public = state.folder(host.lab) / peer.host / f"{tunnel.device}.pub"
    yield "[Peer]"
    yield f"PublicKey = {public.read_text().strip()}"
    yield f"AllowedIPs = {', '.join(map(str, peer.allowed))}"
    if peer.endpoint is not None:
        address, port = peer.endpoint
        yield f"Endpoint = {address if address.version == 4 else f'[{address}]'}:{port}"
        if peer.keepalive:
            yield f"PersistentKeepalive = {peer.keepalive}"
    yield ""


def _up(tunnel: Tunnel) -> list[str]:
    """What has to be said after each time that the link was down: the kernel drops its routes then."""
    routes = [f"route replace {hop.dst} dev {hop.interface}" for hop in tunnel.hops]
    return [f"link set {tunnel.device} up", *routes]


async def cut(host: LabHost, tunnel: Tunnel) -> None:
    """Take this end down: nothing goes through, in either direction."""
    await shell.ip([f"link set {tunnel.device} down"], host.namespace)


async def heal(host: LabHost, tunnel: Tunnel) -> None:
    """Up again; anew if its wireguard-go has ended."""
    if tunnel.device in await _links(host):
        await shell.ip(_up(tunnel), host.namespace)
    else:
        await _start(host, tunnel)


async def is_cut(host: LabHost, tunnel: Tunnel) -> bool:
    """Whether this end is down, or gone."""
    return "UP" not in (await _links(host)).get(tunnel.device, ())


async def _links(host: LabHost) -> dict[str, list[str]]:
    found = json.loads(await shell.run(["ip", "-n", host.namespace, "-json", "link", "show"]))
    return {link["ifname"]: link["flags"] for link in found}


def _file(host: LabHost, tunnel: Tunnel, kind: str) -> Path:
    return host.folder / f"{tunnel.device}.{kind}"
