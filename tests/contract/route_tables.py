"""Places where route tables are tried: what `test_route_tables.py` needs of a cloud besides its RouteTables. Somebody
else's routes, leftovers, faults of single calls, and the cloud's own word on what was there when.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Literal

import pytest

from tests.support.compute import Gce, compute
from weft.core.cloud_names import other_name, route_name
from weft.lab.compute.faults import Fault
from weft.lab.compute.operations import Timing
from weft.lab.compute.resources import path_of
from weft.lab.compute.table import GivenRoute, small
from weft.model import IPAddress, IPNetwork
from weft.objects import Op, Why
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import RouteTables, google_operations
from weft.targets.cloud.google import GoogleRoutes
from weft.targets.cloud.google_routes import mark_of
from weft.targets.cloud.memory import MemoryRoutes

Kind = Literal["refused", "lost"]
"""A call that is not carried out; one that is carried out, and whose answer never comes."""
WHY = Why("etcd", "host-1", "its lease")
SOMEBODY = "somebody's"
TABLE = "default"


class Place(ABC):
    """One cloud. `vias`: three addresses that hosts there have. `many`: routes that fit at once. `slow`: it is asked
    over a socket."""

    tables: RouteTables
    table = TABLE
    vias: tuple[IPAddress, ...] = tuple(ip_address(f"10.128.0.{n}") for n in (2, 3, 4))
    many = 1000
    slow = False

    def route(self, number: int, via: int = 0) -> CloudRoute:
        return CloudRoute(self.table, self.dst(number), self.vias[via])

    def dst(self, number: int) -> IPNetwork:
        return ip_network(f"10.{200 + (number >> 8)}.{number & 255}.0/24")

    @abstractmethod
    def put_foreign(self, dst: IPNetwork) -> None:
        """Somebody else's route stands there."""

    @abstractmethod
    def has_foreign(self, dst: IPNetwork) -> bool:
        """Whether it stands there as it was put."""

    @abstractmethod
    def put_twice(self, dst: IPNetwork, vias: Sequence[IPAddress]) -> None:
        """What a change leaves that was interrupted, where one can be."""

    @abstractmethod
    def delete(self, dst: IPNetwork) -> None:
        """Somebody deletes whatever routes there are to `dst`."""

    @abstractmethod
    def fail(self, number: int, kind: Kind) -> None:
        """The call of this number from now on, 1 is the next, fails."""

    @abstractmethod
    def met(self) -> bool:
        """Whether that has happened."""

    @abstractmethod
    def forgive(self) -> None:
        """No call fails any more."""

    @abstractmethod
    def hops(self, dst: IPNetwork) -> list[IPAddress]:
        """Where routes of ours to `dst` lead, by the cloud's own word."""

    @abstractmethod
    def begin(self) -> None:
        """From now on `absent` counts."""

    @abstractmethod
    def absent(self, dst: IPNetwork) -> bool:
        """Whether there was a moment without a route to `dst`."""


class MemoryPlace(Place):
    def __init__(self) -> None:
        self.tables: MemoryRoutes = MemoryRoutes((TABLE,))
        self._began = 0
        self._met = 0

    def put_foreign(self, dst: IPNetwork) -> None:
        self.tables.put_foreign(TABLE, dst, SOMEBODY)

    def has_foreign(self, dst: IPNetwork) -> bool:
        return [entry.whose for entry in self.tables.entries(TABLE, dst)] == [SOMEBODY]

    def put_twice(self, dst: IPNetwork, vias: Sequence[IPAddress]) -> None:
        self.tables.put(CloudRoute(TABLE, dst, vias[0]), *vias[1:])

    def delete(self, dst: IPNetwork) -> None:
        self.tables.tamper_delete(TABLE, dst)

    def fail(self, number: int, kind: Kind) -> None:
        self._met = len(self.tables.faults.met)
        self.tables.faults.at(kind, self.tables.faults.seen + number)

    def met(self) -> bool:
        return len(self.tables.faults.met) > self._met

    def forgive(self) -> None:
        self.tables.faults.clear()

    def hops(self, dst: IPNetwork) -> list[IPAddress]:
        return [entry.via for entry in self.tables.entries(TABLE, dst) if not entry.whose and entry.via is not None]

    def begin(self) -> None:
        self._began = len(self.tables.history)

    def absent(self, dst: IPNetwork) -> bool:
        moments = list(self.tables.history)[self._began :]
        return any(not moment.entries for moment in moments if moment.key == CloudRoute(TABLE, dst, None).key)


