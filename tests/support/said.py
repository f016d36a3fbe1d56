"""What a span must say, read off the JSON of an answer alone: no client, none of llmtrace's code.

``said`` is a list: the one body, or a stream's events in order. A reader raises for nothing; what is not told, or is no
count, is missing from what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Said = dict[str, Any]

ATTRIBUTES = {
    "id": "gen_ai.response.id",
    "model": "gen_ai.response.model",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cached": "gen_ai.usage.cache_read.input_tokens",
    "written": "gen_ai.usage.cache_write.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
    "reasons": "gen_ai.response.finish_reasons",
}


def _at(source: Any, *path: str) -> Any:
    for name in path:
        source = source.get(name) if isinstance(source, dict) else None
    return source


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    whole = whole or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and value >= 0 else None


def _sum(*counts: int | None) -> int | None:
    told = [each for each in counts if each is not None]
    return sum(told) if told else None


def completions(said: Sequence[Any]) -> Said:
    """OpenAI's chat and text completions, and what speaks them."""
    found: Said = {}
    reasons: dict[Any, str] = {}
    usage: Any = None
    groq: Any = None
    for each in said:
        found["id"] = found.get("id") or _word(_at(each, "id"))
        found["model"] = _word(_at(each, "model")) or found.get("model")
        for choice in _list(_at(each, "choices")):
            if reason := _word(_at(choice, "finish_reason")):
                reasons[repr(_at(choice, "index")) if len(said) > 1 else len(reasons)] = reason
        usage = _at(each, "usage") if _at(each, "usage") is not None else usage
        groq = _at(each, "x_groq", "usage") or groq
    usage = groq if usage is None else usage
    cached = _count(_at(usage, "prompt_tokens_details", "cached_tokens"))
    return found | {
        "reasons": list(reasons.values()),
        "input": _count(_at(usage, "prompt_tokens")),
        "output": _count(_at(usage, "completion_tokens")),
        "cached": _count(_at(usage, "prompt_cache_hit_tokens")) if cached is None else cached,
        "written": _count(_at(usage, "prompt_tokens_details", "cache_write_tokens")),
        "reasoning": _count(_at(usage, "completion_tokens_details", "reasoning_tokens")),
        "queue": _at(usage, "queue_time"),
    }


def embeddings(said: Sequence[Any]) -> Said:
    """OpenAI's embeddings."""
    return {
        "id": _word(_at(said[0], "id")),
        "model": _word(_at(said[0], "model")),
        "input": _count(_at(said[0], "usage", "prompt_tokens")),
        "reasons": [],
    }


def responses(said: Sequence[Any]) -> Said:
    """OpenAI's Responses: the one response, or its last state in a stream."""
    states = [each for each in said if len(said) == 1 and "response" not in each]
    states += [state for each in said if (state := _at(each, "response")) is not None]
    last = states[-1] if states else None
    status = _word(_at(last, "status"))
    why = _word(_at(last, "incomplete_details", "reason")) if status == "incomplete" else None
    return {
        "id": _word(_at(last, "id")),
        "model": _word(_at(last, "model")),
        "reasons": [why or status] if status and status not in ("queued", "in_progress") else [],
        "input": _count(_at(last, "usage", "input_tokens")),
        "output": _count(_at(last, "usage", "output_tokens")),
        "cached": _count(_at(last, "usage", "input_tokens_details", "cached_tokens")),
        "written": _count(_at(last, "usage", "input_tokens_details", "cache_write_tokens")),
        "reasoning": _count(_at(last, "usage", "output_tokens_details", "reasoning_tokens")),
    }


