"""What `weft discovery` answers on /health and /metrics. Made by `daemons/discovery.py` of its parts; docs/telemetry.md
lists everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from weft.model import Known, Node, Peer
from weft.web.looping import MOST_PROBLEMS, LoopHealth, Looping
from weft.web.metrics import Histogram, Labels, Metric, by, counter, gauge

MESSAGES = ("sent", "received")
REFUSED = "refused"


class Hearing(Protocol):
    """What is asked of `agent.discovering.DiscoveryWorld`."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> str: ...

    @property
    def data(self) -> tuple[Peer, ...]:
        """The peers of the last cycle."""
        ...

    @property
    def peers(self) -> Known[Node] | None: ...

    def waiting(self) -> list[str]: ...


class DiscoveryHealth(LoopHealth, frozen=True, kw_only=True):
    """GET /health of a discovery. `peers`: by status. `route_count` counts the networks that they announce. `complete`:
    the discovery vouches that nobody is missing; until then a router adds and removes nothing."""

    mode: str
    peers: dict[str, int]
    complete: bool


@dataclass(frozen=True, slots=True)
class DiscoveryPages:
    """`counters`: of all discoveries together (`discovery.Discovery.counters`)."""

    looping: Looping
    world: Hearing
    counters: Callable[[], Mapping[str, int]]

    def page(self) -> DiscoveryHealth:
        """GET /health."""
        looping, world, known = self.looping, self.world, self.world.peers
        status, message = looping.status(looping.failing("file", "files"))
        return DiscoveryHealth(
            status=status,
            peer_count=len(world.data),
            route_count=sum(len(network.subnets) for peer in world.data for network in peer.node.networks),
            uptime=looping.uptime,
            message=message,
            name=world.name,
            version=looping.version,
            waiting_for=world.waiting(),
            problems=looping.problems()[:MOST_PROBLEMS],
            not_done=sum(looping.undone().values()),
            last_cycle_ms=looping.cycles.last * 1000,
            mode=world.mode,
            peers=self._peers(),
            complete=known is not None and known.complete,
        )

    def metrics(self) -> Iterator[Metric | Histogram]:
        """GET /metrics."""
        looping, counters, known = self.looping, self.counters(), self.world.peers
        yield looping.verdict(self.page().status)
        yield gauge("weft_discovery_mode", "How the stacks find each other.", [((("mode", self.world.mode),), 1)])
        complete = float(known is not None and known.complete)
        yield gauge("weft_discovery_complete", "Whether the discovery vouches for its set.", [((), complete)])
        yield gauge("weft_peers", "Peers, by status.", by("status", self._peers()))
        yield counter("weft_messages_total", "Messages, by direction and type.", _messages(counters))
        refused = {name.partition(".")[2]: count for name, count in counters.items() if name.startswith(f"{REFUSED}.")}
        yield counter("weft_refused_total", "Messages that were not believed, by reason.", by("reason", refused))
        others = {name: count for name, count in counters.items() if name.partition(".")[0] not in (*MESSAGES, REFUSED)}
        yield counter("weft_discovery_total", "What else this mode counts, by name.", by("what", others))
        written = sum(looping.cycles.done[action, "file"] for action in ("add", "change"))
        yield counter("weft_file_writes_total", "Times that discovery.json was written.", [((), written)])
        failed = sum(count for (_, kind), count in looping.cycles.refused.items() if kind == "file")
        yield counter("weft_file_failures_total", "Times that it could not be.", [((), failed)])
        yield from looping.metrics()

    def _peers(self) -> dict[str, int]:
        return {"active": 0, "stale": 0, **Counter(peer.status for peer in self.world.data)}


def _messages(counters: Mapping[str, int]) -> list[tuple[Labels, float]]:
    found: list[tuple[Labels, float]] = []
    for name, count in sorted(counters.items()):
        direction, _, kind = name.partition(".")
        if direction in MESSAGES and kind:
            found.append(((("direction", direction), ("type", kind)), count))
    return found
