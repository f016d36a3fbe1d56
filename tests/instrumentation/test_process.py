"""Interpreter exit, forks, switching on and off, and other instrumentations in the same process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.trace import SpanKind

import llmtrace
from tests.support import ndjson
from tests.support import replay as play
from tests.support.apis import Sync, http, request, sync_client
from tests.support.replay import Replay, openai_stream
from tests.support.spans import Spans, attributes, outcome
from tests.support.warm import warm

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import asyncio, gc, json, os, sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
import openai, llmtrace
base, out = sys.argv[1:3]

class ToFile(SpanExporter):
    def export(self, spans):
        with open(out, "a") as file:
            for s in spans:
                a = dict(s.attributes)
                file.write(json.dumps([os.getpid(), s.name, a.get("llmtrace.call.outcome"), s.start_time, s.end_time,
                                       s.context.span_id, s.parent and s.parent.span_id]) + "\\n")
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
llmtrace.instrument("openai", tracer_provider=provider)
call = dict(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], stream=True)
client = openai.OpenAI(base_url=base, api_key="k", max_retries=0, timeout=60)
aclient = openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0, timeout=60)
"""


def run_script(body: str, base_url: str, out: Path) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    python = warm("openai", "opentelemetry.sdk.trace.export")
    done = python.run(HEAD + body, base_url, str(out), env=os.environ, cwd=ROOT)
    return done, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_interpreter_exit(replay: Replay, tmp_path: Path) -> None:
    """Streams that nobody drained are written when the process ends, with the times of their last events."""
    replay.serve(openai_stream(itl=0.001))
    done, written = run_script(
        """
never = client.chat.completions.create(**call)
half = client.chat.completions.create(**call)
next(half), next(half)
loop = asyncio.new_event_loop()
anever = loop.run_until_complete(aclient.chat.completions.create(**call))
ahalf = loop.run_until_complete(aclient.chat.completions.create(**call))
loop.run_until_complete(ahalf.__anext__())
time.sleep(0.3)
print(time.time_ns())
sys.exit(3)
""",
        replay.base_url,
        tmp_path / "spans",
    )
    assert (done.returncode, done.stderr) == (3, "")
    left = int(done.stdout) - 150_000_000
    parents = [row for row in written if row[2]]
    outcomes = [row[2] for row in parents]
    assert len(parents) == 4, written
    assert outcomes.count("never_consumed") >= 2, outcomes
    assert set(outcomes) <= {"never_consumed", "abandoned"}
    assert all(row[4] < left for row in parents), "the last chunk, not the exit"
    assert all(any(child[6] == row[5] for child in written) for row in parents), "phases too"


