"""A receiver of OTLP over HTTP, for the spans that an engine exports by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it came over the wire."""

    name: str
    trace_id: int
    span_id: int
    parent_span_id: int
    attributes: dict[str, Any]


class Collector:
    """What arrived so far."""

    def __init__(self) -> None:
        self.url = ""
        self._spans: list[Received] = []
        self._lock = threading.Lock()

    def spans(self) -> list[Received]:
        """All of them."""
        with self._lock:
            return list(self._spans)

    def of_trace(self, trace_id: int) -> list[Received]:
        """The spans of one trace."""
        return [span for span in self.spans() if span.trace_id == trace_id]

    def take(self, body: bytes) -> None:
        """Add what one export request holds."""
        request = ExportTraceServiceRequest.FromString(body)
        spans = [span for part in request.resource_spans for scope in part.scope_spans for span in scope.spans]
        with self._lock:
            for span in spans:
                marks = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}
                ids = [int.from_bytes(raw, "big") for raw in (span.trace_id, span.span_id, span.parent_span_id)]
                self._spans.append(Received(span.name, *ids, marks))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Receive until the block ends."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
