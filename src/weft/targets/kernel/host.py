"""What a plan depends on in this host's kernel: its uplinks, and whether it has next-hop objects.

`daemons/` follow `HostFacts.hosts` as a source. It listens on a socket of its own, so that it works without a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.model import DefaultRoute, Host, IPInterface, Uplink
from weft.targets.kernel.bpf import facts_filter
from weft.targets.kernel.codec import Message, address, attributes, decoding, number, u32
from weft.targets.kernel.constants import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_SECONDARY,
    IFA_F_TEMPORARY,
    IFA_F_TENTATIVE,
    NLM_F_DUMP_INTR,
    RT_SCOPE_HOST,
    RT_TABLE_MAIN,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTN_UNICAST,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
)
from weft.targets.kernel.hops import FAMILIES, RTMSG, hop_of
from weft.targets.kernel.links import (
    ALL_ADDRESSES,
    ALL_LINKS,
    AddressState,
    LinkState,
    decode_address,
    decode_link,
    is_kernels_own,
)
from weft.targets.kernel.netns import inside
from weft.targets.kernel.socket import DUMP_BUFFER, DumpInterrupted, NetlinkSocket, complete

T = TypeVar("T")

GROUPS = (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)
SETTLE = 0.005
"""Seconds from the first notification to the reading: one `docker run` makes a dozen of them."""
PAUSE = 0.1
"""Seconds between two readings at least, and ..."""
RESTS = 5
"""... so many times as long as the last reading took: a flapping interface beside a BGP table keeps nobody busy."""
OURS = "weft:"
CONF = Path("/proc/sys/net/ipv4/conf")
PORTS_OF = frozenset({"bridge", "bond", "team", "openvswitch"})
"""A link whose master is of these kinds carries packets for that one; containers' veths are such."""
TRIES = 10
UNFIT = IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE
"""IPv6 addresses that a tunnel can't end on: not theirs yet, or not for long."""
NEXT_HOP_NEVER_USED = 0x6FFFFFFF
_HEAD = struct.Struct("=I2xH9xB")
"""nlmsghdr's length and flags, and behind it rtmsg's prefix length."""
_PATH = struct.Struct("=HBBi")
"""rtnexthop (rtnetlink.h): length, flags, hops, index."""


class HostFacts:
    """The host's facts as a source of full sets. `netns`: path of a network namespace, None for the current one."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns

    async def hosts(self) -> AsyncGenerator[Host, None]:
        """Yield the facts at start and each time that they changed; never ends by itself. Raises TargetError."""
        listener = NetlinkSocket(self._netns, DUMP_BUFFER, GROUPS, reads_only=True)
        listener.attach_filter(*facts_filter())
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def hear() -> None:
            loop.remove_reader(listener.fileno())  # else it would be called over and over until the next reading
            told.set()

        last: Host | None = None
        try:
            while True:
                _discard(listener)
                told.clear()
                loop.add_reader(listener.fileno(), hear)
                started = loop.time()
                host = await read_host(self._netns)
                ended = loop.time()
                if host != last:
                    last = host
                    yield host
                await told.wait()
                pause = max(PAUSE, RESTS * (ended - started))
                await asyncio.sleep(max(SETTLE, ended + pause - loop.time()))
        finally:
            loop.remove_reader(listener.fileno())
            listener.close()


async def read_host(netns: str | None = None) -> Host:
    """The facts now, without firewall chains (the firewall target knows those). Raises TargetError. The event loop
    runs on meanwhile, also on a host with a BGP table."""
    for _ in range(TRIES):
        with (
            contextlib.closing(NetlinkSocket(netns, DUMP_BUFFER, reads_only=True)) as socket,
            contextlib.suppress(DumpInterrupted),  # something changed meanwhile: read again
        ):
            return await _read(socket, netns)
    raise TargetError("this host's interfaces change faster than they can be read; it is tried again")


async def _read(socket: NetlinkSocket, netns: str | None) -> Host:
    try:
        links = await _dump(socket, RTM_GETLINK, ALL_LINKS, decode_link)
        addresses = await _dump(socket, RTM_GETADDR, ALL_ADDRESSES, decode_address)
        defaults = [*await _default_routes(socket, 4), *await _default_routes(socket, 6)]
    except NetlinkDecodeError as error:
        raise TargetError(f"this host's interfaces can't be read: {error}") from error
    found = list(_uplinks(links, addresses, defaults))
    takes_ra = inside(netns, lambda: {uplink.name for uplink in found if _accepts_ra(uplink.name)})
    uplinks = [replace(uplink, accepts_ra=uplink.name in takes_ra) for uplink in found]
    written = inside(netns, _writes_settings)
    ours = [link.name for link in links if link.alias.startswith(OURS)]
    return Host(
        tuple(sorted(uplinks, key=lambda uplink: uplink.name)),
        ipv6=inside(netns, _gives_ipv6),
        nexthop_objects=_has_nexthop_objects(socket),
        sysctls=written,
        strict=not written and inside(netns, lambda: _filters_strictly(ours)),
    )


async def _dump(socket: NetlinkSocket, kind: int, body: bytes, decode: Callable[[Message], T]) -> list[T]:
    found: list[T] = []
    for buffer in socket.buffers(kind, body):
        found.extend(decode(message) for message in complete(buffer))
        await asyncio.sleep(0)
    return found


def _uplinks(
    links: Iterable[LinkState], addresses: Iterable[AddressState], defaults: Sequence[tuple[int, DefaultRoute]]
) -> Iterator[Uplink]:
    kinds = {link.ifindex: link.kind for link in links}
    on_link: dict[int, list[AddressState]] = {}
    for state in addresses:
        if _is_usable(state):
            on_link.setdefault(state.ifindex, []).append(state)
    for link in links:
        if link.alias.startswith(OURS) or kinds.get(link.master) in PORTS_OF:
            continue
        outgoing = tuple(route for ifindex, route in defaults if ifindex == link.ifindex)
        own = on_link.get(link.ifindex, [])
        if own or outgoing:
            yield Uplink(link.name, link.mtu, tuple(_in_order(own)), outgoing)


def _is_usable(state: AddressState) -> bool:
    version = state.address.version
    if state.scope == RT_SCOPE_HOST or is_kernels_own(state.scope, version):
        return False
    return not (version == 6 and state.flags & UNFIT)


def _in_order(states: list[AddressState]) -> list[IPInterface]:
    """IPv4 first, a family's primary addresses before its secondary ones; else as the kernel has them, for there what
    was configured first comes before what somebody added later."""
    return [s.address for s in sorted(states, key=lambda s: (s.address.version, s.flags & IFA_F_SECONDARY))]


async def _default_routes(socket: NetlinkSocket, version: int) -> list[tuple[int, DefaultRoute]]:
    """The default routes of the main table, each with the index of a link that it goes out of; none if the kernel
    lacks the family. The kernel can't be asked for them alone, so the others are passed over as they come."""
    body = RTMSG.pack(FAMILIES[version], 0, 0, 0, 0, 0, 0, RTN_UNICAST, 0) + u32(RTA_TABLE, RT_TABLE_MAIN)
    found: set[tuple[int, DefaultRoute]] = set()
    try:
        for buffer in socket.buffers(RTM_GETROUTE, body):
            for message in default_routes(buffer):
                with decoding("a route"):
                    found.update(_decode_default(version, message))
            await asyncio.sleep(0)
    except KernelError as error:
        if error.number not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
            raise
    return sorted(found, key=lambda item: (item[0], item[1].metric, str(item[1].source)))


