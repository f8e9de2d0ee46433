"""The nouns of the topology: what one host sees of the others (Sight), and what it makes of it (Chart). Pure; filled
by `agent/registrar.py`, read by `core/topology.py` and its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from weft.model import IPAddress, IPInterface, IPNetwork, Problem, Reach, StaticRoute, Uplink, Way
from weft.settings.gateways import MapEntry

Kind = Literal["direct", "relay", "underlay", "fdb", "none"]
Mode = Literal["auto", "relay", "underlay", "fdb"]


@dataclass(frozen=True, slots=True)
class Place:
    """A node as far as ways matter. `carries`: "all": it runs weft's registrar and relays by its own courses;
    "flannel": plain flannel with a lease, which forwards to subnets inside of flannel's Network, and only directly;
    "none": it relays for nobody.

    What it published in its note, {} and None where it has none: `reaches`: ids of nodes that it reaches directly;
    `misses`: ids of nodes that it knows and doesn't reach; `via`: peer id → relay id by its gateway map (the peer's own
    id: directly, by its map); `segments`: its uplinks' addresses with their prefix lengths (`192.168.4.6/24`)."""

    id: str
    endpoints: tuple[IPAddress, ...]
    subnets: tuple[IPNetwork, ...] = ()
    carries: Literal["all", "flannel", "none"] = "none"
    reaches: frozenset[str] | None = None
    misses: frozenset[str] = frozenset()
    via: Mapping[str, str] = field(default_factory=dict)
    segments: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class Sight:
    """All that this host knows about ways, at one moment.

    `me`: this host (its `reaches`, `misses` and `via` are not looked at). `places`: the other nodes. `reach`: what
    liveness found, tunnel and underlay. `ways`: the kernel's answers, for the addresses in `answered`; what was
    answered and has no way can't be reached. `span`: flannel's Network(s). `port`: of the tunnels, for people. `now`:
    seconds of a clock that is never set back; compared with nothing but earlier Sights."""

    me: Place
    uplinks: tuple[Uplink, ...] = ()
    places: tuple[Place, ...] = ()
    reach: tuple[Reach, ...] = ()
    ways: Mapping[IPAddress, Way] = field(default_factory=dict)
    answered: frozenset[IPAddress] = frozenset()
    entries: tuple[MapEntry, ...] = ()
    mode: Mode = "auto"
    span: tuple[IPNetwork, ...] = ()
    port: int = 8472
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """How a node is reached. "relay": through node `relay`; "underlay": directly, once its endpoint is routed to
    `gateway` out of `dev`; "fdb": tunnel packets go to `gateway` in place of its endpoint; "none": nothing leads there
    now, and its routes are best left on the direct way. `rule`: which rule decided, in words. `problem`: why it can't
    work, or not for all, and what would; "" if nothing is known against it. `asked`: an operator's map asks for it,
    this host's or the other end's."""

    kind: Kind
    rule: str
    relay: str = ""
    gateway: IPAddress | None = None
    dev: str = ""
    problem: str = ""
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """What a `Damper` remembers of one edge. `up`: as it is judged. `state`: of the last finding. `turned`: when the
    judgement last changed. `back`: when an edge that came back counts, None if it did not. `hold`: seconds that it has
    to have been up then; 0: it never fell. `proved`: it was found up at some time."""

    up: bool
    state: Literal["unknown", "up", "down"]
    turned: float
    back: float | None = None
    hold: float = 0.0
    proved: bool = False


@dataclass(frozen=True, slots=True)
class Detour:
    """The search for a gateway to one node. `gateway`, `dev`: proposed since `since`, None: none is. `held`: the tunnel
    came up with it. `tried`: what did not help in this round; `rest`: none is proposed before then. `usual`: the way to
    the node's endpoint without our doing."""

    since: float
    gateway: IPAddress | None = None
    dev: str = ""
    why: str = ""
    held: bool = False
    tried: frozenset[tuple[IPAddress, str]] = frozenset()
    rest: float = 0.0
    usual: Way | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What one call of `chart` hands to the next; nothing is lost but time if it is forgotten."""

    edges: Mapping[str, Edge] = field(default_factory=dict)
    detours: Mapping[str, Detour] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chart:
    """`courses`: one per place, by id. `routes`: what underlay courses need. `ask`: addresses whose ways are to be
    asked for; `unanswered`: of these, those that a map entry's course waits for: the answer may bring a route, so none
    is to be deleted before. `reaches`, `misses`, `via`: what this host is to publish. `problems`: the courses' own, and
    entries of the map that do nothing. `again`: by when (`Sight.now`'s clock) it has to be asked again although nothing
    changed, None: never. `past`: for the next call."""

    courses: Mapping[str, Course]
    routes: tuple[StaticRoute, ...] = ()
    ask: frozenset[IPAddress] = frozenset()
    unanswered: frozenset[IPAddress] = frozenset()
    reaches: frozenset[str] = frozenset()
    misses: frozenset[str] = frozenset()
    via: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    again: float | None = None
    past: Past = field(default_factory=Past)
