"""Calls beneath spans that others opened: adopted once, for the same operation and model, and left their own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.conftest import Tracing
from tests.support.apis import MODEL, Sync, request
from tests.support.replay import USAGE, Replay, Request, Script, json_answer, openai_body, openai_stream, server_error
from tests.support.spans import Metrics, Spans, attributes, seconds

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": MODEL, "gen_ai.provider.name": "openai"}
EMBEDDINGS = json_answer(
    {
        "object": "list",
        "model": "embed",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
)


def answer(asked: Request) -> Script:
    if asked.path.endswith("/embeddings"):
        return EMBEDDINGS
    return openai_stream(usage=USAGE) if asked.json.get("stream") else openai_body()


@pytest.fixture
def asked(replay: Replay, tracing: Tracing) -> Replay:
    """Answers whatever it is asked, and llmtrace is on."""
    replay.serve(answer)
    tracing.on()
    return replay


@pytest.fixture
def foreign(spans: Spans) -> Callable[..., Any]:
    """Opens another instrumentation's span, and makes it current."""

    @contextmanager
    def opened(name: str = "theirs", current: bool = True, **said: Any) -> Iterator[Span]:
        tracer = spans.provider.get_tracer("another")
        span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=said.get("attributes", CHAT))
        try:
            if current:
                with trace.use_span(span):
                    yield span
            else:
                yield span
        finally:
            span.end()

    return opened


@contextmanager
def in_context(**values: Any) -> Iterator[None]:
    context = otel.get_current()
    for name, value in values.items():
        context = otel.set_value(name.replace("__", "."), value, context)
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)


def finished(spans: Spans, name: str) -> list[ReadableSpan]:
    return [span for span in spans.finished() if span.name == name]


