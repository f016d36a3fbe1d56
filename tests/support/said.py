"""The attributes that a span must have, read off an answer's JSON alone: no client, none of llmtrace's code.

``answers`` is a list: the one body, or a stream's events in order. A reader never raises; what an answer does not tell,
or what is no count, is missing from the facts that the reader returns.
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
    return int(value) if whole and 0 <= value < 2**63 else None  # as many bits as a span has for it


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def completions(answers: Sequence[Any]) -> Said:
    """The facts of OpenAI's chat and text completions, and of APIs of that shape."""
    facts: Said = {}
    reasons: dict[Any, str] = {}
    usage: Any = None
    groq: Any = None
    for answer in answers:
        facts["id"] = facts.get("id") or _word(_at(answer, "id"))
        facts["model"] = _word(_at(answer, "model")) or facts.get("model")
        for choice in _list(_at(answer, "choices")):
            if reason := _word(_at(choice, "finish_reason")):
                reasons[repr(_at(choice, "index")) if len(answers) > 1 else len(reasons)] = reason
            usage = _at(choice, "usage") if usage is None else usage
        usage = _at(answer, "usage") if _at(answer, "usage") is not None else usage
        groq = _at(answer, "x_groq", "usage") or groq
    usage = groq if usage is None else usage
    cached = [_count(_at(usage, "prompt_tokens_details", "cached_tokens"))]
    cached += [
        _count(_at(usage, name)) for name in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
    ]
    written = [_count(_at(usage, "prompt_tokens_details", "cache_write_tokens"))]
    written.append(_count(_at(usage, "cache_creation_input_tokens")))
    asked, answered = _count(_at(usage, "prompt_tokens")), _count(_at(usage, "completion_tokens"))
    reasoned = _count(_at(usage, "completion_tokens_details", "reasoning_tokens"))
    if answered is not None and _at(usage, "total_tokens") == (asked or 0) + answered + (reasoned or 0):
        answered += reasoned or 0
    return facts | {
        "reasons": list(reasons.values()),
        "input": asked,
        "output": answered,
        "cached": next((count for count in cached if count is not None), None),
        "written": next((count for count in written if count is not None), None),
        "reasoning": reasoned,
        "queue": _at(usage, "queue_time"),
    }


def embeddings(answers: Sequence[Any]) -> Said:
    """The facts of OpenAI's embeddings."""
    return {
        "id": _word(_at(answers[0], "id")),
        "model": _word(_at(answers[0], "model")),
        "input": _count(_at(answers[0], "usage", "prompt_tokens")),
        "reasons": [],
    }


def responses(answers: Sequence[Any]) -> Said:
    """The facts of OpenAI's Responses API: of the one response, or of its last state in a stream."""
    states = [answer for answer in answers if len(answers) == 1 and "response" not in answer]
    states += [state for answer in answers if (state := _at(answer, "response")) is not None]
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


def messages(answers: Sequence[Any]) -> Said:
    """The facts of Anthropic's Messages: of one message, or of message_start with the last counts of message_delta."""
    if _at(answers[-1], "type") == "completion":  # of the older API, each of whose events is one
        answers = answers[-1:]
    first = answers[0]
    deltas = [answer for answer in answers if _at(answer, "type") == "message_delta"]
    if len(answers) > 1 or _at(first, "type") == "message_start":
        first = next((_at(answer, "message") for answer in answers if _at(answer, "type") == "message_start"), None)
    counts: dict[str, int | None] = {}
    for usage in [_at(first, "usage"), *(_at(delta, "usage") for delta in deltas)]:
        usage_counts = {name: _count(value) for name, value in usage.items()} if isinstance(usage, dict) else {}
        counts |= {name: value for name, value in usage_counts.items() if value is not None}
    if len(answers) > 1 and not any(_count(_at(delta, "usage", "output_tokens")) is not None for delta in deltas):
        counts["output_tokens"] = None  # what message_start says of it is a placeholder
    uncached, read, written = (counts.get(f"{name}input_tokens") for name in ("", "cache_read_", "cache_creation_"))
    ends = [_word(_at(delta, "delta", "stop_reason")) for delta in deltas] or [_word(_at(first, "stop_reason"))]
    details = [_at(delta, "usage", "output_tokens_details", "thinking_tokens") for delta in deltas or [first]]
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


def google(answers: Sequence[Any]) -> Said:
    """The facts of Gemini's answers."""
    facts: Said = {}
    reasons: dict[Any, str] = {}
    usage: Any = None
    for answer in answers:
        facts["id"] = facts.get("id") or _word(_at(answer, "responseId"))
        facts["model"] = _word(_at(answer, "modelVersion")) or facts.get("model")
        usage = _at(answer, "usageMetadata") or usage
        for place, candidate in enumerate(_list(_at(answer, "candidates"))):
            if reason := _word(_at(candidate, "finishReason")):
                reasons[_count(_at(candidate, "index")) or place] = reason
    counts = {name: _count(value) for name, value in usage.items()} if isinstance(usage, dict) else {}
    return facts | {
        "reasons": list(reasons.values()),
        "input": _sum(counts.get("promptTokenCount"), counts.get("toolUsePromptTokenCount")),
        "output": _sum(counts.get("candidatesTokenCount"), counts.get("thoughtsTokenCount")),
        "cached": counts.get("cachedContentTokenCount"),
        "reasoning": counts.get("thoughtsTokenCount"),
    }


