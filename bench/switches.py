"""Turns each subject's instrumentation on, content capture off. Runs in the worker, in the subject's environment."""

from __future__ import annotations

import os

from bench.sinks import Sinks
from bench.subjects import Subject


def llmtrace(sinks: Sinks) -> None:
    import llmtrace as sdk

    sdk.instrument("openai", tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def otel_genai(sinks: Sinks) -> None:
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def openinference(sinks: Sinks) -> None:
    from openinference.instrumentation import TraceConfig
    from openinference.instrumentation.openai import OpenAIInstrumentor

    config = TraceConfig(hide_inputs=True, hide_outputs=True)
    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, config=config)


def traceloop(sinks: Sinks) -> None:
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sinks.tracer_provider, meter_provider=sinks.meter_provider)


def langfuse(sinks: Sinks) -> None:
    """Langfuse adds a batching processor of its own to the provider; it captures content unless a mask removes it."""
    from langfuse import Langfuse

    Langfuse(
        public_key="pk-lf-bench",
        secret_key="sk-lf-bench",
        base_url="http://127.0.0.1:9",
        tracer_provider=sinks.tracer_provider,
        span_exporter=sinks.dropper,
        mask=lambda *, data, **_: None,
    )
    import langfuse.openai  # noqa: F401  (importing it patches the client)


SWITCHES = {switch.__name__: switch for switch in (llmtrace, otel_genai, openinference, traceloop, langfuse)}


def turn_on(subject: Subject) -> Sinks:
    """Make the subject's providers and turn its instrumentation on."""
    sinks = Sinks(sampled=subject.sampled, with_metrics=subject.metrics, own_processor=subject.switch == "langfuse")
    if subject.switch:
        SWITCHES[subject.switch](sinks)
    return sinks
