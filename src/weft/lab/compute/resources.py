"""The documents of the Compute API that this package keeps, field by field as the API names them, and their links.
Filled in by `engine` and `checks`, sent by `api`.

Source: the discovery document compute.v1 (schemas Route, Operation, Network, Instance, Project).
"""

from __future__ import annotations

import base64
import hashlib
import re

import msgspec

from weft.lab.compute.table import Instance, Network, Table

ROOT = "https://www.googleapis.com/compute/v1/"
"""How links begin, wherever the API was asked."""
NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LINK = re.compile(r"(?:https?://[^/]+/compute/(?:v1|beta)/|/?compute/v1/)?(.*)")

Json = dict[str, object]


class Datum(msgspec.Struct, frozen=True, rename="camel"):
    key: str
    value: str


class Warn(msgspec.Struct, frozen=True, rename="camel"):
    code: str
    message: str
    data: tuple[Datum, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """As stored: without its warnings, which depend on the instances at the time of asking."""

    id: str = ""
    creation_timestamp: str = ""
    name: str = ""
    description: str = ""
    network: str = ""
    tags: tuple[str, ...] = ()
    dest_range: str = ""
    priority: int | None = None
    next_hop_instance: str = ""
    next_hop_ip: str = ""
    next_hop_gateway: str = ""
    next_hop_network: str = ""
    next_hop_peering: str = ""
    next_hop_ilb: str = ""
    next_hop_vpn_tunnel: str = ""
    route_type: str = ""
    self_link: str = ""
    warnings: tuple[Warn, ...] = ()
    kind: str | None = None

    @property
    def next_hop(self) -> str:
        """Whichever it has, in one word: for the history and for people."""
        hops = (self.next_hop_ip, self.next_hop_instance, self.next_hop_gateway, self.next_hop_network)
        return next((hop for hop in (*hops, self.next_hop_peering) if hop), "")


class OperationError(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    code: str
    message: str
    location: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    id: str = ""
    name: str = ""
    operation_type: str = ""
    target_link: str = ""
    target_id: str = ""
    status: str = ""
    user: str = ""
    client_operation_id: str = ""
    progress: int | None = None
    insert_time: str = ""
    start_time: str = ""
    end_time: str = ""
    http_error_status_code: int | None = None
    http_error_message: str = ""
    error: Json | None = None
    warnings: tuple[Warn, ...] = ()
    self_link: str = ""
    kind: str | None = None


def path_of(link: str) -> str:
    """`projects/p/global/routes/r` of a full or partial link."""
    found = _LINK.fullmatch(link)
    return found[1] if found else link


def route_path(table: Table, name: str) -> str:
    return f"projects/{table.project}/global/routes/{name}"


def network_link(table: Table, name: str) -> str:
    return f"{ROOT}projects/{table.project}/global/networks/{name}"


def instance_link(table: Table, instance: Instance) -> str:
    return f"{ROOT}projects/{table.project}/zones/{instance.zone}/instances/{instance.name}"


def number_of(*words: str) -> str:
    """An id as Google's: a positive number of 64 bits, always the same for the same words."""
    return str(int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:8]) >> 1 | 1)


def network_json(table: Table, network: Network, since: str) -> Json:
    return {
        "kind": "compute#network",
        "id": number_of(table.project, "network", network.name),
        "creationTimestamp": since,
        "name": network.name,
        "autoCreateSubnetworks": False,
        "subnetworks": [
            f"{ROOT}projects/{table.project}/regions/{one.region}/subnetworks/{one.name}" for one in network.subnetworks
        ],
        "routingConfig": {"routingMode": "REGIONAL"},
        "selfLink": network_link(table, network.name),
    }


def instance_json(table: Table, instance: Instance, since: str) -> Json:
    zone = f"{ROOT}projects/{table.project}/zones/{instance.zone}"
    return {
        "kind": "compute#instance",
        "id": number_of(table.project, instance.zone, instance.name),
        "creationTimestamp": since,
        "name": instance.name,
        "zone": zone,
        "machineType": f"{zone}/machineTypes/g1-small",
        "status": instance.status,
        "canIpForward": instance.can_ip_forward,
        "tags": {"items": list(instance.tags), "fingerprint": _fingerprint(*instance.tags)},
        "networkInterfaces": [_interface_json(table, instance)],
        "serviceAccounts": [{"email": table.account.email, "scopes": list(table.account.scopes)}],
        "selfLink": instance_link(table, instance),
    }


def project_json(table: Table, quotas: list[Json], since: str) -> Json:
    return {
        "kind": "compute#project",
        "id": table.number,
        "creationTimestamp": since,
        "name": table.project,
        "quotas": quotas,
        "defaultServiceAccount": table.account.email,
        "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
        "selfLink": f"{ROOT}projects/{table.project}",
    }


def _interface_json(table: Table, instance: Instance) -> Json:
    answer: Json = {
        "kind": "compute#networkInterface",
        "name": "nic0",
        "network": network_link(table, instance.network),
        "stackType": "IPV4_IPV6" if {one.version for one in instance.addresses} == {4, 6} else "IPV4_ONLY",
    }
    network = table.network(instance.network)
    for subnetwork in network.subnetworks if network else ():
        if any(address in one for address in instance.addresses for one in subnetwork.ranges):
            link = f"{ROOT}projects/{table.project}/regions/{subnetwork.region}/subnetworks/{subnetwork.name}"
            answer["subnetwork"] = link
    for address in instance.addresses:
        answer["networkIP" if address.version == 4 else "ipv6Address"] = str(address)
    if instance.aliases:
        answer["aliasIpRanges"] = [{"ipCidrRange": one} for one in instance.aliases]
    return answer


def _fingerprint(*words: str) -> str:
    return base64.b64encode(hashlib.sha256("/".join(words).encode()).digest()[:8]).decode()
