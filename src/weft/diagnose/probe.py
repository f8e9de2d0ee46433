"""Pings along each path to another host, a small one and one that just fits, neither ever fragmented. Needs root or
CAP_NET_RAW. Called by `collect.py`; `--no-probe` leaves it out.

Through flannel's device the peer's own VTEP address is asked (its lease's first), bound to the device, so that no
relay's route is taken: what is asked is the direct way. Through weft's own VXLAN an address of the peer's networks is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from weft.diagnose.facts import Facts, LinkFacts, ProbeFacts
from weft.diagnose.finding import Own, others, owner_of
from weft.diagnose.judge_kernel import OVERHEAD, underlay_of
from weft.lab.icmp import answer, request
from weft.model import IPAddress

MOST = 64
"""Hosts that are asked; of more, every so many of them."""
PATIENCE = 1.0
"""Seconds that one try may take; there are TRIES of them."""
TRIES = 2
SMALL = 84
"""Octets of an IP packet with an ordinary ping in it."""
HEADERS = {4: 28, 6: 48}
"""IP and ICMP, octets."""
PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
"""linux/in.h, in6.h: don't fragment, and ignore what a path's MTU was believed to be."""


def targets(facts: Facts) -> tuple[ProbeFacts, ...]:
    """What is to be asked: the tunnel and the underlay to each other host."""
    own = Own(facts)
    every = list(_targets(facts, own))
    hosts = list(dict.fromkeys(one.host for one in every))
    chosen = set(hosts[:: max(1, -(-len(hosts) // MOST))])
    return tuple(one for one in every if one.host in chosen)


def _targets(facts: Facts, own: Own) -> Iterator[ProbeFacts]:
    leased = set()
    if own.flannel is not None:
        for lease in others(facts, own):
            if lease.subnet.version == 4 and lease.public_ip not in leased:
                leased.add(lease.public_ip)
                name, link = owner_of(lease.public_ip, facts), own.flannel
                yield ProbeFacts(name, "tunnel", lease.subnet.network_address, link.name, link.mtu)
                yield ProbeFacts(name, "underlay", lease.public_ip, "", _outer(link, lease.public_ip, facts, own))
    if own.tunnel is None:
        return
    for one in facts.etcd.hosts:
        if one.host == own.name or one.vni != own.tunnel.vni or leased & set(one.endpoints):
            continue
        for inner in [a for a in one.overlay if a not in one.endpoints][:1]:
            yield ProbeFacts(one.host, "tunnel", inner, "", own.tunnel.mtu)
        for place in one.endpoints[:1]:
            yield ProbeFacts(one.host, "underlay", place, "", _outer(own.tunnel, place, facts, own))


def _outer(link: LinkFacts, place: IPAddress, facts: Facts, own: Own) -> int:
    """Octets of the largest packet of the tunnel's, on the underlay. What the underlay's own device doesn't take is
    another fault than one on the way."""
    under = underlay_of(link, facts, own)
    outer = link.mtu + OVERHEAD[place.version]
    return min(outer, under.mtu) if under is not None else outer


async def probe(asked: Sequence[ProbeFacts]) -> tuple[ProbeFacts, ...]:
    """The same with their answers. Raises OSError if this process may not ask."""
    small = [_Ping(one, SMALL) for one in asked]
    full = [_Ping(one, one.mtu) for one in asked]
    await _ask([*small, *full])
    return tuple(
        msgspec.structs.replace(one, small=a.answered, full=b.answered if a.answered else None)
        for one, a, b in zip(asked, small, full, strict=True)
    )


@dataclass(slots=True)
class _Ping:
    """`size`: octets of the whole IP packet."""

    to: ProbeFacts
    size: int
    answered: bool = False
    sequence: int = field(default=0)


class _Socket:
    """One raw socket per family and device."""

    def __init__(self, version: int, device: str) -> None:
        self.version = version
        self.raw = socket.socket(FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL[version])
        option = IP_MTU_DISCOVER if version == 4 else IPV6_MTU_DISCOVER
        self.raw.setsockopt(socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6, option, PMTUDISC_PROBE)
        if device:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())


async def _ask(pings: Sequence[_Ping]) -> None:
    loop = asyncio.get_running_loop()
    identifier = random.randrange(1, 0xFFFF)
    waiting: dict[int, _Ping] = {}
    everybody = asyncio.Event()
    with contextlib.ExitStack() as stack:
        sockets: dict[tuple[int, str], _Socket] = {}
        for number, ping in enumerate(pings):
            key = (ping.to.address.version, ping.to.device)
            if key not in sockets:
                sockets[key] = one = _Socket(*key)
                stack.enter_context(one.raw)
                loop.add_reader(one.raw, _hear, one, identifier, waiting, everybody)
                stack.callback(loop.remove_reader, one.raw)
            ping.sequence = number & 0xFFFF
            waiting[ping.sequence] = ping
        for _ in range(TRIES):
            for ping in waiting.values():
                _send(sockets[ping.to.address.version, ping.to.device], ping, identifier)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await everybody.wait()


def _hear(one: _Socket, identifier: int, waiting: dict[int, _Ping], everybody: asyncio.Event) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            said = answer(one.version, one.raw.recv(65535))
            if said is not None and said.identifier == identifier and not said.refusal:
                ping = waiting.pop(said.sequence, None)
                if ping is not None:
                    ping.answered = True
                if not waiting:
                    everybody.set()


def _send(one: _Socket, ping: _Ping, identifier: int) -> None:
    """What the kernel refuses (no way, larger than the device takes) isn't answered; nothing else is forgiven."""
    place: IPAddress = ping.to.address
    payload = bytes(max(ping.size - HEADERS[place.version], 0))
    try:
        one.raw.sendto(request(place.version, identifier, ping.sequence, payload), (str(place), 0))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EBADF):
            raise OSError(error.errno, os.strerror(error.errno)) from error
