"""The server's spans: they join the caller's trace and say the same as the response."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmtrace.reference import LoadedModel, build_or_load, create_app, spans
from llmtrace.reference.timings import Chunk, Timings
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from tests.reference import conftest
from tests.support.waiting import wait_for

SLACK = 5_000_000
"""ns. Two clocks (the spans' anchor and ``time.time_ns``), one machine."""
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"


@pytest.fixture(scope="module")
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def in_process(small: LoadedModel, exported: InMemorySpanExporter) -> Iterator[openai.OpenAI]:
    """The application in this process, behind a real socket."""
    with serving(small, exported) as client:
        yield client


@contextlib.contextmanager
def serving(small: LoadedModel, exported: InMemorySpanExporter, **options: Any) -> Iterator[openai.OpenAI]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    app = create_app(small, faults=True, tracer_provider=provider, block_size=8, **options)
    with (
        conftest.in_process(app) as base_url,
        openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client,
    ):
        yield client


def ask(client: openai.OpenAI, prompt: str, model: str = "small", **headers: str):
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=6,
        temperature=0,
        extra_headers=headers,
        extra_body={"ignore_eos": True},
    )


def tree(exported: InMemorySpanExporter, having: str = "") -> tuple[ReadableSpan, list[ReadableSpan]]:
    """A request's span and its children in order, once they have come; the request with the attribute ``having``."""
    found: list[ReadableSpan] = []

    def came() -> bool:
        for span in exported.get_finished_spans():
            if span.name == "llm_request" and (not having or having in (span.attributes or {})):
                found.append(span)
        return bool(found)

    wait_for(came)
    parent, finished = found[0], exported.get_finished_spans()
    children = [span for span in finished if span.parent and span.parent.span_id == parent.context.span_id]
    return parent, sorted(children, key=lambda span: (span.start_time, span.end_time))


@pytest.fixture(autouse=True)
def empty(exported: InMemorySpanExporter) -> None:
    exported.clear()


def test_spans_continue_the_trace_and_fill_their_parent(
    in_process: openai.OpenAI, exported: InMemorySpanExporter
) -> None:
    prompt = "one two three four five six seven " * 4
    for hit in (False, True):
        exported.clear()
        began = time.time_ns()
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
        assert {attributes["llmtrace.side"] for attributes in phases.values()} == {"server"}
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
        assert told["gen_ai.latency.e2e"] == pytest.approx((parent.end_time - parent.start_time) / 1e9, abs=1e-6)
        starts = [span.start_time % 1000 for span in children]
        assert starts[0] == 999
        assert starts == sorted(set(starts), reverse=True), (
            "they fall below the microsecond, for Jaeger's critical path"
        )
        assert told["llmtrace.call.outcome"] == "completed"
        assert told["gen_ai.response.finish_reasons"] == ("length",)
        found = {span.attributes["llmtrace.model.fingerprint"] for span in (parent, *children)}
        assert found == {response.system_fingerprint}
        assert began - SLACK <= parent.start_time < parent.end_time <= time.time_ns() + SLACK


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
    assert parent.attributes["gen_ai.response.finish_reasons"] == ("error",)
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
    assert parent.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert {"llm.queue", "llm.prefill", "llm.decode"} <= {span.name for span in children}
    assert children[-1].end_time == parent.end_time


def test_the_environment_decides_whether_spans_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
    ):
        monkeypatch.delenv(name, raising=False)
    assert spans.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    writer = spans.from_environment({"llmtrace.model.fingerprint": "fp_123", "device.model.name": "cpu"})
    assert writer is not None
    assert writer._provider.resource.attributes["service.name"] == "llmtrace-reference"
    assert writer._provider.resource.attributes["host.name"] == socket.gethostname()
    assert writer._provider.resource.attributes["llmtrace.model.fingerprint"] == "fp_123"
    assert writer._provider.resource.attributes["device.model.name"] == "cpu"
    assert writer._provider.resource.attributes["service.instance.id"]
    writer.shutdown()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=elsewhere,service.version=7")
    writer = spans.from_environment()
    assert writer is not None
    assert writer._provider.resource.attributes["service.name"] == "mine"
    assert writer._provider.resource.attributes["host.name"] == "elsewhere"
    assert writer._provider.resource.attributes["service.version"] == "7"
    assert "llmtrace.model.fingerprint" not in writer._provider.resource.attributes
    writer.shutdown()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert spans.from_environment() is None


@pytest.fixture(scope="module")
def at_the_start() -> list[ReadableSpan]:
    """What that server wrote before any request."""
    return []


