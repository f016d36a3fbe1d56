"""Where the prompt cache went: what each route got of it, what it might have got, and why it did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ibis

from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import count_of, first, most, when
from llmtrace.analyze.report import Column, Report, Section, Stack
from llmtrace.analyze.reports import Options
from llmtrace.estimate.losses import REASONS, WORDS
from llmtrace.wording import plural


def make(book: Book, options: Options) -> Report:
    """Build the report."""
    calls = book.calls.filter(book.calls.input_tokens.notnull())
    counted = calls.filter(calls.cached_tokens.notnull())
    dearer = most(counted.usd_input - counted.usd_cached, 0.0)
    counted = counted.mutate(
        lost=counted.lost_tokens.fill_null(0),
        lost_usd=when(counted.lost_tokens.notnull(), dearer * counted.lost_tokens),
    )
    routes = book.rows(_by_route(counted, options.top))
    report = Report(
        "cache",
        "Where the prompt cache went",
        [_routes(routes), *_reasons(book, counted), *_changes(book, counted, options.top), *_told(book, counted)],
    )
    ((every, asked),) = book.rows(calls.aggregate(n=calls.count(), asked=count_of(calls.cached_tokens.notnull())))
    whole = [sum(row[at] or 0 for row in book.rows(_by_route(counted, None))) for at in (2, 3, 4)]
    asked = asked or 0  # the sum over no rows is null
    report.headline = _headline(whole, every, asked, bool(book.stats.versions))
    if asked < every:
        report.notes.append(
            f"{plural(every - asked, 'call')} of {every:,} left out: their provider counts no cached tokens"
        )
    if not book.stats.versions:
        report.notes.append("no span here is llmtrace's: what the cache might have given is not known")
    return report


def _by_route(counted: Any, top: int | None) -> Any:
    by_route = counted.group_by("route").agg(
        calls=counted.count(),
        tokens=counted.input_tokens.sum(),
        got=counted.cached_tokens.sum(),
        lost=counted.lost.sum(),
        seconds=counted.lost_time.sum(),
        usd=counted.lost_usd.sum(),
        **{name: when(counted.lost_because == name, counted.lost, 0).sum() for name in REASONS},
    )
    ordered = by_route.order_by(ibis.desc(by_route.lost), ibis.desc(by_route.tokens))
    return ordered if top is None else ordered.limit(top)


def _headline(whole: Sequence[Any], every: int, asked: int, expecting: bool) -> str:
    """``expecting``: llmtrace made spans here, so that what might have come is known."""
    if not every:
        return "no call tells how many tokens its prompt had: streams have to ask for that (request_usage=True)"
    if not asked:
        return f"no provider of {plural(every, 'call')} counts cached tokens"
    tokens, got, lost = whole
    text = f"{got / tokens:.0%} of {tokens:,} prompt tokens came from the cache" if tokens else "no prompt tokens"
    if not expecting:
        return text
    return f"{text}; {lost / tokens:.0%} more might have" if lost else f"{text}; no more was expected"


def _routes(routes: Sequence[Sequence[Any]]) -> Section:
    table: list[list[Any]] = []
    bars: list[tuple[str, dict[str, float]]] = []
    for route, calls, tokens, got, lost, seconds, usd, *reasons in routes:
        table.append([route, calls, tokens, got / tokens if tokens else None, got + lost, got, lost, seconds, usd])
        named = {WORDS[name]: float(value) for name, value in zip(REASONS, reasons, strict=True) if value}
        bars.append((route, ({"from the cache": float(got)} if got else {}) | named))
    return Section(
        "By route",
        [
            Column("route"), Column("calls", "count"), Column("prompt tokens", "count"), Column("hit", "share"),
            Column("expected", "count"), Column("got", "count"), Column("lost", "count"),
            Column("lost time", "s"), Column("lost cost", "usd"),
        ],
        table,
        "Expected: what came from the cache, and what might have by this client's own history of prompts. Lost time is "
        "prefill at the call's own rate, where that is known; lost cost the full price less the cached one.",
        Stack("Tokens that came from the cache, and that might have", "count", bars),
    )  # fmt: skip


def _reasons(book: Book, counted: Any) -> list[Section]:
    lost = counted.filter(counted.lost_because.notnull())
    by_reason = lost.group_by("lost_because").agg(
        calls=lost.count(), tokens=lost.lost.sum(), seconds=lost.lost_time.sum(), usd=lost.lost_usd.sum()
    )
    rows = book.rows(by_reason.order_by(ibis.desc("tokens")))
    if not rows:
        return []
    return [
        Section(
            "Why",
            [Column("reason"), Column("calls", "count"), Column("tokens", "count"), Column("time", "s"),
             Column("cost", "usd")],
            [[WORDS.get(reason, reason), *rest] for reason, *rest in rows],
            "One reason a call: the one that cost most tokens.",
        )
    ]  # fmt: skip


def _changes(book: Book, counted: Any, top: int) -> list[Section]:
    changed = counted.filter(counted.changed_at.notnull())
    places = changed.group_by("route", "changed_at").agg(
        calls=changed.count(), near=changed.changed_token.mean(), tokens=changed.lost.sum()
    )
    rows = book.rows(places.order_by(ibis.desc("tokens")).limit(top))
    if not rows:
        return []
    return [
        Section(
            "Where the beginning changed",
            [Column("route"), Column("changed in"), Column("calls", "count"), Column("near token", "count"),
             Column("tokens lost", "count")],
            rows,
            "What stands behind the change was sent before, but behind another beginning. Put what changes (a time, an "
            "id, a user's name, a retrieved text) behind what does not.",
        )
    ]  # fmt: skip


def _told(book: Book, counted: Any) -> list[Section]:
    told = counted.filter(counted.cache_miss.notnull())
    by_word = told.group_by(told.cache_miss, ours=first(told.lost_because, "no loss seen")).agg(calls=told.count())
    rows = book.rows(by_word.order_by(ibis.desc("calls")))
    if not rows:
        return []
    columns = [Column("the provider says"), Column("by this client's history"), Column("calls", "count")]
    table = [[word, WORDS.get(ours, ours), calls] for word, ours, calls in rows]
    return [Section("The provider's own word", columns, table, "OpenAI's and Anthropic's cache diagnostics, if asked.")]
