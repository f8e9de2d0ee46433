"""What a lab consists of, every address and route worked out: the values that a topology file becomes.

`schema.read` makes a Topology; `wiring` turns it into `ip` lines, `lab` into processes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network
from typing import Literal

from weft.lab.compute.table import Table
from weft.model import IPAddress, IPInterface, IPNetwork

EngineKind = Literal["docker", "none"]
ServiceName = Literal[
    "etcd", "bind", "compute", "docker", "flanneld", "registrar", "agent", "discovery", "router", "route-manager"
]
SERVERS: tuple[ServiceName, ...] = ("etcd", "bind", "compute")
"""What the lab's hosts may ask; the rest is a host's own."""
SERVICES: tuple[ServiceName, ...] = (
    *SERVERS,
    "docker",
    "flanneld",
    "registrar",
    "agent",
    "discovery",
    "router",
    "route-manager",
)
"""What can run in a host, the daemons last."""

COMPUTE = 8080
"""TCP port of a cloud's API in a lab; a real one has a name and a certificate in its place."""
EVERYWHERE: dict[int, IPNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
"""Destination of a default route, by IP version."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An Ethernet that hosts and routers are plugged into: a bridge in the lab's fabric namespace. `mtu` in octets.

    `gateways`: addresses of the one member that all others send everything to, if the segment is a cloud's network."""

    name: str
    subnets: tuple[IPNetwork, ...]
    mtu: int
    gateways: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """Where a host or a router is plugged in. `interface` is its name there: `eth0`, `eth1`, …"""

    interface: str
    segment: Segment
    addresses: tuple[IPInterface, ...]

    def address(self, version: int) -> IPAddress | None:
        """The address of IP version 4 or 6, or None."""
        return next((a.ip for a in self.addresses if a.version == version), None)

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """Whom this member sends everything to, where its segment is a cloud's network."""
        own = {address.ip for address in self.addresses}
        return () if own & {*self.segment.gateways} else self.segment.gateways


@dataclass(frozen=True, slots=True)
class Hop:
    """An underlay route: `dst` through `via`, or straight out of `interface` where `via` is None."""

    dst: IPNetwork
    interface: str
    via: IPAddress | None


@dataclass(frozen=True, slots=True)
class Container:
    """A container of one network. Its addresses are known before it runs, unless its network waits for a lease."""

    name: str
    addresses: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True)
class ContainerNetwork:
    """A Docker network, or with `engine: none` a bridge. `internal`: without a default route, as Docker means it.

    `leased`: its subnets are those that flanneld gets for the host; without any, they aren't known yet. `bridge`: the
    bridge's name where the file says one. `serve`: TCP port of a web server in each container, 0 for none. `mtu`: in
    octets, 0 for the kernel's own."""

    name: str
    subnets: tuple[IPNetwork, ...]
    labels: tuple[tuple[str, str], ...] = ()
    internal: bool = False
    containers: tuple[Container, ...] = ()
    leased: bool = False
    bridge: str = ""
    serve: int = 0
    mtu: int = 0

    @property
    def gateways(self) -> tuple[IPInterface, ...]:
        """The bridge's own addresses: the first of each subnet, as Docker does it."""
        return tuple(nth(subnet, 1) for subnet in self.subnets)

    def exposed(self, by_default: bool) -> bool:
        """What the label `weft.expose` says, else the default."""
        said = dict(self.labels).get("weft.expose")
        return by_default if said is None else said.lower() in ("true", "1", "yes", "on")

    def at(self, subnets: tuple[IPNetwork, ...]) -> ContainerNetwork:
        """The same network with these subnets; containers follow the gateway. IndexError if one is too small."""
        numbered = enumerate(self.containers, start=2)
        containers = (Container(c.name, tuple(nth(subnet, n) for subnet in subnets)) for n, c in numbered)
        return replace(self, subnets=subnets, containers=tuple(containers))


@dataclass(frozen=True, slots=True)
class Etcd:
    """A member of the lab's etcd cluster. `cluster`: name and address of every member, this one too. `key`, `config`:
    what is put when the lab comes up (flannel's network config as JSON); empty for nothing."""

    address: IPAddress
    cluster: tuple[tuple[str, IPAddress], ...]
    key: str = ""
    config: str = ""


@dataclass(frozen=True, slots=True)
class Flanneld:
    """What a host's `weft flanneld` is told: words of its command line, and variables for what nobody else may read.
    `subnet_file`, `socket`: the paths that follow from them, as the host sees them."""

    flags: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    subnet_file: str
    socket: str


@dataclass(frozen=True, slots=True)
class Bind:
    """A name server with one zone that may be changed by whoever has the lab's key. `host`: where it runs."""

    host: str
    address: IPAddress
    domain: str


