"""Datagrams of gossip: `core/swim_values.py`'s messages in octets and back. `wire/gossip_seal.py` wraps them.

Numbers are big-endian. A text or a payload has its length before it (one octet, or two for a payload).

    message   kind 1, seq 4 (not RUMOUR)
              1 PING      check 4, table 8
              2 ACK       3 NACK
              4 INDIRECT  address, check 4
              5 RUMOUR
              then updates until the end
    update    state and flags 1, id, incarnation 8
              SUSPECT, DEAD       by: text
              flag 0x10           address, digest 8
              flag 0x20           payload
    address   octets of the IP address 1 (4 or 16), the address, port 2
"""

from __future__ import annotations

import struct

from weft.core.swim_values import DIGEST, Ack, Address, Indirect, Message, Nack, Ping, Rumour, State, Update
from weft.errors import WireError
from weft.wire.gossip_seal import OVERHEAD
from weft.wire.texts import label

MOST = 1200
"""Octets of a datagram: no path of IPv6 or of a tunnel has to fragment it (RFC 8200, section 5: 1280)."""
ROOM = MOST - OVERHEAD - 36
"""For updates; the largest message without any, an INDIRECT over IPv6, takes 28."""

_PING, _ACK, _NACK, _INDIRECT, _RUMOUR = 1, 2, 3, 4, 5
_PLACED, _LADEN = 0x10, 0x20
_LAST = 2**63
_head = struct.Struct("!BI")
_ping = struct.Struct("!BIIQ")
_NAMES = {Ping: "PING", Ack: "ACK", Nack: "NACK", Indirect: "INDIRECT", Rumour: "RUMOUR"}


def name_of(message: Message) -> str:
    """For counters."""
    return _NAMES[type(message)]


def update_size(update: Update) -> int:
    """Octets that it takes in a datagram."""
    size = 10 + len(update.id.encode())
    if update.state in (State.SUSPECT, State.DEAD):
        size += 1 + len(update.by.encode())
    if update.address is not None:
        size += 3 + len(update.address.packed) + DIGEST
    return size if update.payload is None else size + 2 + len(update.payload)


def size(message: Message) -> int:
    """Octets of the datagram that carries it, sealed."""
    octets = OVERHEAD + sum(map(update_size, message.updates)) + 5
    if isinstance(message, Ping):
        return octets + 12
    if isinstance(message, Indirect):
        return octets + 7 + len(message.address.packed)
    return octets - 4 if isinstance(message, Rumour) else octets


def encode(message: Message) -> bytes:
    """A datagram's body."""
    if isinstance(message, Ping):
        head = _ping.pack(_PING, message.seq, message.check, message.table)
    elif isinstance(message, Indirect):
        head = _head.pack(_INDIRECT, message.seq) + _address(message.address) + struct.pack("!I", message.check)
    elif isinstance(message, Rumour):
        head = bytes((_RUMOUR,))
    else:
        head = _head.pack(_ACK if isinstance(message, Ack) else _NACK, message.seq)
    return head + b"".join(map(_update, message.updates)) if message.updates else head


def _address(address: Address) -> bytes:
    return bytes((len(address.packed),)) + address.packed + address.port.to_bytes(2, "big")


def _text(text: str) -> bytes:
    octets = text.encode()
    return bytes((len(octets),)) + octets


def _update(update: Update) -> bytes:
    flags = int(update.state)
    parts = [b"", _text(update.id), update.incarnation.to_bytes(8, "big")]
    if update.state in (State.SUSPECT, State.DEAD):
        parts.append(_text(update.by))
    if update.address is not None:
        flags |= _PLACED
        parts += [_address(update.address), update.digest.ljust(DIGEST, b"\0")]
    if update.payload is not None:
        flags |= _LADEN
        parts += [len(update.payload).to_bytes(2, "big"), update.payload]
    parts[0] = bytes((flags,))
    return b"".join(parts)


class _Reader:
    """Takes octets from the front; ValueError when there are too few."""

    def __init__(self, octets: bytes) -> None:
        self.octets, self.at = octets, 0

    def take(self, count: int) -> bytes:
        taken = self.octets[self.at : self.at + count]
        if len(taken) != count:
            raise ValueError(f"it ends {count - len(taken)} octets too early")
        self.at += count
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def text(self) -> str:
        return label(self.take(self.number(1)).decode())

    def address(self) -> Address:
        length = self.number(1)
        if length not in (4, 16):
            raise ValueError(f"no IP address has {length} octets")
        return checked(Address(self.take(length), self.number(2)))

    def update(self) -> Update:
        flags = self.number(1)
        state = State(flags & 0x0F)
        if flags & ~(_PLACED | _LADEN | 0x0F):
            raise ValueError(f"unknown flags {flags:#x}")
        name, incarnation = self.text(), self.number(8)
        if incarnation >= _LAST:
            raise ValueError("an incarnation that nobody could contradict")
        by = self.text() if state in (State.SUSPECT, State.DEAD) else ""
        address, digest = (self.address(), self.take(DIGEST)) if flags & _PLACED else (None, b"")
        if state is State.ALIVE and address is None:
            raise ValueError("a member that is alive and nowhere")
        payload = self.take(self.number(2)) if flags & _LADEN else None
        return Update(state, name, incarnation, by, address, digest, payload)

    def updates(self) -> tuple[Update, ...]:
        updates = []
        while self.at < len(self.octets):
            updates.append(self.update())
        return tuple(updates)


def checked(address: Address) -> Address:
    """ValueError if no other host can be there."""
    ip = address.ip
    if not address.port or ip.is_multicast or ip.is_unspecified or address.packed == b"\xff\xff\xff\xff":
        raise ValueError(f"nobody can be at {address}")
    return address


def decode(body: bytes) -> Message:
    """Read a datagram's body; WireError if it is anything but one message with sound values."""
    try:
        return _decode(_Reader(body))
    except ValueError as error:
        raise WireError(f"a datagram of {len(body)} octets is no gossip: {error}") from error


def _decode(reader: _Reader) -> Message:
    kind = reader.number(1)
    if kind == _RUMOUR:
        return Rumour(reader.updates())
    seq = reader.number(4)
    if kind == _PING:
        return Ping(seq, reader.number(4), reader.number(8), reader.updates())
    if kind == _ACK:
        return Ack(seq, reader.updates())
    if kind == _NACK:
        return Nack(seq, reader.updates())
    if kind == _INDIRECT:
        return Indirect(seq, reader.address(), reader.number(4), reader.updates())
    raise ValueError(f"unknown kind {kind}")
