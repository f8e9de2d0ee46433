"""GET /metrics: the text that Prometheus reads, and what the registrar counts. `daemons/registrar.py` fills in the
Readings; what docker-router's two daemons count is in `router.py` and `discovery.py`.

The text format is written here (https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4): a dozen
values that the daemon has anyway need no registry, and prometheus-client costs 1.0 MiB of RSS on top of aiohttp
(measured; the agent is to stay under 60 MiB). Its parser is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from weft import __version__
from weft.core.health import Counters, Status
from weft.model import Reach

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: a name, what it is, and a value per set of labels."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took. `buckets`: how many took no longer than so many seconds, each with those before it."""

    name: str
    help: str
    buckets: tuple[tuple[float, int], ...]
    count: int
    sum: float


@dataclass(frozen=True, slots=True)
class Readings:
    """What there is to tell. Counters count from the start of the daemon.

    `peers`: other hosts by course (direct, relay, underlay, fdb, none). `undone`: objects by state. `cycle_seconds`: of
    all cycles together. `packets`: liveness packets by direction (sent, received). `relays`: (node, the node that it is
    reached through). `counters`: of the tunnel device."""

    health: Status
    etcd_connected: bool
    peers: Mapping[str, int] = field(default_factory=dict)
    routes: int = 0
    undone: Mapping[str, int] = field(default_factory=dict)
    cycles: int = 0
    cycle_seconds: float = 0.0
    last_cycle_seconds: float = 0.0
    repairs: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    packets: Mapping[str, int] = field(default_factory=dict)
    reaches: tuple[Reach, ...] = ()
    relays: tuple[tuple[str, str], ...] = ()
    device: str = ""
    counters: Counters | None = None


def exposition(metrics: Iterable[Metric | Histogram]) -> str:
    """The text of a scrape."""
    return "".join(line for metric in metrics for line in _lines(metric))


def metrics_of(readings: Readings) -> Iterator[Metric]:
    """Everything under `weft_`; docs/registrar-health.md lists them."""
    r = readings
    yield gauge("weft_info", "Version of weft.", [((("version", __version__),), 1)])
    states = [((("status", s),), float(s == r.health)) for s in get_args(Status)]
    yield gauge("weft_health_status", "1 for the status that holds.", states)
    yield gauge("weft_etcd_connected", "Whether etcd answers.", [((), float(r.etcd_connected))])
    yield gauge("weft_peers", "Other hosts, by the way that they are reached.", by("course", r.peers))
    yield gauge("weft_routes", "Routes of weft's in the kernel.", [((), r.routes)])
    yield gauge("weft_objects_not_done", "Kernel objects that are not as planned, by state.", by("state", r.undone))
    yield counter("weft_cycles_total", "Cycles of the loop.", [((), r.cycles)])
    yield counter("weft_cycle_seconds_total", "Seconds that all cycles took.", [((), r.cycle_seconds)])
    yield gauge("weft_last_cycle_seconds", "Seconds that the last cycle took.", [((), r.last_cycle_seconds)])
    yield counter("weft_repairs_total", "Objects that somebody changed and weft mended.", [((), r.repairs)])
    yield counter("weft_events_total", "Events, by kind (events.log).", by("kind", r.events))
    yield counter("weft_liveness_packets_total", "BFD packets, by direction.", by("direction", r.packets))
    yield gauge("weft_path_up", "Whether a host answers on a path: 1, 0; absent while unknown.", _paths(r.reaches))
    yield gauge("weft_path_full_size", "Whether full-size packets pass.", _full(r.reaches))
    relays = [((("node", node), ("relay", relay)), 1.0) for node, relay in r.relays]
    yield gauge("weft_relayed", "Hosts that are reached through another one.", relays)
    yield from _device(r.device, r.counters)


def _device(device: str, counters: Counters | None) -> Iterator[Metric]:
    if counters is None:
        return
    for what in ("bytes", "packets"):
        values = (("receive", getattr(counters, f"rx_{what}")), ("transmit", getattr(counters, f"tx_{what}")))
        samples = [((("device", device), ("direction", direction)), float(value)) for direction, value in values]
        yield counter(f"weft_tunnel_{what}_total", f"{what.capitalize()} through the tunnel's device.", samples)


def _paths(reaches: Iterable[Reach]) -> list[tuple[Labels, float]]:
    return [(_path(r), float(r.state == "up")) for r in reaches if r.state != "unknown"]


def _full(reaches: Iterable[Reach]) -> list[tuple[Labels, float]]:
    return [(_path(r), float(r.full)) for r in reaches if r.full is not None]


def _path(reach: Reach) -> Labels:
    return (("node", reach.path.node), ("path", reach.path.kind))


def by(label: str, counts: Mapping[str, int]) -> list[tuple[Labels, float]]:
    return [(((label, name),), float(count)) for name, count in sorted(counts.items())]


def gauge(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    return Metric(name, "gauge", text, tuple(samples))


def counter(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    return Metric(name, "counter", text, tuple(samples))


def _lines(metric: Metric | Histogram) -> Iterator[str]:
    if isinstance(metric, Histogram):
        yield from _buckets(metric)
        return
    yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
    for labels, value in metric.samples:
        shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
        yield f"{metric.name}{{{shown}}} {_number(value)}\n" if labels else f"{metric.name} {_number(value)}\n"


def _buckets(metric: Histogram) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} histogram\n"
    for bound, number in metric.buckets:
        yield f'{metric.name}_bucket{{le="{bound!r}"}} {number}\n'
    yield f'{metric.name}_bucket{{le="+Inf"}} {metric.count}\n'
    yield f"{metric.name}_sum {_number(metric.sum)}\n{metric.name}_count {metric.count}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
