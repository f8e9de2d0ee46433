"""The state of the local cloud: its routes and its operations. Called by `api` and `control` on the server's thread, by
tests on theirs.

Nothing runs by itself: whatever is asked, what was due until now is carried out first, each at its own time.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_network
from typing import Literal

import msgspec

from weft.lab.compute import checks
from weft.lab.compute.faults import Fault, Faults
from weft.lab.compute.history import Change, History
from weft.lab.compute.operations import Timing, Work
from weft.lab.compute.refusal import Refusal, already_there, invalid, not_found, not_ready
from weft.lab.compute.resources import (
    ROOT,
    Json,
    Operation,
    OperationError,
    Route,
    Warn,
    instance_json,
    network_json,
    network_link,
    number_of,
    project_json,
    route_path,
)
from weft.lab.compute.table import GivenRoute, Instance, Network, Table

QuotaAs = Literal["answer", "operation"]


class Compute:
    """One project. `clock`: seconds, any zero; `quota_as`: where quotaExceeded is said, in the answer to insert or in
    its operation (Google does both); `seed`: of whatever happens by chance."""

    def __init__(
        self,
        table: Table,
        timing: Timing | None = None,
        quota_as: QuotaAs = "answer",
        clock: Callable[[], float] = time.monotonic,
        seed: int = 1,
    ) -> None:
        self.timing = timing or Timing()
        self.quota_as: QuotaAs = quota_as
        self.faults = Faults(random.Random(seed))
        self.history = History(self.advance)
        self.unreachable: set[str] = set()
        """Zones that aggregated lists can't ask just now."""
        self._table = table
        self._clock = clock
        self._chance = random.Random(seed + 1)
        self._epoch = time.time() - clock()
        self._lock = threading.RLock()
        self._routes: dict[str, Route] = {}
        self._works: dict[str, Work] = {}
        self._by_request: dict[str, Work] = {}
        self._busy: dict[str, Work] = {}
        self._static = 0
        self._hops: dict[tuple[str, str, bool], tuple[Warn, ...]] = {}
        self._numbers = itertools.count(1)
        self._due: list[tuple[float, int, bool, Work]] = []
        for route in _given(table):
            self._put(clock(), self._stamped(route, clock()), "")

    # what there is

    @property
    def table(self) -> Table:
        return self._table

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def since(self) -> str:
        """The date of all that was there from the start."""
        return self.stamp(self.history.changes[0].at if self.history.changes else self.now)

    def stamp(self, at: float) -> str:
        """RFC 3339, as Google writes it: 2014-10-13T07:17:40.123-00:00."""
        return datetime.fromtimestamp(self._epoch + at, UTC).isoformat(timespec="milliseconds")

    def routes(self) -> dict[str, Route]:
        """By name, with what they are warned of now."""
        with self._lock:
            self.advance()
            return {name: self._warned(route) for name, route in sorted(self._routes.items())}

    def route(self, name: str) -> Route:
        """By name or id. Refusal: there is none."""
        with self._lock:
            self.advance()
            return self._warned(self._find(name))

    def operations(self) -> dict[str, Operation]:
        with self._lock:
            now = self.advance()
            return {name: work.document(self._table, now, self.stamp) for name, work in sorted(self._works.items())}

    def operation(self, name: str) -> tuple[Operation, float]:
        """By name or id, and how many seconds it still takes. Refusal: there is none."""
        with self._lock:
            now = self.advance()
            work = self._work(name)
            return work.document(self._table, now, self.stamp), max(0.0, work.ends - now)

    def network(self, name: str) -> Json:
        found = self._table.network(name)
        if not found:
            raise not_found(f"projects/{self._table.project}/global/networks/{name}")
        return network_json(self._table, found, self.since)

    def networks(self) -> list[Json]:
        return [network_json(self._table, one, self.since) for one in self._table.networks]

    def instances(self) -> list[Json]:
        return [instance_json(self._table, one, self.since) for one in self._table.instances]

    def instance(self, zone: str, name: str) -> Json:
        found = self._table.instance(zone, name)
        if not found:
            raise not_found(f"projects/{self._table.project}/zones/{zone}/instances/{name}")
        return instance_json(self._table, found, self.since)

    def project(self) -> Json:
        usage = {
            "ROUTES": self._used(),
            "NETWORKS": len(self._table.networks),
            "SUBNETWORKS": sum(len(one.subnetworks) for one in self._table.networks),
        }
        limits = {"NETWORKS": 15.0, "SUBNETWORKS": 175.0, **self._table.quotas}
        quotas: list[Json] = [
            {"metric": metric, "limit": limit, "usage": float(usage.get(metric, 0))} for metric, limit in limits.items()
        ]
        return project_json(self._table, quotas, self.since)

    # what calls do

    def insert(self, body: Json, request_id: str = "", user: str = "", fault: Fault | None = None) -> Operation:
        """routes.insert. Refusal: why not."""
        with self._lock:
            now = self.advance()
            if known := self._repeated(request_id):
                return known.document(self._table, now, self.stamp)
            route = checks.new_route(self._table, body)
            if route.name in self._routes or route.name in self._busy:
                raise already_there(route_path(self._table, route.name))
            error = self._quota()
            if error and self.quota_as == "answer":
                raise Refusal(403, error.message, "quotaExceeded")
            work = self._accept("insert", self._stamped(route, now), user, request_id, fault)
            work.error = work.error or error
            work.warnings = checks.warnings(self._table, route)
            return work.document(self._table, self.advance(), self.stamp)

    def delete(self, name: str, request_id: str = "", user: str = "", fault: Fault | None = None) -> Operation:
        """routes.delete. Refusal: why not."""
        with self._lock:
            now = self.advance()
            if known := self._repeated(request_id):
                return known.document(self._table, now, self.stamp)
            if name in self._busy:
                raise not_ready(route_path(self._table, name))
            route = self._find(name)
            if route.name in self._busy:
                raise not_ready(route_path(self._table, route.name))
            if route.route_type != "STATIC":
                raise invalid("route", route.name, "The local route cannot be deleted.")
            work = self._accept("delete", route, user, request_id, fault)
            return work.document(self._table, self.advance(), self.stamp)

    def forget(self, operation: str) -> None:
        """globalOperations.delete: it is listed no more. Refusal: there is none, or it isn't done."""
        with self._lock:
            now = self.advance()
            work = self._work(operation)
            if now < work.ends:
                raise Refusal(400, f"The operation '{work.name}' is not done", "operationInProgress")
            del self._works[work.name]

    # what the owner of the cloud does by hand

    def put(self, given: GivenRoute | Route) -> Route:
        """A route appears, or is another from now on; not by a call. One that has an id already keeps that and its
        date: it was there before."""
        with self._lock:
            now = self.advance()
            route = _made(self._table, given) if isinstance(given, GivenRoute) else given
            return self._put(now, route if route.id else self._stamped(route, now), "")

    def drop(self, name: str) -> Route:
        """A route is gone; not by a call. Refusal: there is none."""
        with self._lock:
            now = self.advance()
            route = self._find(name)
            self._remove(now, route.name, "")
            return route

    def change(self, table: Table) -> None:
        """Other instances, networks, quotas, permissions from now on; routes stay."""
        with self._lock:
            self.advance()
            self._table = table
            self._hops.clear()

    def put_instance(self, instance: Instance) -> None:
        """An instance appears, or is another from now on."""
        others = tuple(one for one in self._table.instances if (one.zone, one.name) != (instance.zone, instance.name))
        self.change(msgspec.structs.replace(self._table, instances=(*others, instance)))

    def drop_instance(self, name: str) -> None:
        left = tuple(one for one in self._table.instances if one.name != name)
        self.change(msgspec.structs.replace(self._table, instances=left))

    def advance(self) -> float:
        """Carry out what was due until now; now."""
        with self._lock:
            now = self._clock()
            while self._due and self._due[0][0] <= now:
                at, _, is_end, work = heapq.heappop(self._due)
                if is_end:
                    self._busy.pop(work.route.name, None)
                else:
                    self._effect(at, work)
            return now

    # how

    def _effect(self, at: float, work: Work) -> None:
        if work.error and not work.done_anyway:
            return
        if work.verb == "insert":
            self._put(at, work.route, work.name)
        elif work.route.name in self._routes:
            self._remove(at, work.route.name, work.name)
        else:
            path = route_path(self._table, work.route.name)
            work.error = OperationError("RESOURCE_NOT_FOUND", f"The resource '{path}' was not found")

    def _accept(self, verb: str, route: Route, user: str, request_id: str, fault: Fault | None) -> Work:
        now = self._clock()
        starts = now + self.timing.pending
        ends = starts + self.timing.running + self.timing.spread * self._chance.random()
        work = Work(next(self._numbers), verb, route, now, starts, ends, user, request_id)
        if fault and fault.kind == "operation":
            message = fault.message or f"Internal error (ordered: {fault.reason})."
            work.error, work.done_anyway = OperationError(fault.reason or "INTERNAL_ERROR", message), fault.done
        self._works[work.name] = work
        self._busy[route.name] = work
        if request_id:
            self._by_request[request_id] = work
        heapq.heappush(self._due, (work.takes_effect, work.number, False, work))
        heapq.heappush(self._due, (ends, work.number, True, work))
        return work

    def _put(self, at: float, route: Route, operation: str) -> Route:
        before = self._routes.get(route.name)
        self._routes[route.name] = route
        self._static += _is_static(route) - _is_static(before)
        self.history.changes.append(Change(at, route.name, before, route, operation))
        return route

    def _remove(self, at: float, name: str, operation: str) -> None:
        route = self._routes.pop(name)
        self._static -= _is_static(route)
        self.history.changes.append(Change(at, name, route, None, operation))

    def _repeated(self, request_id: str) -> Work | None:
        return self._by_request.get(request_id) if request_id else None

    def _quota(self) -> OperationError | None:
        limit = self._table.quotas.get("ROUTES")
        coming = sum(work.verb == "insert" and not work.error for work in self._busy.values())
        if limit is None or self._used() + coming < limit:
            return None
        return OperationError("QUOTA_EXCEEDED", f"Quota 'ROUTES' exceeded.  Limit: {limit} globally.")

    def _used(self) -> int:
        """Routes that somebody made; those of subnetworks and peerings are not counted."""
        return self._static

    def _find(self, name: str) -> Route:
        found = self._routes.get(name) or next((one for one in self._routes.values() if one.id == name), None)
        if not found:
            raise not_found(route_path(self._table, name))
        return found

    def _work(self, name: str) -> Work:
        found = self._works.get(name)
        for work in () if found else self._works.values():
            if number_of(self._table.project, work.name) == name:
                return work
        if not found:
            raise not_found(f"projects/{self._table.project}/global/operations/{name}")
        return found

    def _warned(self, route: Route) -> Route:
        hop = route.network, route.next_hop, ":" in route.dest_range
        found = self._hops.get(hop)
        if found is None:
            found = self._hops[hop] = checks.warnings(self._table, route)
        return msgspec.structs.replace(route, warnings=found) if found else route

    def _stamped(self, route: Route, at: float) -> Route:
        return msgspec.structs.replace(
            route,
            id=number_of(route.name, str(at)),
            creation_timestamp=self.stamp(at),
            self_link=ROOT + route_path(self._table, route.name),
        )


