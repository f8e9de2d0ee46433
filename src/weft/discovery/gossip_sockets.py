"""The sockets of one member: a UDP socket and a TCP listener at its address and port, and connections to others.

`discovery/gossip.py` opens an `Ends`, and opens others when the address changes. Every failure is a DiscoveryError, of
what came from another host a WireError. A table has its length before it: 4 octets, big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

from weft.core.swim_values import Address
from weft.errors import DiscoveryError, WireError
from weft.model import IPAddress
from weft.wire.table_sync import MOST

PATIENCE = 10.0
"""Seconds for one exchange of tables."""
CONNECTING = 2.0
_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33


class Ends:
    """Bound to this address and port, for both."""

    def __init__(self, source: IPAddress, port: int) -> None:
        self.source, self.port = source, port
        self._family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        with contextlib.ExitStack() as undo:
            try:
                self.datagrams = undo.enter_context(self._socket(socket.SOCK_DGRAM))
                _widen(self.datagrams)
                self.datagrams.bind((str(source), port))
                self.listener = undo.enter_context(self._socket(socket.SOCK_STREAM))
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a former run's connections
                self.listener.bind((str(source), port))
                self.listener.listen(64)
            except OSError as error:
                raise self._broken(error) from error
            undo.pop_all()

    def close(self) -> None:
        self.datagrams.close()
        self.listener.close()

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        opened = socket.socket(self._family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if self._family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return opened

    def send(self, datagram: bytes, to: Address) -> str:
        """Why it can't be sent there, or "". A full queue drops it, as any network may. DiscoveryError if the fault is
        this host's."""
        try:
            self.datagrams.sendto(datagram, (str(to.ip), to.port))
        except BlockingIOError:
            return ""
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOBUFS):
                self.check()
            return error.strerror or str(error)
        return ""

    def check(self) -> None:
        """DiscoveryError if the address is none of this host's any more."""
        try:
            with self._socket(socket.SOCK_DGRAM) as trial:
                trial.bind((str(self.source), 0))
        except OSError as error:
            raise self._broken(error) from error

    def receive(self, at_most: int) -> Iterator[tuple[bytes, Address]]:
        """What was heard, and from where; ends when there is no more."""
        for _ in range(at_most):
            try:
                datagram, (host, port, *_rest) = self.datagrams.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:  # nobody is where we sent something
                    continue
                raise self._broken(error) from error
            yield datagram, Address(socket.inet_pton(self._family, host.partition("%")[0]), port)

    @contextlib.asynccontextmanager
    async def connection(self, to: Address) -> AsyncIterator[Connection]:
        """To that member, from our own address. OSError or TimeoutError if it can't be had."""
        async with asyncio.timeout(CONNECTING):
            reader, writer = await asyncio.open_connection(str(to.ip), to.port, local_addr=(str(self.source), 0))
        connection = Connection(reader, writer)
        try:
            yield connection
        finally:
            await connection.close()

    def _broken(self, error: OSError) -> DiscoveryError:
        if error.errno == errno.EADDRNOTAVAIL:
            why = f"{self.source} is not an address of this host (any more)"
        elif error.errno == errno.EADDRINUSE:
            why = "another program has that port; give another DISCOVERY_PORT to one of them"
        else:
            why = error.strerror or str(error)
        return DiscoveryError(f"can't gossip at {Address(self.source.packed, self.port)}, UDP and TCP: {why}")


class Connection:
    """To another member, whichever end began."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, octets: bytes) -> None:
        self._writer.write(len(octets).to_bytes(4, "big") + octets)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """WireError if it is longer than any table, EOFError if it ends too early."""
        length = int.from_bytes(await self._reader.readexactly(4), "big")
        if length > MOST:
            raise WireError(f"a table of {length} octets is announced, and {MOST} is the limit")
        return await self._reader.readexactly(length)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _widen(opened: socket.socket) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:  # without CAP_NET_ADMIN there is net.core.rmem_max
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
