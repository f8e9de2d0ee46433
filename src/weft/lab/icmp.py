"""ICMP echo for IPv4 (RFC 792) and IPv6 (RFC 4443): requests as octets, answers as values.

Pure; `matrix` sends and receives them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
UNREACHABLE = {4: 3, 6: 1}
REASONS = {
    4: {0: "network unreachable", 1: "host unreachable", 4: "fragmentation needed", 13: "administratively prohibited"},
    6: {0: "no route", 1: "administratively prohibited", 3: "address unreachable"},
}
IPV6_HEADER = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one echo request. `refusal` is empty for a reply, else why it did not arrive."""

    identifier: int
    sequence: int
    refusal: str = ""


def request(version: int, identifier: int, sequence: int, payload: bytes = b"weft lab ping") -> bytes:
    """An echo request. The kernel fills in IPv6's checksum, which covers addresses; IPv4's is ours to make."""
    kind = ECHO_REQUEST[version]
    bare = HEADER.pack(kind, 0, 0, identifier, sequence) + payload
    total = checksum(bare) if version == 4 else 0
    return HEADER.pack(kind, 0, total, identifier, sequence) + payload


def answer(version: int, packet: bytes) -> Answer | None:
    """What a raw socket received: an IPv4 packet with its header, or an ICMPv6 message. None: not about an echo."""
    message = packet[_ipv4_header(packet) :] if version == 4 else packet
    if len(message) < HEADER.size:
        return None
    kind, code, _, identifier, sequence = HEADER.unpack_from(message)
    if kind == ECHO_REPLY[version]:
        return Answer(identifier, sequence)
    if kind != UNREACHABLE[version]:
        return None
    quoted = message[HEADER.size :]  # the packet that could not be delivered
    inner = quoted[_ipv4_header(quoted) if version == 4 else IPV6_HEADER :]
    if len(inner) < HEADER.size or inner[0] != ECHO_REQUEST[version]:
        return None
    _, _, _, identifier, sequence = HEADER.unpack_from(inner)
    return Answer(identifier, sequence, REASONS[version].get(code, f"unreachable, code {code}"))


def checksum(octets: bytes) -> int:
    """The internet checksum (RFC 1071): the ones' complement of the ones' complement sum of 16-bit words."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4_header(packet: bytes) -> int:
    return (packet[0] & 0x0F) * 4 if packet else 0
