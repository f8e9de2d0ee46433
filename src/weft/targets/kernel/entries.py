"""Neighbours and FDB entries ↔ netlink messages (neighbour.h). Used by the kernel target alone.

Both are RTM_NEWNEIGH; family AF_BRIDGE makes it an FDB entry. There is one of each for every peer, so a request is one
`pack`: what is the same for all entries of a device is packed once and kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

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
_FAMILIES = {4: AF_INET, 6: AF_INET6}

# header, sequence, ndmsg with the first attribute's head, address, the second's head, MAC with its padding
_NEIGHBOUR_4 = struct.Struct("=8sI4x16s4s4s6s2x")
_NEIGHBOUR_6 = struct.Struct("=8sI4x16s16s4s6s2x")
# header, sequence, ndmsg with the first attribute's head, MAC with its padding, the second's head, address
_FDB_4 = struct.Struct("=8sI4x16s6s2x4s4s")
_FDB_6 = struct.Struct("=8sI4x16s6s2x4s16s")

_SET = (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
_REQUESTS = {
    "add": _SET,
    "change": _SET,
    "remove": (RTM_DELNEIGH, 0),
    "append": (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND),
}


def neighbours_of(family: int, index: int) -> bytes:
    """The body of a dump request for the neighbours on one device (strict checking wants the index as an attribute)."""
    return NDMSG.pack(family, 0, 0, 0, 0) + u32(NDA_IFINDEX, index)


def fdb_of(index: int) -> bytes:
    """The body of a dump request for the FDB of one device."""
    return NDMSG.pack(AF_BRIDGE, index, 0, 0, 0)


@lru_cache(maxsize=64)
def _neighbour_heads(action: str, index: int, version: int) -> tuple[bytes, bytes]:
    size = (_NEIGHBOUR_4 if version == 4 else _NEIGHBOUR_6).size
    ndmsg = NDMSG.pack(_FAMILIES[version], index, NUD_PERMANENT, 0, RTN_UNICAST)
    return start(size, *_REQUESTS[action]), ndmsg + DST_HEADS[version]


@lru_cache(maxsize=64)
def _fdb_heads(action: str, index: int, version: int) -> tuple[bytes, bytes]:
    size = (_FDB_4 if version == 4 else _FDB_6).size
    ndmsg = NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, RTN_UNICAST)
    return start(size, *_REQUESTS[action]), ndmsg + LLADDR_HEAD


def encode_neighbour(action: str, thing: Neighbour, index: int, sequence: int) -> bytes:
    packed = thing.address.packed
    if len(packed) == 4:
        head, ndmsg = _neighbour_heads(action, index, 4)
        return _NEIGHBOUR_4.pack(head, sequence, ndmsg, packed, LLADDR_HEAD, thing.mac)
    head, ndmsg = _neighbour_heads(action, index, 6)
    return _NEIGHBOUR_6.pack(head, sequence, ndmsg, packed, LLADDR_HEAD, thing.mac)


def encode_fdb(action: str, thing: Fdb, index: int, sequence: int) -> bytes:
    """With CREATE and REPLACE a unicast entry is pointed elsewhere; the all-zero MAC's entries stand side by side, so
    those are appended (vxlan_core.c, vxlan_fdb_update_existing)."""
    if thing.mac == ZERO_MAC and action != "remove":
        action = "append"
    packed = thing.dst.packed
    if len(packed) == 4:
        head, ndmsg = _fdb_heads(action, index, 4)
        return _FDB_4.pack(head, sequence, ndmsg, thing.mac, DST_HEADS[4], packed)
    head, ndmsg = _fdb_heads(action, index, 6)
    return _FDB_6.pack(head, sequence, ndmsg, thing.mac, DST_HEADS[6], packed)


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
