"""The topology file: what may stand in it and what it means (docs/lab.md is its reference for people).

`read` is called with what YAML made of the file, by `weft lab up` and again by each later verb. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import combinations
from typing import cast

from weft.errors import TopologyError
from weft.lab import cloud, daemons, fields, underlay
from weft.lab.topology import Container, ContainerNetwork, EngineKind, Host, Port, Router, Segment, Topology, nth
from weft.model import IPInterface, IPNetwork

ENGINES: tuple[EngineKind, ...] = ("docker", "none")
FIRST_ROUTER, FIRST_HOST = 1, 11
"""Where automatic numbering starts in a segment: routers at .1, hosts at .11."""
TOP = ("name", "segments", "hosts", "routers", "tunnels", "engine", *daemons.KEYS)
HOST = (
    *("segments", "engine", "networks", "etcd", "bind", "compute", "forward", "routes", "firewall", "routing"),
    *daemons.KEYS,
)
NETWORK = ("subnet", "subnets", "labels", "internal", "containers", "bridge", "serve")
LEASED = "flannel"
"""As a network's subnet: the one that flanneld leases for its host."""
MEMBERSHIP = Mapping[str, Sequence[object]]
"""Segment → the addresses that the file names for one member."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for every host: the top of the file, and who may be asked."""

    top: Mapping[str, object]
    servers: daemons.Servers


def read(document: object, name: str) -> Topology:
    """The Topology that a parsed file describes; `name` is the lab's unless the file says one.

    Raises TopologyError that names the key, the value and the nearest right one."""
    top = fields.mapping(document, "the file", TOP)
    lab = fields.name(top.get("name", name), "name")
    segments = _segments(top.get("segments", {"lan": None}))
    hosts = {fields.name(key, "hosts"): _host_fields(key, value) for key, value in _some(top, "hosts").items()}
    routers = {
        fields.name(key, "routers"): fields.mapping(value, f"routers.{key}", ("segments",))
        for key, value in fields.mapping(top.get("routers"), "routers").items()
    }
    for twice in hosts.keys() & routers.keys():
        raise TopologyError(f"routers.{twice}: a host has that name already")
    wanted = {name: _membership(name, "routers", raw, segments) for name, raw in routers.items()}
    wanted |= {name: _membership(name, "hosts", raw, segments) for name, raw in hosts.items()}
    ports = cloud.enclosed(_ports(segments, wanted, frozenset(routers)), hosts)
    segments |= {port.segment.name: port.segment for plugs in ports.values() for port in plugs}
    defaults = Defaults(top, daemons.servers(top, hosts, ports))
    made = [_host(n, name, hosts[name], defaults, ports[name]) for n, name in enumerate(hosts, start=1)]
    topology = Topology(
        lab,
        tuple(segments.values()),
        tuple(Router(name, ports[name]) for name in routers),
        underlay.tunnels(top.get("tunnels"), made, segments),
    )
    for router in topology.routers:
        if len(router.ports) < 2:
            raise TopologyError(f"routers.{router.name}.segments: a router needs two of ({', '.join(segments)})")
    return topology


def _some(top: Mapping[str, object], key: str) -> dict[str, object]:
    found = fields.mapping(top.get(key), key)
    if not found:
        raise TopologyError(f"{key}: there is none; a lab needs at least one, like `{key}: {{a: {{}}}}`")
    return found


# -- segments -----------------------------------------------------------------------------------------------------


def _segments(value: object) -> dict[str, Segment]:
    found = {}
    for number, (key, raw) in enumerate(fields.mapping(value, "segments").items()):
        where = f"segments.{fields.name(key, 'segments')}"
        given = fields.mapping(raw, where, ("subnet", "subnets", "mtu"))
        subnets = _subnets(given, where) or (ip_network(f"172.31.{number}.0/24"),)
        least = 1280 if any(net.version == 6 for net in subnets) else 576
        found[key] = Segment(key, subnets, fields.whole(given.get("mtu", 1500), f"{where}.mtu", least, 65535))
    for one, other in combinations(found.values(), 2):
        _apart(one.subnets, other.subnets, f"segments.{other.name}.subnets", f"segment {one.name}")
    return found


