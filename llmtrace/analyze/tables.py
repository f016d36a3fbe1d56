"""From spans to calls, in ibis expressions: the same on DuckDB, on Spark and on whatever else ibis speaks to.

A call is a client's LLM span. Where two tracers wrote one each, the inner one counts, however much lies between
(``nesting``); where ours is only half of one (``pairs``), both together; where a gateway is traced too, the client's
and not the gateway's own. Its phases are its children, or the children of its attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llmtrace.analyze import engine_calls, pairs
from llmtrace.analyze.expressions import count_of, first, least, most, nothing, when
from llmtrace.analyze.schema import column_of
from llmtrace.emit import names
from llmtrace.phases.model import DECODE, PHASES, SOURCES
from llmtrace.tasks.prices import Priced

NS: Final = 1e9
SKEW_NS: Final = 1_000_000


def is_call(spans: Any) -> Any:
    """Whether a span is an LLM call's, as far as it can tell by itself."""
    return (
        (spans.kind != "server")
        & spans.phase.isnull()
        & (spans.name != names.ATTEMPT)
        & (pairs.asks_a_model(spans) | spans.outcome.notnull())
    )


def calls(
    spans: Any,
    prices: Sequence[Priced] | None = None,
    paired: bool = True,
    engines: Any | None = None,
    outer: Any | None = None,
) -> Any:
    """One row for each call: its attributes, duration, seconds in each phase (``s_<phase>``) and attempts.

    ``began_ns`` is when the call began, where ``start_ns`` is when its span did: an adopted span has times of its own.
    ``prices``: prices by provider and model, for ``cost`` (USD, None where neither the provider told it nor the price
    is known). ``paired``: whether some calls may be in two spans; if not, the statement takes less time to plan.
    ``engines``: ``owners``, where there are engines' own spans. ``outer``: ``nesting.outer``, where there are LLM spans
    around others.
    """
    call_spans = _without_relayed(spans.filter(is_call(spans) & spans.engine_span.isnull()))
    if outer is not None:
        call_spans = call_spans.left_join(outer, [("trace_id", "outer_trace"), ("span_id", "outer_span")])
        # An adopted span is a call of its own, whatever else was sent beneath it.
        call_spans = call_spans.filter(
            call_spans.outer_span.isnull() | first(call_spans.adopted, False) | _by_gateway(call_spans)
        ).drop("outer_trace", "outer_span")
    if paired:
        call_spans = pairs.joined(call_spans, spans)
    if engines is not None:
        alone = engine_calls.is_own_call(spans, engines)
        call_spans = call_spans.union(alone.select(*call_spans.columns))
    attempts = spans.filter(spans.name == names.ATTEMPT)
    tried = attempts.group_by("trace_id", "parent_id").agg(attempts=attempts.count())
    tried = tried.rename(attempt_trace="trace_id", attempt_of="parent_id")
    parts = _phases_by_call(spans, attempts, engines)
    joined = call_spans.left_join(tried, [("trace_id", "attempt_trace"), ("span_id", "attempt_of")])
    joined = joined.left_join(parts, [("trace_id", "phase_trace"), ("span_id", "phase_of")])
    decoded = first(*(joined[each] for each in ("decoded_tokens", "output_tokens") if each in joined.columns))
    whole = timed(joined).mutate(
        attempts=joined.attempts.fill_null(1),
        has_phases=joined.phase_of.notnull(),
        uncached_tokens=joined.input_tokens - joined.cached_tokens.fill_null(0),
        # Reasoning that a stream does not show is output, and no part of its decode: it was made before.
        decoded_tokens=decoded,
        hidden_tokens=most(joined.output_tokens - decoded, 0).fill_null(0),
        **{f"s_{phase}": joined[f"s_{phase}"].fill_null(0.0) for phase in PHASES},
    )
    if prices is not None:
        whole = _priced(whole, prices)
    return whole


