"""The two places that the target contract is tested in: a dict and a real kernel, in a namespace of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Protocol

import msgspec

from tests.support.namespace import Namespace, namespace
from weft.core.plan import Wanted
from weft.model import IPNetwork, Mac, mac_text, parse_mac
from weft.objects import (
    Address,
    Failure,
    Fdb,
    Key,
    Link,
    Neighbour,
    NextHop,
    NextHopGroup,
    Object,
    Op,
    Route,
    Vxlan,
    Why,
)
from weft.targets import Target
from weft.targets.kernel.target import KernelTarget
from weft.targets.memory import MemoryTarget

OWNER = "weft:agent:me"
MINE = parse_mac("02:00:00:00:00:01")
PEER = parse_mac("02:00:00:00:00:02")
OTHER = parse_mac("02:00:00:00:00:03")
WHY = Why("test", "b", "a test")
DEV = "vxlan100"
HOP = 0x70000001
HOP6 = 0x70000002

LINK = Link(DEV, MINE, 1450, Vxlan(100, 4789, ip_address("192.0.2.1")), OWNER)
LINK6 = Link("vxlan6", MINE, 1430, Vxlan(106, 4790, ip_address("2001:db8::1"), learning=True), OWNER)
ADDRESS = Address(DEV, ip_interface("10.0.0.1/32"))
ADDRESS6 = Address(DEV, ip_interface("fd00::1/128"))
VIA = ip_address("192.0.2.2")
VIA6 = ip_address("fe80::2")
NEIGHBOUR = Neighbour(DEV, VIA, PEER)
NEIGHBOUR6 = Neighbour(DEV, VIA6, PEER)
FDB = Fdb(DEV, PEER, VIA)
LEARNING = msgspec.structs.replace(LINK, vxlan=msgspec.structs.replace(LINK.vxlan, learning=True))
NEXTHOP = NextHop(HOP, DEV, VIA)
NEXTHOP6 = NextHop(HOP6, DEV, VIA6)
ROUTE = Route(ip_network("10.2.0.0/16"), DEV, nexthop=HOP, metric=100)
ROUTE6 = Route(ip_network("fd00:2::/64"), DEV, nexthop=HOP6, metric=100)

PEER_4 = (NEIGHBOUR, FDB, NEXTHOP, ROUTE)
PEER_6 = (NEIGHBOUR6, NEXTHOP6, ROUTE6)
EVERYTHING = (LINK, ADDRESS, ADDRESS6, *PEER_4, *PEER_6)


def many(count: int) -> list[Object]:
    """Peers as an agent has them, in the order of ranks."""
    via = [ip_address(f"198.18.{n // 250}.{n % 250 + 1}") for n in range(count)]
    macs = [Mac(b"\x02\x01" + n.to_bytes(4, "big")) for n in range(count)]
    things: list[Object] = [Neighbour(DEV, a, m) for a, m in zip(via, macs, strict=True)]
    things += [Fdb(DEV, m, a) for a, m in zip(via, macs, strict=True)]
    things += [NextHop(HOP + 100 + n, DEV, a) for n, a in enumerate(via)]
    things += [Route(ip_network(f"10.{n // 250}.{n % 250}.0/24"), DEV, HOP + 100 + n, metric=9) for n in range(count)]
    return things


def add(*things: Object) -> list[Op]:
    return [Op("add", thing, WHY) for thing in things]


def remove(*things: Object) -> list[Op]:
    return [Op("remove", thing, WHY) for thing in things]


def change(old: Object, new: Object) -> Op:
    return Op("change", new, WHY, old)


async def done(target: Target, ops: Sequence[Op]) -> None:
    """Apply, and all of it succeeds."""
    failures = [failure.message for failure in await target.apply(ops) if failure is not None]
    assert failures == []


async def held(target: Target, full: bool = True) -> dict[Key, Object]:
    return dict((await target.read(full)).objects)


def by_key(*things: Object) -> dict[Key, Object]:
    return {thing.key: thing for thing in things}


def wanted(*things: Object) -> dict[Key, Wanted]:
    """A plan of these."""
    return {thing.key: Wanted(thing, WHY) for thing in things}


def refused(failure: Failure | None) -> str:
    assert failure is not None, "it was not refused"
    return failure.message


class Place(Protocol):
    """Where a target works, and somebody else with it."""

    @property
    def target(self) -> Target: ...

    def restarted(self) -> Target:
        """Another target in the same place, that remembers nothing."""
        ...

    def delete(self, thing: Object) -> None:
        """Somebody else deletes this."""
        ...

    def put(self, thing: Object) -> None:
        """Somebody else makes or overwrites an object of ours: links, neighbours, FDB entries."""
        ...

    def put_foreign_link(self, name: str) -> None: ...

    def put_foreign_route(self, route: Route) -> None:
        """A route of somebody else's at the key of this one."""
        ...

    def share(self, *networks: str) -> None:
        """The target shares routes to these networks; none: only routes out of its own links are its own."""
        ...

    def set_uplink(self, up: bool) -> None:
        """Somebody sets up0 up or down; at first it is up."""
        ...


