"""EC2 as a place where route tables are tried: `test_route_tables.py` and `test_aws_routes.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from tests.contract.route_tables import Kind, Place
from tests.support.aws import Aws, aws
from weft.model import IPAddress, IPNetwork
from weft.objects import Failure, Op
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud.aws import AwsRoutes
from weft.wire.aws_tags import claims_of, owner_key


class AwsPlace(Place):
    slow = True
    many = 150

    def __init__(self, cloud: Aws, **settings: object) -> None:
        self.cloud = cloud
        self.table = cloud.main
        self.vias = tuple(ip_address(f"10.128.0.{n}") for n in (4, 5, 6))
        self.interfaces = {cloud.interface(str(via)): via for via in self.vias}
        self.somebodys = cloud.interface("10.128.0.250")
        given = {"aws_route_table": (cloud.main,), "requests_per_second": 1e5, **settings}
        self.settings = RouteManagerSettings(backend="aws", **given)  # type: ignore[arg-type]
        self.tables: AwsRoutes = self.another()
        self._began = self._met = 0

    def another(self) -> AwsRoutes:
        """Another process' RouteTables, without memory."""
        return AwsRoutes(self.settings, self.cloud.client)

    def put_foreign(self, dst: IPNetwork) -> None:
        self.cloud.put(str(dst), interface=self.somebodys)

    def has_foreign(self, dst: IPNetwork) -> bool:
        return self.cloud.routes().get(dst) == self.somebodys

    def put_twice(self, dst: IPNetwork, vias: Sequence[IPAddress]) -> None:
        raise AssertionError("a table of EC2 has one route for each destination")

    def delete(self, dst: IPNetwork) -> None:
        self.cloud.delete(dst)

    def fail(self, number: int, kind: Kind) -> None:
        self._met = len(self.cloud.met)
        self.cloud.fail(number, kind)

    def met(self) -> bool:
        return len(self.cloud.met) > self._met

    def forgive(self) -> None:
        self.cloud.faults.clear()

    def hops(self, dst: IPNetwork) -> list[IPAddress]:
        held = self.cloud.routes().get(dst)
        return [self.interfaces[held]] if held in self.interfaces else []

    def begin(self) -> None:
        self._began = len(self.cloud.history)

    def absent(self, dst: IPNetwork) -> bool:
        return self.cloud.absent(dst, self._began)

    def listed(self) -> set[IPNetwork]:
        """Destinations that the table's tags say are ours."""
        return set(claims_of(owner_key(self.settings.etcd_prefix), self.cloud.tags()))


@contextmanager
def aws_place(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Iterator[AwsPlace]:
    with aws(monkeypatch) as cloud:
        yield AwsPlace(cloud, **settings)


def tables_of(cloud: Aws, *named: str, **settings: object) -> AwsRoutes:
    given = {"aws_route_table": named, "requests_per_second": 1e5, **settings}
    return AwsRoutes(RouteManagerSettings(backend="aws", **given), cloud.client)  # type: ignore[arg-type]


def net(text: str) -> IPNetwork:
    return ip_network(text)


async def told(tables: AwsRoutes) -> list[str]:
    return [f"{problem.subject}: {problem.message}" for problem in (await tables.read()).problems]


async def done(tables: AwsRoutes, *ops: Op) -> None:
    assert await tables.apply(ops) == [None] * len(ops)


async def failure(tables: AwsRoutes, op: Op) -> Failure:
    (answer,) = await tables.apply([op])
    assert answer is not None
    return answer
