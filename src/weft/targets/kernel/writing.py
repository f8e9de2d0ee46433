"""A batch of requests: encoded, sent as one, and judged by the kernel's answers. Used by `target.py` alone.

This is the hot path of a cold start: 40,000 objects with 10,000 peers.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from weft.errors import KernelError, NetlinkDecodeError, TargetError
from weft.objects import (
    REGISTRAR_METRICS,
    Address,
    Failure,
    Fdb,
    Key,
    Neighbour,
    NextHop,
    NextHopGroup,
    Object,
    Op,
    Route,
)
from weft.targets.kernel.codec import Answer, messages
from weft.targets.kernel.constants import PROTOCOL, RTM_GETROUTE
from weft.targets.kernel.entries import encode_fdb, encode_neighbours
from weft.targets.kernel.groups import encode_groups
from weft.targets.kernel.hops import (
    FAMILIES,
    HopState,
    decode_hop,
    decode_route,
    encode_hops,
    encode_routes,
    hop_of,
    route_to,
    routes_of,
)
from weft.targets.kernel.links import encode_addresses
from weft.targets.kernel.mirror import Mirror
from weft.targets.kernel.refusals import waits
from weft.targets.kernel.sharing import has_owner, is_shared
from weft.targets.kernel.socket import NetlinkSocket
from weft.targets.kernel.words import UNENCODABLE, asked, unencodable

Encoder: TypeAlias = Callable[[Iterable[tuple[str, Any]], int, int], list[bytes]]
"""(actions and objects of one kind and device, its ifindex, the first's sequence number) → a request for each."""

ENCODERS: Mapping[type[Object], Encoder] = {
    Address: encode_addresses,
    Neighbour: encode_neighbours,
    Fdb: encode_fdb,
    NextHop: encode_hops,
    NextHopGroup: encode_groups,
    Route: encode_routes,
}
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""How the kernel answers the removal of what is not there, by kind: FDB and next hop, route, device, address."""


class OnDevice(Protocol):
    """What the objects have in common that come in batches."""

    @property
    def dev(self) -> str: ...


class HasId(Protocol):
    """The same of next hops and groups."""

    @property
    def id(self) -> int: ...


def run_length(ops: Sequence[Op], first: int, limit: int) -> int:
    """How many ops from `first` on, at most `limit`, make one batch: one kind of object on one device."""
    things: list[Any] = [op.object for op in ops[first : first + limit]]
    kind, device = type(things[0]), things[0].dev
    for length, thing in enumerate(things):
        if type(thing) is not kind or thing.dev != device:
            return length
    return len(things)


class Batch:
    """Ops of one kind on one device, on their way through the kernel."""

    def __init__(self, socket: NetlinkSocket, mirror: Mirror, ops: Sequence[Op]) -> None:
        self._socket = socket
        self._mirror = mirror
        self._ops = ops
        self._encode = ENCODERS[type(ops[0].object)]
        self._device = _device(ops[0].object)
        own = mirror.indexes.get(self._device)
        self._elsewhere = own is None
        shared = own is None and type(ops[0].object) is Route
        self._ifindex = mirror.route_index(self._device) if shared else own

    def apply(self) -> list[Failure | None]:
        """One answer per op."""
        ops = self._ops
        if self._mirror.shared is not None and ops[0].action != ops[-1].action == "remove":
            first = next(at for at, op in enumerate(ops) if op.action == "remove")
            parts = ops[:first], ops[first:]  # what goes is to see what could not be made
            return [result for part in parts for result in Batch(self._socket, self._mirror, part).apply()]
        results = self._apply()
        if any(results) and type(ops[0].object) is Route:
            for op, failure in zip(ops, results, strict=True):
                if failure is not None:
                    self._mirror.refusals.add(op, failure, self._device)
        elif isinstance(ops[0].object, NextHop | NextHopGroup):
            self._note_hops(results)
        return results

    def _note_hops(self, results: Sequence[Failure | None]) -> None:
        """Which ids are not to be named, because somebody else's hop would be meant."""
        lacking = self._mirror.lacking
        for op, failure in zip(self._ops, results, strict=True) if lacking or any(results) else ():
            (lacking.discard if failure is None else lacking.add)(cast(HasId, op.object).id)

    def _apply(self) -> list[Failure | None]:
        if any(objections := self._objections()):
            return self._sifted(objections)
        results: list[Failure | None] = [None] * len(self._ops)
        places, actions, ops = self._to_send()
        if not ops or self._ifindex is None:
            return results
        first = self._socket.number(len(ops))
        try:
            requests = self._encode(zip(actions, [op.object for op in ops], strict=True), self._ifindex, first)
        except UNENCODABLE as error:
            errors = [self._error(op) for op in self._ops]
            return self._sifted(errors if any(errors) else [unencodable(op, error) for op in self._ops])
        try:
            refusals = self._socket.send(requests, first, first + len(requests) - 1)
        except (KernelError, NetlinkDecodeError, OSError) as error:
            self._mirror.doubtful = True
            for at, op in zip(places, ops, strict=True):
                results[at] = Failure(f"{asked(op)}: {error}")
            return results
        refused = {answer.sequence - first: answer for answer in refusals}
        carried_out = [op for at, op in enumerate(ops) if at not in refused] if refused else ops
        self._mirror.wrote(carried_out, requests)
        for at, refusal in refused.items():
            results[places[at]] = self._judge(ops[at], refusal)
        return results

    def _sifted(self, failures: Sequence[Failure | None]) -> list[Failure | None]:
        """Some ops have failed before they were sent; the others are carried out without them."""
        good = [op for op, failure in zip(self._ops, failures, strict=True) if failure is None]
        answers = iter(Batch(self._socket, self._mirror, good).apply() if good else ())
        return [next(answers) if failure is None else failure for failure in failures]

    def _error(self, op: Op) -> Failure | None:
        """Why this op can't be encoded, or None."""
        try:
            self._encode([(op.action, op.object)], self._ifindex or 0, 1)
        except UNENCODABLE as error:
            return unencodable(op, error)
        return None

    def _objections(self) -> list[Failure | None]:
        """Why ops can't be put to the kernel; nothing if all can."""
        missing = self._mirror.refusals.destinations() if self._ops[0].action == "remove" else set()
        if not (self._elsewhere or missing or self._mirror.lacking):
            return []
        return [self._objection(op, missing) for op in self._ops]

    def _objection(self, op: Op, missing: set[tuple[object, ...]]) -> Failure | None:
        """Why this is not to go yet (`missing`: where routes are wanted to), or can't be made out of a device that
        isn't ours; or None. What could not be recognised as ours afterwards isn't made."""
        if waits(op, missing):
            return Failure(f"{asked(op)}: the route that is to take its place does not stand yet")
        if op.action != "remove" and any(map(self._mirror.lacks, _hops_of(op.object))):
            return Failure(f"{asked(op)}: its next hop could not be made")
        if op.action == "remove" or not self._elsewhere:
            return None
        if not isinstance(op.object, Route) or self._mirror.shared is None:
            return Failure(f"{asked(op)}: there is no device of ours of this name")
        if not has_owner(op.object, self._mirror.registrar):
            band = f"{REGISTRAR_METRICS[0]} to {REGISTRAR_METRICS[-1]}"
            return Failure(f"{asked(op)}: metrics from {band} are the registrar's, and it has no others")
        if not is_shared(op.object, self._mirror.shared):
            return Failure(f"{asked(op)}: {self._device} isn't ours, and neither are routes to there out of it")
        if self._ifindex is None:
            return Failure(f"{asked(op)}: there is no link {self._device}")
        return None

    def _to_send(self) -> tuple[Sequence[int], Sequence[str], Sequence[Op]]:
        """The ops that need a request: their places, as what each is sent, and they themselves. What the mirror does
        not hold can't be removed (it is gone, or isn't ours) and not be changed (it is added, which never replaces
        another's)."""
        ops = self._ops
        actions: list[str] = [op.action for op in ops]
        if actions.count("add") == len(actions):
            return range(len(ops)), actions, ops
        self._mirror.begin_removing()
        objects = self._mirror.objects
        places = [at for at, op in enumerate(ops) if op.action != "remove" or op.object.key in objects]
        ops = [ops[at] for at in places]
        return places, [_action(op, objects) for op in ops], ops

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
        thing = op.object
        try:
            whose = self._whose(thing)
            if whose:
                return Failure(f"{asked(op)}: {whose} stands there; it was left alone", conflict=True)
            number = self._socket.number(1)
            requests = self._encode([("change", thing)], self._ifindex or 0, number)
            failures = self._socket.send(requests, number, number)
        except (TargetError, NetlinkDecodeError, OSError) as error:
            self._mirror.doubtful = True
            return Failure(f"{asked(op)}: something stands there, and when it was looked at or replaced: {error}")
        if failures:
            return Failure(str(KernelError(failures[0].number, asked(op), failures[0].text)))
        self._mirror.wrote([op], requests)
        return None

    def _whose(self, thing: Object) -> str:
        """Name the object of somebody else's that stands at this one's key; "" if it is one of ours."""
        if isinstance(thing, NextHop | NextHopGroup):
            hop = self._hop(thing.id)
            ours = hop.ours and all(self._nobodys(self._hop(one).ifindex) for one in hop.members or (thing.id,))
            return "" if ours else f"a next hop of protocol {hop.protocol}"
        if isinstance(thing, Route):
            return self._whose_route(thing)
        return ""

    def _hop(self, hop_id: int) -> HopState:
        """Whatever has this id. Raises KernelError if nothing has."""
        return decode_hop(self._socket.ask(*hop_of(hop_id)), self._mirror.names, self._mirror.hops)

    def _nobodys(self, ifindex: int) -> bool:
        """What has our protocol number (and id) and leads out of no other weft daemon's device: ours, altered."""
        link = self._mirror.links.get(ifindex)
        return link is None or ifindex in self._mirror.names or not link.alias.startswith("weft:")

    def _whose_route(self, route: Route) -> str:
        """The kernel can be asked for the route that packets would take, which is nearly always the one. Else it is
        hidden behind another or in another table: it is looked for among ours, and if it isn't there, not named."""
        names, hops = self._mirror.route_links, self._mirror.hops
        with contextlib.suppress(KernelError):  # packets would not take any
            found = decode_route(self._socket.ask(*route_to(route.dst)), names, hops)
            if found is not None and found.key == route.key:
                link = self._mirror.links.get(found.ifindex)
                device = link.name if link else "another device"
                altered = found.protocol == PROTOCOL and self._nobodys(found.ifindex)
                taken = not altered and self._mirror.own_route(found) is None
                return f"a route of protocol {found.protocol} out of {device}" if taken else ""
        body = routes_of(FAMILIES[route.dst.version], self._ifindex)
        for buffer in self._socket.buffers(RTM_GETROUTE, body):
            ours = (self._mirror.own_route(decode_route(message, names, hops)) for message in messages(buffer))
            if any(found is not None and found.key == route.key for found in ours):
                return ""
        return "another route with this destination, table and metric"


def _hops_of(thing: Object) -> tuple[int, ...]:
    """The next hops that a route or a group names."""
    if isinstance(thing, NextHopGroup):
        return thing.members
    return (thing.nexthop,) if isinstance(thing, Route) else ()


def _action(op: Op, objects: Mapping[Key, Object]) -> str:
    return "add" if op.action == "change" and op.object.key not in objects else op.action


def _device(thing: Object) -> str:
    return cast(OnDevice, thing).dev
