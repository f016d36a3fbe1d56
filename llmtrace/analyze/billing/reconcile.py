"""Joins exports with traces, and says what is known now, as a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtrace.analyze import told
from llmtrace.analyze.billing import asking
from llmtrace.analyze.billing.exports import read_file
from llmtrace.analyze.billing.join import BY_ID, Call, Check, Joined, Match, checks, join
from llmtrace.analyze.billing.records import NS, Exports
from llmtrace.analyze.book import Book
from llmtrace.analyze.report import Column, Report, Section
from llmtrace.analyze.reports.cancellations import CUT_SHORT
from llmtrace.wording import plural

_NAMED = 20
"""Rows that are named one by one; the rest is counted."""


@dataclass(slots=True)
class Reconciled:
    """What the exports say of the calls."""

    exports: Exports
    joined: Joined
    checks: Sequence[Check]
    calls: Sequence[Call]

    @property
    def matches(self) -> Sequence[Match]:
        """The records of one call each."""
        return self.joined.matches


def read(sources: Sequence[str]) -> Exports:
    """The exports that are files; of addresses only that there is a key for them.

    Raises:
        LlmtraceError: one cannot be read, or there is no key.
    """
    exports = Exports()
    for source in sources:
        if asking.is_address(source):
            asking.key_for(source)
        else:
            read_file(Path(source), exports)
    return exports


def reconcile(book: Book, exports: Exports, addresses: Sequence[str], within_s: float) -> Reconciled:
    """Join the exports, and what is learned by asking at ``addresses``, with the calls of ``book``.

    ``within_s``: how far times may be apart, s.

    Raises:
        LlmtraceError: nobody answers at an address, or there are no calls.
    """
    calls = recorded(book)
    open_calls = [call for call in calls if not call.is_exact]
    for address in addresses:
        asking.ask(address, open_calls, exports)
    joined = join(exports.records, calls, within_s)
    known = {(each.call.trace_id, each.call.span_id): each.record.output_tokens for each in joined.matches}
    return Reconciled(exports, joined, list(checks(list(exports.buckets.values()), calls, known)), calls)


def recorded(book: Book) -> list[Call]:
    """The calls of a book, with what is known of their output tokens."""
    table = told.bounded(book.spans, book.calls)
    rows = book.rows(
        table.select(
            "trace_id", "span_id", "began_ns", "duration", "provider", "response_model", "request_model", "response_id",
            "input_tokens", "output_tokens", "outcome", "exact", "lower", "upper",
        )
    )  # fmt: skip
    calls: list[Call] = []
    for trace, span, began, duration, provider, answered, asked, id, inputs, outputs, outcome, exact, low, high in rows:
        is_cut = outcome in CUT_SHORT
        done = outputs if exact is None and not is_cut else exact
        calls.append(
            Call(
                trace_id=trace,
                span_id=span,
                start_ns=began,
                end_ns=began + round((duration or 0.0) * NS),
                provider=provider or "",
                models=tuple(dict.fromkeys(model for model in (answered, asked) if model)),
                response_id=id or "",
                input_tokens=inputs,
                lower=low if done is None else done,
                upper=high if done is None else done,
                is_cut=is_cut,
            )
        )
    return calls


def report(made: Reconciled, written: str) -> Report:
    """What was joined, what not, and the sums. ``written``: the file of spans, empty where there is none."""
    exports, joined = made.exports, made.joined
    cut = [call for call in made.calls if call.is_cut]
    matched = {(match.call.trace_id, match.call.span_id) for match in joined.matches}
    now = sum((call.trace_id, call.span_id) in matched for call in cut)
    known = sum(call.is_exact and (call.trace_id, call.span_id) not in matched for call in cut)
    result = Report("reconcile", "What was billed, and for which calls", [])
    result.headline = (
        f"{plural(len(joined.matches), 'record')} joined; of {plural(len(cut), 'call')} cut short {now:,} have one, "
        f"{known:,} were known exactly before, {len(cut) - now - known:,} stay within bounds"
    )
    if exports.records:
        result.sections.append(_joined(made))
    if made.checks:
        result.sections.append(_checked(made.checks))
    different = [
        match for match in joined.matches
        if match.call.is_exact and match.call.upper != match.record.output_tokens
    ]  # fmt: skip
    if different:
        result.notes.append(
            f"{plural(len(different), 'record')} of calls whose usage was known bill other output tokens than that said"
        )
    if exports.problems:
        result.sections.append(_named("Rows that could not be read", exports.problems))
    if joined.ambiguous:
        result.sections.append(_named("Records that were not joined", joined.ambiguous))
    if exports.contradicting:
        result.sections.append(_named("Records that contradict an earlier one", exports.contradicting))
    if exports.repeated:
        result.notes.append(f"{plural(exports.repeated, 'record')} there twice: one of each counts")
    if written and joined.matches:
        result.notes.append(f"written to {written}: give it to `llmtrace report cancellations` beside the traces")
    return result


def _joined(made: Reconciled) -> Section:
    sources = sorted({record.source for record in made.exports.records})
    rows: list[tuple[object, ...]] = []
    for source in sources:
        matches = [match for match in made.joined.matches if match.record.source == source]
        records = sum(record.source == source for record in made.exports.records)
        alone = sum(record.source == source for record in made.joined.alone)
        by_id = sum(match.by == BY_ID for match in matches)
        usd = [match.record.usd for match in matches if match.record.usd is not None]
        rows.append(
            (
                source, records, by_id, len(matches) - by_id, records - len(matches) - alone, alone,
                sum(match.record.output_tokens for match in matches), sum(usd) if usd else None,
            )
        )  # fmt: skip
    return Section(
        "Records of single calls",
        [
            Column("source"), Column("records", "count"), Column("by id", "count"), Column("by time and size", "count"),
            Column("ambiguous", "count"), Column("of no call here", "count"), Column("output billed", "count"),
            Column("billed", "usd"),
        ],
        rows,
    )  # fmt: skip


def _checked(found: Sequence[Check]) -> Section:
    rows = [
        (
            each.bucket.source, each.bucket.model or "all", each.bucket.start_ns,
            (each.bucket.end_ns - each.bucket.start_ns) / NS / 3600, each.bucket.requests, each.calls,
            each.bucket.input_tokens, each.input_tokens, each.bucket.output_tokens, each.lower, each.upper,
            each.unexplained,
        )
        for each in found
    ]  # fmt: skip
    return Section(
        "Sums by bucket and model",
        [
            Column("provider"), Column("model"), Column("from", "time"), Column("hours", "number"),
            Column("requests", "count"), Column("calls here", "count"), Column("input billed", "count"),
            Column("input here", "count"), Column("output billed", "count"), Column("here ≥", "count"),
            Column("here ≤", "count"), Column("unexplained", "count"),
        ],
        rows,
        note="unexplained: output billed beyond what the calls here may have made, or (below 0) short of what they did",
    )  # fmt: skip


def _named(title: str, rows: Sequence[tuple[str, str]]) -> Section:
    note = f"and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return Section(f"{title} ({len(rows):,})", [Column("place"), Column("why")], rows[:_NAMED], note=note)
