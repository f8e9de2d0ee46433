"""Which of this host's interfaces flannel's tunnels use: `-iface`, `-iface-regex`, `-iface-can-reach`, or the default
route's. Pure; called by `agent/flannel.py`. The rules are flannel's (Documentation/configuration.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, cast

from weft.model import Host, IPAddress, Uplink


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for. `names`: names or addresses; `patterns`: regular expressions; `reached_by`: the interface by
    which the kernel reaches the address of `-iface-can-reach`, None where that was not asked for, "" if there is none.
    `versions`: the IP versions that the overlay needs."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    reached_by: str | None = None
    public_ip: IPv4Address | None = None
    public_ip6: IPv6Address | None = None
    versions: tuple[Literal[4, 6], ...] = (4,)


@dataclass(frozen=True, slots=True)
class External:
    """The interface and what the others send to. `ip`, `ip6`: its own addresses, which tunnels start from."""

    name: str
    mtu: int
    ip: IPv4Address | None = None
    ip6: IPv6Address | None = None
    public_ip: IPv4Address | None = None
    public_ip6: IPv6Address | None = None


def pick(host: Host, choice: Choice, current: External | None = None) -> External:
    """The first interface that fits; where none was named, `current` for as long as it has its addresses: a better
    default route (a VPN's, say) moves no running overlay. Raises ValueError with what was asked, what was found, and
    what to do."""
    stays = _still(host, current) if current is not None and not (choice.names or choice.patterns) else None
    found = (stays, None) if stays is not None else next(_candidates(host, choice), None)
    if found is None:
        raise ValueError(_nothing(host, choice))
    uplink, named = found
    own = {version: named if named and named.version == version else _own(uplink, version) for version in (4, 6)}
    for version in choice.versions:
        if own[version] is None:
            raise ValueError(f"interface {uplink.name} has no IPv{version} address; the network config asks for one")
    ip, ip6 = cast("IPv4Address | None", own[4]), cast("IPv6Address | None", own[6])
    wants4, wants6 = 4 in choice.versions, 6 in choice.versions
    return External(
        name=uplink.name,
        mtu=uplink.mtu,
        ip=ip if wants4 else None,
        ip6=ip6 if wants6 else None,
        public_ip=(choice.public_ip or ip) if wants4 else None,
        public_ip6=(choice.public_ip6 or ip6) if wants6 else None,
    )


def _still(host: Host, current: External) -> Uplink | None:
    """The interface, if it has its addresses yet."""
    wanted = {address for address in (current.ip, current.ip6) if address is not None}
    uplinks = (uplink for uplink in host.uplinks if uplink.name == current.name)
    return next((uplink for uplink in uplinks if wanted <= {a.ip for a in uplink.addresses}), None)


def _candidates(host: Host, choice: Choice) -> Iterator[tuple[Uplink, IPAddress | None]]:
    """Interfaces that fit, best first, each with the address that it was named by."""
    if choice.names or choice.patterns:
        for name in choice.names:
            yield from _named(host.uplinks, name)
        for pattern in choice.patterns:
            yield from _matching(host.uplinks, pattern)
    elif choice.reached_by is not None:
        yield from ((uplink, None) for uplink in host.uplinks if uplink.name == choice.reached_by)
    else:
        routes = (
            (choice.versions.index(route.version), route.metric, uplink.name, uplink)
            for uplink in host.uplinks
            for route in uplink.defaults
            if route.version in choice.versions
        )
        yield from ((uplink, None) for *_, uplink in sorted(routes, key=lambda found: found[:3]))


def _named(uplinks: Sequence[Uplink], name: str) -> Iterator[tuple[Uplink, IPAddress | None]]:
    for uplink in uplinks:
        if uplink.name == name:
            yield uplink, None
        yield from ((uplink, a.ip) for a in uplink.addresses if str(a.ip) == name)


def _matching(uplinks: Sequence[Uplink], pattern: str) -> Iterator[tuple[Uplink, IPAddress | None]]:
    """By address first, then by name; an expression may match anywhere in it."""
    expression = re.compile(pattern)
    for uplink in uplinks:
        yield from ((uplink, a.ip) for a in uplink.addresses if expression.search(str(a.ip)))
    yield from ((uplink, None) for uplink in uplinks if expression.search(uplink.name))


def _own(uplink: Uplink, version: int) -> IPAddress | None:
    """The source that its default route prefers, else its first address of this version that others can send to."""
    inside = [a.ip for a in uplink.addresses if a.version == version and not (a.ip.is_link_local or a.ip.is_loopback)]
    sources = [route.source for route in uplink.defaults if route.version == version]
    return next((a for a in (*sources, *inside) if a in inside), None)


def _nothing(host: Host, choice: Choice) -> str:
    seen = ", ".join(u.name + "".join(f" {a.ip}" for a in u.addresses) for u in host.uplinks) or "none"
    if choice.names or choice.patterns:
        asked = ", ".join((*(f"-iface={n}" for n in choice.names), *(f"-iface-regex={p}" for p in choice.patterns)))
        return f"no interface fits {asked}; there are: {seen}"
    if choice.reached_by is not None:
        return f"the kernel has no way to the address of -iface-can-reach out of an interface; there are: {seen}"
    return f"no default route, so no uplink could be chosen; set -iface (there are: {seen})"
