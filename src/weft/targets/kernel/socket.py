"""Netlink sockets: one for requests, one for dumps, one to listen on. Used by the kernel target and the host facts.

Three sockets, because a second dump on a socket where one runs is EBUSY, and because an unread listener overflows.
The kernel carries a request out inside send(): when that returns, every answer is there to be read. So a request takes
no waiting, and the messages of one send can't be torn apart by the end of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence

from weft.errors import KernelError, TargetError
from weft.targets.kernel.codec import U32, Answer, Message, align, answer, messages, request
from weft.targets.kernel.constants import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    SO_ATTACH_FILTER,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SOL_NETLINK,
)
from weft.targets.kernel.netns import inside

BATCH = 250
"""Messages per send: full speed, under 1 ms, and even as many failures fit the buffer for answers."""
SEND_BUFFER = 1 << 18
ANSWER_BUFFER = 1 << 20
DUMP_BUFFER = 1 << 18
LISTEN_BUFFER = 1 << 23
RECEIVE = 1 << 16
"""Octets for one recv(): the kernel fills a dump's buffer up to 32 KiB."""
BUFFERS_A_SLICE = 8
"""A dump lets the event loop run after this many buffers: about 2,000 objects."""
LAST_NUMBER = 0xFFFFFFFF
_FLAGS = struct.Struct("=H")
_KIND = struct.Struct("=H")
_SEQUENCE = struct.Struct("=I")
_DONE = struct.Struct("=IHHIIi")
"""nlmsghdr and the outcome of the dump, negative for an error."""
_FPROG = struct.Struct("@HP")
"""sock_fprog (filter.h): number of instructions, where they are."""


