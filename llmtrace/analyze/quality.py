"""How good the answers were: a score on the root or on any other span of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtrace.analyze.book import Book
from llmtrace.analyze.expressions import when
from llmtrace.analyze.schema import column_of
from llmtrace.conventions import SCORE


@dataclass(frozen=True, slots=True)
class Quality:
    """Which score is read: ``attribute``, or the conventions' evaluation ``name`` (None: one without a name)."""

    attribute: str | None = None
    name: str | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """What people read."""
        return self.attribute or (f"quality ({self.name})" if self.name else "quality")

    def of(self, spans: Any) -> Any:
        """The score that each span itself has; null where it has none."""
        if self.attribute is not None:
            return spans[column_of(self.attribute)]
        return when(spans.score_name.fill_null("") == (self.name or ""), spans.score)

    def scored(self, spans: Any) -> Any:
        """The spans that have a score, each with its ``quality``."""
        spans = spans.mutate(quality=self.of(spans))
        return spans.filter(spans.quality.notnull())


def common(books: Sequence[Book], attribute: str | None = None) -> Quality:
    """The score that is read of all ``books``: ``attribute``, else the evaluation that most spans have."""
    if attribute not in (None, SCORE):
        return Quality(attribute)
    counts: dict[str, int] = {}
    for book in books:
        scored = book.spans.filter(book.spans.score.notnull())
        by_name = scored.group_by(name=scored.score_name.fill_null("")).agg(n=scored.count())
        for name, count in book.rows(by_name):
            counts[name] = counts.get(name, 0) + count
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if len(names) < 2:
        return Quality(name=names[0] if names else None)
    others = ", ".join(name or "one without a name" for name in names[1:4])
    return Quality(name=names[0], note=f"quality is the evaluation {names[0]!r}; there are others too: {others}")


def by_trace(book: Book, quality: Quality) -> dict[str, float]:
    """The mean score of each trace that has one."""
    scored = quality.scored(book.spans)
    return dict(book.rows(scored.group_by("trace_id").agg(quality=scored.quality.mean())))
