"""The kernel's notifications about netfilter rules: what is understood, and that nothing else breaks it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.targets.firewall_watch import Changed, Committed, decode

NEW_RULE, DELETE_RULE, NEW_ELEMENT, NEW_GENERATION = 6, 8, 12, 15
INET, INET6, NETDEV = 2, 10, 5


def message(kind: int, family: int, attributes: bytes = b"", subsystem: int = 10) -> bytes:
    body = struct.pack(">BBH", family, 0, 0) + attributes
    padding = bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), subsystem << 8 | kind, 0, 0, 0) + body + padding


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def generation(pid: int) -> bytes:
    told = attribute(1, struct.pack(">I", 7)) + attribute(2, struct.pack(">I", pid)) + attribute(3, b"iptables\0")
    return message(NEW_GENERATION, 0, told)


def test_a_transaction() -> None:
    datagram = message(NEW_RULE, INET, b"abc") + message(DELETE_RULE, INET6) + generation(4711)
    assert list(decode(datagram)) == [Changed(4), Changed(6), Committed(4711)]


def test_other_families_subsystems_and_set_elements_are_not_iptables() -> None:
    datagram = message(NEW_RULE, NETDEV) + message(NEW_ELEMENT, INET) + message(NEW_RULE, INET, subsystem=1)
    assert list(decode(datagram)) == []


@pytest.mark.parametrize("attributes", [b"", b"\x02\x00\x02\x00", attribute(2, b"x"), struct.pack("=HH", 8, 2)])
def test_a_generation_that_does_not_tell_its_process(attributes: bytes) -> None:
    assert list(decode(message(NEW_GENERATION, 0, attributes))) == [Committed(0)]


@pytest.mark.parametrize(
    "datagram", [b"x", message(NEW_RULE, INET)[:-1], struct.pack("=IHHII", 3, 0, 0, 0, 0) + bytes(4)]
)
def test_what_is_cut_off_is_an_error(datagram: bytes) -> None:
    with pytest.raises(ValueError, match="netfilter message"):
        list(decode(datagram))


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: generation(1) + tail)))
def test_random_bytes_raise_nothing_but_value_errors(datagram: bytes) -> None:
    with contextlib.suppress(ValueError):
        list(decode(datagram))
