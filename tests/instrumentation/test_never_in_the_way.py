"""The application comes first: what it did before, with its threads, contexts, collectors and clocks, it does still."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import functools
import gc
import inspect
import json
import logging
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import llmtrace
from llmtrace.calls import finalizers
from llmtrace.calls.current import Making, may_begin
from llmtrace.instrumentation.instrumentors import INSTRUMENTORS
from llmtrace.observe import clock
from llmtrace.observe.call import open_calls
from tests.support import replay as play
from tests.support.apis import Async, Sync
from tests.support.replay import Replay, openai_stream
from tests.support.spans import Spans, attributes

if TYPE_CHECKING:
    import openai

# A1: the trace's identity stays at home.


@pytest.mark.parametrize("url", ["http://api.example.com/v1", "http://[2607:f8b0::1]/v1"])
async def test_aiohttp_tells_a_public_host_nothing(url: str, traced: Any, replay: Replay) -> None:
    """As google-genai's asynchronous client asks: a public host, and no port in the URL."""
    aiohttp = pytest.importorskip("aiohttp")
    port = int(replay.url.rpartition(":")[2])

    class Here(aiohttp.abc.AbstractResolver):  # every name leads to the replay server
        async def resolve(self, host: str, port_: int = 0, family: Any = 0) -> list[dict[str, Any]]:
            return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 6, "flags": 0}]

        async def close(self) -> None: ...

    class Connector(aiohttp.TCPConnector):  # and every address
        async def _resolve_host(self, host: str, *args: Any, **kwargs: Any) -> Any:
            return await Here().resolve(host)

    span = TracerProvider().get_tracer("application").start_span("call")
    async with aiohttp.ClientSession(connector=Connector()) as session:
        for mode, told in (("auto", False), ("always", True)):
            replay.serve(play.openai_body())
            with Making(span, mode):
                async with session.post(url, json={}) as response:
                    await response.read()
            assert ("traceparent" in replay.last.headers) is told, mode


# A3: a destructor hands over.


class LockingExporter(SpanExporter):
    """As applications write them: with a lock of their own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.names: list[str] = []
        self.threads: set[str] = set()

    def export(self, spans: Any) -> SpanExportResult:
        with self.lock:
            self.threads.add(threading.current_thread().name)
            self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def test_a_stream_collected_where_the_exporters_lock_is_held(tracing: Any, api: Sync, replay: Replay) -> None:
    exporter, provider = LockingExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.on("openai", tracer_provider=provider)

    def work() -> None:
        replay.play(openai_stream())
        stream = api.stream()
        api.take(stream, 2)
        with exporter.lock:
            del stream
            api.collect()
        finalizers.settle()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the garbage collector waits for the lock that the interrupted code holds"
    assert "llm.decode" in exporter.names
    provider.shutdown()


# A4: our exits.


class Hopping:
    """An awaitable whose every step runs in another ``contextvars.Context``, as some frameworks run coroutines."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        step, value = steps.send, None
        while True:
            try:
                waited = contextvars.copy_context().run(step, value)
            except StopIteration as end:
                return end.value
            try:
                step, value = steps.send, (yield waited)
            except BaseException as error:
                step, value = steps.throw, error


@pytest.mark.parametrize("stream", [False, True])
def test_a_coroutine_that_goes_on_in_another_context(
    traced: Any, make_api: Callable[..., Sync], replay: Replay, spans: Spans, stream: bool, caplog: Any
) -> None:
    api = make_api("async")
    assert isinstance(api, Async)
    replay.play(openai_stream()) if stream else replay.serve(play.openai_body())

    async def ask() -> Any:
        answer = await api.client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}], stream=stream
        )
        return [chunk async for chunk in answer] if stream else answer

    assert api.run(Hopping(ask()))
    spans.one("completed")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_coroutine_that_is_closed_in_its_own_context_leaves_nothing_there(
    traced: Any, aclient: openai.AsyncOpenAI, replay: Replay
) -> None:
    replay.serve(play.openai_body())
    asking = aclient.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
    asking.send(None)  # as far as its first wait
    asking.close()
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert may_begin()


