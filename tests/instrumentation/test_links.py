"""A call that asks again what another one failed to get is linked to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

import llmtrace
from tests.conftest import Tracing
from tests.support import replay as play
from tests.support.apis import Sync, async_client, request, sync_client
from tests.support.replay import Replay
from tests.support.spans import Spans

pytestmark = pytest.mark.usefixtures("traced")


@pytest.fixture
def second() -> Iterator[Replay]:
    """Another provider's address."""
    with Replay() as server:
        yield server


def linked(span: ReadableSpan) -> list[tuple[int, str, str]]:
    """Span ids, kinds and error types of a span's links, of which the span itself tells what viewers drop."""
    told = {name: value for name, value in (span.attributes or {}).items() if name.startswith("llmtrace.link.")}
    assert told == {
        name: value
        for link in span.links
        for name, value in (
            ("llmtrace.link.kind", (link.attributes or {})["llmtrace.link.kind"]),
            ("llmtrace.link.trace_id", f"{link.context.trace_id:032x}"),
        )
    }
    return [
        (link.context.span_id, link.attributes["llmtrace.link.kind"], link.attributes["error.type"])  # type: ignore[index]
        for link in span.links
    ]


def fails(api: Sync, **changes: object) -> None:
    with pytest.raises(openai.InternalServerError):
        api.create(**changes)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_elsewhere(kind: str, replay: Replay, second: Replay, spans: Spans) -> None:
    """The first provider fails, the second one answers: two traces, and a link from the one to the other."""
    replay.play(play.server_error())
    second.play(play.openai_body(), play.openai_body())
    if kind == "sync":
        with sync_client(replay.base_url) as first, sync_client(second.base_url) as other:
            with pytest.raises(openai.InternalServerError):
                first.chat.completions.create(**request())
            for _ in range(2):
                other.chat.completions.create(**request())
    else:
        async with async_client(replay.base_url) as first, async_client(second.base_url) as other:
            with pytest.raises(openai.InternalServerError):
                await first.chat.completions.create(**request())
            for _ in range(2):
                await other.chat.completions.create(**request())
    failed, answered, again = spans.parents()
    assert linked(failed) == []
    assert linked(answered) == [(failed.context.span_id, "fallback", "500")]
    assert answered.context.trace_id != failed.context.trace_id
    assert linked(again) == [], "asked once more after an answer, it repeats no failure"
    spans.check_all()


def test_the_same_route_and_a_chain(make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """An application's own retry loop: each call is linked to the one before it."""
    api = make_api("sync")
    replay.play(play.server_error(), play.server_error(), play.openai_body())
    with llmtrace.task("summary", id="1"):
        fails(api)
        fails(api)
        api.create()
    one, two, three = spans.parents()
    assert linked(two) == [(one.context.span_id, "retry", "500")]
    assert linked(three) == [(two.context.span_id, "retry", "500")]


def test_another_model_is_elsewhere(make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    api = make_api("sync")
    replay.play(play.server_error(), play.openai_body())
    fails(api, model="large")
    api.create(model="small")
    failed, answered = spans.parents()
    assert linked(answered) == [(failed.context.span_id, "fallback", "500")]


def test_what_is_no_repetition(make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """Another question, another thread, another task: somebody else's call, and none of ours is made to look so."""
    api = make_api("sync")
    replay.play(play.server_error())
    replay.serve(play.openai_body())
    with llmtrace.task("one", id="1"):
        fails(api)
        api.create(messages=[{"role": "user", "content": "Something else."}])
    api.create()
    with llmtrace.task("two", id="2"):
        api.create()
    thread = threading.Thread(target=api.create)
    thread.start()
    thread.join()
    assert [linked(span) for span in spans.parents()] == [[]] * 5


def test_a_stream_that_broke(make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    api = make_api("sync")
    replay.play(play.reset_mid_stream(), play.openai_stream())
    with contextlib.suppress(Exception):
        api.drain(api.stream())
    api.drain(api.stream())
    broken, whole = spans.parents()
    ((span_id, kind, why),) = linked(whole)
    assert (span_id, kind) == (broken.context.span_id, "retry")
    assert why == dict(broken.attributes or {})["error.type"]


def test_router_falls_back(tracing: Tracing, replay: Replay, second: Replay, spans: Spans) -> None:
    """LiteLLM's router tries another deployment within one call: its attempts say where each of them went."""
    litellm = pytest.importorskip("litellm")
    tracing.off()
    tracing.on("litellm")
    replay.serve(play.server_error(400))
    second.serve(play.openai_body())
    models = [
        {"model_name": name, "litellm_params": {"model": "openai/x", "api_base": url, "api_key": "k", "max_retries": 0}}
        for name, url in (("main", replay.base_url), ("spare", second.base_url))
    ]
    router = litellm.Router(model_list=models, fallbacks=[{"main": ["spare"]}], num_retries=0)
    router.completion(model="main", messages=[{"role": "user", "content": "hi"}])
    (call,) = spans.parents()
    attempts = [dict(span.attributes or {}) for span in spans.children(call) if span.name == "llm.attempt"]
    assert [each["server.port"] for each in attempts] == [replay.port, second.port]


def test_a_call_that_failed_under_anothers_span(make_api: Callable[..., Sync], replay: Replay, spans: Spans) -> None:
    """A call whose span is another instrumentation's is remembered too, and linked itself where it repeats one."""
    api = make_api("sync")
    tracer = spans.provider.get_tracer("another")
    theirs = {"gen_ai.operation.name": "chat", "gen_ai.request.model": request()["model"]}
    replay.play(play.server_error(), play.server_error(), play.openai_body())
    with tracer.start_as_current_span("work"):
        for _ in range(2):
            with tracer.start_as_current_span("chat", attributes=theirs):
                fails(api)
        api.create()
    one, two = (span for span in spans.finished() if span.name == "chat")
    (own,) = (span for span in spans.finished() if span.parent and span.name.startswith("chat "))
    assert linked(two) == [(one.context.span_id, "retry", "500")]
    assert linked(own) == [(two.context.span_id, "retry", "500")]


def test_where_each_call_s_own_span_begins_a_trace(
    tracing: Tracing, make_api: Callable[..., Sync], replay: Replay, spans: Spans
) -> None:
    """Another instrumentation's span for the call itself is nothing that two calls have in common."""
    api = make_api("sync")
    tracing.off()
    tracing.on(parent="auto")
    tracer = spans.provider.get_tracer("opentelemetry.instrumentation.openai_v2")
    about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}
    replay.play(play.server_error(), play.openai_body())
    with tracer.start_as_current_span("chat m", kind=SpanKind.CLIENT, attributes=about) as first:
        fails(api)
    with tracer.start_as_current_span("chat m", kind=SpanKind.CLIENT, attributes=about):
        api.create()
    _, again = spans.parents()
    assert linked(again) == [(first.get_span_context().span_id, "retry", "500")]
