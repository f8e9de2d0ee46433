"""Next-hop groups ↔ netlink messages (nexthop.h). Used by `hops.py`, `reading.py` and `writing.py` alone.

A group is a next-hop object that names others: a u32 id and a weight for each. weft gives them all the same weight.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from weft.objects import NextHopGroup
from weft.targets.kernel.codec import attribute, request, u32
from weft.targets.kernel.constants import (
    NHA_FDB,
    NHA_GROUP,
    NHA_GROUP_TYPE,
    NHA_GROUPS,
    NHA_ID,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    PROTOCOL,
    RTM_DELNEXTHOP,
    RTM_NEWNEXTHOP,
)

NHMSG = struct.Struct("=BBBxI")
"""nhmsg: family, scope, protocol, flags."""
MEMBER = struct.Struct("=IBBH")
"""nexthop_grp: id, weight less 1, its high octet (Linux 6.12), nothing."""

ALL_GROUPS = NHMSG.pack(0, 0, 0, 0) + attribute(NHA_GROUPS, b"")
"""The body of a dump request for all groups; one that asks for a device's next hops leaves them out."""
_PLAIN_TYPE = bytes(2)
"""NEXTHOP_GRP_TYPE_MPATH."""
_REQUESTS = {
    "add": (RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_EXCL),
    "change": (RTM_NEWNEXTHOP, NLM_F_REPLACE),
    "remove": (RTM_DELNEXTHOP, 0),
}


def encode_groups(ops: Iterable[tuple[str, NextHopGroup]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`: `add` refuses an id that is in use, `change` replaces at once: no packet
    finds the group without a member. `ifindex` is the members' own matter."""
    requests: list[bytes] = []
    for sequence, (action, thing) in enumerate(ops, first):
        kind, flags = _REQUESTS[action]
        body = NHMSG.pack(0, 0, 0 if action == "remove" else PROTOCOL, 0) + u32(NHA_ID, thing.id)
        if action != "remove":
            body += attribute(NHA_GROUP, b"".join(MEMBER.pack(member, 0, 0, 0) for member in thing.members))
        requests.append(request(kind, flags, sequence, body))
    return requests


def members_in(found: Mapping[int, bytes]) -> tuple[int, ...]:
    """The members of what has these attributes, sorted; none if it is no group. struct.error if it can't be one."""
    return tuple(sorted(member for member, *_ in MEMBER.iter_unpack(found.get(NHA_GROUP, b""))))


def decode_group(hop_id: int, found: Mapping[int, bytes], hops: Mapping[int, str]) -> NextHopGroup | None:
    """The group of these attributes; None if it is not of a form that weft makes: with weights, of another type, of
    members that aren't ours. `hops`: the device of each next hop of ours."""
    members = members_in(found)
    devices = {hops.get(member) for member in members}
    device = devices.pop() if len(devices) == 1 else None
    weights = any(any(rest) for _, *rest in MEMBER.iter_unpack(found[NHA_GROUP]))
    odd = weights or found.get(NHA_GROUP_TYPE, _PLAIN_TYPE) != _PLAIN_TYPE or NHA_FDB in found
    return None if device is None or odd else NextHopGroup(hop_id, device, members)