async def test_a_task_and_a_step_that_end_in_another_context(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> str:
        async with llmtrace.task("resolve"), llmtrace.step("look up", kind="retrieval"):
            await asyncio.sleep(0)
        with llmtrace.resume({"traceparent": "00-" + "1" * 32 + "-" + "1" * 16 + "-01"}):
            await asyncio.sleep(0)
        return "done"

    assert await Hopping(work()) == "done"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# A5: patched functions stay functions.


def patched() -> Iterator[tuple[str, Any, str]]:
    """Every function of an installed client that is patched."""
    import importlib

    for name, instrumentor in INSTRUMENTORS.items():
        if name in ("transformers", "vllm", "llama-cpp-python"):
            continue  # too heavy to import here; they are patched by the same means
        try:
            importlib.import_module(instrumentor.client.package)
        except ImportError:
            continue
        patches = instrumentor().patches
        for owner, attribute in patches.functions() if patches is not None else ():
            yield f"{name}: {getattr(owner, '__name__', owner)}.{attribute}", owner, attribute


def test_functions_pickle_copy_and_show_themselves_as_before() -> None:
    llmtrace.instrument()
    try:
        seen = 0
        for title, owner, name in list(patched()):
            function = getattr(owner, name)
            again = pickle.loads(pickle.dumps(function))
            assert again.__qualname__ == function.__qualname__, title
            assert again == function, title
            assert copy.copy(function) == function, title
            assert copy.deepcopy(function) == function, title
            assert inspect.signature(function) == inspect.signature(inspect.unwrap(function)), title
            partial = functools.partial(function, 1)
            assert pickle.loads(pickle.dumps(partial)).args == (1,), title
            seen += 1
        assert seen > 40
    finally:
        llmtrace.uninstrument()


@dataclasses.dataclass
class Tool:
    """As agents keep what they may call."""

    run: Any
    name: str = "ask"


def test_bound_methods_copy_and_stand_in_dataclasses(traced: Any, client: Any) -> None:
    method = client.chat.completions._client.request
    assert copy.copy(method).__self__ is client
    held = dataclasses.asdict(Tool(copy.copy))
    assert held["run"] is copy.copy
    assert inspect.ismethod(method)
    assert method.__func__.__qualname__ == "SyncAPIClient.request"


class Holder:
    """An object whose class has a patched method, and that can itself be pickled."""

    def __init__(self, value: int) -> None:
        self.value = value

    def ask(self, more: int) -> int:
        return self.value + more


def test_a_bound_method_of_a_patched_class_pickles_with_its_object(traced: Any) -> None:
    from llmtrace.instrumentation.patching import Patches

    patches = Patches()
    patches.wrap_method(Holder, "ask", lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs) * 10)
    try:
        method = Holder(1).ask
        assert pickle.loads(pickle.dumps(method))(1) == 20
        assert copy.deepcopy(method).__self__ is not method.__self__
        assert dataclasses.asdict(Tool(method))["run"](1) == 20
        assert pickle.loads(pickle.dumps(Holder.ask))(Holder(2), 1) == 30
    finally:
        patches.undo()
    assert Holder(1).ask(1) == 2


def _call(function: Any) -> str:
    return str(getattr(function, "__name__", ""))


def test_a_process_pool_takes_litellms_functions() -> None:
    litellm = pytest.importorskip("litellm")
    llmtrace.instrument("litellm")
    try:
        assert pickle.loads(pickle.dumps(litellm.completion)) is litellm.completion
        import multiprocessing

        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            assert pool.submit(_call, litellm.completion).result(60) == "completion"
            assert pool.submit(_call, litellm.acompletion).result(60) == "acompletion"
    finally:
        llmtrace.uninstrument()


# B2: calls begun in what another call started.


@pytest.mark.parametrize("sampled", [True, False])
def test_a_call_in_a_context_that_another_call_left_behind(
    tracing: Any, make_api: Callable[..., Sync], replay: Replay, sampled: bool
) -> None:
    collected = Spans(sampler=ALWAYS_ON)
    provider = collected.provider if sampled else TracerProvider(sampler=ALWAYS_OFF)
    tracing.on("openai", tracer_provider=provider, metrics=sampled)
    left: list[contextvars.Context] = []
    import openai

    library = openai.DefaultHttpxClient(event_hooks={"request": [lambda _: left.append(contextvars.copy_context())]})
    api = make_api("sync", http_client=library)
    replay.serve(play.openai_body())
    api.create()
    tracing.off()
    tracing.on("openai", tracer_provider=collected.provider)
    collected.clear()
    replay.serve(play.openai_body())
    left[0].run(api.create)
    assert len(collected.parents()) == 1
    collected.provider.shutdown()


def test_botos_calls_in_a_context_that_another_call_left_behind(tracing: Any, replay: Replay, spans: Spans) -> None:
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    tracing.on("bedrock")
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=replay.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(retries={"total_max_attempts": 1}),
    )
    left: list[contextvars.Context] = []
    client.meta.events.register("before-send.*", lambda **_: left.append(contextvars.copy_context()))
    body = {"output": {"message": {"role": "assistant", "content": [{"text": "x"}]}}, "stopReason": "end_turn"}
    body |= {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}, "metrics": {"latencyMs": 1}}
    for run in (lambda ask: ask(), lambda ask: left[0].run(ask)):  # noqa: PLW0108 - there is none yet
        replay.serve(play.json_answer(body))
        run(lambda: client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "x"}]}]))
    assert len(spans.parents()) == 2


