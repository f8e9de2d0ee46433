"""The `ip` lines and the kernel settings that build a lab's underlay, and the names of everything in it. Pure.

`lab.Lab` carries them out. The root namespace is never touched: each veth pair is made inside the namespaces that it
connects, and the segments are bridges in a namespace of the lab's own, its fabric.

    fabric   weft.<lab>                      s0, s1, …   one bridge per segment
                                             m0p0, …     member 0's eth0, the far end: down = cut
    host     weft.<lab>.<host>               eth0, …
    container (engine none)
             weft.<lab>.<host>.<container>   eth0
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.lab.topology import Container, ContainerNetwork, Host, Port, Router, Topology

PREFIX = "weft"
INTERFACE_LENGTH = 15
"""IFNAMSIZ − 1 (linux/if.h)."""


def fabric(lab: str) -> str:
    """The namespace of the lab's segments. All other namespaces of the lab begin with this name and a dot, which no
    lab's name holds."""
    return f"{PREFIX}.{lab}"


def namespace(lab: str, host: str, container: str = "") -> str:
    """The namespace of a host or router, or of a container where no engine runs."""
    return ".".join(filter(None, (fabric(lab), host, container)))


def belongs(namespace_name: str, lab: str) -> bool:
    """Whether a namespace is this lab's."""
    return namespace_name == fabric(lab) or namespace_name.startswith(fabric(lab) + ".")


CROWD = 16
"""Members of a segment from which on they are told each other's Ethernet addresses. The kernel has one table of at most
1024 learned neighbours for all namespaces together, and what is told counts for nothing there."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What happens in one namespace: lines for `ip -batch`, and kernel settings (path under /proc/sys, value)."""

    namespace: str
    lines: tuple[str, ...]
    sysctls: tuple[tuple[str, str], ...] = ()


def cable(topology: Topology, member: str, segment: str) -> str:
    """The fabric's end of the cable between a host or router and a segment. KeyError if there is none."""
    for number, one in enumerate(topology.members):
        for plugged, port in enumerate(one.ports):
            if (one.name, port.segment.name) == (member, segment):
                return f"m{number}p{plugged}"
    raise KeyError((member, segment))


def bridge(topology: Topology, segment: str) -> str:
    """The bridge that is a segment, in the fabric."""
    return f"s{[s.name for s in topology.segments].index(segment)}"


def namespaces(topology: Topology) -> tuple[str, ...]:
    """Every namespace of the lab, the fabric first."""
    lab = topology.name
    names = [fabric(lab)]
    names += [namespace(lab, member.name) for member in topology.members]
    names += [
        namespace(lab, host.name, container.name)
        for host in topology.hosts
        if host.engine == "none"
        for _, container in host.containers()
    ]
    return tuple(names)


def underlay(topology: Topology) -> tuple[Batch, ...]:
    """Segments and cables, in the order in which they can be made: bridges, members, and then the cables' far ends."""
    crowds = _crowds(topology)
    return (
        Batch(fabric(topology.name), tuple(_bridges(topology))),
        *(_member(topology, member, crowds) for member in topology.members),
        Batch(fabric(topology.name), tuple(_far_ends(topology))),
    )


def networks(lab: str, host: Host, leased: bool = False) -> tuple[Batch, ...]:
    """The container networks of a host without an engine: a bridge each, a namespace per container. Only those that
    wait for a lease, or (`leased` False) only the others."""
    lines: list[str] = []
    inside: list[Batch] = []
    numbers = {container.name: number for number, (_, container) in enumerate(host.containers())}
    for network in (network for network in host.networks if network.leased == leased):
        device, mtu = bridge_name(network), f"mtu {network.mtu} " if network.mtu else ""
        lines += [f"link add {device} {mtu}type bridge", f"link set {device} up"]
        lines += [f"address add {gateway} dev {device} nodad" for gateway in network.gateways]
        for container in network.containers:
            where = namespace(lab, host.name, container.name)
            port = f"veth{numbers[container.name]}"
            lines.append(f"link add {port} {mtu}type veth peer name eth0 {mtu}netns {where}")
            lines.append(f"link set {port} master {device} up alias {container.name}")
            inside.append(Batch(where, tuple(_container(network, container)), _QUIET))
    return (Batch(namespace(lab, host.name), tuple(lines)), *inside)


