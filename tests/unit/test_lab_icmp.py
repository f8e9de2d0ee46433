"""ICMP echo as octets. The oracle for the checksum is RFC 1071's own example."""

from __future__ import annotations

import struct

import pytest

from weft.lab import icmp
from weft.lab.icmp import Answer

IPV4_HEADER = bytes([0x45]) + bytes(19)
IPV4_OPTIONS = bytes([0x46]) + bytes(23)


def test_checksum_of_the_rfc_and_of_an_odd_length() -> None:
    assert icmp.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # RFC 1071, section 3
    assert icmp.checksum(b"\xff") == icmp.checksum(b"\xff\x00") == 0x00FF


def test_an_ipv4_request_sums_to_zero() -> None:
    request = icmp.request(4, 0x1234, 7)
    assert icmp.checksum(request) == 0
    assert request[:2] == b"\x08\x00"
    assert struct.unpack_from("!HH", request, 4) == (0x1234, 7)


@pytest.mark.parametrize("header", [IPV4_HEADER, IPV4_OPTIONS])
def test_an_ipv4_reply_is_read_behind_its_header(header: bytes) -> None:
    assert icmp.answer(4, header + icmp.HEADER.pack(0, 0, 0, 5, 6) + b"data") == Answer(5, 6)


def test_an_ipv6_reply_has_no_header() -> None:
    assert icmp.answer(6, icmp.HEADER.pack(129, 0, 0, 5, 6)) == Answer(5, 6)


@pytest.mark.parametrize(
    ("version", "packet", "why"),
    [
        (4, IPV4_HEADER + icmp.HEADER.pack(3, 1, 0, 0, 0) + IPV4_HEADER + icmp.request(4, 5, 6), "host unreachable"),
        (4, IPV4_HEADER + icmp.HEADER.pack(3, 9, 0, 0, 0) + IPV4_HEADER + icmp.request(4, 5, 6), "unreachable, code 9"),
        (6, icmp.HEADER.pack(1, 3, 0, 0, 0) + bytes(40) + icmp.request(6, 5, 6), "address unreachable"),
    ],
)
def test_an_unreachable_says_whose_request_it_was_and_why(version: int, packet: bytes, why: str) -> None:
    assert icmp.answer(version, packet) == Answer(5, 6, why)


@pytest.mark.parametrize(
    ("version", "packet"),
    [
        (4, b""),
        (4, IPV4_HEADER),
        (4, IPV4_HEADER + icmp.request(4, 5, 6)),
        (6, icmp.HEADER.pack(135, 0, 0, 0, 0)),
        (4, IPV4_HEADER + icmp.HEADER.pack(3, 1, 0, 0, 0)),
        (4, IPV4_HEADER + icmp.HEADER.pack(3, 1, 0, 0, 0) + IPV4_HEADER + b"\x11" * 8),
    ],
)
def test_what_is_not_about_an_echo_is_nothing(version: int, packet: bytes) -> None:
    assert icmp.answer(version, packet) is None
