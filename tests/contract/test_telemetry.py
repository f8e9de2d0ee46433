"""Traces: from a real loop, through the real helper and SDK, to a collector on loopback; and everything that may go
wrong with those, while the daemon goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.collector import Collector, collector
from tests.support.eventually import patience, soon, until
from tests.support.namespace import namespace
from tests.support.needs import needs_root
from tests.support.stacks import data, peer, world
from weft.agent.cycles import Cycle, Cycles
from weft.agent.loop import Loop
from weft.agent.reconcile import Moments, Reconciler
from weft.agent.status import Report
from weft.daemons import telemetry
from weft.daemons.telemetry import Helper, asked, passed_on, start
from weft.errors import WeftError, WireError
from weft.targets.memory import FIREWALL_KINDS, KERNEL_KINDS, MemoryTarget
from weft.telemetry.sender import MOST_EVENTS, Telemetry
from weft.telemetry.spans import LONGEST, Span, Trace, decode, encode

B = peer("stack-b", "10.0.0.2", "192.168.100.2", "172.21.0.0/16")
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "10"}


@pytest.fixture(autouse=True)
def _a_long_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer than a daemon would wait to start the helper and to end it."""
    monkeypatch.setattr(telemetry, "FAREWELL", 60.0)


def environment(url: str, **more: str) -> dict[str, str]:
    return {**os.environ, **QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": url, **more}


def started(settings: Mapping[str, str]) -> Helper:
    helper, problems = start(settings, "weft-router")
    assert problems == ()
    assert helper is not None
    return helper


@pytest.fixture
def here() -> Iterator[Collector]:
    with collector() as made:
        yield made


def a_cycle(number: int = 0) -> Cycle:
    return Cycle(Moments(1.0, 1.1, 1.2, 1.4), 1_700_000_000.0 + number, Report(), 2, 3, 0)


async def test_each_cycle_of_a_real_loop_is_a_trace(here: Collector) -> None:
    settings = environment(
        here.url,
        OTEL_SERVICE_NAME="stack-a-router",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test,host.name=h1",
        OTEL_EXPORTER_OTLP_HEADERS="x-token=secret",
    )
    helper = started(settings)
    cycles = Cycles(helper.telemetry)
    kernel = MemoryTarget((*KERNEL_KINDS, *FIREWALL_KINDS))
    routes = world()
    routes.wishes = type(routes.wishes)(routes.wishes.identity, "stack-a", routes.wishes.options, "")
    loop = Loop(routes, Reconciler([kernel]), 60.0)
    began = time.time()
    routes.data = data(B)
    cycles.event("discovery.json", began, {"weft.peers": 1, "weft.last_update": 12.5})
    await loop.step()
    cycles.observe(loop)
    cycles.observe(loop)  # nothing happened since
    await soon(lambda: len(here.spans) == 4, "the first trace")
    changes = len(loop.reconciler.account.last.done)
    kernel.faults.fail_next(1)
    routes.data = data(B, peer("stack-c", "10.0.0.3", "192.168.100.3", "172.22.0.0/16"))
    await loop.step()
    cycles.observe(loop)
    await soon(lambda: len(here.spans) == 8, "the second trace")
    helper.close()
    assert helper.process.returncode == 0
    first, second = here.cycles()
    assert first.trace_id != second.trace_id
    parts = here.children(first)
    assert list(parts) == ["weft.read", "weft.plan", "weft.apply"]
    assert {part.trace_id for part in parts.values()} == {first.trace_id}
    told = {pair.key: pair.value.int_value for pair in first.attributes}
    assert (told["weft.peers"], told["weft.routes"], told["weft.refused"]) == (1, 2, 0)
    assert told["weft.changes"] == changes
    assert {pair.key for pair in parts["weft.apply"].attributes} >= {"weft.add.link", "weft.add.route", "weft.add.fdb"}
    (event,) = first.events
    assert (event.name, event.time_unix_nano) == ("discovery.json", round(began * 1e9))
    assert {pair.key for pair in event.attributes} == {"weft.peers", "weft.last_update"}
    assert began - 1 < first.start_time_unix_nano / 1e9 <= first.end_time_unix_nano / 1e9 < began + patience(30)
    for span in parts.values():
        assert first.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= first.end_time_unix_nano
    assert {pair.key: pair.value.int_value for pair in second.attributes}["weft.refused"] >= 1
    assert second.status.code == 2, "an error"
    assert not second.events
    assert here.paths == {"/v1/traces"}
    resource = here.resources[0]
    assert (resource["service.name"], resource["deployment.environment"]) == ("stack-a-router", "test")
    assert resource["service.version"] == "0.1.0"
    assert here.headers[0]["x-token"] == "secret"


def test_without_a_name_the_daemon_has_its_own_and_what_is_left_is_told_at_the_end(here: Collector) -> None:
    helper = started({**environment(here.url, OTEL_BSP_SCHEDULE_DELAY="60000")})
    helper.telemetry.cycle(a_cycle())
    helper.close()
    assert helper.process.returncode == 0
    assert here.resources[0]["service.name"] == "weft-router"
    (cycle,) = here.cycles()
    assert cycle.start_time_unix_nano == 1_700_000_001_000_000_000
    spans = here.children(cycle)
    took = {name: (span.end_time_unix_nano - span.start_time_unix_nano) // 1_000_000 for name, span in spans.items()}
    assert took == {"weft.read": 100, "weft.plan": 100, "weft.apply": 200}


@needs_root
def test_the_helper_has_no_capability_and_no_secret(here: Collector) -> None:
    helper = started(environment(here.url, KEY="secret", ETCD_PASSWORD="secret"))
    folder = Path(f"/proc/{helper.process.pid}")
    try:
        lines = (line.split() for line in (folder / "status").read_text().splitlines())
        held = {line[0]: line[1] for line in lines if line[0].startswith("Cap")}
        assert {held[name] for name in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "CapBnd:")} == {"0" * 16}
        assert "NoNewPrivs:\t1" in (folder / "status").read_text()
        assert b"secret" not in (folder / "environ").read_bytes()
        assert os.getsid(helper.process.pid) != os.getsid(0), "a signal to the daemon's group is not for it"
    finally:
        helper.close()


@needs_root
def test_a_router_can_not_get_at_the_helpers_sockets(here: Collector) -> None:
    """It has the same user and NET_ADMIN besides: without more, the kernel would let it write into the helper."""
    helper = started(environment(here.url))
    opened = f"open('/proc/{helper.process.pid}/mem', 'r+b')"
    code = f"from weft.daemons.privileges import drop; drop(frozenset({{'NET_ADMIN'}})); {opened}"
    try:
        until(lambda: f"{1 << signal.SIGTERM - 1:x}" in _ignored(helper), "the helper to be up")

        def is_refused() -> bool:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            return "PermissionError" in done.stderr

        until(is_refused, "a helper that is closed to a router")
    finally:
        helper.close()


def test_signals_that_end_the_daemon_do_not_end_it_first(here: Collector) -> None:
    helper = started(environment(here.url, OTEL_BSP_SCHEDULE_DELAY="60000"))
    until(lambda: f"{1 << signal.SIGTERM - 1:x}" in _ignored(helper), "the helper to be up")
    helper.process.send_signal(signal.SIGTERM)
    helper.telemetry.cycle(a_cycle())
    helper.close()
    assert len(here.cycles()) == 1


def _ignored(helper: Helper) -> str:
    text = Path(f"/proc/{helper.process.pid}/status").read_text()
    ignored = int(next(line.split()[1] for line in text.splitlines() if line.startswith("SigIgn")), 16)
    return f"{ignored & 1 << signal.SIGTERM - 1:x}"


def test_a_helper_that_stands_still_costs_nothing_but_its_traces(here: Collector) -> None:
    helper = started(environment(here.url))
    helper.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(3000):
        helper.telemetry.cycle(a_cycle(number))
    assert time.monotonic() - began < patience(2.0)
    assert helper.telemetry.dropped > 1000
    assert helper.telemetry.sent + helper.telemetry.dropped == 3000
    helper.process.send_signal(signal.SIGCONT)
    until(lambda: len(here.cycles()) == helper.telemetry.sent, "what was not dropped")
    helper.close()


def test_a_helper_that_is_killed_is_told_once(here: Collector, caplog: pytest.LogCaptureFixture) -> None:
    helper = started(environment(here.url))
    helper.process.kill()
    helper.process.wait()
    for number in range(3):
        helper.telemetry.cycle(a_cycle(number))
    assert (helper.telemetry.sent, helper.telemetry.dropped) == (0, 3)
    assert [record.message for record in caplog.records] == [
        "traces are no longer sent: the process that exports them has ended (Broken pipe)"
    ]
    helper.close()


def test_a_collector_that_hangs_or_is_not_there_holds_up_nobody(
    here: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "FAREWELL", 0.3)
    here.hung.set()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for url in (here.url, closed):
            helper = started(environment(url))
            began = time.monotonic()
            for number in range(100):
                helper.telemetry.cycle(a_cycle(number))
            assert time.monotonic() - began < patience(1.0)
            assert helper.telemetry.sent == 100
            if url == here.url:
                until(lambda: here.asked, "the helper to ask")
            helper.close()
            assert helper.process.returncode is not None


@needs_root
def test_a_confined_router_s_cycles_are_told() -> None:
    with namespace("otel") as ns, collector(ns) as inside:
        settings = [f"{name}={value}" for name, value in (*QUICK.items(), ("OTEL_EXPORTER_OTLP_ENDPOINT", inside.url))]
        said = ns.run("env", *settings, sys.executable, "-m", "tests.support.unprivileged", "exporting")
        got = json.loads(said)
        assert (got["said"], got["sent"], got["ended"]) == ("", "1", "0")
        assert (got["helper"], got["inet tcp"]) == ("0" * 16, "EACCES")
        (cycle,) = inside.cycles()
        assert [event.name for event in cycle.events] == ["discovery.json"]


# What is asked for. ---------------------------------------------------------------------------------------------------

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            True,
        ),
    ],
)
def test_whether_traces_are_sent(settings: dict[str, str], wanted: bool) -> None:
    assert asked(settings) == wanted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER=jaeger"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
    ],
)
def test_what_can_not_be_done_is_said(settings: dict[str, str], said: str) -> None:
    with pytest.raises(WeftError, match=said):
        asked(settings)
    helper, (problem,) = start(settings, "weft-router")
    assert helper is None
    assert problem.message.startswith(f"no traces are sent: {said}")


