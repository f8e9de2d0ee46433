"""The way to each of a set of addresses, as the kernel itself would send there: who is reached without a tunnel.

`weft flanneld` follows `Ways.directions` as a source where peers on the same segment are routed to directly, and asks
`way_to` for -iface-can-reach. Nothing is computed here: each address is put to the kernel (RTM_GETROUTE), so policy
rules, several tables and metrics all count; what changes when is judged in `underlay.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.model import IPAddress, Way
from weft.targets.kernel.codec import Answer, Message, address, attribute, attributes, decoding, number
from weft.targets.kernel.constants import (
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_VIA,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTN_UNICAST,
)
from weft.targets.kernel.hops import FAMILIES, RTMSG
from weft.targets.kernel.links import ALL_LINKS
from weft.targets.kernel.socket import ANSWER_BUFFER, DumpInterrupted, NetlinkSocket, complete
from weft.targets.kernel.underlay import Underlay

SLICE = 100
"""Addresses that are asked for in one send: 1 to 2 ms of the event loop."""
TRIES = 10
PASSING = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""Answers that say nothing about the way."""


Directions: TypeAlias = Mapping[IPAddress, Way]
"""Address → way. What is missing can't be reached, is this host's own, or is reached through a device of weft's."""


class Ways:
    """A source of full sets. `netns`: path of a network namespace, None for the current one.

    `answered`: the addresses that the last directions were asked for; what is in it and not in them has no way."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns
        self._endpoints: frozenset[IPAddress] = frozenset()
        self._woken = asyncio.Event()
        self.answered: frozenset[IPAddress] = frozenset()

    def ask(self, endpoints: Iterable[IPAddress]) -> None:
        """From now on, these are the addresses that are asked for; cheap if they are the same."""
        asked = frozenset(endpoints)
        if asked != self._endpoints:
            self._endpoints = asked
            self._woken.set()

    async def directions(self) -> AsyncGenerator[Directions, None]:
        """Yield the ways at once and each time that they changed; never ends by itself. What is newly asked for is
        looked up at once, everything when something happened to the underlay. Raises TargetError."""
        with (
            contextlib.closing(Underlay(self._netns, self._woken.set)) as underlay,
            contextlib.closing(NetlinkSocket(self._netns, ANSWER_BUFFER)) as socket,
        ):
            known: Directions | None = None
            asked: frozenset[IPAddress] = frozenset()
            while True:
                self._woken.clear()
                whole = underlay.changed(asked)
                if underlay.lost:
                    await _read_links(socket, underlay)
                endpoints = self._endpoints
                if whole or known is None:
                    found = await underlay.timed(_look_up(socket, underlay, endpoints))
                else:
                    fresh = await _look_up(socket, underlay, endpoints - asked)
                    found = {a: way for a, way in known.items() if a in endpoints} | fresh
                news = found != known or endpoints != asked
                asked = self.answered = endpoints
                if news:
                    known = found
                    yield found
                while self._endpoints == asked and not underlay.due():
                    await _wait(self._woken, underlay.pause())
                    self._woken.clear()


async def way_to(endpoint: IPAddress, netns: str | None = None) -> Way | None:
    """The way to one address now, None if there is none. Raises TargetError."""
    with (
        contextlib.closing(Underlay(netns, None)) as underlay,
        contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket,
    ):
        await _read_links(socket, underlay)
        return (await _look_up(socket, underlay, (endpoint,))).get(endpoint)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _read_links(socket: NetlinkSocket, underlay: Underlay) -> None:
    for _ in range(TRIES):
        with contextlib.suppress(DumpInterrupted):
            buffers = await socket.dump(RTM_GETLINK, ALL_LINKS)
            try:
                return underlay.set_links([message for buffer in buffers if buffer for message in complete(buffer)])
            except NetlinkDecodeError as error:
                raise TargetError(f"this host's interfaces can't be read: {error}") from error
    raise TargetError("this host's interfaces change faster than they can be read; it is tried again")


async def _look_up(socket: NetlinkSocket, underlay: Underlay, endpoints: Iterable[IPAddress]) -> dict[IPAddress, Way]:
    """The ways to these; the event loop runs in between."""
    found: dict[IPAddress, Way] = {}
    left = iter(endpoints)
    while some := list(islice(left, SLICE)):
        try:
            found.update(_ask(socket, underlay.names, some))
        except (NetlinkDecodeError, OSError) as error:
            raise TargetError(f"the ways to other hosts can't be found out: {error}") from error
        await asyncio.sleep(0)
    return found


def _ask(socket: NetlinkSocket, names: Mapping[int, str], endpoints: Sequence[IPAddress]) -> dict[IPAddress, Way]:
    answers = socket.ask_all(RTM_GETROUTE, [_asking(endpoint) for endpoint in endpoints])
    found: dict[IPAddress, Way] = {}
    for endpoint, answer in zip(endpoints, answers, strict=True):
        if isinstance(answer, Answer):
            if answer.number in PASSING:
                raise KernelError(answer.number, f"asking for the way to {endpoint}", answer.text)
        elif (way := decode_way(answer, names)) is not None:
            found[endpoint] = way
    return found


def _asking(endpoint: IPAddress) -> bytes:
    """The body of a request for the way to an address."""
    packed = endpoint.packed
    return RTMSG.pack(FAMILIES[endpoint.version], len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, packed)


def decode_way(message: Message, names: Mapping[int, str]) -> Way | None:
    """Of the answer to RTM_GETROUTE. None: the address is not another host's (local, broadcast), can't be reached, or
    is reached out of a link that is not in `names`. Raises NetlinkDecodeError."""
    with decoding("a route"):
        kind = RTMSG.unpack_from(message.body)[7]
        found = attributes(message.body, RTMSG.size)
        name = names.get(number(found[RTA_OIF])) if RTA_OIF in found else None
        if kind != RTN_UNICAST or name is None:
            return None
        gateway = found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]
        source = found.get(RTA_PREFSRC)
        return Way(name, address(gateway) if gateway else None, address(source) if source else None)
