"""When did something change in a host's kernel? A stopwatch on the kernel's own notifications.

`repair` uses it to say how quickly an agent mends: the moment at which an object went and the moment at which it came
back are both told by the kernel, so that starting the command which deleted it doesn't count.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weft.lab import netns
from weft.targets.kernel import constants as nl
from weft.targets.kernel.codec import messages

Kind = Literal["link", "neighbour", "fdb", "next hop", "route", "rule"]

NETLINK_NETFILTER = 12  # netlink.h
NFNLGRP_NFTABLES = 7  # nfnetlink.h
NFNL_SUBSYS_NFTABLES = 10
NFT_CAME = {3, 6}  # nf_tables.h: NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE
NFT_GONE = {5, 8}  # NFT_MSG_DELCHAIN, NFT_MSG_DELRULE
GROUPS = (nl.RTNLGRP_LINK, nl.RTNLGRP_NEIGH, nl.RTNLGRP_IPV4_ROUTE, nl.RTNLGRP_IPV6_ROUTE, nl.RTNLGRP_NEXTHOP)
NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""ndmsg (neighbour.h): family, interface, state, flags, type."""
ROUTE_PROTOCOL = 5
"""Offset of rtm_protocol in rtmsg (rtnetlink.h)."""
HOP_PROTOCOL = 2
"""Offset of nh_protocol in nhmsg (nexthop.h)."""
BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """Something came, or (`gone`) went, at `moment` of the monotonic clock. Of neighbours only permanent ones count,
    of routes and next hops only those of weft's protocol number."""

    moment: float
    kind: Kind
    gone: bool


class Recorder:
    """Records a namespace's events while it is used in a `with`, on the running event loop."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._sockets: list[socket.socket] = []
        self._changed = asyncio.Event()
        self.events: list[Event] = []

    def __enter__(self) -> Recorder:
        self._listen(nl.NETLINK_ROUTE, GROUPS)
        self._listen(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def first(self, kind: Kind, gone: bool) -> float | None:
        """When the first such event was, or None."""
        return next((event.moment for event in self.events if (event.kind, event.gone) == (kind, gone)), None)

    def last_came(self) -> float | None:
        """When the last object came, or None."""
        return next((event.moment for event in reversed(self.events) if not event.gone), None)

    async def more(self, timeout: float) -> bool:
        """Wait for a further event; False if none comes within `timeout` seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _listen(self, protocol: int, groups: tuple[int, ...]) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        sock = netns.socket_in(self._namespace, socket.AF_NETLINK, kind, protocol)
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, nl.SO_RCVBUFFORCE, BUFFER)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, group)
        asyncio.get_running_loop().add_reader(sock, self._read, sock, protocol)

    def _read(self, sock: socket.socket, protocol: int) -> None:
        now = time.monotonic()
        decode = _netfilter if protocol == NETLINK_NETFILTER else _route
        for message in messages(sock.recv(BUFFER)):
            for kind, gone in decode(message.kind, message.body):
                self.events.append(Event(now, kind, gone))
                self._changed.set()


def _netfilter(message: int, _: bytes) -> Iterator[tuple[Kind, bool]]:
    if message >> 8 == NFNL_SUBSYS_NFTABLES and message & 0xFF in NFT_CAME | NFT_GONE:
        yield "rule", message & 0xFF in NFT_GONE


def _route(message: int, body: bytes) -> Iterator[tuple[Kind, bool]]:
    if message in (nl.RTM_NEWLINK, nl.RTM_DELLINK):
        yield "link", message == nl.RTM_DELLINK
    elif message in (nl.RTM_NEWNEIGH, nl.RTM_DELNEIGH):
        family, _, state, _, _ = NEIGHBOUR.unpack_from(body)
        gone = message == nl.RTM_DELNEIGH
        if gone or state & nl.NUD_PERMANENT:
            yield "fdb" if family == nl.AF_BRIDGE else "neighbour", gone
    elif message in (nl.RTM_NEWNEXTHOP, nl.RTM_DELNEXTHOP):
        if body[HOP_PROTOCOL] == nl.PROTOCOL:
            yield "next hop", message == nl.RTM_DELNEXTHOP
    elif message in (nl.RTM_NEWROUTE, nl.RTM_DELROUTE) and body[ROUTE_PROTOCOL] == nl.PROTOCOL:
        yield "route", message == nl.RTM_DELROUTE
