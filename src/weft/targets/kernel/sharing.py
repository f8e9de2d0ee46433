"""Which routes are ours although not both they and their link have our mark. Pure; asked by the kernel target alone.

A daemon that looks after a network of its own (flanneld) has routes to it out of links that aren't its own, and takes
over what flannel left. All are recognised by the destination: two daemons of one host look after different networks.

The registrar's lead anywhere, out of any link, flanneld's device too. They are recognised by their metric: what is in
its band is the registrar's, and nothing else is; no other daemon's routes are in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from weft.backends.tunnel import REGISTRAR
from weft.model import IPNetwork
from weft.objects import MAIN_TABLE, REGISTRAR_METRICS, Route
from weft.targets.kernel.constants import RTPROT_BOOT, RTPROT_KERNEL, RTPROT_STATIC

Shared: TypeAlias = Callable[[IPNetwork], bool]
"""Whether a destination is inside the network that this daemon looks after."""
Left: TypeAlias = Callable[[Route], bool]
"""Whether flannel would have made this very route out of a link that isn't ours, as it looks now: a lease says so."""
REGISTRARS = f"weft:{REGISTRAR}:"
"""What the ifalias of the registrar's links begins with."""
ROUTERS = "weft:router:"
"""The same of routers, of which a host may run several: one whose links have another name behind this is another one,
and not this one before the host was renamed. Their VTEPs' MACs follow from the host's endpoint, and are alike."""
FLANNELS = frozenset({RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC})
"""Protocol numbers that flannel's routes were seen with; nearly always `boot`."""


def anywhere(destination: IPNetwork) -> bool:
    """What the registrar shares: its routes may lead to every network, as far as they are its own by their metric."""
    return True


def has_owner(route: Route, registrar: bool) -> bool:
    """Whether a route may be of the daemon that asks, by its metric. `registrar`: whether that is the registrar."""
    return (route.metric in REGISTRAR_METRICS) == registrar


def is_shared(route: Route, shared: Shared | None) -> bool:
    """Whether a route of our protocol number is ours out of a link that isn't."""
    return shared is not None and route.table == MAIN_TABLE and shared(route.dst)


def is_left_by_flannel(route: Route, shared: Shared | None) -> bool:
    """Whether a route out of our device has flannel's layout: `10.5.20.0/24 via 10.5.20.0 dev flannel.1 onlink`. A
    gateway that is its own destination's network address makes sense to nobody else."""
    return (
        route.protocol in FLANNELS
        and route.via == route.dst.network_address
        and route.onlink
        and not route.nexthop
        and is_shared(route, shared)
    )


def is_left_elsewhere(route: Route, shared: Shared | None, left: Left | None) -> bool:
    """Whether a route out of another's link is one of flannel's host-gw: `10.5.20.0/24 via 192.0.2.2 dev eth0`. An
    administrator's look the same, so there must be a lease of this subnet and gateway, for which ours stands."""
    plain = route.protocol == RTPROT_BOOT and route.via is not None and not route.onlink and not route.nexthop
    return plain and left is not None and is_shared(route, shared) and left(route)
