"""Jaeger's critical path over what the reference server and a traced client export: it misses no phase that lasted."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan

import llmtrace
from llmtrace.reference import LoadedModel, create_app
from tests.reference.conftest import in_process
from tests.support.jaeger import off_the_path
from tests.support.spans import SHORTEST_NS, Spans, attributes
from tests.support.waiting import wait_for

PROMPT = "one two three four five six seven eight " * 12


@pytest.fixture
def client(small: LoadedModel, spans: Spans) -> Iterator[openai.OpenAI]:
    """A traced client of the server, which runs in this process; both export to the same place."""
    app = create_app(small, tracer_provider=spans.provider, block_size=8, chunk_spans=True, prefill_chunk=32)
    with in_process(app) as base_url:
        llmtrace.instrument("openai", tracer_provider=spans.provider)
        with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as made:
            yield made
        llmtrace.uninstrument()


def ask(client: openai.OpenAI, *, stream: bool) -> None:
    answer = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=6,
        stream=stream,
        extra_body={"ignore_eos": True},
    )
    if isinstance(answer, openai.Stream):
        list(answer)


def crowded(spans: list[ReadableSpan]) -> bool:
    """Whether two starts lie closer together than can be told apart in microseconds."""
    return any(0 < (span.end_time or 0) - (span.start_time or 0) < SHORTEST_NS for span in spans)


def test_no_phase_of_either_side_is_off_the_path(client: openai.OpenAI, spans: Spans) -> None:
    calls = 6
    for number in range(calls):
        ask(client, stream=number % 2 == 0)
    wait_for(lambda: sum(span.name == "llm_request" for span in spans.finished()) == calls)
    looked_at = dict.fromkeys(("client", "server"), 0)
    for trace_id in {span.context.trace_id for span in spans.finished()}:
        trace = [span for span in spans.finished() if span.context.trace_id == trace_id]
        (request,) = [span for span in trace if span.name == "llm_request"]
        (call,) = [span for span in trace if span.context.span_id == (request.parent and request.parent.span_id)]
        theirs = [request, *below(request, trace)]
        ours = [span for span in trace if span not in theirs]
        assert call in ours
        for side, part in (("client", ours), ("server", theirs)):
            sides = {attributes(span)["llmtrace.side"] for span in part if "llmtrace.phase" in attributes(span)}
            assert sides == {side}
            if not crowded(part):
                assert [span.name for span in off_the_path(part)] == [], side
                looked_at[side] += 1
        # In one trace they run beside each other, and the path takes the one that ends last, whole.
        if not crowded(trace):
            missed = off_the_path(trace)
            assert not any(span in ours for span in missed) or not any(span in theirs for span in missed)
    assert all(looked_at.values()), looked_at


def below(parent: ReadableSpan, trace: list[ReadableSpan]) -> list[ReadableSpan]:
    children = [span for span in trace if span.parent and span.parent.span_id == parent.context.span_id]
    return [each for child in children for each in (child, *below(child, trace))]
