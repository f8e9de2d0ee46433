"""The nouns of the kernel and its firewall: what a Plan holds, what a target reads and writes. Those of WireGuard and
of other programs are in modules beside this one.

msgspec Structs rather than dataclasses, because there are four for each peer: they are built, compared and hashed in C
(ADR 2). Each has

    key     what the kernel holds to be one thing: two objects with one key can't exist side by side; addresses as their
            octets, since `ipaddress` hashes in Python and a key is hashed ten times in a cycle
    rank    its place in the order of additions (make before break); removals go the other way
    needs   keys of the objects that take this one with them when they go (the kernel's cascades)
    beside  keys of the objects whose owner is this one's too: what belongs to somebody else's device is left alone
    fixed   the part that the kernel can't change in place: another value means remove and add
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, TypeAlias

import msgspec

from weft.model import IPAddress, IPInterface, IPNetwork, Mac

Key: TypeAlias = tuple[object, ...]

ZERO_MAC = Mac(bytes(6))
MAIN_TABLE = 254
PROTOCOL = 76
"""Our route protocol number: `ip route show proto 76` lists every route of ours."""
METRIC_CLASSES = 1024
"""Without next-hop objects, routes are spread over this many metrics, because the kernel's fib_info hash leaves the
gateway out and one bucket would hold them all (measured: 50,000 routes take 28 s with one metric, 0.4 s with many)."""
REGISTRAR_METRICS = range(8624, 8624 + METRIC_CLASSES + 1)
"""Metrics of the registrar's routes, and of nobody else's: out of a device that it shares with flanneld, one daemon's
routes are told from the other's by nothing but this. It begins where the classes of the default metric, 7600, end."""
FOUND_METRIC = REGISTRAR_METRICS[-1]
"""Of those, the one of routes that nobody asked for but that were found to be needed. A restart knows by it which ones
to keep, and a route to the same place that somebody asks for is preferred to it."""


class Rank(IntEnum):
    """Order of additions. The firewall stands before the routes: the first packet that a new route lets through must
    already be exempt from masquerading, since conntrack keeps a wrong translation for the life of the flow (ADR 3)."""

    SYSCTL = 0
    LINK = 1
    LINK_SETTING = 2
    ADDRESS = 3
    CHAIN = 4
    JUMP = 5
    NEIGHBOUR = 6
    FDB = 7
    NEXT_HOP = 8
    NEXT_HOP_GROUP = 9
    ROUTE = 10
    FILE = 11
    HOOK = 12


class Object(msgspec.Struct, frozen=True):
    """The common root; never made itself."""

    @property
    def key(self) -> Key:
        raise TypeError(f"{type(self).__name__} has no key")

    @property
    def rank(self) -> Rank:
        raise TypeError(f"{type(self).__name__} has no rank")

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    @property
    def beside(self) -> tuple[Key, ...]:
        return ()

    @property
    def fixed(self) -> object:
        return None


class Sysctl(Object, frozen=True):
    """A kernel setting, path as under /proc/sys: `net/ipv4/ip_forward`. Set and reported, never reverted. `dev`: the
    link of ours that it is a setting of, "" for none: it comes when that is made, and goes with it."""

    path: str
    value: str
    dev: str = ""

    @property
    def key(self) -> Key:
        return ("sysctl", self.path)

    @property
    def rank(self) -> Rank:
        return Rank.LINK_SETTING if self.dev else Rank.SYSCTL

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("link", self.dev),) if self.dev else ()


class Vxlan(msgspec.Struct, frozen=True):
    """What makes a VXLAN device one (if_link.h, IFLA_VXLAN_*). All but `learning` can't change while it lives.
    `remote`: a default destination, which only somebody else can have set. `gbp`: the group policy extension."""

    vni: int
    port: int
    local: IPAddress
    learning: bool = False
    remote: IPAddress | None = None
    gbp: bool = False

    @property
    def fixed(self) -> object:
        """Everything but `learning`."""
        return self.vni, self.port, self.local, self.remote, self.gbp


class Link(Object, frozen=True):
    """A VXLAN device of ours. `alias` (ifalias) is `weft:<role>:<node>`; `mtu` in octets. `master`: index of the device
    that it is a port of, which only somebody else can have done: what comes out of the tunnel would go into his bridge
    and not be routed, so it is released."""

    name: str
    mac: Mac
    mtu: int
    vxlan: Vxlan
    alias: str
    up: bool = True
    master: int = 0

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def rank(self) -> Rank:
        return Rank.LINK

    @property
    def fixed(self) -> object:
        return self.vxlan.fixed


class Address(Object, frozen=True):
    """An address on a link of ours.

    Of IPv4, a device may have one address with two prefix lengths, so another length is another address, made before
    the old one goes. Of IPv6 it may not (ipv6_add_addr), and the length can't change in place (inet6_addr_modify)."""

    dev: str
    address: IPInterface

    @property
    def key(self) -> Key:
        return ("address", self.dev, self.address if self.address.version == 4 else self.address.ip)

    @property
    def fixed(self) -> object:
        return self.address.network.prefixlen

    @property
    def rank(self) -> Rank:
        return Rank.ADDRESS

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("link", self.dev),)


