"""LLM spans around other LLM spans: two tracers' spans of one call, with whatever chains and tools lie between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import ibis

HOPS: Final = 8
"""The most steps up from a span where one statement takes them all."""
_FURTHER: Final = 64
"""The most steps up where each is computed before the next."""


def outer(spans: Any, is_call: Callable[[Any], Any], hold: Callable[[Any], Any | None] | None = None) -> Any:
    """The LLM spans with another one beneath them, at any depth: ``outer_trace`` and ``outer_span``.

    What lies behind a server's span is the server's own: a gateway's call to its upstream is not the client's call.

    Args:
        spans: the table of spans.
        is_call: whether a span is an LLM call's.
        hold: computes a table and returns it, or None where it has no rows. Without it, all steps are one statement.
    """
    own = spans.filter(is_call(spans) & spans.engine_span.isnull())
    several = own.group_by(near_trace=own.trace_id).agg(n=own.count()).filter(lambda table: table.n > 1)
    near = spans.semi_join(several, [("trace_id", "near_trace")])
    lines = near.select(
        at_trace="trace_id",
        at_span="span_id",
        at_parent="parent_id",
        at_call=is_call(near) & near.engine_span.isnull(),
        at_server=near.kind == "server",
    )
    if hold is not None:
        held = hold(lines)
        if held is None:
            return _named(lines.limit(0))
        lines = held
    step = lines.filter(lines.at_call & lines.at_parent.notnull()).select("at_trace", at="at_parent").distinct()
    reached: list[Any] = []
    for _ in range(HOPS if hold is None else _FURTHER):
        met = step.rename(low_trace="at_trace").inner_join(lines, [("low_trace", "at_trace"), ("at", "at_span")])
        met = met.select(
            at_trace="low_trace", at_span="at", at_parent="at_parent", at_call="at_call", at_server="at_server"
        )
        if hold is not None:
            held = hold(met)
            if held is None:
                break
            met = held
        reached.append(met.filter(met.at_call))
        further = met.filter(~met.at_call & ~met.at_server & met.at_parent.notnull())
        step = further.select("at_trace", at="at_parent").distinct()
    return _named(ibis.union(*reached) if reached else lines.limit(0))


def _named(lines: Any) -> Any:
    return lines.select(outer_trace="at_trace", outer_span="at_span").distinct()
