"""The firewall rules that let the overlay through, and those that keep groups apart. Pure.

`core/plan.py` asks `wanted` which chains and jumps this host needs. Where in other people's chains a jump belongs:
`firewall_places.py`; how iptables words it all: `ruleset.py`; how it is carried out: `firewall_script.py`.

A packet's walk. A container of ours sends to one on another host: it is forwarded out of the VXLAN device (FWD), and
must not be masqueraded on its way (NAT). At the other end it comes in from the device, passes Docker's drops in raw
PREROUTING (RAW), and is forwarded into the container's bridge (FWD). Both ends clamp TCP's segment size (MSS). What
groups may not send each other is dropped before anybody's accepts (ISO), and FWD accepts nothing before it has asked
what the administrator refuses (ADM). Hosts that relay watch each other through the tunnel (IN). The tunnel's own
packets may be sent to a gateway in place of their endpoint: in a conntrack zone of their own (ZON), they are translated
(OUT).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import NamedTuple
from zlib import crc32

from weft.core.refusals import Refusal, Traffic, about
from weft.core.ruleset import DOCKER_USER, FAMILIES, INNER, Family, Parent, chain_name
from weft.model import IPAddress, IPNetwork
from weft.objects import Chain, Jump

CLAMP = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
REJECT = {4: "REJECT --reject-with icmp-admin-prohibited", 6: "REJECT --reject-with icmp6-adm-prohibited"}
WATCHING = 4784
"""UDP port of BFD over several hops (RFC 5883), in the tunnel."""
PASSING = "0x4c000000/0x4c000000"
"""The mark on connections (not on packets, where others could mistake it) that come out of a tunnel and go into one:
nat's POSTROUTING can't ask where a packet came in."""
FORWARDED = (DOCKER_USER, "FORWARD")
"""FORWARD has a jump besides DOCKER-USER's because Docker takes its own jump to DOCKER-USER out and in again whenever a
network is created, and because `iptables -F FORWARD` takes it out for good."""


@dataclass(frozen=True, slots=True)
class Site:
    """One device of this host's, and what its rules depend on.

    `dev`: its name, or what stands for it where packets go without one. `own`: this host's exposed subnets. `chains`:
    the foreign chains there are (`model.Host`). `refused`: what an administrator forbids. `apart`: pairs of subnets
    that may not talk. `transit`: devices (itself among them) between which this host may relay. `label`: in the names
    of the chains, "" for the device's name. `heard`: addresses at which the others probe this host, by whatever way
    that comes; none: through the device.
    """

    dev: str
    own: tuple[IPNetwork, ...] = ()
    chains: frozenset[Parent] = frozenset()
    refused: tuple[Refusal, ...] = ()
    apart: tuple[tuple[IPNetwork, IPNetwork], ...] = ()
    transit: tuple[str, ...] = ()
    label: str = ""
    heard: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """How the network that the hosts of a cluster share out among them is treated (`model.Profile`)."""

    network: IPNetwork
    forward: bool = True
    masquerade: bool = False
    clamp: bool = True


@dataclass(frozen=True, slots=True)
class Diversion:
    """This host's tunnel packets to UDP `port` of `endpoint` go to the same port of `gateway`."""

    endpoint: IPAddress
    gateway: IPAddress
    port: int


class _Set(NamedTuple):
    table: str
    suffix: str
    rules: tuple[str, ...]
    parents: tuple[str, ...]
    traffic: tuple[Traffic, ...] = ()
    """What its rules accept that an administrator may have refused, and …"""
    gates: tuple[str, ...] = ()
    """… which packets are to go by his refusals: those, and no others."""


@dataclass(frozen=True, slots=True)
class _Here:
    """A site, for one family."""

    site: Site
    family: Family
    own: tuple[IPNetwork, ...] = field(default=())

    def has(self, table: str, parent: str) -> bool:
        return (self.family, table, parent) in self.site.chains


# ---- layouts ----


def wanted(site: Site) -> list[Chain | Jump]:
    """What a device of ours needs. The forward chain is wanted even without a subnet: it is what keeps networks that
    are not exposed out of the overlay, on hosts too whose FORWARD policy is ACCEPT. Rules are in the exact words of
    iptables-save."""
    result: list[Chain | Jump] = []
    for here in _by_family(site):
        dev = site.dev
        rest = (f"-i {dev} -j DROP", f"-o {dev} -j {REJECT[here.family]}")
        result.extend(_hooked(here, _sets(here, rest)))
    return result


