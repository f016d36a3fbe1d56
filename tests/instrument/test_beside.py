"""Beside other instrumentations of the OpenAI client, whichever was on first: ``make matrix ARGS="-s beside"``.

They are no dependency of the tests: where one is not installed, its cases skip.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

import llmtrace
from tests.support.by_funnel import OpenAI
from tests.support.by_method import MODEL
from tests.support.replay import Replay, paced
from tests.support.spans import Spans, attributes

OTHERS = {
    "traceloop": "opentelemetry.instrumentation.openai",
    "openinference": "openinference.instrumentation.openai",
    "openai-v2": "opentelemetry.instrumentation.openai_v2",
    "genai-openai": "opentelemetry.instrumentation.genai.openai",
}
pytestmark = [
    pytest.mark.parametrize("other", OTHERS),
    pytest.mark.parametrize("first", ["theirs", "ours"]),
]


@pytest.fixture
def instrumentor(other: str, spans: Spans) -> Iterator[Any]:
    made: Any = pytest.importorskip(OTHERS[other], reason=f"{other} is not installed").OpenAIInstrumentor()
    yield made
    if made.is_instrumented_by_opentelemetry:
        made.uninstrument()


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest, replay: Replay) -> Iterator[OpenAI]:
    made = OpenAI(request.param, replay.url)
    yield made
    made.shut()
    llmtrace.uninstrument()


def switch_on(instrumentor: Any, spans: Spans, first: str, **settings: Any) -> None:
    on = [
        lambda: instrumentor.instrument(tracer_provider=spans.provider, skip_dep_check=True),
        lambda: llmtrace.instrument("openai", tracer_provider=spans.provider, **settings),
    ]
    for each in on if first == "theirs" else reversed(on):
        each()


@pytest.mark.parametrize("parent", ["auto", "own", "existing"])
@pytest.mark.parametrize("streaming", [False, True])
def test_one_parent(
    instrumentor: Any, opened: OpenAI, replay: Replay, spans: Spans, first: str, parent: str, streaming: bool
) -> None:
    replay.serve(opened.script(paced(opened.events(), 0.02, 0.005)) if streaming else opened.whole())
    bare = opened.drain(opened.stream()) if streaming else opened.call()
    switch_on(instrumentor, spans, first, parent=parent)
    with spans.provider.get_tracer("application").start_as_current_span("around") as around:
        assert (opened.drain(opened.stream()) if streaming else opened.call()) == bare
    spans.flush()
    said = [span for span in spans.finished() if span.name != "around"]
    ours = [span for span in said if span.instrumentation_scope.name == "llmtrace"]
    theirs = [span for span in said if span.instrumentation_scope.name != "llmtrace"]
    assert len(theirs) == 1, [span.name for span in said]
    calls = [span for span in ours if span.name == f"chat {MODEL}"]
    if parent == "own":
        (top,) = calls
        assert top.parent in (theirs[0].context, around.get_span_context())
        spans.check(top)
    else:
        assert not calls, "no second span for the same call"
        top = theirs[0]
        assert top.parent == around.get_span_context()
    beneath = {span.name for span in ours if span.parent == top.context}
    assert beneath == {"llm.network", "llm.queue_prefill", "llm.decode"} if streaming else beneath
    assert beneath
    assert all(name.startswith("llm.") for name in beneath)
    assert len(ours) == len(calls) + len([span for span in ours if span.parent == top.context])


def test_nothing_is_left_behind(instrumentor: Any, opened: OpenAI, replay: Replay, spans: Spans, first: str) -> None:
    base: Any = importlib.import_module("openai._base_client")
    before = [vars(cls)["request"] for cls in (base.SyncAPIClient, base.AsyncAPIClient)]
    switch_on(instrumentor, spans, first)
    off = [instrumentor.uninstrument, llmtrace.uninstrument]
    for each in off if first == "ours" else reversed(off):
        each()
    assert [vars(cls)["request"] for cls in (base.SyncAPIClient, base.AsyncAPIClient)] == before
    replay.serve(opened.whole())
    opened.call()
    assert spans.finished() == []


def test_errors_are_theirs_too(instrumentor: Any, opened: OpenAI, replay: Replay, spans: Spans, first: str) -> None:
    replay.serve(opened.refusal(400))
    switch_on(instrumentor, spans, first)
    with pytest.raises(Exception, match="slow down"):
        opened.call()
    spans.flush()
    assert [span for span in spans.finished() if "llmtrace.phase" in attributes(span)]
    assert not [
        span
        for span in spans.finished()
        if span.name == f"chat {MODEL}" and "llmtrace" in span.instrumentation_scope.name
    ]
