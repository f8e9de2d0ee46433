"""Links and their addresses ↔ netlink messages (if_link.h, if_addr.h). Used by the kernel target and the host facts."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import ip_interface
from typing import NamedTuple

from weft.errors import NetlinkDecodeError
from weft.model import IPInterface
from weft.objects import Address, Link, Vxlan
from weft.targets.kernel.codec import (
    Message,
    address,
    attribute,
    attributes,
    decoding,
    nested,
    number,
    request,
    string,
    u32,
)
from weft.targets.kernel.codec import text as string_attribute
from weft.targets.kernel.constants import (
    AF_INET,
    AF_INET6,
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_FLAGS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_VXLAN_GBP,
    IFLA_VXLAN_GROUP,
    IFLA_VXLAN_GROUP6,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RT_SCOPE_LINK,
    RTEXT_FILTER_SKIP_STATS,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
)

IFINFO = struct.Struct("=BxHiII")
"""ifinfomsg: family, ARPHRD type, index, flags, which flags change."""
IFADDR = struct.Struct("=BBBBI")
"""ifaddrmsg: family, prefix length, flags, scope, index."""
_PORT = struct.Struct("!H")

ALL_LINKS = IFINFO.pack(0, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
ALL_ADDRESSES = IFADDR.pack(0, 0, 0, 0, 0)


class LinkState(NamedTuple):
    """A link as the kernel has it, ours or not. `vxlan` None: not a VXLAN device, or one of a form that weft does not
    make (a group address, no local one)."""

    ifindex: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    up: bool
    alias: str
    master: int
    vxlan: Vxlan | None


def decode_link(message: Message) -> LinkState:
    """Of an RTM_NEWLINK or RTM_DELLINK (ifinfomsg and IFLA_* of if_link.h). Raises NetlinkDecodeError."""
    with decoding("a link"):
        _, _, index, flags, _ = IFINFO.unpack_from(message.body)
        found = attributes(message.body, IFINFO.size)
        info = attributes(found.get(IFLA_LINKINFO, b""))
        kind = string(info.get(IFLA_INFO_KIND, b""))
        return LinkState(
            ifindex=index,
            name=string(found[IFLA_IFNAME]),
            kind=kind,
            mac=found.get(IFLA_ADDRESS, b""),
            mtu=number(found[IFLA_MTU]) if IFLA_MTU in found else 0,
            up=bool(flags & IFF_UP),
            alias=string(found.get(IFLA_IFALIAS, b"")),
            master=number(found[IFLA_MASTER]) if IFLA_MASTER in found else 0,
            vxlan=_decode_vxlan(attributes(info.get(IFLA_INFO_DATA, b""))) if kind == "vxlan" else None,
        )


def _decode_vxlan(found: dict[int, bytes]) -> Vxlan | None:
    local = found.get(IFLA_VXLAN_LOCAL) or found.get(IFLA_VXLAN_LOCAL6)
    if local is None:
        return None
    group = found.get(IFLA_VXLAN_GROUP) or found.get(IFLA_VXLAN_GROUP6)
    (port,) = _PORT.unpack(found[IFLA_VXLAN_PORT])
    learning = found[IFLA_VXLAN_LEARNING] != b"\0"
    vni, remote = number(found[IFLA_VXLAN_ID]), address(group) if group else None
    return Vxlan(vni, port, address(local), learning, remote, IFLA_VXLAN_GBP in found)


def encode_link_add(link: Link, index: int, sequence: int) -> bytes:
    """Two requests, numbered `sequence` and the next, to be sent as one: create the device, then mark it as ours and
    set it up (an ifalias given at creation is ignored).

    `index` is chosen by the caller and free: were the name taken, the first request fails, and the second finds no link
    of that index instead of marking somebody else's."""
    create = b"".join(
        (
            IFINFO.pack(0, 0, index, 0, 0),
            string_attribute(IFLA_IFNAME, link.name),
            attribute(IFLA_ADDRESS, link.mac),
            u32(IFLA_MTU, link.mtu),
            nested(IFLA_LINKINFO, string_attribute(IFLA_INFO_KIND, "vxlan"), _vxlan(link.vxlan)),
        )
    )
    mark = _flags(link, index) + string_attribute(IFLA_IFALIAS, link.alias)
    return request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sequence, create) + request(
        RTM_NEWLINK, 0, sequence + 1, mark
    )


