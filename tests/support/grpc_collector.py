"""A collector that takes spans and metrics over gRPC, with OpenTelemetry's own service definition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


class _Meters(MetricsServiceServicer):
    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: ExportMetricsServiceRequest, context: Any) -> ExportMetricsServiceResponse:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self.names += [metric.name for metric in scope.metrics]
        return ExportMetricsServiceResponse()


class GrpcCollector(TraceServiceServicer):
    """Counts exports and keeps their spans' names."""

    def __init__(self) -> None:
        self.exports = 0
        self.names: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        self._meters = _Meters()
        add_MetricsServiceServicer_to_server(self._meters, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{port}"
        self._server.start()

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that came."""
        return self._meters.names

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        """OTLP's one method."""
        self.exports += 1
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        return ExportTraceServiceResponse()

    def close(self) -> None:
        """Stop at once."""
        self._server.stop(0).wait()
