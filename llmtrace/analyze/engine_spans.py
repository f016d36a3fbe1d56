"""Engines' own spans: what vLLM, SGLang, TGI, Triton and TensorRT-LLM tell of a request's phases in spans of theirs.

Where they tell lengths, spans are made of them beneath the engine's own (``phases``), with the names and attributes of
this project's phases and the source ``server``, so that every reader sees them; where they write a span for each stage,
that span is the phase. ``engine_calls`` joins them to the client's calls.

Names and units were read in the engines' sources; an engine is known by a mark of its own, never by a span's bare name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from llmtrace.analyze import otlp
from llmtrace.emit import names
from llmtrace.phases.model import DECODE, OPAQUE, PREFILL, QUEUE, QUEUE_PREFILL, SERVER

ENGINE_SPAN: Final = "llmtrace.engine.span"
"""The attribute by which readers know an engine's own span; its value is the engine. Added when a file is read."""
_LATENCY: Final = "gen_ai.latency."
_OURS: Final = "llmtrace"
_SGLANG: Final = "sglang"
"""In the scope (``sglang server``), the service or the attribute ``module`` (``sglang::...``)."""
_STAGES: Final = {"prefill_waiting": QUEUE, "prefill_forward": PREFILL, "decode_forward": DECODE}
"""SGLang's stages that are phases (docs, production_request_trace)."""
_REQUEST: Final = re.compile(r"(?:^|\s)Req \S+$")
_TGI: Final = ("total_time", "queue_time", "inference_time", "time_per_token")
_RUST: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|µs|us|ms|s)")
_RUST_UNITS: Final = {"ns": 1e9, "µs": 1e6, "us": 1e6, "ms": 1e3, "s": 1.0}
_TRITON_MODEL: Final = "triton.model_name"
_TRITON: Final = "triton"
"""In the scope (``triton-server``)."""
_COMPUTE: Final = "compute"
"""Triton's span of a model's computing, beneath that of its request: newer versions put the moments there."""
_MOST_TOLD: Final = 1e18
_COUNTS: Final = (
    ("gen_ai.usage.completion_tokens", names.OUTPUT_TOKENS),
    ("gen_ai.usage.prompt_tokens", names.INPUT_TOKENS),
    ("gen_ai.usage.cached_tokens", names.CACHE_READ_TOKENS),
)
_UNITS: Final = (1.0, 1e3, 1e6, 1e9)
"""Parts of a second that engines have counted in; vLLM's constants say s, some of its builds wrote ns."""
SLACK_SHARE: Final = 0.05
SLACK_S: Final = 0.01
"""How much longer than the span itself its numbers may be: clocks are read one after the other."""


class Piece(NamedTuple):
    """One phase that an engine's span tells of. Times in ns since the epoch, by the engine's clock."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a span of an engine tells."""

    engine: str | None
    """The engine, where the span stands for a request; None for a stage of one."""
    pieces: tuple[Piece, ...] = ()
    stage: str | None = None
    """The phase that the span itself is."""
    ttft: float | None = None
    """Seconds from its arrival until the first token."""
    model: str | None = None
    """The model, where the engine has a name of its own for that attribute."""

    def attributes(self) -> dict[str, Any]:
        """What readers are to know of the span beside its own attributes."""
        known = {
            ENGINE_SPAN: self.engine,
            names.PROVIDER: self.engine,
            names.TTFT: self.ttft,
            names.REQUEST_MODEL: self.model,
            names.PHASE: self.stage,
            names.SOURCE: None if self.stage is None else SERVER,
        }
        return {name: value for name, value in known.items() if value is not None}


def told(
    name: str,
    kind: str,
    scope: str,
    service: str,
    attributes: Mapping[str, Any],
    events: Callable[[], Iterable[tuple[str, int]]],
    start_ns: int,
    end_ns: int,
) -> Told | None:
    """What a span tells as an engine's own; None where it is none. ``events``: name and time (ns) of each.

    Nothing here is believed of a client's span, whatever it says.
    """
    if kind == "client":
        return None
    sglang = any(_SGLANG in maker.lower() for maker in (scope, service, str(attributes.get("module"))))
    if sglang and name in _STAGES:
        return Told(None, stage=_STAGES[name])
    if sglang and _REQUEST.search(name):
        return Told("sglang", ttft=_latencies(attributes, start_ns, end_ns).get("time_to_first_token"))
    if _TRITON_MODEL in attributes:
        return _triton(attributes, dict(events()), start_ns)
    if all(isinstance(attributes.get(key), str) for key in _TGI):
        return _tgi(attributes, start_ns, end_ns)
    latencies = _latencies(attributes, start_ns, end_ns)
    if not latencies:
        return None
    if scope.startswith(_OURS):
        return Told("llmtrace-reference")  # its phases are spans already
    return _by_latencies("sglang" if sglang else _named(name, scope, service), latencies, start_ns, end_ns)