def _subnets(given: Mapping[str, object], where: str) -> tuple[IPNetwork, ...]:
    if "subnet" in given and "subnets" in given:
        raise TopologyError(f"{where}: 'subnet' and 'subnets' mean the same; keep one")
    key = "subnet" if "subnet" in given else "subnets"
    found = tuple(fields.subnet(item, f"{where}.{key}") for item in fields.listing(given.get(key), f"{where}.{key}"))
    for one, other in combinations(found, 2):
        _apart((one,), (other,), f"{where}.{key}", str(one))
    return found


def _apart(these: Sequence[IPNetwork], those: Sequence[IPNetwork], where: str, other: str) -> None:
    for one in these:
        for two in those:
            if one.version == two.version and one.overlaps(two):
                raise TopologyError(f"{where}: {two} overlaps {one} of {other}")


# -- who is plugged in where, with which address --------------------------------------------------------------------


def _membership(name: str, kind: str, raw: Mapping[str, object], segments: Mapping[str, Segment]) -> MEMBERSHIP:
    where = f"{kind}.{name}.segments"
    value = raw.get("segments", next(iter(segments)) if len(segments) == 1 else [])
    given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(map(str, fields.listing(value, where)))
    for key in given:
        if key not in segments:
            raise TopologyError(f"{where}: there is no segment {key!r}; {fields.nearest(str(key), segments)}")
    if not given:
        raise TopologyError(f"{where}: which of the segments is it plugged into? ({', '.join(segments)})")
    return {str(key): fields.listing(item, f"{where}.{key}") for key, item in given.items()}


def _ports(
    segments: Mapping[str, Segment], wanted: Mapping[str, MEMBERSHIP], routers: frozenset[str]
) -> dict[str, tuple[Port, ...]]:
    """Every member's ports: first the addresses that the file names, then automatic ones around them."""
    taken: dict[IPInterface, str] = {}
    named: dict[tuple[str, str], list[IPInterface]] = {}
    for member, plugs in wanted.items():
        for segment, given in plugs.items():
            where = f"{member}.segments.{segment}"
            named[member, segment] = [fields.address_in(a, where, segments[segment].subnets) for a in given]
            for address in named[member, segment]:
                if address in taken:
                    raise TopologyError(f"{where}: {address.ip} is {taken[address]}'s already")
                taken[address] = member
    ports = {}
    for member, plugs in wanted.items():
        first = FIRST_ROUTER if member in routers else FIRST_HOST
        ports[member] = tuple(
            Port(f"eth{n}", segments[key], _addresses(segments[key], named[member, key], taken, first, member))
            for n, key in enumerate(plugs)
        )
    return ports


def _addresses(
    segment: Segment, named: Sequence[IPInterface], taken: dict[IPInterface, str], first: int, member: str
) -> tuple[IPInterface, ...]:
    """One address per subnet of the segment, unless the file names some: then exactly those."""
    return tuple(named) or tuple(_free(subnet, first, taken, member) for subnet in segment.subnets)


def _free(subnet: IPNetwork, first: int, taken: dict[IPInterface, str], member: str) -> IPInterface:
    start = int(str(first), 16) if subnet.version == 6 else first  # so that 10.0.0.11 and fd00::11 are one host
    for index in [*range(start, start + 4096), *range(1, start)]:
        try:
            address = nth(subnet, index)
        except IndexError:
            continue
        if address not in taken:
            taken[address] = member
            return address
    raise TopologyError(f"{member}: {subnet} has no address left; name a larger subnet")


# -- hosts ---------------------------------------------------------------------------------------------------------


def _host_fields(key: str, value: object) -> dict[str, object]:
    return fields.mapping(value, f"hosts.{key}", HOST)