def messages(said: Sequence[Any]) -> Said:
    """Anthropic's: one message, or message_start and what message_delta counted last."""
    if _at(said[-1], "type") == "completion":  # of the older API, each of whose events is one
        said = said[-1:]
    first = said[0]
    deltas = [each for each in said if _at(each, "type") == "message_delta"]
    if len(said) > 1 or _at(first, "type") == "message_start":
        first = next((_at(each, "message") for each in said if _at(each, "type") == "message_start"), None)
    counts: dict[str, int | None] = {}
    for usage in [_at(first, "usage"), *(_at(each, "usage") for each in deltas)]:
        told = {name: _count(value) for name, value in usage.items()} if isinstance(usage, dict) else {}
        counts |= {name: value for name, value in told.items() if value is not None}
    if len(said) > 1 and not any(_count(_at(each, "usage", "output_tokens")) is not None for each in deltas):
        counts["output_tokens"] = None  # what message_start says of it is a placeholder
    uncached, read, written = (counts.get(f"{name}input_tokens") for name in ("", "cache_read_", "cache_creation_"))
    ends = [_word(_at(each, "delta", "stop_reason")) for each in deltas] or [_word(_at(first, "stop_reason"))]
    details = [_at(each, "usage", "output_tokens_details", "thinking_tokens") for each in deltas or [first]]
    return {
        "id": _word(_at(first, "id")),
        "model": _word(_at(first, "model")),
        "reasons": [end for end in ends if end][-1:],
        "input": None if uncached is None else _sum(uncached, read, written),
        "output": counts.get("output_tokens"),
        "cached": read,
        "written": written,
        "reasoning": _count(details[-1]),
    }


def google(said: Sequence[Any]) -> Said:
    """Gemini's."""
    found: Said = {}
    reasons: dict[Any, str] = {}
    usage: Any = None
    for each in said:
        found["id"] = found.get("id") or _word(_at(each, "responseId"))
        found["model"] = _word(_at(each, "modelVersion")) or found.get("model")
        usage = _at(each, "usageMetadata") or usage
        for place, candidate in enumerate(_list(_at(each, "candidates"))):
            if reason := _word(_at(candidate, "finishReason")):
                reasons[_count(_at(candidate, "index")) or place] = reason
    told = {name: _count(value) for name, value in usage.items()} if isinstance(usage, dict) else {}
    return found | {
        "reasons": list(reasons.values()),
        "input": _sum(told.get("promptTokenCount"), told.get("toolUsePromptTokenCount")),
        "output": _sum(told.get("candidatesTokenCount"), told.get("thoughtsTokenCount")),
        "cached": told.get("cachedContentTokenCount"),
        "reasoning": told.get("thoughtsTokenCount"),
    }


def cohere(said: Sequence[Any]) -> Said:
    """Cohere's, of both versions: what was billed, else what was counted."""
    layers = [layer for each in said for layer in (each, _at(each, "delta"), _at(each, "response"))]
    last = next((each for each in reversed(layers) if _at(each, "usage") or _at(each, "meta")), said[-1])
    usage = _at(last, "usage") or _at(last, "meta")
    told = [_count(_at(usage, kind, "input_tokens")) for kind in ("billed_units", "tokens")]
    cached = _count(_at(usage, "cached_tokens"))
    inputs = [each for each in told if each is not None and each >= (cached or 0)]
    outputs = [_count(_at(usage, kind, "output_tokens")) for kind in ("billed_units", "tokens")]
    ids = [_at(each, "response", "response_id") or _at(each, "response_id") for each in reversed(said)]
    ids += [_at(each, "id") for each in said] + [_at(each, "generation_id") for each in said]
    reasons = [_at(last, "finish_reason"), *(_at(each, "finish_reason") for each in _list(_at(last, "generations")))]
    return {
        "id": next((told for each in ids if (told := _word(each))), None),
        "reasons": [told for each in reasons if (told := _word(each))],
        "input": inputs[0] if inputs else None,
        "output": next((each for each in outputs if each is not None), None),
        "cached": cached,
    }


def ollama(said: Sequence[Any]) -> Said:
    """Ollama's: the one object, or a stream's last."""
    last = next((each for each in reversed(said) if _at(each, "done") is True), said[-1] if len(said) == 1 else None)
    reason = _word(_at(last, "done_reason"))
    return {
        "model": _word(_at(last, "model")) or _word(_at(said[0], "model")),
        "reasons": [reason] if reason else [],
        "input": _count(_at(last, "prompt_eval_count")),
        "output": _count(_at(last, "eval_count")),
    }


