"""Who is measured: the package to install and the mode to run it in. Standard library only (the workers read it)."""

from __future__ import annotations

from dataclasses import dataclass

BARE = "bare"
CONTROL = "control"
FLOOR = "sdk-floor"
LLMTRACE = "llmtrace"
UNSAMPLED = "llmtrace-unsampled"


@dataclass(frozen=True)
class Subject:
    """One row of the tables: one worker process, in the virtual environment of its package."""

    name: str
    title: str
    env: str
    switch: str = ""
    """What the worker turns on: a function of bench.switches; none for the bare client."""
    sampled: bool = True
    metrics: bool = True
    peer: bool = False


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
    Subject(LLMTRACE, "llmtrace", "llmtrace", "llmtrace"),
    Subject("llmtrace-no-metrics", "llmtrace, no MeterProvider", "llmtrace", "llmtrace", metrics=False),
    Subject(UNSAMPLED, "llmtrace, unsampled", "llmtrace", "llmtrace", sampled=False, metrics=False),
    Subject("llmtrace-unsampled-metrics", "llmtrace, unsampled, with metrics", "llmtrace", "llmtrace", sampled=False),
    Subject("otel-genai", "OpenTelemetry genai-openai", "otel-genai", "otel_genai", peer=True),
    Subject("langfuse", "langfuse", "langfuse", "langfuse", peer=True),
    Subject("openinference", "OpenInference", "openinference", "openinference", peer=True),
    Subject("traceloop", "Traceloop", "traceloop", "traceloop", peer=True),
]


def by_name(name: str) -> Subject:
    """The subject called ``name``."""
    return next(subject for subject in SUBJECTS if subject.name == name)
