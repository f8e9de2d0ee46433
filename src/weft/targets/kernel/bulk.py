"""Reading thousands of objects at once: the fast way through a dump. Used by `reading.py` when it reads everything.

Objects that weft made all look alike, so their messages have one layout: the same length, the same attributes at the
same places, only the values differ. A Layout unpacks a whole buffer of such messages in C and compares everything that
must be the same. As soon as one message differs, the whole buffer is decoded attribute by attribute instead; both ways
give the same objects (the contract tests compare them).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from operator import itemgetter
from typing import Any

from weft.model import IPAddress, IPNetwork
from weft.objects import MAIN_TABLE, REGISTRAR_METRICS, Fdb, Key, Neighbour, NextHop, Object, Route
from weft.targets.kernel.codec import ATTRIBUTE, u32
from weft.targets.kernel.constants import (
    AF_BRIDGE,
    NEXT_HOP_IDS,
    NHA_GATEWAY,
    NHA_ID,
    NHA_OIF,
    NLM_F_DUMP_INTR,
    NTF_SELF,
    NUD_PERMANENT,
    PROTOCOL,
    RT_SCOPE_LINK,
    RTA_DST,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_NH_ID,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTAX_MTU,
    RTM_NEWNEIGH,
    RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTNH_F_ONLINK,
)
from weft.targets.kernel.entries import DST_HEADS, LLADDR_HEAD, NDMSG
from weft.targets.kernel.groups import NHMSG
from weft.targets.kernel.hops import FAMILIES, RTMSG

_HEADER = struct.Struct("=IHH")
_OCTETS = {4: 4, 6: 16}
_METRICS_HEAD = ATTRIBUTE.pack(12, RTA_METRICS) + ATTRIBUTE.pack(8, RTAX_MTU)


class Unlike(Exception):
    """A buffer holds a message that does not have the layout."""


class Layout:
    """A message's layout after the netlink header: `bytes` must be the same, a `str` is a struct format of values."""

    def __init__(self, kind: int, *fields: bytes | str) -> None:
        formats = [f"{len(field)}s" if isinstance(field, bytes) else field for field in fields]
        self._struct = struct.Struct("=8s8x" + "".join(formats))
        shown = [field for field in fields if isinstance(field, bytes) or not field.endswith("x")]
        constants = [(at, field) for at, field in enumerate(shown, 1) if isinstance(field, bytes)]
        self._expected = tuple(field for _, field in constants)
        self._constants = itemgetter(0, *(at for at, _ in constants))
        self._values = itemgetter(*(at for at, field in enumerate(shown, 1) if isinstance(field, str)))
        self.length = self._struct.size
        self._kind = kind

    def rows(self, buffer: bytes) -> Iterator[tuple[Any, ...]]:
        """The values of every message. Raises Unlike at the first message that is different."""
        head = buffer[:8]
        length, kind, flags = _HEADER.unpack(head)
        if (length, kind) != (self.length, self._kind) or flags & NLM_F_DUMP_INTR or len(buffer) % length:
            raise Unlike
        constants, values, expected = self._constants, self._values, (head, *self._expected)
        for row in self._struct.iter_unpack(buffer):
            if constants(row) != expected:
                raise Unlike
            yield values(row)


class Addresses:
    """Addresses by their octets, each made once: a peer's address stands in three objects."""

    def __init__(self) -> None:
        self._known: dict[bytes, IPAddress] = {}

    def get(self, packed: bytes) -> IPAddress:
        """The address of these octets, 4 or 16 of them in network order."""
        found = self._known.get(packed)
        if found is None:
            value = int.from_bytes(packed, "big")
            found = self._known[packed] = IPv4Address(value) if len(packed) == 4 else IPv6Address(value)
        return found


