"""health_status.json, octet for octet."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.health import Health, Issue
from weft.errors import WireError
from weft.wire.health import LONGEST, decode_health, encode_health, health_of

SICK = Health("critical", "flannel.1 is missing", (Issue("interface", "flannel.1 is missing", "critical"),))


def test_the_file_is_as_documented() -> None:
    assert encode_health(SICK, "babka", 1_700_000_000.9) == (
        b'{"status":"critical","last_check":1700000000,"message":"flannel.1 is missing","hostname":"babka",'
        b'"issues":[{"type":"interface","message":"flannel.1 is missing","severity":"critical"}]}\n'
    )


def test_what_was_written_is_read() -> None:
    status = decode_health(encode_health(SICK, "babka", 5))
    assert (status.hostname, status.last_check) == ("babka", 5)
    assert health_of(status) == SICK


def test_members_of_later_versions_are_skipped() -> None:
    text = b'{"status":"healthy","last_check":1,"message":"","hostname":"x","issues":[],"more":[1]}'
    assert decode_health(text).status == "healthy"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'{"status":"fine","last_check":1,"message":"","hostname":""}', b" " * (LONGEST + 1)]
)
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError, match=r"health_status\.json"):
        decode_health(data)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_health(data)
