"""The helper's end: what the daemon tells becomes spans of OpenTelemetry's SDK, which sends them by OTLP over HTTP. Run
by `daemons/telemetry.py` in a process of its own, the only one that loads the SDK.

What of OTEL_* concerns the SDK and its exporter is theirs to read: resource, sampler, batches, headers, TLS, timeout.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode, Tracer

from weft import __version__
from weft.errors import WireError
from weft.telemetry.spans import LONGEST, Span, Trace, decode

log = logging.getLogger("weft")

QUIET = 60.0
"""Seconds between two sentences of the SDK's: a collector that is down would fill the log."""


class _OneAMinute(logging.Filter):
    """Lets one sentence through, and then none for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + QUIET
        return True


def serve(end: socket.socket, service: str) -> None:
    """Export what comes from the daemon until it closes its end; then what is left, for as long as the SDK takes."""
    _set_up_log()
    provider = TracerProvider(resource=_resource(service))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("weft", __version__)
    while packet := end.recv(LONGEST + 1):
        with contextlib.suppress(WireError):  # it comes from our own other end
            tell(tracer, decode(packet))
    provider.shutdown()


def tell(tracer: Tracer, trace: Trace) -> None:
    """One cycle."""
    root = _start(tracer, trace.root, None)
    for child in trace.children:
        _start(tracer, child, root).end(child.end)
    root.end(trace.root.end)


def _start(tracer: Tracer, told: Span, parent: api.Span | None) -> api.Span:
    context = api.set_span_in_context(parent) if parent is not None else None
    span = tracer.start_span(told.name, context, attributes=told.attributes, start_time=told.start)
    for event in told.events:
        span.add_event(event.name, event.attributes, event.at)
    if told.error:
        span.set_status(Status(StatusCode.ERROR, told.error))
    return span


def _resource(service: str) -> Resource:
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win over what we say of ourselves."""
    told = Resource.create()
    if str(told.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        told = told.merge(Resource({SERVICE_NAME: service}))
    return Resource({SERVICE_VERSION: __version__}).merge(told)


def _set_up_log() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s traces: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OneAMinute())
