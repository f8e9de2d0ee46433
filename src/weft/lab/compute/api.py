"""The Compute API over HTTP: which request is which method, and its answer. An aiohttp handler; mounted by `server`.

Source of the paths: the discovery document compute.v1.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec
from aiohttp import web

from weft.lab.compute import masks, paging
from weft.lab.compute.access import Access
from weft.lab.compute.checks import KNOWN, request_id
from weft.lab.compute.engine import Compute
from weft.lab.compute.faults import Fault
from weft.lab.compute.history import Call
from weft.lab.compute.paging import Paging
from weft.lab.compute.refusal import Refusal, not_found
from weft.lab.compute.resources import ROOT, Json, Operation, Route

PREFIX = "/compute/v1/"
COMMON = {"alt", "fields", "key", "prettyPrint", "quotaUser", "userIp", "$.xgafv", "access_token", "oauth_token"}
LISTING = {"filter", "maxResults", "orderBy", "pageToken"}
_PROJECT = r"projects/(?P<project>[^/]+)"
OPERATION = frozenset(one.encode_name for one in msgspec.structs.fields(Operation)) | {
    "zone",
    "region",
    "statusMessage",
}
HEAD = {"kind", "id", "creationTimestamp", "name", "description", "selfLink"}
NETWORK = frozenset(HEAD | {"autoCreateSubnetworks", "subnetworks", "mtu", "peerings", "routingConfig"})
INSTANCE = frozenset(
    HEAD
    | {"tags", "machineType", "status", "zone", "canIpForward", "networkInterfaces", "disks", "metadata", "hostname"}
    | {"serviceAccounts", "scheduling", "cpuPlatform", "labels"}
)


@dataclass(frozen=True, slots=True)
class Method:
    """`name`: as in the discovery document; `permission`: IAM's; `query`: parameters of its own."""

    name: str
    http: str
    path: re.Pattern[str]
    permission: str
    query: frozenset[str] = frozenset()


def _method(name: str, http: str, path: str, permission: str, query: set[str] | None = None) -> Method:
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return Method(name, http, re.compile(_PROJECT + pattern), f"compute.{permission}", frozenset(query or ()))


METHODS = (
    _method("routes.insert", "POST", "/global/routes", "routes.create", {"requestId"}),
    _method("routes.list", "GET", "/global/routes", "routes.list", LISTING),
    _method("routes.get", "GET", "/global/routes/{name}", "routes.get"),
    _method("routes.delete", "DELETE", "/global/routes/{name}", "routes.delete", {"requestId"}),
    _method("globalOperations.list", "GET", "/global/operations", "globalOperations.list", LISTING),
    _method("globalOperations.get", "GET", "/global/operations/{name}", "globalOperations.get"),
    _method("globalOperations.wait", "POST", "/global/operations/{name}/wait", "globalOperations.get"),
    _method("globalOperations.delete", "DELETE", "/global/operations/{name}", "globalOperations.delete"),
    _method("networks.list", "GET", "/global/networks", "networks.list", LISTING),
    _method("networks.get", "GET", "/global/networks/{name}", "networks.get"),
    _method(
        "instances.aggregatedList",
        "GET",
        "/aggregated/instances",
        "instances.list",
        LISTING | {"includeAllScopes", "serviceProjectNumber"},
    ),
    _method("instances.list", "GET", "/zones/{zone}/instances", "instances.list", LISTING),
    _method("instances.get", "GET", "/zones/{zone}/instances/{name}", "instances.get"),
    _method("projects.get", "GET", "", "projects.get"),
)


@dataclass(slots=True)
class Request:
    """One call on its way through. `fault`: what is to happen to it."""

    method: Method
    groups: dict[str, str]
    query: dict[str, str]
    body: bytes
    user: str = ""
    fault: Fault | None = None

    def id(self) -> str:
        given = self.query.get("requestId")
        return request_id(given) if given is not None else ""


