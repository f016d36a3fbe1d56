"""Spans for the page: calls of every kind, and what else may come, as OTLP/JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.analyze.writing import attributes as pairs
from tests.support.recorder import START, Recorder, demo_calls, usage

MS = 1_000_000
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
LONG = "a-model-with-a-very-long-name-" * 12
TRICKY = "right\u202eto left\x1b[31m"
TASK = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1"
ODD = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2"
HUGE = "ccccccccccccccccccccccccccccccc3"


def span(
    trace: str, number: int, name: str, at_ms: float, ms: float, parent: int | None = None, **more: Any
) -> dict[str, Any]:
    """A span ``at_ms`` after the corpus's start. ``more``: attributes, kind, status, events, links."""
    start = START + round(at_ms * MS)
    made: dict[str, Any] = {
        "traceId": trace,
        "spanId": f"{number:016x}",
        "name": name,
        "kind": more.get("kind", 1),
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + round(ms * MS)),
        "attributes": pairs(more.get("attributes", {})),
        "status": more.get("status", {}),
        "events": more.get("events", []),
        "links": more.get("links", []),
    }
    if parent is not None:
        made["parentSpanId"] = f"{parent:016x}"
    return made


def request(spans: Iterable[dict[str, Any]], service: str = "shop") -> dict[str, Any]:
    """One export request."""
    resource = {"attributes": pairs({"service.name": service, "deployment.environment.name": "test"})}
    scope = {"name": "llmtrace", "version": "0.1.0"}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": list(spans)}]}]}


def call(trace: str, number: int, at_ms: float, parent: int | None = None, **more: Any) -> list[dict[str, Any]]:
    """A call of 400 ms and its four phases; the queue and prefill are estimates."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": more.get("provider", "openai"),
        "gen_ai.request.model": more.get("model", "llama-3.1-8b"),
        "llmtrace.call.outcome": more.get("outcome", "completed"),
        "llmtrace.call.ttft": 0.15,
        **usage(900, 0, 24),
        **more.get("attributes", {}),
    }
    name = more.get("name") or f"chat {attributes['gen_ai.request.model']}"
    found = [span(trace, number, name, at_ms, 400, parent, kind=3, attributes=attributes)]
    at = at_ms
    parts = (("network", 10, "client", 4), ("queue", 40, "estimate", 15), ("prefill", 100, "estimate", 20))
    for step, (phase, ms, source, unsure) in enumerate((*parts, ("decode", 250, "client", 0)), 1):
        told: dict[str, Any] = {"llmtrace.phase": phase, "llmtrace.phase.source": source}
        if unsure:
            told["llmtrace.phase.uncertainty"] = unsure / 1e3
        found.append(span(trace, number + step, f"llm.{phase}", at, ms, number, attributes=told))
        at += ms
    return found


def task() -> list[dict[str, Any]]:
    """A request of a service that retrieves, and asks a model twice; the second service serves the model."""
    evidence = {"llmtrace.diagnosis.cause": "queueing", "llmtrace.diagnosis.observed": 0.04}
    event = {
        "name": "llmtrace.diagnosis",
        "timeUnixNano": str(START + 5_000_600 * MS),
        "attributes": pairs(evidence),
    }
    diagnosed = {"llmtrace.diagnosis": ["queueing"], "llmtrace.diagnosis.confidence": [0.8]}
    first = call(TASK, 0x100, 5_000_200, 1, attributes=diagnosed)
    first[0]["events"] = [event]
    first[0]["links"] = [{"traceId": ODD, "spanId": f"{0x500:016x}", "attributes": pairs({"why": "retried"})}]
    spans = [
        span(TASK, 1, "POST /answer", 5_000_000, 1400, kind=2),
        span(TASK, 2, "retrieve", 5_000_010, 150, 1, attributes={"gen_ai.operation.name": "retrieval"}),
        span(TASK, 3, "SELECT documents", 5_000_020, 120, 2),
        *first,
        *call(TASK, 0x200, 5_000_700, 1, model="gpt-4.1-mini"),
    ]
    served = span(TASK, 0x300, "llm_request", 5_000_215, 380, 0x100, kind=2)
    return [request(spans), request([served], "model-server")]


def odd() -> list[dict[str, Any]]:
    """Markup and control characters in names, a name without end, a missing parent, an error."""
    spans = [
        *call(ODD, 0x500, 6_000_000, name=MARKUP, attributes={"note": MARKUP, "text": TRICKY}, model=TRICKY),
        *call(ODD, 0x600, 6_001_000, model=LONG),
        span(ODD, 0x700, "lost child", 6_001_500, 20, 0x9999),
        *call(ODD, 0x800, 6_002_000, outcome="error", attributes={"error.type": "openai.RateLimitError"}),
    ]
    spans[-5]["status"] = {"code": 2, "message": "openai.RateLimitError"}
    return [request(spans, "odd <b>service</b>")]


def many(calls: int, at_ms: float = 10_000_000) -> Iterator[dict[str, Any]]:
    """Calls in traces of their own, half a second apart, 200 in a request."""
    batch: list[dict[str, Any]] = []
    for number in range(calls):
        trace = f"{0xD0000000 + number:032x}"
        batch += call(trace, 0x100000 + 16 * number, at_ms + 500 * number, model=("llama-3.1-8b", "qwen-3")[number % 2])
        if len(batch) >= 1000:
            yield request(batch, "batch")
            batch = []
    if batch:
        yield request(batch, "batch")


def huge(spans: int) -> Iterator[dict[str, Any]]:
    """One trace: a root over calls of five spans each."""
    calls = (spans - 1) // 5
    yield request([span(HUGE, 1, "a long night", 0, 500 * calls, kind=2)], "night")
    for first in range(0, calls, 400):
        batch: list[dict[str, Any]] = []
        for number in range(first, min(first + 400, calls)):
            batch += call(HUGE, 0x1000 + 16 * number, 500 * number, 1)
        yield request(batch, "night")


def everything(path: Path) -> Path:
    """A file with every kind of call and oddity, and enough calls to scroll through."""
    demo_calls(Recorder()).save(path)
    with path.open("a", encoding="utf-8") as file:
        for each in (*task(), *odd(), *many(600)):
            file.write(f"{json.dumps(each)}\n")
    return path