MARKS: Final = frozenset(
    {f"{_LATENCY}{name}" for name in ("e2e", "time_in_queue", "time_in_model_prefill", "time_in_model_decode",
     "time_in_model_inference", "time_to_first_token")} | {_TRITON_MODEL, "inference_time"}
)  # fmt: skip
"""Attributes by which a fast reader notices a span that may be an engine's."""


def may_tell(scope: str, service: str) -> bool:
    """Whether spans of this maker may be an engine's, whatever their attributes."""
    makers = (scope.lower(), service.lower())
    return any(word in maker for maker in makers for word in (_SGLANG, _TRITON))


Moments = dict[tuple[str, str], Sequence[Any]]
"""Events, as OTLP/JSON spells them, of Triton's ``compute`` spans that came before their request's, by trace and
parent: Triton exports each span by itself once it has ended, the inner one first."""
_MOST_MOMENTS: Final = 10_000


def expanded(spans: Sequence[otlp.Span]) -> list[otlp.Span]:
    """``spans``, where what engines' own tell stands on them, or beneath them as spans."""
    result: list[otlp.Span] = []
    for span in spans:
        result.append(span)
        service, scope = str(span.resource.get("service.name") or ""), span.scope.name
        if MARKS.isdisjoint(span.attributes) and not may_tell(scope, service):
            continue

        def events(span: otlp.Span = span) -> Iterable[tuple[str, int]]:
            for one in (span, *(each for each in spans if each.parent_id == span.span_id and each.name == _COMPUTE)):
                yield from ((event.name, event.time_ns) for event in one.events)

        reading = told(span.name, span.kind, scope, service, span.attributes, events, span.start_ns, span.end_ns)
        if reading is None:
            continue
        result[-1] = replace(span, attributes={**reading.attributes(), **span.attributes})
        for own, name, piece, attributes in spans_of(reading, span.trace_id, span.span_id, span.attributes):
            result.append(
                replace(
                    span, span_id=own, parent_id=span.span_id, name=name, kind="internal", start_ns=piece.start_ns,
                    end_ns=piece.end_ns, attributes=attributes, status=otlp.Status(), events=(), links=(),
                )
            )  # fmt: skip
    return result