def timed(table: Any) -> Any:
    """Calls with ``route``, ``began_ns`` and ``duration``, which is not known of one without an end."""
    seconds = length(table)
    return table.mutate(
        route=_route(table),
        began_ns=first(table.call_start_ns, table.start_ns),
        duration=first(table.call_duration, when(seconds > 0, seconds)),
    )


def declared_cost(spans: Any, attribute: str | None = None) -> Any:
    """What a span says that it cost, USD: in ``attribute``, where a user named one and it is there, else in ours."""
    return spans.cost_usd if attribute is None else first(spans[column_of(attribute)], spans.cost_usd)


def is_part(table: Any) -> Any:
    """Whether a call may stand in several spans: ours beneath another tracer's, or a gateway's beneath the client's."""
    return ((table.name == names.CALL) & table.parent_id.notnull()) | _by_gateway(table)


def _without_relayed(call_spans: Any) -> Any:
    """``call_spans`` without those that a gateway made to serve another one of them.

    The client's call says whom the gateway asked, what it cost and how long all of it took. A gateway's own call is
    the one right beneath it, or one with the same answer, whatever other spans lie between.
    """
    served = call_spans.filter(_by_gateway(call_spans))
    above = served.select(served_trace="trace_id", served_span="span_id")
    answers = served.group_by(answer_trace=served.trace_id, answer=served.response_id).agg(
        answer_ns=served.start_ns.min()
    )
    others = call_spans.anti_join(above, [("trace_id", "served_trace"), ("parent_id", "served_span")])
    others = others.left_join(answers, [("trace_id", "answer_trace"), ("response_id", "answer")])
    others = others.filter(others.answer_ns.isnull() | (others.start_ns <= others.answer_ns))
    return others.drop("answer_trace", "answer", "answer_ns")


def _by_gateway(table: Any) -> Any:
    """Whether a gateway answered a call: what the gateway asked in turn is no inner span of another tracer's."""
    told = table.fingerprint.contains("upstream=") | table.fingerprint.contains("deployment=")
    return first(told & table.outcome.notnull(), False)


def _route(table: Any) -> Any:
    where = first(table.provider, "?") + " " + first(table.request_model, table.response_model, "?")
    odd = table.port.notnull() & table.port.notin((80, 443))
    address = when(odd, table.address + ":" + table.port.cast("string"), table.address)
    return when(table.address.notnull(), where + " @ " + address, where)


def _phases_by_call(spans: Any, attempts: Any, engines: Any | None) -> Any:
    phases = owned_phases(spans, attempts, engines)
    sums = {
        f"s_{name}": when(phases.phase == name, phases.seconds, 0.0).sum() for name in PHASES
    }  # fmt: skip
    if "phase_tokens" in phases.columns:  # which the viewer's store does without
        sums["decoded_tokens"] = when(phases.phase == DECODE, phases.phase_tokens).sum()
    return phases.group_by(phase_trace=phases.trace_id, phase_of=phases.owner).agg(
        **sums,
        wait=phases.consumer_wait.sum(),
    )


def owned_phases(spans: Any, attempts: Any | None = None, engines: Any | None = None) -> Any:
    """The phase spans, each with its ``owner`` (the call's span id) and ``seconds``. The parts of decode are left out.

    ``engines``: ``owners``, where there are engines' own spans, which tell phases too.
    """
    tried: Any = spans.filter(spans.name == names.ATTEMPT) if attempts is None else attempts
    above = tried.select(above_trace="trace_id", above_span="span_id", above_parent="parent_id")
    phases = spans.filter(spans.phase.isin(PHASES) & spans.parent_id.notnull())
    phases = phases.left_join(
        above, [("trace_id", "above_trace"), ("parent_id", "above_span")]
    )  # fmt: skip
    phases = phases.mutate(
        owner=first(phases.above_parent, phases.parent_id),
        seconds=length(phases),
        source=when(phases.source.isin(SOURCES), phases.source, "?"),
    ).drop("above_trace", "above_span", "above_parent")
    return phases if engines is None else engine_calls.joined(phases, spans, engines)


def owners(spans: Any) -> Any:
    """The calls that engines' own spans belong to: computed once, and handed to ``calls`` and ``owned_phases``."""
    return engine_calls.owners(spans, is_call)


