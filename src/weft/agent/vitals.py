"""How a registrar does, as values: for the verdict (`core/health.py`), for /health and for /metrics. Wired by
`daemons/registrar.py`; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from weft import __version__
from weft.agent.counters import is_up, read_counters
from weft.agent.loop import Loop
from weft.agent.registrar import RegistrarWorld
from weft.core.health import Container, Etcd, Flow, Overlay, Undone, Vitals, flow
from weft.objects import Route


@dataclass(slots=True)
class Pulse:
    """`interval`: seconds (INTERVAL). `settled`: the first plan was carried out, and etcd has had what this host tells.
    `wall`: seconds since 1970. `container`: flannel's, None if none is watched."""

    loop: Loop[RegistrarWorld]
    interval: float
    settled: asyncio.Event
    wall: Callable[[], float] = time.time
    started: float = field(default_factory=time.time)
    container: Container | None = None
    _etcd: Etcd | None = None
    _flow: Flow | None = None

    @property
    def etcd(self) -> Etcd:
        """Whether etcd answers."""
        world = self.loop.world
        problem = world.broken.get("etcd")
        known, reachable = world.registry is not None, world.registry is not None and problem is None
        before = self._etcd
        since = before.since if before is not None and before.reachable == reachable else self.wall()
        if before is None:
            since = self.started
        self._etcd = Etcd(reachable, since, known, problem.message if problem is not None else "")
        return self._etcd

    @property
    def flow(self) -> Flow | None:
        """What goes through the tunnel's device."""
        counters = read_counters(self.loop.world.device, self.wall())
        self._flow = flow(self._flow, counters) if counters is not None else None
        return self._flow

    def overlay(self) -> Overlay:
        """The device that routes go out of."""
        world = self.loop.world
        leased = world.scene is not None and world.scene.leased
        beside = leased or world.device.startswith("flannel.")
        present = is_up(world.device)
        return Overlay(world.device, beside, present, leased)

    def vitals(self) -> Vitals:
        """Everything that a verdict depends on."""
        world, account = self.loop.world, self.loop.reconciler.account
        name = self.loop.reconciler.name
        undone = (
            Undone(name(key), status.state, status.message, status.since, status.attempts)
            for key, status in account.statuses.items()
            if status.state != "done"
        )
        return Vitals(
            now=self.wall(),
            interval=self.interval,
            etcd=self.etcd,
            overlay=self.overlay(),
            planned=self.loop.ready.is_set(),
            registered=self.settled.is_set(),
            waiting=tuple(world.waiting()),
            problems=tuple(p for p in world.problems() if p.subject != "etcd"),
            conflicts=world.conflicts(),
            courses=world.chart.problems,
            undone=tuple(undone),
            peers=world.others(),
            relayed=frozenset(n for n, course in world.chart.courses.items() if course.kind == "relay"),
            reaches=tuple(world.reaches.values()),
            container=self.container,
            flow=self.flow,
        )

    # What the pages tell beside the verdict.

    @property
    def version(self) -> str:
        return __version__

    @property
    def uptime(self) -> float:
        """Seconds."""
        return self.wall() - self.started

    def courses(self) -> Mapping[str, int]:
        """How many hosts are reached by which kind of way."""
        return Counter(course.kind for course in self.loop.world.chart.courses.values())

    def undone(self) -> Mapping[str, int]:
        """Objects that are not as planned, by state."""
        return Counter(s.state for s in self.loop.reconciler.account.statuses.values() if s.state != "done")

    def routes(self) -> int:
        """Routes of ours in the kernel."""
        return sum(isinstance(thing, Route) for thing in self.loop.reconciler.actual())

    def relays(self) -> tuple[tuple[str, str], ...]:
        """Node, and the node through which it is reached."""
        courses = self.loop.world.chart.courses.items()
        return tuple(sorted((name, course.relay) for name, course in courses if course.kind == "relay"))
