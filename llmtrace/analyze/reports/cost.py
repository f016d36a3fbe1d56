"""The cost of tokens by their prices, and of a resolved task by component.

A task's cost is what its calls cost by genai-prices and what its steps say they cost. The price of a resolved task is
that of all tasks, resolved or not, over the resolved ones: whoever pays for the failures pays for them too.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze import components, quality, tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import chosen, count_of, first, when
from llmtrace.analyze.report import Column, Report, Section, Stack, cell
from llmtrace.analyze.reports import Options, cost_components
from llmtrace.analyze.reports.cancellations import CUT_SHORT
from llmtrace.wording import plural

COMPONENTS: Final = (
    "model", "retries", "cancelled", "repair", "embeddings", "retrieval", "rerank", "tool", "guardrail", "evaluation",
    "human_review", "other", "telemetry",
)  # fmt: skip


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    report = Report("cost", "What it costs", [_models(book, options)])
    _say(book, report)
    tasks = book.hold(tables.tasks(book.spans))
    ((count,),) = book.rows(tasks.agg(n=tasks.count()))
    judge = quality.common([book], options.quality)
    if judge.note:
        report.notes.append(judge.note)
    if count or cost_components.worth_it(book):
        spent = book.hold(cost_components.spent(book, tasks, options.usd))
        if count:
            report.sections.append(_tasks(book, tasks, spent, judge, options))
        report.sections += cost_components.make(book, tasks, spent, report.notes)
    if count:
        if options.span_usd == 0:
            report.notes.append("telemetry is counted in spans only: --span-usd says what a million spans cost to keep")
    else:
        report.notes.append("no tasks: `with llmtrace.task(...)` around a unit of work gives its cost per resolution")
        scores = quality.by_trace(book, judge)
        if scores:
            mean = sum(scores.values()) / len(scores)
            report.notes.append(f"{judge.title}: {cell(mean, 'number')} in the mean of {plural(len(scores), 'trace')}")
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


def _tasks(book: Book, tasks: Any, spent: Any, judge: quality.Quality, options: Options) -> Section:
    """One row per task name."""
    own = spent.filter(spent.owner.notnull())
    kind = components.group(own.component)
    column = chosen(
        [(own.failed, "retries"), (own.cut, "cancelled"), (kind.isin(COMPONENTS), kind)], "other"
    )  # fmt: skip
    own = own.mutate(column=column)
    sums = own.group_by("owner").agg(
        calls=own.n.sum(),
        attempts=own.tries.sum(),
        repaired=own.repairs.sum(),
        **{f"usd_{name}": when(own.column == name, own.usd, 0.0).sum() for name in COMPONENTS[:-1]},
    )
    spans = cost_components.owned(tasks, book.spans.select("trace_id", "task_id"))
    spans = spans.filter(spans.owner.notnull()).group_by("owner").agg(spans=lambda t: t.count())
    spans = spans.rename(span_owner="owner")
    scored = cost_components.owned(tasks, judge.scored(book.spans).select("trace_id", "task_id", "quality"))
    scored = scored.group_by(scored_owner=scored.owner).agg(quality=scored.quality.mean())
    joined = tasks.left_join(sums, [("task_id", "owner")]).left_join(spans, [("task_id", "span_owner")])
    joined = joined.left_join(scored, [("task_id", "scored_owner")])
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
        quality=joined.quality.mean(),
        **{name: joined[f"usd_{name}"].sum() for name in COMPONENTS},
    )
    rows: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    for name, n, solved, usd, over, p50, calls_, attempts, repaired, spans_, score, *parts in book.rows(
        by_task.order_by(ibis.desc("usd")).limit(options.top)
    ):
        per = usd / solved if solved else None
        amplified = attempts / calls_ if calls_ else None
        per_task = [(calls_ or 0) / n, amplified, (repaired or 0) / n, (spans_ or 0) / n]
        rows.append([name, n, solved, usd, per, over, p50, score, *per_task, *parts])
        bars.append((name, {part: value for part, value in zip(COMPONENTS, parts, strict=True) if value}))
    return Section(
        "By task",
        [
            Column("task"), Column("tasks", "count"), Column("resolved", "count"), Column("cost", "usd"),
            Column("per resolved", "usd"), Column("over budget", "count"), Column("took p50", "s"),
            Column(judge.title, "number"), Column("calls/task", "number"), Column("attempts/call", "number"),
            Column("repairs/task", "number"), Column("spans/task", "number"),
            *(Column(name, "usd") for name in COMPONENTS),
        ],
        rows,
        "per resolved: the cost of all tasks, also of those that came to nothing, over the resolved ones. retries: "
        "calls that failed and whose tokens are known. cancelled: calls that were cut short, by what their usage told. "
        "repair: calls that asked again because an answer did not pass a check.",
        Stack("Cost of tasks by component", "usd", bars),
    )  # fmt: skip
