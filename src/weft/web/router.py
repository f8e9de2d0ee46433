"""What `weft router` answers on /health and /metrics. Made by `daemons/router.py` of its parts; docs/telemetry.md lists
everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from weft.agent.router import RouterWorld
from weft.objects import Link, NextHopGroup, Object, Route
from weft.targets.kernel.statistics import LinkStatistics
from weft.web.looping import MOST_PROBLEMS, LoopHealth, Looping
from weft.web.metrics import Histogram, Labels, Metric, by, counter, gauge

Statistics = Callable[[Iterable[str]], Mapping[str, LinkStatistics]]
"""`targets.kernel.statistics.Statistics.of`."""
SILENT = 60.0
"""Seconds that discovery.json may stay as it is: `weft discovery` renews it every five."""


class RouterHealth(LoopHealth, frozen=True, kw_only=True):
    """GET /health of a router. `peers`: those of discovery.json, by status. `routed`: peers that routes lead to.
    `routes`: by source (static-config, discovery). `discovery_age`: seconds since discovery.json was made, None if
    there is none. `devices`: this host's ends."""

    peers: dict[str, int]
    routed: int
    routes: dict[str, int]
    discovery_age: float | None
    devices: list[str]


@dataclass(frozen=True, slots=True)
class RouterPages:
    """`looping.loop` has `world`. `statistics`: asks the kernel what went through links."""

    looping: Looping
    world: RouterWorld
    statistics: Statistics

    def page(self) -> RouterHealth:
        """GET /health."""
        looping = self.looping
        status, message = looping.status(looping.failing("link", "kernel"))
        age = self._age()
        if status == "healthy" and age is not None and age > SILENT:
            status = "degraded"
            message = f"discovery.json was last renewed {age:.0f} s ago: does `weft discovery` run? What it said holds"
        routes = self._routes()
        return RouterHealth(
            status=status,
            peer_count=sum(self._peers().values()),
            route_count=self._in_kernel(),
            uptime=looping.uptime,
            message=message,
            name=self.world.name,
            version=looping.version,
            waiting_for=self.world.waiting(),
            problems=looping.problems()[:MOST_PROBLEMS],
            not_done=sum(looping.undone().values()),
            last_cycle_ms=looping.cycles.last * 1000,
            peers=self._peers(),
            routed=sum(1 for fate in self.world.fates() if fate.node),
            routes=routes,
            discovery_age=age,
            devices=self._devices(),
        )

    def metrics(self) -> Iterator[Metric | Histogram]:
        """GET /metrics."""
        looping = self.looping
        yield looping.verdict(self.page().status)
        yield gauge("weft_peers", "Peers in discovery.json, by status and whether they are routed to.", self._fates())
        yield gauge("weft_routes", "Routes that are wanted, by who asked for them.", by("source", self._routes()))
        changes = looping.cycles.of("route")
        yield counter("weft_route_changes_total", "Routes that were added, changed, removed.", by("action", changes))
        groups = Counter(thing.dev for thing in self._actual() if isinstance(thing, NextHopGroup))
        yield gauge("weft_nexthop_groups", "Subnets with several ways (ECMP), by device.", by("device", groups))
        age = self._age()
        samples: list[tuple[Labels, float]] = [((), age)] if age is not None else []
        yield gauge("weft_discovery_file_age_seconds", "Seconds since discovery.json was made.", samples)
        yield from tunnels(self.statistics(self._devices()))
        yield from looping.metrics()

    def _actual(self) -> Iterator[Object]:
        return self.looping.loop.reconciler.actual()

    def _in_kernel(self) -> int:
        """Subnets of others that the kernel has a route of ours to."""
        wanted = {row.destination for row in self.world.routes()}
        return len({thing.dst for thing in self._actual() if isinstance(thing, Route)} & wanted)

    def _devices(self) -> list[str]:
        return sorted(thing.name for thing in self._actual() if isinstance(thing, Link))

    def _peers(self) -> dict[str, int]:
        data = self.world.data
        return {"active": 0, "stale": 0, **Counter(peer.status for peer in data.peers)} if data is not None else {}

    def _routes(self) -> dict[str, int]:
        return {"static-config": 0, "discovery": 0, **Counter(row.source for row in self.world.routes())}

    def _fates(self) -> list[tuple[Labels, float]]:
        counts = Counter((fate.peer.status, str(bool(fate.node)).lower()) for fate in self.world.fates())
        return [((("status", status), ("routed", routed)), count) for (status, routed), count in sorted(counts.items())]

    def _age(self) -> float | None:
        """A clock that was set back makes no file younger than now."""
        data = self.world.data
        return max(self.looping.wall() - data.last_update, 0.0) if data is not None and data.last_update else None


def tunnels(found: Mapping[str, LinkStatistics]) -> Iterator[Metric]:
    """What went through each tunnel, from the kernel's own counters."""
    for what, field in (("bytes", "bytes"), ("packets", "packets"), ("errors", "errors"), ("drops", "dropped")):
        samples = [
            ((("device", device), ("direction", direction)), float(getattr(statistics, f"{prefix}_{field}")))
            for device, statistics in sorted(found.items())
            for direction, prefix in (("receive", "rx"), ("transmit", "tx"))
        ]
        yield counter(f"weft_tunnel_{what}_total", f"{what.capitalize()} of the tunnels' devices.", samples)
