"""/metrics: Prometheus' own parser reads what we write."""

from __future__ import annotations

from ipaddress import ip_address

from prometheus_client import parser

from weft.core.health import Counters
from weft.model import Path, Reach
from weft.web.metrics import Metric, Readings, exposition, metrics_of


def reach(node: str, state: str, full: bool | None) -> Reach:
    path = Path(node, "tunnel", "flannel.1", ip_address("10.5.10.0"), ip_address("10.5.20.0"))
    return Reach(path, state, 0.0, full)  # type: ignore[arg-type]


READINGS = Readings(
    health="degraded",
    etcd_connected=True,
    peers={"direct": 2, "relay": 1},
    routes=7,
    undone={"error": 1},
    cycles=12,
    cycle_seconds=0.25,
    repairs=3,
    events={"repair": 3, "health": 1},
    packets={"sent": 100, "received": 99},
    reaches=(reach("babka", "up", True), reach('pi"ta\\\n', "down", None), reach("new", "unknown", False)),
    relays=(("culvert", "lavash"),),
    device="flannel.1",
    counters=Counters(0, 5, 6, 500, 600),
)


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_every_value() -> None:
    found = read(exposition(metrics_of(READINGS)))
    assert found["weft_health_status", (("status", "degraded"),)] == 1
    assert found["weft_health_status", (("status", "healthy"),)] == 0
    assert found["weft_etcd_connected", ()] == 1
    assert found["weft_peers", (("course", "relay"),)] == 1
    assert found["weft_routes", ()] == 7
    assert found["weft_objects_not_done", (("state", "error"),)] == 1
    assert found["weft_cycles_total", ()] == 12
    assert found["weft_cycle_seconds_total", ()] == 0.25
    assert found["weft_repairs_total", ()] == 3
    assert found["weft_events_total", (("kind", "repair"),)] == 3
    assert found["weft_liveness_packets_total", (("direction", "received"),)] == 99
    assert found["weft_path_up", (("node", "babka"), ("path", "tunnel"))] == 1
    assert found["weft_path_up", (("node", 'pi"ta\\\n'), ("path", "tunnel"))] == 0
    assert ("weft_path_up", (("node", "new"), ("path", "tunnel"))) not in found
    assert found["weft_path_full_size", (("node", "new"), ("path", "tunnel"))] == 0
    assert found["weft_relayed", (("node", "culvert"), ("relay", "lavash"))] == 1
    assert found["weft_tunnel_bytes_total", (("device", "flannel.1"), ("direction", "receive"))] == 500
    assert found["weft_tunnel_packets_total", (("device", "flannel.1"), ("direction", "transmit"))] == 6


def test_a_fresh_daemon_has_less_to_tell() -> None:
    found = read(exposition(metrics_of(Readings("starting", False))))
    assert found["weft_health_status", (("status", "starting"),)] == 1
    assert not any(name.startswith("weft_tunnel") for name, _ in found)


def test_kinds_and_help_are_told() -> None:
    text = exposition([Metric("a_total", "counter", "What.", (((("x", "1"),), 2.5),))])
    assert text == '# HELP a_total What.\n# TYPE a_total counter\na_total{x="1"} 2.5\n'