class NetlinkSocket:
    """One NETLINK_ROUTE socket in the network namespace `netns` (a path; None: the current one). Raises TargetError
    without CAP_NET_ADMIN there, unless this one `reads_only`: its buffer is then as large as an ordinary user's may
    be."""

    def __init__(
        self, netns: str | None, receive_buffer: int, groups: Iterable[int] = (), reads_only: bool = False
    ) -> None:
        self._next_number = 1
        self._socket = inside(netns, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        except PermissionError as error:
            if reads_only:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            else:
                self._socket.close()
                text = "this needs CAP_NET_ADMIN in the network namespace: run it as root"
                raise TargetError(text) from error
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        with contextlib.suppress(OSError):  # Linux before 4.20: filters are then not checked, and ours check again
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        for group in groups:  # after bind(), which sets the groups too
            with contextlib.suppress(OSError):  # Linux before 5.3 has no group of next-hop objects, nor those
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._socket.setblocking(False)

    @property
    def port(self) -> int:
        """The kernel's name for this socket: what a notification holds that a request of this socket caused."""
        port: int = self._socket.getsockname()[0]
        return port

    def fileno(self) -> int:
        """For the event loop's `add_reader`."""
        return self._socket.fileno()

    def close(self) -> None:
        """The kernel forgets what was not received."""
        self._socket.close()

    def receive(self) -> bytes | None:
        """What one recv() gives; None if there is nothing. Raises KernelError ENOBUFS once messages were lost."""
        try:
            return self._socket.recv(RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise KernelError(error.errno or 0, "reading netlink messages") from error

    def waiting(self) -> Iterator[bytes]:
        """Everything that is there to be received. Raises KernelError ENOBUFS once messages were lost."""
        receive = self._socket.recv
        try:
            while True:
                yield receive(RECEIVE)
        except BlockingIOError:
            return
        except OSError as error:
            raise KernelError(error.errno or 0, "reading notifications") from error

    def attach_filter(self, program: bytes, length: int) -> None:
        """Attach a classic BPF program of `length` instructions: what it drops is never queued."""
        held = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FPROG.pack(length, ctypes.addressof(held)))

    def number(self, count: int) -> int:
        """The first of `count` sequence numbers that no other request of this socket has: what is left of an answer to
        an earlier one (after ENOBUFS, say) is recognised as that, and passed over."""
        first = self._next_number if self._next_number + count <= LAST_NUMBER else 1
        self._next_number = first + count
        return first

    def send(self, parts: Sequence[bytes], first: int, last: int) -> list[Answer]:
        """Send whole messages as one, of the sequence numbers from `first` to `last`; ask for an answer to the last one
        only: each message that fails answers anyway. Returns the failures. Raises KernelError if answers were lost."""
        data = bytearray(b"".join(parts))
        at = _last_message(data, len(data) - len(parts[-1])) + 6
        _FLAGS.pack_into(data, at, _FLAGS.unpack_from(data, at)[0] | NLM_F_ACK)
        self._socket.send(data)
        failures: list[Answer] = []
        with self._tidy():
            while True:
                for message in messages(self._answer("the answers to a batch of requests")):
                    if message.kind != NLMSG_ERROR or not first <= message.sequence <= last:
                        continue
                    told = answer(message)
                    if told.number:
                        failures.append(told)
                    if told.sequence == last:
                        return failures

    def ask(self, kind: int, body: bytes) -> Message:
        """Ask for one object. Raises KernelError if the kernel has none."""
        sequence = self.number(1)
        self._socket.send(request(kind, 0, sequence, body))
        with self._tidy():
            while True:
                for message in messages(self._answer("one object")):
                    if message.sequence != sequence:
                        continue
                    if message.kind != NLMSG_ERROR:
                        return message
                    told = answer(message)
                    raise KernelError(told.number, "asking for one object", told.text)

    def ask_all(self, kind: int, bodies: Sequence[bytes]) -> list[Message | Answer]:
        """Ask for an object with each of these, in one send(): the object, or how the kernel answered instead. No more
        than BATCH, so that the answers fit. Raises KernelError if answers were lost."""
        first = self.number(len(bodies))
        self._socket.send(b"".join([request(kind, 0, first + at, body) for at, body in enumerate(bodies)]))
        found: dict[int, Message | Answer] = {}
        with self._tidy():
            while len(found) < len(bodies):
                for message in messages(self._answer("objects")):
                    at = message.sequence - first
                    if 0 <= at < len(bodies):
                        found[at] = answer(message) if message.kind == NLMSG_ERROR else message
        return [found[at] for at in range(len(bodies))]

    def buffers(self, kind: int, body: bytes) -> Generator[bytes, None, None]:
        """All objects of a kind, as the buffers that recv() gave, without the end mark. Raises KernelError if the
        kernel refuses. The caller looks for NLM_F_DUMP_INTR (`complete` below)."""
        sequence = self.number(1)
        self._socket.send(request(kind, NLM_F_DUMP, sequence, body))
        with self._tidy():
            while True:
                received = self._answer("a dump")
                if _SEQUENCE.unpack_from(received, 8)[0] != sequence:
                    continue
                if _ends(received):
                    yield received[: -_DONE.size]
                    return
                if _KIND.unpack_from(received, 4)[0] in (NLMSG_ERROR, NLMSG_DONE):
                    told = answer(next(messages(received)))
                    if not told.number:
                        return
                    raise KernelError(told.number, "asking for a dump", told.text)
                yield received

    def _answer(self, to: str) -> bytes:
        """The next thing that is there. Raises KernelError if there is nothing: the kernel answers inside send()."""
        received = self.receive()
        if received is None:
            raise KernelError(errno.EAGAIN, f"reading {to}")
        return received

    @contextlib.contextmanager
    def _tidy(self) -> Iterator[None]:
        """If what is done inside ends early (an error, a dump that nobody reads to its end), nothing of it stays
        behind: the kernel refuses a dump while another is unfinished, and a full queue loses the next answers too."""
        try:
            yield
        except BaseException:
            self._drain()
            raise

    def _drain(self) -> None:
        while True:
            try:
                if self.receive() is None:
                    return
            except KernelError as error:
                if error.number != errno.ENOBUFS:
                    return  # the socket is closed or broken; what led here says more

    async def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The same, all at once; the event loop runs in between."""
        buffers: list[bytes] = []
        for buffer in self.buffers(kind, body):
            buffers.append(buffer)
            if len(buffers) % BUFFERS_A_SLICE == 0:
                await asyncio.sleep(0)
        return buffers


class DumpInterrupted(TargetError):
    """The kernel's table changed while it was dumped: some object may be missing or twice in what came."""


def complete(buffer: bytes) -> Iterator[Message]:
    """The messages of one of a dump's buffers. Raises DumpInterrupted."""
    for message in messages(buffer):
        if message.flags & NLM_F_DUMP_INTR:
            raise DumpInterrupted("a kernel table changed while it was read")
        yield message


def _ends(buffer: bytes) -> bool:
    """The last message is NLMSG_DONE: 20 octets. It is longer, and alone, where an error text comes with it."""
    at = len(buffer) - _DONE.size
    if at < 0:
        return False
    length, kind, flags, _, _, code = _DONE.unpack_from(buffer, at)
    if length != _DONE.size or kind != NLMSG_DONE:
        return False
    if code:
        raise KernelError(-code, "reading a dump")
    if flags & NLM_F_DUMP_INTR:
        raise DumpInterrupted("a kernel table changed while it was read")
    return True


def _last_message(data: bytes | bytearray, at: int) -> int:
    """Where the last message starts that begins at or after `at`."""
    while True:
        following = at + align(U32.unpack_from(data, at)[0])
        if following >= len(data):
            return at
        at = following
