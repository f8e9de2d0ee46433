"""BFD control packets (RFC 5880 §4) as values: what two ends of a path send each other to know that it works.

`core/bfd.py` speaks with them, `agent/prober.py` carries them in UDP to port 4784 (RFC 5883). What follows a packet in
its datagram is padding (RFC 9764), which tells how large a packet gets through.

     0                   1                   2                   3
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    |                       My Discriminator                        |
    |                      Your Discriminator                       |
    |                    Desired Min TX Interval                    |    microseconds
    |                   Required Min RX Interval                    |
    |                 Required Min Echo RX Interval                 |
    |   Auth Type   |   Auth Len    |    Authentication Data...     |
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from weft.errors import WireError

PORT = 4784
"""UDP port of multihop sessions (RFC 5883 §8)."""
SIZE = 24
"""Octets of a packet without authentication."""

_VERSION = 1
_HEAD = struct.Struct("!BBBBIIIII")
_SEQUENCED = struct.Struct("!BBBBI")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(IntEnum):
    """Of a session, RFC 5880 §4.1 (Sta)."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why a session last left Up, RFC 5880 §4.1 (Diag). 9 to 31 are reserved, and read as they are."""

    NONE = 0
    TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOUR_DOWN = 3
    FORWARDING_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


class AuthKind(IntEnum):
    """RFC 5880 §4.1 (Auth Type). Of the meticulous kinds, every packet has a sequence number of its own."""

    PASSWORD = 1
    MD5 = 2
    METICULOUS_MD5 = 3
    SHA1 = 4
    METICULOUS_SHA1 = 5


_HASHES = {
    AuthKind.MD5: ("md5", 16),
    AuthKind.METICULOUS_MD5: ("md5", 16),
    AuthKind.SHA1: ("sha1", 20),
    AuthKind.METICULOUS_SHA1: ("sha1", 20),
}


@dataclass(frozen=True, slots=True)
class Auth:
    """The authentication section. `proof`: the password (1 to 16 octets), or the digest; empty in what is yet to be
    sealed. A password has no `sequence`."""

    kind: AuthKind
    key_id: int = 0
    sequence: int = 0
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class Packet:
    """One control packet. `mine`, `yours`: discriminators, of 32 bits. Intervals in microseconds."""

    state: State
    mine: int
    yours: int
    desired_tx: int
    required_rx: int
    multiplier: int = 3
    diagnostic: int = Diagnostic.NONE
    required_echo_rx: int = 0
    poll: bool = False
    final: bool = False
    independent: bool = False
    demand: bool = False
    auth: Auth | None = None


def encode(packet: Packet, key: bytes = b"") -> bytes:
    """The packet's octets; with `auth`, sealed with `key` (the password itself, or up to 16 octets for MD5 and 20 for
    SHA1)."""
    section = _section(packet.auth, key) if packet.auth else b""
    flags = (
        packet.state << 6
        | packet.poll * _POLL
        | packet.final * _FINAL
        | packet.independent * _INDEPENDENT
        | bool(section) * _AUTHENTICATED
        | packet.demand * _DEMAND
    )
    head = _HEAD.pack(
        _VERSION << 5 | packet.diagnostic,
        flags,
        packet.multiplier,
        SIZE + len(section),
        packet.mine,
        packet.yours,
        packet.desired_tx,
        packet.required_rx,
        packet.required_echo_rx,
    )
    if packet.auth is None or packet.auth.kind == AuthKind.PASSWORD:
        return head + section
    name, size = _HASHES[packet.auth.kind]
    digest = hashlib.new(name, head + section, usedforsecurity=False).digest()
    return (head + section)[:-size] + digest


def _section(auth: Auth, key: bytes) -> bytes:
    """The authentication section with the key where the digest goes: what the digest is made of (RFC 5880 §6.7)."""
    if auth.kind == AuthKind.PASSWORD:
        return bytes((auth.kind, 3 + len(key), auth.key_id)) + key
    _, size = _HASHES[auth.kind]
    return _SEQUENCED.pack(auth.kind, 8 + size, auth.key_id, 0, auth.sequence) + key.ljust(size, b"\0")


