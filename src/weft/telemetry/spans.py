"""What the daemon tells its helper: one JSON object per cycle. Written by `sender.py`, read by `exporting.py`."""

from __future__ import annotations

import msgspec

from weft.errors import WireError

Value = str | bool | int | float
LONGEST = 60_000
"""Octets of a message: it is sent as one packet, or not at all."""


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """A span's event. `at`: nanoseconds since 1970."""

    name: str
    at: int
    attributes: dict[str, Value] = {}


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """`start`, `end`: nanoseconds since 1970. `error`: what failed, "" if nothing did."""

    name: str
    start: int
    end: int
    attributes: dict[str, Value] = {}
    events: tuple[Happening, ...] = ()
    error: str = ""


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cycle: `root`, and its parts in order."""

    root: Span
    children: tuple[Span, ...] = ()


_DECODER = msgspec.json.Decoder(Trace)


def encode(trace: Trace) -> bytes:
    return msgspec.json.encode(trace)


def decode(data: bytes) -> Trace:
    """Raises WireError for anything that is no trace."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"a trace can't be read: {error}") from error
