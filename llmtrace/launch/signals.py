"""OTLP's variables: each there for all signals and for one, whose own goes before; and the exporter of each signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

Signal = Literal["TRACES", "METRICS", "LOGS"]
PATHS: Final[dict[Signal, str]] = {"TRACES": "/v1/traces", "METRICS": "/v1/metrics", "LOGS": "/v1/logs"}
"""What OTLP over HTTP adds to the address that is there for all signals."""


def own(signal: Signal, what: str) -> str:
    """The name of the variable that is there for ``signal`` alone; ``what``: ``ENDPOINT``, ``HEADERS``."""
    return f"OTEL_EXPORTER_OTLP_{signal}_{what}"


def general(what: str) -> str:
    """The name of the variable that is there for all signals."""
    return f"OTEL_EXPORTER_OTLP_{what}"


def setting(environ: Mapping[str, str], signal: Signal, what: str) -> tuple[str, str]:
    """The variable that holds for ``signal``, and its value; both empty where none is set. Empty counts as not set."""
    for name in (own(signal, what), general(what)):
        if value := environ.get(name, "").strip():
            return name, value
    return "", ""


def protocol(environ: Mapping[str, str], signal: Signal = "TRACES") -> str:
    """The protocol that the environment asks for, empty where it asks for none."""
    return setting(environ, signal, "PROTOCOL")[1]


def exporter(signal: Signal, *, grpc: bool) -> Any:
    """The class of OpenTelemetry's exporter.

    Raises:
        ImportError: it is not installed.
    """
    # pyright knows each of these only where it is imported by its name.
    if signal == "TRACES":
        if grpc:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans

            return GrpcSpans
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans

        return HttpSpans
    if signal == "METRICS":
        if grpc:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics

            return GrpcMetrics
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics

        return HttpMetrics
    if grpc:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs

        return GrpcLogs
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs

    return HttpLogs


def nothing(signal: Signal) -> Any:
    """What an exporter of ``signal`` is given for an export of nothing."""
    if signal != "METRICS":
        return []
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([])
