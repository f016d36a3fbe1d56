"""One set of traces, opened for reports: the calls are worked out once, prices looked up once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

from llmtrace.analyze import components, contract, nesting, tables
from llmtrace.analyze.expressions import count_of, first, when
from llmtrace.analyze.load import Stats, Traces
from llmtrace.analyze.statements import Statements, name_of
from llmtrace.emit import names
from llmtrace.errors import LlmtraceError
from llmtrace.phases.model import NETWORK, UNATTRIBUTED
from llmtrace.tasks import prices
from llmtrace.wording import plural

_OF_PHASES = (
    "route", "phase", "source", "seconds", "start_ns", "phase_tokens", "merged_because", "merged_detail",
)  # fmt: skip


class Book:
    """One set of traces: the tables that reports read."""

    def __init__(self, traces: Traces, mapping: components.Mapping = ()) -> None:
        """``mapping``: a user's own components, by patterns of span names."""
        self.spans = traces.table
        self.mapping = mapping
        self._statements = Statements(traces.connection, traces.table)
        self.stats: Stats = traces.stats

    @property
    def mixed(self) -> bool:
        """Whether calls of schema version 1 stand beside later ones."""
        return contract.are_mixed(self.stats.versions)

    def described(self, spans: Any) -> Any:
        """``spans`` with what each says of the component that it is a part of."""
        return components.described(spans, self.mapping)

    @cached_property
    def calls(self) -> Any:
        """``tables.calls``, computed once and held by the engine."""
        prices, paired, engines = self._prices, self._paired, self._engines
        outer = nesting.outer(self.spans, tables.is_call, self._some)
        table = self._statements.make(
            lambda: tables.calls(self.spans, prices, paired=paired, engines=engines, outer=outer),
            "calls", tuple(prices), paired, name_of(engines), name_of(outer),
        )  # fmt: skip
        if self._statements.is_empty(table):
            raise LlmtraceError(
                f"no LLM calls in {', '.join(self.stats.sources)}: {plural(self.stats.spans, 'span')}, none of which "
                "says gen_ai.operation.name (chat, text_completion, generate_content, embeddings), is one of "
                "llmtrace's, or an engine's own (vLLM, SGLang, TGI, Triton)"
            )
        return table

    @cached_property
    def single_calls(self) -> Any:
        """As ``calls``, without phases and prices, and not held, where each call is a span of its own: of many millions
        only the columns that are asked for are read then. Else ``calls``.
        """
        spans = self.spans
        calls = spans.filter(tables.is_call(spans))
        ((odd, count),) = self.rows(
            calls.aggregate(
                odd=count_of(tables.is_part(calls) | calls.engine_span.notnull() | calls.outcome.isnull()),
                n=calls.count(),
            )
        )
        return self.calls if odd or not count or self._engines is not None else tables.timed(calls)

    @cached_property
    def phases(self) -> Any:
        """The phases of the calls, each with its call's route; held by the engine.

        Where versions are ``mixed``, network and unattributed are one (``contract.OVERHEAD``).
        """
        calls, engines, mixed = self.calls, self._engines, self.mixed

        def build() -> Any:
            routes = calls.select(call_trace="trace_id", call_span="span_id", route="route")
            phases = tables.owned_phases(self.spans, engines=engines)
            phases = phases.inner_join(routes, [("trace_id", "call_trace"), ("owner", "call_span")])
            return (_overhead_as_one(phases) if mixed else phases).select(*_OF_PHASES)

        return self._statements.make(build, "phases", name_of(calls), name_of(engines), mixed)

    @cached_property
    def components(self) -> Any:
        """The component of each call (``components.of_calls``); held by the engine."""
        return components.of_calls(self.spans, self.calls, self.mapping, self._some)

    @property
    def _paired(self) -> bool:
        """Whether a call may be in two spans."""
        lower = (self.spans.name == names.CALL) & self.spans.parent_id.notnull()
        return self._some(lambda: self.spans.filter(lower).select("span_id").limit(1), "paired") is not None

    def _some(self, build: Callable[[], Any], name: str, *made_of: Hashable) -> Any | None:
        """The table that ``build`` describes, computed now; None where it has no rows."""
        table = self._statements.make(build, name, *made_of)
        return None if self._statements.is_empty(table) else table

    @cached_property
    def _engines(self) -> Any | None:
        """The calls that engines' own spans belong to; None where there are no such spans."""
        there = self._some(
            lambda: self.spans.filter(self.spans.engine_span.notnull()).select("span_id").limit(1), "engines"
        )
        return None if there is None else self._statements.make(lambda: tables.owners(self.spans), "owners")

    @cached_property
    def _prices(self) -> list[prices.Priced]:
        def build() -> Any:
            with_model = self.spans.filter(self.spans.operation.notnull() | self.spans.outcome.notnull())
            return with_model.select(
                provider=with_model.provider.fill_null(""),
                model=first(with_model.response_model, with_model.request_model, ""),
            ).distinct()

        pairs = self.rows(self._statements.make(build, "models"))
        return [priced for priced in prices.priced(sorted(pairs)) if priced[2] is not None]

    def hold(self, expression: Any) -> Any:
        """Compute the table of ``expression`` now; the engine holds it until the connection ends."""
        return self._statements.hold(expression)

    def rows(self, expression: Any) -> list[tuple[Any, ...]]:
        """The rows of an expression, as plain Python values."""
        return tables.values(expression)

    def rows_of_calls(self, build: Callable[[], Any], name: str, *options: Hashable) -> list[tuple[Any, ...]]:
        """The rows of the expression that ``build`` makes of spans, calls and components, as plain Python values.

        It is made and compiled once in a process for all files of one shape; ``name`` and ``options`` tell it from
        others.
        """
        made_of = (self.mapping, name_of(self.calls), name_of(self.components))
        return self._statements.rows(build, name, *made_of, *options)

    def arrays_by_trace(self, calls: Any, names: Sequence[str]) -> tuple[dict[str, Any], Any, list[str]]:
        """The columns ``names`` as numpy arrays of floats, NaN where a value is missing; the number of each call's
        trace; and the traces' ids by their numbers.

        In the order of ids, so that the same calls give the same arrays, however an engine hands them out.
        """
        import numpy as np

        table = calls.select("trace_id", "span_id", *names).order_by("trace_id", "span_id").to_pyarrow()
        columns: dict[str, Any] = {}
        for name in names:
            column = table[name].cast("float64")
            columns[name] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=float)
        numbered = table["trace_id"].combine_chunks().dictionary_encode()
        numbers = np.asarray(numbered.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        return columns, numbers, numbered.dictionary.to_pylist()


def _overhead_as_one(phases: Any) -> Any:
    one = phases.phase.isin((NETWORK, UNATTRIBUTED))
    named = phases.mutate(own=phases.phase, phase=when(one, contract.OVERHEAD, phases.phase))
    less_sure = when(named.own == UNATTRIBUTED, named.source)
    return named.group_by("call_trace", "owner", "route", "phase").agg(
        source=first(less_sure.max(), named.source.max()),
        seconds=named.seconds.sum(),
        start_ns=named.start_ns.min(),
        phase_tokens=named.phase_tokens.sum(),
        merged_because=named.merged_because.max(),
        merged_detail=named.merged_detail.max(),
    )
