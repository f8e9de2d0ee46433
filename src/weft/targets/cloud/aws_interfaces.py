"""Network interfaces: a route of AWS leads to one, and weft knows hosts by their addresses. A mirror, asked anew only
where it can be wrong. Used by `aws.py` and `aws_writing.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.model import IPAddress
from weft.targets.cloud.aws_shapes import Interface

if TYPE_CHECKING:
    from weft.targets.cloud.aws_api import Ec2


class Interfaces:
    """Those that were asked for, by id and by address. An address is one interface's within a VPC, and may be another's
    in the next."""

    def __init__(self) -> None:
        self._by_id: dict[str, Interface] = {}
        self._by_address: dict[tuple[str, IPAddress], Interface] = {}

    def get(self, name: str) -> Interface | None:
        return self._by_id.get(name)

    def at(self, vpc: str, address: IPAddress) -> Interface | None:
        return self._by_address.get((vpc, address))

    async def renew(self, api: Ec2, names: Collection[str]) -> None:
        """Ask for these. Those that AWS doesn't know any more are forgotten. One call for 200 of them."""
        if not names:
            return
        found = await api.interfaces("network-interface-id", sorted(names))
        for name in names:
            self.forget(name)
        self._remember(found)

    async def look_up(self, api: Ec2, vpc: str, addresses: Iterable[IPAddress]) -> None:
        """Ask who has these, as primary or secondary address. One call for 200 of a family."""
        asked = set(addresses)
        for version, by in ((4, "addresses.private-ip-address"), (6, "ipv6-addresses.ipv6-address")):
            family = sorted(str(address) for address in asked if address.version == version)
            if family:
                found = await api.interfaces(by, family, vpc)
                for address in asked:
                    if address.version == version and (held := self.at(vpc, address)) is not None:
                        self.forget(held.id)
                self._remember(found)

    def unchecked(self, interface: Interface) -> None:
        """Its source/destination check is off now."""
        self._remember([replace(interface, check=False)])

    def forget(self, name: str) -> None:
        held = self._by_id.pop(name, None)
        if held is None:
            return
        for address in held.addresses:
            if self._by_address.get((held.vpc, address)) is held:
                del self._by_address[held.vpc, address]

    def keep_only(self, names: Collection[str]) -> None:
        for name in self._by_id.keys() - set(names):
            self.forget(name)

    def _remember(self, found: Iterable[Interface]) -> None:
        for interface in found:
            self.forget(interface.id)
            self._by_id[interface.id] = interface
            self._by_address.update({(interface.vpc, address): interface for address in interface.addresses})
