"""The EC2 API, as far as routes need it. Used by `aws.py` and its parts. It and `aws_identity.py` alone import boto3.

boto3 blocks, so its calls are made in a few threads; each waits for its turn at the pace of all. botocore's own retries
are off: they would multiply ours, and the token bucket would know nothing of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected

from weft.errors import ProviderBusy, TargetError
from weft.model import IPNetwork
from weft.targets.cloud.aws_shapes import THREADS, AwsRefused, Interface, RouteSeen, TableSeen
from weft.targets.cloud.pace import Pace

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import (
        DescribeNetworkInterfacesRequestTypeDef,
        DescribeRouteTablesRequestTypeDef,
        FilterTypeDef,
        NetworkInterfaceTypeDef,
        RouteTableTypeDef,
        RouteTypeDef,
        TagTypeDef,
    )

VALUES_OF_A_FILTER = 200
"""EC2 refuses a filter with more."""
PAGE_OF_TABLES = 100
PAGE_OF_INTERFACES = 1000
THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "SlowDown",
    }
)
"""Codes of "you ask too often" (EC2 API Reference, "Request throttling"; botocore's retry rules)."""
NOT_NOW = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestTimeout"})
FORBIDDEN = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
BAD_CREDENTIALS = frozenset(
    {"AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired"}
)
_NO_TARGETS = frozenset(
    {
        "DestinationCidrBlock",
        "DestinationIpv6CidrBlock",
        "DestinationPrefixListId",
        "InstanceId",
        "InstanceOwnerId",
        "IpAddress",
        "NetworkInterfaceId",
        "Origin",
        "State",
    }
)

T = TypeVar("T")


class Ec2:
    """One region's API through `client`, at the pace of all. `calls`: counted there, by method and outcome."""

    def __init__(self, client: EC2Client, pace: Pace, calls: Counter[tuple[str, str]]) -> None:
        self.calls = calls
        self.pace = pace
        self.region = client.meta.region_name
        self._client = client
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="weft-ec2")

    async def tables(self, filters: Mapping[str, Sequence[str]]) -> list[TableSeen]:
        """The tables that fit all filters, of whatever number of pages."""
        found: list[TableSeen] = []
        asked: DescribeRouteTablesRequestTypeDef = {"Filters": _filters(filters), "MaxResults": PAGE_OF_TABLES}
        while True:
            ask = partial(self._client.describe_route_tables, **asked)
            page = await self._call("DescribeRouteTables", ask)
            found.extend(map(_table, page["RouteTables"]))
            if not page.get("NextToken"):
                return found
            asked = {**asked, "NextToken": page["NextToken"]}

    async def interfaces(self, by: str, values: Sequence[str], vpc: str = "") -> list[Interface]:
        """Network interfaces whose `by` (a filter of DescribeNetworkInterfaces) is one of `values`, in `vpc`."""
        found: list[Interface] = []
        left = iter(values)
        while some := list(islice(left, VALUES_OF_A_FILTER)):
            filters = _filters({by: some} | ({"vpc-id": [vpc]} if vpc else {}))
            found.extend(await self._interfaces({"Filters": filters, "MaxResults": PAGE_OF_INTERFACES}))
        return found

    async def _interfaces(self, asked: DescribeNetworkInterfacesRequestTypeDef) -> list[Interface]:
        found: list[Interface] = []
        while True:
            ask = partial(self._client.describe_network_interfaces, **asked)
            page = await self._call("DescribeNetworkInterfaces", ask)
            found.extend(map(_interface, page["NetworkInterfaces"]))
            if not page.get("NextToken"):
                return found
            asked = {**asked, "NextToken": page["NextToken"]}

    async def create_route(self, table: str, dst: IPNetwork, interface: str) -> None:
        ask = partial(self._client.create_route, RouteTableId=table, NetworkInterfaceId=interface, **_destination(dst))
        await self._call("CreateRoute", ask)

    async def replace_route(self, table: str, dst: IPNetwork, interface: str) -> None:
        ask = partial(self._client.replace_route, RouteTableId=table, NetworkInterfaceId=interface, **_destination(dst))
        await self._call("ReplaceRoute", ask)

    async def delete_route(self, table: str, dst: IPNetwork) -> None:
        await self._call("DeleteRoute", partial(self._client.delete_route, RouteTableId=table, **_destination(dst)))

    async def set_tags(self, table: str, tags: Mapping[str, str]) -> None:
        pairs: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
        await self._call("CreateTags", partial(self._client.create_tags, Resources=[table], Tags=pairs))

    async def drop_tags(self, table: str, keys: Sequence[str]) -> None:
        pairs: list[TagTypeDef] = [{"Key": key} for key in keys]
        await self._call("DeleteTags", partial(self._client.delete_tags, Resources=[table], Tags=pairs))

    async def disable_check(self, interface: str) -> None:
        modify = self._client.modify_network_interface_attribute
        ask = partial(modify, NetworkInterfaceId=interface, SourceDestCheck={"Value": False})
        await self._call("ModifyNetworkInterfaceAttribute", ask)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _call(self, method: str, ask: Callable[[], T]) -> T:
        """Raises ProviderBusy where AWS can't answer now, AwsRefused and TargetError for good."""
        again = False

        async def once() -> T:
            nonlocal again
            try:
                return await self._once(method, ask)
            except AwsRefused as refused:
                refused.again = again
                raise
            except ProviderBusy:
                again = True
                raise

        return await self.pace.call(once)

    async def _once(self, method: str, ask: Callable[[], T]) -> T:
        """Cancelled while it waits for a thread, it is not sent. After that it first sees what came of the call: a
        thread can't be called back."""
        job = self._threads.submit(copy_context().run, ask)
        under_way = asyncio.wrap_future(job)
        try:
            answer = await asyncio.shield(under_way)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([under_way])
                under_way.exception()
            raise
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            self.calls[method, code or "error"] += 1
            raise _refusal(method, code, error) from error
        except (BotoCoreError, HTTPClientError) as error:
            self.calls[method, type(error).__name__] += 1
            raise _trouble(method, error) from error
        self.calls[method, "ok"] += 1
        return answer