def _is_static(route: Route | None) -> bool:
    return route is not None and route.route_type == "STATIC"


def _given(table: Table) -> list[Route]:
    """What is there from the start: Google's own routes of every network, and those of the table."""
    found = [route for network in table.networks for route in _own(table, network)]
    return found + [_made(table, one) for one in table.routes]


def _own(table: Table, network: Network) -> list[Route]:
    link = network_link(table, network.name)
    base = Route(kind="compute#route", network=link, priority=0, route_type="SUBNET", next_hop_network=link)
    routes = []
    for subnetwork in network.subnetworks:
        for one in subnetwork.ranges:
            name = f"default-route-r-{int(number_of(network.name, str(one))):016x}"
            text = f"Default local route to the subnetwork {one}."
            routes.append(msgspec.structs.replace(base, name=name, dest_range=str(one), description=text))
    if network.default_route:
        six = any(isinstance(one, IPv6Network) for one in network.ranges)
        for dest in ("0.0.0.0/0", "::/0") if six else ("0.0.0.0/0",):
            name = f"default-route-{int(number_of(network.name, dest)):016x}"
            routes.append(
                Route(
                    kind="compute#route",
                    name=name,
                    network=link,
                    dest_range=dest,
                    priority=1000,
                    route_type="STATIC",
                    next_hop_gateway=checks.gateway_link(table),
                    description="Default route to the Internet.",
                )
            )
    return routes


def _made(table: Table, given: GivenRoute) -> Route:
    """By hand: only what must be so is checked."""
    zone, _, instance = given.next_hop_instance.partition("/")
    hop = f"{ROOT}projects/{table.project}/zones/{zone}/instances/{instance}" if given.next_hop_instance else ""
    return Route(
        kind="compute#route",
        name=given.name,
        network=network_link(table, given.network),
        dest_range=str(ip_network(given.dest_range)),
        priority=given.priority,
        description=given.description,
        tags=given.tags,
        route_type="STATIC",
        next_hop_ip=given.next_hop_ip,
        next_hop_instance=hop,
        next_hop_gateway="" if hop or given.next_hop_ip else checks.gateway_link(table),
    )
