"""What this host tells the others about itself: settings + host facts + its networks → Node. Pure; called by world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from weft.backends.tunnel import vtep_mac
from weft.model import Host, IPAddress, IPInterface, Network, Node, Problem, Uplink


class Names(NamedTuple):
    """What an operator calls the settings. `underlay`: "" where there is no such setting."""

    interface: str = "`interface`"
    endpoint: str = "`endpoint`"
    underlay: str = "`underlay`"


NAMES = Names()


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
    names: Names = NAMES


@dataclass(frozen=True, slots=True)
class Self:
    """`node` None: this host can't take part yet, `problem` says why. `underlay`: 4 or 6."""

    node: Node | None
    underlay: int = 4
    uplink: str = ""
    problem: Problem | None = None


def describe(identity: Identity, host: Host, networks: Sequence[Network], current: tuple[IPAddress, ...] = ()) -> Self:
    """This host as the others are to know it. `current`: the endpoints that it has had until now; they are kept while
    the uplink has them, for another one means another device, here and in every peer's tables; also while there is no
    default route (it went with a cable that was pulled, say), for nothing else is known of the uplink then.

    A host that has IPv6, too, and loses its IPv4 address (it is renewed; somebody sets the interface up anew) would
    have all its tunnels over IPv6 at once, to peers that have them over IPv4: it takes no part until that is back."""
    uplink = _uplink(identity, host) or next((u for u in host.uplinks if _has_any(u, current)), None)
    endpoints = identity.endpoints or (_endpoints(uplink, host, current) if uplink else ())
    lost = next((a for a in current if a.version == 4), None)
    if lost is not None and not identity.underlay and endpoints and all(a.version == 6 for a in endpoints):
        text = f"this host has lost its address {lost}, where its tunnels end: all is kept as it is until it is back"
        return Self(None, 4, problem=Problem(identity.id, f"{text}; for tunnels over IPv6, restart weft"))
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
        overlay=tuple(overlay(host, networks)),
        version=identity.version,
        source=identity.source,
    )
    return Self(node, underlay, uplink.name if uplink else identity.interface)


def _has_any(uplink: Uplink, addresses: tuple[IPAddress, ...]) -> bool:
    return any(a.ip in addresses for a in uplink.addresses)


def _uplink(identity: Identity, host: Host) -> Uplink | None:
    """The named interface, the one that has the named endpoint, or that of the default route with the lowest metric
    (IPv4's before IPv6's)."""
    if identity.interface:
        return next((u for u in host.uplinks if u.name == identity.interface), None)
    if identity.endpoints:
        own = set(identity.endpoints)
        return next((u for u in host.uplinks if any(a.ip in own for a in u.addresses)), None)
    for family in (identity.underlay,) if identity.underlay else (4, 6):
        routes = (
            (route.metric, uplink) for uplink in host.uplinks for route in uplink.defaults if route.version == family
        )
        for _, uplink in sorted(routes, key=lambda found: found[0]):
            if any(a.version == family for a in _endpoints(uplink, host)):
                return uplink
    return None


def _endpoints(uplink: Uplink, host: Host, current: tuple[IPAddress, ...] = ()) -> tuple[IPAddress, ...]:
    """Of each family, the address of this uplink that tunnels are to end on: the present one; the source that its
    default route prefers; the first that came with a subnet. An address without one (/32, /128) is last: on a host
    that has others, it is a service's that may move to another host at any time (keepalived, anycast)."""
    sources = _preferred(uplink, host)
    subnets_first = sorted(filter(_is_reachable, uplink.addresses), key=lambda a: a.network.num_addresses == 1)
    candidates = [*sources, *(a.ip for a in subnets_first)]
    in_order = [*(a for a in current if a in candidates), *candidates]
    firsts = (next((a for a in in_order if a.version == version), None) for version in (4, 6))
    return tuple(a for a in firsts if a is not None)


def _preferred(uplink: Uplink, host: Host) -> list[IPAddress]:
    """What the uplink's default routes prefer as source, best route first. It may be on another interface: a host that
    is routed to over several uplinks has its address on the loopback or a dummy."""
    own = {a.ip for u in host.uplinks for a in u.addresses if _is_reachable(a)}
    in_order = sorted(uplink.defaults, key=lambda route: route.metric)
    return [route.source for route in in_order if route.source is not None and route.source in own]


def _is_reachable(address: IPInterface) -> bool:
    """Other hosts can send to it."""
    return not (address.ip.is_link_local or address.ip.is_loopback)


def overlay(host: Host, networks: Sequence[Network]) -> Iterator[IPAddress]:
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
        return f"there is no interface {identity.interface} (setting {identity.names.interface}); found: {seen}"
    if identity.interface or identity.endpoints:
        settings = " or ".join(filter(None, identity.names[1:]))
        return f"no IPv{underlay} endpoint on the chosen uplink; set {settings}"
    settings = " or ".join(identity.names[:2])
    return f"no default route, so no uplink could be chosen; set {settings} (interfaces: {seen})"
