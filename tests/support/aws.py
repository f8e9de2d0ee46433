"""EC2 for tests: moto in this process, made to do as AWS does where moto doesn't, with faults to order and a history.

Where moto 5.2 differs from AWS, and `Ec2Api` stands in for it:

- CreateRoute to a network interface overwrites whatever route is there: here RouteAlreadyExists
- a table takes any number of routes: here RouteLimitExceeded from `limit` on, IPv4 and IPv6 apart
- a route whose interface is gone stays active: here it is a blackhole; so is one to an interface in `dead`
- no route was ever propagated: here those in `propagated` are shown
- DescribeRouteTables and DescribeNetworkInterfaces have one page: here `page`
- interfaces can't be found by a secondary or an IPv6 address: here they can
- tags may have any value: here 256 characters, and only those that AWS allows
- DeleteRoute takes the local route away: here it is refused
- what was written is read at once: here `echo` readings may still show what was before

Nothing leaves the process: moto answers for botocore, and a connection to anywhere but loopback is an error.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3
import pytest
import urllib3.util.connection
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends

from weft.model import IPNetwork

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

REGION = "eu-central-1"
ALLOWED = re.compile(r"[\w +\-=.:/@]*", re.ASCII)

Fault = Literal["refused", "lost", "busy", "throttled"]
"""It is refused for good; carried out, and the answer never comes; the API is down; it is asked too often."""


@dataclass(frozen=True)
class State:
    """All routes of one table after a call: destination → where it leads."""

    call: str
    table: str
    routes: Mapping[IPNetwork, str]


network = cache(ip_network)


@cache
def _client() -> EC2Client:
    """One for all tests: to make one takes half a second."""
    return boto3.client("ec2", region_name=REGION)


def refusal(code: str, message: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "Asked",
    )


@dataclass
class Aws:
    """The cloud. `before`: called with the name of each call before it is made; it may order a fault."""

    vpc: str = ""
    subnet: str = ""
    main: str = ""
    page: int = 100
    limit: int = 10_000
    echo: int = 0
    propagated: dict[str, list[str]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    history: list[State] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    met: list[tuple[str, Fault]] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    before: Callable[[str], Fault | None] = lambda _: None
    _shown: list[Any] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.ec2 = _client()
        made = self.ec2.create_vpc(CidrBlock="10.128.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
        self.vpc = made["VpcId"]
        six = made["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
        self.six = ip_network(six)
        block = str(next(iter(self.six.subnets(new_prefix=64))))
        self.subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.128.0.0/20", Ipv6CidrBlock=block)["Subnet"][
            "SubnetId"
        ]
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}, {"Name": "association.main", "Values": ["true"]}]
        self.main = self.ec2.describe_route_tables(Filters=filters)["RouteTables"][0]["RouteTableId"]  # type: ignore[arg-type]

    # What is there.

    def interface(self, address: str, *others: str, six: str = "", check: bool = False) -> str:
        """A network interface with these addresses; its id."""
        asked: dict[str, Any] = {"Ipv6Addresses": [{"Ipv6Address": six}]} if six else {}
        made = self.ec2.create_network_interface(SubnetId=self.subnet, PrivateIpAddress=address, **asked)
        name = made["NetworkInterface"]["NetworkInterfaceId"]
        if others:
            self.ec2.assign_private_ip_addresses(NetworkInterfaceId=name, PrivateIpAddresses=list(others))
        self.backend.get_network_interface(name).source_dest_check = check
        return name

    def another_table(self, **tags: str) -> str:
        name = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        if tags:
            self.tag(name, tags)
        return name

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        self.ec2.create_tags(Resources=[name], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])

    @property
    def backend(self) -> Any:
        return ec2_backends[DEFAULT_ACCOUNT_ID][REGION]

    def tags(self, table: str = "") -> dict[str, str]:
        return dict(self.backend.tags.get(table or self.main, {}))

    def routes(self, table: str = "") -> dict[IPNetwork, str]:
        """Destination → id of what it leads to, without the local routes."""
        held = self.backend.route_tables[table or self.main].routes
        return {
            network(r.destination_cidr_block or r.destination_ipv6_cidr_block): _target(r)
            for r in list(held)
            if not r.local
        }

    # What somebody else does.

    def put(self, dst: str, interface: str = "", gateway: str = "", table: str = "") -> None:
        """Somebody makes a route, in place of whatever is there."""
        name, to_put = table or self.main, ip_network(dst)
        self.backend.route_tables[name]._routes.pop(f"{name}~{to_put}", None)
        to: dict[str, Any] = {"NetworkInterfaceId": interface} if interface else {"GatewayId": gateway}
        to["DestinationCidrBlock" if to_put.version == 4 else "DestinationIpv6CidrBlock"] = str(to_put)
        self.ec2.create_route(RouteTableId=name, **to)

    def delete(self, dst: str | IPNetwork, table: str = "") -> None:
        name = table or self.main
        del self.backend.route_tables[name]._routes[f"{name}~{ip_network(dst)}"]

    def gateway(self) -> str:
        name = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=name, VpcId=self.vpc)
        return name

    # What is seen.

    def client(self) -> Any:
        """For AwsRoutes: `connect`."""
        return cast(Any, Ec2Api(self))

    def fail(self, number: int, fault: Fault) -> None:
        """The call of this number from now on, 1 is the next."""
        self.faults[len(self.calls) + number] = fault

    def count(self, *methods: str) -> int:
        return sum(call in methods for call in self.calls)

    def absent(self, dst: IPNetwork, since: int = 0, table: str = "") -> bool:
        states = [state for state in self.history[since:] if state.table == (table or self.main)]
        return any(dst not in state.routes for state in states)


class Ec2Api:
    """A client of `aws`, one call at a time."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.meta = aws.ec2.meta

    def close(self) -> None:
        """It is the cloud's."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(**asked: Any) -> Any:
            with self.aws.lock:
                return self._call(method, asked)

        return call

    def _call(self, method: str, asked: dict[str, Any]) -> Any:
        aws = self.aws
        aws.calls.append(method)
        fault = aws.faults.pop(len(aws.calls), None) or aws.before(method)
        if fault is not None:
            aws.met.append((method, fault))
        if fault == "refused":
            raise refusal("UnauthorizedOperation", "made to fail", 403)
        if fault == "busy":
            raise refusal("Unavailable", "made to be busy", 503)
        if fault == "throttled":
            raise refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        try:
            as_aws = _AS_AWS.get(method)
            answer = as_aws(self, **asked) if as_aws is not None else getattr(aws.ec2, method)(**asked)
        finally:
            if "RouteTableId" in asked:
                name = asked["RouteTableId"]
                aws.history.append(State(f"{method} {asked}", name, aws.routes(name)))
        if fault == "lost":
            raise ReadTimeoutError(endpoint_url="moto", error=None)
        return answer

    def _create_route(self, **asked: Any) -> Any:
        table, dst = asked["RouteTableId"], _dst(asked)
        held = self.aws.routes(table)
        if dst in held:
            raise refusal("RouteAlreadyExists", f"The route identified by {dst} already exists.")
        if sum(one.version == dst.version for one in held) >= self.aws.limit:
            raise refusal("RouteLimitExceeded", "The maximum number of routes has been reached.")
        return self.aws.ec2.create_route(**asked)

    def _delete_route(self, **asked: Any) -> Any:
        if _dst(asked) not in self.aws.routes(asked["RouteTableId"]):
            raise refusal("InvalidRoute.NotFound", f"no route with destination-cidr-block {_dst(asked)}")
        return self.aws.ec2.delete_route(**asked)

    def _create_tags(self, **asked: Any) -> Any:
        for tag in asked["Tags"]:
            good = ALLOWED.fullmatch(tag["Key"]) and ALLOWED.fullmatch(tag["Value"])
            if not good or len(tag["Key"]) > 128 or len(tag["Value"]) > 256 or tag["Value"] != tag["Value"].strip():
                raise refusal("InvalidParameterValue", f"{tag} is not a tag")
        return self.aws.ec2.create_tags(**asked)

    def _describe_route_tables(self, **asked: Any) -> Any:
        start = int(asked.pop("NextToken", "0"))
        size = min(asked.pop("MaxResults", 100), self.aws.page)
        _few(asked)
        every = [self._as_aws(table) for table in self.aws.ec2.describe_route_tables(**asked)["RouteTables"]]
        self.aws._shown.append(every)
        shown = self.aws._shown[-1 - min(self.aws.echo, len(self.aws._shown) - 1)]
        return _page("RouteTables", shown, start, size)

    def _as_aws(self, table: Any) -> Any:
        interfaces = self.aws.backend.enis
        for route in table["Routes"]:
            name = route.get("NetworkInterfaceId")
            if name and (name not in interfaces or name in self.aws.dead):
                route["State"] = "blackhole"
        for dst in self.aws.propagated.get(table["RouteTableId"], []):
            more = {"GatewayId": "vgw-1", "Origin": "EnableVgwRoutePropagation", "State": "active"}
            table["Routes"].append({"DestinationCidrBlock": dst, **more})
        return table

    def _describe_network_interfaces(self, **asked: Any) -> Any:
        start = int(asked.pop("NextToken", "0"))
        size = min(asked.pop("MaxResults", 1000), self.aws.page)
        _few(asked)
        filters = {one["Name"]: set(one["Values"]) for one in asked["Filters"]}
        by_address = [name for name in filters if "address" in name]
        rest = [one for one in asked["Filters"] if one["Name"] not in by_address]
        found = self.aws.ec2.describe_network_interfaces(Filters=rest)["NetworkInterfaces"]
        found = [one for one in found if all(filters[name] & _addresses(one) for name in by_address)]
        return _page("NetworkInterfaces", found, start, size)


_AS_AWS: Mapping[str, Callable[..., Any]] = {
    "create_route": Ec2Api._create_route,
    "delete_route": Ec2Api._delete_route,
    "create_tags": Ec2Api._create_tags,
    "describe_route_tables": Ec2Api._describe_route_tables,
    "describe_network_interfaces": Ec2Api._describe_network_interfaces,
}


def _few(asked: Mapping[str, Any]) -> None:
    for one in asked["Filters"]:
        if not 0 < len(one["Values"]) <= 200:
            raise refusal("FilterLimitExceeded", "The maximum number of filter values on a single call is 200")


def _page(what: str, items: list[Any], start: int, size: int) -> dict[str, Any]:
    end = start + size
    return {what: items[start:end], **({"NextToken": str(end)} if end < len(items) else {})}


def _addresses(interface: Any) -> set[str]:
    four = {one["PrivateIpAddress"] for one in interface["PrivateIpAddresses"]}
    return four | {one["Ipv6Address"] for one in interface.get("Ipv6Addresses", [])}


def _dst(asked: Mapping[str, Any]) -> IPNetwork:
    return network(asked.get("DestinationCidrBlock") or asked["DestinationIpv6CidrBlock"])


def _target(route: Any) -> str:
    return str(route.network_interface_id or route.gateway_id or route.instance_id or "")


def settled_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that open nothing, no metadata service, no way out of this machine."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # half a second, for images that nobody starts
    }.items():
        monkeypatch.setenv(name, value)
    real = urllib3.util.connection.create_connection

    def only_here(address: tuple[str, int], *args: Any, **rest: Any) -> Any:
        if address[0] not in ("127.0.0.1", "localhost"):
            raise AssertionError(f"a test wanted to connect to {address}")
        return real(address, *args, **rest)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", only_here)


@contextmanager
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A region with one VPC, empty."""
    settled_environment(monkeypatch)
    with mock_aws():
        yield Aws()
