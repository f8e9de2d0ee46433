"""One mapping of a YAML file, key by key; errors say where a value stands, what it is and what would be right. Used by
`routing.py`."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import NoReturn, TypeAlias

from weft.errors import WireError
from weft.model import IPAddress, IPNetwork

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"

NOTHING = ("", "~", "null")
LONGEST_NAME = 253
"""Octets, as in the messages of a discovery."""
SHOWN = 60
"""Characters of a value that an error shows."""


def shown(value: object) -> str:
    """A value for an error's text, however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}… ({len(value)} characters)"
    return f"a list of {len(value)}" if isinstance(value, list) else "a mapping (`key: value`)"


def fault(where: str, value: object, right: str) -> NoReturn:
    """Refuse a value. `right`: what is wrong with it and what would do."""
    raise WireError(f"{where}: {shown(value)} {right}")


class Fields:
    """The mapping that stands at `where` ("": the file itself), with no other keys than `keys`."""

    def __init__(self, tree: Tree, where: str, keys: tuple[str, ...]) -> None:
        if isinstance(tree, str) and tree in NOTHING:
            tree = {}
        if not isinstance(tree, dict):
            fault(where or "the file", tree, f"is no mapping; it has the keys {', '.join(keys)}")
        self.where = where
        self._tree = tree
        for key in tree:
            if key not in keys:
                from difflib import get_close_matches  # for a slip of the pen only

                near = get_close_matches(key[:LONGEST_NAME], keys, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise WireError(f"{self.at(key)}: there is no such key; {hint}({', '.join(keys)})")

    def __contains__(self, key: str) -> bool:
        return self._tree.get(key, "") not in NOTHING

    def at(self, key: str) -> str:
        """The path of a key's value."""
        name = key if key.isprintable() and len(key) < LONGEST_NAME else shown(key)
        return f"{self.where}.{name}" if self.where else name

    def one_of(self, *keys: str) -> str:
        """Of keys that mean the same, the one that is there; the first if none is."""
        there = [key for key in keys if key in self]
        if len(there) > 1:
            raise WireError(f"{self.at(there[1])}: it means the same as {there[0]!r}, which is there too; keep one")
        return there[0] if there else keys[0]

    def text(self, key: str) -> str:
        """A key's text; "" if it has none."""
        value = self._tree.get(key, "") if key in self else ""
        return value.strip() if isinstance(value, str) else fault(self.at(key), value, "is no single value")

    def name(self, key: str) -> str:
        """An id or a name, "" if there is none: printable, so that it can't forge a log line, and not endless."""
        return checked_name(self.text(key), self.at(key)) if key in self else ""

    def whole(self, key: str, least: int, most: int) -> int | None:
        """A whole number, None if there is none."""
        text = self.text(key)
        if not text:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            fault(self.at(key), text, f"is no whole number; {least} to {most} can be")
        if not least <= int(text) <= most:
            fault(self.at(key), text, f"is not between {least} and {most}" if least < most else f"is not {most}")
        return int(text)

    def items(self, key: str) -> Iterator[tuple[str, Tree]]:
        """A list's entries, each with its path."""
        value = self._tree.get(key, []) if key in self else []
        if not isinstance(value, list):
            fault(self.at(key), value, "is no list; each entry begins with `- `")
        for number, item in enumerate(value):
            yield f"{self.at(key)}[{number}]", item

    def parts(self, key: str) -> Iterator[tuple[str, str, Tree]]:
        """A mapping's values, whose keys are names: path, key, value."""
        value = self._tree.get(key, {}) if key in self else {}
        if not isinstance(value, dict):
            fault(self.at(key), value, "is no mapping (`key: value`)")
        for name, item in value.items():
            yield f"{self.at(key)}.{checked_name(name, self.at(key))}", name, item

    def addresses(self, key: str) -> Iterator[tuple[str, IPAddress]]:
        """Of one value, of several with commas between them, or of a list; each with its path."""
        for where, text in self._values(key):
            yield where, address(text, where)

    def subnets(self, key: str) -> Iterator[tuple[str, IPNetwork]]:
        """The same for subnets."""
        for where, text in self._values(key):
            yield where, subnet(text, where)

    def _values(self, key: str) -> Iterator[tuple[str, str]]:
        value = self._tree.get(key, "") if key in self else []
        if isinstance(value, str):
            value = [*value.split(",")]
        if isinstance(value, dict):
            fault(self.at(key), value, "is neither a value nor a list of values")
        for number, item in enumerate(value):
            where = f"{self.at(key)}[{number}]" if len(value) > 1 else self.at(key)
            if not isinstance(item, str):
                fault(where, item, "is no single value")
            yield where, item.strip()


def checked_name(text: str, where: str) -> str:
    """`text`, if it can be an id or a name."""
    if not text or not text.isprintable() or len(text.encode()) > LONGEST_NAME:
        fault(where, text, f"is no id: 1 to {LONGEST_NAME} octets of printable text")
    return text


def address(text: str, where: str) -> IPAddress:
    """An address that one host can have."""
    try:
        if "%" in text:
            raise ValueError("it has a zone")
        found = ip_address(text)
    except ValueError:
        bare, slash, _ = text.partition("/")
        meant = f"; {bare} would be" if slash and _is_address(bare) else ", such as 192.168.100.2 or fd00:100::2"
        fault(where, text, f"is no address{meant}")
    if found.is_multicast or found.is_unspecified or found.is_loopback or found.is_link_local or found.is_reserved:
        fault(where, text, "is no address that a router can have on the overlay, such as 192.168.100.2")
    return found


def subnet(text: str, where: str) -> IPNetwork:
    """A subnet without host bits, and not all of the internet."""
    try:
        if "%" in text:
            raise ValueError("it has a zone")
        found = ip_network(text)
    except ValueError:
        fault(where, text, f"is no subnet{_meant(text)}")
    if "/" not in text or not found.prefixlen:
        why = "has no prefix length" if found.prefixlen else "is everything there is"
        fault(where, text, f"{why}; name the subnet of the containers, such as 172.21.0.0/16")
    return found


def _meant(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("it has a zone")
        return f": it has host bits; {ip_network(text, strict=False)} would be"
    except ValueError:
        return ", such as 172.21.0.0/16 or fd00:21::/64"


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False
