"""Next-hop objects and routes ↔ netlink messages (nexthop.h, rtnetlink.h). Used by the kernel target alone.

A request is one `pack` of what every route has, and one more for each of what only some have.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from weft.model import IPAddress, IPNetwork
from weft.objects import Key, NextHop, Route
from weft.targets.kernel.codec import ATTRIBUTE, Message, address, attribute, attributes, decoding, number, start, u32
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    NEXT_HOP_IDS,
    NHA_GATEWAY,
    NHA_ID,
    NHA_OIF,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    PROTOCOL,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_UNSPEC,
    RTA_DST,
    RTA_ENCAP,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTA_VIA,
    RTAX_MTU,
    RTM_DELNEXTHOP,
    RTM_DELROUTE,
    RTM_F_CLONED,
    RTM_F_FIB_MATCH,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
)

NHMSG = struct.Struct("=BBBxI")
"""nhmsg: family, scope, protocol, flags."""
RTMSG = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, lengths of dst and src, tos, table, protocol, scope, type, flags."""

FAMILIES = {4: AF_INET, 6: AF_INET6}
_LENGTHS = {4: 32, 6: 128}
_ADD = NLM_F_CREATE | NLM_F_EXCL
_FAMILY = struct.Struct("=H")

# header, sequence, nhmsg and the id's head, id, device and the gateway's head, gateway
_HOP_4 = struct.Struct("=8sI4x12sI12s4s")
_HOP_6 = struct.Struct("=8sI4x12sI12s16s")
# header, sequence, family, prefix length, rest of rtmsg with the table and the destination's head, destination,
# the metric's head and metric
_ROUTE_4 = struct.Struct("=8sI4xBB22s4s4sI")
_ROUTE_6 = struct.Struct("=8sI4xBB22s16s4sI")
_ATTRIBUTE_U32 = struct.Struct("=4sI")
_ATTRIBUTE_4 = struct.Struct("=4s4s")
_PRIORITY_HEAD = ATTRIBUTE.pack(8, RTA_PRIORITY)
_NH_ID_HEAD = ATTRIBUTE.pack(8, RTA_NH_ID)
_PREFSRC_HEAD = ATTRIBUTE.pack(8, RTA_PREFSRC)


class HopState(NamedTuple):
    """A next-hop object, whoever's it is. `hop` None: not of a form that weft makes (a group, a blackhole)."""

    id: int
    protocol: int
    ifindex: int
    hop: NextHop | None

    @property
    def ours(self) -> bool:
        return self.protocol == PROTOCOL and self.id in NEXT_HOP_IDS


class RouteState(NamedTuple):
    """A unicast route, whoever's it is. `route` None: of a form that weft doesn't make (several paths, say)."""

    key: Key
    protocol: int
    ifindex: int
    route: Route | None

    @property
    def ours(self) -> bool:
        return self.protocol == PROTOCOL and self.route is not None


def hops_of(index: int) -> bytes:
    """The body of a dump request for the next-hop objects over one device."""
    return NHMSG.pack(0, 0, 0, 0) + u32(NHA_OIF, index)


def routes_of(family: int, index: int) -> bytes:
    """The body of a dump request for the routes with weft's protocol number out of one device, in any table."""
    return RTMSG.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0) + u32(RTA_OIF, index)


def hop_of(hop_id: int) -> tuple[int, bytes]:
    """Type and body of a request for one next-hop object."""
    return RTM_GETNEXTHOP, NHMSG.pack(0, 0, 0, 0) + u32(NHA_ID, hop_id)