@dataclass(frozen=True, slots=True)
class Compute:
    """A cloud's API and its metadata server on a host that is the router of its network, too, and forwards by the
    API's routes. `network`: that network's name; `delay`: seconds that an operation takes."""

    host: str
    address: IPAddress
    network: str
    delay: float
    table: Table

    @property
    def endpoint(self) -> str:
        """Where it answers: `http://10.240.0.1:8080`."""
        return f"http://{self.authority}"

    @property
    def authority(self) -> str:
        """The same without a scheme."""
        return f"{self.address if self.address.version == 4 else f'[{self.address}]'}:{COMPUTE}"


@dataclass(frozen=True, slots=True)
class DockerRouter:
    """A host's `weft discovery` and `weft router`: variables of each, None where it doesn't run. `number`: the host's,
    from 1 on. `routing`: the text of its routing.yaml, "" for none. `stacks`: VNI and subnets of each of its stacks.
    `keyed`: the host whose name server's key the discovery is told, "" for none."""

    number: int
    discovery: tuple[tuple[str, str], ...] | None = None
    router: tuple[tuple[str, str], ...] | None = None
    routing: str = ""
    stacks: tuple[tuple[int, tuple[IPNetwork, ...]], ...] = ()
    keyed: str = ""


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """A host at the other end of a tunnel. `allowed`: its address and what is behind it. `endpoint`: where it listens,
    None: it is not called, it calls. `keepalive`: seconds, 0 for none."""

    host: str
    allowed: tuple[IPNetwork, ...]
    endpoint: tuple[IPAddress, int] | None
    keepalive: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A host's end of a WireGuard tunnel, carried by a process of its own. `device`: the tunnel's name too."""

    device: str
    addresses: tuple[IPInterface, ...]
    mtu: int
    port: int
    peers: tuple[TunnelPeer, ...]

    @property
    def hops(self) -> tuple[Hop, ...]:
        """Routes into it: what is behind the others. Their own addresses are on the link."""
        behind = (subnet for peer in self.peers for subnet in peer.allowed if subnet.prefixlen < subnet.max_prefixlen)
        return tuple(Hop(subnet, self.device, None) for subnet in behind)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab. `agent`: settings of its `weft agent` (name as in the settings file, value as text), or
    None: it runs none. `flanneld`, `etcd`, `bind`, `compute`, `stacks` (docker-router's daemons): None where it runs
    none. `registrar`, `route_manager`: variables of theirs, or None. `routes`: over those that follow from the routers.
    `firewall`: commands of iptables. `forwards`: from the beginning, not only when a daemon makes it."""

    name: str
    ports: tuple[Port, ...]
    engine: EngineKind
    networks: tuple[ContainerNetwork, ...]
    agent: tuple[tuple[str, str], ...] | None
    flanneld: Flanneld | None = None
    etcd: Etcd | None = None
    registrar: tuple[tuple[str, str], ...] | None = None
    routes: tuple[Hop, ...] = ()
    firewall: tuple[tuple[str, ...], ...] = ()
    forwards: bool = False
    tunnels: tuple[Tunnel, ...] = ()
    bind: Bind | None = None
    stacks: DockerRouter | None = None
    compute: Compute | None = None
    route_manager: tuple[tuple[str, str], ...] | None = None

    def runs(self, service: ServiceName) -> bool:
        """Whether this service is part of the host."""
        if service == "docker":
            return self.engine == "docker"
        if service in ("discovery", "router"):
            return self.stacks is not None and getattr(self.stacks, service) is not None
        return getattr(self, service.replace("-", "_")) is not None

    @property
    def services(self) -> tuple[ServiceName, ...]:
        """Every service of the host, the daemons last."""
        return tuple(service for service in SERVICES if self.runs(service))

    def leasing(self, subnets: tuple[IPNetwork, ...], mtu: int = 0) -> Host:
        """The same host when flanneld has these subnets for it, and says so much about their MTU. IndexError if one is
        too small for its containers."""
        given = (replace(net.at(subnets), mtu=mtu) if net.leased else net for net in self.networks)
        return replace(self, networks=tuple(given))

    def containers(self) -> Iterator[tuple[ContainerNetwork, Container]]:
        """All of its containers, each with the network that it is on."""
        for network in self.networks:
            for container in network.containers:
                yield network, container

    def exposes(self, network: ContainerNetwork) -> bool:
        """Whether this host's daemon tells the other hosts about this network."""
        if self.stacks is not None:
            return bool(self.spaces(network))
        told = dict(self.agent or ()).get("expose") or dict(self.registrar or ()).get("EXPOSE", "all")
        return network.exposed(by_default=told != "labelled")

    def spaces(self, network: ContainerNetwork) -> frozenset[int]:
        """VNIs of the stacks that this network is told for."""
        stacks = self.stacks.stacks if self.stacks else ()
        return frozenset(vni for vni, subnets in stacks if all(_within(subnet, subnets) for subnet in network.subnets))


