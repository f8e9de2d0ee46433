"""etcd in a lab: its command, whether it answers, and flannel's network config in it. `services` and `lab` call this.

The data lies in the lab's folder below /var/lib and goes with the lab; a restart finds it again.
"""

from __future__ import annotations

import asyncio
import shutil
import socket

from weft.errors import LabError
from weft.lab import netns, shell, state
from weft.lab.daemons import CLIENTS, PEERS, url
from weft.lab.host import START, LabHost
from weft.lab.topology import Etcd

ANSWER = 1.0
"""Seconds that etcd may take for one answer about its health."""


def command(host: LabHost, member: Etcd) -> list[str]:
    """The command of this member. LabError if etcd is not installed."""
    if not shutil.which("etcd"):
        raise LabError(f"host {host.name} wants etcd and it is not installed: run scripts/setup")
    data = state.data(host.lab) / host.name / "etcd"
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)  # etcd insists
    clients, peers = url(member.address, CLIENTS), url(member.address, PEERS)
    return [
        "etcd",
        f"--name={host.name}",
        f"--data-dir={data}",
        f"--listen-client-urls={clients},http://127.0.0.1:{CLIENTS}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster={','.join(f'{name}={url(address, PEERS)}' for name, address in member.cluster)}",
        f"--initial-cluster-token={host.lab}",
    ]


async def healthy(host: LabHost, member: Etcd) -> None:
    """Wait until it answers and its cluster has a leader. LabError with the end of its log if that doesn't come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START
    while not await _healthy(host, member):
        if host.running("etcd") is None or loop.time() > deadline:
            raise LabError(f"etcd on {host.name} does not come up:\n{host.tail('etcd')}")
        await asyncio.sleep(shell.POLL)


async def _healthy(host: LabHost, member: Etcd) -> bool:
    """What etcd's /health says (https://etcd.io/docs/v3.4/op-guide/monitoring/); False if nothing does."""
    family = socket.AF_INET if member.address.version == 4 else socket.AF_INET6
    sock = netns.socket_in(netns.path(host.namespace), family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER):
            await loop.sock_connect(sock, (str(member.address), CLIENTS))
            await loop.sock_sendall(sock, b"GET /health HTTP/1.0\r\n\r\n")
            answer = b""
            while octets := await loop.sock_recv(sock, 4096):
                answer += octets
    except (OSError, TimeoutError):
        return False
    finally:
        sock.close()
    return b'"health":"true"' in answer


async def fill(host: LabHost, member: Etcd) -> None:
    """Put flannel's network config, where the topology file has one."""
    if member.key:
        put = ["etcdctl", f"--endpoints={url(member.address, CLIENTS)}", "put", "--", member.key, member.config]
        await shell.run(host.inside(put), environment=host.service_environment | {"ETCDCTL_API": "3"})
