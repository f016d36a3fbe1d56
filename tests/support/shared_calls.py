"""Calls that are told by more than one: another instrumentation's span beside ours, a gateway's time, a server's spans.

In the shapes of version 2 of the span contract.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import Span, SpanKind

from tests.support.recorder import MS, Phase, Recorder, usage

THEIRS = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "smol-135m"}
QUEUEING = {
    "cause": "queueing", "quantity": "queue", "observed": 0.84, "expected": 0.01, "excess": 0.83, "confidence": 0.9,
    "reason": "beside 4 calls of the application's own",
}  # fmt: skip
PHASES: list[Phase] = [
    ("network", 0.2, "client", None, None),
    ("unattributed", 2.8, "client", 0.4, None),
    ("queue", 840.0, "estimate", 92.0, None),
    ("prefill", 118.0, "estimate", 24.0, 56),
    ("decode", 700.0, "client", 1.2, 48),
]
TOOK = 1661 * MS
"""What a call of these phases takes."""
UNEVEN = {"queue": {"llmtrace.phase.uncertainty.low": 0.04, "llmtrace.phase.uncertainty.high": 0.13}}


def ours(recorder: Recorder, **more: Any) -> dict[str, Any]:
    """What is llmtrace's own on a call."""
    return {
        "llmtrace.schema_version": recorder.version,
        "llmtrace.call.outcome": "completed",
        "llmtrace.call.ttft": 0.961,
        "llmtrace.diagnosis": ["queueing"],
        "llmtrace.diagnosis.cause": "queueing",
        "llmtrace.diagnosis.confidence": [0.9],
        **more,
    }


def adopted(recorder: Recorder) -> Span:
    """Another instrumentation's span, which begins before the call and ends before the stream does, with our phases."""
    began = recorder.clock + 5 * MS
    call_attributes = {
        "llmtrace.call.adopted": True,
        "llmtrace.call.duration": TOOK / 1e9,
        "llmtrace.call.start_time_unix_nano": began,
        "llmtrace.call.streaming": True,
    }
    span = recorder.span(
        "ChatCompletion", recorder.clock, 1000 * MS, None, SpanKind.CLIENT,
        {**THEIRS, **usage(56, 0, 48), **ours(recorder, **call_attributes)},
    )  # fmt: skip
    recorder.phases(span, began, PHASES, UNEVEN, {"queue": QUEUEING})
    recorder.clock += 2000 * MS
    return span


def beneath(recorder: Recorder, chain: bool = False) -> Span:
    """Another instrumentation's span with the usage, ``llm.call`` beneath it with what is ours; the outer span.

    ``chain``: there is a span of another kind between the two.
    """
    start = recorder.clock
    outer = recorder.span(
        "chat smol-135m", start, TOOK + 20 * MS, None, SpanKind.CLIENT,
        {**THEIRS, "gen_ai.response.model": "smol-135m-v2", **usage(56, 0, 48)},
    )  # fmt: skip
    above = recorder.span("parse", start, TOOK + 15 * MS, outer) if chain else outer
    call = recorder.span("llm.call", start + 10 * MS, TOOK, above, attributes=ours(recorder))
    recorder.phases(call, start + 10 * MS, PHASES, UNEVEN, {"queue": QUEUEING})
    recorder.clock += 2000 * MS
    return outer


def twice_beneath(recorder: Recorder) -> Span:
    """One span of another instrumentation over two calls: the first failed, the second one's usage it has."""
    start = recorder.clock
    outer = recorder.span(
        "chat smol-135m", start, 700 * MS, None, SpanKind.CLIENT, {**THEIRS, **usage(56, 0, 48)}
    )  # fmt: skip
    for at, outcome in ((0, "error"), (300, "completed")):
        attributes = {"llmtrace.schema_version": recorder.version, "llmtrace.call.outcome": outcome}
        call = recorder.span("llm.call", start + at * MS, 300 * MS, outer, attributes=attributes)
        recorder.phases(call, start + at * MS, [("opaque", 300.0, "client", None, None)])
    recorder.clock += 1000 * MS
    return outer


def through_a_gateway(recorder: Recorder) -> Span:
    """A gateway says how long it took itself, and the server's own spans lie in the trace, by the server's clock."""
    call = recorder.call(
        [
            ("network", 2.0, "client", 0.3, None),
            ("gateway", 14.0, "server", None, None),
            ("unattributed", 3.0, "client", 1.0, None),
            ("queue", 20.0, "server", None, None),
            ("prefill", 61.0, "server", None, 42),
            ("decode", 300.0, "client", 1.0, 48),
        ],
        attributes=usage(42, 0, 48),
        verdicts={"gateway": {"cause": "network", "excess": 0.012, "confidence": 0.8}},
    )
    start = recorder.clock - 250 * MS - 381 * MS
    server = recorder.span("llm_request", start, 381 * MS, call, SpanKind.SERVER, {"gen_ai.operation.name": "chat"})
    served: list[Phase] = [("queue", 20.0, "device", None, None), ("prefill", 61.0, "device", None, 42)]
    recorder.phases(server, start, [*served, ("decode", 300.0, "device", None, 48)])
    return call


def shared_calls(recorder: Recorder) -> Recorder:
    """One of each: five calls."""
    adopted(recorder)
    beneath(recorder)
    twice_beneath(recorder)
    through_a_gateway(recorder)
    return recorder