def above(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


def own(spans: Spans) -> list[ReadableSpan]:
    """The GenAI spans that are llmtrace's, contract checked."""
    found = [span for span in spans.parents() if span.instrumentation_scope.name == "llmtrace"]
    for span in found:
        spans.check(span)
    return found


def theirs(spans: Spans, name: str = "theirs") -> ReadableSpan:
    (span,) = finished(spans, name)
    return span


def assert_adopted(spans: Spans, span: ReadableSpan, outcome: str = "completed", streaming: bool = False) -> None:
    """``span`` has one call: its phases, which add up to the duration told; the conventions' attributes are its own."""
    kept = attributes(span)
    assert kept["llmtrace.call.adopted"] is True
    assert kept["llmtrace.call.streaming"] is streaming
    assert kept["llmtrace.call.outcome"] == outcome
    phases = [child for child in spans.children(span) if "llmtrace.phase" in attributes(child)]
    assert phases
    assert phases[0].start_time == kept["llmtrace.call.start_time_unix_nano"]
    at = phases[0].start_time
    for phase in phases:
        assert phase.start_time == at
        at = phase.end_time
    assert at is not None
    assert (at - kept["llmtrace.call.start_time_unix_nano"]) / 1e9 == kept["llmtrace.call.duration"]
    assert {name for name in kept if not name.startswith("llmtrace.")} == set(CHAT), "no attribute but ours"
    assert span.status.status_code is StatusCode.UNSET


def counted(metrics: Metrics) -> int:
    return sum(point.count for point in metrics.points("gen_ai.client.inference.duration"))


# ---- B4 -------------------------------------------------------------------------------------------------------------


def test_a_conversation_that_has_filled_the_span(api: Sync, asked: Replay, foreign: Any, spans: Spans) -> None:
    """OpenInference's attributes of a long one push out the kind of its span, which the SDK drops as the oldest."""
    kind = {"openinference.span.kind": "LLM", "llm.model_name": MODEL}
    messages = {f"llm.input_messages.{i}.message.content": "Hello" for i in range(128)}
    with foreign(attributes=kind | messages):
        api.create()
        api.create()
    span = theirs(spans)
    assert set(attributes(span)) == set(messages), "nothing of theirs made room for ours"
    (first,) = finished(spans, "llm.call")
    (second,) = own(spans)
    assert first.parent == second.parent == span.context
    assert "gen_ai.usage.input_tokens" not in attributes(first), "the other tells it"
    assert attributes(second)["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"], "another call than the other's"


def test_a_span_that_is_full_and_no_models(api: Sync, asked: Replay, foreign: Any, spans: Spans) -> None:
    with foreign(attributes={f"step.{i}": i for i in range(140)}):
        api.create()
    (call,) = own(spans)
    assert attributes(call)["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]


def test_a_retry_loop(api: Sync, asked: Replay, foreign: Any, spans: Spans, metrics: Metrics) -> None:
    """A loop of three attempts in one foreign span: the first is its call, the others are calls beneath."""
    asked.play(server_error(), server_error(), openai_body())
    with foreign():
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                api.create()
        api.create()
    assert_adopted(spans, theirs(spans), "error")
    second, third = own(spans)
    assert second.parent == third.parent == theirs(spans).context
    assert [attributes(each)["llmtrace.call.outcome"] for each in (second, third)] == ["error", "completed"]
    assert "error.type" not in attributes(third)
    assert counted(metrics) == 3


def test_a_first_attempt_that_succeeds(api: Sync, asked: Replay, foreign: Any, spans: Spans) -> None:
    """What fails later beneath the same span is told on its own span."""
    asked.play(openai_body(), server_error())
    with foreign():
        api.create()
        with pytest.raises(openai.InternalServerError):
            api.create()
    assert_adopted(spans, theirs(spans))
    (failed,) = own(spans)
    assert attributes(failed)["error.type"] == "500"


def test_three_at_once_in_threads(client: openai.OpenAI, asked: Replay, foreign: Any, spans: Spans) -> None:
    asked.serve(lambda asking: openai_stream(usage=USAGE, ttft=0.05))

    def call() -> None:
        list(client.chat.completions.create(**request(stream=True)))

    with foreign(), ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(contextvars.copy_context().run, call) for _ in range(3)]:
            each.result()
    assert_adopted(spans, theirs(spans), streaming=True)
    assert len(own(spans)) == 2
    assert {above(span) for span in own(spans)} == {theirs(spans).context.span_id}


async def test_three_at_once_in_tasks(aclient: openai.AsyncOpenAI, asked: Replay, foreign: Any, spans: Spans) -> None:
    with foreign():
        await asyncio.gather(*(aclient.chat.completions.create(**request()) for _ in range(3)))
    assert_adopted(spans, theirs(spans))
    assert len(own(spans)) == 2


def test_an_embedding_made_meanwhile(client: openai.OpenAI, asked: Replay, foreign: Any, spans: Spans) -> None:
    with foreign():
        client.embeddings.create(model=MODEL, input="hello")
        client.chat.completions.create(**request())
    assert_adopted(spans, theirs(spans))
    (embedding,) = own(spans)
    assert embedding.name == f"embeddings {MODEL}"
    assert embedding.parent == theirs(spans).context


@pytest.mark.parametrize(
    ("said", "adopts"),
    [
        ({"gen_ai.operation.name": "chat"}, True),
        ({"gen_ai.operation.name": "chat", "gen_ai.request.model": ""}, True),
        ({"gen_ai.operation.name": "chat", "gen_ai.request.model": f"openai/{MODEL}"}, True),
        ({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}, False),
        ({"gen_ai.operation.name": "chat", "gen_ai.request.model": "mini"}, False),
        ({"gen_ai.operation.name": "text_completion", "gen_ai.request.model": MODEL}, False),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": MODEL}, False),
        ({"gen_ai.operation.name": "execute_tool"}, False),
        ({"openinference.span.kind": "LLM"}, True),
        ({"openinference.span.kind": "LLM", "llm.model_name": "other"}, False),
        ({"openinference.span.kind": "CHAIN"}, False),
        ({"openinference.span.kind": "EMBEDDING"}, False),
        ({"llm.request.type": "chat", "gen_ai.request.model": MODEL}, True),
        ({"llm.request.type": "completion", "gen_ai.request.model": MODEL}, False),
        ({"http.request.method": "POST"}, False),
    ],
)
def test_only_for_the_same_operation_and_model(
    client: openai.OpenAI, asked: Replay, foreign: Any, spans: Spans, said: dict[str, Any], adopts: bool
) -> None:
    with foreign(attributes=said):
        client.chat.completions.create(**request())
    assert len(own(spans)) == (0 if adopts else 1)
    assert ("llmtrace.call.adopted" in attributes(theirs(spans))) is adopts


def test_it_ended_before_the_stream_did(api: Sync, asked: Replay, foreign: Any, spans: Spans, metrics: Metrics) -> None:
    """What it cannot take in any more is told by a span of ours beneath, which says nothing that it says."""
    with foreign():
        stream = api.stream()
    api.drain(stream)
    ended = theirs(spans)
    assert attributes(ended)["llmtrace.call.adopted"] is True
    assert "llmtrace.call.outcome" not in attributes(ended)
    assert own(spans) == []
    (call,) = spans.children(ended)
    assert_call(spans, call, streaming=True)
    assert call.end_time > ended.end_time  # type: ignore[operator]
    assert counted(metrics) == 1


def assert_call(spans: Spans, call: ReadableSpan, outcome: str = "completed", streaming: bool = False) -> None:
    """A call whose GenAI span is another's: ours, with the phases beneath."""
    assert call.name == "llm.call"
    assert call.kind is SpanKind.INTERNAL
    kept = attributes(call)
    assert kept["llmtrace.call.outcome"] == outcome
    assert kept["llmtrace.call.streaming"] is streaming
    assert "llmtrace.call.adopted" not in kept
    assert [name for name in kept if not name.startswith("llmtrace.")] == (["error.type"] if outcome == "error" else [])
    at = call.start_time
    for phase in spans.children(call):
        assert "llmtrace.phase" in attributes(phase)
        assert phase.start_time == at
        at = phase.end_time
    assert at == call.end_time


@pytest.mark.parametrize("streaming", [False, True])
def test_parent_own(api: Sync, replay: Replay, tracing: Tracing, foreign: Any, spans: Spans, streaming: bool) -> None:
    replay.serve(answer)
    tracing.on(parent="own")
    with foreign():
        for _ in range(2):
            api.drain(api.stream()) if streaming else api.create()
    assert len(own(spans)) == 2
    assert {above(span) for span in own(spans)} == {theirs(spans).context.span_id}
    assert attributes(theirs(spans)) == CHAT


def test_parent_existing(
    api: Sync, replay: Replay, tracing: Tracing, foreign: Any, spans: Spans, metrics: Metrics
) -> None:
    """Only theirs, and what has none has no spans; metrics are made of every call."""
    replay.serve(answer)
    tracing.on(parent="existing")
    api.create()
    assert spans.finished() == []
    with foreign():
        api.create()
        api.create()
    assert_adopted(spans, theirs(spans))
    assert own(spans) == []
    assert counted(metrics) == 3


def test_a_call_that_fails(api: Sync, asked: Replay, foreign: Any, spans: Spans) -> None:
    """Status and ``error.type`` of an adopted span are its owner's business."""
    asked.serve(server_error())
    with foreign(), pytest.raises(openai.InternalServerError):
        api.create()
    assert_adopted(spans, theirs(spans), "error")


def test_attempts_of_the_client_itself(make_api: Any, kind: str, asked: Replay, foreign: Any, spans: Spans) -> None:
    asked.play(server_error(), openai_body())
    api = make_api(kind, max_retries=1)
    with foreign():
        api.create()
    kept = attributes(theirs(spans))
    first, last = spans.children(theirs(spans))
    assert [first.name, last.name] == ["llm.attempt", "llm.attempt"]
    assert kept["llmtrace.call.outcome"] == "completed"
    assert kept["llmtrace.call.duration"] >= seconds(first) + seconds(last)
    assert own(spans) == []


def test_content_is_its_owners_too(
    client: openai.OpenAI, replay: Replay, tracing: Tracing, foreign: Any, spans: Spans
) -> None:
    replay.serve(answer)
    tracing.on(capture_content=True)
    with foreign():
        client.chat.completions.create(**request())
        client.chat.completions.create(**request())
    assert_adopted(spans, theirs(spans))
    (second,) = spans.children(theirs(spans))[-1:]
    assert "gen_ai.input.messages" in attributes(second)


def test_it_goes_elsewhere(client: openai.OpenAI, asked: Replay, spans: Spans) -> None:
    """Phases beneath a span of another pipeline would be lost on both sides."""
    elsewhere = TracerProvider().get_tracer("another")
    with elsewhere.start_as_current_span("theirs", attributes=CHAT) as span:
        client.chat.completions.create(**request())
    assert len(own(spans)) == 1
    assert dict(span.attributes) == CHAT  # type: ignore[attr-defined]


class Wrapped(NonRecordingSpan):
    """A span as a wrapper hands it out: a new object each time, without a hash and without weak references."""

    __slots__ = ("_span",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, span: Any) -> None:
        self._span = span

    def __eq__(self, other: object) -> bool:
        return self is other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._span, name)

    def get_span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def is_recording(self) -> bool:
        return self._span.is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        self._span.set_attribute(key, value)

    def set_attributes(self, attributes: Any) -> None:
        self._span.set_attributes(attributes)


