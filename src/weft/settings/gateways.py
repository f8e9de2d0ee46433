"""HOST_GATEWAY_MAP and FLANNEL_ROUTES_EXTRA of `weft registrar`: text → entries. Called by `settings/registrar.py`;
what an entry means on this host is decided in `core/gateway_map.py` and `core/extra_routes.py`.

A bad entry costs no good one: each parser returns what could be read, and a Problem per entry that could not. The
forms are flannel-registrar's, `host:gateway` and `subnet:gateway[:interface]`. IPv6 addresses hold colons themselves,
so they stand in brackets, `[fd00::1]:[fd00::6]`, or `=` and `@` are written: `fd00::1=fd00::6`,
`fd00:8::/64=fd00::6@eth0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from weft.model import IPAddress, IPNetwork, Problem

MAP = "HOST_GATEWAY_MAP"
ROUTES = "FLANNEL_ROUTES_EXTRA"
MAP_FORM = "host:gateway or subnet/mask:gateway, for IPv6 [fd00::1]:[fd00::6] or fd00::1=fd00::6"
ROUTES_FORM = "subnet:gateway[:interface], for IPv6 [fd00:8::]/64:[fd00::6]:eth0 or fd00:8::/64=fd00::6@eth0"
LONGEST_NAME = 15
"""Octets of an interface's name (linux/if.h: IFNAMSIZ less the final zero)."""
PART = re.compile(r"\[([^\[\]]*)\](/[^:]*)?(?::|$)|([^:\[\]]*)(?::|$)")
"""One part of `a:b:c`, in brackets (with a mask behind or inside of them) or without a colon in it."""


@dataclass(frozen=True, slots=True)
class MapEntry:
    """Nodes whose endpoint lies in `prefix` are reached through `gateway`. `text`: the entry as it was written."""

    prefix: IPNetwork
    gateway: IPAddress
    text: str


@dataclass(frozen=True, slots=True)
class ExtraRoute:
    """A route that the operator wants. `interface` "": the one by which the gateway is reached."""

    dst: IPNetwork
    gateway: IPAddress
    interface: str
    text: str


Entry = TypeVar("Entry", MapEntry, ExtraRoute)


def parse_gateway_map(text: str) -> tuple[tuple[MapEntry, ...], tuple[Problem, ...]]:
    """Read HOST_GATEWAY_MAP, in its own order."""
    return _parse(text, MAP, _map_entry, lambda entry: (entry.prefix, entry.gateway))


def parse_extra_routes(text: str) -> tuple[tuple[ExtraRoute, ...], tuple[Problem, ...]]:
    """Read FLANNEL_ROUTES_EXTRA, in its own order."""
    return _parse(text, ROUTES, _extra_route, lambda entry: (entry.dst, (entry.gateway, entry.interface)))


