"""A thousand changes while Google's API fails in every way that it can: no foreign route is touched, and no destination
is absent while it is wanted, at any instant of the local cloud's history.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from tests.support.compute import Gce
from tests.support.google import World, manager
from weft.core.diff import Facts, diff
from weft.core.plan import Wanted
from weft.errors import TargetError
from weft.lab.compute.faults import Fault
from weft.lab.compute.paging import Paging
from weft.lab.compute.table import GivenRoute, Network, Subnetwork, small
from weft.model import IPAddress, IPNetwork
from weft.objects import Key, Why
from weft.objects.cloud import CloudRoute, cloud_key
from weft.targets.cloud import target as cloud_target
from weft.targets.cloud.target import CloudOptions, CloudTarget

CHANGES = 1000
A_ROUND = 25
HOPS = [IPv4Address("10.128.0.2") + n for n in range(4)]
LEASES: list[IPNetwork] = [ip_network(f"10.244.{n}.0/24") for n in range(80)]
MARK = "weft route-manager /coreos.com/network: a lease"
FOREIGN = (
    GivenRoute(name="by-hand", dest_range="10.244.3.0/24", next_hop_ip="10.128.0.2", description=MARK),
    GivenRoute(name="flannel-default-10-244-4-0-24", dest_range="10.244.4.0/24", next_hop_ip="10.128.0.2"),
    GivenRoute(name="flannel-default-10-244-5-0-24", dest_range="10.9.0.0/24", next_hop_ip="10.128.0.2"),
    GivenRoute(
        name="flannel-default-foo-10-244-6-0-24",
        dest_range="10.244.6.0/24",
        next_hop_ip="10.128.0.2",
        description=MARK,
        network="default-foo",
    ),
    GivenRoute(
        name="flannel-default-10-244-7-0-24",
        dest_range="10.244.7.0/24",
        next_hop_ip="10.128.0.2",
        description="weft route-manager /another: a lease",
    ),
)


def faults() -> list[Fault]:
    """About a tenth of all calls, and every kind."""
    return [
        Fault(method="routes.*", status=503, share=0.02, times=None),
        Fault(method="routes.*", status=500, share=0.01, times=None),
        Fault(method="routes.*", status=429, share=0.01, times=None),
        Fault(method="routes.*", status=403, reason="rateLimitExceeded", share=0.005, times=None),
        Fault(method="routes.*", kind="html", status=502, share=0.01, times=None),
        Fault(method="*", kind="drop", share=0.01, times=None),
        Fault(method="*", kind="lose", share=0.03, times=None),
        Fault(method="routes.*", status=400, reason="invalid", share=0.005, times=None),
        Fault(method="routes.insert", kind="operation", reason="INTERNAL_ERROR", share=0.03, times=None),
        Fault(method="routes.insert", kind="operation", reason="QUOTA_EXCEEDED", share=0.01, times=None),
        Fault(method="routes.insert", kind="operation", reason="INTERNAL_ERROR", done=True, share=0.01, times=None),
        Fault(method="routes.delete", kind="operation", reason="INTERNAL_ERROR", share=0.03, times=None),
        Fault(method="routes.delete", kind="operation", reason="INTERNAL_ERROR", done=True, share=0.01, times=None),
        Fault(method="globalOperations.*", status=503, share=0.03, times=None),
        Fault(method="globalOperations.wait", status=404, reason="notFound", share=0.01, times=None),
    ]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    monkeypatch.setattr(cloud_target, "SOON", 0.0)
    return World(monkeypatch, tmp_path)


@dataclass
class Cluster:
    """What is wanted now, and since when each destination must be there: `held` are spans that have ended."""

    target: CloudTarget
    gce: Gce
    wanted: dict[IPNetwork, IPAddress] = field(default_factory=dict)
    there: dict[IPNetwork, float] = field(default_factory=dict)
    held: list[tuple[IPNetwork, float, float]] = field(default_factory=list)
    refused: int = 0

    def change(self, chance: random.Random) -> None:
        """A lease comes, goes, or has another host."""
        lease = chance.choice(LEASES)
        if lease not in self.wanted or chance.random() < 0.5:
            self.wanted[lease] = chance.choice(HOPS)
        else:
            del self.wanted[lease]
            since = self.there.pop(lease, None)
            if since is not None:
                self.held.append((lease, since, self.gce.now))

    async def cycle(self) -> bool:
        """As the loop does it; whether nothing is left to do."""
        try:
            reading = await self.target.read()
        except TargetError:
            self.refused += 1
            return False
        changes = diff(self._plan(), Facts(reading.objects, reading.foreign))
        ops = changes.ops if reading.takes is None else changes.ops[: reading.takes]
        answers = await self.target.apply(ops) if ops else []
        for op, failure in zip(ops, answers, strict=True):
            route = op.object
            assert isinstance(route, CloudRoute)
            self.refused += failure is not None
            if failure is None and op.action != "remove":
                self.there.setdefault(route.dst, self.gce.now)
        return not changes.ops

    def _plan(self) -> dict[Key, Wanted]:
        why = Why("flannel", "a host", "lease")
        routes = [CloudRoute("default", dst, via) for dst, via in self.wanted.items()]
        return {route.key: Wanted(route, why) for route in routes}


async def test_a_thousand_changes_over_errors(world: World) -> None:
    chance = random.Random(20141013)
    networks = tuple(
        Network(name=name, subnetworks=(Subnetwork(name=name, range="10.128.0.0/20"),))
        for name in ("default", "default-foo")
    )
    table = small(4, routes=FOREIGN, networks=networks)
    with world.cloud(table, paging=Paging(cap=40, sparse=True)) as gce:
        async with manager(gce) as tables:
            cluster = Cluster(CloudTarget(tables, CloudOptions(sync_interval=0.05)), gce)
            await cluster.cycle()
            begun = gce.now
            ordered = [gce.faults.order(fault) for fault in faults()]
            for _ in range(CHANGES // A_ROUND):
                for _ in range(A_ROUND):
                    cluster.change(chance)
                for _ in range(chance.randint(1, 4)):
                    await cluster.cycle()
            gce.faults.clear()
            async with asyncio.timeout(10):
                while not await cluster.cycle():
                    pass
            contents = await tables.read()

        foreign = {cloud_key("default", ip_network(f"10.244.{n}.0/24")) for n in (3, 4, 7)}
        wanted = {CloudRoute("default", dst, via) for dst, via in cluster.wanted.items()}
        assert set(contents.routes.values()) == {route for route in wanted if route.key not in foreign}
        for one in FOREIGN:
            assert gce.history.touched(one.name) == []
        spans = [*cluster.held, *((dst, since, gce.now) for dst, since in cluster.there.items())]
        assert len(spans) > 200
        for dst, since, until in spans:
            assert gce.history.gaps(dst, since, until) == []
        assert all(fault.taken for fault in ordered), [fault for fault in ordered if not fault.taken]
        changing = gce.history.called("routes.insert", "routes.delete", since=begun)
        assert len(changing) > CHANGES / 2
        assert sum(call.fault != "" for call in changing) > 0.1 * len(changing)
        assert cluster.refused > 20
