"""The full reading: everything of ours, dumped and decoded into a Mirror. Called by `target.py` alone.

Dumps are filtered in the kernel, by device or by protocol, so a host with a BGP table costs nothing. Routes out of our
own links are read by device, the fast way; shared ones out of others' come in a second dump of all with our protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Mapping, Set
from functools import cached_property, partial
from typing import TypeVar

from weft.errors import KernelError, TargetError
from weft.objects import REGISTRAR_METRICS, Address, Key, NextHop, NextHopGroup, Object, Route
from weft.targets.kernel.bulk import Addresses, Bulk, Unlike
from weft.targets.kernel.codec import Message, u32
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    PROTOCOL,
    RTA_OIF,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTPROT_BOOT,
)
from weft.targets.kernel.entries import decode_entry, fdb_of, neighbours_of
from weft.targets.kernel.groups import ALL_GROUPS
from weft.targets.kernel.hops import decode_hop, decode_route, hops_of, metric_of, outgoing, routes_of
from weft.targets.kernel.links import ALL_ADDRESSES, ALL_LINKS, decode_address, decode_link, is_kernels_own
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.socket import DUMP_BUFFER, DumpInterrupted, NetlinkSocket, complete

Result = TypeVar("Result")

TRIES = 10
"""A dump under which the table changed is made again this many times."""
NO_NEXT_HOPS = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
"""How a kernel that has no next-hop objects (Linux before 5.3) answers when it is asked for them."""
NO_FAMILY = {4: frozenset[int](), 6: frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})}
"""How a kernel without IPv6 answers when it is asked for something of IPv6."""


async def fill(netns: str | None, mirror: Mirror) -> None:
    """Read everything into `mirror`. Raises TargetError if the kernel can't be read: a dump that is refused says
    nothing, least of all that there is nothing."""
    for _ in range(TRIES):
        with contextlib.suppress(DumpInterrupted):  # a device went: what is on the others is read anew
            return await FullReading(netns, mirror).run()
    raise TargetError("devices come and go faster than they can be read; it is tried again")


class FullReading:
    """One reading of everything, into `mirror`."""

    def __init__(self, netns: str | None, mirror: Mirror) -> None:
        self._socket = NetlinkSocket(netns, DUMP_BUFFER)
        self._mirror = mirror
        self._found: dict[Key, Object] = {}
        self._addresses = Addresses()
        self._hop_devices: dict[int, str] = {}
        """Of each next hop and group of ours, by id."""

    async def run(self) -> None:
        """Fill the mirror. Raises TargetError if the kernel can't be read, DumpInterrupted if a device went meanwhile.

        The socket lives for one reading: the rest of a dump that was cut short would stand in the way of the next."""
        with contextlib.closing(self._socket):
            await self._read_all()

    async def _read_all(self) -> None:
        links = await self._dump(RTM_GETLINK, ALL_LINKS, lambda buffer: [decode_link(m) for m in complete(buffer)])
        old = self._mirror.replace_objects(self._found)
        self._mirror.set_links(link for part in links for link in part)
        names, registrar = self._mirror.names, self._mirror.registrar
        devices = [(i, Bulk(i, name, self._addresses, self._found, registrar)) for i, name in names.items()]
        for ifindex, bulk in devices:
            await self._read_entries(bulk, ifindex)
        await self._read_groups()
        for ifindex, bulk in devices:
            await self._read_routes(bulk, ifindex)
        if self._mirror.shared is not None:
            await self._read_shared_routes()
        await self._dump(RTM_GETADDR, ALL_ADDRESSES, self._each(self._read_address))
        self._mirror.hops = self._hop_devices
        self._mirror.sources = {o.src for o in self._found.values() if type(o) is Route and o.src is not None}
        self._keep(old)

    async def _read_entries(self, bulk: Bulk, ifindex: int) -> None:
        """FDB, next hops and neighbours of one device of ours."""
        await self._dump(RTM_GETNEIGH, fdb_of(ifindex), self._fast(bulk.fdb, self._read_entry))
        await self._dump(RTM_GETNEXTHOP, hops_of(ifindex), self._fast(bulk.hops, self._read_hop), NO_NEXT_HOPS)
        for version, family in ((4, AF_INET), (6, AF_INET6)):
            neighbours = self._fast(partial(bulk.neighbours, version), self._read_entry)
            await self._dump(RTM_GETNEIGH, neighbours_of(family, ifindex), neighbours, NO_FAMILY[version])

    async def _read_groups(self) -> None:
        """The groups of our next hops, which are known by now: a group is on no device that could be asked for."""
        self._hop_devices = {thing.id: thing.dev for thing in self._found.values() if type(thing) is NextHop}
        if self._hop_devices:
            await self._dump(RTM_GETNEXTHOP, ALL_GROUPS, self._each(self._read_hop), NO_NEXT_HOPS)
        groups = [thing for thing in self._found.values() if type(thing) is NextHopGroup]
        self._hop_devices.update((group.id, group.dev) for group in groups)

    async def _read_routes(self, bulk: Bulk, ifindex: int) -> None:
        """The routes out of one device of ours; next hops are known by now, and may be needed to find the device."""
        flannels = self._mirror.shared is not None and not self._mirror.registrar
        protocol = 0 if flannels else PROTOCOL  # flannel's have others
        for version, family in ((4, AF_INET), (6, AF_INET6)):
            routes = self._fast(partial(bulk.routes, version), self._read_route)
            await self._dump(RTM_GETROUTE, routes_of(family, ifindex, protocol), routes, NO_FAMILY[version])

    async def _read_shared_routes(self) -> None:
        """The routes out of links that aren't ours; the mass of those that were read by device is not even decoded, nor
        that of another daemon's."""
        read = {u32(RTA_OIF, ifindex) for ifindex in self._mirror.names}
        registrar = self._mirror.registrar

        def read_buffer(buffer: bytes) -> None:
            for message in complete(buffer):
                if outgoing(message.body) in read:
                    continue
                metric = metric_of(message.body)
                if metric is None or (metric in REGISTRAR_METRICS) == registrar:
                    self._read_route(message)

        protocols = (PROTOCOL,) if self._mirror.left is None else (PROTOCOL, RTPROT_BOOT)
        for version, family in ((4, AF_INET), (6, AF_INET6)):
            for protocol in protocols:
                body = routes_of(family, None, protocol)
                await self._dump(RTM_GETROUTE, body, read_buffer, NO_FAMILY[version])

    async def _dump(
        self, kind: int, body: bytes, read: Callable[[bytes], Result], absent: Set[int] = frozenset()
    ) -> list[Result]:
        """What `read` makes of each buffer of a dump; nothing if the kernel answers that it has no such objects, which
        is what the errnos in `absent` mean."""
        for _ in range(TRIES):
            try:
                buffers = await self._socket.dump(kind, body)
            except DumpInterrupted:
                continue
            except KernelError as error:
                if error.number in absent:
                    return []
                if error.number == errno.ENODEV:
                    raise DumpInterrupted("a device of ours went while it was read") from error
                raise
            with contextlib.suppress(DumpInterrupted):  # the loop asks again
                return [await self._slice(read, at, buffer) for at, buffer in enumerate(buffers) if buffer]
        raise TargetError("the kernel's tables change faster than they can be read; it is tried again")

    async def _slice(self, read: Callable[[bytes], Result], at: int, buffer: bytes) -> Result:
        """The event loop runs between two buffers: the slow way through one takes 5 to 15 ms."""
        if at:
            await asyncio.sleep(0)
        return read(buffer)

    def _each(self, read: Callable[[Message], None]) -> Callable[[bytes], None]:
        def read_buffer(buffer: bytes) -> None:
            for message in complete(buffer):
                read(message)

        return read_buffer

    def _fast(self, fast: Callable[[bytes], None], slow: Callable[[Message], None]) -> Callable[[bytes], None]:
        """Decode a buffer by its layout, else message by message."""

        each = self._each(slow)

        def read(buffer: bytes) -> None:
            try:
                fast(buffer)
            except Unlike:
                each(buffer)

        return read

    def _read_entry(self, message: Message) -> None:
        found = decode_entry(message, self._mirror.names)
        if found is not None and found[1] is not None:
            self._found[found[0]] = found[1]

    def _read_hop(self, message: Message) -> None:
        state = decode_hop(message, self._mirror.names, self._hop_devices)
        if state.ours and state.hop is not None:
            self._found["nexthop", state.id] = state.hop

    @cached_property
    def _route_links(self) -> Mapping[int, str]:
        return self._mirror.route_links

    def _read_route(self, message: Message) -> None:
        route = self._mirror.own_route(decode_route(message, self._route_links, self._hop_devices))
        if route is not None:
            self._found[route.key] = route
            self._mirror.carriers.add(route.dev)

    def _read_address(self, message: Message) -> None:
        state = decode_address(message)
        name = self._mirror.names.get(state.ifindex)
        if name is not None and not is_kernels_own(state.scope, state.address.version):
            thing = Address(name, state.address)
            self._found[thing.key] = thing

    def _keep(self, old: Mapping[Key, Object]) -> None:
        """Where an object is as it was, keep the one that was there: the plan holds it too, and one is enough."""
        for key, thing in self._found.items():
            before = old.get(key)
            if before is not None and before == thing:
                self._found[key] = before
