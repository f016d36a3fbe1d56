"""The cost of tokens by their prices, and of a resolved task by component.

A task's cost is what its calls cost by genai-prices and what its steps say they cost. The price of a resolved task is
that of all tasks, resolved or not, over the resolved ones: whoever pays for the failures pays for them too.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze import tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import count_of, first, when
from llmtrace.analyze.report import Column, Report, Section, Stack, cell
from llmtrace.analyze.reports import Options
from llmtrace.analyze.reports.cancellations import CUT_SHORT
from llmtrace.wording import plural

COMPONENTS: Final = (
    "model", "retries", "cancelled", "repair", "retrieval", "rerank", "tool", "guardrail", "evaluation", "human_review",
    "other", "telemetry",
)  # fmt: skip
_FAILED = ("error", "timed_out")


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    report = Report("cost", "What it costs", [_models(book, options)])
    _say(book, report)
    tasks = book.hold(tables.tasks(book.spans))
    ((count,),) = book.rows(tasks.agg(n=tasks.count()))
    if count:
        report.sections.append(_tasks(book, tasks, options))
        if options.span_usd == 0:
            report.notes.append("telemetry is counted in spans only: --span-usd says what a million spans cost to keep")
    else:
        report.notes.append("no tasks: `with llmtrace.task(...)` around a unit of work gives its cost per resolution")
    return report


def _models(book: Book, options: Options) -> Section:
    calls = book.calls
    repairs = _is_repair(calls)
    by_model = calls.group_by("provider", model=first(calls.response_model, calls.request_model, "?")).agg(
        calls=calls.count(),
        input=calls.input_tokens.sum(),
        cached=calls.cached_tokens.sum(),
        output=calls.output_tokens.sum(),
        unknown=count_of(calls.cost.isnull()),
        usd=calls.cost.sum(),
        saved=(calls.cached_tokens.fill_null(0) * (calls.usd_input - calls.usd_cached)).sum(),
        cut=when(calls.outcome.isin(CUT_SHORT), calls.cost, 0.0).sum(),
        attempts=calls.attempts.sum(),
        repairs=count_of(repairs),
        repair_tokens=when(repairs, calls.input_tokens.fill_null(0) + calls.output_tokens.fill_null(0), 0).sum(),
        repair_usd=when(repairs, calls.cost, 0.0).sum(),
    )
    rows = [
        [provider, model, n, into, cached, out, usd, usd / n * 1000 if usd is not None else None, saved, cut, tries / n,
         repairs, repair_tokens, repair_usd, unknown]
        for provider, model, n, into, cached, out, unknown, usd, saved, cut, tries, repairs, repair_tokens, repair_usd
        in book.rows(
            by_model.order_by(ibis.desc("usd"), ibis.desc("calls")).limit(options.top)
        )
    ]  # fmt: skip
    bars = [(" ".join(filter(None, row[:2])), {"model": float(row[6] or 0)}) for row in rows if row[6]]
    return Section(
        "By model",
        [
            Column("provider"), Column("model"), Column("calls", "count"), Column("input", "count"),
            Column("cached", "count"), Column("output", "count"), Column("cost", "usd"),
            Column("per 1,000 calls", "usd"), Column("saved by cache", "usd"), Column("cut short", "usd"),
            Column("attempts/call", "number"), Column("repairs", "count"), Column("repair tokens", "count"),
            Column("repair cost", "usd"), Column("not priced", "count"),
        ],
        rows,
        "repairs: calls that asked again because an answer did not pass a check; their tokens and cost are in the sums "
        "before. not priced: calls whose model genai-prices does not know, or whose tokens nobody told.",
        Stack("Cost by model", "usd", bars) if bars else None,
    )  # fmt: skip


def _is_repair(calls: Any) -> Any:
    return calls.repairs.fill_null(0) > 0


def _say(book: Book, report: Report) -> None:
    calls = book.calls
    ((usd, unpriced, long, whole),) = book.rows(
        calls.agg(
            usd=calls.cost.sum(),
            unpriced=count_of(calls.cost.isnull()),
            long=count_of(calls.input_tokens > 128_000),
            n=calls.count(),
        )
    )
    report.headline = (
        f"{cell(usd, 'usd')} for {plural(whole, 'call')}"
        if usd is not None
        else f"{plural(whole, 'call')}, no price known"
    )
    if unpriced:
        report.notes.append(f"{unpriced:,} of {plural(whole, 'call')} without a price, which the sums leave out")
    if long:
        report.notes.append(
            f"{plural(long, 'call')} longer than 128,000 tokens: what a provider charges more for those is not counted"
        )


def _tasks(book: Book, tasks: Any, options: Options) -> Section:
    """One row per task name. Calls and steps belong to the task whose id they carry, else to their trace's only one."""
    only = tasks.group_by("trace_id").agg(n=tasks.count(), only_id=tasks.task_id.min()).filter(lambda t: t.n == 1)
    only = only.rename(only_trace="trace_id")

    def owned(table: Any) -> Any:
        joined = table.left_join(only, [("trace_id", "only_trace")])
        return joined.mutate(owner=first(joined.task_id, joined.only_id)).filter(lambda t: t.owner.notnull())

    calls = owned(book.calls)
    cut = calls.outcome.isin(CUT_SHORT) & ~calls.outcome.isin(_FAILED)
    repairs = _is_repair(calls)
    within = when(repairs, "repair", first(calls.step_kind, "model"))
    component = when(calls.outcome.isin(_FAILED), "retries", when(cut, "cancelled", within))
    spent = calls.select(
        "owner",
        component=component,
        usd=calls.cost,
        tries="attempts",
        n=1,
        repairs=when(repairs, 1, 0),
        seconds="duration",
    )
    steps = owned(tables.steps(book.spans).filter(lambda t: t.cost_usd.notnull()))
    stepped = steps.select(
        "owner", component=steps.step_kind, usd=steps.cost_usd, tries=0, n=0, repairs=0, seconds=ibis.literal(0.0)
    )
    counts = {"tries": "int64", "n": "int64", "repairs": "int64"}
    both = spent.cast(counts).union(stepped.cast(counts))
    sums = both.group_by("owner").agg(
        calls=both.n.sum(),
        attempts=both.tries.sum(),
        repaired=both.repairs.sum(),
        **{f"usd_{name}": when(both.component == name, both.usd, 0.0).sum() for name in COMPONENTS[:-1]},
    )
    spans = owned(book.spans.select("trace_id", "task_id")).group_by("owner").agg(spans=lambda t: t.count())
    spans = spans.rename(span_owner="owner")
    joined = tasks.left_join(sums, [("task_id", "owner")]).left_join(spans, [("task_id", "span_owner")])
    joined = joined.mutate(usd_telemetry=joined.spans.fill_null(1) * (options.span_usd / 1e6))
    total = sum(joined[f"usd_{name}"].fill_null(0.0) for name in COMPONENTS)
    joined = joined.mutate(usd=total, solved=when(joined.task_resolved.fill_null(False), 1, 0))
    by_task = joined.group_by("task_name").agg(
        n=joined.count(),
        solved=joined.solved.sum(),
        usd=joined.usd.sum(),
        over=count_of(joined.usd > joined.task_budget),
        p50=tables.length(joined).median(),
        calls=joined.calls.sum(),
        attempts=joined.attempts.sum(),
        repaired=joined.repaired.sum(),
        spans=joined.spans.sum(),
        **{name: joined[f"usd_{name}"].sum() for name in COMPONENTS},
    )
    rows: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    for name, n, solved, usd, over, p50, calls_, attempts, repaired, spans_, *parts in book.rows(
        by_task.order_by(ibis.desc("usd")).limit(options.top)
    ):
        per = usd / solved if solved else None
        amplified = attempts / calls_ if calls_ else None
        per_task = [(calls_ or 0) / n, amplified, (repaired or 0) / n, (spans_ or 0) / n]
        rows.append([name, n, solved, usd, per, over, p50, *per_task, *parts])
        bars.append((name, {part: value for part, value in zip(COMPONENTS, parts, strict=True) if value}))
    return Section(
        "By task",
        [
            Column("task"), Column("tasks", "count"), Column("resolved", "count"), Column("cost", "usd"),
            Column("per resolved", "usd"), Column("over budget", "count"), Column("took p50", "s"),
            Column("calls/task", "number"), Column("attempts/call", "number"), Column("repairs/task", "number"),
            Column("spans/task", "number"),
            *(Column(name, "usd") for name in COMPONENTS),
        ],
        rows,
        "per resolved: the cost of all tasks, also of those that came to nothing, over the resolved ones. retries: "
        "calls that failed and whose tokens are known. cancelled: calls that were cut short, by what their usage told. "
        "repair: calls that asked again because an answer did not pass a check.",
        Stack("Cost of tasks by component", "usd", bars),
    )  # fmt: skip
