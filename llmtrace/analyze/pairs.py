"""Joins a call that is in two spans: another instrumentation's LLM span, and ``llm.call`` beneath it.

The upper one has the model and the usage, the lower one its outcome, its verdict and its phases. ``llm.call`` stands
for both, so that none is counted twice.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze.contract import LLM_OPERATIONS
from llmtrace.analyze.expressions import HOPS, first, when
from llmtrace.emit import names
from llmtrace.tasks.prices import MODALITIES

_USAGE: Final = (
    "response_id", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    *(f"{kind}_{what}_tokens" for kind in MODALITIES for what in ("input", "output", "cached")),
)  # fmt: skip
_ABOUT: Final = ("operation", "provider", "request_model", "response_model", "address", "max_tokens", "streamed")


def asks_a_model(spans: Any) -> Any:
    """Whether a span says that it is an LLM call."""
    return first(spans.operation.lower().isin(LLM_OPERATIONS), False)


def joined(calls: Any, spans: Any) -> Any:
    """``calls`` where each ``llm.call`` has the attributes of the LLM span above it, and that span is left out.

    Of several ``llm.call`` beneath one span the last one, which brought the answer, gets the usage. A span that is
    itself one of our calls (an adopted one) stays, and keeps its usage.
    """
    about = [name for name in _ABOUT if name in spans.columns]
    usage = [name for name in _USAGE if name in spans.columns]
    lower = spans.filter((spans.name == names.CALL) & spans.parent_id.notnull())
    # Few traces have one: the others' spans are looked at once.
    near = spans.semi_join(lower.select(near_trace="trace_id").distinct(), [("trace_id", "near_trace")])
    pairs = _pairs(lower, near)
    uppers = near.select(
        "trace_id",
        "span_id",
        told_name="name",
        told_ours=near.outcome.notnull(),
        **{f"told_{name}": name for name in (*about, *usage)},
    )
    pairs = pairs.inner_join(uppers, [("pair_trace", "trace_id"), ("upper", "span_id")]).drop("trace_id", "span_id")
    merged = calls.left_join(pairs, [("trace_id", "pair_trace"), ("span_id", "lower")])
    spends = merged.is_last & ~merged.told_ours
    merged = merged.mutate(
        name=first(merged.told_name, merged["name"]),
        **{name: first(merged[name], merged[f"told_{name}"]) for name in about},
        **{name: first(merged[name], when(spends, merged[f"told_{name}"])) for name in usage},
    )
    merged = merged.drop(*(name for name in pairs.columns if name in merged.columns))
    merged_away = pairs.filter(~pairs.told_ours).select(gone_trace="pair_trace", gone_span="upper").distinct()
    return merged.anti_join(merged_away, [("trace_id", "gone_trace"), ("span_id", "gone_span")])


def _pairs(lower: Any, spans: Any) -> Any:
    """``lower`` and ``upper`` span ids, and whether the lower one ``is_last`` of those beneath the upper one."""
    lines = spans.select(
        at_trace="trace_id",
        at_span="span_id",
        at_parent="parent_id",
        at_model=asks_a_model(spans) & (spans.name != names.CALL) & (spans.kind != "server"),
    )
    step = lower.select(pair_trace="trace_id", lower="span_id", lower_start="start_ns", at="parent_id")
    reached: list[Any] = []
    for _ in range(HOPS):
        step_spans = step.inner_join(lines, [("pair_trace", "at_trace"), ("at", "at_span")])
        reached.append(step_spans.filter(step_spans.at_model).select("pair_trace", "lower", "lower_start", upper="at"))
        further = step_spans.filter(~step_spans.at_model & step_spans.at_parent.notnull())
        step = further.select("pair_trace", "lower", "lower_start", at="at_parent")
    every = ibis.union(*reached)
    later = ibis.window(group_by=[every.pair_trace, every.upper], order_by=[ibis.desc(every.lower_start), every.lower])
    place: Any = ibis.row_number().over(later)
    return every.mutate(is_last=place == 0).drop("lower_start")
