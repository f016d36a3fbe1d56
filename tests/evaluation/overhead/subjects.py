"""Who is measured: the package to install and the mode to run it in. Standard library only (the workers read it)."""

from __future__ import annotations

from dataclasses import dataclass

BARE = "bare"
CONTROL = "control"
FLOOR = "sdk-floor"
LLMTRACE = "llmtrace"
LLMTRACE_NO_METRICS = "llmtrace-no-metrics"
UNSAMPLED = "llmtrace-unsampled"
OTEL_GENAI = "otel-genai"
OTEL_GENAI_MODULE = "opentelemetry.instrumentation.genai.openai"


@dataclass(frozen=True)
class Subject:
    """One row of the tables: one worker process, in the virtual environment of its package."""

    name: str
    title: str
    env: str
    switch: str = ""
    """What the worker turns on: a function of tests.evaluation.overhead.switches; none for the bare client."""
    sampled: bool = True
    metrics: bool = True
    peer: bool = False
    module: str = ""
    """What an application imports before it turns the package on."""


ENVS = {
    "bare": ["openai", "opentelemetry-sdk"],
    "llmtrace": [],  # the checkout itself, editable
    "otel-genai": ["opentelemetry-instrumentation-genai-openai"],
    "langfuse": ["langfuse"],
    "openinference": ["openinference-instrumentation-openai"],
    "traceloop": ["opentelemetry-instrumentation-openai"],
}
"""Virtual environment -> what is installed on top of the bare one's exact versions."""

SUBJECTS = [
    Subject(BARE, "bare client", "bare"),
    Subject(CONTROL, "bare client again (control)", "bare"),
    Subject(FLOOR, "the SDK alone, no client (floor)", "bare"),
    Subject(LLMTRACE, "llmtrace", "llmtrace", "llmtrace", module="llmtrace"),
    Subject(LLMTRACE_NO_METRICS, "llmtrace, no MeterProvider", "llmtrace", "llmtrace", metrics=False),
    Subject(UNSAMPLED, "llmtrace, unsampled", "llmtrace", "llmtrace", sampled=False, metrics=False),
    Subject("llmtrace-unsampled-metrics", "llmtrace, unsampled, with metrics", "llmtrace", "llmtrace", sampled=False),
    Subject(OTEL_GENAI, "OpenTelemetry genai-openai", "otel-genai", "otel_genai", peer=True, module=OTEL_GENAI_MODULE),
    Subject("langfuse", "langfuse", "langfuse", "langfuse", peer=True, module="langfuse.openai"),
    Subject(
        "openinference",
        "OpenInference",
        "openinference",
        "openinference",
        peer=True,
        module="openinference.instrumentation.openai",
    ),
    Subject(
        "traceloop", "Traceloop", "traceloop", "traceloop", peer=True, module="opentelemetry.instrumentation.openai"
    ),
]


SDK_ALONE = Subject("sdk-alone", "the SDK alone, with the spans and values that llmtrace makes", "llmtrace")
"""Of the row of concurrent streams only."""


def by_name(name: str) -> Subject:
    """The subject called ``name``."""
    return next(subject for subject in (*SUBJECTS, SDK_ALONE) if subject.name == name)
