"""Which instance has an address. Used by `google.py` where routes lead to instances, or only those of a zone count.

All instances of the network are listed at once, when an address or an instance comes up that is not known, and not more
often than each ten seconds; of a project that has thousands, the answer is cut down to what is looked at.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from ipaddress import ip_address

import msgspec

from weft.model import IPAddress
from weft.targets.cloud.google_api import ComputeApi, ListWarning, Request
from weft.targets.cloud.google_routes import instance_path, short

BETWEEN = 10.0
"""Seconds between two lists."""


class _Interface(msgspec.Struct, frozen=True, rename="camel"):
    network: str = ""
    network_ip: str = msgspec.field(default="", name="networkIP")
    ipv6_address: str = ""


class _Instance(msgspec.Struct, frozen=True, rename="camel"):
    self_link: str = ""
    network_interfaces: list[_Interface] = []


class _Scope(msgspec.Struct, frozen=True):
    instances: list[_Instance] = []


class _Scopes(msgspec.Struct, frozen=True, rename="camel"):
    items: dict[str, _Scope] = {}
    next_page_token: str = ""
    warning: ListWarning | None = None


class _Zone(msgspec.Struct, frozen=True, rename="camel"):
    items: list[_Instance] = []
    next_page_token: str = ""
    warning: ListWarning | None = None


_FIELDS = "instances(selfLink,networkInterfaces(network,networkIP,ipv6Address))"
_REST = "nextPageToken,warning(code,message)"


@dataclass(slots=True)
class Instances:
    """Those of one project's network; in `zone`, "" for all zones."""

    api: ComputeApi
    project: str
    network: str
    zone: str = ""
    _paths: dict[IPAddress, str] = field(default_factory=dict)
    _addresses: dict[str, list[IPAddress]] = field(default_factory=dict)
    _listed_at: float | None = None
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def with_address(self, address: IPAddress) -> str:
        """zones/<zone>/instances/<name>; "" if there is none."""
        if address not in self._paths:
            await self._list()
        return self._paths.get(address, "")

    def path(self, address: IPAddress) -> str:
        """The same, as far as it is known."""
        return self._paths.get(address, "")

    async def learn(self, paths: set[str]) -> None:
        """Have the addresses of these instances ready for `addresses`, if they can be had."""
        if not paths <= self._addresses.keys():
            await self._list()

    def addresses(self, path: str) -> list[IPAddress]:
        """The instance's, in this network, as far as they are known."""
        return self._addresses.get(path, [])

    def forget(self) -> None:
        """An instance is gone: its address may be another's by now."""
        self._paths, self._addresses, self._listed_at = {}, {}, None

    async def _list(self) -> None:
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if self._listed_at is not None and now - self._listed_at < BETWEEN:
                return
            paths: dict[IPAddress, str] = {}
            addresses: dict[str, list[IPAddress]] = {}
            for instance in await self._all():
                path = instance_path(instance.self_link)
                addresses[path] = self._of(instance)
                paths.update(dict.fromkeys(addresses[path], path))
            self._paths, self._addresses, self._listed_at = paths, addresses, now

    async def _all(self) -> list[_Instance]:
        if self.zone:
            path = f"projects/{self.project}/zones/{self.zone}/instances"
            request = Request(
                "instances.list", "GET", path, {"fields": f"{_FIELDS.replace('instances', 'items')},{_REST}"}
            )
            return [one async for page in self.api.pages(request, _Zone) for one in page.items]
        path = f"projects/{self.project}/aggregated/instances"
        request = Request("instances.aggregatedList", "GET", path, {"fields": f"items/*/{_FIELDS},{_REST}"})
        pages = [page async for page in self.api.pages(request, _Scopes)]
        return [one for page in pages for scope in page.items.values() for one in scope.instances]

    def _of(self, instance: _Instance) -> list[IPAddress]:
        found: list[IPAddress] = []
        for interface in instance.network_interfaces:
            if short(interface.network) == self.network:
                found.extend(ip_address(text) for text in (interface.network_ip, interface.ipv6_address) if text)
        return found
