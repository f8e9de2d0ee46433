"""What a topology file says of the way between hosts beyond segments and routers: `routes`, `firewall`,
`tunnels`. Pure.

`schema` calls this; `wiring` makes the routes, `tunnels` the rest.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from weft.errors import TopologyError
from weft.lab import fields
from weft.lab.topology import EVERYWHERE, Hop, Host, Port, Segment, Tunnel, TunnelPeer
from weft.model import IPAddress, IPInterface, IPNetwork

TOOLS = ("iptables", "ip6tables")
WIREGUARD = 51820
OVERHEAD = 80
"""Octets that WireGuard needs at most: 40 of IPv6, 8 of UDP, 32 of its own. wg-quick reserves as much."""


def routes(value: object, where: str, ports: Sequence[Port]) -> tuple[Hop, ...]:
    """A host's own routes: `{to: 10.0.0.0/8, via: 192.168.4.6}`; `to: default` is everything."""
    found: dict[IPNetwork, Hop] = {}
    for raw in fields.listing([value] if isinstance(value, Mapping) else value, where):
        given = fields.mapping(raw, where, ("to", "via"))
        via = _address(given.get("via"), f"{where}.via")
        port = next((p for p in ports for net in p.segment.subnets if via in net), None)
        if port is None:
            reached = ", ".join(str(net) for p in ports for net in p.segment.subnets)
            raise TopologyError(f"{where}.via: {via} is on none of the host's segments ({reached})")
        said = given.get("to")
        to = EVERYWHERE[via.version] if said == "default" else fields.subnet(said, f"{where}.to")
        if to.version != via.version:
            raise TopologyError(f"{where}: {to} can't be reached via {via}: one is IPv4, the other IPv6")
        if to in found:
            raise TopologyError(f"{where}: there is a route to {to} already")
        found[to] = Hop(to, port.interface, via)
    return tuple(found.values())


def _address(value: object, where: str) -> IPAddress:
    try:
        return ip_address(str(value))
    except ValueError as error:
        raise TopologyError(f"{where}: {value!r} is not an address, like 10.0.0.11") from error


def firewall(value: object, where: str) -> tuple[tuple[str, ...], ...]:
    """Commands of iptables or ip6tables, as words."""
    found = []
    for item in fields.listing(value, where):
        words = tuple(shlex.split(str(item)))
        if not words or words[0] not in TOOLS:
            raise TopologyError(f"{where}: {item!r} is no command of {' or '.join(TOOLS)}")
        found.append(words)
    return tuple(found)


# -- tunnels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """A host on a tunnel, as the file has it. `endpoint`: where the others call it, None: they don't."""

    host: str
    addresses: tuple[IPInterface, ...]
    behind: tuple[IPNetwork, ...]
    endpoint: tuple[IPAddress, int] | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """What all ends of a tunnel have in common. `listen`: the hosts that may be called."""

    device: str
    subnets: tuple[IPNetwork, ...]
    over: Segment
    port: int
    listen: frozenset[str]


def tunnels(value: object, hosts: Sequence[Host], segments: Mapping[str, Segment]) -> tuple[Host, ...]:
    """The hosts with the ends of the tunnels that the file names: each member of a tunnel has all others as peers."""
    found = {host.name: host for host in hosts}
    for key, raw in fields.mapping(value, "tunnels").items():
        where = f"tunnels.{fields.name(key, 'tunnels')}"
        if key in segments:
            raise TopologyError(f"{where}: a segment has that name already")
        for name, tunnel in _tunnel(fields.interface(key, where), raw, found, segments).items():
            _apart(tunnel, found[name], where)
            found[name] = replace(found[name], tunnels=(*found[name].tunnels, tunnel))
    return tuple(found.values())


