"""The google backend: static routes of one VPC network at Compute Engine, as a RouteTables (`targets/cloud/`).

    google_identity    project, network, credentials              google_routes     what a list of routes says, pure
    google_api         one call: retries, pages, errors in words  google_instances  whose address is it
    google_operations  changes followed to their end              google_quota      room for more routes

A route can't be changed in place. Another one is made beside it under another name, and when that is there, the old one
is deleted: the destination is never without a route. Whatever breaks that off leaves both, which `read` calls
"it is there twice", and the next change ends it. Routes are deleted by their numeric ids, those that were read: a name
can have become somebody else's since.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import msgspec

from weft.core.cloud_names import other_name, route_name
from weft.core.table_routes_index import Index
from weft.errors import TargetError
from weft.model import IPAddress, Problem
from weft.objects import Failure, Key, Op, Why
from weft.objects.cloud import CloudRoute
from weft.settings.route_manager import RouteManagerSettings
from weft.targets.cloud import Contents, Room
from weft.targets.cloud.google_api import ComputeApi, Credentials, Refusal, Request
from weft.targets.cloud.google_identity import Place, find, told
from weft.targets.cloud.google_instances import Instances
from weft.targets.cloud.google_operations import Operation, OperationError, Operations
from weft.targets.cloud.google_quota import Quota
from weft.targets.cloud.google_routes import (
    FIELDS,
    Hop,
    RoutePage,
    RouteResource,
    Rules,
    as_route,
    body,
    hop_problems,
    in_network,
    instance_path,
    is_gone,
    is_ours,
    is_right,
    made,
    mark_of,
    short,
    sort_out,
    whose,
)
from weft.targets.cloud.pace import Pace, each

AT_ONCE = 64
"""Changes under way at a time: an operation takes seconds, and the pace of calls is kept elsewhere."""
NAMES = 4
"""Names that are tried for one route, when others have taken them."""


class Occupied(TargetError):
    """Somebody else's route stands there."""


@dataclass(frozen=True, slots=True)
class _Site:
    """What can be known only once the metadata server was asked."""

    rules: Rules
    api: ComputeApi
    operations: Operations
    instances: Instances
    quota: Quota

    @property
    def routes(self) -> str:
        return f"projects/{self.rules.project}/global/routes"