class Neighbour(Object, frozen=True):
    """A permanent neighbour (ARP or ND) entry on a link of ours."""

    dev: str
    address: IPAddress
    mac: Mac

    @property
    def key(self) -> Key:
        return ("neighbour", self.dev, self.address.packed)

    @property
    def rank(self) -> Rank:
        return Rank.NEIGHBOUR

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("link", self.dev),)


class Fdb(Object, frozen=True):
    """A permanent forwarding entry of a VXLAN device: frames to `mac` go to the VTEP at `dst`.

    A unicast MAC has one destination; the all-zero MAC (flooding) has one entry per destination."""

    dev: str
    mac: Mac
    dst: IPAddress

    @property
    def key(self) -> Key:
        if self.mac == ZERO_MAC:
            return ("fdb", self.dev, self.mac, self.dst.packed)
        return ("fdb", self.dev, self.mac)

    @property
    def rank(self) -> Rank:
        return Rank.FDB

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("link", self.dev),)


class NextHop(Object, frozen=True):
    """A next-hop object (nexthop.h): every route that names its id follows it when it changes."""

    id: int
    dev: str
    via: IPAddress
    onlink: bool = True

    @property
    def key(self) -> Key:
        return ("nexthop", self.id)

    @property
    def rank(self) -> Rank:
        return Rank.NEXT_HOP

    @property
    def fixed(self) -> object:
        return self.via.version

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("link", self.dev),)


class NextHopGroup(Object, frozen=True):
    """Several next-hop objects with one id (nexthop.h, NHA_GROUP): routes that name it spread their flows over all of
    them, alike. `members`: their ids, sorted; all are on `dev`.

    The kernel takes a member that goes out of its groups, and a group with its last member."""

    id: int
    dev: str
    members: tuple[int, ...]

    @property
    def key(self) -> Key:
        return ("nexthop", self.id)

    @property
    def rank(self) -> Rank:
        return Rank.NEXT_HOP_GROUP

    @property
    def fixed(self) -> object:
        return "group"  # one hop and a group can't take each other's place

    @property
    def needs(self) -> tuple[Key, ...]:
        return tuple(("nexthop", member) for member in self.members)


def route_key(dst: IPNetwork, table: int, metric: int) -> Key:
    """The key of any route, be it one that weft would make or not."""
    return ("route", dst.network_address.packed, dst.prefixlen, table, metric)


class Route(Object, frozen=True):
    """A unicast route of ours. Either `nexthop` (an object's or a group's id), or `via`, `dev` and `onlink`.

    `src`: preferred source; `mtu` in octets, 0 for the device's. `protocol`: another than ours only as read, of a route
    that flannel left on our device: to be removed, never made. As read from the kernel, `dev` is always set: with
    `nexthop` it is the object's device."""

    dst: IPNetwork
    dev: str
    nexthop: int = 0
    via: IPAddress | None = None
    onlink: bool = False
    metric: int = 0
    src: IPAddress | None = None
    mtu: int = 0
    table: int = MAIN_TABLE
    protocol: int = PROTOCOL

    @property
    def key(self) -> Key:
        return route_key(self.dst, self.table, self.metric)

    @property
    def rank(self) -> Rank:
        return Rank.ROUTE

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("nexthop", self.nexthop),) if self.nexthop else (("link", self.dev),)


class Chain(Object, frozen=True):
    """A firewall chain of ours, `WEFT-…`, with all of its rules, each as iptables-save prints it behind `-A NAME `."""

    family: Literal[4, 6]
    table: str
    name: str
    rules: tuple[str, ...]

    @property
    def key(self) -> Key:
        return ("chain", self.family, self.table, self.name)

    @property
    def rank(self) -> Rank:
        return Rank.CHAIN

    @property
    def beside(self) -> tuple[Key, ...]:
        """The device that it is named after."""
        return (("link", self.name.partition("-")[2].rpartition("-")[0]),)


class Jump(Object, frozen=True):
    """The one rule that leads from a chain that isn't ours into one of ours, recognised by its comment.

    `placed` False (only ever as read): it is there, but behind a rule that takes packets away first, or twice."""

    family: Literal[4, 6]
    table: str
    parent: str
    chain: str
    placed: bool = True

    @property
    def key(self) -> Key:
        return ("jump", self.family, self.table, self.parent, self.chain)

    @property
    def rank(self) -> Rank:
        return Rank.JUMP

    @property
    def needs(self) -> tuple[Key, ...]:
        return (("chain", self.family, self.table, self.chain),)


class Why(msgspec.Struct, frozen=True):
    """Who asked for an object: the source, the peer (or this host) and the rule."""

    source: str
    peer: str
    rule: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.peer}, told by {self.source or 'another program'})"


class Op(msgspec.Struct, frozen=True):
    """One change of one object. `old` is what stands there now: for `change` and `remove`."""

    action: Literal["add", "change", "remove"]
    object: Object
    why: Why
    old: Object | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a target could not carry out an op. `conflict`: somebody else's object stands there; it was left alone."""

    message: str
    conflict: bool = False
