"""Jaeger's critical path, by the rules of its UI: what its black line passes through.

Jaeger keeps whole microseconds, of a span's start and of its duration, each cut by itself. Its UI leaves out children
that lie outside their parent, then goes from the last child to end (``findLastFinishingChildSpan``) to the last one
that ends strictly before that one's start, and so on, each child's own children first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan


@dataclass
class Bar:
    """One span as Jaeger has it; times in microseconds."""

    key: Any
    parent: Any
    start: int
    end: int


def bar(key: Any, parent: Any, start_ns: int, end_ns: int) -> Bar:
    """A span with its times cut as Jaeger's translator cuts them."""
    start = start_ns // 1000
    return Bar(key, parent, start, start + (end_ns - start_ns) // 1000)


def bars(spans: Iterable[ReadableSpan]) -> list[Bar]:
    """Exported spans, by their ids."""
    return [
        bar(
            span.context.span_id,
            span.parent.span_id if span.parent else None,
            span.start_time or 0,
            span.end_time or 0,
        )
        for span in spans
    ]


def off_the_path(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Those spans of some length that the path misses."""
    passed = critical_path(bars(spans))
    return [span for span in spans if span.context.span_id not in passed and span.end_time != span.start_time]


def critical_path(trace: Iterable[Bar]) -> set[Any]:
    """The keys of the spans that the path passes through, those whose children fill them included."""
    known = {each.key: Bar(each.key, each.parent, each.start, each.end) for each in trace}
    below: dict[Any, list[Bar]] = {}
    roots: list[Bar] = []
    for each in known.values():
        (below.setdefault(each.parent, []) if each.parent in known else roots).append(each)
    passed: set[Any] = set()
    for root in roots:
        _walk(root, below, passed)
    return passed


def _walk(parent: Bar, below: dict[Any, list[Bar]], passed: set[Any]) -> None:
    passed.add(parent.key)
    children: list[Bar] = []
    for child in below.get(parent.key, ()):
        if child.start >= parent.end or (child.start < parent.start and child.end <= parent.start):
            continue  # it lies outside, and is dropped
        child.start = max(child.start, parent.start)
        children.append(child)
    before: int | None = None
    while True:
        earlier = [child for child in children if before is None or child.end < before]
        if not earlier:
            return
        last = max(earlier, key=lambda child: child.end)
        _walk(last, below, passed)
        before = last.start