# B13: a provider that stands before the SDK's.


class Standing:
    """As logfire's: a provider that holds the SDK's, and is what the program knows."""

    def __init__(self, inner: TracerProvider) -> None:
        self.provider = inner

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self.provider.get_tracer(*args, **kwargs)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.provider.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self.provider.shutdown()


def test_a_provider_before_the_sdks_ends_what_is_open(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    standing, other = Standing(spans.provider), TracerProvider()
    tracing.on("openai", tracer_provider=standing)
    replay.play(openai_stream())
    stream = api.stream()
    other.shutdown()
    assert spans.parents() == [], "another provider's shutdown is nothing to this call"
    standing.shutdown()
    spans.one("never_consumed")
    api.close(stream)


def test_a_provider_with_the_same_resource_ends_nothing(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    other = TracerProvider(resource=spans.provider.resource)
    tracing.on("openai", tracer_provider=spans.provider)
    replay.play(openai_stream())
    stream = api.stream()
    other.shutdown()
    assert spans.parents() == []
    api.close(stream)
    spans.one("closed_early")


def test_another_meter_provider_ends_no_unsampled_call(tracing: Any, api: Sync, replay: Replay) -> None:
    mine, other = (MeterProvider([InMemoryMetricReader()]) for _ in range(2))
    tracing.on("openai", tracer_provider=TracerProvider(sampler=ALWAYS_OFF), meter_provider=mine)
    replay.play(openai_stream())
    stream = api.stream()
    other.shutdown()
    assert len(open_calls()) == 1
    mine.shutdown()
    assert open_calls() == []
    api.close(stream)


# B14, B15: where spans go, and that they end.


def test_a_tasks_spans_follow_the_provider_in_use(tracing: Any) -> None:
    first, second = Spans(), Spans()
    tracing.on("openai", tracer_provider=first.provider)
    tracing.off()
    tracing.on("openai", tracer_provider=second.provider)
    with llmtrace.task("resolve"):
        pass
    assert [span.name for span in second.finished()] == ["task resolve"]
    assert first.finished() == []
    tracing.off()
    with llmtrace.task("resolve"):  # to the global provider: there is none
        pass
    assert len(first.finished()) + len(second.finished()) == 1


def test_a_span_ends_where_beginning_the_call_fails(
    traced: Any, api: Sync, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch, swallowed: None
) -> None:
    from llmtrace.calls import begin

    def fails(params: Any) -> list[str]:
        raise RuntimeError("no")

    monkeypatch.setattr(begin, "prompt_texts", fails)
    replay.serve(play.openai_body())
    assert api.create().choices
    assert [span.name for span in spans.finished()] == ["chat gpt-4o-mini"]


# B16: one anchor per call.


def test_a_wall_clock_that_jumps_between_calls_and_within_one(
    traced: Any, api: Sync, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumped = [0]
    real = time.time_ns
    monkeypatch.setattr(clock, "time_ns", lambda: real() + jumped[0])
    hour = 3_600_000_000_000

    replay.serve(play.openai_body())
    api.create()
    jumped[0] = hour
    before = real() + hour
    replay.play(openai_stream())
    stream = api.stream()
    first = api.take(stream, 2)
    jumped[0] = -hour
    rest = api.drain(stream)
    assert len(first) + len(rest) == 8
    after = real() + hour
    assert len(spans.parents()) == 2
    spans.check_all()
    late = spans.parents()[-1]
    assert before - 1_000_000 <= late.start_time <= late.end_time <= after + 1_000_000  # type: ignore[operator]


# B17: a stream that nobody asked for.


def test_streams_that_the_request_did_not_ask_for_keep_their_chunks_apart(
    traced: Any, client: Any, replay: Replay, spans: Spans
) -> None:
    import openai
    from openai.types.chat import ChatCompletionChunk

    def ask() -> Any:
        replay.play(openai_stream())
        return client.post(
            "/chat/completions",
            body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]},
            cast_to=ChatCompletionChunk,
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
        )

    first, second = ask(), ask()
    next(first)
    assert len(list(second)) == 8
    assert len(list(first)) == 7
    assert [attributes(span)["llmtrace.stream.chunks"] for span in spans.parents()] == [8, 8]


# C6: one gate for values.


@pytest.mark.parametrize("stream", [False, True])
def test_values_that_no_exporter_can_encode(
    tracing: Any, make_api: Callable[..., Sync], replay: Replay, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common")
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    encoded: list[ReadableSpan] = []

    class Encoding(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            encode_spans(spans).SerializeToString()
            encoded.extend(spans)
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None: ...

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Encoding()))
    tracing.on("openai", tracer_provider=provider, capture_content=True)
    api = make_api("sync")
    usage = {"prompt_tokens": 2**63, "completion_tokens": 2**70, "total_tokens": 2**71}
    odd = {"id": "chat\ud800", "model": "gpt\udfff", "usage": usage}
    if stream:
        chunk = {"object": "chat.completion.chunk", "created": 1, "choices": [], **odd}
        choice = {"index": 0, "delta": {"content": "x\ud800"}, "finish_reason": "stop\ud800"}
        escaped = [json.dumps(each) for each in ({**chunk, "choices": [choice]}, chunk)]
        replay.play(play.events_script(*escaped))
        list(api.stream())
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": "x\ud800"}, "finish_reason": "stop\ud800"}
        body = json.dumps({"object": "chat.completion", "created": 1, "choices": [choice], **odd}).encode()
        replay.serve(play.json_answer(body))
        api.create()
    (call,) = [span for span in encoded if "gen_ai.operation.name" in (span.attributes or {})]
    said = attributes(call)
    assert call.name == "chat gpt-4o-mini"
    assert (said["gen_ai.response.id"], said["gen_ai.response.model"]) == ("chat?", "gpt?")
    assert said["gen_ai.response.finish_reasons"] == ("stop?",)
    assert "gen_ai.usage.input_tokens" not in said, "no count that fits was told"
    encoded.clear()
    with pytest.raises(UnicodeEncodeError):  # the client's own, as without llmtrace
        api.create(model="ask\ud800")
    assert [span.name for span in encoded if span.parent is None] == ["chat ask?"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    provider.shutdown()


@pytest.mark.parametrize("semconv", ["v0.1.0", "v1.41"])
@pytest.mark.parametrize("tokens", [2**62, 2**63, 10**400], ids=["2**62", "2**63", "10**400"])
def test_counts_that_no_exporter_can_add_up(
    tracing: Any, make_api: Callable[..., Sync], replay: Replay, spans: Spans, semconv: str, tokens: int
) -> None:
    """One such value among them, and nothing of the application's metrics is exported any more."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common")
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    reader = InMemoryMetricReader()
    tracing.on("openai", tracer_provider=spans.provider, meter_provider=MeterProvider([reader]), semconv=semconv)
    api = make_api("sync")
    details = {"prompt_tokens_details": {"cached_tokens": tokens}, "completion_tokens_details": {"text_tokens": tokens}}
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens, **details}
    for _ in range(2):
        replay.serve(play.openai_body(usage=usage))
        api.create()
    assert [span.name for span in spans.parents()] == ["chat gpt-4o-mini"] * 2
    metrics = reader.get_metrics_data()
    assert metrics is not None
    encode_metrics(metrics).SerializeToString()


def test_names_and_ids_of_tasks_that_no_exporter_can_encode(tracing: Any, spans: Spans) -> None:
    tracing.on("openai", tracer_provider=spans.provider)
    with llmtrace.task("t\ud800", id="i\ud800") as task:
        with llmtrace.step("s\udfff", kind="tool"):
            assert "i%3F" in llmtrace.carrier()["baggage"], "what propagates it can encode it"
        assert "i%3F" in task.carrier()["baggage"]
    assert [span.name for span in spans.finished()] == ["task t?", "tool s?"]
    for span in spans.finished():
        for value in attributes(span).values():
            str(value).encode()


# C7: blind means blind.


def test_without_server_timings_no_count_of_theirs_is_read(
    tracing: Any, api: Sync, replay: Replay, spans: Spans
) -> None:
    timings = {"cache_n": 900, "prompt_n": 100, "prompt_ms": 5.0, "predicted_n": 1, "predicted_ms": 1.0}
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    for told, cached in ((True, 900), (False, None)):
        tracing.on("openai", server_timings=told)
        replay.serve(play.json_answer(body | {"timings": timings}))
        api.create()
        tracing.off()
        said = attributes(spans.parents()[-1])
        assert said.get("gen_ai.usage.cache_read.input_tokens") == cached
        assert ("llmtrace.server.engine" in said) is told


def test_dropped_streams_are_ended_by_a_thread_of_ours(traced: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    api.take(stream, 2)
    del stream
    api.collect()
    gc.collect()
    assert attributes(spans.one("abandoned"))["llmtrace.cancellation.cause"] == "dropped"


def test_a_shutdown_meets_a_call_that_another_thread_has_just_ended(
    traced: Any, api: Sync, replay: Replay, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay.play(openai_stream())
    stream = api.stream()
    (call,) = finalizers.open_calls()
    assert len(api.drain(stream)) == 8
    assert call.state is None, "it has let go of everything"
    monkeypatch.setattr(finalizers, "open_calls", lambda: [call])  # as they were a moment ago
    spans.provider.shutdown()
    traced.metrics.provider.shutdown()
    spans.one("completed")
