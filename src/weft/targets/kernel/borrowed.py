"""Neighbours and FDB entries of a device that isn't ours: read, and corrected one by one. Called by `agent/healing.py`.

The kernel target never touches such a device; this is for the ladder, which says why for each entry.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence

from weft.core import commands
from weft.errors import KernelError, TargetError
from weft.objects import Failure, Fdb, Neighbour, Op
from weft.targets.kernel.codec import text
from weft.targets.kernel.constants import AF_INET, AF_INET6, IFLA_IFNAME, RTM_GETLINK, RTM_GETNEIGH
from weft.targets.kernel.entries import decode_entry, encode_fdb, encode_neighbours, fdb_of, neighbours_of
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


def read_entries(netns: str | None, device: str) -> tuple[Fdb | Neighbour, ...]:
    """All permanent ones on it, of the forms that flannel makes. Raises TargetError."""
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        index, _ = find_link(socket, device)
        bodies = ((neighbours_of(AF_INET, index), 4), (neighbours_of(AF_INET6, index), 6), (fdb_of(index), 4))
        for _ in range(TRIES):
            with contextlib.suppress(DumpInterrupted):
                return tuple(
                    entry for body, v in bodies for entry in _dump(socket, body, NO_FAMILY[v], {index: device})
                )
    raise TargetError(f"the entries of {device} change faster than they can be read")


def _dump(socket: NetlinkSocket, body: bytes, absent: frozenset[int], names: dict[int, str]) -> list[Fdb | Neighbour]:
    try:
        buffers = list(socket.buffers(RTM_GETNEIGH, body))
    except KernelError as error:
        if error.number in absent:
            return []
        raise
    read = [decode_entry(message, names) for buffer in buffers for message in complete(buffer)]
    return [found[1] for found in read if found is not None and found[1] is not None]


def write_entries(netns: str | None, device: str, ops: Sequence[Op]) -> list[Failure | None]:
    """Carry out corrections; how each went. Raises TargetError if the device is gone."""
    answers: list[Failure | None] = []
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        index, _ = find_link(socket, device)
        for op in ops:
            sequence, thing = socket.number(1), op.object
            assert isinstance(thing, Fdb | Neighbour), op
            encoded = (
                encode_fdb([(op.action, thing)], index, sequence)
                if isinstance(thing, Fdb)
                else encode_neighbours([(op.action, thing)], index, sequence)
            )
            told = socket.send(encoded, sequence, sequence)
            gone = op.action == "remove" and told and told[0].number == errno.ENOENT
            said = "" if not told or gone else f"{errno.errorcode.get(told[0].number, '?')} {told[0].text}".strip()
            answers.append(Failure(f"{commands.lines(op)[0]}: {said}") if said else None)
    return answers