def route_to(dst: IPNetwork) -> tuple[int, bytes]:
    """Type and body of a request for the route that a packet to the first address of `dst` would take."""
    packed = dst.network_address.packed
    rtmsg = RTMSG.pack(FAMILIES[dst.version], len(packed) * 8, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return RTM_GETROUTE, rtmsg + attribute(RTA_DST, packed)


def encode_hop_remove(hop_id: int, sequence: int) -> bytes:
    head = start(32, RTM_DELNEXTHOP, 0)
    return head + struct.pack("=I4x", sequence) + NHMSG.pack(0, 0, 0, 0) + u32(NHA_ID, hop_id)


@lru_cache(maxsize=64)
def _hop_heads(action: str, index: int, version: int, onlink: bool) -> tuple[bytes, bytes, bytes]:
    packer = _HOP_4 if version == 4 else _HOP_6
    nhmsg = NHMSG.pack(FAMILIES[version], 0, PROTOCOL, RTNH_F_ONLINK if onlink else 0)
    gateway = ATTRIBUTE.pack(4 + _LENGTHS[version] // 8, NHA_GATEWAY)
    flags = _ADD if action == "add" else NLM_F_REPLACE
    head = start(packer.size, RTM_NEWNEXTHOP, flags)
    return head, nhmsg + ATTRIBUTE.pack(8, NHA_ID), u32(NHA_OIF, index) + gateway


def encode_hop(action: str, thing: NextHop, index: int, sequence: int) -> bytes:
    """`add` refuses an id that is in use, `change` replaces, `remove` names the id alone."""
    if action == "remove":
        return encode_hop_remove(thing.id, sequence)
    packed = thing.via.packed
    if len(packed) == 4:
        head, nhmsg, device = _hop_heads(action, index, 4, thing.onlink)
        return _HOP_4.pack(head, sequence, nhmsg, thing.id, device, packed)
    head, nhmsg, device = _hop_heads(action, index, 6, thing.onlink)
    return _HOP_6.pack(head, sequence, nhmsg, thing.id, device, packed)


_ROUTE_REQUESTS = {"add": (RTM_NEWROUTE, _ADD), "change": (RTM_NEWROUTE, NLM_F_REPLACE), "remove": (RTM_DELROUTE, 0)}


@lru_cache(maxsize=256)
def _route_heads(action: str, version: int, table: int, scope: int, flags: int, extra: int) -> tuple[bytes, bytes]:
    """The start of a route's request that is `extra` octets longer than the common part, and the constant middle."""
    size = (_ROUTE_4 if version == 4 else _ROUTE_6).size
    small = table if table < 256 else RT_TABLE_UNSPEC
    rtmsg = RTMSG.pack(0, 0, 0, 0, small, PROTOCOL, scope, RTN_UNICAST, flags)[2:]
    middle = rtmsg + u32(RTA_TABLE, table) + ATTRIBUTE.pack(4 + _LENGTHS[version] // 8, RTA_DST)
    return start(size + extra, *_ROUTE_REQUESTS[action]), middle


def encode_route(action: str, thing: Route, index: int, sequence: int) -> bytes:
    """`add` refuses a destination, table and metric that are in use; `change` replaces; `remove` names those three and
    our protocol number, so that it can't hit a route of somebody else's (fib_table_delete, ip6_route_del)."""
    tail, scope, flags = b"", RT_SCOPE_UNIVERSE, 0
    dst = thing.dst
    if action == "remove":
        scope = RT_SCOPE_NOWHERE
    elif thing.nexthop:
        tail = _ATTRIBUTE_U32.pack(_NH_ID_HEAD, thing.nexthop)
    else:
        tail, scope = _over_device(thing, index)
        flags = RTNH_F_ONLINK if thing.onlink else 0
    if action != "remove" and (thing.src is not None or thing.mtu):
        tail += _preferences(thing)
    packed = dst.network_address.packed
    length = dst.prefixlen
    if len(packed) == 4:
        head, middle = _route_heads(action, 4, thing.table, scope, flags, len(tail))
        start_ = _ROUTE_4.pack(head, sequence, AF_INET, length, middle, packed, _PRIORITY_HEAD, thing.metric)
    else:
        head, middle = _route_heads(action, 6, thing.table, scope, flags, len(tail))
        start_ = _ROUTE_6.pack(head, sequence, AF_INET6, length, middle, packed, _PRIORITY_HEAD, thing.metric)
    return start_ + tail


def _over_device(thing: Route, index: int) -> tuple[bytes, int]:
    """Device and gateway of a route without a next-hop object, and its scope."""
    device = u32(RTA_OIF, index)
    if thing.via is None:
        return device, RT_SCOPE_LINK if thing.dst.version == 4 else RT_SCOPE_UNIVERSE
    if thing.via.version == thing.dst.version:
        return device + attribute(RTA_GATEWAY, thing.via.packed), RT_SCOPE_UNIVERSE
    via = _FAMILY.pack(FAMILIES[thing.via.version]) + thing.via.packed  # struct rtvia
    return device + attribute(RTA_VIA, via), RT_SCOPE_UNIVERSE


def _preferences(thing: Route) -> bytes:
    tail = b""
    if thing.src is not None:
        packed = thing.src.packed
        tail = _ATTRIBUTE_4.pack(_PREFSRC_HEAD, packed) if len(packed) == 4 else attribute(RTA_PREFSRC, packed)
    if thing.mtu:
        tail += attribute(RTA_METRICS, u32(RTAX_MTU, thing.mtu))
    return tail


def decode_hop(message: Message, names: Mapping[int, str]) -> HopState:
    with decoding("a next hop"):
        _, _, protocol, flags = NHMSG.unpack_from(message.body)
        found = attributes(message.body, NHMSG.size)
        hop_id = number(found[NHA_ID])
        index = number(found[NHA_OIF]) if NHA_OIF in found else 0
        name, gateway = names.get(index), found.get(NHA_GATEWAY)
        hop = None
        if name is not None and gateway is not None:
            hop = NextHop(hop_id, name, address(gateway), bool(flags & RTNH_F_ONLINK))
        return HopState(hop_id, protocol, index, hop)


def decode_route(message: Message, names: Mapping[int, str], hops: Mapping[int, str]) -> RouteState | None:
    """None: not a unicast route, or a cached copy of one. `hops`: the device of each next-hop object of ours, for
    kernels that are set to leave it out (nexthop_compat_mode 0)."""
    with decoding("a route"):
        family, length, _, _, small, protocol, _, kind, flags = RTMSG.unpack_from(message.body)
        if kind != RTN_UNICAST or flags & RTM_F_CLONED or family not in (AF_INET, AF_INET6):
            return None
        found = attributes(message.body, RTMSG.size)
        dst = network(family, found.get(RTA_DST, b""), length)
        table = number(found[RTA_TABLE]) if RTA_TABLE in found else small
        metric = number(found[RTA_PRIORITY]) if RTA_PRIORITY in found else 0
        index = number(found[RTA_OIF]) if RTA_OIF in found else 0
        hop = number(found[RTA_NH_ID]) if RTA_NH_ID in found else 0
        name = names.get(index) if index else hops.get(hop)
        route = None
        if name is not None and RTA_MULTIPATH not in found and RTA_ENCAP not in found:
            route = Route(
                dst,
                name,
                nexthop=hop,
                via=None if hop else _gateway(found),
                onlink=not hop and bool(flags & RTNH_F_ONLINK),
                metric=metric,
                src=address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
                mtu=_mtu(found),
                table=table,
            )
        return RouteState(("route", dst, table, metric), protocol, index, route)


def network(family: int, packed: bytes, length: int) -> IPNetwork:
    """A destination; the default route's message holds no address."""
    whole = _LENGTHS[4 if family == AF_INET else 6] // 8
    found = address(packed or bytes(whole))
    if len(found.packed) != whole:
        raise ValueError(f"{found} is not of family {family}")
    return ip_network((found.packed, length))


def _gateway(found: Mapping[int, bytes]) -> IPAddress | None:
    if RTA_VIA in found:
        return address(found[RTA_VIA][2:])
    return address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else None


def _mtu(found: Mapping[int, bytes]) -> int:
    metrics = attributes(found.get(RTA_METRICS, b""))
    return number(metrics[RTAX_MTU]) if RTAX_MTU in metrics else 0
