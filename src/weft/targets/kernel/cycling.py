"""Take a link down and up with all that is on it put back at once. Called by `agent/healing.py`, for any link.

A link that goes down loses its routes (whoever's), its neighbours, its next-hop objects and its IPv6 addresses, and
keeps its IPv4 addresses and, if it is a VXLAN device, its FDB. So everything is read first; then one send() holds down,
up, and all that would be lost: the kernel carries that out as one piece, whatever becomes of this process. What is
still missing afterwards is put once more. Bodies are sent back as the kernel told them, less what only it may say, so
also what weft itself would never make stays as it was (`ip route save` and `restore` do likewise).
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from weft.errors import KernelError, TargetError
from weft.targets.kernel.borrowed import find_link
from weft.targets.kernel.codec import Message, address, attribute, attributes, number, request
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    IFA_ADDRESS,
    IFA_F_MANAGETEMPADDR,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_F_PERMANENT,
    IFA_FLAGS,
    IFF_UP,
    NDA_DST,
    NDA_FLAGS_EXT,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDA_NH_ID,
    NDA_PORT,
    NDA_PROTOCOL,
    NDA_SRC_VNI,
    NDA_VNI,
    NHA_GROUP,
    NHA_GROUP_TYPE,
    NHA_ID,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NTF_PROXY,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RT_SCOPE_LINK,
    RTA_CACHEINFO,
    RTA_DST,
    RTA_ENCAP,
    RTA_ENCAP_TYPE,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTA_VIA,
    RTM_F_CLONED,
    RTM_GETADDR,
    RTM_GETNEIGH,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
    RTPROT_KERNEL,
)
from weft.targets.kernel.entries import NDMSG, fdb_of, neighbours_of
from weft.targets.kernel.groups import MEMBER, NHMSG
from weft.targets.kernel.hops import RTMSG, RTNEXTHOP, hops_of, routes_of
from weft.targets.kernel.links import IFADDR, IFINFO
from weft.targets.kernel.reading import NO_FAMILY, NO_NEXT_HOPS, TRIES
from weft.targets.kernel.socket import ANSWER_BUFFER, BATCH, DumpInterrupted, NetlinkSocket, complete

FDB = 1 << 16
"""Set in the kind of an FDB entry, which a link that goes down keeps; RTM_NEWNEIGH is both."""
FAMILIES = ((4, AF_INET), (6, AF_INET6))
"""IP versions and the kernel's numbers of them."""
FDB_KEPT = (NDA_LLADDR, NDA_DST, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_SRC_VNI, NDA_NH_ID, NDA_PROTOCOL)
OF_THE_HOP = (RTA_OIF, RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH, RTA_ENCAP, RTA_ENCAP_TYPE)
"""What a route on a next-hop object tells of it; it may not be said again."""
_IFA_VOLATILE = (6, IFA_FLAGS)
"""IFA_CACHEINFO, and the flags, which are said anew."""
_ADD = NLM_F_CREATE | NLM_F_APPEND
_PUT = NLM_F_CREATE | NLM_F_REPLACE


@dataclass(frozen=True, slots=True)
class Cycled:
    """`lost`: objects that going down would have taken, all of which were put back but for those in `lacking` (what
    each is, and why). `seconds`: from the first request to the last answer about them."""

    lost: int
    seconds: float
    lacking: tuple[str, ...] = ()


class _Thing(NamedTuple):
    """One object: how it is asked for, and what it is called. Two readings of one object are equal."""

    kind: int
    flags: int
    body: bytes
    name: str
    by_kernel: bool = False
    """The kernel makes it itself when the link comes up, as a rule."""


def cycle(netns: str | None, device: str) -> Cycled:
    """Take `device` down and up. Nothing that was on it is missing afterwards, and no packet for longer than the kernel
    takes over it. Raises TargetError: there is no such link, or the kernel can't be read (nothing was done then), or it
    refused to set the link up."""
    with contextlib.closing(NetlinkSocket(netns, ANSWER_BUFFER)) as socket:
        index, flags = find_link(socket, device)
        up = bool(flags & IFF_UP)
        things = _steady(socket, index)
        started = time.monotonic()
        lost = [thing for thing in things if not thing.by_kernel and not thing.kind & FDB]
        turns = [IFINFO.pack(0, 0, index, turn, IFF_UP) for turn in ((0, IFF_UP) if up else (IFF_UP,))]
        _send(socket, [_Thing(RTM_NEWLINK, 0, turn, device) for turn in turns] + lost, must=len(turns))
        seconds = time.monotonic() - started
        return Cycled(len(lost), seconds, _mend(socket, index, things))


def _mend(socket: NetlinkSocket, index: int, things: Sequence[_Thing]) -> tuple[str, ...]:
    """Put what is missing, once more; what is missing then."""
    missing = _missing(socket, index, things)
    if not missing:
        return ()
    said = _send(socket, missing)
    return tuple(f"{thing.name}: {said.get(thing, 'it vanished again')}" for thing in _missing(socket, index, missing))