def test_a_span_without_hash_and_weak_references(
    client: openai.OpenAI, asked: Replay, foreign: Any, spans: Spans
) -> None:
    with foreign(current=False) as span:
        for _ in range(2):
            with trace.use_span(Wrapped(span)):
                client.chat.completions.create(**request())
    assert_adopted(spans, theirs(spans))
    assert len(own(spans)) == 1


@pytest.mark.usefixtures("swallowed")
def test_a_span_that_cannot_be_read(client: openai.OpenAI, asked: Replay, spans: Spans) -> None:
    class Broken(NonRecordingSpan):
        @property
        def attributes(self) -> Any:
            raise RuntimeError("broken")

    with trace.use_span(Broken(SpanContext(1, 2, False, TraceFlags(1)))):
        client.chat.completions.create(**request())
    assert len(own(spans)) == 1


# ---- spans that are not at hand --------------------------------------------------------------------------------------


@dataclass
class Owner:
    """What ``opentelemetry-util-genai`` has in the context: without a hash, and with equal others."""

    operation_name: str | None = None


INFERENCE = "opentelemetry__genai__client__inference__context"
EMBEDDING = "opentelemetry__genai__client__embedding__context"


def test_its_key_beneath_a_span_of_the_application(
    api: Sync, asked: Replay, foreign: Any, spans: Spans, metrics: Metrics
) -> None:
    """The application opened a span between the other instrumentation's and the call."""
    application = spans.provider.get_tracer("application")
    with in_context(**{INFERENCE: Owner()}), application.start_as_current_span("around"):
        api.create()
        api.drain(api.stream())
    around = theirs(spans, "around")
    call, second = spans.children(around)
    assert_call(spans, call)
    assert own(spans) == [second], "one call has a span elsewhere, not two"
    assert counted(metrics) == 2
    spans.clear()
    with in_context(**{INFERENCE: Owner()}):
        api.create()
    assert [span.name for span in spans.finished() if span.parent is None] == ["llm.call"], (
        "another owner, another call"
    )


