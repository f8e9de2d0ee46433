"""Next-hop objects and routes ↔ netlink messages (nexthop.h, rtnetlink.h). Used by the kernel target alone.

A request is one `pack` of what every route has, and one more for each of what only some have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from typing import NamedTuple, TypeAlias

from weft.model import IPAddress, IPNetwork
from weft.objects import Key, NextHop, NextHopGroup, Route, route_key
from weft.targets.kernel.codec import (
    ATTRIBUTE,
    U32,
    Message,
    address,
    attribute,
    attributes,
    decoding,
    number,
    request,
    start,
    u32,
)
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    NEXT_HOP_IDS,
    NHA_GATEWAY,
    NHA_GROUP,
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
from weft.targets.kernel.groups import NHMSG, decode_group, members_in

RTMSG = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, lengths of dst and src, tos, table, protocol, scope, type, flags."""
RTNEXTHOP = struct.Struct("=HBBi")
"""rtnexthop: length with its attributes, flags, hops, index."""

Packer: TypeAlias = Callable[..., bytes]
FAMILIES = {4: AF_INET, 6: AF_INET6}
_OCTETS = {4: 4, 6: 16}
_ADD = NLM_F_CREATE | NLM_F_EXCL
_FAMILY = struct.Struct("=H")

# header, sequence, nhmsg and the id's head, id, device and the gateway's head, gateway; by the octets of an address
_HOP = {4: struct.Struct("=8sI4x12sI12s4s"), 16: struct.Struct("=8sI4x12sI12s16s")}
# header, sequence, family and prefix length, rest of rtmsg with the table and the destination's head, destination,
# the metric's head and metric, head and value of the next hop's id or of the device; by the octets of an address
_ROUTE = {4: struct.Struct("=8sI4xBB22s4s4sI4sI"), 16: struct.Struct("=8sI4xBB22s16s4sI4sI")}
_PRIORITY_HEAD = ATTRIBUTE.pack(8, RTA_PRIORITY)
_NH_ID_HEAD = ATTRIBUTE.pack(8, RTA_NH_ID)
_OIF_HEAD = ATTRIBUTE.pack(8, RTA_OIF)
_PREFSRC_HEADS = {octets: ATTRIBUTE.pack(4 + octets, RTA_PREFSRC) for octets in (4, 16)}
_NO_HOP = NHMSG.pack(0, 0, 0, 0)


class HopState(NamedTuple):
    """A next-hop object or group, whoever's it is. `hop` None: not of a form that weft makes (a blackhole, a group of
    others' objects). `members`: of a group, which has no interface index of its own."""

    id: int
    protocol: int
    ifindex: int
    hop: NextHop | NextHopGroup | None
    members: tuple[int, ...] = ()

    @property
    def ours(self) -> bool:
        """By protocol number and id; whether its device is ours is for the caller to see."""
        return self.protocol == PROTOCOL and self.id in NEXT_HOP_IDS


class RouteState(NamedTuple):
    """A unicast route, whoever's it is. `route` None: of a form that weft doesn't make (several paths, say), or out of
    a link that no route of ours goes out of. Whose it is, the mirror knows."""

    key: Key
    protocol: int
    ifindex: int
    route: Route | None


def hops_of(index: int) -> bytes:
    """The body of a dump request for the next-hop objects over one device."""
    return NHMSG.pack(0, 0, 0, 0) + u32(NHA_OIF, index)


def routes_of(family: int, index: int | None, protocol: int = PROTOCOL) -> bytes:
    """The body of a dump request for the routes with a protocol number (0: any) out of one device, or (None) out of
    all; in any table."""
    rtmsg = RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    return rtmsg if index is None else rtmsg + u32(RTA_OIF, index)


def outgoing(body: bytes) -> bytes:
    """Where a dumped route of one path has its RTA_OIF, whole: fib_dump_info() puts it last; rt6_fill_node() puts
    RTA_CACHEINFO and RTA_PREF behind it. In a route of another form, something else."""
    return body[-8:] if body[:1] == b"\x02" else body[-52:-44]


def metric_of(body: bytes) -> int | None:
    """The metric of a dumped route, where that stands in the usual place: behind the table and the destination, unless
    an IPv6 route has a preferred source or an MTU. None: it must be looked for."""
    start = 28 if body[:1] == b"\x02" else 40
    metric: int | None = U32.unpack_from(body, start + 4)[0] if body[start : start + 4] == _PRIORITY_HEAD else None
    return metric


