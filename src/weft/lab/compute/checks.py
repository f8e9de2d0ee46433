"""What Google asks of a route before it takes it, and what it warns of afterwards. Pure. Called by `engine`.

Source: the discovery document (patterns, required fields, ranges), Google's VPC documentation on static routes
(destinations may be wider than a subnet, never equal to one or inside it; a next hop address must be in a subnet of the
network, and need not be anybody's yet) and its error messages as people met them.
"""

from __future__ import annotations

import re
import uuid
from ipaddress import ip_address, ip_network

import msgspec

from weft.lab.compute.refusal import Refusal, invalid, missing
from weft.lab.compute.resources import NAME, Datum, Json, Route, Warn, instance_link, network_link, path_of
from weft.lab.compute.table import Instance, Network, Table
from weft.model import IPAddress, IPNetwork

KNOWN = frozenset(msgspec.structs.fields(Route)[n].encode_name for n in range(len(msgspec.structs.fields(Route)))) | {
    "asPaths",
    "nextHopHub",
    "nextHopInterRegionCost",
    "nextHopInterconnectAttachment",
    "nextHopMed",
    "nextHopOrigin",
    "params",
    "routeStatus",
}
"""Every field of the schema Route."""
HOPS = ("nextHopInstance", "nextHopIp", "nextHopGateway", "nextHopNetwork", "nextHopIlb", "nextHopVpnTunnel")
UNKEPT = ("nextHopNetwork", "nextHopIlb", "nextHopVpnTunnel")
DESCRIPTION = 2048
"""Characters of a description at most."""
_INSTANCE = re.compile(r"(?:projects/([^/]+)/)?zones/([^/]+)/instances/([^/]+)")
_NETWORK = re.compile(r"(?:projects/([^/]+)/)?global/networks/([^/]+)")


def new_route(table: Table, body: Json) -> Route:
    """The route that a body of routes.insert asks for, without id and times; Refusal if it asks for none."""
    for key in body:
        if key not in KNOWN:
            raise Refusal(
                400,
                f"Invalid JSON payload received. Unknown name \"{key}\" at 'route': Cannot find field.",
                "badRequest",
            )
    name = _text(body, "name")
    if not name:
        raise missing("resource.name")
    if not NAME.fullmatch(name):
        raise invalid("resource.name", name, f"Must be a match of regex '{NAME.pattern}'")
    network = _network(table, _text(body, "network"))
    dest = _destination(network, _text(body, "destRange"))
    hop = _hop(table, network, dest, body)
    return msgspec.structs.replace(
        hop,
        name=name,
        network=network_link(table, network.name),
        dest_range=str(dest),
        priority=_priority(body),
        description=_description(body),
        tags=_tags(body),
        route_type="STATIC",
        kind="compute#route",
    )


def request_id(value: str) -> str:
    """In its usual form; Refusal if it is no UUID, or all zeros."""
    try:
        found = uuid.UUID(value)
    except ValueError:
        found = uuid.UUID(int=0)
    if not found.int or len(value) != 36:
        raise invalid("requestId", value, "Must be a valid non-zero UUID.")
    return str(found)


def warnings(table: Table, route: Route) -> tuple[Warn, ...]:
    """What makes packets of this route get lost, as things are now."""
    network = path_of(route.network).rsplit("/", 1)[-1]
    if route.next_hop_ip:
        holder = table.holder(network, ip_address(route.next_hop_ip))
        if not holder:
            text = f"Next hop IP '{route.next_hop_ip}' is not assigned to an instance on network '{route.network}'."
            return (_warn("NEXT_HOP_ADDRESS_NOT_ASSIGNED", text, network_ip=route.next_hop_ip),)
        return _of_instance(table, holder, network, route)
    if route.next_hop_instance:
        found = _INSTANCE.fullmatch(path_of(route.next_hop_instance))
        instance = table.instance(found[2], found[3]) if found else None
        if not instance:
            text = f"Next hop instance '{route.next_hop_instance}' does not exist."
            return (_warn("NEXT_HOP_INSTANCE_NOT_FOUND", text, instance=route.next_hop_instance),)
        return _of_instance(table, instance, network, route)
    return ()


def _of_instance(table: Table, instance: Instance, network: str, route: Route) -> tuple[Warn, ...]:
    link = instance_link(table, instance)
    if instance.network != network:
        text = f"Next hop instance '{link}' is not on network '{network_link(table, network)}'."
        return (_warn("NEXT_HOP_INSTANCE_NOT_ON_NETWORK", text, instance=link),)
    found = []
    if not instance.can_ip_forward:
        found.append(
            _warn("NEXT_HOP_CANNOT_IP_FORWARD", f"Next hop '{link}' cannot forward IP traffic.", instance=link)
        )
    if ":" in route.dest_range and all(one.version == 4 for one in instance.addresses):
        text = f"Next hop instance '{link}' does not have an IPv6 interface."
        found.append(_warn("NEXT_HOP_INSTANCE_HAS_NO_IPV6_INTERFACE", text, instance=link))
    if instance.status != "RUNNING":
        found.append(_warn("NEXT_HOP_NOT_RUNNING", f"Next hop instance '{link}' is not running.", instance=link))
    return tuple(found)