class _Nth(random.Random):
    """Strikes once, at the call of this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def random(self) -> float:
        self.left -= 1
        return 0.0 if self.left == 0 else 1.0


class GooglePlace(Place):
    slow = True
    many = 300  # each with an operation to wait for

    def __init__(self, gce: Gce, **settings: object) -> None:
        self.gce = gce
        given = {"google_endpoint": gce.url, "requests_per_second": 1e5, **settings}
        self.settings = RouteManagerSettings(backend="google", **given)  # type: ignore[arg-type]
        self.tables: GoogleRoutes = GoogleRoutes.of(self.settings)
        self._began = 0.0
        self._fault: Fault | None = None

    def put_foreign(self, dst: IPNetwork) -> None:
        """With the very name that ours would have: flannel-route-manager's, or anybody's."""
        self._put(route_name(TABLE, dst), dst, self.vias[2], SOMEBODY)

    def has_foreign(self, dst: IPNetwork) -> bool:
        found = [r for r in self.gce.history.at(self.gce.now).values() if r.dest_range == str(dst)]
        return [(r.description, r.next_hop_ip) for r in found] == [(SOMEBODY, str(self.vias[2]))]

    def put_twice(self, dst: IPNetwork, vias: Sequence[IPAddress]) -> None:
        names = [route_name(TABLE, dst), *(other_name(TABLE, dst, str(via)) for via in vias[1:])]
        for name, via in zip(names, vias, strict=True):
            self._put(name, dst, via, f"{mark_of(self.settings.etcd_prefix)}lease of {via}")

    def delete(self, dst: IPNetwork) -> None:
        for name, route in self.gce.history.at(self.gce.now).items():
            if route.dest_range == str(dst):
                self.gce.compute.drop(name)

    def fail(self, number: int, kind: Kind) -> None:
        share = 0.5  # who strikes is asked, and that is not chance
        self.gce.faults.chance = _Nth(number)
        self._fault = Fault(method="*", kind="lose" if kind == "lost" else "refuse", status=403, share=share)
        self.gce.faults.order(self._fault)

    def met(self) -> bool:
        return self._fault is not None and self._fault.taken == 1

    def forgive(self) -> None:
        self.gce.faults.clear()

    def hops(self, dst: IPNetwork) -> list[IPAddress]:
        mark = mark_of(self.settings.etcd_prefix)
        found = self.gce.history.at(self.gce.now).values()
        return [
            ip_address(route.next_hop_ip)
            for route in found
            if route.dest_range == str(dst) and route.description.startswith(mark)
        ]

    def begin(self) -> None:
        self._began = self.gce.now

    def absent(self, dst: IPNetwork) -> bool:
        return bool(self.gce.history.gaps(dst, self._began))

    def _put(self, name: str, dst: IPNetwork, via: IPAddress, description: str) -> None:
        given = GivenRoute(name=name, dest_range=str(dst), next_hop_ip=str(via), description=description)
        self.gce.compute.put(given)
        assert path_of(self.gce.history.at(self.gce.now)[name].network).endswith(f"/{TABLE}")


QUICK = Timing(pending=0.0005, running=0.0005)


@contextmanager
def google_place(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Iterator[GooglePlace]:
    """A local Compute API, in a hurry."""
    with compute(small(3, quotas={"ROUTES": 5000.0}), timing=QUICK) as gce:
        gce.be_home(monkeypatch)
        monkeypatch.setattr(google_operations, "FIRST_PAUSE", 0.005)
        monkeypatch.setattr(google_operations, "EACH", 0.002)
        yield GooglePlace(gce, **settings)


def add(route: CloudRoute) -> Op:
    return Op("add", route, WHY)


def change(route: CloudRoute, old: CloudRoute | None = None) -> Op:
    return Op("change", route, WHY, old)


def remove(route: CloudRoute) -> Op:
    return Op("remove", route, WHY)