def decode(datagram: bytes) -> Packet:
    """Read a datagram. WireError for what RFC 5880 §6.8.6 discards whatever the session; not looked at yet is who sent
    it, and whether its authentication is genuine (`genuine`)."""
    if len(datagram) < SIZE:
        raise WireError(f"a BFD packet has {SIZE} octets or more, this has {len(datagram)}")
    first, flags, multiplier, length, mine, yours, desired_tx, required_rx, echo = _HEAD.unpack_from(datagram)
    if first >> 5 != _VERSION:
        raise WireError(f"BFD version {first >> 5} is not spoken here, only version {_VERSION}")
    if not SIZE <= length <= len(datagram):
        raise WireError(f"a BFD packet of {len(datagram)} octets can't have the length {length}")
    if not multiplier:
        raise WireError("a BFD packet's detection multiplier is never 0")
    if flags & _MULTIPOINT:
        raise WireError("multipoint BFD (RFC 8562) is not spoken here")
    if flags & _POLL and flags & _FINAL:
        raise WireError("a BFD packet is never both a poll and its answer")
    if not mine:
        raise WireError("a BFD packet's own discriminator is never 0")
    state = State(flags >> 6)
    if not yours and state > State.DOWN:
        raise WireError(f"a BFD session that is {state.name} knows the discriminator of its other end, which is 0 here")
    return Packet(
        state,
        mine,
        yours,
        desired_tx,
        required_rx,
        multiplier,
        first & 0x1F,
        echo,
        bool(flags & _POLL),
        bool(flags & _FINAL),
        bool(flags & _INDEPENDENT),
        bool(flags & _DEMAND),
        _read_auth(bytes(datagram[SIZE:length])) if flags & _AUTHENTICATED else None,
    )


def _read_auth(section: bytes) -> Auth:
    if len(section) < 2 or not 2 < section[1] <= len(section):
        raise WireError(f"a BFD authentication section of {len(section)} octets is cut off")
    if not AuthKind.PASSWORD <= section[0] <= AuthKind.METICULOUS_SHA1:
        raise WireError(f"BFD authentication of type {section[0]} is not known here")
    kind, length = AuthKind(section[0]), section[1]
    if kind == AuthKind.PASSWORD:
        if not 4 <= length <= 19:
            raise WireError(f"a BFD password has 1 to 16 octets, this section has {length - 3}")
        return Auth(kind, section[2], 0, section[3:length])
    _, size = _HASHES[kind]
    if length != 8 + size:
        raise WireError(f"BFD authentication of type {kind.name} has {8 + size} octets, this section has {length}")
    _, _, key_id, _, sequence = _SEQUENCED.unpack_from(section)
    return Auth(kind, key_id, sequence, section[8:length])


def genuine(datagram: bytes, packet: Packet, key: bytes) -> bool:
    """Whether the sender of the datagram, which reads as `packet`, knows the key. False for one without any proof."""
    if packet.auth is None:
        return False
    if packet.auth.kind == AuthKind.PASSWORD:
        return hmac.compare_digest(packet.auth.proof, key)
    name, size = _HASHES[packet.auth.kind]
    covered = bytes(datagram[: SIZE + 8]) + key.ljust(size, b"\0") + bytes(datagram[SIZE + 8 + size : datagram[3]])
    return hmac.compare_digest(packet.auth.proof, hashlib.new(name, covered, usedforsecurity=False).digest())


SEALED_HEAD = SIZE + 4
"""Octets of a packet with keyed SHA1 before its sequence number: with the same ones it says the same."""
_SEALED = SIZE + 28


def reseal(sealed: bytes, sequence: int, key: bytes) -> bytes:
    """The same packet, of keyed SHA1, with another sequence number: what `encode` would make, for less."""
    covered = sealed[:SEALED_HEAD] + sequence.to_bytes(4, "big")
    return covered + hashlib.sha1(covered + key.ljust(20, b"\0"), usedforsecurity=False).digest()


def resealed(datagram: bytes, key: bytes) -> int | None:
    """The sequence number of a packet of keyed SHA1 without padding, None if the key did not seal it: what `genuine`
    would say, for less. The head is the caller's to know."""
    if len(datagram) != _SEALED:
        return None
    sequence = int.from_bytes(datagram[SEALED_HEAD : SEALED_HEAD + 4], "big")
    return sequence if hmac.compare_digest(reseal(datagram, sequence, key), datagram) else None
