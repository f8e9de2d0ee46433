"""Does every container reach every other one? `weft lab ping`, the demo and the tests ask here.

One process pings from all containers at once: a raw socket is opened in each container's network namespace and stays
there, so nothing is started in the containers and a matrix of a hundred pairs takes as long as its slowest ping.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from weft.lab import icmp, netns
from weft.lab.lab import Lab
from weft.lab.topology import Container, ContainerNetwork, Host, Topology
from weft.model import IPAddress

BURST = 64
"""Requests that go out before the answers get a turn: a whole large matrix at once would overflow socket buffers."""
SO_TIMESTAMPNS = 35
"""asm-generic/socket.h: the kernel says when a packet arrived, so that our being busy doesn't count as round trip."""
TIMESPEC = struct.Struct("@ll")
PROTOCOL = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}


@dataclass(frozen=True, slots=True)
class Pair:
    """One container that should reach another one by one of its addresses. Names are `host/container`."""

    source: str
    target: str
    address: IPAddress


@dataclass(slots=True)
class Tally:
    """What became of a pair's pings: `rtts` in milliseconds, one per answer; the last reason why one was refused."""

    pair: Pair
    sent: int = 0
    rtts: list[float] = field(default_factory=list)
    refusal: str = ""

    @property
    def loss(self) -> float:
        """Share of the pings that had no answer, 0.0 to 1.0."""
        return 1 - len(self.rtts) / self.sent if self.sent else 1.0

    @property
    def ok(self) -> bool:
        return self.loss == 0

    @property
    def rtt(self) -> float | None:
        """Mean round trip time, in milliseconds."""
        return fmean(self.rtts) if self.rtts else None


def label(host: Host, container: Container) -> str:
    """`host/container`."""
    return f"{host.name}/{container.name}"


def pairs(topology: Topology) -> tuple[Pair, ...]:
    """All that should work: within a network, and across hosts between networks that weft may tell others about.

    Two networks of one host are left out, since Docker keeps them apart on purpose and weft leaves that to it; so are
    networks that are private (`weft.expose=false`) or internal, except within themselves, networks of two groups
    (`weft.group`), and those of docker-router's stacks that share no VNI."""
    ends = [(host, *end) for host in topology.hosts for end in host.containers()]
    return tuple(
        Pair(label(host, container), label(far_host, far), address.ip)
        for host, network, container in ends
        for far_host, far_network, far in ends
        if _expected(host, network, far_host, far_network) and far is not container
        for address in far.addresses
        if any(own.version == address.version for own in container.addresses)
    )


def _expected(host: Host, network: ContainerNetwork, far_host: Host, far: ContainerNetwork) -> bool:
    if host is far_host:
        return network is far
    groups = {dict(n.labels).get("weft.group") for n in (network, far)} - {None}
    spaces = host.spaces(network), far_host.spaces(far)
    if all(spaces) and not spaces[0] & spaces[1]:
        return False
    return len(groups) < 2 and all(h.exposes(n) and not n.internal for h, n in ((host, network), (far_host, far)))


async def ping(lab: Lab, count: int = 3, interval: float = 0.2, timeout: float = 1.0) -> list[Tally]:
    """Ping every pair `count` times, all pairs side by side; seconds. LabError if a container isn't running."""
    async with _Prober(lab) as prober:
        return await prober.measure(pairs(lab.topology), count, interval, timeout)


async def settle(lab: Lab, patience: float) -> float | None:
    """Wait until every pair answers; seconds that it took, or None if they don't within `patience`."""
    begun = time.monotonic()
    async with _Prober(lab) as prober:
        missing = pairs(lab.topology)
        while missing:
            tallies = await prober.measure(missing, 1, 0.0, 0.2)
            missing = tuple(tally.pair for tally in tallies if not tally.ok)
            if missing and time.monotonic() - begun > patience:
                return None
    return time.monotonic() - begun


class _Prober:
    """Sends echo requests from every container of a lab and matches what comes back."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        """(`host/container`, IP version) → a raw socket there."""
        self._identifier = 0
        self._sequence = 0
        self._waiting: dict[tuple[str, int, int], tuple[Tally, int]] = {}
        """(source, IP version, sequence) → whose it is, and when it was sent (nanoseconds since 1970)."""
        self._all_in = asyncio.Event()

    async def __aenter__(self) -> _Prober:
        try:
            for host in self._lab.hosts:
                for _, container in host.host.containers():
                    space = await self._lab.container_namespace(host, container)
                    self._open(label(host.host, container), container, space)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _open(self, source: str, container: Container, space: Path) -> None:
        for version in {address.version for address in container.addresses}:
            family, protocol = PROTOCOL[version]
            sock = netns.socket_in(space, family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._sockets[source, version] = sock
            asyncio.get_running_loop().add_reader(sock, self._receive, source, version, sock)

    def _close(self) -> None:
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    async def measure(self, wanted: tuple[Pair, ...], count: int, interval: float, timeout: float) -> list[Tally]:
        # A flow of its own each time: a firewall treats all of one as it did its first packet (NAT).
        self._identifier = int.from_bytes(os.urandom(2), "big")
        tallies = [Tally(pair) for pair in wanted]
        for round_number in range(count):
            if round_number:
                await asyncio.sleep(interval)
            for number, tally in enumerate(tallies):
                self._send(tally)
                if number % BURST == BURST - 1:
                    await asyncio.sleep(0)
        self._check()
        try:
            async with asyncio.timeout(timeout):
                await self._all_in.wait()
        except TimeoutError:
            self._waiting.clear()  # lost; an answer that comes later is for nobody
        return tallies

    def _send(self, tally: Tally) -> None:
        pair, version = tally.pair, tally.pair.address.version
        self._sequence = (self._sequence + 1) & 0xFFFF
        tally.sent += 1
        self._all_in.clear()
        octets = icmp.request(version, self._identifier, self._sequence)
        self._waiting[pair.source, version, self._sequence] = (tally, time.time_ns())
        try:
            self._sockets[pair.source, version].sendto(octets, (str(pair.address), 0))
        except OSError as error:
            del self._waiting[pair.source, version, self._sequence]
            tally.refusal = os.strerror(error.errno or errno.EIO).lower()

    def _receive(self, source: str, version: int, sock: socket.socket) -> None:
        for octets, arrived in _datagrams(sock):
            answer = icmp.answer(version, octets)
            if answer is None or answer.identifier != self._identifier:
                continue
            tally, sent = self._waiting.pop((source, version, answer.sequence), (None, 0))
            if tally is None:
                continue
            if answer.refusal:
                tally.refusal = answer.refusal
            else:
                tally.rtts.append((arrived - sent) / 1e6)
        self._check()

    def _check(self) -> None:
        if not self._waiting:
            self._all_in.set()


def _datagrams(sock: socket.socket) -> Iterator[tuple[bytes, int]]:
    """Everything that has arrived, and when (nanoseconds since 1970, by the kernel)."""
    while True:
        try:
            octets, ancillary, _, _ = sock.recvmsg(65535, socket.CMSG_SPACE(TIMESPEC.size))
        except OSError:  # nothing more to read, or the interface went down: a lost ping says so
            return
        arrived = time.time_ns()
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) == TIMESPEC.size:
                seconds, nanoseconds = TIMESPEC.unpack(data)
                arrived = seconds * 1_000_000_000 + nanoseconds
        yield octets, arrived