def wanted_by_shared(site: Site, underlay: int) -> list[Chain | Jump]:
    """What a device needs that another daemon looks after: its own packets pass, whatever we have to say about ours.
    `underlay`: the IP version that is wanted even without a subnet of it, for what this host relays."""
    result: list[Chain | Jump] = []
    for here in _by_family(site):
        if here.own or here.family == underlay:
            result.extend(_hooked(here, _sets(here, ())))
    return result


def wanted_by_span(site: Site, spans: Iterable[Span]) -> list[Chain | Jump]:
    """What a host needs whose subnets are a share of each of `spans`, as flannel's are: all of the span may pass, on
    whatever bridge the operator put it."""
    result: list[Chain | Jump] = []
    for span in spans:
        here = _of_family(site, 4 if span.network.version == 4 else 6)
        result.extend(_hooked(here, _span_sets(here, span), ("nat",) if span.masquerade else ()))
    return result


def wanted_for(diversions: Iterable[Diversion], site: Site) -> list[Chain | Jump]:
    """What sends this host's own tunnel packets elsewhere.

    An old conntrack entry would keep the former destination for as long as packets flow. So what is diverted is looked
    up in a zone of its own, one for each gateway: no entry there ever knew another way."""
    result: list[Chain | Jump] = []
    asked = tuple(diversions)
    for family in FAMILIES:
        mine = [one for one in asked if one.endpoint.version == one.gateway.version == family]
        zones = tuple(f"{_tunnel_packets(one)} -j CT {_zone(one)}" for one in mine)
        moves = tuple(f"{_tunnel_packets(one)} -j DNAT --to-destination {one.gateway}" for one in mine)
        sets = (_Set("raw", "ZON", zones, ("OUTPUT",)), _Set("nat", "OUT", moves, ("OUTPUT",)))
        result.extend(_hooked(_of_family(site, family), sets, ("raw", "nat")))
    return result


def _tunnel_packets(one: Diversion) -> str:
    return f"-d {one.endpoint}/{one.endpoint.max_prefixlen} -p udp -m udp --dport {one.port}"


def _zone(one: Diversion) -> str:
    """Zone 0 is everybody's; the others are ours to choose."""
    return f"--zone {crc32(one.gateway.packed) % 65535 + 1}"


def _by_family(site: Site) -> Iterator[_Here]:
    return (_of_family(site, family) for family in FAMILIES)


def _of_family(site: Site, family: Family) -> _Here:
    return _Here(site, family, tuple(subnet for subnet in site.own if subnet.version == family))


# ---- chains ----


def _hooked(here: _Here, sets: Iterable[_Set], forced: tuple[str, ...] = ()) -> Iterator[Chain | Jump]:
    """Each set as a chain and the jumps to it, where there is something to hook into. `forced`: tables that are wanted
    although nobody else has rules in them, if this host has a tool at all."""
    family, label = here.family, here.site.label or here.site.dev
    has_tool = any(parent[0] == family for parent in here.site.chains)
    for table, suffix, rules, parents, traffic, gates in sets:
        hooks = [p for p in parents if here.has(table, p) or (table in forced and has_tool)]
        if not hooks or not rules:
            continue
        name, inner = chain_name(label, suffix), chain_name(label, INNER)
        refusals = about(here.site.refused, family, traffic)
        if refusals:
            yield Chain(family, table, inner, refusals)
            rules = (*(f"{gate} -j {inner}" for gate in gates), *rules)
        yield Chain(family, table, name, rules)
        yield from (Jump(family, table, parent, name) for parent in hooks)


def _isolated(here: _Here, forward: _Set) -> tuple[_Set, ...]:
    """`forward` with what keeps groups apart in front of it. Such packets are dropped without a word, since an answer
    would tell that somebody is there. In mangle, which comes before filter: nobody's accept can be first. Hosts' own
    packets aren't forwarded, and don't come by."""
    drops = tuple(_drops(here))
    if here.has("mangle", "FORWARD"):
        return (_Set("mangle", "ISO", drops, ("FORWARD",)), forward)
    return (forward._replace(rules=drops + forward.rules),)


def _drops(here: _Here) -> Iterator[str]:
    """Both directions of each pair; of subnets side by side that one of ours may not talk with, one rule."""
    opposite: dict[IPNetwork, set[IPNetwork]] = {}
    for pair in here.site.apart:
        if pair[0].version == pair[1].version == here.family:
            mine = [subnet for subnet in pair if any(map(subnet.overlaps, here.own))]
            for subnet in mine or pair[:1]:
                opposite.setdefault(subnet, set()).update(other for other in pair if other != subnet)
    ways = {
        way: None
        for subnet in sorted(opposite, key=_order)
        for other in _joined(opposite[subnet])
        for way in ((subnet, other), (other, subnet))
    }
    return (f"-s {source} -d {target} -j DROP" for source, target in ways)


