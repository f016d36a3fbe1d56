"""The server's spans: they join the caller's trace and say the same as the response."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import openai
import pytest
import uvicorn
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmtrace.reference import LoadedModel, create_app, spans

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"


@pytest.fixture(scope="module")
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def in_process(small: LoadedModel, exported: InMemorySpanExporter) -> Iterator[openai.OpenAI]:
    """The application in this process, behind a real socket."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    app = create_app(small, faults=True, tracer_provider=provider, block_size=8)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0) as client:
        yield client
    server.should_exit = True
    thread.join(10)


def ask(client: openai.OpenAI, prompt: str, **headers: str):
    return client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=6,
        temperature=0,
        extra_headers=headers,
        extra_body={"ignore_eos": True},
    )


def tree(exported: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The last request's span and its children in order, once they have come."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        finished = exported.get_finished_spans()
        for parent in finished:
            if parent.name == "llm_request":
                children = [span for span in finished if span.parent and span.parent.span_id == parent.context.span_id]
                return parent, sorted(children, key=lambda span: (span.start_time, span.end_time))
        time.sleep(0.01)
    raise AssertionError("no span came")


@pytest.fixture(autouse=True)
def empty(exported: InMemorySpanExporter) -> None:
    exported.clear()


def test_spans_continue_the_trace_and_fill_their_parent(
    in_process: openai.OpenAI, exported: InMemorySpanExporter
) -> None:
    prompt = "one two three four five six seven " * 4
    for hit in (False, True):
        exported.clear()
        response = ask(in_process, prompt, traceparent=TRACEPARENT)
        parent, children = tree(exported)
        assert parent.kind is SpanKind.SERVER
        assert parent.context.trace_id == TRACE
        assert parent.parent is not None
        assert parent.parent.span_id == PARENT
        names = ["llm.queue", *(["llm.kv_cache_hit"] if hit else []), "llm.prefill", "llm.decode"]
        assert [span.name for span in children] == names
        assert all(span.kind is SpanKind.INTERNAL for span in children)
        assert children[0].start_time == parent.start_time
        assert children[-1].end_time == parent.end_time
        for left, right in pairwise(children):
            assert left.end_time == right.start_time
        phases = {span.attributes["llmtrace.phase"]: span.attributes for span in children}
        assert {attributes["llmtrace.phase.source"] for attributes in phases.values()} == {"server"}
        cached = response.usage.prompt_tokens_details.cached_tokens
        assert bool(cached) is hit
        assert phases["prefill"]["llmtrace.phase.tokens"] == response.usage.prompt_tokens - cached
        assert phases["decode"]["llmtrace.phase.tokens"] == 6
        if hit:
            assert phases["kv_cache_hit"]["llmtrace.phase.tokens"] == cached
        said = response.model_extra["metrics"]
        told = parent.attributes
        assert told["gen_ai.latency.time_in_queue"] * 1e3 == pytest.approx(said["queue_time_ms"])
        assert told["gen_ai.latency.time_in_model_prefill"] * 1e3 == pytest.approx(said["time_to_first_token_ms"])
        assert told["gen_ai.latency.time_in_model_decode"] * 1e3 == pytest.approx(said["generation_time_ms"])
        assert told["gen_ai.latency.e2e"] == pytest.approx((parent.end_time - parent.start_time) / 1e9)
        assert told["llmtrace.call.outcome"] == "completed"
        assert abs(parent.end_time / 1e9 - time.time()) < 5


def test_without_a_parent_a_trace_begins(in_process: openai.OpenAI, exported: InMemorySpanExporter) -> None:
    ask(in_process, "hello")
    parent, _ = tree(exported)
    assert parent.parent is None


def test_an_unsampled_trace_stays_so(in_process: openai.OpenAI, exported: InMemorySpanExporter) -> None:
    ask(in_process, "hello", traceparent=TRACEPARENT[:-2] + "00")
    time.sleep(0.2)
    assert exported.get_finished_spans() == ()


def test_a_crash_is_an_error_and_a_request_that_left_is_cancelled(
    in_process: openai.OpenAI, exported: InMemorySpanExporter
) -> None:
    with pytest.raises(openai.InternalServerError):
        ask(in_process, "hello", **{"x-llmtrace-fault": "crash-after=2"})
    parent, children = tree(exported)
    assert parent.status.status_code is StatusCode.ERROR
    assert parent.attributes["error.type"] == "RuntimeError"
    assert parent.attributes["llmtrace.call.outcome"] == "error"
    assert children[-1].end_time == parent.end_time
    exported.clear()
    stream = in_process.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "not asked before"}],
        max_tokens=420,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    parent, children = tree(exported)
    assert parent.attributes["llmtrace.call.outcome"] == "cancelled"
    assert {"llm.queue", "llm.prefill", "llm.decode"} <= {span.name for span in children}
    assert children[-1].end_time == parent.end_time


def test_the_environment_decides_whether_spans_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert spans.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    writer = spans.from_environment()
    assert writer is not None
    assert writer._provider.resource.attributes["service.name"] == "llmtrace-reference"
    writer.shutdown()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    writer = spans.from_environment()
    assert writer is not None
    assert writer._provider.resource.attributes["service.name"] == "mine"
    writer.shutdown()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert spans.from_environment() is None
