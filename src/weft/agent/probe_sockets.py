"""The sockets of probing: an ear for each place where packets arrive, a mouth for each path. Used by `agent/prober.py`.

A tunnel's are bound to its device, so what they hear came through the tunnel, and what they say goes into it. A mouth
is connected: the kernel then tells what the other host answers to it ("port unreachable"), and looks routes up less.
Where a tunnel is probed between the underlay's own addresses, that answer comes by the underlay, to a second socket.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from weft.core.probing import Track
from weft.model import IPAddress
from weft.wire.bfd import PORT

SOURCE_PORTS = (49152, 65535)
"""RFC 5881 §4, which RFC 5883 keeps."""
AT_MOST = 2048
"""Datagrams that are read in one go: a flood is not to keep us from judging and sending."""
_TRIES = 16
_BUFFER = bytearray(65536)
_VIEW = memoryview(_BUFFER)
_NETWORK_CONTROL = 0xC0  # DSCP CS6: queues that hold other packets up are to let these by
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3  # linux/in.h
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE, _IPV6_DONTFRAG = 23, 3, 62  # linux/in6.h
_IP_PKTINFO = 8
_PKTINFO_SPACE = 64


def _open(track: Track) -> socket.socket:
    family = socket.AF_INET if track.local.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if track.device:
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, track.device.encode() + b"\0")
        except OSError:
            made.close()
            raise
    return made


def _place(address: IPAddress, port: int, device: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """As the socket module wants it."""
    if address.version == 4:
        return str(address), port
    return str(address), port, 0, socket.if_nametoindex(device) if address.is_link_local and device else 0


class Ear:
    """Hears what comes to `local`, port 4784, through `device`. OSError if it can't."""

    def __init__(self, track: Track) -> None:
        self.socket = _open(track)
        self.tunnels: frozenset[int] = frozenset()
        """Interface indexes of the devices that have ears of their own for the same address."""
        self._bound = bool(track.device)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one per device, on the same port
            if not self._bound:
                level, option = (socket.SOL_IP, _IP_PKTINFO)
                if track.local.version == 6:
                    level, option = (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
                self.socket.setsockopt(level, option, 1)
            self.socket.bind(_place(track.local, PORT, track.device))
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def datagrams(self) -> Iterator[tuple[bytes, str]]:
        """All that has come, each with the text of its sender's address. An ear of no device leaves out what came
        through one of `tunnels`."""
        receive = self._any if self._bound else self._outside
        for _ in range(AT_MOST):
            try:
                heard = receive()
            except OSError:  # nothing more is there; or the device went, which `Prober` sees for itself
                return
            if heard is not None:
                yield heard

    def _any(self) -> tuple[bytes, str]:
        size, source = self.socket.recvfrom_into(_BUFFER)
        return bytes(_VIEW[:size]), source[0] if len(source) == 2 else source[0].partition("%")[0]

    def _outside(self) -> tuple[bytes, str] | None:
        size, extra, _, source = self.socket.recvmsg_into([_BUFFER], _PKTINFO_SPACE)
        if any(_arrived_on(level, data) in self.tunnels for level, _, data in extra):
            return None
        return bytes(_VIEW[:size]), source[0].partition("%")[0]


def _arrived_on(level: int, data: bytes) -> int:
    """The interface index in struct in_pktinfo (its first word) or in6_pktinfo (behind the address)."""
    return int(struct.unpack_from("=i", data, 0 if level == socket.SOL_IP else 16)[0])


class Mouth:
    """Speaks to the other end of one path, unfragmented whatever the size. OSError if it can't."""

    def __init__(self, track: Track, rng: random.Random) -> None:
        self.socket = _open(track)
        self._answers: socket.socket | None = None
        try:
            self._set(track.local.version)
            self._bind(track, rng)
            self.socket.connect(_place(track.remote, PORT, track.device))
        except OSError:
            self.socket.close()
            raise
        if track.device and not track.remote.is_link_local:
            with contextlib.suppress(OSError):  # without it, a host without weft is taken for a cut
                self._answers = self._elsewhere(track)

    def close(self) -> None:
        self.socket.close()
        if self._answers is not None:
            self._answers.close()

    def _elsewhere(self, track: Track) -> socket.socket:
        """Of no device, and of the same ends: the kernel tells it what comes back by another way than the tunnel."""
        made = _open(replace(track, device=""))
        try:
            for one in (made, self.socket):  # ours shares its port from now on, and with no other mouth
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(self.socket.getsockname())
            made.connect(_place(track.remote, PORT, ""))
        except OSError:
            made.close()
            raise
        return made

    def _is_refused_elsewhere(self) -> bool:
        answers = self._answers
        return answers is not None and answers.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

    def _set(self, version: int) -> None:
        options = [
            (socket.SOL_IP, socket.IP_TTL, 255),
            (socket.SOL_IP, socket.IP_TOS, _NETWORK_CONTROL),
            (socket.SOL_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE),
        ]
        if version == 6:
            options = [
                (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255),
                (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _NETWORK_CONTROL),
                (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE),
                (socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1),
            ]
        for level, option, value in options:
            self.socket.setsockopt(level, option, value)

    def _bind(self, track: Track, rng: random.Random) -> None:
        for left in reversed(range(_TRIES)):
            try:
                return self.socket.bind(_place(track.local, rng.randint(*SOURCE_PORTS), track.device))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not left:
                    raise

    def say(self, datagram: bytes) -> bool:
        """Send it. OSError if this host can't; a full queue drops it, as any network may. What the kernel still had to
        tell about earlier ones comes as an error too, so it is tried twice. False: it was that nobody listens there."""
        try:
            self.socket.send(datagram)
        except BlockingIOError:
            return True
        except OSError as error:
            self._again(datagram)
            return error.errno != errno.ECONNREFUSED
        return not self._is_refused_elsewhere()

    def _again(self, datagram: bytes) -> None:
        try:
            self.socket.send(datagram)
        except (BlockingIOError, ConnectionRefusedError):
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def explained(error: OSError, track: Track) -> str:
    """What the error means on this path, for people."""
    if error.errno in (errno.ENODEV, errno.ENXIO) or error.errno is None:
        return f"there is no interface {track.device} here"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{track.local} is not an address of this host"
    if error.errno == errno.EADDRINUSE:
        return f"another program here listens at {track.local}, UDP port {PORT}, and shares it with nobody"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"not allowed: to send to {track}, UDP port {PORT} (a firewall here, or CAP_NET_RAW is missing)"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return f"this host has no way to {track}: {error.strerror}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "this process may open no more sockets (RLIMIT_NOFILE): each probed path needs two"
    return f"can't send to {track}: {error.strerror}"
