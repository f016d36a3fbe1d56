"""The real client against vLLM: its phases, its queue, its prefix cache, its own span in our trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.conftest import Tracing
from tests.e2e import calls
from tests.e2e.collector import Collector
from tests.e2e.servers import Server
from tests.support.apis import Sync
from tests.support.spans import Spans, attributes, seconds


@pytest.fixture
def vllm(vllm_server: Server, make_api: Callable[..., Sync]) -> Callable[[str], Sync]:
    """Makes the client by kind, its connection and the engine warmed up."""

    def make(kind: str = "sync") -> Sync:
        api = make_api(kind, f"{vllm_server.url}/v1", timeout=120)
        calls.answer(api, calls.prompt(1), max_tokens=2)
        return api

    return make


def told(bodies: list[Any]) -> dict[str, float]:
    """vLLM's own phases in seconds."""
    metrics = calls.field_of(bodies, "metrics")
    names = {"queue": "queue_time_ms", "prefill": "time_to_first_token_ms", "decode": "generation_time_ms"}
    return {phase: metrics[name] / 1e3 for phase, name in names.items()}


def test_streamed(vllm: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """Queue and prefill are the engine's numbers; decode is what came over the wire, the engine's beside it."""
    api = vllm(kind)
    tracing.on()
    chunks = calls.stream(api, calls.prompt())
    said, used = told(chunks), calls.usage_of(chunks)
    parent = spans.one("completed")
    phases = spans.phases(parent)
    assert list(phases) == calls.PHASES
    calls.assert_phase(phases["queue"], said["queue"])
    calls.assert_phase(phases["prefill"], said["prefill"])
    calls.assert_decode_seen(phases["decode"], said["decode"])
    assert calls.tokens(phases["prefill"]) == used.prompt_tokens
    assert calls.tokens(phases["decode"]) == used.completion_tokens == calls.LENGTH
    assert attributes(parent)["gen_ai.usage.input_tokens"] == used.prompt_tokens
    assert attributes(parent)["gen_ai.usage.output_tokens"] == calls.LENGTH
    assert attributes(parent)["llmtrace.server.engine"] == "vllm"
    calls.keep(spans, f"vllm-streamed-{kind}")


def test_not_streamed(vllm: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """Without a stream the client sees only the total; all three phases are the engine's."""
    api = vllm(kind)
    tracing.on()
    said = told([calls.answer(api, calls.prompt())])
    phases = spans.phases(spans.one("completed"))
    assert list(phases) == calls.PHASES
    for name, duration in said.items():
        calls.assert_phase(phases[name], duration)
    calls.keep(spans, f"vllm-not-streamed-{kind}")


def test_same_prefix_again(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """A long prompt for the second time: whole blocks of 128 tokens come from the cache, and the span says so."""
    api = vllm("sync")
    text = calls.prompt(30)
    cold = calls.usage_of(calls.stream(api, text))
    tracing.on()
    chunks = calls.stream(api, text)
    used = calls.usage_of(chunks)
    cached = used.prompt_tokens_details.cached_tokens
    assert cold.prompt_tokens == used.prompt_tokens
    assert cached >= 256
    assert cached % 128 == 0
    parent = spans.one("completed")
    assert attributes(parent)["gen_ai.usage.cache_read.input_tokens"] == cached
    phases = spans.phases(parent)
    assert calls.tokens(phases["kv_cache_hit"]) == cached
    assert calls.source(phases["kv_cache_hit"]) == "estimate", "vLLM counts the hit, it does not time it"
    assert calls.tokens(phases["prefill"]) == used.prompt_tokens - cached
    calls.assert_phase(phases["prefill"], told(chunks)["prefill"])
    calls.keep(spans, "vllm-cached")


def test_queue(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Six callers for two slots: the later ones wait, and their queue phases are as long as vLLM says."""
    api = vllm("sync")
    tracing.on()
    answers = calls.at_once(6, lambda _: calls.stream(api, calls.prompt(8)))
    said = {chunks[0].id: told(chunks) for chunks in answers}
    spans.check_all()
    parents = spans.parents()
    assert len(parents) == len(said) == 6
    for parent in parents:
        phases, own = spans.phases(parent), said[attributes(parent)["gen_ai.response.id"]]
        calls.assert_phase(phases["queue"], own["queue"])
        calls.assert_phase(phases["prefill"], own["prefill"])
    waits = sorted(own["queue"] for own in said.values())
    assert waits[0] < 0.05 < waits[-1], waits
    calls.keep(spans, "vllm-queue")


def test_blind(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Told to ignore what the engine reports, the client claims no split that it did not see."""
    api = vllm("sync")
    tracing.on(server_timings=False)
    said = told(calls.stream(api, calls.prompt(20)))
    parent = spans.one("completed")
    calls.assert_blind(spans, parent)
    wait = seconds(spans.phases(parent)["queue_prefill"])
    assert wait >= said["queue"] + said["prefill"] - 0.002, "what it saw holds what the engine did"
    calls.keep(spans, "vllm-blind")


def test_learned_split(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Blind, but with the route's history: after 30 calls the prefill is estimated, and the engine says how well."""
    api = vllm("sync")
    tracing.on(server_timings=False)
    found = calls.learned_split(api, spans, told)
    assert len(found) >= 20
    assert calls.report_split("vllm", found) < 0.5


def test_stream_without_usage(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """vLLM's timings ride on the usage chunk: who does not ask for it gets none, and the spans say what is left."""
    api = vllm("sync")
    tracing.on()
    chunks = calls.stream(api, calls.prompt(), stream_options=openai.omit)
    assert all(chunk.usage is None for chunk in chunks), "the request was left as it was"
    calls.assert_blind(spans, spans.one("completed"))


def test_request_usage(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """The one setting that changes a request: it asks for the usage chunk, and the timings come with it."""
    api = vllm("sync")
    tracing.on(request_usage=True)
    chunks = calls.stream(api, calls.prompt(), stream_options=openai.omit)
    phases = spans.phases(spans.one("completed"))
    calls.assert_phase(phases["prefill"], told(chunks)["prefill"])


def test_closed_early(vllm: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """A stream that is left after six chunks has no usage and no timings: what was seen is what is said."""
    api = vllm(kind)
    tracing.on()
    opened = api.create(**calls.asked(calls.prompt(), stream=True, stream_options=calls.USAGE, max_tokens=400))
    api.take(opened, 6)
    api.close(opened)
    parent = spans.one(("closed_early", "abandoned"))
    assert list(spans.phases(parent)) == calls.MERGED
    assert "gen_ai.usage.output_tokens" not in attributes(parent)


def test_unknown_model(vllm: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """vLLM's own refusal: the client's exception, and its status as the span's error type."""
    api = vllm("sync")
    tracing.on()
    with pytest.raises(openai.NotFoundError):
        calls.answer(api, calls.prompt(1), model="no-such-model")
    parent = spans.one("error")
    assert attributes(parent)["error.type"] == "404"


def test_engine_span_joins_the_trace(
    vllm: Callable[[str], Sync], collector: Collector, tracing: Tracing, spans: Spans
) -> None:
    """vLLM continues our trace: its own request span hangs below the call and tells the times that our phases have."""
    api = vllm("sync")
    tracing.on()
    calls.stream(api, calls.prompt(), max_tokens=8)
    parent = spans.one("completed")
    deadline = time.monotonic() + 30
    while not (theirs := collector.of_trace(parent.context.trace_id)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(theirs) == 1
    span = theirs[0]
    assert span.name == "llm_request"
    assert span.parent_span_id == parent.context.span_id
    phases = spans.phases(parent)
    assert span.attributes["gen_ai.latency.time_in_queue"] == pytest.approx(seconds(phases["queue"]), abs=calls.SAME)
    assert span.attributes["gen_ai.latency.time_in_model_prefill"] == pytest.approx(
        seconds(phases["prefill"]), abs=calls.SAME
    )
    decode = attributes(phases["decode"])["llmtrace.phase.server_duration"]
    assert span.attributes["gen_ai.latency.time_in_model_decode"] == pytest.approx(decode, abs=calls.SAME)