_BEDROCK = {
    "input": ("inputTokenCount", "inputTokens", "input_tokens", "inputTextTokenCount", "prompt_token_count"),
    "output": (
        "outputTokenCount",
        "outputTokens",
        "output_tokens",
        "totalOutputTextTokenCount",
        "generation_token_count",
    ),
    "cached": ("cacheReadInputTokenCount", "cacheReadInputTokens", "cache_read_input_tokens"),
    "written": ("cacheWriteInputTokenCount", "cacheWriteInputTokens", "cache_creation_input_tokens"),
}


def bedrock(said: Sequence[Any], headers: Mapping[str, str] | None = None) -> Said:
    """Bedrock's: Converse, or a model maker's own JSON; what a body does not count, its headers do."""
    told: dict[str, int | None] = {}
    for name, keys in _BEDROCK.items():
        places = [place for each in reversed(said) for place in _counting(each, name != "output")]
        counts = [_count(_at(place, key)) for place in places for key in keys]
        header = (headers or {}).get(f"x-amzn-bedrock-{_HEADERS[name]}-token-count")
        each = [_count(_at(part, "tokenCount")) for part in _list(_at(said[-1], "results"))] if name == "output" else []
        counts += [int(header) if header else None, _sum(*each)]  # Titan counts each of its results
        told[name] = next((count for count in counts if count is not None), None)
    named = [place for each in said for place in (each, _at(each, "message"))]
    reasons = [_reason(layer) for each in said for layer in _layers(each)]
    return {
        "reasons": [reason for reason in reasons if reason],
        "id": next((found for place in named if (found := _id(_at(place, "id")))), None),
        "model": next((found for place in named if (found := _word(_at(place, "model")))), None),
        "input": None if told["input"] is None else _sum(told["input"], told["cached"], told["written"]),
        "output": told["output"],
        "cached": told["cached"],
        "written": told["written"],
    }


_HEADERS = {"input": "input", "output": "output", "cached": "cache-read-input", "written": "cache-write-input"}


def _counting(said: Any, begun: bool) -> list[Any]:
    """Where in an answer or an event counts may stand; ``begun``: where a message begins too (of output that is a
    placeholder)."""
    places = [_at(said, "amazon-bedrock-invocationMetrics"), _at(said, "metadata", "usage"), _at(said, "usage"), said]
    return [*places, _at(said, "message", "usage")] if begun else places


def _layers(said: Any) -> list[Any]:
    """Where in an answer or an event the reason for its end may stand."""
    several = [each for name in ("results", "generations", "completions", "choices") for each in _list(_at(said, name))]
    return [said, _at(said, "messageStop"), _at(said, "delta"), *several]


def _reason(source: Any) -> str | None:
    names = ("stopReason", "stop_reason", "finishReason", "finish_reason", "completionReason")
    found = [_at(source, name) for name in names]
    return next((told for each in found if (told := _word(each) or _word(_at(each, "reason")))), None)


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _word(value)


def processing(headers: Mapping[str, str]) -> float | None:
    """Seconds that a provider says in its headers that it spent."""
    told = [headers.get(name) for name in ("openai-processing-ms", "x-envoy-upstream-service-time")]
    return next((float(each) / 1000 for each in told if each), None)


def taken(value: Any) -> Any:
    """The same JSON as a client may take it that makes counts of text, of truth values and of fractions."""
    if isinstance(value, dict):
        return {name: taken(each) for name, each in value.items()}
    if isinstance(value, list):
        return [taken(each) for each in value]
    if isinstance(value, (bool, float)):
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def disagreements(attrs: Mapping[str, Any], told: Said) -> dict[str, tuple[Any, Any]]:
    """Where a span's attributes and an answer's body say different things: what the one and what the other says."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, attribute in ATTRIBUTES.items():
        span, body = attrs.get(attribute), told.get(name)
        if name == "reasons":
            span, body = sorted(span or ()), sorted(body or ())
        if span != body:
            found[attribute] = (span, body)
    return found
