"""The seal of a datagram: who holds the key can make it, and nobody else.

A sealed datagram is its JSON, a newline, and one trailer line, so that tcpdump -A still shows what was said:

    {"type":"HELLO",...}
    weft-seal 1 5f0c...64 hexadecimal digits...

The digits are HMAC-SHA-256 (RFC 2104) over everything before the newline. A seal says that a holder of the key made
the datagram; that it is not an old one is the business of the stamp inside (`wire/router.py`, `discovery/peers.py`).
Called by `discovery/conversation.py`.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum, auto
from typing import NewType

SealKey = NewType("SealKey", bytes)
"""32 octets, derived from the operator's text."""

_MARK = b"\nweft-seal 1 "
_DIGITS = 64
SEAL_SIZE = len(_MARK) + _DIGITS
"""Octets that a seal adds to a datagram."""

_ROUNDS = 100_000
_SALT = b"weft discovery datagram seal 1"


class Verdict(Enum):
    """What a datagram's seal says about it."""

    GOOD = auto()
    """Sealed with our key; or not sealed, and we have no key."""
    UNSEALED = auto()
    """We have a key, the sender used none."""
    SEALED = auto()
    """The sender has a key, we have none."""
    WRONG_KEY = auto()
    """Both have one, but not the same; or the datagram was changed on its way."""


def derive_key(secret: bytes) -> SealKey:
    """The key that a pre-shared text stands for (PBKDF2, RFC 8018).

    Takes some tens of milliseconds, on purpose: whoever recorded a datagram can try texts, and each try costs the same.
    """
    return SealKey(hashlib.pbkdf2_hmac("sha256", secret, _SALT, _ROUNDS))


def seal(body: bytes, key: SealKey | None) -> bytes:
    """The datagram for this body; the body itself when there is no key."""
    if key is None:
        return body
    return body + _MARK + hmac.digest(key, body, "sha256").hex().encode()


def unseal(datagram: bytes, key: SealKey | None) -> tuple[Verdict, bytes]:
    """Judge a datagram and give its body, which nobody should look at unless the verdict is GOOD."""
    body, mark, digits = datagram[:-SEAL_SIZE], datagram[-SEAL_SIZE:-_DIGITS], datagram[-_DIGITS:]
    if mark != _MARK:
        return (Verdict.GOOD if key is None else Verdict.UNSEALED), datagram
    if key is None:
        return Verdict.SEALED, body
    expected = hmac.digest(key, body, "sha256").hex().encode()
    return (Verdict.GOOD if hmac.compare_digest(expected, digits) else Verdict.WRONG_KEY), body