def test_its_key_is_for_its_kind_of_call(client: openai.OpenAI, asked: Replay, spans: Spans) -> None:
    with in_context(**{EMBEDDING: Owner()}):
        client.chat.completions.create(**request())
    with in_context(**{INFERENCE: Owner()}):
        client.embeddings.create(model="embed", input="hello")
    assert sorted(span.name for span in own(spans)) == [f"chat {MODEL}", "embeddings embed"]
    spans.clear()
    with in_context(**{EMBEDDING: Owner()}):
        client.embeddings.create(model="embed", input="hello")
    assert own(spans) == []


def test_its_key_and_its_span(client: openai.OpenAI, asked: Replay, foreign: Any, spans: Spans) -> None:
    """The call that adopted the span is the one that the key is for."""
    application = spans.provider.get_tracer("application")
    with foreign(), in_context(**{INFERENCE: Owner()}):
        client.chat.completions.create(**request())
        with application.start_as_current_span("around"):
            client.chat.completions.create(**request())
    assert_adopted(spans, theirs(spans))
    assert len(own(spans)) == 1


def test_a_call_beneath_that_fails(api: Sync, asked: Replay, spans: Spans) -> None:
    asked.serve(server_error())
    with in_context(**{INFERENCE: Owner()}), pytest.raises(openai.InternalServerError):
        api.create()
    (call,) = finished(spans, "llm.call")
    assert_call(spans, call, "error")
    assert call.status.status_code is StatusCode.ERROR