def cohere(answers: Sequence[Any]) -> Said:
    """The facts of Cohere's answers of both versions: the billed counts, else the others."""
    layers = [layer for answer in answers for layer in (answer, _at(answer, "delta"), _at(answer, "response"))]
    last = next((layer for layer in reversed(layers) if _at(layer, "usage") or _at(layer, "meta")), answers[-1])
    usage = _at(last, "usage") or _at(last, "meta")
    input_counts = [_count(_at(usage, kind, "input_tokens")) for kind in ("billed_units", "tokens")]
    cached = _count(_at(usage, "cached_tokens"))
    inputs = [count for count in input_counts if count is not None and count >= (cached or 0)]
    outputs = [_count(_at(usage, kind, "output_tokens")) for kind in ("billed_units", "tokens")]
    ids = [_at(answer, "response", "response_id") or _at(answer, "response_id") for answer in reversed(answers)]
    ids += [_at(answer, "id") for answer in answers] + [_at(answer, "generation_id") for answer in answers]
    reasons = [
        _at(last, "finish_reason"),
        *(_at(generation, "finish_reason") for generation in _list(_at(last, "generations"))),
    ]
    return {
        "id": next((word for candidate in ids if (word := _word(candidate))), None),
        "reasons": [word for reason in reasons if (word := _word(reason))],
        "input": inputs[0] if inputs else None,
        "output": next((count for count in outputs if count is not None), None),
        "cached": cached,
    }


def ollama(answers: Sequence[Any]) -> Said:
    """The facts of Ollama's answers: of the one object, or of a stream's last."""
    last = next(
        (answer for answer in reversed(answers) if _at(answer, "done") is True),
        answers[-1] if len(answers) == 1 else None,
    )
    reason = _word(_at(last, "done_reason"))
    return {
        "model": _word(_at(last, "model")) or _word(_at(answers[0], "model")),
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


def bedrock(answers: Sequence[Any], headers: Mapping[str, str] | None = None) -> Said:
    """The facts of Bedrock's answers: Converse, or a model maker's own JSON; some counts are in headers only."""
    known: dict[str, int | None] = {}
    for name, keys in _BEDROCK.items():
        places = [place for answer in reversed(answers) for place in _counting(answer, name != "output")]
        counts = [_count(_at(place, key)) for place in places for key in keys]
        header = (headers or {}).get(f"x-amzn-bedrock-{_HEADERS[name]}-token-count")
        result_counts = (
            [_count(_at(part, "tokenCount")) for part in _list(_at(answers[-1], "results"))] if name == "output" else []
        )
        counts += [int(header) if header else None, _sum(*result_counts)]  # Titan counts each of its results
        known[name] = next((count for count in counts if count is not None), None)
    identities = [place for answer in answers for place in (answer, _at(answer, "message"))]
    reasons = [_reason(layer) for answer in answers for layer in _layers(answer)]
    return {
        "reasons": [reason for reason in reasons if reason],
        "id": next((value for place in identities if (value := _id(_at(place, "id")))), None),
        "model": next((value for place in identities if (value := _word(_at(place, "model")))), None),
        "input": None if known["input"] is None else _sum(known["input"], known["cached"], known["written"]),
        "output": known["output"],
        "cached": known["cached"],
        "written": known["written"],
    }


_HEADERS = {"input": "input", "output": "output", "cached": "cache-read-input", "written": "cache-write-input"}


def _counting(answer: Any, with_start: bool) -> list[Any]:
    """The parts of an answer or an event that may hold counts.

    ``with_start``: also the one where a message begins (whose count of output is a placeholder).
    """
    places = [
        _at(answer, "amazon-bedrock-invocationMetrics"),
        _at(answer, "metadata", "usage"),
        _at(answer, "usage"),
        answer,
    ]
    return [*places, _at(answer, "message", "usage")] if with_start else places


def _layers(answer: Any) -> list[Any]:
    """The parts of an answer or an event that may hold the finish reason."""
    several = [one for name in ("results", "generations", "completions", "choices") for one in _list(_at(answer, name))]
    return [answer, _at(answer, "messageStop"), _at(answer, "delta"), *several]


def _reason(source: Any) -> str | None:
    names = ("stopReason", "stop_reason", "finishReason", "finish_reason", "completionReason")
    candidates = [_at(source, name) for name in names]
    return next(
        (reason for candidate in candidates if (reason := _word(candidate) or _word(_at(candidate, "reason")))), None
    )


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _word(value)


def processing(headers: Mapping[str, str]) -> float | None:
    """The seconds that a provider's headers say it spent."""
    values = [headers.get(name) for name in ("openai-processing-ms", "x-envoy-upstream-service-time")]
    return next((float(value) / 1000 for value in values if value), None)


def taken(value: Any) -> Any:
    """The JSON as read by a client that turns text, truth values and fractions into counts."""
    if isinstance(value, dict):
        return {name: taken(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [taken(inner) for inner in value]
    if isinstance(value, (bool, float)):
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def disagreements(attrs: Mapping[str, Any], facts: Said) -> dict[str, tuple[Any, Any]]:
    """The attributes in which a span and an answer's facts differ: the value of each."""
    differing: dict[str, tuple[Any, Any]] = {}
    for name, attribute in ATTRIBUTES.items():
        span, body = attrs.get(attribute), facts.get(name)
        if name == "reasons":
            span, body = sorted(span or ()), sorted(body or ())
        if span != body:
            differing[attribute] = (span, body)
    return differing