def encode_link_change(link: Link, now: LinkState, sequence: int) -> bytes:
    """Two requests, numbered `sequence` and one more, the first only if it is needed. Only what differs: the kernel
    forgets a link's neighbours even when its MAC is set to what it was. Of the VXLAN part, learning alone changes in
    place (vxlan_changelink), and not together with the MTU (vxlan_nl2conf: "Cannot change mtu")."""
    first = b""
    if now.vxlan is not None and link.vxlan.learning != now.vxlan.learning:
        data = nested(IFLA_INFO_DATA, _learning(link.vxlan))
        kind = nested(IFLA_LINKINFO, string_attribute(IFLA_INFO_KIND, "vxlan"), data)
        first = request(RTM_NEWLINK, 0, sequence, IFINFO.pack(0, 0, now.ifindex, 0, 0) + kind)
    body = _flags(link, now.ifindex)
    if link.name != now.name:
        body += string_attribute(IFLA_IFNAME, link.name)
    if link.mac != now.mac:
        body += attribute(IFLA_ADDRESS, link.mac)
    if link.mtu != now.mtu:
        body += u32(IFLA_MTU, link.mtu)
    if link.alias != now.alias:
        body += string_attribute(IFLA_IFALIAS, link.alias)
    if now.master != link.master:
        body += u32(IFLA_MASTER, link.master)
    return first + request(RTM_NEWLINK, 0, sequence + 1, body)


def encode_link_down(index: int, sequence: int) -> bytes:
    """Set a link down, as kernels before 6.2 want it for a new name."""
    return request(RTM_NEWLINK, 0, sequence, IFINFO.pack(0, 0, index, 0, IFF_UP))


def encode_link_remove(index: int, sequence: int) -> bytes:
    """One request; what is on the link goes with it."""
    return request(RTM_DELLINK, 0, sequence, IFINFO.pack(0, 0, index, 0, 0))


def _flags(link: Link, index: int) -> bytes:
    return IFINFO.pack(0, 0, index, IFF_UP if link.up else 0, IFF_UP)


def _vxlan(vxlan: Vxlan) -> bytes:
    return nested(
        IFLA_INFO_DATA,
        u32(IFLA_VXLAN_ID, vxlan.vni),
        attribute(IFLA_VXLAN_LOCAL if vxlan.local.version == 4 else IFLA_VXLAN_LOCAL6, vxlan.local.packed),
        attribute(IFLA_VXLAN_PORT, _PORT.pack(vxlan.port)),
        _learning(vxlan),
        attribute(IFLA_VXLAN_GBP, b"") * vxlan.gbp,
    )


def _learning(vxlan: Vxlan) -> bytes:
    return attribute(IFLA_VXLAN_LEARNING, bytes([vxlan.learning]))


class AddressState(NamedTuple):
    """An address on any link; `scope` as in rtnetlink.h (253: link-local), `flags` as in if_addr.h."""

    ifindex: int
    scope: int
    flags: int
    address: IPInterface


def decode_address(message: Message) -> AddressState:
    """Of an RTM_NEWADDR or RTM_DELADDR. IFA_LOCAL is the address itself; IPv6 has only IFA_ADDRESS (if_addr.h). Raises
    NetlinkDecodeError."""
    with decoding("an address"):
        _, length, few, scope, index = IFADDR.unpack_from(message.body)
        found = attributes(message.body, IFADDR.size)
        packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
        if packed is None:
            raise NetlinkDecodeError("an address message from the kernel holds no address")
        flags = number(found[IFA_FLAGS]) if IFA_FLAGS in found else few
        return AddressState(index, scope, flags, ip_interface((address(packed), length)))


def encode_addresses(ops: Iterable[tuple[str, Address]], ifindex: int, first: int) -> list[bytes]:
    """A request per op, numbered from `first`."""
    return [_encode_address(action, thing, ifindex, sequence) for sequence, (action, thing) in enumerate(ops, first)]


def _encode_address(action: str, thing: Address, ifindex: int, sequence: int) -> bytes:
    """Add, change or remove. No duplicate address detection (there is nobody to ask on a tunnel), and no route for the
    prefix: routes are objects of their own."""
    family = AF_INET if thing.address.version == 4 else AF_INET6
    packed = thing.address.ip.packed
    body = IFADDR.pack(family, thing.address.network.prefixlen, 0, 0, ifindex)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if action == "remove":
        return request(RTM_DELADDR, 0, sequence, body)
    body += u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE)
    return request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sequence, body)


def is_kernels_own(scope: int, version: int) -> bool:
    """The link-local address that the kernel gives to every IPv6 link."""
    return version == 6 and scope == RT_SCOPE_LINK
