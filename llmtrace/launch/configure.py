"""One line of code that sets OpenTelemetry's SDK up and switches tracing on."""

from __future__ import annotations

import base64
import os
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llmtrace.config import is_disabled
from llmtrace.errors import LlmtraceError
from llmtrace.launch.destinations import GRPC_PORT, VIEWER, Destination, choose, say, without_credentials

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmtrace.instrumentation.switch import Given

_SEND_EVERY_MS = 1000
"""Spans are sent after a second at most, so that a page that is looked at keeps up."""
_METRICS_TIMEOUT_S = 2


def configure(
    *clients: str,
    view: bool = False,
    otlp: str | None = None,
    file: str | os.PathLike[str] | None = None,
    console: bool = False,
    service_name: str | None = None,
    **settings: Unpack[Given],
) -> str:
    """Set up where spans go and trace the named client libraries, or all that are installed.

    The providers are llmtrace's own: what the program sets up for itself, before or after, stays its own. With none of
    ``view``, ``otlp``, ``file`` and ``console`` the first place that is there is taken: the endpoint in
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, a running viewer, a collector on port 4318, a viewer started now, a file.

    Args:
        clients: names of client libraries, for instance ``"openai"``.
        view: send to ``llmtrace view`` on this machine, which is started where it does not run.
        otlp: address of an OTLP endpoint; port 4317 is spoken to over gRPC, every other one over HTTP.
        file: OTLP/JSON file to append to.
        console: print each call on stderr as it ends.
        service_name: ``service.name`` of the spans; ``OTEL_SERVICE_NAME``, else the program's name by default.
        settings: those of ``llmtrace.instrument``.

    Returns:
        A sentence that says where the trace can be seen.

    Raises:
        LlmtraceError: two destinations, an address that is none, something that is not installed, or what
            ``llmtrace.instrument`` raises.
    """
    if is_disabled():
        return "OTEL_SDK_DISABLED is set: nothing is traced"
    destination = choose(view=view, otlp=otlp, file=file, console=console)
    set_up(destination, *clients, service_name=service_name, **settings)
    return destination.sentence


def set_up(destination: Destination, *clients: str, service_name: str | None = None, **settings: Any) -> None:
    """Make the providers for ``destination`` and switch tracing on with them."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from llmtrace.instrumentation.switch import instrument
    from llmtrace.launch import exporters

    resource = Resource.create(_own_resource(service_name))
    tracer_provider = TracerProvider(resource=resource)
    if destination.kind == "console":
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporters.ConsoleExporter()))
    elif destination.kind == "file":
        from llmtrace.emit.otlp_json import OtlpJsonFileExporter

        processor = BatchSpanProcessor(OtlpJsonFileExporter(destination.place), schedule_delay_millis=_SEND_EVERY_MS)
        tracer_provider.add_span_processor(processor)
    else:
        processor = BatchSpanProcessor(exporters.otlp(destination.place), schedule_delay_millis=_SEND_EVERY_MS)
        tracer_provider.add_span_processor(processor)
    meter_provider = _meter_provider(destination, resource)
    if meter_provider is None:
        settings.setdefault("metrics", False)
    instrument(*clients, tracer_provider=tracer_provider, meter_provider=meter_provider, **settings)


def _own_resource(service_name: str | None) -> dict[str, str]:
    """``service.name`` where neither the program nor its surroundings name it, and the host, which Jaeger needs."""
    import socket
    import sys

    attributes = {"host.name": socket.gethostname()}
    if service_name is not None:
        attributes["service.name"] = service_name
    elif not os.environ.get("OTEL_SERVICE_NAME") and "service.name" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    return attributes


def _meter_provider(destination: Destination, resource: Any) -> Any:
    """A provider that sends metrics where they are taken; None where they are not."""
    if destination.kind != "otlp" or destination.place == VIEWER or not _takes_metrics(destination.place):
        return None
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint=f"{destination.place}/v1/metrics", timeout=_METRICS_TIMEOUT_S)
    return MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter)], resource=resource)


def _takes_metrics(place: str) -> bool:
    """Whether the endpoint answers an empty batch of metrics: Jaeger, for one, takes spans only."""
    if urlsplit(place).port == GRPC_PORT:
        return False
    headers = {"content-type": "application/x-protobuf"}
    user, at, _ = urlsplit(place).netloc.rpartition("@")
    if at:
        headers["authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    address = f"{without_credentials(place)}/v1/metrics"
    request = urllib.request.Request(address, data=b"", headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_METRICS_TIMEOUT_S) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def in_a_launched_program(destination: Destination) -> None:
    """Set up at the start of a program that ``llmtrace run`` has started. Raises nothing: the program comes first."""
    try:
        set_up(destination)
    except LlmtraceError as error:
        say(f"not tracing: {error}")
    except Exception as error:
        say(f"not tracing: {type(error).__name__}: {error}")