@pytest.fixture(scope="module")
def with_adapter(
    small_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    exported: InMemorySpanExporter,
    at_the_start: list[ReadableSpan],
) -> Iterator[openai.OpenAI]:
    """A server that has two adapters; its model is its own, since adapters change the model they are put into."""
    pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("adapted")
    adapters = {
        name: build_tiny_adapter(root / name, spec=conftest.SMALL, rank=rank, seed=rank)
        for name, rank in (("tuned", 8), ("other", 4))
    }
    loaded = build_or_load(small_path, device="cpu")
    with serving(loaded, exported, adapters=adapters, loading=loaded.loading) as client:
        at_the_start += exported.get_finished_spans()
        yield client


def test_the_models_load_is_a_span_up_to_the_moment_when_it_is_ready(
    with_adapter: openai.OpenAI, at_the_start: list[ReadableSpan]
) -> None:
    *parts, load = [span for span in at_the_start if span.name.startswith("llm.model_load")]
    assert [part.name for part in parts] == ["llm.model_load.read", "llm.model_load.warm_up"]
    assert (parts[0].start_time, parts[0].end_time) == (load.start_time, parts[1].start_time)
    assert parts[1].end_time == load.end_time
    told = load.attributes or {}
    assert (told["llmtrace.side"], told["llmtrace.phase"]) == ("server", "model_load")
    assert told["gen_ai.request.model"] == with_adapter.models.list().data[0].id


def test_adapters_are_models_and_their_swaps_are_spans(
    with_adapter: openai.OpenAI, exported: InMemorySpanExporter
) -> None:
    assert [each.id for each in with_adapter.models.list()] == ["small", "tuned", "other"]
    assert with_adapter.models.retrieve("tuned").model_extra == {"max_model_len": 512, "parent": "small"}
    base = ask(with_adapter, "one two three")
    tree(exported)
    exported.clear()
    tuned = ask(with_adapter, "one two three", "tuned")
    assert tuned.model == "tuned"
    assert tuned.choices[0].message.content != base.choices[0].message.content
    metrics = tuned.model_extra["metrics"]
    assert (metrics["adapter"], metrics["adapter_swaps"]) == ("tuned", 1)
    parent, children = tree(exported)
    assert [span.name for span in children] == ["llm.queue", "llm.adapter_swap", "llm.prefill", "llm.decode"]
    assert all(before.end_time == after.start_time for before, after in pairwise(children))
    said = parent.attributes or {}
    assert said["gen_ai.request.model"] == "tuned"
    found = {key.removeprefix("llmtrace.adapter."): said[key] for key in said if key.startswith("llmtrace.adapter.")}
    swapped = metrics["adapter_swap_time_ms"] / 1e3
    assert found == {"id": "tuned", "rank": 8, "merged": False, "swaps": 1, "swap_duration": pytest.approx(swapped)}


def test_an_unknown_adapter_is_a_404(with_adapter: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has `small`, `tuned`, `other`") as caught:
        ask(with_adapter, "x", "tuned-2")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    assert ask(with_adapter, "x").choices[0].finish_reason == "length"


def test_a_composition_is_a_model_of_its_own_and_says_how_its_adapters_conflict(
    with_adapter: openai.OpenAI, exported: InMemorySpanExporter
) -> None:
    ask(with_adapter, "one two three", "other")
    model = "tuned:-1+other:0.50"
    first, second = (ask(with_adapter, "one two three", model) for _ in range(2))
    assert first.model == model
    assert first.choices[0].message.content == second.choices[0].message.content
    metrics = first.model_extra["metrics"]
    assert metrics["adapter"] == "tuned:-1+other:0.5"
    assert metrics["adapter_swaps"] == 1
    assert 0 < metrics["adapter_check_time_ms"] <= metrics["queue_time_ms"]
    assert second.model_extra["metrics"]["adapter_check_time_ms"] == 0, "it is known by now"
    parent, children = tree(exported, "llmtrace.adapter.parts")
    assert [span.name for span in children] == ["llm.queue", "llm.adapter_swap", "llm.prefill", "llm.decode"]
    said = parent.attributes or {}
    found = {key.removeprefix("llmtrace.adapter."): said[key] for key in said if key.startswith("llmtrace.adapter.")}
    assert found == {
        "id": "tuned:-1+other:0.5",
        "rank": 12,
        "merged": False,
        "parts": ("tuned", "other"),
        "weights": (-1.0, 0.5),
        "method": "stacked",
        "cosine": metrics["adapter_cosine"],
        "signs_differ": metrics["adapter_signs_differ"],
        "check_duration": pytest.approx(metrics["adapter_check_time_ms"] / 1e3),
        "swaps": 1,
        "swap_duration": pytest.approx(metrics["adapter_swap_time_ms"] / 1e3),
    }
    [conflict] = (with_adapter.models.retrieve(model).model_extra or {})["conflicts"]
    assert conflict["whole"]["cosine"] == found["cosine"]
    assert conflict["says"].startswith("tuned and other keep out of each other's way")
    text = metrics_text(with_adapter)
    assert 'llmtrace:adapter_requests_total{adapter="tuned:-1+other:0.5"} 2\n' in text
    assert f'llmtrace:composition_cosine{{composition="tuned:-1+other:0.5"}} {found["cosine"]!r}\n' in text


def metrics_text(client: openai.OpenAI) -> str:
    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics")) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("model", "status", "says"),
    [
        ("tuned+gone", 404, "no adapter 'gone': this runner has tuned, other"),
        ("tuned+small", 404, "no adapter 'small'"),
        ("tuned+tuned", 400, "tuned is in the composition twice"),
        ("tuned+other:much", 400, "the weight of other must be a number, not 'much'"),
        ("tuned+other@linear", 400, "linear needs adapters of one rank .tuned has 8, other has 4."),
        ("tuned+other@all", 400, "there is no way 'all' to compose adapters: use stacked, svd, linear"),
    ],
)
def test_a_composition_that_cannot_be_is_refused(
    with_adapter: openai.OpenAI, model: str, status: int, says: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=says) as caught:
        ask(with_adapter, "x", model)
    code = "model_not_found" if status == 404 else "invalid_composition"
    assert (caught.value.status_code, caught.value.param, caught.value.code) == (status, "model", code)  # pyright: ignore


