"""What `weft router` knows: this host's stacks, the file that `weft discovery` writes, this host's facts; and the Views of
it, one for each VNI.

The counterpart of `world.py`. Each source replaces its set here and wakes the loop (`agent/loop.py`), which asks for a
View; `daemons/router.py` wires it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from weft.core.identity import Identity
from weft.core.stacks import Options
from weft.model import DiscoveryData, Host, Problem
from weft.wire.routing import StackConfig


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator set. `identity`: `id` is PEER_ID ("": the stacks' ids), `port` VXLAN_PORT, with HOST_IP,
    INTERFACE, underlay and MTU; its VNI is not looked at. `mark`: on this daemon's links, the same as long as it lives
    here. `routes_file`: path of routes.json, "" for none. `metric`: of our routes."""

    identity: Identity
    mark: str
    options: Options
    routes_file: str = "/var/lib/docker-router/routes.json"
    metric: int = 7600


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route that is wanted. `next_hop`: an overlay address; of several ends there is a row for each. `source`:
    static-config or discovery. `stack`: whose subnet it is, `node`: through whom."""

    destination: str
    next_hop: str
    interface: str
    source: str
    stack: str
    node: str


@dataclass(slots=True)
class RouterWorld:
    """`stacks`, `host`, `data` are None until their source has spoken; each may be replaced at any time. `chains`,
    `refused`: ask the firewall target. `broken`: what is wrong with a source or a target, by its name."""

    wishes: Wishes
    stacks: tuple[StackConfig, ...] | None = None
    host: Host | None = None
    data: DiscoveryData | None = None
    chains: Callable[[], frozenset[tuple[int, str, str]]] = frozenset
    refused: Callable[[], tuple[tuple[int, str], ...]] = tuple
    broken: dict[str, Problem] = field(default_factory=dict)

    # view(), problems(), report(source, message), waiting(), name, device, engine, peers: Knowledge
    # fates() -> tuple[Fate, ...]: of every peer, sorted by VNI and id
    # routes() -> tuple[RouteRow, ...]: sorted by VNI, destination, next hop
