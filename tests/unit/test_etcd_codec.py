"""The protobuf encoding: round trips, what others' encoders may send, and what no encoder sends."""

from __future__ import annotations

import contextlib
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import StoreError
from weft.stores.etcd.codec import Message, decode, encode
from weft.stores.etcd.messages import (
    Compare,
    KeyValue,
    LeaseResponse,
    Operation,
    PutRequest,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
KEY_VALUES = st.builds(KeyValue, st.binary(), INT64, INT64, INT64, st.binary(max_size=300), INT64)


class Far(Message):
    """A field number above 15 takes two octets of tag; text and negative numbers."""

    text: Annotated[str, 2000] = ""
    number: Annotated[int, 16] = 0


# by hand, from the format's own description: field number << 3 | wire type, then the value


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        (RangeRequest(b"a", b"b", 1000, 0), "0a0161 120162 18e807"),
        (RangeRequest(), ""),
        (WatchRequest(progress=WatchProgressRequest()), "1a00"),
        (LeaseResponse(300, -1), "10ac02 18ffffffffffffffffff01"),
        (TxnRequest([Compare(key=b"k", modified=0)]), "0a05 1002 1a016b"),
        (TxnRequest(success=[Operation(put=PutRequest(b"k", b"v", 1))]), "120a 1208 0a016b 120176 1801"),
        (Far("é", 1), "800101 827d02c3a9"),
    ],
)
def test_octets_are_those_of_the_format(message: Message, octets: str) -> None:
    assert encode(message).hex() == octets.replace(" ", "")
    assert decode(type(message), bytes.fromhex(octets)) == message


@given(st.builds(RangeResponse, kvs=st.lists(KEY_VALUES, max_size=5), more=st.booleans()))
def test_what_is_encoded_is_decoded(message: RangeResponse) -> None:
    assert decode(RangeResponse, encode(message)) == message


@given(st.builds(Far, st.text(), INT64))
def test_the_same_for_large_field_numbers_and_text(message: Far) -> None:
    assert decode(Far, encode(message)) == message


@given(st.binary(max_size=80))
def test_random_octets_are_a_message_or_a_store_error(octets: bytes) -> None:
    for kind in (RangeResponse, WatchResponse, Far):
        with contextlib.suppress(StoreError):
            assert isinstance(decode(kind, octets), kind)


@given(KEY_VALUES, st.integers(1, 400))
def test_a_message_cut_short_never_passes_for_a_whole_one(message: KeyValue, cut: int) -> None:
    octets = encode(RangeResponse(kvs=[message]))[:-cut]
    try:
        short = decode(RangeResponse, octets)
    except StoreError:
        return
    assert short == RangeResponse(), "only where nothing of the key is left"


def test_fields_that_are_not_known_are_skipped() -> None:
    unknown = "b80601 bd0600000000 b90600000000000000 00 ba0602aabb"  # fields 103 of all four wire types
    octets = bytes.fromhex((unknown + "0a0161" + unknown).replace(" ", ""))
    assert decode(RangeRequest, octets) == RangeRequest(b"a")


def test_a_field_of_another_wire_type_is_another_field() -> None:
    assert decode(RangeRequest, bytes.fromhex("0805")) == RangeRequest()


def test_the_last_of_a_field_holds() -> None:
    assert decode(RangeRequest, bytes.fromhex("0a01610a0162")) == RangeRequest(b"b")


@pytest.mark.parametrize("octets", ["0a", "0a05", "0a0561", "18", "18ff", "0b", "0c", "0f", "18" + "ff" * 11, "bd06ff"])
def test_what_is_no_message(octets: str) -> None:
    with pytest.raises(StoreError, match="an answer"):
        decode(RangeRequest, bytes.fromhex(octets))


def test_every_message_has_defaults_and_is_empty_then() -> None:
    kinds = [kind for kind in Message.__subclasses__() if kind.__module__.startswith("weft.")]
    assert len(kinds) > 20
    for kind in kinds:
        assert decode(kind, b"") == kind()
