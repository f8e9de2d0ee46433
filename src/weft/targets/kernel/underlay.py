"""What happens to the underlay: links, addresses, routes and rules that aren't weft's, as far as ways depend on it.

Used by `ways.py` alone. Most of what the kernel tells is no matter: our own routes (dropped in the kernel), our own
devices, the ports of bridges (a container that starts makes a dozen such notifications), and routes to where nobody is
asked for. What is left makes every way doubtful; that is cheap enough not to be clever.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

from weft.errors import KernelError, NetlinkDecodeError
from weft.model import IPAddress
from weft.targets.kernel.bpf import underlay_filter
from weft.targets.kernel.codec import Message, attributes, decoding, messages
from weft.targets.kernel.constants import (
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    IFF_RUNNING,
    IFF_UP,
    RTA_DST,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_LINK,
    RTNLGRP_NEXTHOP,
)
from weft.targets.kernel.hops import RTMSG, network
from weft.targets.kernel.host import OURS, PORTS_OF
from weft.targets.kernel.links import IFADDR, IFINFO, decode_link
from weft.targets.kernel.socket import DUMP_BUFFER, NetlinkSocket

T = TypeVar("T")

GROUPS = (
    RTNLGRP_LINK,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_NEXTHOP,
)
SETTLE = 0.02
"""Seconds from the first notification to the lookups: what configures an interface makes a dozen of them."""
RESTS = 5
"""All lookups rest so many times as long as they took: a routing daemon at work keeps nobody busy."""


class _Link(NamedTuple):
    name: str
    kind: str
    master: int
    flags: int
    ours: bool


class Underlay:
    """Listens from the start; `wake` is called once when there is something to hear, and again after `changed`. None:
    nobody listens. `names`: the links that a way may lead out of, by index."""

    def __init__(self, netns: str | None, wake: Callable[[], None] | None) -> None:
        self._listener = NetlinkSocket(netns, DUMP_BUFFER, GROUPS if wake is not None else ())
        self._listener.attach_filter(*underlay_filter())
        self._wake = wake
        self._links: dict[int, _Link] = {}
        self._loop = asyncio.get_running_loop()
        self._heard_at: float | None = None
        self._rested_at = 0.0
        self._endpoints: frozenset[IPAddress] = frozenset()
        self._sorted: dict[int, list[int]] = {}
        self.names: dict[int, str] = {}
        self.lost = True
        """Which links there are is not known: to be told by `set_links`."""

    def close(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    async def timed(self, work: Awaitable[T]) -> T:
        """The same; after it, changes are let rest in proportion to how long it took."""
        started = self._loop.time()
        result = await work
        self._rested_at = self._loop.time() + RESTS * (self._loop.time() - started)
        return result

    def pause(self) -> float | None:
        """Seconds until what was heard is due; None if nothing was."""
        if self._heard_at is None:
            return None
        return max(self._heard_at + SETTLE, self._rested_at) - self._loop.time()

    def due(self) -> bool:
        """Something was heard, and has settled."""
        pause = self.pause()
        return pause is not None and pause <= 0

    def changed(self, endpoints: frozenset[IPAddress]) -> bool:
        """Whether what has been heard until now may change the way to one of these, or which links there are. What is
        not due yet is left to be heard later."""
        if self._heard_at is not None and not self.due():
            return False
        self._heard_at = None
        if endpoints != self._endpoints:
            self._endpoints, self._sorted = endpoints, {}
        result = False
        try:
            for received in self._listener.waiting():
                for message in messages(received):
                    result |= self._matters(message)
        except (KernelError, NetlinkDecodeError):  # some were lost, or can't be read
            result = self.lost = True
        self._loop.add_reader(self._listener.fileno(), self._hear)
        return result

    def set_links(self, found: Iterable[Message]) -> None:
        """These are all links there are. Raises NetlinkDecodeError."""
        self._links, self.names, self.lost = {}, {}, False
        for message in found:
            self._put_link(message)

    def _put_link(self, message: Message) -> bool:
        """A link is or was as an RTM_NEWLINK or RTM_DELLINK says. Whether that matters: it is not ours, no port of a
        bridge, and has another name or state than before."""
        if message.body[:1] == bytes([AF_BRIDGE]):
            return False
        state = decode_link(message)
        flags = IFINFO.unpack_from(message.body)[3] & (IFF_UP | IFF_RUNNING)
        old = self._links.pop(state.ifindex, None)
        self.names.pop(state.ifindex, None)
        if message.kind == RTM_DELLINK:
            return old is not None and not self._is_passive(old)
        new = _Link(state.name, state.kind, state.master, flags, state.alias.startswith(OURS))
        self._links[state.ifindex] = new
        if not new.ours:
            self.names[state.ifindex] = state.name
        return old is not None and old != new and not (self._is_passive(old) and self._is_passive(new))

    def _is_passive(self, link: _Link) -> bool:
        master = self._links.get(link.master)
        return link.ours or (master is not None and master.kind in PORTS_OF)

    def _hear(self) -> None:
        self._loop.remove_reader(self._listener.fileno())  # else it would be called over and over until it is heard
        self._heard_at = self._loop.time()
        if self._wake is not None:
            self._wake()

    def _matters(self, message: Message) -> bool:
        if message.kind in (RTM_NEWLINK, RTM_DELLINK):
            return self._put_link(message)
        with decoding("a notification"):
            if message.kind in (RTM_NEWADDR, RTM_DELADDR):
                link = self._links.get(IFADDR.unpack_from(message.body)[4])
                return link is None or not link.ours
            if message.kind in (RTM_NEWROUTE, RTM_DELROUTE):
                return self._leads_to_endpoint(message)
            return True

    def _leads_to_endpoint(self, message: Message) -> bool:
        family, length = RTMSG.unpack_from(message.body)[:2]
        if family not in (AF_INET, AF_INET6):
            return False
        dst = network(family, attributes(message.body, RTMSG.size).get(RTA_DST, b""), length)
        if not self._sorted:
            self._sorted = {version: _numbers(self._endpoints, version) for version in (4, 6)}
        numbers = self._sorted[dst.version]
        at = bisect_left(numbers, int(dst.network_address))
        return at < len(numbers) and numbers[at] <= int(dst.broadcast_address)


def _numbers(endpoints: Iterable[IPAddress], version: int) -> list[int]:
    return sorted(int(endpoint) for endpoint in endpoints if endpoint.version == version)
