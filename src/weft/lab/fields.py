"""Reading a topology file's mappings, with errors that name the key, the value and the nearest right one.

Only `schema` calls this. A `where` is the way to a value as a person would say it: `hosts.a.networks.web`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_interface, ip_network

from weft.errors import TopologyError
from weft.model import IPInterface, IPNetwork

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
CONTAINER = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""A bridge's name: IFNAMSIZ - 1 (linux/if.h) at most."""
NAME_LENGTH = 24
"""Longest name of a lab, a host or a segment: they end up in paths of unix sockets, which hold 107 octets."""


def nearest(given: str, right: Iterable[str]) -> str:
    """`did you mean 'segments'? (segments, engine)`: for the end of an error."""
    known = list(right)
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}({', '.join(known) or 'there is none'})"


def mapping(value: object, where: str, keys: Iterable[str] | None = None) -> dict[str, object]:
    """`value` as a mapping with text keys, only those of `keys` if given; nothing at all is an empty mapping."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TopologyError(f"{where}: {value!r} is not a mapping (`key: value` lines)")
    known = None if keys is None else list(keys)
    for key in value:
        if known is not None and key not in known:
            raise TopologyError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
    return {str(key): item for key, item in value.items()}


def listing(value: object, where: str) -> list[object]:
    """`value` as a list; one item alone is a list of one, nothing is none."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        raise TopologyError(f"{where}: {dict(value)!r} is not a list")
    return list(value) if isinstance(value, list | tuple) else [value]


def container(value: object, where: str) -> str:
    """A container's name: it may hold underscores too, as flannel's own examples do (`con_a`)."""
    return str(value) if CONTAINER.fullmatch(str(value)) and len(str(value)) <= NAME_LENGTH else name(value, where)


def name(value: object, where: str) -> str:
    """A name of ours: lowercase letters, digits and inner dashes."""
    text = str(value)
    if not NAME.fullmatch(text) or len(text) > NAME_LENGTH:
        meant = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:NAME_LENGTH].strip("-")
        hint = f"; {meant!r} would do" if NAME.fullmatch(meant) else ""
        raise TopologyError(
            f"{where}: {text!r} is not a name: lowercase letters, digits and inner dashes, at most {NAME_LENGTH}{hint}"
        )
    return text


def interface(value: object, where: str) -> str:
    """A network interface's name, as the kernel takes it: `br0`."""
    said = str(value)
    if not INTERFACE.fullmatch(said):
        raise TopologyError(f"{where}: {said!r} is not an interface's name: letters, digits, dot and dash, at most 15")
    return said


def whole(value: object, where: str, least: int, most: int) -> int:
    """A whole number between `least` and `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TopologyError(f"{where}: {value!r} is not a whole number")
    if not least <= value <= most:
        raise TopologyError(f"{where}: {value} is not between {least} and {most}")
    return value


def flag(value: object, where: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise TopologyError(f"{where}: {value!r} is neither true nor false")
    return value


def choice(value: object, where: str, right: tuple[str, ...]) -> str:
    """One of `right`."""
    if value not in right:
        raise TopologyError(f"{where}: {value!r} is none of the choices; {nearest(str(value), right)}")
    return str(value)


def text(value: object) -> str:
    """A YAML value as the environment, a flag or a label writes it: `true`, `30`, `10.0.0.2,10.0.0.3`."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(text(item) for item in value) if isinstance(value, list) else str(value)


def subnet(value: object, where: str) -> IPNetwork:
    """A subnet without host bits."""
    try:
        return ip_network(str(value))
    except ValueError as error:
        try:
            meant = f"; {ip_network(str(value), strict=False)} would be"
        except ValueError:
            meant = ", like 10.1.2.0/24 or fd00:1::/64"
        raise TopologyError(f"{where}: {value!r} is not a subnet{meant}") from error


def address_in(value: object, where: str, subnets: Iterable[IPNetwork]) -> IPInterface:
    """An address inside one of `subnets`, with that one's prefix length."""
    known = list(subnets)
    try:
        address = ip_interface(str(value)).ip
    except ValueError as error:
        raise TopologyError(f"{where}: {value!r} is not an address, like 10.0.0.11") from error
    for net in known:
        if address in net:
            return ip_interface(f"{address}/{net.prefixlen}")
    raise TopologyError(f"{where}: {address} is not in {', '.join(map(str, known))}")
