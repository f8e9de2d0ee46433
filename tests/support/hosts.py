"""A cluster of topologies without a network: hosts that publish what they reach, and packets that follow their courses.

Edges are set up and down by hand; `settle` lets every host look at what the others published until nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Literal

from weft.core.sight import Chart, Mode, Past, Place, Sight
from weft.core.topology import chart
from weft.model import Path, Reach, Uplink, Way
from weft.settings.gateways import parse_gateway_map

State = Literal["unknown", "up", "down"]
Kind = Literal["tunnel", "underlay"]
TTL = 64


def place(
    name: str,
    endpoint: str,
    *subnets: str,
    carries: Literal["all", "flannel", "none"] = "all",
    reaches: Iterable[str] | None = (),
    misses: Iterable[str] = (),
    via: Mapping[str, str] | None = None,
    segments: tuple[str, ...] = (),
) -> Place:
    """A node with a note that says nothing yet; `reaches` None: without a note."""
    return Place(
        name,
        tuple(ip_address(e) for e in endpoint.split(",")) if endpoint else (),
        tuple(ip_network(s) for s in subnets),
        carries,
        None if reaches is None else frozenset(reaches),
        frozenset(misses),
        dict(via or {}),
        tuple(ip_interface(s) for s in segments),
    )


def reach(
    name: str, state: State, kind: Kind = "tunnel", *, since: float = 0.0, full: bool | None = None, reason: str = ""
) -> Reach:
    local, remote = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    return Reach(Path(name, kind, "flannel.1", local, remote, 1450), state, since, full, reason)


def sight(
    me: Place,
    *places: Place,
    reaches: tuple[Reach, ...] = (),
    uplinks: tuple[Uplink, ...] = (),
    ways: Mapping[str, Way | None] | None = None,
    gateways: str = "",
    mode: Mode = "auto",
    span: str = "10.5.0.0/16",
    now: float = 0.0,
) -> Sight:
    """`ways`: address → way, or None for one that can't be reached; what is not in it has not been answered."""
    entries, problems = parse_gateway_map(gateways)
    assert not problems, problems
    answers = {ip_address(a): way for a, way in (ways or {}).items()}
    return Sight(
        me=me,
        uplinks=uplinks,
        places=places,
        reach=reaches,
        ways={a: way for a, way in answers.items() if way is not None},
        answered=frozenset(answers),
        entries=entries,
        mode=mode,
        span=(ip_network(span),),
        now=now,
    )


@dataclass
class Cluster:
    """Hosts by id with their maps; those without a note are of plain flannel: they probe nothing and send straight to
    everyone. `down`: pairs whose tunnel is down; `since`: when a pair's state last changed. `charts`: what each host
    decided last, from what it last read."""

    places: dict[str, Place]
    maps: dict[str, str] = field(default_factory=dict)
    down: set[frozenset[str]] = field(default_factory=set)
    since: dict[frozenset[str], float] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    past: dict[str, Past] = field(default_factory=dict)
    published: dict[str, Place] = field(default_factory=dict)
    now: float = 0.0

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        edges: Iterable[frozenset[str]],
        *,
        silent: Iterable[str] = (),
        weak: Iterable[str] = (),
    ) -> Cluster:
        """`edges`: the pairs whose tunnels work. `weak`: hosts that relay for nobody."""
        all_names = sorted(names)
        places = {}
        for number, name in enumerate(all_names, 1):
            carries: Literal["all", "flannel", "none"] = "none" if name in weak else "all"
            silently = name in silent
            places[name] = place(
                name,
                f"192.0.2.{number}",
                f"10.5.{number}.0/24",
                carries="flannel" if silently and carries == "all" else carries,
                reaches=None if silently else (),
            )
        pairs = {frozenset((a, b)) for a in all_names for b in all_names if a < b}
        return cls(places, down=pairs - set(edges), published=dict(places))

    def look(self, name: str) -> None:
        """One host reads what is published now, and decides."""
        me = self.places[name]
        if me.reaches is None:
            return
        others = tuple(p for n, p in sorted(self.published.items()) if n != name)
        found = tuple(self._reach(name, other) for other in others if other.reaches is not None)
        nowhere = {str(p.endpoints[0]): None for p in others}
        seen = sight(me, *others, reaches=found, ways=nowhere, gateways=self.maps.get(name, ""), now=self.now)
        made = chart(seen, self.past.get(name))
        self.charts[name], self.past[name] = made, made.past

    def publish(self, name: str) -> None:
        made = self.charts.get(name)
        if made is not None:
            self.published[name] = replace(
                self.places[name], reaches=made.reaches, misses=made.misses, via=dict(made.via)
            )

    def settle(self) -> None:
        for _ in range(3):
            for name in self.places:
                self.look(name)
            for name in self.places:
                self.publish(name)
            self.now += 100.0

    def set(self, one: str, two: str, up: bool) -> None:
        pair = frozenset((one, two))
        self.since[pair] = self.now
        (self.down.discard if up else self.down.add)(pair)

    def next(self, at: str, goal: str) -> str:
        """Where a host sends to next: "" if to nobody."""
        if at not in self.charts:
            return goal
        course = self.charts[at].courses[goal]
        return course.relay if course.kind == "relay" else "" if course.kind == "none" else goal

    def walk(self, start: str, goal: str) -> list[str]:
        """The hosts that a packet passes, until it arrives or its next hop is not reached or its TTL ends."""
        passed = [start]
        while passed[-1] != goal and len(passed) <= TTL:
            onward = self.next(passed[-1], goal)
            if not onward or frozenset((passed[-1], onward)) in self.down:
                break
            if passed[-1] != start and self.places[passed[-1]].carries == "none":
                break
            passed.append(onward)
        return passed

    def connected(self, start: str, goal: str) -> bool:
        """Whether a chain of working tunnels over hosts that relay leads there."""
        seen, edge = {start}, [start]
        while edge:
            at = edge.pop()
            for other in self.places:
                if other not in seen and frozenset((at, other)) not in self.down:
                    seen.add(other)
                    if self.places[other].carries == "all":
                        edge.append(other)
        return goal in seen

    def _reach(self, one: str, two: Place) -> Reach:
        pair = frozenset((one, two.id))
        return reach(two.id, "down" if pair in self.down else "up", since=self.since.get(pair, 0.0))