def test_interpreter_exit_of_a_provider_that_came_later(replay: Replay, tmp_path: Path) -> None:
    """Instrumented first, the global provider set afterwards, spans in a batch: nothing is lost at the exit either."""
    replay.serve(openai_stream(itl=0.001))
    done, written = run_script(
        """
llmtrace.uninstrument()
llmtrace.instrument("openai")
from opentelemetry import trace
from opentelemetry.sdk.trace.export import BatchSpanProcessor
late = TracerProvider()
late.add_span_processor(BatchSpanProcessor(ToFile()))
trace.set_tracer_provider(late)
never = client.chat.completions.create(**call)
list(client.chat.completions.create(**call))
""",
        replay.base_url,
        tmp_path / "spans",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(row[2] for row in written if row[2]) == ["completed", "never_consumed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fork_in_the_middle_of_a_stream(replay: Replay, tmp_path: Path) -> None:
    """The child has no part in its parent's open call, whatever it does to its copy; its own calls are its own."""
    replay.serve(openai_stream(itl=0.001))
    done, written = run_script(
        """
stream = client.chat.completions.create(**call)
held = client.chat.completions.create(**call)
next(stream)
child = os.fork()
if child == 0:
    del held
    stream.close()
    del stream
    gc.collect()
    provider.force_flush()
    own = openai.OpenAI(base_url=base, api_key="k", max_retries=0, timeout=60)
    list(own.chat.completions.create(**call))
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
del held
print(json.dumps([child, os.getpid(), code]))
rest = list(stream)
""",
        replay.base_url,
        tmp_path / "spans",
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, parent, code = json.loads(done.stdout)
    assert code == 0
    ends = [(row[0], row[2]) for row in written if row[2]]
    assert sorted(e for e in ends if e[0] == child) == [(child, "completed")]
    assert sorted(e[1] for e in ends if e[0] == parent) in (["completed", "never_consumed"], ["abandoned", "completed"])
    assert len(ends) == 3
    ids = [row[5] for row in written]
    assert len(ids) == len(set(ids))


# On and off.


def patchable() -> dict[str, Any]:
    """Every function of every class through which a call may pass."""
    names = [
        "openai._base_client",
        "openai._client",
        "openai._legacy_response",
        "openai._response",
        "openai._streaming",
        "openai.lib.azure",
        "openai.lib.streaming.chat._completions",
        "openai.resources.chat.completions.completions",
        http.__name__,
        "httpx",
        "asyncio.tasks",
        "asyncio.timeouts",
        "asyncio.events",
        "opentelemetry.sdk.trace",
    ]
    modules: list[Any] = []
    for name in names:
        with contextlib.suppress(ImportError):  # older clients, older Pythons
            modules.append(importlib.import_module(name))
    found: dict[str, Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, type):
                found |= {f"{module.__name__}.{name}.{k}": v for k, v in vars(value).items() if callable(v)}
            elif callable(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def test_uninstrument_restores_the_very_same_functions(tracing: Any) -> None:
    before = patchable()
    tracing.on()
    assert [name for name, value in patchable().items() if before.get(name) is not value], "something is patched"
    tracing.off()
    after = patchable()
    assert [name for name in before if after[name] is not before[name]] == []
    assert set(after) == set(before)


def test_uninstrument_leaves_no_file_open(tracing: Any, api: Sync, replay: Replay) -> None:
    replay.serve(play.openai_body())
    tracing.on()
    api.create()
    tracing.off()
    files = Path("/proc/self/fd")
    numbers = files.iterdir() if files.exists() else ()
    assert not [number for number in numbers if os.path.realpath(number).endswith("/schedstat")]


def test_uninstrumented_calls_make_no_spans(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_body())
    api.create()
    tracing.on()
    tracing.off()
    api.create()
    assert spans.finished() == []


def test_a_stream_that_outlives_its_instrumentation(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.play(openai_stream())
    tracing.on()
    stream = api.stream()
    api.pull(stream)
    tracing.off()
    assert len(api.drain(stream)) == 7
    spans.one("completed")


def test_a_shutdown_after_uninstrument_still_ends_what_is_open(
    tracing: Any, api: Sync, replay: Replay, spans: Spans
) -> None:
    before = patchable()
    replay.play(openai_stream())
    tracing.on()
    stream = api.stream()
    api.pull(stream)
    tracing.off()
    spans.provider.shutdown()
    spans.one("abandoned")
    assert [name for name, value in patchable().items() if before.get(name) is not value] == []
    api.drain(stream)


def test_instrumenting_twice_makes_one_span(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    before = patchable()
    tracing.on()
    tracing.on()
    replay.serve(openai_stream())
    api.drain(api.stream())
    spans.one("completed")
    tracing.off()
    after = patchable()
    assert [name for name in before if after[name] is not before[name]] == []
    tracing.off()


def test_on_off_on(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_body())
    for _ in range(3):
        tracing.on()
        api.create()
        tracing.off()
        api.create()
    assert len(spans.parents()) == 3
    spans.check_all()


def test_unknown_client_and_unknown_setting(tracing: Any) -> None:
    from llmtrace.errors import LlmtraceError

    with pytest.raises(LlmtraceError, match="openai") as caught:
        llmtrace.instrument("opnai")
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="capture_contents"):
        llmtrace.instrument("openai", capture_contents=True)  # type: ignore[call-arg]  # an editor says so too


def test_every_setting_is_a_keyword_with_a_type(tracing: Any) -> None:
    import inspect
    from dataclasses import fields

    from llmtrace.config import Settings

    parameters = inspect.signature(llmtrace.instrument).parameters
    given = {name: each for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    assert set(given) == {each.name for each in fields(Settings)} | {"tracer_provider", "meter_provider"}
    assert all(each.annotation is not each.empty and each.default is None for each in given.values())


def test_the_official_instrumentor(spans: Spans, api: Sync, replay: Replay) -> None:
    """The class behind ``opentelemetry-instrument``'s entry point."""
    from importlib.metadata import entry_points

    (entry,) = [e for e in entry_points(group="opentelemetry_instrumentor") if e.name == "llmtrace-openai"]
    instrumentor = entry.load()()
    assert any("openai" in need for need in instrumentor.instrumentation_dependencies())
    before = patchable()
    replay.serve(play.openai_body())
    instrumentor.instrument(tracer_provider=spans.provider)
    try:
        api.create()
    finally:
        instrumentor.uninstrument()
    api.create()
    spans.one("completed")
    assert [name for name, value in patchable().items() if before.get(name) is not value] == []


ZERO_CODE = """
import sys
url, ask = sys.argv[1], [{"role": "user", "content": "x"}]
if "openai" in sys.argv:
    import openai
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    print(client.chat.completions.create(model="m", messages=ask).id)
if "anthropic" in sys.argv:
    import anthropic
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    print(client.messages.create(model="m", max_tokens=9, messages=ask).id)
if "ollama" in sys.argv:
    import ollama
    print(ollama.Client(host=url).chat(model="m", messages=ask).model)
"""
IDS = {"openai": play.ID, "anthropic": "msg_1", "ollama": ndjson.MODEL}


@pytest.mark.parametrize("disabled", ["llmtrace-groq,llmtrace-ollama", "httpx,llmtrace-openai"])
def test_zero_code(replay: Replay, tmp_path: Path, disabled: str) -> None:
    """``opentelemetry-instrument`` finds each client by its entry point, and leaves out those it is told to."""
    pytest.importorskip("opentelemetry.distro", reason="without a distribution nothing sets the SDK up")
    replay.serve(play.openai_body())
    message = {"type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn"}
    usage = {"input_tokens": 4, "output_tokens": 2}
    replay.serve(play.json_answer({"id": IDS["anthropic"], **message, "usage": usage}), path="/v1/messages")
    replay.serve(ndjson.whole(), path="/api/chat")
    app = tmp_path / "app.py"
    app.write_text(ZERO_CODE)
    settings = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled,
        "ANTHROPIC_OPEN_TELEMETRY": "false",
    }
    asked = IDS if "openai" not in disabled else {"openai", "ollama"}  # Anthropic's takes two seconds to import
    there = [name for name in asked if importlib.util.find_spec(name)]
    program = [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, str(app)]
    done = subprocess.run(
        [*program, replay.url, *there],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(f"{IDS[name]}\n" in done.stdout for name in there), done.stdout
    traced = set(re.findall(r'"gen_ai.provider.name": "(\w+)"', done.stdout))
    assert traced == {name for name in there if f"llmtrace-{name}" not in disabled}, done.stdout
    # Each with its one phase: nothing of these answers tells more, but Ollama's of the prompt and the answer.
    assert len(re.findall('"name": "llm.(?:opaque|prefill)"', done.stdout)) == len(traced)


# Others in the same process.


@pytest.fixture
def httpx_instrumented(spans: Spans) -> Any:
    HTTPXClientInstrumentor().instrument(tracer_provider=spans.provider)
    yield
    HTTPXClientInstrumentor().uninstrument()


@pytest.mark.parametrize("first", ["httpx", "llmtrace"])
def test_beside_the_httpx_instrumentation(
    kind: str, replay: Replay, spans: Spans, tracing: Any, request: pytest.FixtureRequest, first: str, make_api: Any
) -> None:
    """Its CLIENT span is the HTTP request of our call: it lies under it, and both are there once per attempt."""
    if first == "httpx":
        request.getfixturevalue("httpx_instrumented")
        tracing.on()
    else:
        tracing.on()
        request.getfixturevalue("httpx_instrumented")
    replay.play(play.too_many(), openai_stream(itl=0.002))
    older = httpx.AsyncClient(verify=False) if kind == "async" else httpx.Client(verify=False)
    api = make_api(kind, http_client=older, max_retries=1)
    assert len(api.drain(api.stream())) == 8
    call = spans.one("completed")
    requests = [s for s in spans.finished() if s.kind is SpanKind.CLIENT and s is not call]
    assert len(requests) == 2
    ours = {s.context.span_id for s in [call, *spans.children(call)]}
    assert all(s.parent is not None and s.parent.span_id in ours for s in requests)


def test_a_provider_that_drops_everything(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    """Unsampled: the application sees nothing of it, and nothing is exported."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    tracing.on(tracer_provider=provider)
    replay.serve(openai_stream())
    assert len(api.drain(api.stream())) == 8
    stream = api.stream()
    api.pull(stream)
    api.close(stream)
    assert spans.finished() == []


def test_the_suppression_key_is_heeded(tracing: Any, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    tracing.on()
    replay.serve(play.openai_body())
    with suppress_instrumentation():
        client.chat.completions.create(**request())
    assert spans.finished() == []
    client.chat.completions.create(**request())
    spans.one("completed")


def test_an_exporter_that_raises_is_not_the_applications_problem(tracing: Any, replay: Replay, swallowed: None) -> None:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("on_start")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("on_end")

    provider = TracerProvider()
    provider.add_span_processor(Broken())
    tracing.on(tracer_provider=provider)
    replay.serve(openai_stream())
    with sync_client(replay.base_url) as client:
        assert len(list(client.chat.completions.create(**request(stream=True)))) == 8
        replay.serve(play.openai_body())
        assert client.chat.completions.create(**request()).id == play.ID


def test_nested_calls_are_two_calls(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    """A second call made while a stream is half read."""
    tracing.on()
    replay.play(openai_stream(), play.openai_body())
    stream = api.stream()
    api.pull(stream)
    api.create()
    api.drain(stream)
    assert [outcome(span) for span in spans.parents()] == ["completed", "completed"]
    assert all(span.parent is None for span in spans.parents())
    spans.check_all()
    assert [attributes(span).get("gen_ai.request.stream") for span in spans.parents()] == [True, None]


# What the tracing SDK of the application is set up to do.


def test_sampling_sees_what_the_conventions_say_it_must(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    asked: list[Any] = []

    class Asking(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> Any:
            given = dict(kwargs.get("attributes") or (args[1] if len(args) > 1 else None) or {})
            if "gen_ai.operation.name" in given:
                asked.append((name, given))
            return SamplingResult(Decision.RECORD_AND_SAMPLE, given)

        def get_description(self) -> str:
            return "asking"

    provider = TracerProvider(sampler=Asking())
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    tracing.on(tracer_provider=provider)
    replay.play(play.openai_body())
    api.create()
    spans.one("completed")
    ((name, given),) = asked
    assert name == f"chat {play.MODEL}"
    assert given == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": play.MODEL,
        "server.address": "127.0.0.1",
        "server.port": replay.port,
    }


def test_unsampled_calls_still_count(tracing: Any, api: Sync, replay: Replay, spans: Spans, metrics: Any) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    tracing.on(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    replay.serve(lambda seen: openai_stream(usage=play.USAGE))
    for _ in range(3):
        api.drain(api.stream())
    assert [point.count for point in metrics.points("gen_ai.client.inference.duration")] == [3]
    assert [point.count for point in metrics.points("gen_ai.client.inference.time_to_first_chunk")] == [3]
    assert spans.finished() == []


def test_processors_that_watch_starts_see_every_span(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    """Processors that stamp each span as it starts (baggage, tenant) stamp the phases too."""
    from opentelemetry.sdk.trace import SpanProcessor

    class Stamp(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            span.set_attribute("llmtrace.test.tenant", "t1")

    spans.provider.add_span_processor(Stamp())
    tracing.on()
    replay.play(play.too_many(), openai_stream(itl=0.01))
    with pytest.raises(openai.RateLimitError):
        api.create()
    api.drain(api.stream())
    spans.check_all()
    assert len(spans.finished()) == 4 + 5
    assert {attributes(span).get("llmtrace.test.tenant") for span in spans.finished()} == {"t1"}


def test_few_attributes_allowed(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=4))
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    tracing.on(tracer_provider=provider)
    replay.play(openai_stream(usage=play.USAGE, itl=0.01))
    api.drain(api.stream())
    assert [span.name for span in spans.finished() if len(attributes(span)) > 4] == []
    assert len([span for span in spans.finished() if span.name.startswith("llm.")]) == 4


def test_propagation_as_it_is_set(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    replay.serve(play.openai_body())
    tracing.on(propagate="never")
    api.create()
    assert "traceparent" not in replay.last.headers
    tracing.off()
    tracing.on()
    api.create()
    span = spans.parents()[-1]
    _, trace_id, span_id, _ = replay.last.headers["traceparent"].split("-")
    assert (int(trace_id, 16), int(span_id, 16)) == (span.context.trace_id, span.context.span_id)


THEIRS = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": play.MODEL}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_phases_go_under_another_instrumentations_span(
    tracing: Any, api: Sync, replay: Replay, spans: Spans, streaming: bool
) -> None:
    """DESIGN: if another instrumentation already made the GenAI span for this call, no second one is made."""
    tracing.on()
    replay.play(openai_stream(usage=play.USAGE, itl=0.002) if streaming else play.openai_body())
    tracer = spans.provider.get_tracer("another.instrumentation")
    with tracer.start_as_current_span(f"chat {play.MODEL}", kind=SpanKind.CLIENT, attributes=THEIRS):
        answer = api.stream() if streaming else api.create()
        if streaming:
            api.drain(answer)
    (theirs,) = spans.parents()
    assert theirs.instrumentation_scope.name == "another.instrumentation"
    names = [child.name for child in spans.children(theirs)]
    assert names == [
        "llm.network",
        "llm.unattributed",
        *(["llm.queue_prefill", "llm.decode"] if streaming else ["llm.opaque"]),
    ]
    assert outcome(theirs) == "completed"


def test_another_instrumentations_span_that_ended_before_its_stream(
    tracing: Any, api: Sync, replay: Replay, spans: Spans
) -> None:
    """Theirs ends when ``create`` returns: ours must neither write to an ended span nor lose the phases."""
    tracing.on()
    replay.play(openai_stream(itl=0.002))
    tracer = spans.provider.get_tracer("another.instrumentation")
    with tracer.start_as_current_span(f"chat {play.MODEL}", kind=SpanKind.CLIENT, attributes=THEIRS):
        stream = api.stream()
    assert len(api.drain(stream)) == 8
    (theirs,) = [span for span in spans.parents() if span.instrumentation_scope.name == "another.instrumentation"]
    below = [s for s in spans.finished() if s.name.startswith("llm.")]
    assert {"llm.queue_prefill", "llm.decode"} <= {s.name for s in below}
    assert {s.context.trace_id for s in below} == {theirs.context.trace_id}


def test_two_spans_where_that_is_set(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    tracing.on(parent="own")
    replay.play(play.openai_body())
    tracer = spans.provider.get_tracer("another.instrumentation")
    with tracer.start_as_current_span(f"chat {play.MODEL}", kind=SpanKind.CLIENT, attributes=THEIRS):
        api.create()
    theirs, ours = spans.parents()
    assert ours.parent.span_id == theirs.context.span_id
    spans.check(ours)
