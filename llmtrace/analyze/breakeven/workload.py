"""Recorded calls as requests for a machine, and what the route that answered them took and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmtrace.analyze.book import Book
from llmtrace.analyze.breakeven.queueing import Asked
from llmtrace.errors import LlmtraceError
from llmtrace.wording import plural

MOST: Final = 4000
"""The most calls that are replayed: those that follow each other."""
DAY_S: Final = 86_400.0
MONTH_DAYS: Final = 365.25 / 12


@dataclass(frozen=True, slots=True)
class Workload:
    """Calls in the order in which they were sent. Times in s, costs in USD."""

    requests: list[Asked]
    ttft: list[float | None]
    """The route's time to the first token of each; None where it was no stream."""
    total: list[float]
    cost: list[float]
    span: float
    """From the first call to the last."""
    routes: list[str]
    notes: list[str] = field(default_factory=list[str])

    @property
    def per_day(self) -> float:
        """Calls in a day at this pace."""
        return len(self.requests) / self.span * DAY_S

    @property
    def tokens(self) -> tuple[float, float]:
        """Prompt and output tokens of a mean call."""
        count = len(self.requests)
        return sum(each.prompt for each in self.requests) / count, sum(each.output for each in self.requests) / count

    def faster(self, factor: float) -> list[Asked]:
        """The requests, coming ``factor`` times as fast."""
        begin = self.requests[0].at
        return [Asked((each.at - begin) / factor, each.prompt, each.output, each.cached) for each in self.requests]


def read(book: Book, route: str = "", usd_in: float | None = None, usd_out: float | None = None) -> Workload:
    """The calls of the routes that have ``route`` in their names. ``usd_in``, ``usd_out``: prices of a million tokens.

    Shared prefixes are what the provider read from its cache and what it lost of what might have been there.

    Raises:
        LlmtraceError: no such route, no call that tells its tokens, fewer than two, or no price.
    """
    calls = book.calls
    ordered = calls.order_by("began_ns", "trace_id", "span_id")
    rows = book.rows(
        ordered.select(
            "began_ns", "route", "outcome", "input_tokens", "output_tokens", "cached_tokens", "lost_tokens", "ttft",
            "duration", "cost",
        )
    )  # fmt: skip
    of_route = [row for row in rows if route.lower() in row[1].lower()]
    if not of_route:
        names = ", ".join(sorted({row[1] for row in rows})[:6])
        raise LlmtraceError(f"no call of a route with {route!r} in its name; there are {names}")
    usable = [row for row in of_route if row[2] in (None, "completed") and row[3] and row[4]]
    if len(usable) < 2:
        raise LlmtraceError(
            f"{len(usable)} of {plural(len(of_route), 'call')} completed and tell their input and output tokens; a "
            "replay takes at least 2 (for streams, request_usage=True asks the provider for them)"
        )
    notes: list[str] = []
    if len(usable) < len(of_route):
        notes.append(
            f"{len(of_route) - len(usable):,} of {plural(len(of_route), 'call')} left out: not completed, or without "
            "token counts"
        )
    if len(usable) > MOST:
        notes.append(f"the first {MOST:,} of {plural(len(usable), 'call')} are replayed, as they follow each other")
        usable = usable[:MOST]
    costs = [_cost(row, usd_in, usd_out) for row in usable]
    unknown = sum(cost is None for cost in costs)
    if unknown == len(costs):
        raise LlmtraceError(
            f"no price known for {', '.join(sorted({row[1] for row in usable})[:3])}: give --usd-in and --usd-out, USD "
            "for a million tokens"
        )
    if unknown:
        notes.append(f"{unknown:,} of {plural(len(costs), 'call')} without a known price; each counts as a mean one")
    known = [cost for cost in costs if cost is not None]
    mean = sum(known) / len(known)
    begin = usable[0][0]
    span = (usable[-1][0] - begin) / 1e9
    if span <= 0:
        raise LlmtraceError("all calls began at the same moment: there is no pace to replay")
    if span < 3600:
        notes.append(f"the calls span {span / 60:.1f} minutes: a day and a month are this pace, all day long")
    return Workload(
        [Asked((row[0] - begin) / 1e9, int(row[3]), int(row[4]), int((row[5] or 0) + (row[6] or 0))) for row in usable],
        [row[7] for row in usable],
        [float(row[8]) for row in usable],
        [mean if cost is None else cost for cost in costs],
        span,
        sorted({row[1] for row in usable}),
        notes,
    )


def _cost(row: Sequence[Any], usd_in: float | None, usd_out: float | None) -> float | None:
    """What a call cost, USD; None where nobody knows."""
    if usd_in is None or usd_out is None:
        return None if row[9] is None else float(row[9])
    return (row[3] * usd_in + row[4] * usd_out) / 1e6
