"""What a topology file says of a cloud: `compute` on the host that is one, and `route-manager`. Pure.

`daemons` and `schema` call this. The segment of the host with `compute` is a VPC network: each of its other members has
its address alone (a /32) and sends everything to that host, which forwards by the routes in the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from msgspec import ValidationError, convert
from msgspec.structs import replace as replace_

from weft.errors import SettingsError, TopologyError
from weft.lab import fields
from weft.lab.compute.table import GivenRoute, Instance, Network, Subnetwork, Table
from weft.lab.topology import Compute, Port
from weft.settings import route_manager as settings

KEYS = ("project", "network", "zone", "quota", "delay", "instances", "routes")
NETWORK, ZONE = "default", "us-central1-a"
DELAY = 0.3
"""Seconds that an operation takes at Google's, about."""
PLACES = frozenset({"socket", "delete-all-routes", "once", "version", "help"})
"""Flags that a lab's host is found by, or that a service has no use for."""
FLAGS = tuple(name for name in settings.FLAGS.defaults if name not in PLACES)
VARIABLE = {name: settings.FLAGS.variable(name) for name in FLAGS}
VARIABLES = tuple(VARIABLE.values())
OTHERS = ("GCE_", "GOOGLE_", "AWS_")
"""Beginnings of variables that the clouds' own libraries read."""
METADATA = ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT")
"""Where Google's libraries look for the metadata server."""
Hosts = Mapping[str, Mapping[str, object]]
Told = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a manager asks: the lab's etcd ("" without one), and its cloud."""

    etcd: str
    cloud: Compute | None


def compute(hosts: Hosts, ports: Mapping[str, tuple[Port, ...]]) -> Compute | None:
    """The lab's cloud, or None. TopologyError for a key that is none, and for a second one."""
    name = _named(hosts)
    if name is None:
        return None
    where = f"hosts.{name}.compute"
    given = fields.mapping(None if hosts[name]["compute"] is True else hosts[name]["compute"], where, KEYS)
    gateway = ports[name][0]
    plugged = {host: port for host in hosts for port in ports[host] if port.segment == gateway.segment and host != name}
    said = fields.mapping(given.get("instances"), f"{where}.instances", plugged)
    network = fields.name(given.get("network", NETWORK), f"{where}.network")
    zone = fields.name(given.get("zone", ZONE), f"{where}.zone")
    table = Table(
        networks=(Network(name=network, subnetworks=tuple(_subnetworks(gateway, network, zone, where))),),
        instances=tuple(
            _instance(host, port, said.get(host), (network, zone), f"{where}.instances.{host}")
            for host, port in plugged.items()
        ),
    )
    if "project" in given:
        table = replace_(table, project=fields.name(given["project"], f"{where}.project"))
    if "quota" in given:
        table = replace_(table, quotas={"ROUTES": float(fields.whole(given["quota"], f"{where}.quota", 1, 100_000))})
    routes = [_route(raw, network, f"{where}.routes") for raw in fields.listing(given.get("routes"), f"{where}.routes")]
    delay = _seconds(given.get("delay", DELAY), f"{where}.delay")
    return Compute(name, gateway.addresses[0].ip, network, delay, replace_(table, routes=tuple(routes)))


def _named(hosts: Hosts) -> str | None:
    """The host that is the lab's cloud."""
    named = [name for name, raw in hosts.items() if "compute" in raw and raw["compute"] is not False]
    if len(named) > 1:
        raise TopologyError(f"hosts.{named[1]}.compute: {named[0]} is the lab's cloud already, and there is one")
    return named[0] if named else None


def _subnetworks(gateway: Port, network: str, zone: str, where: str) -> Iterator[Subnetwork]:
    subnets = gateway.segment.subnets
    if sorted(subnet.version for subnet in subnets) not in ([4], [4, 6]):
        raise TopologyError(
            f"{where}: segment {gateway.segment.name} is a cloud's: one IPv4 subnet, and one of IPv6 or none"
        )
    ranges = {subnet.version: str(subnet) for subnet in subnets}
    yield Subnetwork(name=network, region=zone.rpartition("-")[0] or zone, range=ranges[4], range6=ranges.get(6, ""))


def _instance(name: str, port: Port, raw: object, place: tuple[str, str], where: str) -> Instance:
    given = fields.mapping(raw, where, ("zone", "can_ip_forward"))
    network, zone = place
    return Instance(
        name=name,
        zone=fields.name(given.get("zone", zone), f"{where}.zone"),
        network=network,
        addresses=tuple(address.ip for address in port.addresses),
        can_ip_forward=fields.flag(given.get("can_ip_forward", True), f"{where}.can_ip_forward"),
    )


def _route(raw: object, network: str, where: str) -> GivenRoute:
    """A route that is there from the beginning, and nobody's but the administrator's."""
    given = fields.mapping(raw, where, GivenRoute.__struct_fields__)
    try:
        return convert({"network": network} | given, GivenRoute)
    except ValidationError as error:
        raise TopologyError(f"{where}: {error}") from error


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 600:
        raise TopologyError(f"{where}: {value!r} is no number of seconds from 0 to 600")
    return float(value)


def enclosed(ports: Mapping[str, tuple[Port, ...]], hosts: Hosts) -> dict[str, tuple[Port, ...]]:
    """The same ports, where those in the cloud's network have their address alone and know their gateway."""
    name = _named(hosts)
    if name is None:
        return dict(ports)
    gateway = ports[name][0]
    vpc = replace(gateway.segment, gateways=tuple(address.ip for address in gateway.addresses))

    def plugged(member: str) -> Iterator[Port]:
        for port in ports[member]:
            if port.segment != gateway.segment:
                yield port
            elif member == name:
                yield replace(port, segment=vpc)
            else:
                yield replace(port, segment=vpc, addresses=tuple(ip_interface(a.ip) for a in port.addresses))

    return {member: tuple(plugged(member)) for member in ports}


def route_manager(value: object, default: object, where: str, asked: Asked) -> Told:
    """A manager's variables: the host's over those of the top of the file, flags as the variables that stand for them.
    The lab's own etcd and cloud are asked unless others are named."""
    told: dict[str, str] = {}
    for source in (default, value):
        given = fields.mapping(source, where)
        fields.mapping(
            {key: item for key, item in given.items() if not key.startswith(OTHERS)}, where, FLAGS + VARIABLES
        )
        told |= {VARIABLE.get(key, key): fields.text(item) for key, item in given.items()}
    if not told.get(VARIABLE["etcd-endpoint"]):
        if not asked.etcd:
            raise TopologyError(f"{where}: it needs an etcd: `etcd: {{}}` on a host of the lab, or `etcd-endpoint`")
        told[VARIABLE["etcd-endpoint"]] = asked.etcd
    if asked.cloud is not None and told.get(VARIABLE["backend"], "google") == "google":
        told.setdefault(VARIABLE["google-endpoint"], asked.cloud.endpoint)
        told = dict.fromkeys(METADATA, asked.cloud.authority) | told
    try:
        settings.load((), told)
    except SettingsError as error:
        raise TopologyError(f"{where}: {error}") from error
    return tuple(sorted(told.items()))
