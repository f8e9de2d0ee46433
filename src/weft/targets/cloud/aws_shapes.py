"""What the EC2 API shows, as weft's own types: `aws_api.py` makes them, the other parts of the backend take them, and
none of those needs boto3 to be imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.errors import TargetError
from weft.model import IPAddress, IPNetwork

THREADS = 4
"""Calls that are under way at once."""


class AwsRefused(TargetError):
    """AWS refused a call for good. `code`: its word for that (`RouteAlreadyExists`). `again`: it had been made before,
    without an answer, and may have been carried out that time."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.again = False
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RouteSeen:
    """A route as DescribeRouteTables shows it. `interface`: id of the network interface that it leads to; `other`: what
    else it leads to (igw-…, local), then it can't be ours; "" for none. `origin`: CreateRoute if a person or a program
    made it."""

    dst: IPNetwork
    interface: str = ""
    instance: str = ""
    other: str = ""
    origin: str = "CreateRoute"
    blackhole: bool = False


@dataclass(frozen=True, slots=True)
class TableSeen:
    """A route table: its routes to addresses (those to prefix lists left out) and its tags."""

    id: str
    vpc: str
    routes: tuple[RouteSeen, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. `addresses`: its private ones, the primary one first, then IPv6. `check`: whether its
    source/destination check is on: it drops what isn't addressed to itself."""

    id: str
    vpc: str
    addresses: tuple[IPAddress, ...]
    instance: str = ""
    check: bool = False

    def __str__(self) -> str:
        return f"{self.id} of instance {self.instance}" if self.instance else f"{self.id} (attached to no instance)"
