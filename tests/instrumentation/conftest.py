"""What no test of the instrumentation may leave behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from opentelemetry import trace


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No current span, no failed detach, and (unless marked ``internal_errors``) no swallowed failure of ours."""
    from llmtrace.calls import finalizers
    from llmtrace.observe import internal_errors
    from llmtrace.observe.call import open_calls

    caplog.set_level(logging.WARNING)
    before = dict(internal_errors.counts)
    assert trace.get_current_span() is trace.INVALID_SPAN
    yield
    assert trace.get_current_span() is trace.INVALID_SPAN
    messages = [record.getMessage() for when in ("setup", "call", "teardown") for record in caplog.get_records(when)]
    assert not [text for text in messages if "detach" in text or "ended span" in text]
    if open_calls():
        gc.collect()  # what the test itself still held
    finalizers.settle()
    assert open_calls() == [], "every call ends"
    if "swallowed" not in request.fixturenames:
        assert dict(internal_errors.counts) == before, messages


@pytest.fixture
def swallowed() -> None:
    """Says that this test feeds our readers things they may choke on, as long as the application does not notice."""


@pytest.fixture
def quick_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is dropped ends its call there and then, as where the thread that ends it is the quicker one."""
    from llmtrace.calls import finalizers

    monkeypatch.setattr(finalizers, "hand_over", finalizers.end_unread)
