"""One suite over every client library, sync and async, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmtrace.providers import CLIENTS
from tests.conftest import Tracing
from tests.support import by_funnel, by_library, by_method
from tests.support.by_method import (
    WORDS,
    AioBedrock,
    AioBedrockInvoke,
    Bedrock,
    BedrockInvoke,
    Driver,
    Google,
    aws_event,
)
from tests.support.clock import Clock
from tests.support.replay import Replay, Script, json_answer, paced
from tests.support.spans import Spans, attributes
from tests.support.waiting import PATIENCE, LoopTime, until

DRIVERS = (*by_funnel.DRIVERS, *by_method.DRIVERS, *by_library.DRIVERS, *by_library.LITELLM_APIS)
CASES = [(driver, kind) for driver in DRIVERS for kind in driver.kinds]
ELSEWHERE = {
    "llama-cpp-python": "a model in this process: nothing goes over a wire; tests/e2e/test_llama_python.py",
    "vllm": "a model in this process: nothing goes over a wire; tests/e2e/test_vllm_python.py",
    "transformers": "a model in this process: nothing goes over a wire; tests/instrumentation/test_transformers.py",
}
"""Clients that this suite cannot ask, why, and where theirs is."""
SLACK = 5_000_000
"""ns. Two clocks (the span's anchor and ``time.time_ns``), one machine."""
NAMES = [f"{driver.__name__}-{kind}" for driver, kind in CASES]


@pytest.fixture(params=CASES, ids=NAMES)
def opened(request: pytest.FixtureRequest, replay: Replay) -> Iterator[Driver]:
    driver, kind = request.param
    if (why := driver.exempt.get(request.function.__name__)) is not None:
        pytest.skip(why)
    made = driver(kind, replay.url)
    yield made
    made.shut()


@pytest.fixture
def traced(tracing: Tracing, opened: Driver) -> Tracing:
    tracing.on(opened.name)
    return tracing


def test_every_client_has_a_driver_here_or_a_suite_of_its_own() -> None:
    here = {driver.name for driver, _ in CASES}
    assert {client.name for client in CLIENTS} == here | ELSEWHERE.keys()


def check_usage(driver: Driver, span: Any) -> None:
    attrs = attributes(span)
    inputs, outputs = driver.usage
    assert attrs["gen_ai.usage.input_tokens"] == inputs
    assert attrs["gen_ai.usage.output_tokens"] == outputs
    assert attrs.get("gen_ai.usage.cache_read.input_tokens") == driver.cached
    assert attrs["gen_ai.response.finish_reasons"] == (driver.finish,)


def test_whole(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    replay.serve(opened.whole())
    bare = opened.call()
    tracing.on(opened.name)
    assert opened.call() == bare
    span = spans.one("completed")
    check_usage(opened, span)
    assert "gen_ai.request.stream" not in attributes(span)
    tracing.off()
    assert opened.call() == bare
    assert len(spans.parents()) == 1


def test_stream(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing, clock: Clock) -> None:
    replay.serve(opened.script(clock.passing(paced(opened.events(), 0.05, 0.003)), lockstep=True))
    stream = opened.stream()
    kind, name, bare = type(stream), getattr(stream, "__qualname__", None), opened.drain(stream)
    tracing.on(opened.name)
    stream = opened.stream()
    assert type(stream) is kind
    assert getattr(stream, "__qualname__", None) == name
    assert opened.drain(stream) == bare
    span = spans.one("completed")
    check_usage(opened, span)
    attrs = attributes(span)
    assert attrs["gen_ai.request.stream"] is True
    assert attrs["llmtrace.stream.chunks"] == len(bare)
    assert attrs["llmtrace.call.ttft"] >= 0.05
    assert opened.phases <= set(spans.phases(span))


def test_a_stream_that_outlives_its_tracing(
    opened: Driver, replay: Replay, spans: Spans, traced: Tracing, clock: Clock
) -> None:
    replay.serve(opened.script(clock.passing(paced(opened.events(), 0.05, 0.003)), lockstep=True))
    stream = opened.stream()
    iterator = opened.iterate(stream)
    opened.pull(iterator)
    traced.off()
    chunks = 1 + len(opened.drain(stream))
    assert attributes(spans.one("completed"))["llmtrace.stream.chunks"] == chunks


def test_lazy_streams_ask_for_nothing_before_they_are_read(
    opened: Driver, replay: Replay, spans: Spans, traced: Tracing
) -> None:
    replay.serve(opened.script(paced(opened.events())))
    stream = opened.stream()
    asked = len(replay.requests)
    del stream
    opened.settle()
    spans.flush()
    assert len(spans.parents()) == asked, "a call begins with its request"
    for span in spans.parents():
        assert attributes(span)["llmtrace.call.outcome"] == "never_consumed"
        spans.check(span)


def test_closed_early(opened: Driver, replay: Replay, spans: Spans, traced: Tracing) -> None:
    gate = threading.Event()
    events = opened.events()
    replay.serve(opened.script([(0.0, b"".join(events[:3])), (gate, b"".join(events[3:]))]))
    stream = opened.stream()
    iterator = opened.iterate(stream)
    opened.pull(iterator)
    opened.pull(iterator)
    opened.close(stream)
    opened.settle()
    gate.set()
    span = spans.one(("closed_early", "abandoned"))
    assert attributes(span)["llmtrace.stream.chunks"] == 2
    assert attributes(span).get("llmtrace.cancellation.billed_tokens") is None


def test_abandoned(opened: Driver, replay: Replay, spans: Spans, traced: Tracing) -> None:
    gate = threading.Event()
    events = opened.events()
    replay.serve(opened.script([(0.0, b"".join(events[:3])), (gate, b"".join(events[3:]))]))
    stream = opened.stream()
    iterator = opened.iterate(stream)
    opened.pull(iterator)
    opened.pull(iterator)
    left = time.time_ns()
    del stream, iterator
    opened.settle()
    gate.set()
    spans.flush()
    span = spans.one("abandoned")
    assert span.end_time is not None
    assert span.end_time <= left + SLACK


@pytest.mark.parametrize("after", ["rst", "cut"])
def test_connection_lost_mid_stream(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing, after: str) -> None:
    replay.serve(opened.script([(0.0, part) for part in opened.events()[:3]], after=after))

    def fails() -> str:
        try:
            return f"read {len(opened.drain(opened.stream()))}"
        except Exception as error:
            return type(error).__qualname__

    bare = fails()
    tracing.on(opened.name)
    assert fails() == bare
    if bare.startswith("read"):
        spans.one(("completed", "error"))  # the client does not tell the application that anything was lost
    else:
        span = spans.one("error")
        assert attributes(span)["error.type"].endswith(bare)


def test_refused(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    replay.serve(opened.refusal(400))

    def fails(streaming: bool) -> tuple[str, str]:
        try:
            opened.drain(opened.stream()) if streaming else opened.call()
        except Exception as error:
            return type(error).__qualname__, str(error)
        raise AssertionError("it should have failed")

    bare = [fails(False), fails(True)]
    tracing.on(opened.name)
    assert [fails(False), fails(True)] == bare
    assert len(spans.parents()) == 2
    for span in spans.parents():
        spans.check(span)
        assert attributes(span)["llmtrace.call.outcome"] == "error"
        assert attributes(span)["error.type"] == "400"


@pytest.mark.parametrize(("driver", "kind"), CASES, ids=NAMES)
@pytest.mark.parametrize("streaming", [False, True])
def test_retried(
    driver: type[Driver], kind: str, replay: Replay, spans: Spans, tracing: Tracing, streaming: bool
) -> None:
    why = driver.exempt.get("test_retried") or (driver.exempt.get("test_retried[stream]") if streaming else None)
    if why is not None:
        pytest.skip(why)
    opened = driver(kind, replay.url, attempts=3)
    try:
        answer = opened.script(paced(opened.events())) if streaming else opened.whole()
        replay.play(opened.refusal(503), answer)
        tracing.on(opened.name)
        opened.drain(opened.stream()) if streaming else opened.call()
        span = spans.one("completed")
        attempts = spans.children(span)
        assert [attributes(each).get("http.response.status_code") for each in attempts] == [503, 200]
        assert [attributes(each)["llmtrace.call.outcome"] for each in attempts] == ["error", "completed"]
    finally:
        opened.shut()


def test_cancelled_and_timed_out(opened: Driver, replay: Replay, spans: Spans, traced: Tracing) -> None:
    if opened.loop is None:
        pytest.skip("asynchronous clients only")
    gate = threading.Event()
    events = opened.events()
    replay.serve(opened.script([(0.0, b"".join(events[:3])), (gate, b"".join(events[3:]))]))

    async def reading(seen: asyncio.Event) -> None:
        stream = opened.ask(True)
        if asyncio.iscoroutine(stream):
            stream = await stream
        async for _ in opened.iterate(stream):
            seen.set()

    async def cancel() -> None:
        seen = asyncio.Event()
        task = asyncio.ensure_future(reading(seen))
        await asyncio.wait_for(seen.wait(), PATIENCE)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def time_out() -> None:
        seen, passing = asyncio.Event(), LoopTime(asyncio.get_running_loop())
        task = asyncio.ensure_future(asyncio.wait_for(reading(seen), 20))  # sooner than the client's own
        await until(seen.is_set)
        passing.advance(20)
        with pytest.raises(asyncio.TimeoutError):
            await task

    opened.loop.run_until_complete(cancel())
    opened.loop.run_until_complete(time_out())
    gate.set()
    outcomes = [attributes(span)["llmtrace.call.outcome"] for span in spans.parents()]
    assert outcomes == ["cancelled", "timed_out"]
    spans.check_all()


def test_missing_usage_and_unknown_fields(opened: Driver, replay: Replay, spans: Spans, traced: Tracing) -> None:
    replay.serve(opened.script(paced(opened.events(usage=False, x_unknown={"a": [1, None]}))))
    opened.drain(opened.stream())
    replay.serve(opened.whole(usage=None, x_unknown={"a": [1, None]}))
    opened.call()
    for span in spans.parents():
        spans.check(span)
        assert attributes(span)["llmtrace.call.outcome"] == "completed"


def test_malformed_chunk(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    events = opened.events()
    replay.serve(opened.script([(0.0, part) for part in [*events[:2], opened.malformed(), *events[2:]]]))

    def read() -> Any:
        try:
            return opened.drain(opened.stream())
        except Exception as error:
            return type(error).__qualname__, str(error)

    bare = read()
    tracing.on(opened.name)
    assert read() == bare
    spans.one("error" if isinstance(bare, tuple) else "completed")


def test_huge_and_split_chunks(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    words = (*WORDS, "ü🎈" * 50_000, "end")
    data = b"".join(opened.events(words))
    size = 997  # cuts characters and events apart
    replay.serve(opened.script([(0.0, data[at : at + size]) for at in range(0, len(data), size)]))
    bare = opened.drain(opened.stream())
    tracing.on(opened.name)
    assert opened.drain(opened.stream()) == bare
    check_usage(opened, spans.one("completed"))


def test_a_late_reader_is_no_slow_model(
    opened: Driver, replay: Replay, spans: Spans, traced: Tracing, clock: Clock
) -> None:
    replay.serve(opened.script(clock.passing(paced(opened.events(), 0.05, 0.0))))
    stream = opened.stream()
    for request in replay.requests:  # a lazy stream has not asked yet
        assert request.done.wait(PATIENCE)
    clock.advance(0.2)
    opened.drain(stream)
    told = attributes(spans.one("completed"))["llmtrace.call.ttft"]
    assert told <= 0.05 + 0.2 / 2 + 0.001, "the middle of what is possible where the kernel can't be asked"


def test_content_only_where_asked(opened: Driver, replay: Replay, spans: Spans, tracing: Tracing) -> None:
    tracing.on(opened.name, capture_content="span_only")
    replay.serve(opened.script(paced(opened.events())))
    opened.drain(opened.stream())
    replay.serve(opened.whole())
    opened.call()
    assert len(spans.parents()) == 2
    for span in spans.parents():
        assert "PROMPT-SENTINEL" in attributes(span)["gen_ai.input.messages"]
        said = json.loads(attributes(span)["gen_ai.output.messages"])
        assert said[0]["parts"][0]["content"] == "".join(WORDS)


def test_unsampled(opened: Driver, replay: Replay) -> None:
    """Nothing wanted, nothing recorded, nothing changed."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    import llmtrace

    replay.serve(opened.script(paced(opened.events())))
    bare = opened.drain(opened.stream())
    llmtrace.instrument(opened.name, tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        assert opened.drain(opened.stream()) == bare
    finally:
        llmtrace.uninstrument()


def test_generators_close_what_they_stand_for(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    opened = Google("sync", replay.url)
    tracing.on(opened.name)
    gate = threading.Event()
    events = opened.events()
    replay.serve(opened.script([(0.0, events[0]), (gate, events[1])]))
    stream = opened.stream()
    next(stream)
    stream.close()
    assert replay.last.gone.wait(PATIENCE), "closing the generator closes the connection"
    with pytest.raises(StopIteration):
        next(stream)
    gate.set()
    opened.shut()


def test_bedrock_exception_event(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    opened = Bedrock("sync", replay.url)
    tracing.on(opened.name)
    broken = aws_event("throttlingException", {"message": "slow"}, "exception")
    replay.serve(opened.script([(0.0, part) for part in [*opened.events()[:3], broken]]))
    with pytest.raises(Exception, match="throttlingException"):
        opened.drain(opened.stream())
    assert attributes(spans.one("error"))["error.type"].endswith("EventStreamError")


@pytest.mark.parametrize("way", ["read", "pieces", "lines", "raw", "never", "half"])
def test_bedrock_body_is_the_applications(replay: Replay, tracing: Tracing, spans: Spans, way: str) -> None:
    opened = BedrockInvoke("sync", replay.url)
    tracing.on(opened.name)
    headers = {"x-amzn-bedrock-input-token-count": "8", "x-amzn-bedrock-output-token-count": "6"}
    body = b'{"id": "id-1", "content": [], "stop_reason": "end_turn"}'
    replay.serve(json_answer(body, headers=headers))
    answer = opened.client.invoke_model(modelId="a-model", body="{}")
    assert type(answer["body"]).__name__ == "StreamingBody"
    if way == "read":
        assert answer["body"].read() == body
    elif way == "pieces":
        assert b"".join(answer["body"].iter_chunks(7)) == body
    elif way == "lines":
        assert b"".join(answer["body"].iter_lines()) == body
    elif way == "raw":
        with answer["body"] as raw:
            assert raw.read() == body
    elif way == "half":
        assert answer["body"].read(5) == body[:5]
    del answer
    gc.collect()
    spans.flush()
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.usage.input_tokens"] == 8
    assert attrs["gen_ai.usage.output_tokens"] == 6
    assert (attrs.get("gen_ai.response.id") == "id-1") == (way not in ("never", "half"))


@pytest.mark.parametrize("way", ["half", "never", "read"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_bedrock_body_whose_block_is_left(replay: Replay, tracing: Tracing, spans: Spans, way: str, kind: str) -> None:
    """``with answer["body"] as raw``: at the block's end."""
    if kind == "async":
        pytest.importorskip("aiobotocore")
    opened = AioBedrockInvoke(kind, replay.url) if kind == "async" else BedrockInvoke(kind, replay.url)
    tracing.on(opened.name)
    replay.serve(json_answer(b'{"id": "id-1", "content": [], "stop_reason": "end_turn"}'))
    amount = {"half": 5, "never": 0, "read": None}[way]

    async def ask() -> Any:
        answer = await opened.client.invoke_model(modelId="a-model", body="{}")
        async with answer["body"] as raw:
            await (raw.read(amount) if way == "half" else raw.read() if way == "read" else asyncio.sleep(0))
        return answer

    if opened.loop:
        answer = opened.run(ask)
    else:
        answer = opened.client.invoke_model(modelId="a-model", body="{}")
        with answer["body"] as raw:
            raw.read(amount)
    spans.one("completed" if way == "read" else "closed_early")
    del answer
    opened.shut()


@pytest.mark.parametrize("way", ["half", "never", "read"])
def test_bedrock_body_that_is_closed(replay: Replay, tracing: Tracing, spans: Spans, way: str) -> None:
    """At the close, and not when the response happens to be collected."""
    opened = BedrockInvoke("sync", replay.url)
    tracing.on(opened.name)
    body = b'{"id": "id-1", "content": [], "stop_reason": "end_turn"}'
    replay.serve(json_answer(body))
    answer = opened.client.invoke_model(modelId="a-model", body="{}")
    if way != "never":
        answer["body"].read(5 if way == "half" else None)
    answer["body"].close()
    spans.one("completed" if way == "read" else "closed_early")


@pytest.mark.parametrize("way", ["read", "pieces", "lines", "raw", "never", "half"])
def test_the_same_over_asyncio(replay: Replay, tracing: Tracing, spans: Spans, way: str) -> None:
    opened = AioBedrockInvoke("async", replay.url)
    tracing.on(opened.name)
    headers = {"x-amzn-bedrock-input-token-count": "8", "x-amzn-bedrock-output-token-count": "6"}
    body = b'{"id": "id-1", "content": [], "stop_reason": "end_turn"}'
    replay.serve(json_answer(body, headers=headers))

    async def ask() -> Any:
        answer = (await opened.client.invoke_model(modelId="a-model", body="{}"))["body"]
        assert type(answer).__name__ in ("AioStreamingBody", "StreamingBody")
        if way == "read":
            return await answer.read()
        if way == "pieces":
            return b"".join([piece async for piece in answer.iter_chunks(7)])
        if way == "lines":
            return b"".join([line async for line in answer.iter_lines()])
        if way == "raw":
            async with answer as entered:
                return await entered.read()
        return await answer.read(5) if way == "half" else b""

    assert opened.run(ask) == {"never": b"", "half": body[:5]}.get(way, body)
    opened.settle()
    spans.flush()
    attrs = attributes(spans.one("completed"))
    assert attrs["gen_ai.usage.input_tokens"] == 8
    assert attrs["gen_ai.usage.output_tokens"] == 6
    assert (attrs.get("gen_ai.response.id") == "id-1") == (way not in ("never", "half"))
    opened.shut()


def test_botocores_own_and_the_asynchronous_are_taken_out_in_any_order(tracing: Tracing) -> None:
    import llmtrace

    made = (Bedrock("sync", "http://127.0.0.1:1"), AioBedrock("async", "http://127.0.0.1:1"))
    bases = [next(b for b in type(each.client).__mro__ if "_make_api_call" in vars(b)) for each in made]
    before = [vars(base)["_make_api_call"] for base in bases]
    tracing.on("bedrock", "aiobotocore")
    assert not any(vars(base)["_make_api_call"] is was for base, was in zip(bases, before, strict=True))
    llmtrace.uninstrument("bedrock")
    llmtrace.uninstrument("aiobotocore")
    assert all(vars(base)["_make_api_call"] is was for base, was in zip(bases, before, strict=True))
    for each in made:
        each.shut()


def test_other_services_of_botocore_are_left_alone(replay: Replay, tracing: Tracing, spans: Spans) -> None:
    import boto3

    tracing.on("bedrock")
    replay.serve(Script(200, {"content-type": "text/xml"}, [(0.0, b"<ListBucketsResult/>")], chunked=False))
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    boto3.client("s3", region_name="us-east-1", endpoint_url=replay.url, **keys).list_buckets()
    assert spans.finished() == []


@pytest.mark.parametrize("driver", [Bedrock, AioBedrock])
def test_what_another_service_is_asked_for_the_call_is_no_attempt(
    replay: Replay, tracing: Tracing, spans: Spans, driver: type[Bedrock]
) -> None:
    opened = driver(driver.kinds[0], replay.url)
    tracing.on(opened.name)
    replay.serve(opened.whole())
    told = b"<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"
    replay.serve(Script(200, {"content-type": "text/xml"}, [(0.0, told)], chunked=False), path="/")

    def asked(**_: Any) -> None:
        import boto3

        boto3.client("sts", **opened.settings()).get_caller_identity()

    async def aasked(**_: Any) -> None:
        from aiobotocore.session import get_session

        async with get_session().create_client("sts", **opened.settings()) as sts:
            await sts.get_caller_identity()

    opened.client.meta.events.register("before-sign.bedrock-runtime", aasked if opened.loop else asked)
    opened.call()
    assert len(replay.requests) == 2
    assert not [each for each in spans.children(spans.one("completed")) if each.name == "llm.attempt"]
    opened.shut()