@dataclass(frozen=True, slots=True)
class Router:
    """A plain router between segments: it forwards, and knows nothing of weft."""

    name: str
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab."""

    name: str
    segments: tuple[Segment, ...]
    routers: tuple[Router, ...]
    hosts: tuple[Host, ...]

    @property
    def members(self) -> tuple[Host | Router, ...]:
        """Everything that is plugged into a segment."""
        return (*self.routers, *self.hosts)

    def host(self, name: str) -> Host | None:
        """The host of that name, or None."""
        return next((host for host in self.hosts if host.name == name), None)

    def hops(self, member: Host | Router) -> tuple[Hop, ...]:
        """Underlay routes that this member needs: to every segment that a router leads to, and a default route. A route
        of its own takes the place of the one to the same destination.

        A host without a router gets its default route straight out of its first interface, since real machines have
        one and programs look for it."""
        hops = [*to_gateways(member), *far_segments(member, self.routers)]
        if not isinstance(member, Host):
            return tuple(hops)
        hops += default_routes(member, self.routers)
        said = {hop.dst for hop in member.routes}
        return (*(hop for hop in hops if hop.dst not in said), *member.routes)


def _within(subnet: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    """Whether it lies in one of them."""
    return any(subnet.version == other.version and subnet.subnet_of(other) for other in others)  # type: ignore[arg-type]


def nth(subnet: IPNetwork, index: int) -> IPInterface:
    """The subnet's address number `index`, with the subnet's prefix length. IndexError if it has none."""
    if index >= subnet.num_addresses - (1 if subnet.version == 4 else 0):  # IPv4's last address is the broadcast
        raise IndexError(f"{subnet} has no host number {index}")
    address = subnet[index]
    return ip_interface(f"{address}/{subnet.prefixlen}")


def to_gateways(member: Host | Router) -> Iterator[Hop]:
    """On a cloud's network a member is alone with its gateway: the way to that, and by it to all others there."""
    for port in member.ports:
        for gateway in port.gateways:
            yield Hop(ip_network(gateway), port.interface, None)
            for subnet in port.segment.subnets:
                if subnet.version == gateway.version:
                    yield Hop(subnet, port.interface, gateway)


def far_segments(member: Host | Router, routers: Sequence[Router]) -> Iterator[Hop]:
    """Routes to the segments that `member` isn't plugged into, each over the fewest routers (breadth first)."""
    seen = {port.segment.name for port in member.ports}
    frontier: list[tuple[Segment, Mapping[int, Hop] | None]] = [(port.segment, None) for port in member.ports]
    while frontier:
        segment, through = frontier.pop(0)
        for router in _on(segment, routers, but=member):
            entry = through if through is not None else _entries(member, segment, router)
            for port in router.ports:
                if port.segment.name in seen:
                    continue
                seen.add(port.segment.name)
                frontier.append((port.segment, entry))
                for subnet in port.segment.subnets:
                    if hop := entry.get(subnet.version):
                        yield Hop(subnet, hop.interface, hop.via)


def default_routes(host: Host, routers: Sequence[Router]) -> Iterator[Hop]:
    """One default route per IP version that the host's first interface has an address of. A cloud's own network leads
    nowhere else."""
    if not host.ports or host.compute is not None:
        return
    first = host.ports[0]
    router = next(iter(_on(first.segment, routers)), None)
    entry = _entries(host, first.segment, router) if router else {}
    for gateway in first.gateways:
        entry.setdefault(gateway.version, Hop(EVERYWHERE[gateway.version], first.interface, gateway))
    for version in sorted({address.version for address in first.addresses}):
        hop = entry.get(version)
        yield Hop(EVERYWHERE[version], first.interface, hop.via if hop else None)


def _on(segment: Segment, routers: Iterable[Router], but: Host | Router | None = None) -> Iterator[Router]:
    for router in routers:
        if router is not but and any(port.segment == segment for port in router.ports):
            yield router


def _entries(member: Host | Router, segment: Segment, router: Router) -> dict[int, Hop]:
    """How `member` sends into `router` over the segment that they share, by IP version; `dst` is left at default."""
    interface = next(port.interface for port in member.ports if port.segment == segment)
    far = next(port for port in router.ports if port.segment == segment)
    return {a.version: Hop(EVERYWHERE[a.version], interface, a.ip) for a in far.addresses}