def _missing(socket: NetlinkSocket, index: int, things: Sequence[_Thing]) -> list[_Thing]:
    there = {(thing.kind, thing.body) for thing in _steady(socket, index)}
    return [thing for thing in things if (thing.kind, thing.body) not in there]


def _send(socket: NetlinkSocket, things: Sequence[_Thing], must: int = 0) -> dict[_Thing, str]:
    """Ask for all of them, in order; why which were refused. Raises KernelError if one of the first `must` was."""
    refused: dict[_Thing, str] = {}
    for at in range(0, len(things), BATCH):
        slice_ = things[at : at + BATCH]
        first = socket.number(len(slice_))
        parts = [request(one.kind & ~FDB, one.flags, first + i, one.body) for i, one in enumerate(slice_)]
        for told in socket.send(parts, first, first + len(slice_) - 1):
            place = told.sequence - first
            if at + place < must:
                raise KernelError(told.number, f"setting {slice_[place].name} down and up", told.text)
            refused[slice_[place]] = f"{errno.errorcode.get(told.number, told.number)} {told.text}".strip()
    return refused


# -- reading -------------------------------------------------------------------------------------------------------


def _steady(socket: NetlinkSocket, index: int) -> list[_Thing]:
    """Everything on a link, in the order in which it can be put back. Raises TargetError."""
    for _ in range(TRIES):
        with contextlib.suppress(DumpInterrupted):
            return list(_all(socket, index))
    raise TargetError("the kernel's tables change faster than they can be read; nothing was done")


def _all(socket: NetlinkSocket, index: int) -> Iterator[_Thing]:
    yield from _dump(socket, RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, 0), lambda message: _address(message, index))
    hops = list(_dump(socket, RTM_GETNEXTHOP, hops_of(index), _hop, NO_NEXT_HOPS))
    ids = {number(attributes(hop.body, NHMSG.size)[NHA_ID]) for hop in hops}
    yield from hops
    if ids:
        every = NHMSG.pack(0, 0, 0, 0)
        groups = list(_dump(socket, RTM_GETNEXTHOP, every, lambda message: _group(message, ids), NO_NEXT_HOPS))
        ids |= {number(attributes(group.body, NHMSG.size)[NHA_ID]) for group in groups}
        yield from groups
    for version, family in FAMILIES:
        body, absent = neighbours_of(family, index), NO_FAMILY[version]
        yield from _dump(socket, RTM_GETNEIGH, body, lambda message: _neighbour(message, index), absent)
        proxies = NDMSG.pack(family, 0, 0, NTF_PROXY, 0) + body[NDMSG.size :]
        yield from _dump(socket, RTM_GETNEIGH, proxies, lambda message: _neighbour(message, index), absent)
    yield from _dump(socket, RTM_GETNEIGH, fdb_of(index), lambda message: _fdb(message, index))
    for version, family in FAMILIES:
        body = routes_of(family, index, 0)
        found = list(_dump(socket, RTM_GETROUTE, body, lambda message: _route(message, index, ids), NO_FAMILY[version]))
        # What is on the link itself goes first: a gateway that is no onlink one must be reachable when it is named.
        yield from sorted(found, key=lambda thing: RTMSG.unpack_from(thing.body)[6], reverse=True)


def _dump(
    socket: NetlinkSocket,
    kind: int,
    body: bytes,
    read: Callable[[Message], _Thing | None],
    absent: frozenset[int] = frozenset(),
) -> Iterator[_Thing]:
    try:
        buffers = list(socket.buffers(kind, body))
    except KernelError as error:
        if error.number in absent:
            return
        raise
    for buffer in buffers:
        for message in complete(buffer):
            thing = read(message)
            if thing is not None:
                yield thing


def _address(message: Message, index: int) -> _Thing | None:
    family, length, few, scope, of = IFADDR.unpack_from(message.body)
    found = attributes(message.body, IFADDR.size)
    flags = number(found[IFA_FLAGS]) if IFA_FLAGS in found else few
    if of != index or not flags & IFA_F_PERMANENT:
        return None
    kept = flags & (IFA_F_NOPREFIXROUTE | IFA_F_MANAGETEMPADDR)
    if family == AF_INET6:
        kept |= IFA_F_NODAD  # it was there a moment ago: who else should have it, and packets need it now
    body = IFADDR.pack(family, length, 0, scope, of) + _join(found, without=_IFA_VOLATILE)
    body += attribute(IFA_FLAGS, struct.pack("=I", kept))
    stays = family == AF_INET or scope == RT_SCOPE_LINK
    return _Thing(RTM_NEWADDR, _PUT, body, f"address {address(found[IFA_ADDRESS])}/{length}", stays)