def default_routes(buffer: bytes) -> Iterator[Message]:
    """Of the routes in one of a dump's buffers, those with a prefix length of 0; the others aren't even cut out.
    Raises DumpInterrupted and NetlinkDecodeError."""
    offset, end = 0, len(buffer)
    unpack = _HEAD.unpack_from
    while offset < end:
        length, flags, prefix = unpack(buffer, offset) if end - offset >= _HEAD.size else (0, 0, 0)
        if not (prefix and _HEAD.size <= length <= end - offset) or flags & NLM_F_DUMP_INTR:
            yield from complete(buffer[offset : offset + max(length, 1)])  # one message, or an error for what is none
        offset += (length + 3) & ~3


def _decode_default(version: int, message: Message) -> Iterator[tuple[int, DefaultRoute]]:
    """One for each link that the route goes out of; none for one of another table or kind (unreachable, say)."""
    _, length, _, _, table, _, _, kind, _ = RTMSG.unpack_from(message.body)
    if length or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
        return
    route = attributes(message.body, RTMSG.size)
    metric = number(route[RTA_PRIORITY]) if RTA_PRIORITY in route else 0
    source = address(route[RTA_PREFSRC]) if RTA_PREFSRC in route else None
    for ifindex in _outgoing(route):
        yield ifindex, DefaultRoute(version, metric, source)


def _outgoing(route: dict[int, bytes]) -> Iterator[int]:
    if RTA_OIF in route:
        yield number(route[RTA_OIF])
    paths = route.get(RTA_MULTIPATH, b"")
    while paths:
        length, _, _, index = _PATH.unpack_from(paths)
        if length < _PATH.size:
            raise NetlinkDecodeError(f"a route's path says it has {length} octets")
        yield index
        paths = paths[(length + 3) & ~3 :]


def _has_nexthop_objects(socket: NetlinkSocket) -> bool:
    """Linux before 5.3 doesn't know the request; later ones know it and have no object of this id."""
    try:
        socket.ask(*hop_of(NEXT_HOP_NEVER_USED))
    except KernelError as error:
        return error.number != errno.EOPNOTSUPP
    return True


def _accepts_ra(name: str) -> bool:
    """Router advertisements are taken with accept_ra 2, and with 1 as long as the interface doesn't forward
    (Documentation/networking/ip-sysctl). An interface name may hold anything but "/"."""
    folder = Path("/proc/sys/net/ipv6/conf", name)
    try:
        accept = (folder / "accept_ra").read_text().strip()
        return accept == "2" or (accept == "1" and (folder / "forwarding").read_text().strip() == "0")
    except OSError:
        return False  # no IPv6 on this interface, or it has just gone


def _gives_ipv6() -> bool:
    """A device that is made now gets IPv6. Its settings start as conf/default has them, and who writes conf/all writes
    conf/default as well (addrconf.c, addrconf_disable_ipv6)."""
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False  # this kernel has no IPv6


def _writes_settings() -> bool:
    """By opening one: access(2) asks for the real user, and forgets what NET_ADMIN allows."""
    try:
        os.close(os.open(CONF.parent / "ip_forward", os.O_WRONLY))
    except OSError:
        return False
    return True


def _filters_strictly(names: Sequence[str]) -> bool:
    """Whether one of these links has rp_filter 1; a new one, if there are none. Of all's and a link's own, the greater
    holds (Documentation/networking/ip-sysctl)."""

    def value(name: str) -> int:
        try:
            return int((CONF / name / "rp_filter").read_text())
        except (OSError, ValueError):
            return 0  # it has just gone

    return any(max(value("all"), value(name)) == 1 for name in names or ("default",))


def _discard(listener: NetlinkSocket) -> None:
    """Empty the queue: what it tells is only that something changed, and so does losing some of it."""
    while True:
        try:
            if listener.receive() is None:
                return
        except KernelError as error:
            if error.number != errno.ENOBUFS:
                raise
