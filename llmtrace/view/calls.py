"""What spans say about LLM calls: which phase a span is, and a call's model, outcome, tokens and first-token time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmtrace.analyze.otlp import Span
from llmtrace.view import text
from llmtrace.view.tree import Node

FAMILIES = ("network", "queue", "kv_cache_hit", "prefill", "decode", "merged", "attempt", "other")
"""What is told apart by colour."""

_PHASES = {
    "network": "network",
    "queue": "queue",
    "kv_cache_hit": "kv_cache_hit",
    "prefill": "prefill",
    "decode": "decode",
    "decode.reasoning": "decode",
    "decode.output": "decode",
    "queue_prefill": "merged",
    "opaque": "merged",
}

LABELS = {
    "network": "network",
    "queue": "queue",
    "kv_cache_hit": "cache hit",
    "prefill": "prefill",
    "decode": "decode",
    "decode.reasoning": "reasoning",
    "decode.output": "output",
    "queue_prefill": "queue + prefill",
    "opaque": "not told apart",
    "merged": "merged",
    "attempt": "attempt",
    "other": "other span",
}

_NOT_CALLS = {"execute_tool", "retrieval", "create_agent", "invoke_agent", "invoke_workflow"}

SOURCES = {
    "device": "timed on the accelerator",
    "server": "reported by the engine",
    "client": "seen on the client's clock",
    "estimate": "fitted from earlier calls",
}


def phase(span: Span) -> str | None:
    """The phase that a span is, ``None`` if it is none."""
    if span.name.startswith("llm."):
        by_name = span.name.removeprefix("llm.")
        if by_name in _PHASES:
            return by_name
    told = span.attributes.get("llmtrace.phase")
    return told if isinstance(told, str) and told in _PHASES else None


def family(span: Span) -> str:
    """The span's colour: one of ``FAMILIES``."""
    found = phase(span)
    if found is not None:
        return _PHASES[found]
    return "attempt" if span.name == "llm.attempt" else "other"


def source(span: Span) -> str | None:
    """How the span's duration is known: a key of ``SOURCES``, or whatever else the file says."""
    told = span.attributes.get("llmtrace.phase.source")
    return told if isinstance(told, str) and told else None


def uncertainty(span: Span) -> float | None:
    """Half the width of the 90 % interval, in seconds."""
    told = number(span.attributes.get("llmtrace.phase.uncertainty"))
    return told if told is not None and told > 0 else None


def tokens(span: Span) -> int | None:
    """Tokens that a phase handled."""
    return whole(span.attributes.get("llmtrace.phase.tokens"))


def number(item: Any) -> float | None:
    """A finite number, or nothing."""
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        return None
    return float(item) if abs(item) < 1e300 else None


def whole(item: Any) -> int | None:
    """A count, or nothing."""
    told = number(item)
    return int(told) if told is not None and told >= 0 else None


def is_call(node: Node) -> bool:
    """A client's LLM call: says so by the GenAI conventions or by its phases. A server's own span is none."""
    if node.span.kind == "server" or phase(node.span) is not None or node.span.name == "llm.attempt":
        return False
    attributes = node.span.attributes
    if attributes.get("gen_ai.operation.name") in _NOT_CALLS:
        return False
    if "gen_ai.operation.name" in attributes or "llmtrace.call.outcome" in attributes:
        return True
    return any(phase(child.span) is not None or child.span.name == "llm.attempt" for child in node.children)


def calls(roots: list[Node]) -> Iterator[Node]:
    """The calls among the trees, not looking into a call for further ones."""
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        if is_call(node) and not any(True for _ in _inner_calls(node)):
            yield node
        else:
            stack.extend(reversed(node.children))


def _inner_calls(node: Node) -> Iterator[Node]:
    """An agent's or a workflow's span names a GenAI operation too, but the calls are those inside it."""
    if phases(node):
        return
    stack = list(node.children)
    while stack:
        inner = stack.pop()
        if is_call(inner):
            yield inner
        stack.extend(inner.children)


def phases(call: Node) -> list[Node]:
    """A call's phases, in order; those of the attempt that answered, where it was retried."""
    direct = [child for child in call.children if phase(child.span) is not None]
    if direct:
        return direct
    for attempt in reversed([child for child in call.children if child.span.name == "llm.attempt"]):
        inside = [child for child in attempt.children if phase(child.span) is not None]
        if inside:
            return inside
    return []


@dataclass(frozen=True, slots=True)
class Symptoms:
    """A call in brief; ``None`` is what its spans do not tell."""

    model: str | None
    provider: str | None
    server: str | None
    outcome: str | None
    error: str | None
    duration: float
    ttft: float | None
    ttft_is_chunk: bool
    """The first-token time is really the first chunk's: no phase says when the first token came."""
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    decode_rate: float | None
    """Tokens per second after the first."""
    diagnosis: str | None
    """Each cause with its evidence, as a sentence's parts."""
    attempts: int


