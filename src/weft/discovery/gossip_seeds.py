"""Members to join by: names of hosts, resolved anew each time, and tried for ever. Used by `discovery/gossip.py`.

Once joined, a seed that is no live member is tried on: two clusters that know nothing of each other become one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from weft.core.swim_values import Address
from weft.discovery.options import PORT
from weft.errors import DiscoveryError

BACKOFF = (0.2, 10.0)
"""Seconds between rounds until one has joined: the first, and the longest; doubling between."""
REST = 15.0
"""... and from then on."""


@dataclass(frozen=True, slots=True)
class Seed:
    """`port` 0: none is named."""

    text: str
    host: str
    port: int


def parse_seed(text: str) -> Seed:
    """`host`, `host:port`, `[v6 address]:port` or a bare IPv6 address. DiscoveryError if it is none of these."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        host, port = text.strip(), "0"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535 or (colon and port == ""):
        raise DiscoveryError(f"the seed {text!r} is not host or host:port, e.g. 10.0.1.5 or 10.0.1.5:{PORT}")
    return Seed(text, host, int(port))


async def resolve(seed: Seed, version: int, port: int) -> list[Address]:
    """Where it may be, in addresses of IP version 4 or 6. `port`: ours, for a seed without one; the document's is tried
    too. OSError if nobody knows the name."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found = await asyncio.get_running_loop().getaddrinfo(seed.host, None, family=family, type=socket.SOCK_STREAM)
    ports: Collection[int] = (seed.port,) if seed.port else dict.fromkeys((port, PORT))
    hosts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [Address(ip_address(host).packed, one) for host in hosts for one in ports]
