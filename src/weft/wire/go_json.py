"""JSON as Go's encoding/json reads it into a struct: how flannel reads all of its own. Used by the codecs beside it.

Names match whatever their case, members that nobody asks for are left alone, a null keeps the default; and where Go is
strict, so is this: 24.0 and "24" are no whole numbers. Of two members whose names differ in case only, the later holds.
Source: https://pkg.go.dev/encoding/json#Unmarshal.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from weft.errors import WireError

_decoder = msgspec.json.Decoder(dict[str, object] | None)


class Fields:
    """One JSON object. `where` says whose, in errors: "the flannel config". Asking for a member of another type than
    it has raises WireError, which names both."""

    __slots__ = ("_members", "where")

    def __init__(self, members: dict[str, object], where: str) -> None:
        self.where = where
        self._members = {name.casefold(): (name, value) for name, value in members.items()}

    def __contains__(self, name: str) -> bool:
        """It is there, if only as null."""
        return name.casefold() in self._members

    def __iter__(self) -> Iterator[str]:
        """Every member's name, as it is written."""
        return (name for name, _ in self._members.values())

    def value(self, name: str) -> object:
        """Any type of value; None if it is null or not there."""
        member = self._members.get(name.casefold())
        return member[1] if member is not None else None

    def text(self, name: str, default: str = "") -> str:
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        raise self.wrong(name, "a string")

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise self.wrong(name, "true or false")

    def number(self, name: str, default: int = 0, *, highest: int) -> int:
        """A whole number from 0 to `highest`."""
        value = self.value(name)
        if value is None:
            return default
        if type(value) is int and 0 <= value <= highest:
            return value
        raise self.wrong(name, f"a whole number from 0 to {highest}")

    def part(self, name: str) -> Fields:
        """An object inside this one; empty if it is null or not there."""
        value = self.value(name)
        if value is None:
            return Fields({}, f"{name} of {self.where}")
        if isinstance(value, dict):
            return Fields(value, f"{name} of {self.where}")
        raise self.wrong(name, "an object")

    def wrong(self, name: str, wanted: str) -> WireError:
        """The error for a member that is not what it must be."""
        found = msgspec.json.encode(self.value(name)).decode()
        if len(found) > 60:
            found = found[:57] + "..."
        return WireError(f"{self.where}: {name} must be {wanted}; found {found}")


def read(text: bytes | str, where: str) -> Fields:
    """The object that a text holds; WireError if it holds none. A lone null is an object without members, as in Go."""
    try:
        members = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError(f"{where} is not a JSON object: {error}") from error
    return Fields(members or {}, where)