def expanded_json(
    span: Mapping[str, Any], siblings: Sequence[Any], scope: str, service: str, moments: Moments
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same of one span as OTLP/JSON spells it: what is to be known of it beside its attributes, and its spans.

    ``siblings``: the spans that came with it, among which Triton's ``compute`` may be; ``moments`` has those that came
    before it, and is added to.
    """
    attributes = {each["key"]: otlp.value_of(each["value"]) for each in span.get("attributes", ())}
    trace, own, above = span["traceId"].lower(), span["spanId"].lower(), span.get("parentSpanId")
    if above and span.get("name") == _COMPUTE and _TRITON_MODEL not in attributes:
        if len(moments) >= _MOST_MOMENTS:
            del moments[next(iter(moments))]
        moments[trace, above.lower()] = span.get("events", ())
        return {}, []

    def events() -> Iterable[tuple[str, int]]:
        beneath = [
            each for each in siblings if each.get("parentSpanId") == span["spanId"] and each.get("name") == _COMPUTE
        ]
        told_of = [*(one.get("events", ()) for one in (span, *beneath)), moments.pop((trace, own), ())]
        yield from ((each.get("name", ""), int(each.get("timeUnixNano") or 0)) for some in told_of for each in some)

    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    kind = otlp.KINDS[span.get("kind", 0)]
    reading = told(span.get("name", ""), kind, scope, service, attributes, events, start, end)
    if reading is None:
        return {}, []
    made = [
        {
            "traceId": span["traceId"], "spanId": own, "parentSpanId": span["spanId"], "name": name, "kind": 1,
            "startTimeUnixNano": piece.start_ns, "endTimeUnixNano": piece.end_ns,
            "attributes": otlp.pairs_of(known),
        }
        for own, name, piece, known in spans_of(reading, trace, own, attributes)
    ]  # fmt: skip
    return reading.attributes(), made


def spans_of(
    told_of: Told, trace_id: str, span_id: str, attributes: Mapping[str, Any]
) -> Iterable[tuple[str, str, Piece, dict[str, Any]]]:
    """The spans to be made beneath an engine's: id, name, piece, attributes. The same id whenever it is read."""
    made, asked, cached = (_count(attributes, *keys) for keys in _COUNTS)
    fresh = None if asked is None else max(0, asked - (cached or 0))
    handled = {DECODE: made, PREFILL: fresh, QUEUE_PREFILL: fresh}
    for piece in told_of.pieces:
        seed = f"{trace_id}:{span_id}:{piece.name}".encode()
        own = hashlib.blake2b(seed, digest_size=8).hexdigest()
        about: dict[str, Any] = {names.PHASE: piece.name, names.SOURCE: SERVER}
        if (tokens := handled.get(piece.name)) is not None:
            about[names.TOKENS] = tokens
        yield own, names.SPAN_PREFIX + piece.name, piece, about


def _count(attributes: Mapping[str, Any], *keys: str) -> int | None:
    values = (attributes.get(key) for key in keys)
    return next((value for value in values if type(value) is int and 0 <= value < 1 << 63), None)


# ---- one engine each -------------------------------------------------------------------------------------------------


def _named(name: str, scope: str, service: str) -> str:
    """Who wrote a span with latencies, as far as it says so; they are vLLM's names, which others took over."""
    words = f"{scope} {service}".lower()
    if "tensorrt" in words or "trtllm" in words or "trt-llm" in words:
        return "tensorrt-llm"
    return "vllm" if "vllm" in words or name == "llm_request" else "engine"


def _latencies(attributes: Mapping[str, Any], start_ns: int, end_ns: int) -> dict[str, float]:
    """``gen_ai.latency.*`` in seconds. The unit is the one in which the largest of them fits into the span."""
    values = {
        key.removeprefix(_LATENCY): float(value)
        for key, value in attributes.items()
        if key.startswith(_LATENCY)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value < _MOST_TOLD
    }
    if not values:
        return {}
    most = _most((end_ns - start_ns) / 1e9)
    largest = max(values.values())
    unit = next((unit for unit in _UNITS if largest / unit <= most), None)
    return {} if unit is None else {key: value / unit for key, value in values.items()}


def _by_latencies(engine: str, latencies: Mapping[str, float], start_ns: int, end_ns: int) -> Told | None:
    """vLLM v1/engine/output_processor.py: the queue and prefill end with the first token, which is counted from the
    arrival; TensorRT-LLM (PR 5897) leaves prefill to be reckoned from both."""
    queue, prefill = latencies.get("time_in_queue"), latencies.get("time_in_model_prefill")
    decode, first = latencies.get("time_in_model_decode"), latencies.get("time_to_first_token")
    whole = (end_ns - start_ns) / 1e9
    if prefill is None and queue is not None and first is not None and first >= queue:
        prefill = first - queue
    if first is None and prefill is not None:
        first = max(0.0, whole - decode) if decode is not None else (queue or 0.0) + prefill
    if decode is None and first is not None:
        decode = max(0.0, latencies.get("e2e", whole) - first)
    split = prefill is not None and engine != "sglang"  # whose prefill begins with the queue
    lengths = [(QUEUE, queue), (PREFILL, prefill)] if split else [(QUEUE_PREFILL, first)]
    before = sum(length or 0.0 for _, length in lengths)
    at = max(0.0, (first or 0.0) - before)
    if first is None or at + before + (decode or 0.0) > _most(whole):
        return Told(engine)
    pieces: list[Piece] = []
    for phase, length in (*lengths, (DECODE, decode)):
        if length is not None:
            pieces.append(Piece(phase, start_ns + round(at * 1e9), start_ns + round((at + length) * 1e9)))
            at += length
    return Told(engine, tuple(pieces), ttft=first)


def _tgi(attributes: Mapping[str, Any], start_ns: int, end_ns: int) -> Told | None:
    """TGI router/src/server.rs writes durations as Rust does (``1.5ms``). Inference is prefill and decode in one."""
    seconds = {key: _rust(attributes.get(key)) for key in (*_TGI, "validation_time")}
    queue, inference = seconds["queue_time"], seconds["inference_time"]
    if queue is None or inference is None or seconds["total_time"] is None:
        return None
    queue += seconds["validation_time"] or 0.0
    if queue + inference > _most((end_ns - start_ns) / 1e9):
        return Told("tgi")
    middle = start_ns + round(queue * 1e9)
    return Told("tgi", (Piece(QUEUE, start_ns, middle), Piece(OPAQUE, middle, middle + round(inference * 1e9))))


def _rust(value: Any) -> float | None:
    match = _RUST.fullmatch(value) if isinstance(value, str) and len(value) < 40 else None
    return float(match[1]) / _RUST_UNITS[match[2]] if match else None


def _triton(attributes: Mapping[str, Any], at: Mapping[str, int], start_ns: int) -> Told | None:
    """Triton src/tracer.cc: a span for each model's request, with the moments as events. A model within an ensemble is
    no request of its own. Computing is prefill and decode in one."""
    nested = attributes.get("triton.trace_parent_id")
    if isinstance(nested, int) and nested > 0:
        return None
    name = attributes[_TRITON_MODEL]
    model = name if isinstance(name, str) else None
    queued, begun, ended = at.get("QUEUE_START"), at.get("COMPUTE_START"), at.get("COMPUTE_END")
    ended = at.get("REQUEST_END") if ended is None else ended
    if queued is None or begun is None or ended is None or not start_ns <= queued <= begun <= ended:
        return Told("triton", model=model)
    return Told("triton", (Piece(QUEUE, queued, begun), Piece(OPAQUE, begun, ended)), model=model)


def _most(seconds: float) -> float:
    return seconds * (1 + SLACK_SHARE) + SLACK_S
