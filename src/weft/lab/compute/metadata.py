"""The metadata server of the local cloud: /computeMetadata/v1/…, mounted by `server`.

Source: Google's "VM metadata" pages: the header Metadata-Flavor both ways, directories that end in a slash (and a
redirect for those that don't), `?recursive=true` and `?alt=` text or json. An instance is known by the address that it
asks from; who asks from elsewhere is taken for the table's `me`.
"""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address, ip_network

from aiohttp import web

from weft.lab.compute.access import Access
from weft.lab.compute.engine import Compute
from weft.lab.compute.history import Call
from weft.lab.compute.resources import Json, number_of
from weft.lab.compute.table import Instance, ServiceAccount

PREFIX = "/computeMetadata/v1"
HEADERS = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}


class Metadata:
    """Answers for every instance of the table."""

    def __init__(self, compute: Compute, access: Access) -> None:
        self.compute, self.access = compute, access

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer, and write it down."""
        begun = self.compute.now
        name = "metadata.token" if request.path.endswith("/token") else "metadata.get"
        fault = self.compute.faults.take(name, request.path)
        if fault and fault.delay:
            await asyncio.sleep(fault.delay)
        if fault and fault.kind in ("refuse", "html"):
            answer = _text(fault.message or "Service Unavailable", fault.status)
        elif fault and fault.kind in ("drop", "lose"):
            if request.transport is not None:
                request.transport.abort()
            answer = _text("", 500)
        else:
            answer = self._answer(request)
        self.compute.history.calls.append(
            Call(
                at=begun,
                took=self.compute.now - begun,
                method=name,
                http=request.method,
                path=request.path,
                query=dict(request.query),
                status=answer.status,
                fault=fault.kind if fault else "",
            )
        )
        return answer

    def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/":
            return _text("computeMetadata/\n")
        if request.headers.get("Metadata-Flavor") != "Google":
            return _text("Missing Metadata-Flavor:Google header.", 403)
        if "X-Forwarded-For" in request.headers:
            return _text("X-Forwarded-For header is not allowed.", 403)
        if request.method != "GET":
            return _text("Method not allowed", 405)
        if "wait_for_change" in request.query:
            return _text("the local cloud's metadata doesn't change: ask without wait_for_change", 501)
        me = self._asking(request.remote)
        steps = [step for step in request.path.removeprefix(PREFIX).split("/") if step]
        if steps[:2] == ["instance", "service-accounts"] and steps[3:] in (["token"], ["identity"]):
            return self._token(request, steps)
        node: object = self._tree(me)
        for step in steps:
            if not isinstance(node, dict) or step not in node:
                return _text("Error 404 (Not Found)", 404)
            node = node[step]
        return _shown(request, node)

    def _asking(self, remote: str | None) -> Instance | None:
        table = self.compute.table
        try:
            address = ip_address(remote or "")
        except ValueError:
            address = None
        known = [one for one in table.instances if address is not None and address in one.addresses]
        named = [one for one in table.instances if one.name == table.me]
        return next(iter((*known, *named, *table.instances)), None)

    def _token(self, request: web.Request, steps: list[str]) -> web.Response:
        account = self.compute.table.account
        if steps[2] not in ("default", account.email) or steps[3] == "identity":
            return _text("service account not found", 404)
        scopes = tuple(one for one in request.query.get("scopes", "").split(",") if one)
        token = self.access.token(tuple(one for one in scopes if one in account.scopes) if scopes else ())
        left = max(0, int(token.ends - self.compute.now))
        return _json({"access_token": token.text, "expires_in": left, "token_type": "Bearer"})

    def _tree(self, me: Instance | None) -> Json:
        table = self.compute.table
        project: Json = {"project-id": table.project, "numeric-project-id": table.number, "attributes": {}}
        accounts = {name: _account(table.account) for name in ("default", table.account.email)}
        if me is None:
            return {"project": project, "instance": {"service-accounts": accounts}}
        where = f"projects/{table.number}"
        instance: Json = {
            "attributes": {},
            "hostname": f"{me.name}.{me.zone}.c.{table.project}.internal",
            "id": number_of(table.project, me.zone, me.name),
            "machine-type": f"{where}/machineTypes/g1-small",
            "name": me.name,
            "network-interfaces": {"0": self._interface(me)},
            "service-accounts": accounts,
            "tags": json.dumps(list(me.tags)),
            "zone": f"{where}/zones/{me.zone}",
        }
        return {"project": project, "instance": instance}

    def _interface(self, me: Instance) -> Json:
        table = self.compute.table
        found: Json = {"network": f"projects/{table.number}/networks/{me.network}", "mtu": "1460"}
        found["forwarded-ips"] = {}
        if me.aliases:
            found["ip-aliases"] = {str(number): one for number, one in enumerate(me.aliases)}
        network = table.network(me.network)
        for address in me.addresses:
            found["ip" if address.version == 4 else "ipv6s"] = str(address)
            for subnet in network.ranges if network and address.version == 4 else ():
                if address in subnet:
                    found |= {"gateway": str(subnet[1]), "subnetmask": str(ip_network(subnet).netmask)}
        return found


def _account(account: ServiceAccount) -> Json:
    return {
        "aliases": "default\n",
        "email": account.email,
        "scopes": "".join(f"{scope}\n" for scope in account.scopes),
    }


def _shown(request: web.Request, node: object) -> web.Response:
    """A value, a listing, or all that is below as JSON."""
    recursive = request.query.get("recursive", "").lower() == "true"
    form = request.query.get("alt", "json" if recursive and isinstance(node, dict) else "text")
    if not isinstance(node, dict):
        return _json(node) if form == "json" else _text(str(node))
    if not request.path.endswith("/"):
        place = request.rel_url.with_path(f"{request.path}/").with_query(request.query)
        return web.Response(status=301, headers={**HEADERS, "Location": str(place)})
    if recursive:
        return _json(_camel(node))
    return _text("".join(f"{key}{'/' if isinstance(value, dict) else ''}\n" for key, value in node.items()))


def _camel(node: object) -> object:
    """As `?recursive=true` shows it: names without dashes, numbered folders and lines as lists."""
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_camel(value) for value in node.values()]
    found: Json = {}
    for key, value in node.items():
        head, *rest = key.split("-") if "@" not in key else (key,)
        name = head + "".join(part.capitalize() for part in rest)
        lines = key in ("aliases", "scopes") and isinstance(value, str)
        found[name] = str(value).split() if lines else _camel(value)
    return found


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/text", headers=HEADERS)


def _json(document: object) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json", headers=HEADERS)
