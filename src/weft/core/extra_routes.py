"""What FLANNEL_ROUTES_EXTRA means on this host. Pure; called by `agent/registrar.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from weft.model import IPAddress, Node, Problem, StaticRoute, Way
from weft.settings.gateways import ROUTES, ExtraRoute


@dataclass(frozen=True, slots=True)
class Extra:
    """`wanted`: the entries. `names`: of this host's interfaces that have an address, none while that isn't known.
    `nodes`: the other hosts. `ways`: to the gateways, as far as the kernel knows one."""

    wanted: Sequence[ExtraRoute]
    names: AbstractSet[str]
    nodes: Sequence[Node]
    ways: Mapping[IPAddress, Way]


def extra_routes(extra: Extra) -> Iterator[StaticRoute]:
    """The routes whose gateway is on a segment of this host's. One out of an interface that isn't there takes no other
    host's network its place."""
    taken = {subnet for node in extra.nodes for network in node.networks for subnet in network.subnets}
    for one in extra.wanted:
        way = extra.ways.get(one.gateway)
        dev = one.interface or (way.dev if way is not None and way.gateway is None else "")
        if dev and (dev in extra.names or one.dst not in taken):
            yield StaticRoute(one.dst, one.gateway, dev, "settings", f"{ROUTES}: {one.text}")


def extra_faults(extra: Extra, answered: AbstractSet[IPAddress]) -> Iterator[Problem]:
    """Why some are none. `answered`: the addresses to which the kernel was asked for the way."""
    for one in extra.wanted:
        way, said = extra.ways.get(one.gateway), f"{ROUTES}: {one.text}"
        if one.interface and extra.names and one.interface not in extra.names:
            yield Problem("routes", f"{said}: there is no interface {one.interface} with an address")
        elif not one.interface and one.gateway in answered and (way is None or way.gateway is not None):
            through = f"; packets for it go to {way.gateway} on {way.dev}: name that one" if way is not None else ""
            yield Problem("routes", f"{said}: {one.gateway} is on no segment of this host's{through}")
