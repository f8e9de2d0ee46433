"""What a daemon may tell under /health and /metrics, whichever server carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from weft.core.health import Status
from weft.web.metrics import Histogram, Metric
from weft.wire.health import HealthStatus

WELL = frozenset({"healthy", "degraded"})
"""Statuses that a load balancer may go on with: GET /health answers 200, otherwise 503."""


class Page(Protocol):
    """A msgspec Struct that becomes JSON as it stands."""

    @property
    def status(self) -> Status: ...


class HealthPage(HealthStatus, frozen=True, kw_only=True):
    """The registrar's GET /health: health_status.json, and what it has no place for. `uptime`: seconds. `peers`: other
    hosts by the way that they are reached. `not_done`: objects that are not as planned."""

    version: str
    uptime: float
    peers: dict[str, int]
    routes: int
    not_done: int
    etcd_connected: bool


@dataclass(frozen=True, slots=True)
class Pages:
    """What else a daemon answers. `name`: what /healthz says is running. None: there is no such page (404)."""

    name: str = "flanneld"
    health: Callable[[], Page] | None = None
    metrics: Callable[[], Iterable[Metric | Histogram]] | None = None