def test_a_span_that_was_dropped(api: Sync, asked: Replay, spans: Spans, metrics: Metrics) -> None:
    """Its call is dropped with it."""
    dropping = TracerProvider(sampler=ALWAYS_OFF).get_tracer("another")
    with dropping.start_as_current_span("theirs", attributes=CHAT), in_context(**{INFERENCE: Owner()}):
        api.create()
    assert spans.finished() == []
    assert counted(metrics) == 1


def sent_for(span: Span) -> dict[str, str]:
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
    return headers


SUPPRESS = {"suppress_language_model_instrumentation": True}


def test_its_traceparent_and_its_key(api: Sync, asked: Replay, foreign: Any, spans: Spans, metrics: Metrics) -> None:
    """Traceloop's LangChain instrumentation: its span is not current, but sent."""
    application = spans.provider.get_tracer("application")
    with application.start_as_current_span("around"), foreign(current=False) as span, in_context(**SUPPRESS):
        api.create(extra_headers=sent_for(span))
        api.create(extra_headers=sent_for(span))
    (call,) = spans.children(theirs(spans))
    assert_call(spans, call)
    (second,) = own(spans)
    assert second.parent == theirs(spans, "around").context
    assert asked.requests[0].headers["traceparent"] == sent_for(span)["traceparent"]
    assert counted(metrics) == 2


def test_its_key_alone_says_nothing(api: Sync, asked: Replay, spans: Spans) -> None:
    """It stays set after an awaited call of LangChain's."""
    with in_context(**SUPPRESS):
        api.create()
    assert len(own(spans)) == 1


@pytest.mark.parametrize("key", [{}, SUPPRESS], ids=["plain", "suppressed"])
def test_a_traceparent_of_the_applications_own(api: Sync, asked: Replay, spans: Spans, key: Any) -> None:
    """Propagated by hand: the current span, the one above it, or one of another trace is no model's."""
    application = spans.provider.get_tracer("application")
    with application.start_as_current_span("outer") as outer, in_context(**key):
        api.create(extra_headers=sent_for(outer))
        with application.start_as_current_span("inner"):
            api.create(extra_headers=sent_for(outer))
            api.create(extra_headers=sent_for(NonRecordingSpan(SpanContext(7, 8, True, TraceFlags(1)))))
            api.create(extra_headers={"traceparent": "00-nothing"})
    assert len(own(spans)) == 4
    assert finished(spans, "llm.call") == []


def test_a_traceparent_from_further_up(api: Sync, asked: Replay, foreign: Any, spans: Spans) -> None:
    """Without the key it is taken for the application's: a call's usage is not to be lost by guessing."""
    application = spans.provider.get_tracer("application")
    with application.start_as_current_span("around"), foreign(current=False) as span:
        api.create(extra_headers=sent_for(span))
    assert len(own(spans)) == 1
    assert spans.children(theirs(spans)) == []


# ---- LangChain, without another instrumentation of it ----------------------------------------------------------------


def test_langchain_is_left_alone(asked: Replay) -> None:
    managers = pytest.importorskip("langchain_core.callbacks.manager")
    for manager in (managers.CallbackManager, managers.AsyncCallbackManager):
        assert type(vars(manager)["on_chat_model_start"]).__name__ == "function"
