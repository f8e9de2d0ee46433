"""The few requests that a lab makes of a Docker Engine, over its unix socket.

The engine's own HTTP API (Docker Engine API 1.40, which 19.03 and every later one speaks) and not the `docker`
command: a process for each request would be most of the time that a lab takes to come up. `lab` and the demo call this.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import aiohttp

from weft.errors import LabError
from weft.lab import image, shell
from weft.lab.topology import Container, ContainerNetwork, Host
from weft.model import IPNetwork

API = "http://docker/v1.40"
PATIENCE = aiohttp.ClientTimeout(total=60)


class Engine:
    """A Docker Engine; use it in an `async with`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def __aenter__(self) -> Engine:
        connector = aiohttp.UnixConnector(path=str(self._socket))
        self._session = aiohttp.ClientSession(connector=connector, timeout=PATIENCE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ping(self) -> None:
        """Return when the engine serves requests. LabError if it ends before, or takes over a minute."""
        await self._call("GET", "/_ping")

    async def furnish(self, host: Host) -> None:
        """Everything that the topology says of this host: its networks, and its containers, running."""
        await self._call(
            "POST", "/images/create", {"fromSrc": "-", "repo": image.NAME}, data=io.BytesIO(image.archive())
        )
        for network in host.networks:  # one by one: engines number their bridges as they come
            if not network.leased:
                await self.create_network(network.name, network.subnets, dict(network.labels), network.internal)
        listed = list(host.containers())
        await shell.together(*(self.run(network, container) for network, container in listed if not network.leased))
        for network, container in listed:
            if network.leased:  # one by one: the engine numbers them as they come
                await self.run(network, container)

    async def create_network(
        self, name: str, subnets: tuple[IPNetwork, ...], labels: Mapping[str, str], internal: bool = False
    ) -> None:
        """`docker network create`."""
        ipam = [{"Subnet": str(subnet), "Gateway": str(subnet[1])} for subnet in subnets]
        body = {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Internal": internal,
            "EnableIPv6": any(subnet.version == 6 for subnet in subnets),
            "IPAM": {"Config": ipam},
            "Labels": dict(labels),
        }
        await self._call("POST", "/networks/create", json=body)

    async def run(self, network: ContainerNetwork, container: Container) -> None:
        """`docker run --detach --restart=always`, with the addresses that the topology gave it. A leased network is
        Docker's own bridge: there it gets the next free ones."""
        keys = {4: "IPv4Address", 6: "IPv6Address"}
        addresses = {keys[address.version]: str(address.ip) for address in container.addresses}
        named = {network.name: {"IPAMConfig": addresses}}
        body = {
            "Image": image.NAME,
            "Hostname": container.name,
            "Cmd": image.COMMAND,
            "StopSignal": "SIGKILL",  # as the first process of its pid namespace it would ignore SIGTERM
            "HostConfig": {
                "NetworkMode": "bridge" if network.leased else network.name,
                "RestartPolicy": {"Name": "always"},
                "Init": False,
            },
            "NetworkingConfig": {"EndpointsConfig": {} if network.leased else named},
        }
        await self._call("POST", "/containers/create", {"name": container.name}, json=body)
        await self._call("POST", f"/containers/{container.name}/start")

    async def pid(self, container: str) -> int:
        """The pid of a container's first process, as its host counts; 0 while it isn't running."""
        found = await self._call("GET", f"/containers/{container}/json")
        match found:
            case {"State": {"Pid": int(pid)}}:
                return pid
        raise LabError(f"the engine at {self._socket} describes container {container} without a State.Pid")

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        json: object = None,
        data: io.BytesIO | None = None,
    ) -> object:
        """The JSON that the engine answers, None for none. LabError with its message for a refusal."""
        asked = f"{method} {path} of the engine at {self._socket}"
        try:
            async with self._session.request(method, API + path, params=query, json=json, data=data) as response:
                answer = await response.json() if "json" in response.content_type else await response.text()
                if response.status >= 400:
                    said = answer.get("message", "") if isinstance(answer, dict) else answer
                    raise LabError(f"{asked}: {response.status} {response.reason}: {said}")
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LabError(f"{asked}: {error or 'no answer'}; `weft lab status` shows whether it runs") from error