def _priced(table: Any, prices: Sequence[Priced]) -> Any:
    """``cost`` in USD: tokens by their unit prices. Cached and cache-writing tokens are part of the input, and those of
    audio and images part of all."""
    model_key = first(table.provider, "") + "\t" + first(table.response_model, table.request_model, "")
    known_prices = [(f"{provider}\t{model}", price) for provider, model, price in prices if price is not None]

    def of(kind: str) -> Any:
        # Cases rather than a joined table: an engine far away need not be given one.
        cases = [(key, getattr(price, kind)) for key, price in known_prices]
        return (model_key.cases(*cases) if cases else nothing()).cast("float64")

    def dearer(modality: str, kind: str) -> Any:
        cases = [(key, getattr(price.dearer.get(modality), kind, 0.0)) for key, price in known_prices]
        return model_key.cases(*cases, else_=0.0)

    table = table.mutate(usd_input=of("input"), usd_cached=of("cached"), usd_written=of("written"))
    table = table.mutate(usd_output=of("output"))
    cached = table.cached_tokens.fill_null(0)
    written = table.cache_write_tokens.fill_null(0)
    fresh = most(table.input_tokens.fill_null(0) - cached - written, 0)
    has_usage = table.input_tokens.notnull() | table.output_tokens.notnull()
    input_cost = fresh * table.usd_input + cached * table.usd_cached + written * table.usd_written
    output_cost = table.output_tokens.fill_null(0) * table.usd_output
    for modality in sorted({modality for _, price in known_prices for modality in price.dearer}):
        read, kept, made = (table[f"{modality}_{what}_tokens"].fill_null(0) for what in ("input", "cached", "output"))
        own = least(fresh, most(read - kept, 0))
        input_cost += own * dearer(modality, "input") + kept * dearer(modality, "cached")
        output_cost += made * dearer(modality, "output")
    priced = when(has_usage, input_cost + output_cost)
    # A step's own cost is on spans of other kinds, which have no outcome.
    billed = when(table.outcome.notnull(), table.cost_usd)
    return table.mutate(input_cost=when(has_usage, input_cost), cost=first(billed, priced))


def length(table: Any) -> Any:
    """Seconds from a span's start to its end."""
    return (table.end_ns - table.start_ns).cast("float64") / NS


def faults(spans: Any) -> Any:
    """One row: the number of spans whose parent is missing, and of those whose clock disagrees with their parent's."""
    above = spans.select(
        up_trace="trace_id", up_span="span_id", up_service="service", up_start="start_ns", up_end="end_ns"
    )
    below = spans.filter(spans.parent_id.notnull()).select("trace_id", "parent_id", "service", "start_ns", "end_ns")
    joined = below.left_join(above, [("trace_id", "up_trace"), ("parent_id", "up_span")])
    outside = (joined.start_ns + SKEW_NS < joined.up_start) | (joined.end_ns > joined.up_end + SKEW_NS)
    other = joined.service.fill_null("") != joined.up_service.fill_null("")
    return joined.agg(
        orphans=joined.up_span.isnull().sum().fill_null(0),
        skewed=count_of(joined.up_span.notnull() & other & outside).fill_null(0),
    )


def tasks(spans: Any) -> Any:
    """The spans of ``llmtrace.task``: one row a task. One without an id, another tracer's say, has its span's."""
    return spans.filter(spans.task_name.notnull()).mutate(task_id=lambda t: first(t.task_id, t.span_id))


def steps(spans: Any) -> Any:
    """The spans of ``llmtrace.step``: one row a step. Calls in a step have its kind too, and an outcome."""
    return spans.filter(spans.step_kind.notnull() & spans.outcome.isnull())


def values(expression: Any) -> list[tuple[Any, ...]]:
    """The rows of an expression, as plain Python values."""
    table = expression.to_pyarrow()
    columns = [column.to_pylist() for column in table.columns]
    return list(zip(*columns, strict=True)) if columns else []
