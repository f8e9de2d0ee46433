"""Neighbours and FDB entries ↔ netlink messages (neighbour.h). Used by the kernel target alone.

Both are RTM_NEWNEIGH; family AF_BRIDGE makes it an FDB entry. There is one of each for every peer, so a request is one
`pack`: what is the same for all entries of a device is packed once and kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from weft.model import Mac
from weft.objects import ZERO_MAC, Fdb, Key, Neighbour
from weft.targets.kernel.codec import ATTRIBUTE, Message, address, attributes, decoding, start, u32
from weft.targets.kernel.constants import (
    AF_BRIDGE,
    AF_INET,
    AF_INET6,
    NDA_DST,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDA_NH_ID,
    NDA_PORT,
    NDA_SRC_VNI,
    NDA_VNI,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NTF_PROXY,
    NTF_SELF,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_NEWNEIGH,
    RTN_UNICAST,
)

NDMSG = struct.Struct("=BxxxiHBB")
"""ndmsg: family, index, state, flags, type."""
FDB_EXTRAS = (NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_SRC_VNI, NDA_NH_ID)
"""Attributes of an FDB entry that goes elsewhere than weft would send it."""

LLADDR_HEAD = ATTRIBUTE.pack(4 + 6, NDA_LLADDR)
DST_HEADS = {4: ATTRIBUTE.pack(4 + 4, NDA_DST), 6: ATTRIBUTE.pack(4 + 16, NDA_DST)}

# header, sequence, ndmsg with the first attribute's head, address, the second's head, MAC with its padding
_NEIGHBOUR = {4: struct.Struct("=8sI4x16s4s4s6s2x"), 6: struct.Struct("=8sI4x16s16s4s6s2x")}
# header, sequence, ndmsg with the first attribute's head, MAC with its padding, the second's head, address
_FDB = {4: struct.Struct("=8sI4x16s6s2x4s4s"), 6: struct.Struct("=8sI4x16s6s2x4s16s")}

_REPLACE = NLM_F_CREATE | NLM_F_REPLACE
_APPEND = NLM_F_CREATE | NLM_F_APPEND


def neighbours_of(family: int, index: int) -> bytes:
    """The body of a dump request for the neighbours on one device (strict checking wants the index as an attribute)."""
    return NDMSG.pack(family, 0, 0, 0, 0) + u32(NDA_IFINDEX, index)


def fdb_of(index: int) -> bytes:
    """The body of a dump request for the FDB of one device."""
    return NDMSG.pack(AF_BRIDGE, index, 0, 0, 0)


def _heads(size: int, flags: int = _REPLACE) -> dict[str, bytes]:
    """By action, the start of a request of this size."""
    put = start(size, RTM_NEWNEIGH, flags)
    return {"add": put, "change": put, "remove": start(size, RTM_DELNEIGH, 0)}


def encode_neighbours(ops: Iterable[tuple[str, Neighbour]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`. Whatever stands there is replaced."""
    pack4, pack6 = _NEIGHBOUR[4].pack, _NEIGHBOUR[6].pack
    heads4, heads6 = _heads(_NEIGHBOUR[4].size), _heads(_NEIGHBOUR[6].size)
    ndmsg4, ndmsg6 = (NDMSG.pack(f, ifindex, NUD_PERMANENT, 0, RTN_UNICAST) for f in (AF_INET, AF_INET6))
    middle4, middle6 = ndmsg4 + DST_HEADS[4], ndmsg6 + DST_HEADS[6]
    return [
        pack4(heads4[action], sequence, middle4, packed, LLADDR_HEAD, thing.mac)
        if len(packed := thing.address.packed) == 4
        else pack6(heads6[action], sequence, middle6, packed, LLADDR_HEAD, thing.mac)
        for sequence, (action, thing) in enumerate(ops, first)
    ]


def encode_fdb(ops: Iterable[tuple[str, Fdb]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`. A unicast entry is pointed elsewhere if it is there; the all-zero MAC's
    entries stand side by side, so those are appended (vxlan_core.c, vxlan_fdb_update_existing)."""
    pack4, pack6 = _FDB[4].pack, _FDB[6].pack
    sizes = _FDB[4].size, _FDB[6].size
    heads4, heads6 = (_heads(size) for size in sizes)
    flood4, flood6 = (_heads(size, _APPEND) for size in sizes)
    ndmsg = NDMSG.pack(AF_BRIDGE, ifindex, NUD_PERMANENT, NTF_SELF, RTN_UNICAST) + LLADDR_HEAD
    dst4, dst6 = DST_HEADS[4], DST_HEADS[6]
    return [
        pack4((heads4 if thing.mac != ZERO_MAC else flood4)[action], sequence, ndmsg, thing.mac, dst4, packed)
        if len(packed := thing.dst.packed) == 4
        else pack6((heads6 if thing.mac != ZERO_MAC else flood6)[action], sequence, ndmsg, thing.mac, dst6, packed)
        for sequence, (action, thing) in enumerate(ops, first)
    ]


def decode_entry(message: Message, names: Mapping[int, str]) -> tuple[Key, Neighbour | Fdb | None] | None:
    """The key of an entry on one of the devices in `names`, and the entry, or None in its place if it is not one that
    weft would make (not permanent, a proxy, an FDB entry with a port or VNI of its own). None: on no such device, or
    of a form that has no key here."""
    with decoding("a neighbour"):
        family, index, state, flags, _ = NDMSG.unpack_from(message.body)
        name = names.get(index)
        if name is None or flags & NTF_PROXY:
            return None
        found = attributes(message.body, NDMSG.size)
        mac, destination = found.get(NDA_LLADDR), found.get(NDA_DST)
        good = bool(state & NUD_PERMANENT)
        if family == AF_BRIDGE:
            return None if mac is None or destination is None else _fdb(name, mac, destination, found, good)
        if destination is None:
            return None
        neighbour = Neighbour(name, address(destination), Mac(mac or b""))
        return neighbour.key, neighbour if good and mac is not None else None


def _fdb(name: str, mac: bytes, destination: bytes, found: Mapping[int, bytes], good: bool) -> tuple[Key, Fdb | None]:
    entry = Fdb(name, Mac(mac), address(destination))
    return entry.key, entry if good and not any(extra in found for extra in FDB_EXTRAS) else None