def _parse(
    text: str, variable: str, read: Callable[[str], Entry], meaning: Callable[[Entry], tuple[IPNetwork, object]]
) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Of two entries for one prefix the first holds; the same one twice is nothing to speak of."""
    entries: dict[IPNetwork, Entry] = {}
    problems: list[Problem] = []
    for item in _items(text):
        try:
            entry = read(item)
        except ValueError as error:
            problems.append(Problem(variable, f"{variable}: entry {item!r} is left out: {error}"))
            continue
        prefix, value = meaning(entry)
        first = entries.setdefault(prefix, entry)
        if meaning(first)[1] != value:
            why = f"{first.text!r} names another gateway for {prefix} and comes first; remove one of the two"
            problems.append(Problem(variable, f"{variable}: entry {item!r} is left out: {why}"))
    return tuple(entries.values()), tuple(problems)


def _items(text: str) -> Iterator[str]:
    """Entries stand between commas; spaces, line breaks, semicolons and quotes of a Compose file do no harm."""
    together = re.sub(r"\s*([:=@/])\s*", r"\1", text.strip().strip("\"'"))
    yield from filter(None, re.split(r"[,;\s]+", together))


def _map_entry(item: str) -> MapEntry:
    parts = [_bare(part) for part in item.split("=")] if "=" in item else _parts(item, MAP_FORM)
    if len(parts) != 2:
        raise ValueError(f"it has {len(parts)} parts; written is {MAP_FORM}")
    prefix, gateway = _prefix(parts[0], MAP_FORM), _gateway(parts[1])
    if gateway.version != prefix.version:
        raise ValueError(f"{prefix} is IPv{prefix.version}, its gateway {gateway} is not; name one of the same family")
    if gateway.is_link_local:
        raise ValueError(f"{gateway} is another host's on each link; name the gateway's other address")
    if prefix.num_addresses == 1 and gateway == prefix.network_address:
        raise ValueError(f"{gateway} would be its own gateway; name the address of the host that forwards to it")
    return MapEntry(prefix, gateway, item)


def _extra_route(item: str) -> ExtraRoute:
    if "=" in item:
        head, _, rest = item.partition("=")
        gateway_text, _, interface = rest.partition("@")
        parts = [_bare(head), _bare(gateway_text), *([interface] if "@" in rest else [])]
    else:
        parts = _parts(item, ROUTES_FORM)
    if len(parts) not in (2, 3):
        raise ValueError(f"it has {len(parts)} parts; written is {ROUTES_FORM}")
    dst, gateway = _prefix(parts[0], ROUTES_FORM), _gateway(parts[1])
    interface = _interface(parts[2]) if len(parts) == 3 else ""
    if gateway.version != dst.version:
        raise ValueError(f"{dst} is IPv{dst.version}, its gateway {gateway} is not; name one of the same family")
    if gateway.is_link_local and not interface:
        raise ValueError(f"{gateway} is another host's on each link; name the interface behind it")
    if gateway in dst:
        raise ValueError(f"the gateway {gateway} lies inside of {dst} itself, so nothing would lead to it")
    return ExtraRoute(dst, gateway, interface, item)


def _parts(item: str, form: str) -> list[str]:
    """The parts between the colons that stand outside of brackets."""
    parts: list[str] = []
    at = 0
    while at <= len(item):
        found = PART.match(item, at)
        if found is None:
            raise ValueError(f"its brackets don't fit together; written is {form}")
        parts.append(f"{found[1]}{found[2] or ''}" if found[1] is not None else found[3])
        at = found.end() if found[0].endswith(":") else len(item) + 1
    if len(parts) > 3 and "[" not in item:
        raise ValueError(f"it has too many colons to tell its parts; written is {form}")
    return parts


def _bare(text: str) -> str:
    """`[fd00::1]` or `[fd00::]/64` without its brackets."""
    found = re.fullmatch(r"\[([^\[\]]*)\](/.*)?", text)
    return f"{found[1]}{found[2] or ''}" if found else text


def _prefix(text: str, form: str) -> IPNetwork:
    if not text:
        raise ValueError(f"it names nothing to route; written is {form}")
    try:
        prefix = ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither an address nor a subnet such as 10.8.0.0/24") from error
    if not prefix.prefixlen:
        raise ValueError(f"{prefix} is the default route, which is not weft's to change; name the hosts' own subnet")
    _usable(prefix.network_address, f"{text} is")
    return prefix


def _gateway(text: str) -> IPAddress:
    if not text:
        raise ValueError("it names no gateway; write the gateway's address behind the colon")
    try:
        gateway = ip_address(text)
    except ValueError as error:
        raise ValueError(f"its gateway {text!r} is no IP address; host names are not looked up here") from error
    if isinstance(gateway, IPv6Address) and gateway.scope_id:
        raise ValueError(f"its gateway {text!r} holds an interface; an extra route has a part of its own for that")
    _usable(gateway, f"its gateway {gateway} is")
    return gateway


def _usable(address: IPAddress, what: str) -> None:
    for kind, is_so in (
        ("a loopback address", address.is_loopback),
        ("the unspecified address", address.is_unspecified),
        ("a multicast address", address.is_multicast),
        ("a broadcast address", str(address) == "255.255.255.255"),
    ):
        if is_so:
            raise ValueError(f"{what} {kind}, which no other host has; name an address that this host can send to")


def _interface(name: str) -> str:
    if not name or len(name.encode()) > LONGEST_NAME or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no interface's name; write one that `ip link` shows, or leave it out")
    return name
