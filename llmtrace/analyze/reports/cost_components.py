"""What each component of a task costs, how often it runs and how long it is waited for.

Whoever pays for the resolved tasks pays for the others too: a component's price of a resolved task is all that it cost,
in whichever tasks, over the resolved ones.
"""

from __future__ import annotations

from typing import Any, Final

import ibis

from llmtrace.analyze import components, critical, ends, parts, tables
from llmtrace.analyze.book import Book
from llmtrace.analyze.contract import FAILED
from llmtrace.analyze.expressions import first, when
from llmtrace.analyze.report import Column, Section, Stack
from llmtrace.analyze.reports.cancellations import CUT_SHORT

SPANS: Final = 30_000
"""The most spans that are walked for what was waited for: enough for a mean, and a fraction of a second."""
_MOST_TASKS: Final = 5
"""Kinds of tasks with a table of their own, the costliest."""
_WORK: Final = (parts.RUNS, parts.ERRORS, parts.RETRIES, parts.REPAIRS)


def worth_it(book: Book) -> bool:
    """Whether calls are parts of something larger, so that there are components to tell apart."""
    ((beneath,),) = book.rows(book.calls.agg(n=book.calls.parent_id.count()))
    return bool(beneath)


def owned(tasks: Any, table: Any) -> Any:
    """``table`` with the ``owner`` of each row: the task whose id it carries, else its trace's only one, else null."""
    only = tasks.group_by("trace_id").agg(n=tasks.count(), only_id=tasks.task_id.min()).filter(lambda t: t.n == 1)
    only = only.rename(only_trace="trace_id")
    joined = table.left_join(only, [("trace_id", "only_trace")])
    return joined.mutate(owner=first(joined.task_id, joined.only_id))


def spent(book: Book, tasks: Any, attribute: str | None) -> Any:
    """What calls, and other spans that say so, cost: one row each, with its task's id (``owner``) and component.

    ``attribute``: another one than ``llmtrace.cost.usd`` in which spans say it.
    """
    calls = book.calls.inner_join(book.components, [("trace_id", "call_trace"), ("span_id", "call_span")])
    calls = owned(tasks, calls)
    failed = calls.outcome.isin(FAILED).fill_null(False)
    calls = calls.select(
        "trace_id", "owner", "component", usd="cost", tries="attempts", n=1, failed=failed,
        cut=calls.outcome.isin(CUT_SHORT).fill_null(False) & ~failed,
        repairs=when(calls.repairs.fill_null(0) > 0, 1, 0),
        tokens=calls.input_tokens.fill_null(0) + calls.output_tokens.fill_null(0),
    )  # fmt: skip
    spans = book.spans.mutate(usd=tables.declared_cost(book.spans, attribute))
    spans = book.described(spans.filter(spans.usd.notnull() & spans.phase.isnull() & ~tables.is_call(spans)))
    others = owned(tasks, spans).select(
        "trace_id", "owner", component="own", usd="usd", tries=0, n=0, failed=ibis.literal(False),
        cut=ibis.literal(False), repairs=0, tokens=0,
    )  # fmt: skip
    counts = {"tries": "int64", "n": "int64", "repairs": "int64", "tokens": "int64"}
    return calls.cast(counts).union(others.cast(counts))


def make(book: Book, tasks: Any, spent: Any, notes: list[str]) -> list[Section]:
    """A section for each kind of task; one for calls outside of tasks, where a trace counts as one."""
    named = tasks.group_by(named_id=tasks.task_id).agg(
        task_name=tasks.task_name.min(), solved=tasks.task_resolved.fill_null(False).max()
    )
    joined = spent.left_join(named, [("owner", "named_id")])
    joined = joined.mutate(task_name=joined.task_name.fill_null(""), solved=joined.solved.fill_null(False))
    sums = joined.group_by("task_name", "component").agg(
        usd=joined.usd.sum(), lost=when(joined.solved, 0.0, joined.usd).sum(), tokens=joined.tokens.sum(),
        calls=joined.n.sum(),
    )  # fmt: skip
    cost = {(task, component): figures for task, component, *figures in book.rows(sums)}
    resolved = dict(book.rows(named.group_by("task_name").agg(n=named.solved.cast("int64").sum())))
    requests, share = ends.requests(book, SPANS, by_task=True)
    by_task: dict[str, list[critical.Request]] = {}
    for request in requests:
        by_task.setdefault(request.name, []).append(request)
    total = dict.fromkeys((*by_task, *(task for task, _ in cost)), 0.0)
    for (task, _), (usd, *_) in cost.items():
        total[task] += usd or 0.0
    sections: list[Section] = []
    for task in sorted(total, key=lambda task: (-total[task], task))[:_MOST_TASKS]:
        walked = by_task.get(task, [])
        own = {component: figures for (name, component), figures in cost.items() if name == task}
        rows = _rows(own, parts.of(walked, share), len(walked), resolved.get(task))
        if [row[0] for row in rows] != [components.MODEL]:
            sections.append(_section(task, rows))
    if share < 1 and sections:
        notes.append(f"runs and waits of components are those of an even sample of {share:.1%} of the traces")
    return sections


def _section(task: str, rows: list[list[Any]]) -> Section:
    unit = "task" if task else "trace"
    costs = {row[0]: row[1] for row in rows if row[1]}
    return Section(
        f"By component: {task}" if task else "By component",
        [
            Column("component"), Column("cost", "usd"), Column("share of cost", "share"),
            Column("per resolved", "usd"), Column("of it unresolved", "usd"), Column("waited for", "s"),
            Column("share of time", "share"), Column("calls", "count"), Column("tokens", "count"),
            *(Column(f"{figure}/{unit}", "number") for figure in _WORK),
        ],
        rows,
        ("per resolved: what it cost in all such tasks, over the resolved ones; of it unresolved: what it cost in the "
         "others. " if task else "")
        + f"waited for: its time on the critical path of a mean {unit}.",
        Stack("Cost by component", "usd", [(task or "all", costs)]) if costs else None,
    )  # fmt: skip


def _rows(cost: dict[str, list[Any]], walked: parts.Parts, count: int, resolved: int | None) -> list[list[Any]]:
    waited = walked.waited
    whole_time, whole_usd = sum(waited.values()), sum(figures[0] or 0.0 for figures in cost.values())
    work = walked.sums()
    names = sorted({*cost, *work}, key=lambda name: (-(cost.get(name, [0])[0] or 0), -waited.get(name, 0), name))
    rows: list[list[Any]] = []
    for name in names[: parts.MOST * 2]:
        usd, lost, tokens, calls = cost.get(name, [None, None, None, None])
        seconds = waited.get(name, 0.0)
        rows.append(
            [name, usd, (usd or 0.0) / whole_usd if whole_usd else None,
             usd / resolved if usd is not None and resolved else None,
             lost / resolved if lost is not None and resolved else None,
             seconds / count if count else None, seconds / whole_time if whole_time else None, calls, tokens,
             *(work.get(name, {}).get(figure, 0.0) / count if count else None for figure in _WORK)]
        )  # fmt: skip
    return rows