def facts(call: Node) -> Symptoms:
    """What a call's spans say about it."""
    span = call.span
    attributes = span.attributes
    decode = next((child for child in phases(call) if phase(child.span) == "decode"), None)
    ttft = number(attributes.get("llmtrace.call.ttft"))
    if ttft is None and decode is not None:
        ttft = (decode.span.start_ns - span.start_ns) / 1e9
    is_chunk = False
    if ttft is None or ttft < 0:
        ttft = number(attributes.get("gen_ai.response.time_to_first_chunk"))
        is_chunk = ttft is not None
    output = _first_count(span, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
    rate = None
    if decode is not None and decode.span.duration > 0:
        handled = tokens(decode.span) or output
        rate = (handled - 1) / decode.span.duration if handled and handled > 1 else None
    return Symptoms(
        model=_text(span, "gen_ai.response.model") or _text(span, "gen_ai.request.model"),
        provider=_text(span, "gen_ai.provider.name") or _text(span, "gen_ai.system"),
        server=_server(span),
        outcome=_text(span, "llmtrace.call.outcome") or ("error" if span.status.code == "error" else None),
        error=error(span),
        duration=span.duration,
        ttft=ttft,
        ttft_is_chunk=is_chunk,
        input_tokens=_first_count(span, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        cached_tokens=_first_count(span, "gen_ai.usage.cache_read.input_tokens"),
        output_tokens=output,
        reasoning_tokens=_first_count(span, "gen_ai.usage.reasoning.output_tokens"),
        decode_rate=rate,
        diagnosis=_diagnosis(span),
        attempts=sum(1 for child in call.children if child.span.name == "llm.attempt"),
    )


def _diagnosis(span: Span) -> str | None:
    told = span.attributes.get("llmtrace.diagnosis")
    causes = (
        [told] if isinstance(told, str) else [str(cause) for cause in told] if isinstance(told, (list, tuple)) else []
    )
    evidence = {event.attributes.get("llmtrace.diagnosis.cause"): event.attributes for event in span.events}
    return "; ".join(_why(cause, evidence.get(cause, {})) for cause in causes if cause) or None


def _why(cause: str, evidence: Mapping[str, Any]) -> str:
    """``queueing: 1.43 s more than usual, beside 4 calls of the application's own (97 % sure)``."""
    parts: list[str] = []
    came, usual = evidence.get("llmtrace.diagnosis.observed"), evidence.get("llmtrace.diagnosis.expected")
    if isinstance(came, str) and isinstance(usual, str):
        parts.append(f"{came} instead of {usual}")
    excess = number(evidence.get("llmtrace.diagnosis.excess"))
    if excess:
        parts.append(f"{text.seconds(excess)} more than usual")
    rate = number(evidence.get("llmtrace.diagnosis.time_per_token"))
    if rate:
        parts.append(f"{text.seconds(rate)} per token")
    reason = evidence.get("llmtrace.diagnosis.reason")
    if isinstance(reason, str) and reason:
        parts.append(reason)
    said = f"{cause}: {', '.join(parts)}" if parts else cause
    sure = number(evidence.get("llmtrace.diagnosis.confidence"))
    return said if sure is None else f"{said} ({sure:.0%} sure)"


def error(span: Span) -> str | None:
    """What went wrong, in one line: the type and the message, whichever the span has."""
    kind = _text(span, "error.type")
    message = span.status.message if span.status.code == "error" else ""
    if not kind or not message:
        for event in reversed(span.events):
            if event.name == "exception":
                kind = kind or str(event.attributes.get("exception.type") or "")
                message = message or str(event.attributes.get("exception.message") or "")
                break
    if not kind and not message:
        return "error" if span.status.code == "error" else None
    if not kind or not message or message.startswith(kind):
        return message or kind
    if kind == message or kind.endswith(f".{message}"):
        return kind
    return f"{kind}: {message}"


def label(span: Span) -> str:
    """A span's name as shown: a phase by its own word, anything else by its name."""
    found = phase(span)
    if found is not None and span.name.startswith("llm."):
        return LABELS[found]
    if span.name == "llm.attempt":
        status = whole(span.attributes.get("http.response.status_code"))
        return f"attempt · {status}" if status else "attempt"
    return span.name or "(no name)"


def _server(span: Span) -> str | None:
    address = _text(span, "server.address")
    port = whole(span.attributes.get("server.port"))
    return f"{address}:{port}" if address and port and port not in (80, 443) else address


def _text(span: Span, key: str) -> str | None:
    told = span.attributes.get(key)
    return told if isinstance(told, str) and told else None


def _first_count(span: Span, *keys: str) -> int | None:
    for key in keys:
        told = whole(span.attributes.get(key))
        if told is not None:
            return told
    return None
