"""LLM spans around other LLM spans: two tracers' spans of one call, with whatever chains and tools lie between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import ibis

from llmtrace.analyze.expressions import HOPS
from llmtrace.analyze.statements import name_of

_FURTHER: Final = 64
"""The most steps up where each is computed before the next."""
Make = Callable[..., Any]
"""As ``statements.Statements.make``, but None where the table that is made has no rows."""


def outer(spans: Any, is_call: Callable[[Any], Any], make: Make | None = None) -> Any | None:
    """The LLM spans with another one beneath them, at any depth: ``outer_trace`` and ``outer_span``.

    What lies behind a server's span is the server's own: a gateway's call to its upstream is not the client's call.

    Args:
        spans: the table of spans.
        is_call: whether a span is an LLM call's.
        make: computes each step before the next, and None comes back where there is nothing at all. Without it, all
            steps are one statement.
    """
    if make is None:
        lines = _lines(spans, is_call)
    elif (lines := make(lambda: _lines(spans, is_call), "lines")) is None:
        return None
    met: Any = None
    reached: list[Any] = []
    for _ in range(HOPS if make is None else _FURTHER):
        met = _met(lines, met) if make is None else make(partial(_met, lines, met), "met", name_of(lines), name_of(met))
        if met is None:
            break
        reached.append(met)
    if make is None:
        return _named(reached)
    return make(lambda: _named(reached), "outer", *map(name_of, reached)) if reached else None


def _lines(spans: Any, is_call: Callable[[Any], Any]) -> Any:
    """The spans of traces with several LLM spans, and their parents."""
    own = spans.filter(is_call(spans) & spans.engine_span.isnull())
    several = own.group_by(near_trace=own.trace_id).agg(n=own.count()).filter(lambda table: table.n > 1)
    near = spans.semi_join(several, [("trace_id", "near_trace")])
    return near.select(
        at_trace="trace_id",
        at_span="span_id",
        at_parent="parent_id",
        at_call=is_call(near) & near.engine_span.isnull(),
        at_server=near.kind == "server",
    )


def _met(lines: Any, met: Any | None) -> Any:
    """The parents of the LLM spans, or of those ``met`` before that are not where the way up ends."""
    if met is None:
        below = lines.filter(lines.at_call & lines.at_parent.notnull())
    else:
        below = met.filter(~met.at_call & ~met.at_server & met.at_parent.notnull())
    step = below.select(low_trace="at_trace", at="at_parent").distinct()
    above = step.inner_join(lines, [("low_trace", "at_trace"), ("at", "at_span")])
    return above.select(
        at_trace="low_trace", at_span="at", at_parent="at_parent", at_call="at_call", at_server="at_server"
    )


def _named(reached: Sequence[Any]) -> Any:
    called = ibis.union(*(met.filter(met.at_call) for met in reached))
    return called.select(outer_trace="at_trace", outer_span="at_span").distinct()