class GoogleRoutes:
    """RouteTables for -backend=google: one table, a VPC network."""

    name = "google"

    def __init__(self, settings: RouteManagerSettings) -> None:
        self._settings = settings
        self._site: _Site | None = None
        self._ours: dict[Key, tuple[RouteResource, ...]] = {}
        self._foreign: Mapping[Key, str] = {}
        self._doubtful: set[Key] | None = None
        self._vias: dict[Key, tuple[str, IPAddress]] = {}
        self._gaps = asyncio.Semaphore(1)

    @classmethod
    def of(cls, settings: RouteManagerSettings) -> GoogleRoutes:
        """Raises SettingsError: a flag can't be used."""
        told(settings)
        return cls(settings)

    @property
    def tables(self) -> tuple[str, ...]:
        return (self._site.rules.network,) if self._site is not None else ()

    @property
    def room(self) -> Mapping[str, Room]:
        site = self._site
        return {site.rules.network: site.quota.room} if site is not None and site.quota.room is not None else {}

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        return self._site.api.calls if self._site is not None else {}

    async def read(self) -> Contents:
        site = await self._at()
        before = site.api.made
        ours, foreign, problems = await self._list(site)
        await self._learn_instances(site)
        routes = {key: as_route(found, site.rules, self._addresses) for key, found in ours.items()}
        return Contents(routes, foreign, tuple(problems), site.api.made - before)

    async def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        site = await self._at()
        if self._doubtful is None or any(op.object.key in self._doubtful for op in ops):
            await self._list(site)
        refused = await self._refused(site, [op for op in ops if op.action != "remove"])
        tried = await each([op for op in ops if op.object.key not in refused], self._one, AT_ONCE)
        answers = iter(tried)
        return [refused[op.object.key] if op.object.key in refused else next(answers) for op in ops]

    def lines(self, ops: Sequence[Op]) -> list[str]:
        return [line for op in ops if isinstance(op.object, CloudRoute) for line in self._lines(op, op.object)]

    def called(self, route: CloudRoute) -> str:
        return route_name(route.table, route.dst)

    async def close(self) -> None:
        if self._site is not None:
            await self._site.operations.close()
            await self._site.api.close()

    async def _at(self) -> _Site:
        if self._site is None:
            place, credentials = await find(self._settings)
            self._site = _site(self._settings, place, credentials)
        return self._site

    async def _list(self, site: _Site) -> tuple[Mapping[Key, tuple[RouteResource, ...]], dict[Key, str], list[Problem]]:
        params = {"filter": f"network eq .*/networks/{site.rules.network}", "fields": FIELDS, "maxResults": "500"}
        request = Request("routes.list", "GET", site.routes, params)
        found = sort_out([one async for page in site.api.pages(request, RoutePage) for one in page.items], site.rules)
        self._ours, self._foreign, self._doubtful = found.ours, found.foreign, set()
        problems = [Problem(site.rules.network, beside) for beside in found.beside]
        return dict(found.ours), found.foreign, [*problems, *hop_problems(found.ours), *site.quota.problems]

    async def _refused(self, site: _Site, ops: Sequence[Op]) -> dict[Key, Failure]:
        """What there is no room for."""
        held = Index(dst for found in self._ours.values() if (dst := found[0].dst) is not None)
        joining: list[Op] = []
        single: list[Op] = []
        for op in ops:
            if op.object.key not in self._ours and isinstance(op.object, CloudRoute):
                (joining if any(held.inside(op.object.dst)) else single).append(op)
        fitting = await site.quota.fitting(len(joining), len(single), len(ops) - len(joining) - len(single))
        self._gaps = asyncio.Semaphore(max(fitting.gaps, 1))
        left = (*joining[fitting.joining :], *single[fitting.additions :])
        return {op.object.key: Failure(fitting.message) for op in left}

    async def _learn_instances(self, site: _Site) -> None:
        """Where routes lead that lead to instances: ours by now, or from before `-google-next-hop=ip`, which must do
        without a permission to ask."""
        led = [one for found in self._ours.values() for one in found if one.next_hop_instance]
        if any(is_gone(one) for one in led):
            site.instances.forget()
        try:
            await site.instances.learn({instance_path(one.next_hop_instance) for one in led if not is_gone(one)})
        except Refusal:
            if site.rules.by_instance:
                raise

    def _addresses(self, resource: RouteResource) -> list[IPAddress]:
        """Of the route's instance; first the one by which it was asked for, else one of the destination's version."""
        site, dst = self._site, resource.dst
        if site is None or dst is None:
            return []
        path = instance_path(resource.next_hop_instance)
        asked = self._vias.get(site.rules.key(dst))
        found = sorted(site.instances.addresses(path), key=lambda one: one.version != dst.version)
        return sorted(found, key=lambda one: asked != (path, one))

    async def _one(self, op: Op) -> Failure | None:
        site, route = await self._at(), op.object
        assert isinstance(route, CloudRoute), "the target takes no other kind"
        doubtful = self._doubtful if self._doubtful is not None else set()
        doubtful.add(route.key)
        try:
            if op.action == "remove":
                await self._remove(site, route.key)
            elif route.key in self._ours:
                async with self._gaps:
                    await self._ensure(site, route, op.why)
            else:
                await self._ensure(site, route, op.why)
        except Occupied as error:
            return Failure(str(error), conflict=True)
        doubtful.discard(route.key)
        return None

    async def _ensure(self, site: _Site, route: CloudRoute, why: Why) -> None:
        """The right route first; then, and only then, whatever else of ours has the destination goes."""
        hop = await self._hop(site, route)
        before = self._ours.get(route.key, ())
        right = next((one for one in before if is_right(one, site.rules, route.dst, hop)), None)
        if right is None:
            right = await self._insert(site, route, hop, why)
            before = self._ours.get(route.key, ())
        self._vias[route.key] = (hop.instance, hop.address)
        self._ours[route.key] = (right, *(one for one in before if one.name != right.name))
        for other in self._ours[route.key][1:]:
            try:
                await self._delete(site, other)
            except TargetError as error:
                raise TargetError(f"{right.name} is there, and {other.name} could not be deleted: {error}") from error
            self._ours[route.key] = tuple(one for one in self._ours[route.key] if one is not other)

    async def _hop(self, site: _Site, route: CloudRoute) -> Hop:
        assert route.via is not None, "only a route that was read leads nowhere"
        if not site.rules.by_instance and not site.instances.zone:
            return Hop(route.via)
        path = await site.instances.with_address(route.via)
        if not path:
            where = f"zone {site.instances.zone}" if site.instances.zone else "any zone"
            raise TargetError(
                f"{route.dst} is to lead to {route.via}, and no instance in {where} has that address in network "
                f"{site.rules.network} of project {site.rules.project}"
            )
        return Hop(route.via, path)

    async def _insert(self, site: _Site, route: CloudRoute, hop: Hop, why: Why) -> RouteResource:
        if route.key in self._foreign:
            raise Occupied(_left_alone(self._foreign[route.key]))
        for name in self._names(site, route, hop):
            resource = made(name, site.rules, route.dst, hop, why)
            if await self._inserted(site, resource):
                return self._ours[route.key][-1]
            there = await self._get(site, name)
            if there is None:
                raise TargetError(f"{name} is just being made or deleted by another operation; it is tried again")
            if there.dst == route.dst and in_network(there, site.rules):
                if not is_ours(there, site.rules):
                    raise Occupied(_left_alone(whose(there, site.rules)))
                self._ours[route.key] = (*self._ours.get(route.key, ()), there)
                if is_right(there, site.rules, route.dst, hop):
                    return there
        raise TargetError(f"every name for {route.dst} is taken in project {site.rules.project}, {name} the last")

    def _names(self, site: _Site, route: CloudRoute, hop: Hop) -> Iterator[str]:
        """The route's own name, unless one of ours has it that is to be replaced; then others."""
        taken = {one.name for one in self._ours.get(route.key, ())}
        led = hop.instance or str(hop.address)
        others = (other_name(site.rules.network, route.dst, f"{led} {n or ''}") for n in range(NAMES))
        yield from (name for name in (route_name(site.rules.network, route.dst), *others) if name not in taken)

    async def _inserted(self, site: _Site, resource: RouteResource) -> bool:
        """Whether it is there now, by us; False if something has that name already."""
        params = {"requestId": str(uuid4())}
        try:
            accepted = await site.api.ask(
                Request("routes.insert", "POST", site.routes, params, body(resource)), Operation
            )
        except Refusal as refusal:
            if refusal.status == 409 and refusal.reason in ("alreadyExists", "ALREADY_EXISTS", ""):
                return False
            site.quota.refused(refusal.reason)
            raise
        end = await site.operations.end_of(accepted)
        if any(error.code == "RESOURCE_ALREADY_EXISTS" for error in end.errors):
            return False
        for error in end.errors:
            site.quota.refused(error.code)
            raise _failed("routes.insert", resource.name, end.errors)
        site.quota.changed(1)
        dst = resource.dst
        assert dst is not None, "we made it"
        key = site.rules.key(dst)
        self._ours[key] = (*self._ours.get(key, ()), msgspec.structs.replace(resource, id=end.target_id))
        return True

    async def _remove(self, site: _Site, key: Key) -> None:
        for resource in self._ours.get(key, ()):
            await self._delete(site, resource)
            self._ours[key] = tuple(one for one in self._ours[key] if one is not resource)
        self._ours.pop(key, None)
        self._vias.pop(key, None)

    async def _delete(self, site: _Site, resource: RouteResource) -> None:
        """By its id. What is not found under it is looked for by name before it counts as gone."""
        if resource.id and await self._deleted(site, resource.id):
            site.quota.changed(-1)
            return
        there = await self._get(site, resource.name)
        if there is None or (resource.id and there.id != resource.id) or not is_ours(there, site.rules):
            return
        if await self._deleted(site, resource.name):
            site.quota.changed(-1)

    async def _deleted(self, site: _Site, name: str) -> bool:
        """Whether it was deleted; False if there is no such route."""
        request = Request("routes.delete", "DELETE", f"{site.routes}/{name}", {"requestId": str(uuid4())})
        try:
            accepted = await site.api.ask(request, Operation)
        except Refusal as refusal:
            if refusal.is_absence:
                return False
            raise
        end = await site.operations.end_of(accepted)
        if any(error.code == "RESOURCE_NOT_FOUND" for error in end.errors):
            return False
        if end.errors:
            raise _failed("routes.delete", name, end.errors)
        return True

    async def _get(self, site: _Site, name: str) -> RouteResource | None:
        try:
            return await site.api.ask(Request("routes.get", "GET", f"{site.routes}/{name}", {}), RouteResource)
        except Refusal as refusal:
            if refusal.is_absence:
                return None
            raise

    def _lines(self, op: Op, route: CloudRoute) -> Iterator[str]:
        site = self._site
        place = (site.rules.project if site else self._settings.google_project) or "PROJECT"
        standing = self._ours.get(route.key, ())
        if op.action != "remove" and route.via is not None:
            path = site.instances.path(route.via) if site is not None and site.rules.by_instance else ""
            hop = Hop(route.via, path)
            name = next(self._names(site, route, hop)) if site else self.called(route)
            yield _line(
                "create",
                name,
                place,
                [
                    f"--network={route.table}",
                    f"--destination-range={route.dst}",
                    *(
                        [f"--next-hop-instance={short(path)}", f"--next-hop-instance-zone={path.split('/')[1]}"]
                        if path
                        else [f"--next-hop-address={route.via}"]
                    ),
                    f"--priority={self._settings.google_priority}",
                    f"--description={mark_of(self._settings.etcd_prefix)}{op.why.rule}, {op.why.peer}",
                ],
            )
        for one in standing:
            yield _line("delete", one.name, place, ["--quiet"])


def _line(verb: str, name: str, project: str, rest: Sequence[str]) -> str:
    return shlex.join(["gcloud", "compute", "routes", verb, name, f"--project={project}", *rest])


def _left_alone(who: str) -> str:
    return f"left alone: {who}"


def _failed(method: str, name: str, errors: Sequence[OperationError]) -> TargetError:
    said = "; ".join(f"{error.code}: {error.message}" for error in errors)
    return TargetError(f"{method} of {name} was accepted, and then failed: {said}")


def _site(settings: RouteManagerSettings, place: Place, credentials: Credentials) -> _Site:
    api = ComputeApi(settings.google_endpoint, credentials, Pace(settings.requests_per_second))
    rules = Rules(
        project=place.project,
        network=place.network,
        mark=mark_of(settings.etcd_prefix),
        priority=settings.google_priority,
        by_instance=settings.google_next_hop == "instance",
        adopt=settings.adopt,
    )
    return _Site(
        rules,
        api,
        Operations(api, place.project),
        Instances(api, place.project, place.network, settings.google_zone),
        Quota(api, place.project),
    )