class Bulk:
    """Decodes buffers of one device of ours. Each method puts what it finds into `found`; it raises Unlike, perhaps
    after it has put some of it there already. `registrar`: as of the mirror."""

    def __init__(
        self, ifindex: int, name: str, addresses: Addresses, found: dict[Key, Object], registrar: bool = False
    ) -> None:
        self._registrar = registrar
        self._name = name
        self._addresses = addresses
        self._found = found
        self._neighbours = {v: _neighbour_layout(ifindex, v) for v in (4, 6)}
        self._fdb = {layout.length: layout for layout in (_fdb_layout(ifindex, v) for v in (4, 6))}
        self._hops = {layout.length: layout for layout in (_hop_layout(ifindex, v) for v in (4, 6))}
        shapes = [(mtu, src) for mtu in (False, True) for src in (False, True)]
        self._routes_4 = [(shape, _route_layout_4(ifindex, *shape)) for shape in shapes]
        self._routes_6 = [(shape, _route_layout_6(ifindex, *shape)) for shape in shapes]

    def neighbours(self, version: int, buffer: bytes) -> None:
        """Permanent neighbours with an address of this IP version."""
        found, name, get = self._found, self._name, self._addresses.get
        for packed, mac in self._neighbours[version].rows(buffer):
            found["neighbour", name, packed] = Neighbour(name, get(packed), mac)

    def fdb(self, buffer: bytes) -> None:
        """Permanent entries, with destinations of one IP version."""
        found, name, get = self._found, self._name, self._addresses.get
        for mac, packed in _by_length(self._fdb, buffer).rows(buffer):
            entry = Fdb(name, mac, get(packed))
            found[entry.key] = entry

    def hops(self, buffer: bytes) -> None:
        """Next-hop objects of our protocol number; those whose id is out of our range are left out."""
        found, name, get = self._found, self._name, self._addresses.get
        first, last = NEXT_HOP_IDS[0], NEXT_HOP_IDS[-1]
        for hop_id, packed in _by_length(self._hops, buffer).rows(buffer):
            if first <= hop_id <= last:
                found["nexthop", hop_id] = NextHop(hop_id, name, get(packed))

    def routes(self, version: int, buffer: bytes) -> None:
        """Routes with a next-hop object in the main table; those are left out that aren't ours by their metric."""
        shapes = self._routes_4 if version == 4 else self._routes_6
        length = _HEADER.unpack_from(buffer)[0]
        for (has_mtu, has_src), layout in shapes:
            if layout.length == length:
                self._routes(layout.rows(buffer), version, has_mtu, has_src)
                return
        raise Unlike

    def _routes(self, rows: Iterator[tuple[Any, ...]], version: int, has_mtu: bool, has_src: bool) -> None:
        found, name, get = self._found, self._name, self._addresses.get
        network: type[IPv4Network] | type[IPv6Network] = IPv4Network if version == 4 else IPv6Network
        # The order of the attributes: IPv4 metric, MTU, source; IPv6 source, MTU, metric.
        registrar = self._registrar
        of_metric, of_mtu, of_src = (2, 3, 3 + has_mtu) if version == 4 else (2 + has_src + has_mtu, 2 + has_src, 2)
        for row in rows:
            length, packed = row[0], row[1]
            dst: IPNetwork = network((int.from_bytes(packed, "big"), length))
            metric = row[of_metric]
            if (metric in REGISTRAR_METRICS) != registrar:
                continue
            src = get(row[of_src]) if has_src else None
            mtu = row[of_mtu] if has_mtu else 0
            found["route", packed, length, MAIN_TABLE, metric] = Route(
                dst, name, row[-1], None, False, metric, src, mtu
            )


def _by_length(layouts: dict[int, Layout], buffer: bytes) -> Layout:
    layout = layouts.get(_HEADER.unpack_from(buffer)[0])
    if layout is None:
        raise Unlike
    return layout