def _hop(message: Message) -> _Thing:
    family, _, protocol, flags = NHMSG.unpack_from(message.body)
    found = attributes(message.body, NHMSG.size)
    body = NHMSG.pack(family, 0, protocol, flags & RTNH_F_ONLINK) + _join(found)
    return _Thing(RTM_NEWNEXTHOP, _PUT, body, f"next hop {number(found[NHA_ID])}")


def _group(message: Message, ids: set[int]) -> _Thing | None:
    """A group of next hops of which this link has one: its member goes with the link, the last one takes the group."""
    found = attributes(message.body, NHMSG.size)
    if not any(member[0] in ids for member in MEMBER.iter_unpack(found.get(NHA_GROUP, b""))):
        return None
    _, _, protocol, _ = NHMSG.unpack_from(message.body)
    body = NHMSG.pack(0, 0, protocol, 0) + _join(found, (NHA_ID, NHA_GROUP, NHA_GROUP_TYPE))
    return _Thing(RTM_NEWNEXTHOP, _PUT, body, f"next-hop group {number(found[NHA_ID])}")


def _neighbour(message: Message, index: int) -> _Thing | None:
    """A permanent one or a proxy: others are found out again by themselves."""
    family, of, state, flags, kind = NDMSG.unpack_from(message.body)
    found = attributes(message.body, NDMSG.size)
    if of != index or NDA_DST not in found or not (flags & NTF_PROXY or state & NUD_PERMANENT):
        return None
    body = NDMSG.pack(family, of, state, flags, kind)
    body += _join(found, (NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NDA_FLAGS_EXT))
    return _Thing(RTM_NEWNEIGH, _PUT, body, f"neighbour {address(found[NDA_DST])}")


def _fdb(message: Message, index: int) -> _Thing | None:
    family, of, state, flags, kind = NDMSG.unpack_from(message.body)
    found = attributes(message.body, NDMSG.size)
    if of != index or not flags & NTF_SELF or not state & (NUD_PERMANENT | NUD_NOARP) or NDA_LLADDR not in found:
        return None
    body = NDMSG.pack(family, of, state, flags, kind) + _join(found, FDB_KEPT)
    return _Thing(RTM_NEWNEIGH | FDB, _ADD, body, f"FDB entry {found[NDA_LLADDR].hex(':')}")


def _route(message: Message, index: int, hops: set[int]) -> _Thing | None:
    family, length, source, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(message.body)
    found = attributes(message.body, RTMSG.size)
    of_address = protocol == RTPROT_KERNEL and kind != RTN_UNICAST  # it comes with its address, a moment later
    if flags & RTM_F_CLONED or of_address or not _leaves_by(found, index, hops):
        return None
    of_hop = RTA_NH_ID in found
    flags = 0 if of_hop else flags & RTNH_F_ONLINK
    without = (RTA_CACHEINFO, *OF_THE_HOP) if of_hop else (RTA_CACHEINFO,)
    if RTA_MULTIPATH in found:
        found[RTA_MULTIPATH] = b"".join(_legs(found[RTA_MULTIPATH]))
    body = RTMSG.pack(family, length, source, tos, table, protocol, scope, kind, flags) + _join(found, without=without)
    to = f"{address(found[RTA_DST])}/{length}" if RTA_DST in found else "default"
    return _Thing(RTM_NEWROUTE, _ADD, body, f"route to {to}", protocol == RTPROT_KERNEL)


def _leaves_by(found: dict[int, bytes], index: int, hops: set[int]) -> bool:
    """Kernels before 4.20 don't filter their dumps; a route on a next-hop object may tell no device."""
    if RTA_OIF in found:
        return number(found[RTA_OIF]) == index
    if RTA_MULTIPATH in found:
        return any(RTNEXTHOP.unpack_from(leg)[3] == index for leg in _legs(found[RTA_MULTIPATH]))
    return RTA_NH_ID in found and number(found[RTA_NH_ID]) in hops


def _legs(data: bytes) -> Iterator[bytes]:
    """The next hops of a route of several paths, without what only the kernel says of them (dead, link down)."""
    at = 0
    while at + RTNEXTHOP.size <= len(data):
        length, flags, weight, index = RTNEXTHOP.unpack_from(data, at)
        whole = max((length + 3) & ~3, RTNEXTHOP.size)
        yield RTNEXTHOP.pack(length, flags & RTNH_F_ONLINK, weight, index) + data[at + RTNEXTHOP.size : at + whole]
        at += whole


def _join(found: dict[int, bytes], only: Sequence[int] = (), without: Sequence[int] = ()) -> bytes:
    """Attributes sorted by type, so that two readings are equal."""
    kinds = sorted(kind for kind in found if (not only or kind in only) and kind not in without)
    return b"".join(attribute(kind, found[kind]) for kind in kinds)
