"""What this host tells the others about itself: settings + host facts + its networks → Node. Pure; called by world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weft.backends.tunnel import vtep_mac
from weft.model import Host, IPAddress, Network, Node, Problem, Uplink


@dataclass(frozen=True, slots=True)
class Identity:
    """The part of the settings that describes this host; empty and zero mean: find out.

    `underlay`: 4, 6 or 0 (IPv4 if there is an address of it)."""

    id: str
    vni: int
    port: int
    version: str
    interface: str = ""
    endpoints: tuple[IPAddress, ...] = ()
    underlay: int = 0
    mtu: int = 0
    source: str = "multicast"


@dataclass(frozen=True, slots=True)
class Self:
    """`node` None: this host can't take part yet, `problem` says why. `underlay`: 4 or 6."""

    node: Node | None
    underlay: int = 4
    uplink: str = ""
    problem: Problem | None = None


def describe(identity: Identity, host: Host, networks: Sequence[Network]) -> Self:
    """This host as the others are to know it."""
    uplink = _uplink(identity, host)
    endpoints = identity.endpoints or (_addresses(uplink) if uplink else ())
    underlay = identity.underlay or (4 if any(a.version == 4 for a in endpoints) else 6)
    if not any(a.version == underlay for a in endpoints):
        return Self(None, underlay, problem=Problem(identity.id, _no_uplink(identity, host, underlay)))
    mtu = identity.mtu or (uplink.mtu if uplink else 1500)
    node = Node(
        id=identity.id,
        endpoints=endpoints,
        port=identity.port,
        vni=identity.vni,
        mac=vtep_mac(identity.id, identity.vni),
        mtu=mtu,
        networks=tuple(n for n in networks if n.exposed and n.subnets),
        overlay=tuple(_overlay(host, networks)),
        version=identity.version,
        source=identity.source,
    )
    return Self(node, underlay, uplink.name if uplink else identity.interface)


def _uplink(identity: Identity, host: Host) -> Uplink | None:
    """The named interface, the one that has the named endpoint, or the default route's (IPv4's before IPv6's)."""
    if identity.interface:
        return next((u for u in host.uplinks if u.name == identity.interface), None)
    if identity.endpoints:
        own = set(identity.endpoints)
        return next((u for u in host.uplinks if any(a.ip in own for a in u.addresses)), None)
    families = (identity.underlay,) if identity.underlay else (4, 6)
    for family in families:
        for uplink in host.uplinks:
            if family in uplink.default_for and any(a.version == family for a in _addresses(uplink)):
                return uplink
    return None


def _addresses(uplink: Uplink) -> tuple[IPAddress, ...]:
    """The uplink's first address of each family that other hosts can reach."""
    usable = [a.ip for a in uplink.addresses if not (a.ip.is_link_local or a.ip.is_loopback)]
    firsts = (next((a for a in usable if a.version == version), None) for version in (4, 6))
    return tuple(a for a in firsts if a is not None)


def _overlay(host: Host, networks: Sequence[Network]) -> Iterator[IPAddress]:
    """Per family, this host's own address inside its oldest exposed network: what it sends into the overlay itself
    comes from there, so that the answer finds its way back into the overlay (and past a strict rp_filter)."""
    own = [a.ip for uplink in host.uplinks for a in uplink.addresses]
    exposed = sorted((n for n in networks if n.exposed), key=lambda n: (n.since, n.name))
    for version in (4, 6):
        inside = (a for n in exposed for s in n.subnets for a in own if a.version == version == s.version and a in s)
        first = next(inside, None)
        if first is not None:
            yield first


def _no_uplink(identity: Identity, host: Host, underlay: int) -> str:
    seen = ", ".join(u.name for u in host.uplinks) or "none"
    if identity.interface and not any(u.name == identity.interface for u in host.uplinks):
        return f"there is no interface {identity.interface} (setting `interface`); found: {seen}"
    if identity.interface or identity.endpoints:
        return f"no IPv{underlay} endpoint on the chosen uplink; set `endpoint` or `underlay`"
    return f"no default route, so no uplink could be chosen; set `interface` or `endpoint` (interfaces: {seen})"