def bridge_name(network: ContainerNetwork) -> str:
    """What the file says, else `br-web`; for a name that is too long, twelve hex digits as Docker has them."""
    name = network.bridge or f"br-{network.name}"
    return name if len(name) <= INTERFACE_LENGTH else "br-" + hashlib.sha256(network.name.encode()).hexdigest()[:12]


_QUIET = (
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),  # addresses work at once, not a second later
)
_FORWARDS = (("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
_FORWARDS_NOT = (("net/ipv4/ip_forward", "0"), ("net/ipv6/conf/all/forwarding", "0"))
"""A new namespace copies the machine's IPv4 settings; a lab's host starts as a fresh machine does."""
_CLOUD = tuple(
    (f"net/ipv4/conf/{which}/{name}", "0") for which in ("all", "default") for name in ("send_redirects", "rp_filter")
)
"""A cloud's network knows no shorter way between two of its machines, and no wrong one."""


def _bridges(topology: Topology) -> Iterator[str]:
    for segment in topology.segments:
        name = bridge(topology, segment.name)
        # No querier is there: with snooping on, whether multicast arrives would depend on who joined last.
        yield f"link add {name} mtu {segment.mtu} type bridge mcast_snooping 0"
        yield f"link set {name} alias {segment.name} addrgenmode none up"


def _far_ends(topology: Topology) -> Iterator[str]:
    for member in topology.members:
        for port in member.ports:
            end = cable(topology, member.name, port.segment.name)
            master = bridge(topology, port.segment.name)
            yield f"link set {end} master {master} alias {member.name}/{port.segment.name} addrgenmode none up"


def _member(topology: Topology, member: Host | Router, crowds: Mapping[str, Sequence[Crowd]]) -> Batch:
    lines = ["link set lo up"]
    for port in member.ports:
        others = [(one, far) for one, far in crowds.get(port.segment.name, ()) if one is not member]
        lines += plug(topology, member, port, _mac(member, port) if others else "")
        lines += _acquainted(port, others)
    for hop in topology.hops(member):
        via = f"via {hop.via} " if hop.via else ""
        lines.append(f"route add {hop.dst} {via}dev {hop.interface}")
    forwards = _FORWARDS if isinstance(member, Router) or member.forwards else _FORWARDS_NOT
    cloud = _CLOUD if isinstance(member, Host) and member.compute else ()
    return Batch(namespace(topology.name, member.name), tuple(lines), (*_QUIET, *forwards, *cloud))


def plug(topology: Topology, member: Host | Router, port: Port, mac: str = "") -> Iterator[str]:
    """The cable from a member's interface to its segment, seen from the member. `mac`: "" for any."""
    far = cable(topology, member.name, port.segment.name)
    mtu = port.segment.mtu
    own = f"address {mac} " if mac else ""
    there = f"peer name {far} mtu {mtu} netns {fabric(topology.name)}"
    yield f"link add {port.interface} {own}mtu {mtu} type veth {there}"
    yield f"link set {port.interface} alias {port.segment.name} up"
    for address in port.addresses:
        yield f"address add {address} dev {port.interface} nodad"


Crowd = tuple[Host | Router, Port]


def _crowds(topology: Topology) -> dict[str, list[Crowd]]:
    """Segments on which everybody is to know everybody from the beginning, by name: their members."""
    found: dict[str, list[Crowd]] = {segment.name: [] for segment in topology.segments}
    for member in topology.members:
        for port in member.ports:
            found[port.segment.name].append((member, port))
    return {name: crowd for name, crowd in found.items() if len(crowd) > CROWD}


def _mac(member: Host | Router, port: Port) -> str:
    """An Ethernet address of the member's own (locally administered)."""
    return "02:" + hashlib.sha256(f"{member.name}/{port.segment.name}".encode()).digest()[:5].hex(":")


def _acquainted(port: Port, others: Sequence[Crowd]) -> Iterator[str]:
    for member, far in others:
        for address in far.addresses:
            yield f"neighbour add {address.ip} lladdr {_mac(member, far)} dev {port.interface} nud permanent"


def _container(network: ContainerNetwork, container: Container) -> Iterator[str]:
    yield "link set lo up"
    yield "link set eth0 up"
    for address in container.addresses:
        yield f"address add {address} dev eth0 nodad"
    if not network.internal:
        for gateway in network.gateways:
            yield f"route add default via {gateway.ip} dev eth0"
