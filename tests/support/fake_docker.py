"""A small Docker Engine in this process: a real HTTP server, on a unix or TCP socket, with the answers weft asks for.

The JSON has the shape that Docker Engine 20.10 gave (recorded); the contract suite holds the fake to the real engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
API = "1.41"
_serial = itertools.count(1)


def listed(
    name: str,
    subnets: Sequence[str] = (),
    *,
    driver: str = "bridge",
    labels: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    **other: Json,
) -> dict[str, Json]:
    """One network as GET /networks shows it. A subnet may carry its gateway: `10.1.0.0/24 via 10.1.0.1`."""
    pools: list[Json] = []
    for text in subnets:
        subnet, _, gateway = text.partition(" via ")
        pools.append({"Subnet": subnet, "Gateway": gateway} if gateway else {"Subnet": subnet})
    return {
        "Name": name,
        "Id": f"{next(_serial):012x}" + "0" * 52,
        "Created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "483Z",  # Docker writes nanoseconds
        "Scope": "local",
        "Driver": driver,
        "EnableIPv6": any(":" in subnet for subnet in subnets),
        "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": dict(options or {}),
        "Labels": dict(labels or {}),
        **other,
    }


def builtin() -> list[dict[str, Json]]:
    """What an engine has before anybody made a network."""
    default = {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": "docker0"}
    return [
        listed("bridge", ["172.17.0.0/16"], options=default, Labels=None),
        listed("host", driver="host", IPAM={"Driver": "default", "Options": None, "Config": None}),
        listed("none", driver="null", IPAM={"Driver": "default", "Options": None, "Config": []}),
    ]


def contained(name: str, state: str = "running", *, service: str = "", health: str = "") -> dict[str, Json]:
    """One container as GET /containers/ID/json shows it. `service`: of Compose's."""
    labels = {"com.docker.compose.service": service} if service else {}
    check: dict[str, Json] = {"Health": {"Status": health, "FailingStreak": 0, "Log": []}} if health else {}
    return {
        "Id": f"{next(_serial):012x}" + "1" * 52,
        "Name": f"/{name}",
        "Created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "483Z",
        "State": {"Status": state, "StartedAt": "2024-01-02T03:04:05.678901234Z", "Pid": 1, **check},
        "Config": {"Image": "flannel:v0.22", "Env": ["SECRET=x"], "Labels": labels},
    }


class FakeDocker:
    """The engine's state, and the ways in which it can misbehave.

    `mute`: changes happen and no event tells. `hung`: requests are taken and never answered. `refuse`: paths that are
    answered with 403, as a proxy in front of the socket does. `broken`: answered instead of the list.
    `lists`, `streams`: how often each was asked for, so that a test can assert that it was.
    """

    def __init__(self) -> None:
        self.networks = builtin()
        self.containers: list[dict[str, Json]] = []
        self.mute = False
        self.hung = False
        self.refuse: set[str] = set()
        self.why = "forbidden here"
        self.broken: Json = None
        self.lists = 0
        self.streams = 0
        self._remembered: list[bytes] = []
        self._listeners: set[asyncio.Queue[bytes | None]] = set()

    def add(self, network: dict[str, Json]) -> None:
        self.networks.append(network)
        self._tell("create", network)

    def remove(self, name: str) -> None:
        gone = next(n for n in self.networks if n["Name"] == name)
        self.networks.remove(gone)
        self._tell("destroy", gone)

    def has(self, *containers: dict[str, Json], event: str = "start") -> None:
        """From now on these are the containers; one event tells of it."""
        self.containers = list(containers)
        self._ring({"Type": "container", "Action": event, "Actor": {"ID": "1", "Attributes": {}}, "time": 1})

    def end_streams(self) -> None:
        """End every event stream in good order, as a proxy's idle limit does."""
        for queue in self._listeners:
            queue.put_nowait(None)

    @property
    def listening(self) -> int:
        return len(self._listeners)

    def _tell(self, action: str, network: Mapping[str, Json]) -> None:
        actor = {"ID": network["Id"], "Attributes": {"name": network["Name"], "type": network["Driver"]}}
        self._ring({"Type": "network", "Action": action, "Actor": actor, "scope": "local", "time": 1, "timeNano": 1})

    def _ring(self, event: Mapping[str, Json]) -> None:
        if self.mute:
            return
        line = json.dumps(event).encode() + b"\n"
        self._remembered = [*self._remembered, line][-256:]
        for queue in self._listeners:
            queue.put_nowait(line)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.hung:
            await asyncio.Event().wait()
        match request.path.removeprefix(f"/v{API}"):
            case path if path in self.refuse:
                return _json({"message": f"{path} is {self.why}"}, status=403)
            case "/version":
                return _json({"ApiVersion": API, "Version": "20.10.24"})
            case "/networks":
                self.lists += 1
                return _json(self.networks if self.broken is None else self.broken)
            case "/events":
                self.streams += 1
                return await self._stream(request)
            case "/containers/json":
                return _json(self._listed(json.loads(request.query.get("filters", "{}"))))
            case path if path.startswith("/containers/"):
                found = [one for one in self.containers if one["Id"] == path.split("/")[2]]
                return _json(found[0]) if found else _json({"message": "No such container"}, status=404)
        return _json({"message": "page not found"}, status=404)

    def _listed(self, filters: Mapping[str, list[str]]) -> list[Json]:
        """As GET /containers/json?all=1 lists them: a name filter is a part of the name."""
        rows: list[Json] = []
        for one in self.containers:
            name, config, state = str(one["Name"]), one["Config"], one["State"]
            assert isinstance(config, dict)
            assert isinstance(state, dict)
            labels = [f"{key}={value}" for key, value in config["Labels"].items()]
            if all(text in name for text in filters.get("name", ())) and set(filters.get("label", ())) <= set(labels):
                row = {"Id": one["Id"], "Names": [name], "Created": 1, "State": state["Status"]}
                rows.append({**row, "Labels": config["Labels"]})
        return rows

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for remembered in self._remembered if "since" in request.query else ():
            queue.put_nowait(remembered)
        self._listeners.add(queue)
        try:
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self._listeners.discard(queue)
        return response

    @asynccontextmanager
    async def serving(self, where: Path | int) -> AsyncIterator[str]:
        """Serve on a unix socket (a path) or a port of loopback; yields the URL. At the end all connections are cut."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        # A shutdown_timeout of 0 would mean for ever.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        try:
            if isinstance(where, Path):
                await web.UnixSite(runner, str(where)).start()
                yield f"unix://{where}"
            else:
                await web.TCPSite(runner, "127.0.0.1", where).start()
                yield f"tcp://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
            if isinstance(where, Path):
                where.unlink(missing_ok=True)


def _json(value: Json, status: int = 200) -> web.Response:
    """aiohttp's own json_response adds a charset, which Docker does not."""
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")
