"""OTLP's variables: each there for all signals and for one, whose own goes before; and the exporter of each signal."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Literal

Signal = Literal["TRACES", "METRICS", "LOGS"]
PATHS: Final[dict[Signal, str]] = {"TRACES": "/v1/traces", "METRICS": "/v1/metrics", "LOGS": "/v1/logs"}
"""What OTLP over HTTP adds to the address that is there for all signals."""
_EXPORTERS: Final[dict[Signal, tuple[str, str]]] = {
    "TRACES": ("trace_exporter", "OTLPSpanExporter"),
    "METRICS": ("metric_exporter", "OTLPMetricExporter"),
    "LOGS": ("_log_exporter", "OTLPLogExporter"),
}
"""Module and class, of the same names over HTTP and over gRPC."""


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
    module, name = _EXPORTERS[signal]
    return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{'grpc' if grpc else 'http'}.{module}"), name)


def nothing(signal: Signal) -> Any:
    """What an exporter of ``signal`` is given for an export of nothing."""
    if signal != "METRICS":
        return []
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([])
