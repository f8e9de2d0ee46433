"""Netlink framing: headers, attributes, acknowledgements. Used by the codec modules beside this one and the sockets.

A netlink message (netlink.h) is a header of 16 octets, a fixed part for its type, and attributes: each a length and a
type of 16 bits, a value, and padding to 4 octets; all in the byte order of the machine. Whatever does not have that
form raises NetlinkDecodeError, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from weft.errors import NetlinkDecodeError
from weft.model import IPAddress
from weft.targets.kernel.constants import (
    NLA_F_NESTED,
    NLA_TYPE_MASK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSGERR_ATTR_MSG,
)

HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length with the header, type, flags, sequence number, port of the requester."""
ATTRIBUTE = struct.Struct("=HH")
"""nlattr: length with this header, type."""
U32 = struct.Struct("=I")
_START = struct.Struct("=IHH")
_ERROR = struct.Struct("=i")


class Message(NamedTuple):
    """One message: its type, flags and sequence number, and what follows the header."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


class Answer(NamedTuple):
    """How the kernel answered the request of this sequence number: 0 or an errno, and its own words (EXT_ACK)."""

    sequence: int
    number: int
    text: str


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn what goes wrong inside while `what` is decoded into NetlinkDecodeError."""
    try:
        yield
    except (struct.error, ValueError, KeyError) as error:
        raise NetlinkDecodeError(f"{what} from the kernel can't be read: {error}") from error


def align(length: int) -> int:
    """Octets with padding: the next multiple of 4."""
    return (length + 3) & ~3


def start(length: int, kind: int, flags: int) -> bytes:
    """The first 8 octets of a request of `length` octets with its header; the sequence number and port follow."""
    return _START.pack(length, kind, flags | NLM_F_REQUEST)


def request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole request."""
    return HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(align(length) - length)


def u32(kind: int, value: int) -> bytes:
    """One attribute of 32 bits."""
    return attribute(kind, U32.pack(value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """One attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string as the kernel has them, with a zero octet at its end."""
    return attribute(kind, value.encode() + b"\0")


def messages(data: bytes) -> Iterator[Message]:
    """Cut what one recv() gave into messages."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < HEADER.size:
            raise NetlinkDecodeError(f"{end - offset} octets from the kernel are less than a netlink header")
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= end - offset:
            raise NetlinkDecodeError(f"a netlink message says it has {length} octets; {end - offset} came")
        yield Message(kind, flags, sequence, port, data[offset + HEADER.size : offset + length])
        offset += align(length)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes from `offset` to the end, by type. Of two with one type, the last holds."""
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = ATTRIBUTE.unpack_from
    while end - offset >= 4:
        length, kind = unpack(data, offset)
        if not 4 <= length <= end - offset:
            raise NetlinkDecodeError(f"attribute {kind} says it has {length} octets; {end - offset} are left")
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(value: bytes) -> int:
    """An attribute of 32 bits."""
    result: int = U32.unpack(value)[0]
    return result


def string(value: bytes) -> str:
    """An attribute that is a string, with or without its zero octet; ValueError if it isn't UTF-8."""
    return value.rstrip(b"\0").decode()


def address(packed: bytes) -> IPAddress:
    """4 octets are IPv4, 16 are IPv6; ValueError for any other length."""
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed)


def answer(message: Message) -> Answer:
    """Decode an NLMSG_ERROR or NLMSG_DONE. Both begin with the errno (negative). In an error the request's header
    follows, with NETLINK_CAP_ACK without the rest of the request; then, with NETLINK_EXT_ACK, in both the attributes
    (netlink.h, struct nlmsgerr; af_netlink.c, netlink_dump_done)."""
    body = message.body
    with decoding("an acknowledgement"):
        errno = -_ERROR.unpack_from(body)[0]
        said = ""
        if message.flags & NLM_F_ACK_TLVS:
            offset = 4
            if message.kind == NLMSG_ERROR:
                offset = 20 if message.flags & NLM_F_CAPPED else 4 + align(HEADER.unpack_from(body, 4)[0])
            said = string(attributes(body, offset).get(NLMSGERR_ATTR_MSG, b""))
        return Answer(message.sequence, errno, said)
