"""The codec of BFD control packets: octets as RFC 5880 §4 draws them, and rubbish raises WireError only."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft.errors import WireError
from weft.wire.bfd import SIZE, Auth, AuthKind, Diagnostic, Packet, State, decode, encode, genuine

GOOD = Packet(State.UP, 0x01020304, 0x0A0B0C0D, 200_000, 300_000, 3, Diagnostic.NEIGHBOUR_DOWN, poll=True)
GOLDEN = bytes.fromhex("23e00318010203040a0b0c0d00030d40000493e000000000")
KEYS = {AuthKind.PASSWORD: 16, AuthKind.MD5: 16, AuthKind.METICULOUS_MD5: 16, AuthKind.SHA1: 20}

words = st.integers(0, 2**32 - 1)


@st.composite
def packets(draw: st.DrawFn) -> tuple[Packet, bytes]:
    """A packet that may be sent, and the key that it is sealed with."""
    state = draw(st.sampled_from(State))
    kind = draw(st.none() | st.sampled_from(AuthKind))
    poll = draw(st.booleans())
    key = b""
    auth = None
    if kind is not None:
        key = draw(st.binary(min_size=1, max_size=KEYS.get(kind, 20)))
        auth = Auth(kind, draw(st.integers(0, 255)), 0 if kind == AuthKind.PASSWORD else draw(words))
    packet = Packet(
        state,
        draw(st.integers(1, 2**32 - 1)),
        draw(words if state <= State.DOWN else st.integers(1, 2**32 - 1)),
        draw(words),
        draw(words),
        draw(st.integers(1, 255)),
        draw(st.integers(0, 31)),
        draw(words),
        poll,
        draw(st.booleans()) and not poll,
        draw(st.booleans()),
        draw(st.booleans()),
        auth,
    )
    return packet, key


def bare(packet: Packet) -> Packet:
    """Without the proof, which `encode` makes."""
    if packet.auth is None:
        return packet
    fields = {name: getattr(packet, name) for name in Packet.__slots__}
    return Packet(**{**fields, "auth": Auth(packet.auth.kind, packet.auth.key_id, packet.auth.sequence)})


def test_a_packet_is_laid_out_as_the_rfc_draws_it() -> None:
    assert encode(GOOD) == GOLDEN
    assert decode(GOLDEN) == GOOD
    assert not genuine(GOLDEN, GOOD, b"a key")


@given(packets(), st.integers(0, 64))
def test_what_goes_in_comes_out_whatever_padding_follows(made: tuple[Packet, bytes], padding: int) -> None:
    packet, key = made
    datagram = encode(packet, key) + bytes(padding)
    read = decode(datagram)
    assert bare(read) == packet
    assert genuine(datagram, read, key) is (packet.auth is not None)


@given(packets(), st.data())
def test_a_changed_octet_is_noticed_by_the_digest(made: tuple[Packet, bytes], data: st.DataObject) -> None:
    packet, key = made
    if packet.auth is None or packet.auth.kind == AuthKind.PASSWORD:
        return
    datagram = bytearray(encode(packet, key))
    at = data.draw(st.integers(0, len(datagram) - 1))
    datagram[at] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(datagram))
    except WireError:
        return
    assert not genuine(bytes(datagram), read, key)
    assert not genuine(encode(packet, key), decode(encode(packet, key)), key + b"x")


def test_the_digest_is_the_hash_of_the_packet_with_the_key_in_its_place() -> None:
    """RFC 5880 §6.7.4, worked out by hand."""
    sealed = encode(Packet(State.DOWN, 7, 0, 10, 20, auth=Auth(AuthKind.METICULOUS_SHA1, 1, 0xCAFE)), b"a key")
    head = bytes.fromhex("2044033400000007000000000000000a0000001400000000051c01000000cafe")
    assert sealed[:32] == head
    assert sealed[32:] == hashlib.sha1(head + b"a key" + bytes(15)).digest()


@given(st.binary(max_size=80))
@example(GOLDEN[:-1])
@example(b"")
def test_rubbish_raises_wire_error_only(datagram: bytes) -> None:
    try:
        packet = decode(datagram)
    except WireError:
        return
    assert isinstance(genuine(datagram, packet, b"key"), bool)


@given(st.binary(max_size=40), st.integers(0, 80), st.booleans())
def test_rubbish_behind_a_good_head_raises_wire_error_only(rest: bytes, length: int, sealed: bool) -> None:
    datagram = bytearray(GOLDEN + rest)
    datagram[1] |= sealed << 2
    datagram[3] = length
    try:
        packet = decode(bytes(datagram))
    except WireError:
        return
    assert isinstance(genuine(bytes(datagram), packet, b"key"), bool)


def changed(at: int, value: int) -> bytes:
    datagram = bytearray(GOLDEN)
    datagram[at] = value
    return bytes(datagram)


@pytest.mark.parametrize(
    ("datagram", "message"),
    [
        (GOLDEN[:23], "24 octets or more, this has 23"),
        (changed(0, 0x03), "version 0 is not spoken"),
        (changed(3, 23), "can't have the length 23"),
        (changed(3, 25), "of 24 octets can't have the length 25"),
        (changed(2, 0), "multiplier is never 0"),
        (changed(1, 0xE1), "multipoint"),
        (changed(1, 0xF0), "both a poll and its answer"),
        (GOLDEN[:4] + bytes(4) + GOLDEN[8:], "own discriminator is never 0"),
        (GOLDEN[:8] + bytes(4) + GOLDEN[12:], "that is UP knows the discriminator"),
        (changed(1, 0xE4), "authentication section of 0 octets is cut off"),
        (bytes.fromhex("23e4031a") + GOLDEN[4:] + b"\x05\x1c", "authentication section of 2 octets is cut off"),
        (bytes.fromhex("23e4031b") + GOLDEN[4:] + b"\x06\x03\x01", "type 6 is not known"),
        (bytes.fromhex("23e4031b") + GOLDEN[4:] + b"\x01\x03\x01", "password has 1 to 16 octets, this section has 0"),
        (bytes.fromhex("23e4031c") + GOLDEN[4:] + b"\x04\x04\x01\x00", "SHA1 has 28 octets, this section has 4"),
    ],
)
def test_what_the_rfc_discards_is_refused_with_the_reason(datagram: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(datagram)


def test_a_session_that_is_down_need_not_know_the_other_end() -> None:
    assert decode(encode(Packet(State.DOWN, 1, 0, 1, 1))).yours == 0
    assert len(encode(Packet(State.ADMIN_DOWN, 1, 0, 1, 1))) == SIZE
