"""The lab's own door to the local cloud, /lab/…: order faults, read the history, do by hand what a cloud's owner does.
Mounted by `server`; for `weft lab`, and for tests of a server that is another process. JSON both ways.

    GET    /lab                             what there is
    POST   /lab/faults                      a Fault (faults.py) or a list of them
    GET    /lab/faults, DELETE /lab/faults
    GET    /lab/history                     {"now", "changes", "calls"}; ?since=SECONDS
    GET    /lab/gaps?dst=CIDR&network=&start=&end=&covering=true      when it was absent
    GET    /lab/touched?name=ROUTE          what calls did to it
    PUT    /lab/routes                      a route (table.GivenRoute) by hand
    DELETE /lab/routes/NAME
    PUT    /lab/instances                   an instance (table.Instance)
    DELETE /lab/instances/NAME
    PUT    /lab/unreachable                 zones that aggregated lists can't ask: ["us-central1-b"]
    POST   /lab/tokens/revoke
    GET    /lab/key                         a key file of the service account
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TypeVar

import msgspec
from aiohttp import web

from weft.lab.compute.access import Access
from weft.lab.compute.engine import Compute
from weft.lab.compute.faults import Fault
from weft.lab.compute.oauth import Keys
from weft.lab.compute.refusal import Refusal
from weft.lab.compute.table import GivenRoute, Instance

T = TypeVar("T")


class Control:
    """Handlers of aiohttp, by path in `routes`."""

    def __init__(self, compute: Compute, access: Access, keys: Keys) -> None:
        self.compute, self.access, self.keys = compute, access, keys

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/lab", self.about),
            web.post("/lab/faults", self.order),
            web.get("/lab/faults", self.faults),
            web.delete("/lab/faults", self.clear),
            web.get("/lab/history", self.history),
            web.get("/lab/gaps", self.gaps),
            web.get("/lab/touched", self.touched),
            web.put("/lab/routes", self.put_route),
            web.delete("/lab/routes/{name}", self.drop_route),
            web.put("/lab/instances", self.put_instance),
            web.delete("/lab/instances/{name}", self.drop_instance),
            web.put("/lab/unreachable", self.cut_off),
            web.post("/lab/tokens/revoke", self.revoke),
            web.get("/lab/key", self.key),
        ]

    async def about(self, _: web.Request) -> web.Response:
        table = self.compute.table
        return _answer({"project": table.project, "table": table, "now": self.compute.now})

    async def order(self, request: web.Request) -> web.Response:
        body = await request.read()
        for fault in _decode(body, list[Fault]) if body.lstrip().startswith(b"[") else [_decode(body, Fault)]:
            self.compute.faults.order(fault)
        return _answer(self.compute.faults.orders)

    async def faults(self, _: web.Request) -> web.Response:
        return _answer(self.compute.faults.orders)

    async def clear(self, _: web.Request) -> web.Response:
        self.compute.faults.clear()
        return _answer([])

    async def history(self, request: web.Request) -> web.Response:
        since = _seconds(request, "since", 0.0)
        now, history = self.compute.advance(), self.compute.history
        changes = [one for one in history.changes if one.at >= since]
        return _answer({"now": now, "changes": changes, "calls": [one for one in history.calls if one.at >= since]})

    async def gaps(self, request: web.Request) -> web.Response:
        try:
            dst = ip_network(request.query.get("dst", ""))
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"dst: {error}\n") from error
        found = self.compute.history.gaps(
            dst,
            _seconds(request, "start", 0.0),
            _seconds(request, "end", self.compute.now),
            request.query.get("network", "default"),
            covering=request.query.get("covering") == "true",
        )
        return _answer([{"start": one.start, "end": one.end} for one in found])

    async def touched(self, request: web.Request) -> web.Response:
        return _answer(self.compute.history.touched(request.query.get("name", "")))

    async def put_route(self, request: web.Request) -> web.Response:
        given = _decode(await request.read(), GivenRoute)
        try:
            return _answer(self.compute.put(given))
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error

    async def drop_route(self, request: web.Request) -> web.Response:
        try:
            return _answer(self.compute.drop(request.match_info["name"]))
        except Refusal as refusal:
            raise web.HTTPNotFound(text=f"{refusal.message}\n") from refusal

    async def put_instance(self, request: web.Request) -> web.Response:
        self.compute.put_instance(_decode(await request.read(), Instance))
        return _answer({})

    async def drop_instance(self, request: web.Request) -> web.Response:
        self.compute.drop_instance(request.match_info["name"])
        return _answer({})

    async def cut_off(self, request: web.Request) -> web.Response:
        self.compute.unreachable = set(_decode(await request.read(), list[str]))
        return _answer(sorted(self.compute.unreachable))

    async def key(self, request: web.Request) -> web.Response:
        return _answer(self.keys.file(str(request.url.origin())))

    async def revoke(self, _: web.Request) -> web.Response:
        return _answer({"revoked": self.access.revoke()})


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error


def _seconds(request: web.Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}: {error}\n") from error


def _answer(what: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(what, enc_hook=str) + b"\n", content_type="application/json")