def _host(number: int, name: str, raw: Mapping[str, object], defaults: Defaults, ports: tuple[Port, ...]) -> Host:
    where = f"hosts.{name}"
    wanted = raw.get("engine", defaults.top.get("engine", "docker"))
    engine = cast(EngineKind, fields.choice(wanted, f"{where}.engine", ENGINES))
    given = fields.mapping(raw.get("networks"), f"{where}.networks")
    networks = tuple(
        _network(f"{where}.networks", key, value, ip_network(f"10.{number}.{n}.0/24"))
        for n, (key, value) in enumerate(given.items(), start=1)
    )
    servers = defaults.servers
    daemon = daemons.read(raw, defaults.top, where, servers, daemons.Place(number, networks))
    etcd = daemons.etcd(name, raw, servers.cluster)
    compute = servers.compute if servers.compute and servers.compute.host == name else None
    host = Host(
        name,
        ports,
        engine,
        networks,
        daemon.agent,
        daemon.flanneld,
        etcd,
        daemon.registrar,
        underlay.routes(raw.get("routes"), f"{where}.routes", ports),
        underlay.firewall(raw.get("firewall"), f"{where}.firewall"),
        fields.flag(raw.get("forward", compute is not None), f"{where}.forward"),
        bind=servers.bind if servers.bind and servers.bind.host == name else None,
        stacks=daemon.stacks,
        compute=compute,
        route_manager=daemon.route_manager,
    )
    _check_networks(host, where)
    _check_leased(host, where)
    return host


def _network(where: str, key: str, value: object, automatic: IPNetwork) -> ContainerNetwork:
    where = f"{where}.{fields.name(key, where)}"
    raw = {"subnets": value} if isinstance(value, str | list) else value
    given = fields.mapping(raw, where, NETWORK)
    leased = LEASED in (given.get("subnet"), given.get("subnets"))
    names = _container_names(given.get("containers", 1), key, f"{where}.containers")
    labels = fields.mapping(given.get("labels"), f"{where}.labels")
    network = ContainerNetwork(
        name=key,
        subnets=(),
        labels=tuple((label, fields.text(said)) for label, said in labels.items()),
        internal=fields.flag(given.get("internal", False), where),
        containers=tuple(Container(name, ()) for name in names),
        leased=leased,
        bridge=fields.interface(given["bridge"], f"{where}.bridge") if "bridge" in given else "",
        serve=fields.whole(given.get("serve", 0), f"{where}.serve", 0, 65535),
    )
    try:
        return network if leased else network.at(_subnets(given, where) or (automatic,))
    except IndexError as error:
        raise TopologyError(f"{where}: {error}: too small for a gateway and {len(names)} containers") from error


def _container_names(value: object, network: str, where: str) -> list[str]:
    if isinstance(value, list):
        return [fields.container(item, where) for item in value]
    return [f"{network}{n}" for n in range(1, fields.whole(value, where, 0, 250) + 1)]


def _check_networks(host: Host, where: str) -> None:
    for one, other in combinations(host.networks, 2):
        _apart(one.subnets, other.subnets, f"{where}.networks.{other.name}", f"network {one.name}")
    if host.engine == "none" and host.agent is not None and not any(map(host.exposes, host.networks)):
        raise TopologyError(f"{where}: an agent with `engine: none` needs a network to tell about, or `agent: false`")
    for network in host.networks:
        here = f"{where}.networks.{network.name}"
        for port in host.ports:
            _apart(port.segment.subnets, network.subnets, here, f"segment {port.segment.name}, where {host.name} is")
        if host.engine == "docker" and network.subnets and not any(net.version == 4 for net in network.subnets):
            raise TopologyError(f"{here}: Docker gives every network an IPv4 subnet: name one, beside the IPv6 one")
    seen: set[str] = set()
    for network, container in host.containers():
        if container.name in seen:
            raise TopologyError(f"{where}.networks.{network.name}: a container {container.name!r} is there already")
        seen.add(container.name)


def _check_leased(host: Host, where: str) -> None:
    """What flanneld's networks, and bridges that the lab makes itself, need."""
    if sum(network.leased for network in host.networks) > 1:
        raise TopologyError(f"{where}.networks: flanneld leases one subnet for a host, and two networks want it")
    for network in host.networks:
        here = f"{where}.networks.{network.name}"
        if network.leased and host.flanneld is None:
            raise TopologyError(f"{here}: `subnet: {LEASED}` needs `daemon: flanneld`")
        if host.engine != "none" and (network.bridge or network.serve):
            raise TopologyError(f"{here}: 'bridge' and 'serve' need `engine: none`; Docker's containers serve port 80")
