"""Loaded by ``pytest -p llmtrace_suites`` inside a client's own suite: writes each test's outcome, and switches
llmtrace on where ``LLMTRACE_SUITES_TRACED`` is 1.

Each process (pytest's own and its workers) writes one file of lines into the folder ``LLMTRACE_SUITES_OUT``: the
outcomes, or what llmtrace did there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

OUT = Path(os.environ["LLMTRACE_SUITES_OUT"])
TRACED = os.environ.get("LLMTRACE_SUITES_TRACED") == "1"

_rank = {"passed": 0, "skipped": 1, "failed": 2}
_outcomes: dict[str, str] = {}
_mishaps: dict[str, dict[str, int]] = {}
"""What failed in llmtrace and was caught, by the test that was running."""
_calls: Any = None
"""Counts the calls that were reported, by outcome."""


def _trace() -> Any:
    """llmtrace on, with the SDK's own providers; returns what counts the calls that it reported."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    import llmtrace

    class Counter(SpanExporter):
        """Counts calls by outcome, and keeps nothing: a test may look for what is left of its objects."""

        def __init__(self) -> None:
            self.outcomes: dict[str, int] = {}

        def export(self, spans: Any) -> SpanExportResult:
            for span in spans:
                outcome = (span.attributes or {}).get("llmtrace.call.outcome")
                if outcome is not None:
                    self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            return SpanExportResult.SUCCESS

    counter = Counter()
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(counter))
    meter_provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    llmtrace.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
    return counter


if TRACED:
    _calls = _trace()


def _note(nodeid: str, outcome: str) -> None:
    before = _outcomes.get(nodeid, "passed")
    _outcomes[nodeid] = max(before, outcome, key=_rank.__getitem__)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Our own failures, by test."""
    if not TRACED:
        return (yield)
    from llmtrace.observe import internal_errors

    before = internal_errors.counts.copy()
    try:
        return (yield)
    finally:
        if more := internal_errors.counts - before:
            _mishaps[item.nodeid] = dict(more)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Where the workers report to, this sees every test; in a worker, its own, which are not written."""
    _note(report.nodeid, report.outcome)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is a failure by its own name."""
    if report.failed:
        _note(report.nodeid, "failed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what this process knows."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        (OUT / "outcomes.json").write_text(json.dumps(_outcomes))
    if TRACED:
        from llmtrace.observe.call import open_count

        known = {"calls": _calls.outcomes, "internal_errors": _mishaps, "open": open_count()}
        (OUT / f"llmtrace-{worker or 'main'}.json").write_text(json.dumps(known))
