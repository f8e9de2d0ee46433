"""What a local cloud is made of, read from YAML or put together by a test. Read by `engine`, `checks` and `metadata`.

project: demo
networks:
- name: default
  subnetworks: [{name: default, region: us-central1, range: 10.128.0.0/20}]
instances:
- {name: a, zone: us-central1-a, addresses: [10.128.0.2], can_ip_forward: true}
routes:
- {name: to-office, dest_range: 192.168.0.0/16, next_hop_ip: 10.128.0.2}
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from weft.errors import LabError
from weft.model import IPAddress, IPNetwork

if TYPE_CHECKING:
    Address = IPAddress
else:
    Address = Any  # msgspec reads no union of two classes that it doesn't know

COMPUTE_SCOPE = "https://www.googleapis.com/auth/compute"
READ_SCOPE = "https://www.googleapis.com/auth/compute.readonly"
PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Subnetwork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`range`, `range6`, `secondary`: CIDR."""

    name: str
    region: str = "us-central1"
    range: str
    range6: str = ""
    secondary: tuple[str, ...] = ()

    @property
    def ranges(self) -> tuple[IPNetwork, ...]:
        """All that packets to go by the subnet's own route."""
        return tuple(ip_network(one) for one in (self.range, self.range6, *self.secondary) if one)


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    subnetworks: tuple[Subnetwork, ...] = ()
    default_route: bool = True
    """Whether it has Google's own route to the internet."""

    @property
    def ranges(self) -> Iterator[IPNetwork]:
        for subnetwork in self.subnetworks:
            yield from subnetwork.ranges


class Instance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`addresses`: of its one interface, at most one of each family; `aliases`: CIDR."""

    name: str
    zone: str = "us-central1-a"
    network: str = "default"
    addresses: tuple[Address, ...] = ()
    aliases: tuple[str, ...] = ()
    can_ip_forward: bool = True
    status: str = "RUNNING"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "addresses", tuple(ip_address(str(one)) for one in self.addresses))


class GivenRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that is there from the start. One next hop: an address, an instance as `zone/name`, or the internet
    gateway if neither is given."""

    name: str
    dest_range: str
    network: str = "default"
    next_hop_ip: str = ""
    next_hop_instance: str = ""
    priority: int = 1000
    description: str = ""
    tags: tuple[str, ...] = ()


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom instances act as. `denied`: permissions that it has not been given, like `compute.routes.create`."""

    email: str = "123456789012-compute@developer.gserviceaccount.com"
    scopes: tuple[str, ...] = (COMPUTE_SCOPE,)
    denied: tuple[str, ...] = ()
    token_life: float = 3600.0
    """Seconds."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One project. `me`: the instance that the metadata server speaks for, where the asking address is none's; the
    first one if "". `quotas`: limits by metric."""

    project: str = "weft-lab"
    number: str = "123456789012"
    networks: tuple[Network, ...] = (
        Network(name="default", subnetworks=(Subnetwork(name="default", range="10.128.0.0/20"),)),
    )
    instances: tuple[Instance, ...] = ()
    routes: tuple[GivenRoute, ...] = ()
    account: ServiceAccount = ServiceAccount()
    quotas: dict[str, float] = msgspec.field(default_factory=lambda: {"ROUTES": 250.0})
    me: str = ""

    @classmethod
    def of_yaml(cls, text: str) -> Table:
        """LabError: what is wrong, and where."""
        try:
            return msgspec.convert(yaml.safe_load(text) or {}, cls, strict=False)
        except (yaml.YAMLError, msgspec.ValidationError, ValueError) as error:
            raise LabError(
                f"the table of the local cloud can't be used: {error}; see weft.lab.compute.table"
            ) from error

    def network(self, name: str) -> Network | None:
        return next((one for one in self.networks if one.name == name), None)

    def instance(self, zone: str, name: str) -> Instance | None:
        return next((one for one in self.instances if (one.zone, one.name) == (zone, name)), None)

    def holder(self, network: str, address: IPAddress) -> Instance | None:
        """Whose address it is, in that network."""
        for instance in self.instances:
            if instance.network == network and address in instance.addresses:
                return instance
        return None

    @property
    def zones(self) -> tuple[str, ...]:
        """Where instances are, and one zone where none is."""
        return tuple(sorted({one.zone for one in self.instances} | {"us-central1-a", "us-central1-b"}))


def small(hosts: int = 3, **more: object) -> Table:
    """`hosts` instances (host-1 = 10.128.0.2, …) that forward, in network `default` of project `weft-lab`."""
    base = ip_network("10.128.0.0/20")
    instances = tuple(Instance(name=f"host-{n + 1}", addresses=(base[n + 2],)) for n in range(hosts))
    return msgspec.structs.replace(Table(instances=instances), **more)
