"""Who answers a ping: for `weft leases --probe` and `release`. Needs root or CAP_NET_RAW."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable

from weft.errors import WeftError
from weft.lab.icmp import answer, request
from weft.model import IPAddress

PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
TRIES = 2


async def answering(addresses: Iterable[IPAddress], seconds: float) -> frozenset[IPAddress]:
    """Those that answer within so many seconds; all are asked at once, twice. WeftError if this process may not ask."""
    wanted = list(dict.fromkeys(addresses))
    groups = [[a for a in wanted if a.version == version] for version in (4, 6)]
    found = await asyncio.gather(*(_of_family(group, seconds) for group in groups if group))
    return frozenset().union(*found)


async def _of_family(addresses: list[IPAddress], seconds: float) -> frozenset[IPAddress]:
    version = addresses[0].version
    identifier = os.getpid() & 0xFFFF
    open_ = {number & 0xFFFF: address for number, address in enumerate(addresses)}
    alive: set[IPAddress] = set()
    everybody = asyncio.Event()
    try:
        sock = socket.socket(FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL[version])
    except PermissionError as error:
        raise WeftError(f"no ping can be sent: {error}; be root, or have CAP_NET_RAW") from error

    def heard() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                said = answer(version, sock.recv(65535))
                if said is not None and said.identifier == identifier and not said.refusal and said.sequence in open_:
                    alive.add(open_[said.sequence])
                    if len(alive) == len(addresses):
                        everybody.set()

    loop = asyncio.get_running_loop()
    with sock:
        loop.add_reader(sock, heard)
        try:
            for _ in range(TRIES):
                for number, address in open_.items():
                    if address not in alive:
                        with contextlib.suppress(OSError):  # no route: it does not answer
                            sock.sendto(request(version, identifier, number), (str(address), 0))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(everybody.wait(), seconds / TRIES)
        finally:
            loop.remove_reader(sock)
    return frozenset(alive)