def _tunnel(device: str, raw: object, hosts: Mapping[str, Host], segments: Mapping[str, Segment]) -> dict[str, Tunnel]:
    where = f"tunnels.{device}"
    given = fields.mapping(raw, where, ("subnet", "over", "members", "listen", "port", "keepalive", "mtu"))
    named = fields.mapping(given.get("members"), f"{where}.members")
    for name in named:
        if name not in hosts:
            raise TopologyError(f"{where}.members: there is no host {name!r}; {fields.nearest(name, hosts)}")
    if len(named) < 2:
        raise TopologyError(f"{where}.members: a tunnel needs two hosts, like `{{a: 10.9.0.1, b: 10.9.0.2}}`")
    over = _over(given.get("over"), where, [hosts[name] for name in named], segments)
    shape = _Shape(
        device,
        (fields.subnet(given.get("subnet"), f"{where}.subnet"),),
        over,
        fields.whole(given.get("port", WIREGUARD), f"{where}.port", 1, 65535),
        frozenset(fields.choice(n, f"{where}.listen", tuple(named)) for n in _listen(given, named, where)),
    )
    keepalive = fields.whole(given.get("keepalive", 0), f"{where}.keepalive", 0, 65535)
    mtu = fields.whole(given.get("mtu", over.mtu - OVERHEAD), f"{where}.mtu", 576, 65535)
    members = {name: _member(item, f"{where}.members.{name}", hosts[name], shape) for name, item in named.items()}
    _unlike(members.values(), where)
    return {
        name: Tunnel(device, m.addresses, mtu, shape.port, _peers(m, members, keepalive)) for name, m in members.items()
    }


def _listen(given: Mapping[str, object], named: Mapping[str, object], where: str) -> list[object]:
    said: list[object] = fields.listing(given.get("listen"), f"{where}.listen") if "listen" in given else [*named]
    if not said:
        raise TopologyError(f"{where}.listen: nobody could call anybody; name at least one of {', '.join(named)}")
    return said


def _over(said: object, where: str, members: Sequence[Host], segments: Mapping[str, Segment]) -> Segment:
    """The segment that carries the tunnel: the one that all members are on."""
    if said is not None:
        segment = segments[fields.choice(said, f"{where}.over", tuple(segments))]
        for host in members:
            if _on(host, segment) is None:
                raise TopologyError(f"{where}.over: host {host.name} is not on segment {segment.name}")
        return segment
    shared = [one for one in segments.values() if all(_on(host, one) for host in members)]
    if len(shared) != 1:
        found = ", ".join(one.name for one in shared) or "none"
        raise TopologyError(f"{where}.over: say over which segment it runs; its members share {found}")
    return shared[0]


def _on(host: Host, segment: Segment) -> Port | None:
    return next((port for port in host.ports if port.segment == segment), None)


def _member(raw: object, where: str, host: Host, shape: _Shape) -> _Member:
    """`172.24.90.6`, or `{address: 172.24.90.6, behind: [192.168.4.0/24]}`."""
    given = fields.mapping(raw, where, ("address", "behind")) if isinstance(raw, Mapping) else {"address": raw}
    address = fields.address_in(given.get("address"), f"{where}.address", shape.subnets)
    behind = tuple(fields.subnet(n, f"{where}.behind") for n in fields.listing(given.get("behind"), f"{where}.behind"))
    port = _on(host, shape.over)
    assert port is not None
    endpoint = (port.addresses[0].ip, shape.port) if host.name in shape.listen else None
    return _Member(host.name, (address,), behind, endpoint)


def _unlike(members: Iterable[_Member], where: str) -> None:
    """No address twice, and nothing behind two of them: WireGuard sends to one."""
    owner: dict[IPNetwork, str] = {}
    for member in members:
        for net in (*(ip_network(a.ip) for a in member.addresses), *member.behind):
            for other, name in owner.items():
                if net.version == other.version and net.overlaps(other):
                    raise TopologyError(f"{where}.members.{member.host}: {net} overlaps {other} of {name}")
            owner[net] = member.host


def _peers(own: _Member, members: Mapping[str, _Member], keepalive: int) -> tuple[TunnelPeer, ...]:
    return tuple(
        TunnelPeer(m.host, (*(ip_network(a.ip) for a in m.addresses), *m.behind), m.endpoint, keepalive)
        for m in members.values()
        if m is not own
    )


def _apart(tunnel: Tunnel, host: Host, where: str) -> None:
    taken = {"lo", *(port.interface for port in host.ports), *(one.device for one in host.tunnels)}
    if tunnel.device in taken:
        raise TopologyError(f"{where}: {host.name} has an interface {tunnel.device} already; choose another name")
    near = [(f"segment {p.segment.name}", net) for p in host.ports for net in p.segment.subnets]
    near += [(f"network {network.name}", net) for network in host.networks for net in network.subnets]
    near += [(f"tunnel {one.device}", a.network) for one in host.tunnels for a in one.addresses]
    for name, net in near:
        for address in tunnel.addresses:
            if address.network.version == net.version and address.network.overlaps(net):
                raise TopologyError(f"{where}.subnet: {address.network} overlaps {net} of {name} on {host.name}")