class Api:
    """`bodies`: whether the history keeps what was sent both ways."""

    def __init__(self, compute: Compute, access: Access, pages: Paging, bodies: bool = False) -> None:
        self.compute, self.access, self.pages, self.bodies = compute, access, pages, bodies
        self._answers: dict[str, Callable[[Request], Json]] = {
            "routes.insert": self._insert,
            "routes.list": self._routes,
            "routes.get": lambda asked: _document(self.compute.route(asked.groups["name"])),
            "routes.delete": self._delete,
            "globalOperations.list": self._operations,
            "globalOperations.get": self._operation,
            "globalOperations.wait": self._operation,
            "globalOperations.delete": self._forget,
            "networks.list": self._networks,
            "networks.get": lambda asked: self.compute.network(asked.groups["name"]),
            "instances.aggregatedList": self._aggregated,
            "instances.list": self._instances,
            "instances.get": lambda asked: self.compute.instance(asked.groups["zone"], asked.groups["name"]),
            "projects.get": lambda _: self.compute.project(),
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer, and write it down."""
        begun = self.compute.now
        path = unquote(request.raw_path.partition("?")[0])
        body = await request.read()
        method, groups = find(request.method, path.removeprefix(PREFIX))
        query = dict(request.query)
        asked = Request(method, groups, query, body) if method else None
        fault = self.compute.faults.take(method.name, f"{path} {body.decode('utf-8', 'replace')}") if method else None
        reason = ""
        try:
            document = await self._answer(request, asked, fault, path)
            answer = web.Response(body=_encode(document), content_type="application/json", charset="UTF-8")
            if method and method.name == "globalOperations.delete":
                answer = web.Response(status=204)
        except Refusal as refusal:
            reason, answer = refusal.reason, refused(refusal)
        broken = fault is not None and fault.kind in ("drop", "lose")
        self.compute.history.calls.append(
            Call(
                at=begun,
                took=self.compute.now - begun,
                method=method.name if method else "",
                http=request.method,
                path=path,
                query=query,
                status=0 if broken else answer.status,
                reason=reason,
                fault=fault.kind if fault else "",
                request=body.decode("utf-8", "replace") if self.bodies else "",
                answer=(answer.text or "") if self.bodies and not broken else "",
                kind=answer.content_type,
            )
        )
        if broken and request.transport is not None:
            request.transport.abort()
        return answer

    async def _answer(self, request: web.Request, asked: Request | None, fault: Fault | None, path: str) -> Json:
        if delay := self.compute.timing.delay + (fault.delay if fault else 0.0):
            await asyncio.sleep(delay)
        if asked is None:
            raise Refusal(404, f"The requested URL {path} was not found on this server.", "notFound", html=True)
        asked.fault = fault
        self.access.count()
        if fault and fault.kind in ("refuse", "html"):
            raise fault.refusal()
        if fault and fault.kind == "drop":
            return {}
        where = path.removeprefix(PREFIX)
        header = request.headers.get("Authorization", "")
        if not header and (given := asked.query.get("access_token") or asked.query.get("oauth_token")):
            header = f"Bearer {given}"
        asked.user = self.access.check(header, asked.method.permission, where)
        self._check(asked)
        if asked.method.name == "globalOperations.wait":
            _, left = self.compute.operation(asked.groups["name"])
            await asyncio.sleep(min(left, self.compute.timing.wait))
        document = self._answers[asked.method.name](asked)
        mask = asked.query.get("fields")
        return masks.select(document, masks.parse(mask)) if mask else document

    def _check(self, asked: Request) -> None:
        table = self.compute.table
        if asked.groups["project"] not in (table.project, table.number):
            raise not_found(f"projects/{asked.groups['project']}")
        for name in asked.query:
            if name not in asked.method.query and name not in COMMON:
                text = f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
                raise Refusal(400, text + f" Field '{name}' could not be found in request message.", "badRequest")
        if asked.query.get("alt", "json") != "json":
            raise Refusal(
                400, f'Invalid value "{asked.query["alt"]}" for parameter alt: the lab sends json', "badRequest"
            )
        if asked.body and asked.method.name != "routes.insert" and asked.body.strip() not in (b"", b"{}"):
            raise Refusal(400, "Invalid JSON payload received. The request body must be empty.", "badRequest")

    # the methods

    def _insert(self, asked: Request) -> Json:
        try:
            body = json.loads(asked.body or b"{}")
        except ValueError:
            raise Refusal(400, "Invalid JSON payload received. Unexpected token.", "parseError") from None
        if not isinstance(body, dict):
            raise Refusal(400, 'Invalid JSON payload received. Unknown name "": Root element must be a message.')
        return _document(self.compute.insert(body, asked.id(), asked.user, asked.fault))

    def _delete(self, asked: Request) -> Json:
        return _document(self.compute.delete(asked.groups["name"], asked.id(), asked.user, asked.fault))

    def _operation(self, asked: Request) -> Json:
        return _document(self.compute.operation(asked.groups["name"])[0])

    def _forget(self, asked: Request) -> Json:
        self.compute.forget(asked.groups["name"])
        return {}

    def _routes(self, asked: Request) -> Json:
        documents = [_document(one) for one in self.compute.routes().values()]
        return self._list("route", "global/routes", documents, asked, KNOWN)

    def _operations(self, asked: Request) -> Json:
        documents = [_document(one) for one in self.compute.operations().values()]
        return self._list("operation", "global/operations", documents, asked, OPERATION)

    def _networks(self, asked: Request) -> Json:
        return self._list("network", "global/networks", self.compute.networks(), asked, NETWORK)

    def _instances(self, asked: Request) -> Json:
        zone = asked.groups["zone"]
        found = [one for one in self.compute.instances() if str(one["zone"]).endswith(f"/{zone}")]
        return self._list("instance", f"zones/{zone}/instances", _by_name(found), asked, INSTANCE)

    def _aggregated(self, asked: Request) -> Json:
        """Zone by zone; a zone without any, or that can't be asked, has a warning instead."""
        found = [
            one
            for one in self.compute.instances()
            if str(one["zone"]).rsplit("/", 1)[-1] not in self.compute.unreachable
        ]
        items, token = paging.page(_by_name(found), asked.query, INSTANCE, self.pages)
        scopes: dict[str, Json] = {}
        for zone in self.compute.table.zones:
            here = [one for one in items if str(one["zone"]).endswith(f"/{zone}")]
            if here:
                scopes[f"zones/{zone}"] = {"instances": here}
            elif zone in self.compute.unreachable:
                scopes[f"zones/{zone}"] = _warned("UNREACHABLE", zone, f"The zone '{zone}' is unreachable.")
            else:
                text = f"There are no results for scope 'zones/{zone}' on this page."
                scopes[f"zones/{zone}"] = _warned("NO_RESULTS_ON_PAGE", zone, text)
        answer = self._head("instanceAggregatedList", "aggregated/instances")
        if self.compute.unreachable:
            answer["unreachables"] = [f"zones/{zone}" for zone in sorted(self.compute.unreachable)]
        return answer | {"items": scopes} | ({"nextPageToken": token} if token else {})

    def _list(self, kind: str, path: str, documents: list[Json], asked: Request, fields: frozenset[str]) -> Json:
        items, token = paging.page(documents, asked.query, fields, self.pages)
        answer = self._head(f"{kind}List", path)
        return answer | ({"items": items} if items else {}) | ({"nextPageToken": token} if token else {})

    def _head(self, kind: str, path: str) -> Json:
        project = self.compute.table.project
        return {
            "kind": f"compute#{kind}",
            "id": f"projects/{project}/{path}",
            "selfLink": f"{ROOT}projects/{project}/{path}",
        }


def find(http: str, path: str) -> tuple[Method | None, dict[str, str]]:
    """The method that a request is for, and what its path names."""
    for method in METHODS:
        if method.http == http and (found := method.path.fullmatch(path)):
            return method, found.groupdict()
    return None, {}


def refused(refusal: Refusal) -> web.Response:
    """As Google answers no."""
    headers = {"Retry-After": f"{refusal.retry_after:g}"} if refusal.retry_after is not None else {}
    if refusal.html:
        text = f"<!DOCTYPE html><title>Error {refusal.status}</title><p>{refusal.message}"
        return web.Response(status=refusal.status, text=text, content_type="text/html", headers=headers)
    body = _encode(refusal.body())
    return web.Response(
        status=refusal.status, body=body, content_type="application/json", charset="UTF-8", headers=headers
    )


def _document(resource: Route | Operation) -> Json:
    found: Json = msgspec.to_builtins(resource)
    return found


def _encode(document: Json) -> bytes:
    return msgspec.json.encode(document)


def _by_name(documents: list[Json]) -> list[Json]:
    return sorted(documents, key=lambda one: (str(one["name"]), str(one["zone"])))


def _warned(code: str, zone: str, text: str) -> Json:
    return {"warning": {"code": code, "message": text, "data": [{"key": "scope", "value": f"zones/{zone}"}]}}
