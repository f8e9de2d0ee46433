"""The sockets of one multicast group on one interface, and the watch over that interface.

`discovery/multicast.py` opens a `Group`, and opens another one when this one breaks. Every failure is a
DiscoveryError that says what is wrong with the interface. Constants: <linux/in.h>, <linux/in6.h>, <linux/if.h>,
<linux/rtnetlink.h>.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

from weft.discovery.options import MulticastSettings
from weft.errors import DiscoveryError
from weft.model import IPAddress

MAX_PAYLOAD = 1400
_HEADERS = {4: 28, 6: 48}
"""Octets of the IP and UDP headers."""
_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_IFF_RUNNING = 0x40

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100


_RELAY = b"weft-relay 1 "
"""Before a datagram that another program on this host hands on: this, its instance, a space, the source, a newline."""


class Group:
    """`ears` hears the group on this interface only; `mouth` sends from `source`, and hears what is sent there.

    Every program on this host that listens gets each datagram of the group. What is sent to this host alone, the kernel
    gives to one of them, which hands it on to the others (`hand_on`). Both options are set, so that programs that set
    one of them can listen beside this one (docs/discovery-multicast.md).
    """

    def __init__(self, settings: MulticastSettings, source: IPAddress) -> None:
        self._interface = settings.interface
        self._family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        self._group, self._port, self._source = settings.group, settings.port, source
        self._instance = settings.instance.encode()
        self._ttl = settings.ttl
        self._index = 0
        with contextlib.ExitStack() as undo:
            try:
                self._index = socket.if_nametoindex(self._interface)
                self.ears = undo.enter_context(self._socket())
                self.mouth = undo.enter_context(self._socket())
                self.check()
                self._join()
                self._aim()
            except OSError as error:
                raise self._broken(error) from error
            undo.pop_all()

    def close(self) -> None:
        self.ears.close()
        self.mouth.close()

    def _socket(self) -> socket.socket:
        opened = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return opened

    def _join(self) -> None:
        try:
            self.ears.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN there is net.core.rmem_max
            self.ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if self._family == socket.AF_INET:
            self.ears.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            self.ears.bind((str(self._group), self._port))
        else:
            self.ears.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with contextlib.suppress(OSError):  # Linux 4.20; before, groups joined by other programs are heard too
                self.ears.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            self.ears.bind((str(self._group), self._port, 0, self._index))
        self._member(socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)

    def _member(self, v4_option: int, v6_option: int) -> None:
        if self._family == socket.AF_INET:
            request = struct.pack("=4s4si", self._group.packed, bytes(4), self._index)  # ip_mreqn
            self.ears.setsockopt(socket.IPPROTO_IP, v4_option, request)
        else:
            request = struct.pack("=16si", self._group.packed, self._index)  # ipv6_mreq
            self.ears.setsockopt(socket.IPPROTO_IPV6, v6_option, request)

    def renew(self) -> None:
        """Leave the group and join it again, in case the interface has forgotten it: the socket isn't told."""
        try:
            with contextlib.suppress(OSError):  # it has
                self._member(socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)
            self._member(socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)
        except OSError as error:
            raise self._broken(error) from error

    def _aim(self) -> None:
        """All that is sent leaves through the interface, with our endpoint as its source."""
        if isinstance(self._source, IPv4Address):
            request = struct.pack("=4s4si", bytes(4), self._source.packed, self._index)
            self.mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            self.mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        else:
            self.mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
            self.mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        self._reach(self._ttl)
        self._bind_source(self.mouth, self._port)

    def _reach(self, ttl: int) -> None:
        """So many routers may carry what is sent to the group; 0: it does not leave this host."""
        if self._family == socket.AF_INET:
            self.mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        else:
            self.mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)

    def _bind_source(self, opened: socket.socket, port: int) -> None:
        """OSError (EADDRNOTAVAIL) if the source is no address of this host."""
        scope = (0, self._index if self._source.is_link_local else 0) if self._family == socket.AF_INET6 else ()
        opened.bind((str(self._source), port, *scope))

    # Using it. ------------------------------------------------------------------------------------------------

    def send(self, datagram: bytes) -> None:
        """To the group. DiscoveryError if the interface can't take it; a full queue drops it, as any network may."""
        try:
            self._send(datagram, self._group)
        except OSError as error:
            raise self._broken(error) from error

    def tell(self, datagram: bytes, host: IPAddress) -> str:
        """To one host. Why it can't be sent there, or "": that is no fault of the group."""
        try:
            self._send(datagram, host)
        except OSError as error:
            forbidden = error.errno in (errno.EPERM, errno.EACCES)
            hint = f"; a firewall on this host forbids sending to its UDP port {self._port}" if forbidden else ""
            return f"{error.strerror}{hint}"
        return ""

    def hand_on(self, datagram: bytes, source: IPAddress) -> None:
        """Let the other programs on this host hear what came from `source` to one of them alone. What is too long for
        that is nobody's who speaks this protocol."""
        try:
            self._reach(0)
            try:
                self._send(b"%b%b %b\n%b" % (_RELAY, self._instance, str(source).encode(), datagram), self._group)
            finally:
                self._reach(self._ttl)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise self._broken(error) from error

    def handed_on(self, datagram: bytes, source: IPAddress) -> tuple[bytes, IPAddress] | None:
        """What another program on this host handed on, and where it came from; None if it is nothing of the kind. An
        empty datagram: this program did."""
        head, _, body = datagram.partition(b"\n")
        if source != self._source or not head.startswith(_RELAY):
            return None
        instance, _, origin = head.removeprefix(_RELAY).rpartition(b" ")
        try:
            return (body if instance != self._instance else b""), _address(origin.decode())
        except ValueError:
            return None

    def _send(self, datagram: bytes, to: IPAddress) -> None:
        local = to.is_multicast or to.is_link_local
        target = (str(to), self._port) if to.version == 4 else (str(to), self._port, 0, self._index if local else 0)
        try:
            self.mouth.sendto(datagram, target)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    def receive(self, listener: socket.socket, at_most: int) -> Iterator[tuple[bytes, IPAddress]]:
        """What one of the two sockets has heard, with its source address; ends when there is no more."""
        for _ in range(at_most):
            try:
                datagram, source, *_ = listener.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:  # a host that we told directly does not listen
                    continue
                raise self._broken(error) from error
            yield datagram, _address(source[0])

    def check(self) -> None:
        """DiscoveryError unless this is still the interface, up, with a cable in it, and the source still ours."""
        try:
            if socket.if_nametoindex(self._interface) != self._index:
                raise DiscoveryError(f"{self._interface} is another interface than before")
            flags = self._ioctl(_SIOCGIFFLAGS) & 0xFFFF
            with self._socket() as trial:
                self._bind_source(trial, 0)
        except OSError as error:
            raise self._broken(error) from error
        if not flags & _IFF_UP:
            raise DiscoveryError(f"{self._interface} is down; set it up")
        if not flags & _IFF_RUNNING:
            raise DiscoveryError(f"{self._interface} has no carrier; look at its cable and its switch port")

    @property
    def limit(self) -> int:
        """Octets of a datagram that no link on the way has to fragment."""
        try:
            return min(MAX_PAYLOAD, self._ioctl(_SIOCGIFMTU) - _HEADERS[self._source.version])
        except OSError as error:
            raise self._broken(error) from error

    def _ioctl(self, request: int) -> int:
        """A number about the interface (struct ifreq)."""
        answer = fcntl.ioctl(self.mouth, request, struct.pack("16s16x8x", self._interface.encode()))
        return int(struct.unpack_from("=i", answer, 16)[0])

    def _broken(self, error: OSError) -> DiscoveryError:
        if error.errno == errno.EADDRNOTAVAIL:
            why = f"{self._source} is not an address of this host (any more)"
        elif error.errno in (None, errno.ENODEV, errno.ENXIO):  # None: as if_nametoindex says it
            why = "there is no such interface"
        elif error.errno in (errno.EPERM, errno.EACCES):
            why = f"a firewall on this host forbids sending to UDP port {self._port}"
        elif error.errno in (errno.ENETUNREACH, errno.ENETDOWN, errno.EINVAL):
            why = f"it is down, or {self._source} is not its address any more"
        else:
            why = error.strerror or str(error)
        return DiscoveryError(f"can't speak to {self._group} on {self._interface}: {why}")


def _address(text: str) -> IPAddress:
    return ip_address(text.partition("%")[0])


class InterfaceWatch:
    """Its socket becomes readable when the kernel tells of any link or address of this host: a hint to look."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

    def close(self) -> None:
        self.socket.close()

    def drain(self) -> None:
        """Read all that came, and look at none of it: `Group.check` asks for what is true now."""
        while True:
            try:
                self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more came than fits
                    raise