def _refusal(method: str, code: str, error: ClientError) -> TargetError:
    said = error.response.get("Error", {}).get("Message", "") or str(error)
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    text = f"ec2:{method}: {code}: {said}"
    if code in THROTTLED or status == 429:
        return ProviderBusy(text, _seconds(answer.get("HTTPHeaders", {}).get("retry-after", "")), throttled=True)
    if code in NOT_NOW or status >= 500:
        return ProviderBusy(text, _seconds(answer.get("HTTPHeaders", {}).get("retry-after", "")))
    if code in FORBIDDEN:
        text = (
            f"{text.partition(' Encoded authorization')[0]}: the role lacks it; docs/cloud-routes-aws.md has a policy"
        )
    if code in BAD_CREDENTIALS:
        text = f"{text}: AWS does not take these credentials, or this host's clock is wrong"
    return AwsRefused(code, text)


def _trouble(method: str, error: Exception) -> TargetError:
    """Of botocore itself: nobody answers, or there is nothing to sign with."""
    if isinstance(error, NotConnected | HTTPClientError):
        return ProviderBusy(f"ec2:{method}: nobody answers: {error}")
    return TargetError(
        f"ec2:{method} can't be asked: {error}: give this instance a role, or set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _filters(filters: Mapping[str, Sequence[str]]) -> list[FilterTypeDef]:
    return [{"Name": name, "Values": list(values)} for name, values in filters.items()]


class _Destination(TypedDict, total=False):
    DestinationCidrBlock: str
    DestinationIpv6CidrBlock: str


def _destination(dst: IPNetwork) -> _Destination:
    return {"DestinationCidrBlock": str(dst)} if dst.version == 4 else {"DestinationIpv6CidrBlock": str(dst)}


def _table(table: RouteTableTypeDef) -> TableSeen:
    return TableSeen(
        table["RouteTableId"],
        table["VpcId"],
        tuple(route for shown in table["Routes"] if (route := _route(shown)) is not None),
        {tag["Key"]: tag.get("Value", "") for tag in table.get("Tags", [])},
    )


def _route(route: RouteTypeDef) -> RouteSeen | None:
    dst = route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock")
    if not dst:
        return None
    others = [str(value) for name, value in route.items() if name not in _NO_TARGETS and value]
    return RouteSeen(
        ip_network(dst, strict=False),
        route.get("NetworkInterfaceId", ""),
        route.get("InstanceId", ""),
        ", ".join(others),
        route.get("Origin", ""),
        route.get("State") == "blackhole",
    )


def _interface(shown: NetworkInterfaceTypeDef) -> Interface:
    primary = shown.get("PrivateIpAddress", "")
    others = [address.get("PrivateIpAddress", "") for address in shown.get("PrivateIpAddresses", [])]
    v6 = [address.get("Ipv6Address", "") for address in shown.get("Ipv6Addresses", [])]
    texts = dict.fromkeys(text for text in (primary, *others, *v6) if text)
    return Interface(
        shown["NetworkInterfaceId"],
        shown["VpcId"],
        tuple(map(ip_address, texts)),
        shown.get("Attachment", {}).get("InstanceId", ""),
        bool(shown.get("SourceDestCheck", False)),
    )
