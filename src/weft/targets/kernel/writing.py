"""A batch of requests: encoded, sent as one, and judged by the kernel's answers. Used by `target.py` alone.

This is the hot path of a cold start: 40,000 objects with 10,000 peers.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from weft.errors import KernelError, NetlinkDecodeError
from weft.objects import Address, Failure, Fdb, Neighbour, NextHop, Object, Op, Route
from weft.targets.kernel.codec import Answer, messages
from weft.targets.kernel.constants import RTM_GETROUTE
from weft.targets.kernel.entries import encode_fdb, encode_neighbour
from weft.targets.kernel.hops import (
    FAMILIES,
    decode_hop,
    decode_route,
    encode_hop,
    encode_route,
    hop_of,
    route_to,
    routes_of,
)
from weft.targets.kernel.links import encode_address
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.kernel.words import asked

OnDevice: TypeAlias = Address | Neighbour | Fdb | NextHop | Route
Encoder: TypeAlias = Callable[..., bytes]
"""(action, object, ifindex, sequence) → request; each takes one kind of object."""

BATCHED: Mapping[type[Object], Encoder] = {
    Address: encode_address,
    Neighbour: encode_neighbour,
    Fdb: encode_fdb,
    NextHop: encode_hop,
    Route: encode_route,
}
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""How the kernel answers the removal of what is not there, by kind: FDB and next hop, route, device, address."""


class Batch:
    """Some ops on their way through the kernel."""

    def __init__(self, socket: NetlinkSocket, mirror: Mirror) -> None:
        self._socket = socket
        self._mirror = mirror
        self._requests: list[bytes] = []
        self._sent: list[int] = []
        """Which op each request belongs to; a request's place is its sequence number, from 1."""

    def apply(self, ops: Sequence[Op]) -> list[Failure | None]:
        results: list[Failure | None] = [self._encode(at, op) for at, op in enumerate(ops)]
        if not self._requests:
            return results
        try:
            failures = self._socket.send(self._requests, last=len(self._requests))
        except (KernelError, NetlinkDecodeError, OSError) as error:
            self._mirror.doubtful = True
            for at in self._sent:
                results[at] = Failure(f"{asked(ops[at])}: {error}")
            return results
        failed = {self._sent[answer.sequence - 1]: answer for answer in failures}
        for at, request in zip(self._sent, self._requests, strict=True):
            if at in failed:
                results[at] = self._judge(ops[at], failed[at])
            else:
                self._mirror.wrote(ops[at], request)
        return results

    def _encode(self, at: int, op: Op) -> Failure | None:
        """Put the request for this op into the batch; or say why there is none. What the mirror does not hold can't be
        removed (it is gone, or isn't ours) and not be changed (it is added, which never replaces another's)."""
        thing = cast("OnDevice", op.object)
        action: str = op.action
        ifindex = self._mirror.indexes.get(thing.dev)
        if action != "add" and thing.key not in self._mirror.objects:
            if action == "remove":
                return None
            action = "add"
        if ifindex is None:
            if action == "remove":
                return None
            return Failure(f"{asked(op)}: there is no device of ours of this name")
        self._sent.append(at)
        self._requests.append(BATCHED[type(thing)](action, thing, ifindex, len(self._sent)))
        return None

    def _judge(self, op: Op, answer: Answer) -> Failure | None:
        """What a refusal of the kernel means."""
        if op.action == "remove" and answer.number in GONE:
            self._mirror.drop(op.object)
            return None
        if op.action != "remove" and answer.number == errno.EEXIST:
            return self._already_there(op)
        if answer.number in GONE:
            self._mirror.doubtful = True  # it should have been there
        return Failure(str(KernelError(answer.number, asked(op), answer.text)))

    def _already_there(self, op: Op) -> Failure | None:
        """Something stands where we wanted to add: replace it if it is ours, else name it and leave it alone."""
        thing = cast("OnDevice", op.object)
        try:
            whose = self._whose(thing)
        except (KernelError, NetlinkDecodeError) as error:
            self._mirror.doubtful = True
            return Failure(f"{asked(op)}: something stands there, but when asked for it: {error}")
        if whose:
            return Failure(f"{asked(op)}: {whose} stands there; it was left alone", conflict=True)
        ifindex = self._mirror.indexes[thing.dev]
        request = BATCHED[type(thing)]("change", thing, ifindex, 1)
        failures = self._socket.send([request], last=1)
        if failures:
            return Failure(str(KernelError(failures[0].number, asked(op), failures[0].text)))
        self._mirror.wrote(op, request)
        return None

    def _whose(self, thing: Object) -> str:
        """Name the object of somebody else's that stands at this one's key; "" if it is one of ours."""
        names = self._mirror.names
        if isinstance(thing, NextHop):
            hop = decode_hop(self._socket.ask(*hop_of(thing.id)), names)
            return "" if hop.ours and hop.hop is not None else f"a next hop of protocol {hop.protocol}"
        if isinstance(thing, Route):
            return self._whose_route(thing)
        return ""

    def _whose_route(self, route: Route) -> str:
        """The kernel can be asked for the route that packets would take, which is nearly always the one. Else it is
        hidden behind another or in another table: it is looked for among ours, and if it isn't there, not named."""
        names, hops = self._mirror.names, self._mirror.hops
        with contextlib.suppress(KernelError):  # packets would not take any
            found = decode_route(self._socket.ask(*route_to(route.dst)), names, hops)
            if found is not None and found.key == route.key:
                link = self._mirror.links.get(found.ifindex)
                device = link.name if link else "another device"
                return "" if found.ours else f"a route of protocol {found.protocol} out of {device}"
        body = routes_of(FAMILIES[route.dst.version], self._mirror.indexes[route.dev])
        for buffer in self._socket.buffers(RTM_GETROUTE, body):
            ours = (decode_route(message, names, hops) for message in messages(buffer))
            if any(state is not None and state.ours and state.key == route.key for state in ours):
                return ""
        return "another route with this destination, table and metric"
