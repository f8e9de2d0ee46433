"""A collector of OpenTelemetry's, as far as traces go: OTLP over HTTP, decoded by OpenTelemetry's own protobuf."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.namespace import Namespace


@dataclass
class Collector:
    """`spans` in the order in which they came. `hung`: while set, nobody is answered."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def take(self, request: ExportTraceServiceRequest) -> None:
        for part in request.resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in part.resource.attributes})
            for scope in part.scope_spans:
                self.spans.extend(scope.spans)

    def cycles(self) -> list[Span]:
        return [span for span in self.spans if span.name == "weft.cycle"]

    def children(self, parent: Span) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


@contextlib.contextmanager
def collector(ns: Namespace | None = None) -> Iterator[Collector]:
    """One on loopback, of the namespace `ns` or of ours."""
    here = Collector()
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            here.asked += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            while here.hung.is_set() and not end.wait(0.05):
                continue
            here.paths.add(self.path)
            here.headers.append(dict(self.headers))
            here.take(ExportTraceServiceRequest.FromString(body))
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            """Nothing."""

    with ns.entered() if ns is not None else contextlib.nullcontext():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield here
    finally:
        end.set()
        server.shutdown()
        thread.join()
        server.server_close()
