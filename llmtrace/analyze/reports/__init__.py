"""The reports over one set of traces, one module each with ``make(book, options) -> Report``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final

from llmtrace.analyze.book import Book
from llmtrace.analyze.report import Report
from llmtrace.phases.objectives import Patterns

NAMES: Final = ("phases", "causes", "cost", "cancellations", "floor", "models", "accuracy", "slo", "cache", "fleet")

TAKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "span_usd": ("cost",),
    "usd": ("cost",),
    "components": ("cost",),
    "quality": ("cost", "fleet"),
    "slo": ("slo",),
    "slo_ttft": ("slo",),
    "slo_itl": ("slo",),
    "slo_total": ("slo",),
    "version_of": ("fleet",),
    "newest": ("fleet",),
}
"""Options that not all reports take, and the reports that do."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a report."""

    top: int = 20
    """Rows of a list of routes or calls."""
    span_usd: float = 0.0
    """USD that storing a million spans costs, for the cost of telemetry itself."""
    usd: str | None = None
    """An attribute of spans with what they cost, USD, beside ``llmtrace.cost.usd``."""
    quality: str | None = None
    """A numeric attribute of spans, higher is better, in the place of the conventions' evaluation score."""
    objectives: Mapping[str, Patterns] = field(default_factory=dict[str, Patterns])
    """Targets by objective, in the place of those on the spans."""
    slo: float = 0.99
    """Share of calls that are to meet their objectives."""
    version_of: str = ""
    """What a version of the fleet is one of: ``weights``, ``app`` or ``model``; the first that the spans tell."""
    newest: str = ""
    """The fleet's newest version, where that is not the last one to appear."""


def make(name: str, book: Book, options: Options | None = None) -> Report:
    """The report of that name (one of ``NAMES``)."""
    builder: Callable[[Book, Options], Report] = import_module(f"llmtrace.analyze.reports.{name}").make
    report = builder(book, options or Options())
    report.stats = (book.stats,)
    return report
