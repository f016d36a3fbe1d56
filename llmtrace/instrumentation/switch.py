"""Switching tracing on and off."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from llmtrace.errors import LlmtraceError, did_you_mean
from llmtrace.version import install_hint

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from typing_extensions import TypedDict

    from llmtrace.config import Settings
    from llmtrace.instrumentation.clients import ClientTracing

    class Given(TypedDict, total=False):
        """The settings that ``instrument`` takes, each of which may be left out."""

        capture_content: bool | Literal["no_content", "span_only", "event_only", "span_and_event"] | None
        server_timings: bool | None
        propagate: Literal["auto", "always", "never"] | None
        request_usage: bool | None
        metrics: bool | None
        semconv: Literal["v0.1.0", "v1.41"] | None
        parent: Literal["auto", "own", "existing"] | None
        diagnosis: bool | None
        min_calls: int | None
        min_spread: float | None
        baseline_path: str | os.PathLike[str] | None
        baseline_prior: str | os.PathLike[str] | None
        slo_ttft: float | str | Mapping[str, float] | None
        slo_itl: float | str | Mapping[str, float] | None
        slo_total: float | str | Mapping[str, float] | None
        slo_headers: bool | None
        flush_on_sigterm: bool | None
        tokenizer: Callable[[str], int] | None


def instrument(
    *clients: str,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool | Literal["no_content", "span_only", "event_only", "span_and_event"] | None = None,
    server_timings: bool | None = None,
    propagate: Literal["auto", "always", "never"] | None = None,
    request_usage: bool | None = None,
    metrics: bool | None = None,
    semconv: Literal["v0.1.0", "v1.41"] | None = None,
    parent: Literal["auto", "own", "existing"] | None = None,
    diagnosis: bool | None = None,
    min_calls: int | None = None,
    min_spread: float | None = None,
    baseline_path: str | os.PathLike[str] | None = None,
    baseline_prior: str | os.PathLike[str] | None = None,
    slo_ttft: float | str | Mapping[str, float] | None = None,
    slo_itl: float | str | Mapping[str, float] | None = None,
    slo_total: float | str | Mapping[str, float] | None = None,
    slo_headers: bool | None = None,
    flush_on_sigterm: bool | None = None,
    tokenizer: Callable[[str], int] | None = None,
) -> None:
    """Trace the named client libraries, or all supported ones that are installed.

    A setting that is not given comes from its environment variable, else it has its default. Does nothing where
    ``OTEL_SDK_DISABLED=true``.

    Args:
        clients: names of client libraries, for instance ``"openai"``.
        tracer_provider: the OpenTelemetry TracerProvider to use; the global one by default.
        meter_provider: the MeterProvider to use; the global one by default.
        capture_content: whether messages are recorded, and where; True means ``span_only``.
        server_timings: use the timings that the provider reports; False is the blind mode that accuracy is measured in.
        propagate: to which hosts ``traceparent`` is sent; ``auto`` means private and loopback hosts.
        request_usage: ask for usage in streams: the one setting that changes a request.
        metrics: record metrics where a MeterProvider is set up.
        semconv: version of the GenAI conventions whose names are used; ``v1.41`` has those of before v0.1.0.
        parent: whose GenAI span the phases go under; ``auto`` means another instrumentation's where it has one.
        diagnosis: name the causes of slow or odd calls.
        min_calls: calls on a route before queue and prefill are estimated.
        min_spread: spread in uncached prompt tokens (90th over 10th percentile) asked for before estimating.
        baseline_path: file in which processes share what they learned of each route.
        baseline_prior: JSON file that says what the hardware needs at least: ``{"seconds_per_prefill_token": ...}``.
        slo_ttft: objective for the TTFT of streams, s; or patterns over routes with one each: ``"gpt-4o*=1.5,*=3"``.
        slo_itl: the same for the mean time between a call's output tokens (TPOT).
        slo_total: the same for a call's whole duration.
        slo_headers: send a call's objectives as the headers that llm-d's scheduler reads.
        flush_on_sigterm: on a SIGTERM that nobody handles, end open calls and flush (5 s at most), then let the signal
            end the process as it would have.
        tokenizer: counts a text's tokens, for streams whose chunks do not say how many they hold.

    Raises:
        LlmtraceError: an unknown client, a value that a setting does not take, or a named client that is not installed
            or too old.
    """
    keywords: dict[str, Any] = {
        "capture_content": capture_content,
        "server_timings": server_timings,
        "propagate": propagate,
        "request_usage": request_usage,
        "metrics": metrics,
        "semconv": semconv,
        "parent": parent,
        "diagnosis": diagnosis,
        "min_calls": min_calls,
        "min_spread": min_spread,
        "baseline_path": baseline_path,
        "baseline_prior": baseline_prior,
        "slo_ttft": slo_ttft,
        "slo_itl": slo_itl,
        "slo_total": slo_total,
        "slo_headers": slo_headers,
        "flush_on_sigterm": flush_on_sigterm,
        "tokenizer": tokenizer,
    }
    from llmtrace.config import is_disabled
    from llmtrace.instrumentation.clients import TRACING

    configured = _checked(clients, keywords)
    for name in clients or tuple(TRACING):
        if not is_disabled():
            TRACING[name].on(configured, tracer_provider, meter_provider, supported=bool(clients))


def check(*clients: str, **keywords: Any) -> None:
    """Raise what ``instrument`` would raise of the same arguments, and do nothing else."""
    inspect.signature(instrument).bind(*clients, **keywords)
    _checked(clients, keywords)


def _checked(clients: tuple[str, ...], keywords: dict[str, Any]) -> Settings:
    from llmtrace.config import settings
    from llmtrace.instrumentation.clients import TRACING

    configured = settings(keywords)
    _check_names(clients)
    for name in clients:  # of all of them, those that the program never imports need no looking at
        _check_version(TRACING[name])
    return configured


def instrumented() -> dict[str, Any]:
    """The clients that are traced now, by name, each with the TracerProvider that it was given."""
    from llmtrace.instrumentation.clients import TRACING

    return {name: tracing.tracer_provider for name, tracing in TRACING.items() if tracing.patches is not None}


def uninstrument(*clients: str) -> None:
    """Take tracing out of the named client libraries, or of all; their functions are the very ones from before.

    Raises:
        LlmtraceError: an unknown client.
    """
    from llmtrace.instrumentation.clients import TRACING

    _check_names(clients)
    instrumentors: Any = sys.modules.get("llmtrace.instrumentation.instrumentors")
    for name in clients or tuple(TRACING):
        if instrumentors is not None:
            instrumentor = instrumentors.INSTRUMENTORS[name]()
            if instrumentor.is_instrumented_by_opentelemetry:  # by ``opentelemetry-instrument``, say
                instrumentor.uninstrument()
        TRACING[name].off()


def _check_names(clients: tuple[str, ...]) -> None:
    from llmtrace.providers import CLIENTS

    known = [client.name for client in CLIENTS]
    for name in clients:
        if name not in known:
            hint = did_you_mean(name, known, "'")
            raise LlmtraceError(f"unknown client {name!r}.{hint} Known clients: {', '.join(known)}.")


def _check_version(tracing: ClientTracing) -> None:
    conflict, name = tracing.unsupported(), tracing.client.name
    if conflict is None:
        return
    if tracing.installed() is None:
        raise LlmtraceError(f"{name} is not installed: {install_hint(name)}")
    raise LlmtraceError(f"{name} is not supported in this version: {conflict}")
