"""Protocol buffers, as far as etcd's messages need them: varints, octets, text, messages and lists of messages.

A message is a msgspec Struct whose fields carry their numbers: `key: Annotated[bytes, 1] = b""`. Fields that are not
known are skipped, as the format wants it. Why not the protobuf library: docs/adr/0007. Only `messages` and
`connection` use this. Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from weft.errors import StoreError

VARINT, FIXED64, OCTETS, FIXED32 = 0, 1, 2, 5
SIGNED = 1 << 63
MASK = (1 << 64) - 1
TRUNCATED = "etcd: an answer ends in the middle of a field; is a proxy between that cuts answers short?"


class Message(msgspec.Struct):
    """The root of all messages."""


M = TypeVar("M", bound=Message)


class _Field(NamedTuple):
    """`tag`: number and wire type in one. `many`: a list of octets or messages. `read`: makes the value of what is on
    the wire, where that is not the value yet."""

    name: str
    tag: int
    many: bool
    read: Callable[[Any], Any] | None


_plans: dict[type[Message], dict[int, _Field]] = {}


def encode(message: Message) -> bytes:
    """Octets of a message. What has its default value (0, empty, None) is left out, so an int of 0 is not sent."""
    out = bytearray()
    for field in _plan(type(message)).values():
        value = getattr(message, field.name)
        for item in value if field.many else (value,):
            if item is None or (not item and not isinstance(item, Message)):
                continue
            _write_varint(out, field.tag)
            if field.tag & 7 == VARINT:
                _write_varint(out, int(item))
                continue
            octets = encode(item) if isinstance(item, Message) else item.encode() if isinstance(item, str) else item
            _write_varint(out, len(octets))
            out += octets
    return bytes(out)


def decode(kind: type[M], data: bytes) -> M:
    """A message of these octets. Raises StoreError if they are no message."""
    try:
        return _decode(kind, data)
    except IndexError:
        raise StoreError(TRUNCATED) from None
    except (ValueError, TypeError) as error:
        raise StoreError(f"etcd: an answer is no {kind.__name__}: {error}") from error


def _decode(kind: type[M], data: bytes) -> M:
    """Written for speed: thousands of keys come in one answer, and most numbers have one or two octets."""
    plan = _plans.get(kind) or _plan(kind)
    values: dict[str, Any] = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = data[at], at + 1
        if tag > 127:
            tag, at = _varint(data, at - 1)
        wire = tag & 7
        if wire != VARINT and wire != OCTETS:
            at += _fixed(wire)
            continue
        number, at = data[at], at + 1
        if number > 127:
            number, at = _varint(data, at - 1)
        field = plan.get(tag)
        if wire == OCTETS:
            at += number
            if field is None:
                continue
            name, _, many, read = field
            value = data[at - number : at]
            if read is not None:
                value = read(value)
            if many:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        elif field is not None:
            values[field.name] = (
                field.read(number) if field.read else number if number < SIGNED else number - 2 * SIGNED
            )
    if at > end:
        raise IndexError
    return kind(**values)


def _fixed(wire: int) -> int:
    """How many octets a number of fixed width has; weft needs none of them, but may meet some."""
    if wire == FIXED64:
        return 8
    if wire == FIXED32:
        return 4
    raise ValueError(f"wire type {wire} is not known")


def _plan(kind: type[Message]) -> dict[int, _Field]:
    """The fields of a kind of message by tag, in the order of their numbers."""
    if kind not in _plans:
        hints = get_type_hints(kind, include_extras=True)
        fields = sorted((_field(name, hint) for name, hint in hints.items()), key=lambda field: field.tag)
        _plans[kind] = {field.tag: field for field in fields}
    return _plans[kind]


def _field(name: str, hint: Any) -> _Field:
    kind, number = get_args(hint)
    many = get_origin(kind) is list
    if many:
        kind = get_args(kind)[0]
    elif type(None) in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if kind in (bool, int):
        return _Field(name, number << 3 | VARINT, many, bool if kind is bool else None)
    reads: dict[Any, Callable[[Any], Any] | None] = {bytes: None, str: lambda octets: octets.decode("utf-8", "replace")}
    return _Field(name, number << 3 | OCTETS, many, reads.get(kind, lambda octets: _decode(kind, octets)))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of several octets, seven bits in each, the lowest first; and where it ends."""
    value, shift = data[at] & 127, 7
    while True:
        at += 1
        octet = data[at]
        if octet < 128:
            return (value | octet << shift) & MASK, at + 1
        value |= (octet & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than ten octets")


def _write_varint(out: bytearray, value: int) -> None:
    value &= MASK
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
