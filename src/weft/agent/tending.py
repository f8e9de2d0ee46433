"""Looks whether the ladder has something to do, while the registrar runs: hosts that don't answer through the tunnel
although the kernel holds all that it should. Started by `daemons/registrar.py`.

`core/ladder.py` decides, `healing.py` does; here is only when, and what is known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from weft.agent.counters import is_up, read_counters
from weft.agent.healing import Healer
from weft.agent.journal import Journal
from weft.agent.registrar import RegistrarWorld
from weft.core.health import Container
from weft.core.ladder import Decision, LadderOptions, Symptoms, decide
from weft.core.scene import Scene, leased_entries
from weft.core.stale import Wanted, reason
from weft.errors import TargetError

log = logging.getLogger("weft")

LOOK = 2.0
"""Seconds between two looks; they cost nothing while everybody answers."""


class Tending:
    """`pending`: the plan is not carried out. `container`: flannel's, as far as it is known. What is not done, and why,
    the world hears as a problem."""

    def __init__(
        self,
        world: RegistrarWorld,
        healer: Healer,
        options: LadderOptions,
        journal: Journal,
        pending: Callable[[], bool],
    ) -> None:
        self.container: Container | None = None
        self._world = world
        self._healer = healer
        self._options = options
        self._journal = journal
        self._pending = pending
        self._wall = time.time

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            scene = self._world.scene
            held = () if scene is None else (await self.look(scene)).held
            self._world.report("ladder", "; ".join(problem.message for problem in held))

    async def look(self, scene: Scene) -> Decision:
        """Decide once, and do what was decided."""
        down = any(reach.state == "down" for reach in self._world.reaches.values())
        if not down and not (scene.leased and self._stopped()):
            return Decision()  # all is well, as nearly always
        symptoms = self._symptoms(scene)
        if not symptoms.lost and not symptoms.stopped:
            return Decision()
        wanted = leased_entries(scene, frozenset(symptoms.lost))
        try:
            ops = await self._healer.stale(wanted) if wanted.fdb else ()
        except TargetError:
            ops = ()  # no such device: the loop says so
        symptoms = self._symptoms(scene, tuple(map(reason, ops)))
        history, _ = self._healer.history()
        decision = decide(symptoms, history, self._wall(), self._options)
        for step in decision.steps:
            log.warning("%s: %s", step.rung, step.reason)
            done = await self._healer.take(step, wanted if wanted.fdb else Wanted(step.device))
            for line in done.lines:
                log.warning("%s: done: %s", step.rung, line)
                self._journal.note("ladder", step.device, f"{step.rung}: {line}", step.reason)
            for failure in done.failures:
                log.error("%s: %s", step.rung, failure)
                self._journal.note("ladder", step.device, f"{step.rung} failed: {failure}", step.reason)
        if all(self._world.detour(name) for name in symptoms.lost) and not symptoms.stopped:
            return replace(decision, held=())  # nobody misses anything
        return decision

    def _symptoms(self, scene: Scene, stale: tuple[str, ...] = ()) -> Symptoms:
        """Who is reached through a relay because an operator asked for it is not lost. Who is probed by another device,
        or by none (weft's own beside flannel's, DirectRouting), says nothing about this one."""
        world = self._world
        device = world.device
        direct = {n.id for n in scene.nodes if world.detour(n.id) != "asked"}
        tunnels = {
            r.path.node: r for r in world.reaches.values() if r.path.kind == "tunnel" and r.path.device == device
        }
        beside = {r.path.node for r in world.reaches.values() if r.path.kind == "underlay" and r.state == "up"}
        return Symptoms(
            device=device,
            reached=frozenset(name for name, reach in tunnels.items() if reach.state == "up"),
            lost={name: reach.since for name, reach in tunnels.items() if reach.state == "down" and name in direct},
            beside=frozenset(beside),
            stale=stale,
            down=read_counters(device, 0.0) is not None and not is_up(device),
            pending=self._pending(),
            stopped=self._stopped() if scene.leased else "",
        )

    def _stopped(self) -> str:
        one = self.container
        return f"container {one.name} has stopped" if one is not None and one.state == "stopped" else ""
