"""Joins what engines' own spans tell to the calls: each engine's span to the client's call above it.

Where a trace has both, the client's call stands for them and is counted once. It takes the engine's phases if it has
none of its own, or in the place of one that it could not tell apart; where it knows queue and prefill itself, it keeps
its own. An engine's span with no call above it is a call itself.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze.expressions import first, most, when
from llmtrace.phases.model import CLIENT, DECODE, OPAQUE, PREFILL, QUEUE, QUEUE_PREFILL, UNATTRIBUTED

_HOPS: Final = 8
"""The most steps up from an engine's span to the call: attempts, transports, gateways and frontends lie between."""
_TO_STAGES: Final = 4
"""The most steps up from an engine's stage to its request."""
_LEAD: Final = (QUEUE, PREFILL, QUEUE_PREFILL)


def owners(spans: Any, is_call: Any) -> Any:
    """For each engine's span (``eng_trace``, ``eng_span``) the call (``eng_call``) that it was made for.

    That is the nearest span above it of which ``is_call`` holds; where there is none, the highest engine's span on the
    way up, which is mostly itself.
    """
    engines = spans.filter(spans.engine_span.notnull())
    near = spans.semi_join(engines.select(near_trace="trace_id").distinct(), [("trace_id", "near_trace")])
    lines = near.select(
        at_trace="trace_id",
        at_span="span_id",
        at_parent="parent_id",
        at_call=is_call(near) & near.engine_span.isnull(),
        at_engine=near.engine_span.notnull(),
    )
    step = engines.select(eng_trace="trace_id", eng_span="span_id", top="span_id", at="parent_id")
    reached: list[Any] = []
    tops: list[Any] = [step.select("eng_trace", "eng_span", "top").mutate(hop=0)]
    for hop in range(_HOPS):
        met = step.inner_join(lines, [("eng_trace", "at_trace"), ("at", "at_span")])
        reached.append(met.filter(met.at_call).select("eng_trace", "eng_span", eng_call="at").mutate(hop=hop))
        tops.append(met.filter(met.at_engine).select("eng_trace", "eng_span", top="at").mutate(hop=hop + 1))
        further = met.filter(~met.at_call & met.at_parent.notnull())
        step = further.select(
            "eng_trace", "eng_span", top=when(further.at_engine, further["at"], further.top), at="at_parent"
        )
    called = ibis.union(*reached)
    called = called.group_by("eng_trace", "eng_span").agg(eng_call=called.eng_call.argmin(called.hop))
    highest = ibis.union(*tops)
    highest = highest.group_by(top_trace=highest.eng_trace, top_span=highest.eng_span).agg(
        top=highest.top.argmax(highest.hop)
    )
    both = highest.left_join(called, [("top_trace", "eng_trace"), ("top_span", "eng_span")])
    return both.select(eng_trace="top_trace", eng_span="top_span", eng_call=first(both.eng_call, both.top))


def is_own_call(spans: Any, owned: Any) -> Any:
    """The engines' spans that are calls themselves."""
    alone = owned.filter(owned.eng_call == owned.eng_span)
    return spans.semi_join(
        alone.select(own_trace="eng_trace", own_span="eng_span"), [("trace_id", "own_trace"), ("span_id", "own_span")]
    )


def joined(phases: Any, spans: Any, owned: Any) -> Any:
    """``phases`` (with ``owner`` and ``seconds``), of which the engines' own belong to the calls."""
    engines = _of_engines(phases, spans, owned)
    plain = phases.anti_join(
        engines.select(made_trace="trace_id", made_span="span_id"),
        [("trace_id", "made_trace"), ("span_id", "made_span")],
    )
    # What the calls know themselves.
    calls = engines.select(call_trace="trace_id", call_span="owner").distinct()
    own = plain.inner_join(calls, [("trace_id", "call_trace"), ("owner", "call_span")])
    merged = own.phase.isin((QUEUE_PREFILL, OPAQUE))
    known = own.group_by(known_trace=own.trace_id, known_call=own.owner).agg(
        splits=own.phase.isin((QUEUE, PREFILL)).any(),
        decodes=(own.phase == DECODE).any(),
        merged_end=own.end_ns.max(where=merged),
    )
    engines = engines.left_join(known, [("trace_id", "known_trace"), ("owner", "known_call")])
    taken = engines.filter(~first(engines.splits, False) & ~(first(engines.decodes, False) & (engines.phase == DECODE)))
    taken = taken.filter(taken.known_call.isnull() | taken.merged_end.notnull())
    sums = taken.group_by(sum_trace=taken.trace_id, sum_call=taken.owner).agg(
        told=taken.seconds.sum(), told_end=taken.end_ns.max()
    )
    # The two clocks differ: what stands for a merged phase ends where that ended.
    placed = taken.inner_join(sums, [("trace_id", "sum_trace"), ("owner", "sum_call")])
    shift = when(placed.merged_end.notnull(), placed.merged_end - placed.told_end, 0).cast("int64")
    placed = placed.mutate(start_ns=placed.start_ns + shift, end_ns=placed.end_ns + shift).select(*phases.columns)
    kept = plain.left_join(sums, [("trace_id", "sum_trace"), ("owner", "sum_call")])
    replaced = kept.sum_call.notnull() & kept.phase.isin((QUEUE_PREFILL, OPAQUE))
    left = most(kept.seconds - kept.told, 0.0)
    without = {"merged_because": "string", "merged_detail": "string", "phase_tokens": "int64"}
    kept = kept.mutate(
        phase=when(replaced, UNATTRIBUTED, kept.phase),
        source=when(replaced, CLIENT, kept.source),
        end_ns=when(replaced, kept.start_ns + (left * 1e9).cast("int64"), kept.end_ns),
        seconds=when(replaced, left, kept.seconds),
        **{name: when(replaced, ibis.null(kind), kept[name]) for name, kind in without.items() if name in kept.columns},
    ).select(*phases.columns)
    return kept.union(placed)


def _of_engines(phases: Any, spans: Any, owned: Any) -> Any:
    """The phases that engines told, ``owner`` being the call: those beneath an engine's span, and its stages."""
    requests = owned.select(req_trace="eng_trace", req_span="eng_span", req_call="eng_call")
    near = spans.semi_join(requests.select(near_trace="req_trace").distinct(), [("trace_id", "near_trace")])
    lines = near.select(at_trace="trace_id", at_span="span_id", at_parent="parent_id")
    step = phases.semi_join(requests.select(near_trace="req_trace").distinct(), [("trace_id", "near_trace")])
    step = step.select(led_trace="trace_id", led_span="span_id", at="owner")
    led_parts: list[Any] = []
    for _ in range(_TO_STAGES):
        met = step.inner_join(requests, [("led_trace", "req_trace"), ("at", "req_span")])
        led_parts.append(met.select("led_trace", "led_span", led_call="req_call"))
        missed = step.anti_join(requests, [("led_trace", "req_trace"), ("at", "req_span")])
        missed = missed.inner_join(lines, [("led_trace", "at_trace"), ("at", "at_span")])
        step = missed.filter(missed.at_parent.notnull()).select("led_trace", "led_span", at="at_parent")
    led = ibis.union(*led_parts)
    whole = phases.inner_join(led, [("trace_id", "led_trace"), ("span_id", "led_span")])
    return whole.mutate(owner=whole.led_call).select(*phases.columns)