@pytest.mark.parametrize("package", ["nothing_here.at.all", "opentelemetry.nothing_here"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "PACKAGE", package)
    helper, (problem,) = start(ENDPOINT, "weft-router")
    assert helper is None
    assert problem.message.endswith("OpenTelemetry isn't installed: pip install 'weft[otel]'")


def test_what_the_helper_sees_of_the_environment() -> None:
    given = {"OTEL_X": "1", "PATH": "/bin", "https_proxy": "p", "KEY": "k", "WEFT_KEY": "k", "DNS_KEY": "k"}
    assert passed_on(given) == {"OTEL_X": "1", "PATH": "/bin", "https_proxy": "p"}


# Between the two. -----------------------------------------------------------------------------------------------------


def test_a_trace_that_is_too_long_is_dropped_and_events_are_bounded() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        sender = Telemetry(ours)
        for number in range(100):
            sender.event("discovery.json", float(number), {"n": number})
        sender.cycle(a_cycle())
        events = decode(its.recv(LONGEST)).root.events
        assert [event.attributes["n"] for event in events] == list(range(100 - MOST_EVENTS, 100))
        sender.event("x", 0.0, {"long": "x" * LONGEST})
        sender.cycle(a_cycle())
        assert (sender.sent, sender.dropped) == (1, 1)


@given(st.binary(max_size=200))
def test_octets_are_a_trace_or_a_wire_error(octets: bytes) -> None:
    try:
        trace = decode(octets)
    except WireError:
        return
    assert decode(encode(trace)) == trace


def test_a_trace_there_and_back() -> None:
    trace = Trace(Span("a", 1, 2, {"x": 1.5, "y": "z", "w": True}, error="e"), (Span("b", 1, 2),))
    assert decode(encode(trace)) == trace
