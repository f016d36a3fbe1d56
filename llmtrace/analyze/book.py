"""One set of traces, opened for reports: the calls are worked out once, prices looked up once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import count
from typing import Any

from llmtrace.analyze import tables
from llmtrace.analyze.expressions import first
from llmtrace.analyze.load import Stats, Traces
from llmtrace.errors import LlmtraceError
from llmtrace.tasks import prices

_numbers = count()


class Book:
    """The tables that reports read."""

    def __init__(self, traces: Traces) -> None:
        self.spans = traces.table
        self._connection = traces.connection
        self.stats: Stats = traces.stats

    @cached_property
    def calls(self) -> Any:
        """``tables.calls``, computed once and held by the engine."""
        found = tables.calls(self.spans, self._prices)
        held = self.hold(found)
        if self.rows(held.aggregate(n=held.count())) == [(0,)]:
            raise LlmtraceError(
                f"no LLM calls in {', '.join(self.stats.sources)}: {self.stats.spans} spans, none of which says "
                "gen_ai.operation.name (chat, text_completion, generate_content, embeddings) or is one of llmtrace's"
            )
        return held

    @cached_property
    def phases(self) -> Any:
        """The phase spans of the calls, each with its call's route; held by the engine."""
        calls = self.calls.select(call_trace="trace_id", call_span="span_id", route="route")
        phases = tables.owned_phases(self.spans)
        joined = phases.inner_join(calls, [("trace_id", "call_trace"), ("owner", "call_span")])
        return self.hold(joined.select("route", "phase", "source", "seconds", "phase_tokens", "time_saved"))

    @cached_property
    def _prices(self) -> list[prices.Priced]:
        spans = self.spans
        asked = spans.filter(spans.operation.notnull() | spans.outcome.notnull())
        pairs = asked.select(
            provider=asked.provider.fill_null(""),
            model=first(asked.response_model, asked.request_model, ""),
        ).distinct()
        return prices.priced(self.rows(pairs))

    def hold(self, expression: Any) -> Any:
        """The same table, worked out now and held by the engine until the connection ends."""
        if self._connection.name == "duckdb":
            return self._connection.create_table(f"held_{next(_numbers)}", expression, temp=True)
        return expression.cache()

    def rows(self, expression: Any) -> list[tuple[Any, ...]]:
        """The rows of an expression, as plain Python values."""
        return tables.values(expression)

    def arrays(self, expression: Any, names: Sequence[str]) -> dict[str, Any]:
        """Columns as numpy arrays of floats, NaN where there is nothing."""
        import numpy as np

        table = expression.select(*names).to_pyarrow()
        found: dict[str, Any] = {}
        for name in names:
            column = table[name].cast("float64")
            found[name] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
        return found
