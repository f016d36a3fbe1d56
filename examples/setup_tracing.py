"""What other examples begin with: spans go to OTEL_EXPORTER_OTLP_ENDPOINT where it is set, else onto the screen."""

from __future__ import annotations

import os
import socket

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import llmtrace

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "none-needed")


def line(span: ReadableSpan) -> str:
    """A span on one line: name, milliseconds, how that is known or how it ended."""
    told = span.attributes or {}
    known = told.get("llmtrace.phase.source") or told.get("llmtrace.call.outcome", "")
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"{span.name:<28}{took:9.1f} ms  {known}".rstrip() + "\n"


def start(service: str) -> TracerProvider:
    """Tracing for this process. Call its ``shutdown()`` at the end: that sends what is left."""
    # Without the host, Jaeger takes every span for a machine of its own when it evens out clocks.
    about = {"service.name": service, "host.name": socket.gethostname()}
    provider = TracerProvider(resource=Resource.create(about))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=line)))
    trace.set_tracer_provider(provider)
    llmtrace.instrument("openai")
    return provider


def model_of() -> str:
    """MODEL, else the first that the server names."""
    from openai import OpenAI

    if model := os.environ.get("MODEL"):
        return model
    with OpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        return client.models.list().data[0].id
