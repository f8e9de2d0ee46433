"""The topology file: what may stand in it and what it means (docs/lab.md is its reference for people).

`read` is called with what YAML made of the file, by `weft lab up` and again by each later verb. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import combinations
from typing import cast

from weft import settings
from weft.errors import SettingsError, TopologyError
from weft.lab import fields
from weft.lab.topology import Container, ContainerNetwork, EngineKind, Host, Port, Router, Segment, Topology, nth
from weft.model import IPInterface, IPNetwork

ENGINES: tuple[EngineKind, ...] = ("docker", "none")
FIRST_ROUTER, FIRST_HOST = 1, 11
"""Where automatic numbering starts in a segment: routers at .1, hosts at .11."""
MEMBERSHIP = Mapping[str, Sequence[object]]
"""Segment → the addresses that the file names for one member."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the top of the file says for every host."""

    engine: object
    agent: object


def read(document: object, name: str) -> Topology:
    """The Topology that a parsed file describes; `name` is the lab's unless the file says one.

    Raises TopologyError that names the key, the value and the nearest right one."""
    top = fields.mapping(document, "the file", ("name", "segments", "hosts", "routers", "agent", "engine"))
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
    ports = _ports(segments, wanted, frozenset(routers))
    defaults = Defaults(top.get("engine", "docker"), top.get("agent"))
    topology = Topology(
        lab,
        tuple(segments.values()),
        tuple(Router(name, ports[name]) for name in routers),
        tuple(_host(n, name, hosts[name], defaults, ports[name]) for n, name in enumerate(hosts, start=1)),
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
    return fields.mapping(value, f"hosts.{key}", ("segments", "engine", "networks", "agent"))


def _host(number: int, name: str, raw: Mapping[str, object], defaults: Defaults, ports: tuple[Port, ...]) -> Host:
    where = f"hosts.{name}"
    engine = cast(EngineKind, fields.choice(raw.get("engine", defaults.engine), f"{where}.engine", ENGINES))
    given = fields.mapping(raw.get("networks"), f"{where}.networks")
    networks = tuple(
        _network(f"{where}.networks", key, value, ip_network(f"10.{number}.{n}.0/24"))
        for n, (key, value) in enumerate(given.items(), start=1)
    )
    host = Host(name, ports, engine, networks, _agent(raw.get("agent"), defaults.agent, f"{where}.agent"))
    _check_networks(host, where)
    return host


def _network(where: str, key: str, value: object, automatic: IPNetwork) -> ContainerNetwork:
    where = f"{where}.{fields.name(key, where)}"
    raw = {"subnets": value} if isinstance(value, str | list) else value
    given = fields.mapping(raw, where, ("subnet", "subnets", "labels", "internal", "containers"))
    subnets = _subnets(given, where) or (automatic,)
    labels = fields.mapping(given.get("labels"), f"{where}.labels")
    names = _container_names(given.get("containers", 1), key, f"{where}.containers")
    try:
        containers = tuple(
            Container(name, tuple(nth(subnet, index) for subnet in subnets)) for index, name in enumerate(names, 2)
        )
    except IndexError as error:
        raise TopologyError(f"{where}: {error}: too small for a gateway and {len(names)} containers") from error
    said = tuple((label, _text(text)) for label, text in labels.items())
    return ContainerNetwork(key, subnets, said, fields.flag(given.get("internal", False), where), containers)


def _container_names(value: object, network: str, where: str) -> list[str]:
    if isinstance(value, list):
        return [fields.name(item, where) for item in value]
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
        if host.engine == "docker" and not any(net.version == 4 for net in network.subnets):
            raise TopologyError(f"{here}: Docker gives every network an IPv4 subnet: name one, beside the IPv6 one")
    seen: set[str] = set()
    for network, container in host.containers():
        if container.name in seen:
            raise TopologyError(f"{where}.networks.{network.name}: a container {container.name!r} is there already")
        seen.add(container.name)


def _agent(value: object, default: object, where: str) -> tuple[tuple[str, str], ...] | None:
    """The agent's settings: the host's over those of the top of the file; None if there is to be no agent."""
    if value is False or (default is False and value is None):
        return None
    merged: dict[str, object] = {}
    for given in (default, value):
        if not isinstance(given, bool):
            merged |= fields.mapping(given, where)
    texts = {str(key).lower(): _text(item) for key, item in merged.items()}
    try:
        settings.load({settings.PREFIX + key.upper(): text for key, text in texts.items()})
    except SettingsError as error:
        raise TopologyError(f"{where}: {error}") from error
    return tuple(sorted(texts.items()))


def _text(value: object) -> str:
    """A YAML value as the environment or a label writes it: `true`, `30`, `10.0.0.2,10.0.0.3`."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(_text(item) for item in value) if isinstance(value, list) else str(value)
