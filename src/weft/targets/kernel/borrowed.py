"""What is on a device that isn't ours: read, and corrected one by one. Called by `agent/healing.py`.

The kernel target never touches such a device; this is for the ladder, which says why for each entry.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence, Set

from weft.core import commands
from weft.errors import KernelError, TargetError
from weft.objects import MAIN_TABLE, Failure, Fdb, Neighbour, Op, Route
from weft.targets.kernel.codec import Message, text
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    IFF_UP,
    IFLA_IFNAME,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
)
from weft.targets.kernel.entries import decode_entry, encode_fdb, encode_neighbours, fdb_of, neighbours_of
from weft.targets.kernel.hops import decode_route, encode_routes, routes_of
from weft.targets.kernel.links import IFINFO
from weft.targets.kernel.reading import NO_FAMILY, TRIES
from weft.targets.kernel.socket import ANSWER_BUFFER, DumpInterrupted, NetlinkSocket, complete


def find_link(socket: NetlinkSocket, device: str) -> tuple[int, int]:
    """Index and flags (if.h) of the link of that name. Raises TargetError if there is none."""
    try:
        found = socket.ask(RTM_GETLINK, IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, device))
    except KernelError as error:
        raise TargetError(f"there is no link {device}: {error}") from error
    _, _, index, flags, _ = IFINFO.unpack_from(found.body)
    return index, flags


def is_up(netns: str | None, device: str) -> bool:
    """Whether the link is set up. Raises TargetError if there is none of that name."""
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        return bool(find_link(socket, device)[1] & IFF_UP)


def read_entries(netns: str | None, device: str) -> tuple[Fdb | Neighbour | Route, ...]:
    """Its permanent neighbours and FDB entries, and the main table's routes out of it, of the forms that flannel makes.
    Raises TargetError."""
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        index, _ = find_link(socket, device)
        for _ in range(TRIES):
            with contextlib.suppress(DumpInterrupted):
                return (*_entries(socket, {index: device}), *_routes(socket, {index: device}))
    raise TargetError(f"the entries of {device} change faster than they can be read")


def _entries(socket: NetlinkSocket, names: dict[int, str]) -> Iterator[Fdb | Neighbour]:
    (index,) = names
    for body, version in ((neighbours_of(AF_INET, index), 4), (neighbours_of(AF_INET6, index), 6), (fdb_of(index), 4)):
        for message in _dump(socket, RTM_GETNEIGH, body, NO_FAMILY[version]):
            found = decode_entry(message, names)
            if found is not None and found[1] is not None:
                yield found[1]


def _routes(socket: NetlinkSocket, names: dict[int, str]) -> Iterator[Route]:
    (index,) = names
    for family, version in ((AF_INET, 4), (AF_INET6, 6)):
        for message in _dump(socket, RTM_GETROUTE, routes_of(family, index, 0), NO_FAMILY[version]):
            state = decode_route(message, names, {})
            if state is not None and state.route is not None and state.route.table == MAIN_TABLE:
                yield state.route


def _dump(socket: NetlinkSocket, kind: int, body: bytes, absent: Set[int]) -> Iterator[Message]:
    try:
        buffers = list(socket.buffers(kind, body))
    except KernelError as error:
        if error.number in absent:
            return
        raise
    for buffer in buffers:
        yield from complete(buffer)


def write_entries(netns: str | None, device: str, ops: Sequence[Op]) -> list[Failure | None]:
    """Carry out corrections; how each went. Raises TargetError if the device is gone."""
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        index, _ = find_link(socket, device)
        return [_write(socket, index, op) for op in ops]


def _write(socket: NetlinkSocket, index: int, op: Op) -> Failure | None:
    """What is there already, or gone already, is as it should be."""
    sequence = socket.number(1)
    told = socket.send(_encode(op, index, sequence), sequence, sequence)
    if not told or told[0].number in (errno.ENOENT if op.action == "remove" else errno.EEXIST,):
        return None
    said = f"{errno.errorcode.get(told[0].number, told[0].number)} {told[0].text}".strip()
    return Failure(f"{commands.lines(op)[0]}: {said}")


def _encode(op: Op, index: int, sequence: int) -> list[bytes]:
    thing = op.object
    if isinstance(thing, Fdb):
        return encode_fdb([(op.action, thing)], index, sequence)
    if isinstance(thing, Neighbour):
        return encode_neighbours([(op.action, thing)], index, sequence)
    assert isinstance(thing, Route), thing
    return encode_routes([(op.action, thing)], index, sequence)
