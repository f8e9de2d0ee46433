"""What a registrar answers on /health and /metrics. Made by `daemons/registrar.py` of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from weft.agent.chronicle import Chronicle
from weft.agent.journal import HealthFile, Journal
from weft.agent.liveness import Liveness
from weft.agent.vitals import Pulse
from weft.web.metrics import Metric, Readings, metrics_of
from weft.web.pages import HealthPage
from weft.wire.health import status_of


@dataclass(frozen=True, slots=True)
class RegistrarPages:
    """`name`: this host's among the others."""

    name: str
    pulse: Pulse
    health: HealthFile
    journal: Journal
    chronicle: Chronicle
    liveness: Liveness

    def page(self) -> HealthPage:
        """GET /health."""
        pulse = self.pulse
        return HealthPage(
            **msgspec.structs.asdict(status_of(self.health.last, self.name, self.health.judged)),
            version=pulse.version,
            uptime=pulse.uptime,
            peers=dict(pulse.courses()),
            routes=pulse.routes(),
            not_done=sum(pulse.undone().values()),
            etcd_connected=pulse.etcd.reachable,
        )

    def metrics(self) -> list[Metric]:
        """GET /metrics."""
        pulse, world, account = self.pulse, self.pulse.loop.world, self.pulse.loop.reconciler.account
        flow, packets = pulse.flow, self.liveness.counters()
        readings = Readings(
            health=self.health.last.status,
            etcd_connected=pulse.etcd.reachable,
            peers=pulse.courses(),
            routes=pulse.routes(),
            undone=pulse.undone(),
            cycles=account.cycles,
            cycle_seconds=self.chronicle.seconds,
            last_cycle_seconds=account.last.seconds,
            repairs=self.chronicle.repairs,
            events=self.journal.counts,
            packets={name: packets.get(name, 0) for name in ("sent", "received")},
            reaches=tuple(world.reaches.values()),
            relays=pulse.relays(),
            device=world.device,
            counters=flow.last if flow is not None else None,
        )
        return list(metrics_of(readings))
