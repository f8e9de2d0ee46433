"""The seal: only a holder of the key can make it, and any change breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.wire.seal import SEAL_SIZE, SealKey, Verdict, derive_key, seal, unseal

KEY = SealKey(bytes(range(32)))
OTHER = SealKey(bytes(32))
BODY = b'{"type":"HELLO"}'


@given(st.binary(max_size=1500))
def test_a_sealed_body_comes_back(body: bytes) -> None:
    datagram = seal(body, KEY)
    assert len(datagram) == len(body) + SEAL_SIZE
    assert datagram.startswith(body)
    assert unseal(datagram, KEY) == (Verdict.GOOD, body)


@given(st.integers(0, len(BODY) + SEAL_SIZE - 1), st.integers(1, 255))
def test_a_changed_octet_is_noticed(at: int, flip: int) -> None:
    datagram = bytearray(seal(BODY, KEY))
    datagram[at] ^= flip
    assert unseal(bytes(datagram), KEY)[0] is not Verdict.GOOD


@pytest.mark.parametrize(
    ("sender", "receiver", "verdict"),
    [
        (None, None, Verdict.GOOD),
        (KEY, KEY, Verdict.GOOD),
        (KEY, OTHER, Verdict.WRONG_KEY),
        (None, KEY, Verdict.UNSEALED),
        (KEY, None, Verdict.SEALED),
    ],
)
def test_who_has_which_key(sender: SealKey | None, receiver: SealKey | None, verdict: Verdict) -> None:
    assert unseal(seal(BODY, sender), receiver) == (verdict, BODY)


def test_the_seal_is_one_readable_line() -> None:
    body, line = seal(BODY, KEY).split(b"\n")
    assert body == BODY
    assert line.startswith(b"weft-seal 1 ")
    assert line.decode().isprintable()


@given(st.binary(max_size=200))
def test_anything_can_be_judged(octets: bytes) -> None:
    assert unseal(octets, KEY)[0] in (Verdict.UNSEALED, Verdict.WRONG_KEY)


def test_the_key_is_the_one_of_the_text_and_of_no_other() -> None:
    assert len(derive_key(b"correct horse")) == 32
    assert derive_key(b"correct horse") == derive_key(b"correct horse")
    assert derive_key(b"correct horse") != derive_key(b"correct horsf")
