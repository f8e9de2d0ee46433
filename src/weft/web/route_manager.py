"""What `weft route-manager` answers on /health and /metrics. Made by `daemons/route_manager.py` of its parts;
docs/cloud-routes.md lists everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from weft.core.health import Status
from weft.targets.cloud import Contents
from weft.web.looping import MOST_PROBLEMS, LoopHealth, Looping
from weft.web.metrics import Histogram, Metric, by, counter, gauge

SLOW = 30.0
"""Seconds that a cycle's work may take before that is worth a word: fifty changes take less, where the API answers."""


class RoomRow(msgspec.Struct, frozen=True):
    """A quota, as it was read last. `free`: routes that still fit."""

    table: str
    what: str
    limit: int
    free: int


class RouteManagerHealth(LoopHealth, frozen=True, kw_only=True):
    """GET /health. `tables`: routes of ours in each, as read last. `leading`: this manager is the one that writes;
    `leader`: who is, "" while nobody is known. `quota`: where one was read."""

    backend: str
    tables: dict[str, int]
    leading: bool
    leader: str
    quota: list[RoomRow]


class Provider(Protocol):
    """What is asked of `targets.cloud.RouteTables`."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> tuple[str, ...]: ...

    @property
    def calls(self) -> Mapping[tuple[str, str], int]: ...


@dataclass(frozen=True, slots=True)
class Leadership:
    """`leading`: may write now. `leader`: a name, "" for nobody known. `elected`: there are elections at all."""

    leading: bool
    leader: str
    elected: bool = True


@dataclass(frozen=True, slots=True)
class RouteManagerPages:
    """`rooms`: quotas as they were read last. `leadership`: who writes. `held`: what the tables held when they were
    read last, None where another manager knows better."""

    looping: Looping
    provider: Provider
    rooms: Callable[[], list[RoomRow]]
    leadership: Callable[[], Leadership]
    held: Callable[[], Contents | None]

    def page(self) -> RouteManagerHealth:
        """GET /health."""
        looping, now, tables = self.looping, self.leadership(), self._tables()
        known = looping.loop.world.peers
        status, message = self._status(now)
        return RouteManagerHealth(
            status=status,
            peer_count=len(known.items) if known is not None else 0,
            route_count=sum(tables.values()),
            uptime=looping.uptime,
            message=message,
            name=looping.loop.world.name,
            version=looping.version,
            waiting_for=looping.loop.world.waiting(),
            problems=looping.problems()[:MOST_PROBLEMS],
            not_done=sum(looping.undone().values()),
            last_cycle_ms=looping.cycles.last * 1000,
            backend=self.provider.name,
            tables=tables,
            leading=now.leading,
            leader=now.leader,
            quota=self.rooms(),
        )

    def metrics(self) -> Iterator[Metric | Histogram]:
        """GET /metrics."""
        now = self.leadership()
        yield self.looping.verdict(self._status(now)[0])
        yield gauge("weft_leading", "Whether this manager is the one that writes.", [((), float(now.leading))])
        yield gauge("weft_cloud_routes", "Routes of ours, by table, as read last.", by("table", self._tables()))
        calls = [((("method", m), ("outcome", o)), count) for (m, o), count in sorted(self.provider.calls.items())]
        yield counter("weft_cloud_calls_total", "Calls of the provider's API.", calls)
        rooms = {row.table: row for row in self.rooms()}
        free = {table: row.free for table, row in rooms.items()}
        yield gauge("weft_cloud_quota_free", "Routes that still fit, by table.", by("table", free))
        limit = {table: row.limit for table, row in rooms.items()}
        yield gauge("weft_cloud_quota_limit", "Routes that may be in all, by table.", by("table", limit))
        yield from self.looping.metrics()

    def _status(self, now: Leadership) -> tuple[Status, str]:
        """Who stands by has nothing to do, and does it well, as long as it could take over."""
        status, message = self.looping.status(self.looping.failing("target", self.provider.name))
        if now.leading and status == "healthy" and self.looping.loop.at_work > SLOW:
            seconds = self.looping.loop.at_work
            return (
                "degraded",
                f"{self.provider.name} has not answered for {seconds:.0f} s; whatever changes since, waits",
            )
        if status not in ("starting", "healthy") or not now.elected or now.leading or not now.leader:
            return status, message
        problems = self.looping.problems()
        if not problems:
            return "healthy", f"standing by: {now.leader} writes"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return "degraded", f"standing by, {now.leader} was seen to write last: {problems[0]}{more}"

    def _tables(self) -> dict[str, int]:
        held = self.held()
        counts = Counter(route.table for route in held.routes.values()) if held is not None else {}
        return {**dict.fromkeys(self.provider.tables, 0), **counts}