def _neighbour_layout(ifindex: int, version: int) -> Layout:
    """neigh_fill_info() of net/core/neighbour.c; behind it NDA_PROBES and NDA_CACHEINFO."""
    ndmsg = NDMSG.pack(FAMILIES[version], ifindex, NUD_PERMANENT, 0, RTN_UNICAST)
    return Layout(RTM_NEWNEIGH, ndmsg + DST_HEADS[version], f"{_OCTETS[version]}s", LLADDR_HEAD, "6s", "2x", "28x")


def _fdb_layout(ifindex: int, version: int) -> Layout:
    """vxlan_fdb_info() of drivers/net/vxlan/vxlan_core.c; behind it NDA_CACHEINFO."""
    ndmsg = NDMSG.pack(AF_BRIDGE, ifindex, NUD_PERMANENT, NTF_SELF, RTN_UNICAST)
    return Layout(RTM_NEWNEIGH, ndmsg + LLADDR_HEAD, "6s", bytes(2) + DST_HEADS[version], f"{_OCTETS[version]}s", "20x")


def _hop_layout(ifindex: int, version: int) -> Layout:
    """nh_fill_node() of net/ipv4/nexthop.c."""
    nhmsg = NHMSG.pack(FAMILIES[version], RT_SCOPE_LINK, PROTOCOL, RTNH_F_ONLINK)
    octets = _OCTETS[version]
    oif = u32(NHA_OIF, ifindex) + ATTRIBUTE.pack(4 + octets, NHA_GATEWAY)
    return Layout(RTM_NEWNEXTHOP, nhmsg + ATTRIBUTE.pack(8, NHA_ID), "I", oif, f"{octets}s")


def _rtmsg(version: int) -> tuple[bytes, bytes]:
    """What stands before and behind the prefix length, up to the destination's octets."""
    rtmsg = RTMSG.pack(FAMILIES[version], 0, 0, 0, MAIN_TABLE, PROTOCOL, 0, RTN_UNICAST, RTNH_F_ONLINK)
    dst = ATTRIBUTE.pack(4 + _OCTETS[version], RTA_DST)
    return rtmsg[:1], rtmsg[2:] + u32(RTA_TABLE, MAIN_TABLE) + dst


def _route_layout_4(ifindex: int, has_mtu: bool, has_src: bool) -> Layout:
    """fib_dump_info() of net/ipv4/fib_semantics.c. The gateway is the object's, so it isn't looked at."""
    family, middle = _rtmsg(4)
    mtu: tuple[bytes | str, ...] = (_METRICS_HEAD, "I") if has_mtu else ()
    src: tuple[bytes | str, ...] = (ATTRIBUTE.pack(8, RTA_PREFSRC), "4s") if has_src else ()
    hop = ATTRIBUTE.pack(8, RTA_NH_ID)
    end = (ATTRIBUTE.pack(8, RTA_GATEWAY), "4x", u32(RTA_OIF, ifindex))
    metric = ATTRIBUTE.pack(8, RTA_PRIORITY)
    return Layout(RTM_NEWROUTE, family, "B", middle, "4s", metric, "I", *mtu, *src, hop, "I", *end)


def _route_layout_6(ifindex: int, has_mtu: bool, has_src: bool) -> Layout:
    """rt6_fill_node() of net/ipv6/route.c; behind it RTA_CACHEINFO and RTA_PREF."""
    family, middle = _rtmsg(6)
    src: tuple[bytes | str, ...] = (ATTRIBUTE.pack(20, RTA_PREFSRC), "16s") if has_src else ()
    mtu: tuple[bytes | str, ...] = (_METRICS_HEAD, "I") if has_mtu else ()
    hop = ATTRIBUTE.pack(8, RTA_NH_ID)
    end = (ATTRIBUTE.pack(20, RTA_GATEWAY), "16x", u32(RTA_OIF, ifindex), "44x")
    metric = ATTRIBUTE.pack(8, RTA_PRIORITY)
    return Layout(RTM_NEWROUTE, family, "B", middle, "16s", *src, *mtu, metric, "I", hop, "I", *end)