def inside(*networks: str) -> Callable[[IPNetwork], bool]:
    """Whether a destination is in one of these."""
    known = [ip_network(network) for network in networks]
    return lambda dst: any(each.version == dst.version and dst.subnet_of(each) for each in known)  # type: ignore[arg-type]


@dataclass
class MemoryPlace:
    target: MemoryTarget

    def __post_init__(self) -> None:
        self.target.put_uplink("up0")

    def share(self, *networks: str) -> None:
        self.target.share(inside(*networks) if networks else None)

    def set_uplink(self, up: bool) -> None:
        self.target.put_uplink("up0", up)

    def restarted(self) -> Target:
        self.target.lose_track()
        return self.target

    def delete(self, thing: Object) -> None:
        self.target.tamper_delete(thing.key)

    def put(self, thing: Object) -> None:
        self.target.tamper_put(thing)

    def put_foreign_link(self, name: str) -> None:
        self.target.put_foreign(("link", name), "a bridge without weft's mark")

    def put_foreign_route(self, route: Route) -> None:
        self.target.put_foreign(route.key, "a route of protocol 4 out of up0")


@dataclass
class KernelPlace:
    """`ns` has up0, an interface with 192.0.2.1/24 and 2001:db8::1/64."""

    ns: Namespace
    target: KernelTarget
    targets: list[KernelTarget]

    shared: Callable[[IPNetwork], bool] | None = None

    def restarted(self) -> KernelTarget:
        target = KernelTarget(OWNER, MINE, str(self.ns.path), shared=self.shared)
        self.targets.append(target)
        return target

    def share(self, *networks: str) -> None:
        self.shared = inside(*networks) if networks else None
        self.target.share(self.shared)

    def set_uplink(self, up: bool) -> None:
        self.ns.ip(f"link set up0 {'up' if up else 'down'}")

    def delete(self, thing: Object) -> None:
        if isinstance(thing, Link):
            self.ns.ip(f"link del {thing.name}")
        elif isinstance(thing, Address):
            self.ns.ip(f"address del {thing.address} dev {thing.dev}")
        elif isinstance(thing, Neighbour):
            self.ns.ip(f"neigh del {thing.address} dev {thing.dev}")
        elif isinstance(thing, Fdb):
            self.ns.bridge(f"fdb del {mac_text(thing.mac)} dst {thing.dst} dev {thing.dev}")
        elif isinstance(thing, NextHop | NextHopGroup):
            self.ns.ip(f"nexthop del id {thing.id}")
        elif isinstance(thing, Route):
            self.ns.ip(f"route del {thing.dst} metric {thing.metric} table {thing.table}")

    def put(self, thing: Object) -> None:
        if isinstance(thing, Link):
            state = "up" if thing.up else "down"
            self.ns.ip(f"link set {thing.name} address {mac_text(thing.mac)} mtu {thing.mtu} {state}")
            self.ns.ip(f"link set {thing.name} type vxlan {'learning' if thing.vxlan.learning else 'nolearning'}")
        elif isinstance(thing, Neighbour):
            self.ns.ip(f"neigh replace {thing.address} lladdr {mac_text(thing.mac)} dev {thing.dev} nud permanent")
        elif isinstance(thing, NextHopGroup):
            self.ns.ip(f"nexthop replace id {thing.id} group {'/'.join(map(str, thing.members))} proto 76")
        elif isinstance(thing, Fdb):
            self.ns.bridge(f"fdb replace {mac_text(thing.mac)} dst {thing.dst} dev {thing.dev}")
        else:
            raise AssertionError(f"no way to make {thing}")

    def put_foreign_link(self, name: str) -> None:
        self.ns.ip(f"link add {name} type bridge")

    def put_foreign_route(self, route: Route) -> None:
        self.ns.ip(f"route add {route.dst} dev up0 metric {route.metric} proto static")


@contextlib.contextmanager
def kernel_place() -> Iterator[KernelPlace]:
    with namespace() as ns:
        ns.ip("link add up0 type veth peer name up1")
        ns.ip("link set up0 up")
        ns.ip("link set up1 up")
        ns.ip("address add 192.0.2.1/24 dev up0")
        ns.ip("address add 2001:db8::1/64 dev up0 nodad")
        target = KernelTarget(OWNER, MINE, str(ns.path))
        place = KernelPlace(ns, target, [target])
        try:
            yield place
        finally:
            for each in place.targets:
                each.close()


def with_(thing: Object, **changes: object) -> Object:
    """The same object with some fields changed."""
    return msgspec.structs.replace(thing, **changes)