def hop_of(hop_id: int) -> tuple[int, bytes]:
    """Type and body of a request for one next-hop object."""
    return RTM_GETNEXTHOP, NHMSG.pack(0, 0, 0, 0) + u32(NHA_ID, hop_id)


def route_to(dst: IPNetwork) -> tuple[int, bytes]:
    """Type and body of a request for the route that a packet to the first address of `dst` would take."""
    packed = dst.network_address.packed
    rtmsg = RTMSG.pack(FAMILIES[dst.version], len(packed) * 8, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return RTM_GETROUTE, rtmsg + attribute(RTA_DST, packed)


def encode_hops(ops: Iterable[tuple[str, NextHop]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`: `add` refuses an id that is in use, `change` replaces."""
    requests: list[bytes] = []
    last: tuple[object, ...] = ()
    for sequence, (action, thing) in enumerate(ops, first):
        if action == "remove":
            requests.append(request(RTM_DELNEXTHOP, 0, sequence, _NO_HOP + u32(NHA_ID, thing.id)))
            continue
        packed = thing.via.packed
        alike = action, len(packed), thing.onlink
        if alike != last:
            last = alike
            pack, head, middle, gateway = _hop_parts(action, thing, ifindex)
        requests.append(pack(head, sequence, middle, thing.id, gateway, packed))
    return requests


def _hop_parts(action: str, thing: NextHop, ifindex: int) -> tuple[Packer, bytes, bytes, bytes]:
    """What this next hop's request has in common with the others of its form: what packs it, the start, what stands
    before the id and what behind it."""
    octets = _OCTETS[thing.via.version]
    packer = _HOP[octets]
    nhmsg = NHMSG.pack(FAMILIES[thing.via.version], 0, PROTOCOL, RTNH_F_ONLINK * thing.onlink)
    gateway = u32(NHA_OIF, ifindex) + ATTRIBUTE.pack(4 + octets, NHA_GATEWAY)
    flags = _ADD if action == "add" else NLM_F_REPLACE
    return packer.pack, start(packer.size, RTM_NEWNEXTHOP, flags), nhmsg + ATTRIBUTE.pack(8, NHA_ID), gateway


_ROUTE_REQUESTS = {"add": (RTM_NEWROUTE, _ADD), "change": (RTM_NEWROUTE, NLM_F_REPLACE), "remove": (RTM_DELROUTE, 0)}


def encode_routes(ops: Iterable[tuple[str, Route]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`: `add` refuses a destination, table and metric that are in use; `change`
    replaces; `remove` names those three, the protocol number and the next hop or the device, so that it can't hit a
    route of somebody else's (fib_table_delete, ip6_route_del). ValueError for a route to be made that has another
    protocol number than ours."""
    requests: list[bytes] = []
    last: tuple[object, ...] = ()
    for sequence, (action, thing) in enumerate(ops, first):
        hop, packed = thing.nexthop, thing.dst.network_address.packed
        way = None if hop else (thing.via, thing.onlink)
        alike = action, len(packed), thing.table, thing.src, thing.mtu, thing.protocol, way
        if alike != last:  # next-hop objects of ten thousand peers, and all their routes have this in common
            last = alike
            pack, family, head, middle, where, tail = _route_parts(action, thing)
        length = thing.dst.prefixlen
        metric = thing.metric
        requests.append(
            pack(head, sequence, family, length, middle, packed, _PRIORITY_HEAD, metric, where, hop or ifindex) + tail
        )
    return requests


def _route_parts(action: str, thing: Route) -> tuple[Packer, int, bytes, bytes, bytes, bytes]:
    """What this route's request has in common with the others of its form: what packs it, the family, the start, the
    constant middle, the head of the next hop's id or of the device, and what stands behind that."""
    tail, scope, flags = b"", RT_SCOPE_UNIVERSE, 0
    if thing.protocol != PROTOCOL:
        if action != "remove":
            raise ValueError(f"routes of protocol {thing.protocol} aren't weft's")
        tail = _gateway_of(thing)
    if not thing.nexthop and action != "remove":
        tail, scope, flags = _gateway_of(thing), _scope(thing), RTNH_F_ONLINK * thing.onlink
    if action == "remove":
        scope = RT_SCOPE_NOWHERE
    elif thing.src is not None or thing.mtu or action == "change":
        tail += _preferences(thing, action == "change")
    octets = _OCTETS[thing.dst.version]
    packer = _ROUTE[octets]
    small = thing.table if thing.table < 256 else RT_TABLE_UNSPEC
    rtmsg = RTMSG.pack(0, 0, 0, 0, small, thing.protocol, scope, RTN_UNICAST, flags)[2:]
    middle = rtmsg + u32(RTA_TABLE, thing.table) + ATTRIBUTE.pack(4 + octets, RTA_DST)
    head = start(packer.size + len(tail), *_ROUTE_REQUESTS[action])
    where = _NH_ID_HEAD if thing.nexthop else _OIF_HEAD
    return packer.pack, FAMILIES[thing.dst.version], head, middle, where, tail


def _scope(thing: Route) -> int:
    """An IPv4 route without a gateway leads to what is on the link."""
    return RT_SCOPE_LINK if thing.via is None and thing.dst.version == 4 else RT_SCOPE_UNIVERSE


def _gateway_of(thing: Route) -> bytes:
    """The gateway of a route without a next-hop object; one of the other family goes in a struct rtvia."""
    if thing.via is None:
        return b""
    if thing.via.version == thing.dst.version:
        return attribute(RTA_GATEWAY, thing.via.packed)
    return attribute(RTA_VIA, _FAMILY.pack(FAMILIES[thing.via.version]) + thing.via.packed)


def _preferences(thing: Route, all_of_them: bool) -> bytes:
    """Preferred source and MTU. `all_of_them`: say that there is no MTU, too. Without any metrics in the request, the
    kernel takes any fib_info of the same next-hop object, with whatever metrics that has (fib_find_info_nh)."""
    tail = b""
    if thing.src is not None:
        packed = thing.src.packed
        tail = _PREFSRC_HEADS[len(packed)] + packed
    if thing.mtu:
        tail += attribute(RTA_METRICS, u32(RTAX_MTU, thing.mtu))
    elif all_of_them:
        tail += attribute(RTA_METRICS, b"")
    return tail


def decode_hop(message: Message, names: Mapping[int, str], hops: Mapping[int, str]) -> HopState:
    """Of an RTM_NEWNEXTHOP or RTM_DELNEXTHOP. `names`: our devices by index; `hops`: the device of each next hop of
    ours, by which our groups are known. Raises NetlinkDecodeError."""
    with decoding("a next hop"):
        _, _, protocol, flags = NHMSG.unpack_from(message.body)
        found = attributes(message.body, NHMSG.size)
        hop_id = number(found[NHA_ID])
        index = number(found[NHA_OIF]) if NHA_OIF in found else 0
        if NHA_GROUP in found:
            return HopState(hop_id, protocol, 0, decode_group(hop_id, found, hops), members_in(found))
        name, gateway = names.get(index), found.get(NHA_GATEWAY)
        hop = None
        if name is not None and gateway is not None:
            hop = NextHop(hop_id, name, address(gateway), bool(flags & RTNH_F_ONLINK))
        return HopState(hop_id, protocol, index, hop)


def decode_route(message: Message, names: Mapping[int, str], hops: Mapping[int, str]) -> RouteState | None:
    """Of an RTM_NEWROUTE or RTM_DELROUTE; None: not a unicast route, or a cached copy of one. `names`: the links that
    may be ours, by index. Raises NetlinkDecodeError. `hops`: the device of each next-hop object of ours, for
    kernels that are set to leave it out (nexthop_compat_mode 0). Of a route on a group, that of the first member."""
    with decoding("a route"):
        family, length, _, _, small, protocol, _, kind, flags = RTMSG.unpack_from(message.body)
        if kind != RTN_UNICAST or flags & RTM_F_CLONED or family not in (AF_INET, AF_INET6):
            return None
        found = attributes(message.body, RTMSG.size)
        dst = network(family, found.get(RTA_DST, b""), length)
        table = number(found[RTA_TABLE]) if RTA_TABLE in found else small
        metric = number(found[RTA_PRIORITY]) if RTA_PRIORITY in found else 0
        hop = number(found[RTA_NH_ID]) if RTA_NH_ID in found else 0
        index = _index(found)
        name = names.get(index) if index else hops.get(hop)
        route = None
        if name is not None and (hop or RTA_MULTIPATH not in found) and RTA_ENCAP not in found:
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
                protocol=protocol,
            )
        return RouteState(route_key(dst, table, metric), protocol, index, route)


def _index(found: Mapping[int, bytes]) -> int:
    """Of the link that a route goes out of; 0: it doesn't say."""
    if RTA_MULTIPATH in found:
        first: int = RTNEXTHOP.unpack_from(found[RTA_MULTIPATH])[3]
        return first
    return number(found[RTA_OIF]) if RTA_OIF in found else 0


def network(family: int, packed: bytes, length: int) -> IPNetwork:
    """A destination; the default route's message holds no address."""
    whole = _OCTETS[4 if family == AF_INET else 6]
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