def _joined(subnets: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    """The same addresses in as few networks as possible, of one family."""
    yield from collapse_addresses([subnet for subnet in subnets if isinstance(subnet, IPv4Network)])
    yield from collapse_addresses([subnet for subnet in subnets if isinstance(subnet, IPv6Network)])


def _order(subnet: IPNetwork) -> tuple[bytes, int]:
    return subnet.network_address.packed, subnet.prefixlen


def _sets(here: _Here, rest: tuple[str, ...]) -> tuple[_Set, ...]:
    """One chain per table. `rest`: what happens to packets of the device that weren't accepted."""
    dev, transit = here.site.dev, here.site.transit
    into = tuple(f"-d {subnet} -i {dev} -j ACCEPT" for subnet in here.own)
    out = tuple(f"-s {subnet} -o {dev} -j ACCEPT" for subnet in here.own)
    passing = tuple(f"-i {a} -o {b} -j ACCEPT" for a, b in _ways(dev, transit))
    marks = tuple(f"-i {dev} -o {other} -j CONNMARK --set-xmark {PASSING}" for other in transit)
    passed = (f"-o {dev} -m connmark --mark {PASSING} -j ACCEPT",) if transit else ()
    clamp = (f"-i {dev} {CLAMP}", f"-o {dev} {CLAMP}") if here.own or transit else ()
    traffic = (Traffic(targets=here.own, into=dev), Traffic(sources=here.own, out=dev)) if here.own else ()
    relayed = tuple(Traffic(into=a, out=b) for a, b in _ways(dev, transit))
    gates = (f"-i {dev}", f"! -i {dev} -o {dev}")
    forward = _Set("filter", "FWD", into + out + passing + rest, FORWARDED, traffic + relayed, gates)
    return (
        *_isolated(here, forward),
        _Set("filter", "IN", tuple(_watched(here)) if transit else (), ("INPUT",)),
        _Set("nat", "NAT", out + passed, ("POSTROUTING",)),
        _Set("raw", "RAW", into, ("PREROUTING",)),
        _Set("mangle", "MSS", (marks if here.has("nat", "POSTROUTING") else ()) + clamp, ("FORWARD",)),
    )


def _watched(here: _Here) -> Iterator[str]:
    """With flannel's DirectRouting, probes of a neighbour come in by the uplink."""
    heard = [f"-d {a}/{a.max_prefixlen}" for a in here.site.heard if a.version == here.family]
    for which in heard if here.site.heard else [f"-i {here.site.dev}"]:
        yield f"{which} -p udp -m udp --dport {WATCHING} -j ACCEPT"


def _ways(dev: str, transit: Iterable[str]) -> list[tuple[str, str]]:
    """Which device's packets may leave by which: the device's with each, and each with it."""
    others = [other for other in transit if other != dev]
    return [(dev, other) for other in transit] + [(other, dev) for other in others]


def _span_sets(here: _Here, span: Span) -> tuple[_Set, ...]:
    """What flanneld sets (FLANNEL-FWD, FLANNEL-POSTRTG), with two differences. What stays inside the span is accepted
    in nat and not only passed over, so that Docker's own masquerading behind it doesn't take it; and TCP is clamped."""
    net, dev = span.network, here.site.dev
    forward = (f"-s {net} -j ACCEPT", f"-d {net} -j ACCEPT") if span.forward else ()
    inside = (f"-s {net} -d {net} -j ACCEPT",)
    leaving = (
        f"-s {net} ! -d {MULTICAST[here.family]} -j MASQUERADE --random-fully",
        *(f"! -s {net} -d {subnet} -j RETURN" for subnet in here.own),
        f"! -s {net} -d {net} -j MASQUERADE --random-fully",
    )
    clamp = (f"-i {dev} {CLAMP}", f"-o {dev} {CLAMP}") if span.clamp else ()
    traffic, gates = (Traffic(sources=(net,)), Traffic(targets=(net,))), (f"-s {net}", f"! -s {net} -d {net}")
    return (
        *_isolated(here, _Set("filter", "FWD", forward, FORWARDED, traffic, gates)),
        _Set("nat", "NAT", inside + leaving if span.masquerade else inside, ("POSTROUTING",)),
        _Set("raw", "RAW", (f"-s {net} -d {net} -j ACCEPT",), ("PREROUTING",)),
        _Set("mangle", "MSS", clamp, ("FORWARD",)),
    )
