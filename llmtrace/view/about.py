"""Reads one span: its phase, the source and uncertainty of its duration, and its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtrace.analyze import contract
from llmtrace.analyze.otlp import Span
from llmtrace.emit import names
from llmtrace.estimate.losses import WORDS
from llmtrace.view import text
from llmtrace.view.palette import LABELS, PHASE_FAMILIES


def phase(span: Span) -> str | None:
    """The name of the phase that a span is; None if it is no phase."""
    if span.name.startswith("llm."):
        by_name = span.name.removeprefix("llm.")
        if by_name in PHASE_FAMILIES:
            return by_name
    named_phase = span.attributes.get(names.PHASE)
    return named_phase if isinstance(named_phase, str) and named_phase in PHASE_FAMILIES else None


def family(span: Span) -> str:
    """The span's colour: one of ``palette.FAMILIES``."""
    span_phase = phase(span)
    if span_phase is not None:
        return PHASE_FAMILIES[span_phase]
    return "attempt" if span.name == names.ATTEMPT else "other"


def source(span: Span) -> str | None:
    """The source of the span's duration: a key of ``palette.SOURCES``, or whatever else the file says."""
    named_source = span.attributes.get(names.SOURCE)
    return named_source if isinstance(named_source, str) and named_source else None


def uncertainty(span: Span) -> tuple[float, float] | None:
    """The 90 % interval: by how many seconds the span may have been shorter, and longer."""
    half, low, high = (
        number(span.attributes.get(name)) for name in (names.UNCERTAINTY, names.UNCERTAINTY_LOW, names.UNCERTAINTY_HIGH)
    )
    ends = (half if low is None else low, half if high is None else high)
    return (max(0.0, ends[0] or 0.0), max(0.0, ends[1] or 0.0)) if any(end and end > 0 for end in ends) else None


def tokens(span: Span) -> int | None:
    """Tokens that a phase handled."""
    return whole(span.attributes.get(names.TOKENS))


def merged_because(span: Span) -> str | None:
    """Why a merged phase could not be told apart: ``12 of 30 calls on this route; ... (few_calls)``."""
    return contract.because(span.attributes.get(names.MERGED_BECAUSE), span.attributes.get(names.MERGED_DETAIL))


def blind(attributes: Mapping[str, Any]) -> str | None:
    """Of a phase that the engine told, what the blind estimate said of it: ``the blind estimate said 120 ms ±40.0 ms,
    the server 133 ms``. None where no estimate was made."""
    said, error = (number(attributes.get(name)) for name in (names.ESTIMATE_DURATION, names.ESTIMATE_ERROR))
    if said is None or error is None:
        return None
    half, low, high = (
        number(attributes.get(name)) for name in (names.ESTIMATE_UNCERTAINTY, names.ESTIMATE_LOW, names.ESTIMATE_HIGH)
    )
    off = text.give_or_take(low if low is not None else half or 0.0, high if high is not None else half or 0.0)
    teller = "the accelerator" if attributes.get(names.SOURCE) == "device" else "the server"
    return f"the blind estimate said {text.seconds(said)} {off}, {teller} {text.seconds(max(0.0, said - error))}"


def lost(attributes: Mapping[str, Any]) -> str | None:
    """Of a call, what more might have come from the prompt cache, and why it did not."""
    tokens, reason = whole(attributes.get(names.LOST_TOKENS)), attributes.get(names.LOST_BECAUSE)
    if not tokens or not isinstance(reason, str):
        return None
    where = attributes.get(names.CHANGED_AT)
    place = f", in {where}" if isinstance(where, str) else ""
    return f"{text.count(tokens)} more tokens might have come from the cache: {WORDS.get(reason, reason)}{place}"


def number(item: Any) -> float | None:
    """``item`` if it is a finite number, else None."""
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        return None
    return float(item) if abs(item) < 1e300 else None


def whole(item: Any) -> int | None:
    """``item`` as a count if it is a number of 0 or more, else None."""
    value = number(item)
    return int(value) if value is not None and value >= 0 else None


def error(span: Span) -> str | None:
    """The error in one line: its type and its message, as far as the span has them."""
    kind = first_text(span.attributes, names.ERROR_TYPE)
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
    span_phase = phase(span)
    if span_phase is not None and span.name.startswith(names.SPAN_PREFIX):
        return LABELS[span_phase]
    if span.name == names.CALL:
        return LABELS["call"]
    if span.name == names.ATTEMPT:
        status = whole(span.attributes.get(names.STATUS_CODE))
        return f"attempt · {status}" if status else "attempt"
    return span.name or "(no name)"


def first_text(attributes: Mapping[str, Any], *keys: str) -> str | None:
    """The first of the attributes that is a text and not empty."""
    return next((value for key in keys if isinstance(value := attributes.get(key), str) and value), None)


def first_count(attributes: Mapping[str, Any], *keys: str) -> int | None:
    """The first of the attributes that is a count."""
    return next((value for key in keys if (value := whole(attributes.get(key))) is not None), None)