def _warn(code: str, message: str, **data: str) -> Warn:
    return Warn(code, message, tuple(Datum(key, value) for key, value in data.items()))


def _text(body: Json, key: str) -> str:
    value = body.get(key, "")
    if not isinstance(value, str):
        kind = "Starting an object on a scalar field" if isinstance(value, (dict, list)) else f"{value!r}"
        raise Refusal(400, f"Invalid value at 'resource.{key}' (TYPE_STRING), {kind}", "badRequest")
    return value


def _network(table: Table, link: str) -> Network:
    if not link:
        raise missing("resource.network")
    found = _NETWORK.fullmatch(path_of(link))
    if not found:
        raise invalid("resource.network", link, "The URL is malformed.")
    network = table.network(found[2])
    if not network or found[1] not in (None, table.project, table.number):
        raise invalid("resource.network", link, "The referenced network resource cannot be found.")
    return network


def _destination(network: Network, text: str) -> IPNetwork:
    if not text:
        raise missing("resource.destRange")
    try:
        dest = ip_network(text)
    except ValueError:
        raise invalid("resource.destRange", text, "Must be a valid IPV4 or IPV6 CIDR address range.") from None
    for one in network.ranges:
        if one.version == dest.version and one.supernet_of(dest):  # type: ignore[arg-type]
            why = f"{dest} hides the address space of the network ({one}). "
            raise invalid(
                "resource.destRange", text, why + "Cannot change the routing of packets destined for the network."
            )
    return dest


def _hop(table: Table, network: Network, dest: IPNetwork, body: Json) -> Route:
    given = [key for key in HOPS if _text(body, key)]
    if len(given) != 1:
        must = "must specify at least one" if not given else "cannot specify more than one"
        raise Refusal(400, f"Invalid resource usage: 'A Route {must} type of next hop.'.", "invalidResourceUsage")
    if given[0] in UNKEPT:
        raise Refusal(501, f"the local cloud keeps no {given[0]}: use nextHopIp or nextHopInstance", "notImplemented")
    value = _text(body, given[0])
    if given[0] == "nextHopIp":
        return Route(next_hop_ip=str(_hop_address(network, dest, value)))
    if given[0] == "nextHopInstance":
        return Route(next_hop_instance=_hop_instance(table, value))
    if not re.fullmatch(r"(projects/[^/]+/)?global/gateways/default-internet-gateway", path_of(value)):
        raise invalid("resource.nextHopGateway", value, "The URL is malformed.")
    return Route(next_hop_gateway=gateway_link(table))


def gateway_link(table: Table) -> str:
    return network_link(table, "").replace("networks/", "gateways/default-internet-gateway")


def _hop_address(network: Network, dest: IPNetwork, text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise invalid("resource.nextHopIp", text, "Must be a valid IP address.") from None
    if address.version != dest.version:
        raise invalid(
            "resource.nextHopIp", text, "The next hop must be of the same IP version as the destination range."
        )
    if not any(address in one for one in network.ranges):
        why = f"The next hop is not in a subnetwork of network '{network.name}'."
        raise invalid("resource.nextHopIp", text, why)
    return address


def _hop_instance(table: Table, link: str) -> str:
    found = _INSTANCE.fullmatch(path_of(link))
    if not found:
        raise invalid("resource.nextHopInstance", link, "The URL is malformed.")
    instance = table.instance(found[2], found[3])
    if not instance or found[1] not in (None, table.project, table.number):
        raise invalid("resource.nextHopInstance", link, "The referenced instance resource cannot be found.")
    return instance_link(table, instance)


def _priority(body: Json) -> int:
    value = body.get("priority", 1000)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal(400, f"Invalid value at 'resource.priority' (TYPE_UINT32), {value!r}", "badRequest")
    if not 0 <= value <= 65535:
        raise invalid("resource.priority", value, "Must be between 0 and 65535, inclusive.")
    return value


def _description(body: Json) -> str:
    text = _text(body, "description")
    if len(text) > DESCRIPTION:
        raise invalid("resource.description", text, f"Must be no longer than {DESCRIPTION} characters.")
    return text


def _tags(body: Json) -> tuple[str, ...]:
    value = body.get("tags", [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Refusal(400, "Invalid value at 'resource.tags' (TYPE_STRING)", "badRequest")
    for number, tag in enumerate(value):
        if not NAME.fullmatch(tag):
            raise invalid(f"resource.tags[{number}]", tag, f"Must be a match of regex '{NAME.pattern}'")
    return tuple(value)