def structured(client: openai.OpenAI, schema: Any) -> Any:
    return client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )


def test_compiling_and_masking_are_shown_apart(in_process: openai.OpenAI, exported: InMemorySpanExporter) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = structured(in_process, schema | {"additionalProperties": False})
    assert json.loads(answer.choices[0].message.content) in ({"ok": True}, {"ok": False})
    metrics = answer.model_extra["metrics"]
    assert 0 < metrics["grammar_compile_time_ms"] <= metrics["queue_time_ms"]
    assert 0 < metrics["mean_mask_time_ms"] <= metrics["grammar_mask_time_ms"]
    parent, _ = tree(exported, having="llmtrace.grammar.kind")  # the span of the test before may come only now
    said = parent.attributes or {}
    assert said["llmtrace.grammar.kind"] == "json_schema"
    assert said["llmtrace.grammar.compile_duration"] == pytest.approx(metrics["grammar_compile_time_ms"] / 1e3)
    assert said["llmtrace.grammar.mask_duration"] == pytest.approx(metrics["grammar_mask_time_ms"] / 1e3)
    assert said["llmtrace.grammar.mask_per_token"] == pytest.approx(metrics["mean_mask_time_ms"] / 1e3)


def test_a_broken_schema_is_a_400_and_the_server_goes_on(in_process: openai.OpenAI) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(openai.BadRequestError, match="nonsense") as caught:
        structured(in_process, {"type": "nonsense"})
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_grammar")
    assert ask(in_process, "x").choices[0].finish_reason == "length"


@pytest.mark.parametrize("below", [0, 1, 500, 999])
def test_starts_fall_below_the_microsecond_also_of_chunks_that_touch(below: int) -> None:
    """So that Jaeger's critical path passes through all of them, wherever the request's begin lies."""
    arrived, ms = 5_000_000_000 + below, 1_000_000
    at = [arrived + number * ms + 7 * number for number in range(8)]
    timings = Timings(
        arrived=arrived,
        scheduled=at[1],
        cache_done=at[1],
        chunks=[Chunk(at[1], at[2], 16), Chunk(at[2], at[3], 16), Chunk(at[3] + 2 * ms // 10, at[4], 8)],
        tokens=[at[4], at[5], at[6]],
        finished=at[6],
        prompt_tokens=40,
    )
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    writer = spans.ServerSpans(provider, fingerprint="fp_123")
    writer.chunks = True
    writer.emit(timings, carrier={}, request_id="r", model="m", outcome="completed")
    parent, children = tree(exported)
    assert [span.name for span in children] == ["llm.queue", "llm.prefill", "llm.decode"]
    assert (children[0].start_time, children[-1].end_time) == (parent.start_time, parent.end_time)
    assert 0 <= (parent.end_time or 0) - (parent.start_time or 0) - (at[6] - arrived) < 1000
    inside = sorted(
        (span for span in exported.get_finished_spans() if span.name == "llm.prefill.chunk"),
        key=lambda span: span.start_time or 0,
    )
    assert [(span.attributes or {})["llmtrace.phase.tokens"] for span in inside] == [16, 16, 8]
    assert {(span.attributes or {})["llmtrace.model.fingerprint"] for span in inside} == {"fp_123"}
    assert inside[0].start_time == children[1].start_time
    for siblings in (children, inside):
        starts = [(span.start_time or 0) % 1000 for span in siblings]
        assert starts == sorted(set(starts), reverse=True)
    assert all(before.end_time == after.start_time for before, after in pairwise(children))
    assert inside[0].end_time == inside[1].start_time
    assert inside[2].end_time == children[1].end_time
    assert (inside[1].end_time or 0) < (inside[2].start_time or 0), "the pause stays one"
