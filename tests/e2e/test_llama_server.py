"""The real client against llama.cpp's server: prefill and decode from its timings, its queue as what is left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.conftest import Tracing
from tests.e2e import calls
from tests.e2e.servers import Server
from tests.support.apis import Sync
from tests.support.spans import Spans, attributes, seconds


@pytest.fixture
def llama(llama_server: Server, make_api: Callable[..., Sync]) -> Callable[[str], Sync]:
    """Makes the client by kind, its connection and the engine warmed up."""

    def make(kind: str = "sync") -> Sync:
        api = make_api(kind, f"{llama_server.url}/v1", timeout=120)
        calls.answer(api, calls.prompt(1), max_tokens=2)
        return api

    return make


def told(bodies: list[Any]) -> dict[str, float]:
    """llama.cpp's own phases in seconds: it has no word for the wait for a slot."""
    timings = calls.field_of(bodies, "timings")
    return {"prefill": timings["prompt_ms"] / 1e3, "decode": timings["predicted_ms"] / 1e3}


def test_streamed(llama: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """Prefill is the engine's number; the wait before it is the client's remainder, said to be no better than that."""
    api = llama(kind)
    tracing.on()
    chunks = calls.stream(api, calls.prompt(20))
    said, used = told(chunks), calls.usage_of(chunks)
    parent = spans.one("completed")
    phases = spans.phases(parent)
    assert [name for name in phases if name != "kv_cache_hit"] == calls.PHASES
    calls.assert_phase(phases["prefill"], said["prefill"])
    calls.assert_decode_seen(phases["decode"], said["decode"])
    assert calls.source(phases["queue"]) == "client"
    assert attributes(phases["queue"])["llmtrace.phase.uncertainty"] == pytest.approx(
        seconds(phases["queue"]), abs=calls.SAME
    )
    assert calls.tokens(phases["prefill"]) == calls.field_of(chunks, "timings")["prompt_n"]
    assert calls.tokens(phases["decode"]) == used.completion_tokens == calls.LENGTH
    assert attributes(parent)["gen_ai.usage.input_tokens"] == used.prompt_tokens
    assert attributes(parent)["llmtrace.server.engine"] == "llama.cpp"
    calls.keep(spans, f"llama-streamed-{kind}")


def test_not_streamed(llama: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """Without a stream prefill and decode are the engine's numbers both."""
    api = llama(kind)
    tracing.on()
    said = told([calls.answer(api, calls.prompt(20))])
    phases = spans.phases(spans.one("completed"))
    assert [name for name in phases if name != "kv_cache_hit"] == calls.PHASES
    for name, duration in said.items():
        calls.assert_phase(phases[name], duration)
    calls.keep(spans, f"llama-not-streamed-{kind}")


def test_same_prefix_again(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """The same prompt with a new end: all but the end comes from the slot's cache, to the token."""
    api = llama("sync")
    text = calls.prompt(30)
    cold = calls.stream(api, text)
    tracing.on()
    chunks = calls.stream(api, text + "And then?")
    timings, used = calls.field_of(chunks, "timings"), calls.usage_of(chunks)
    cached = timings["cache_n"]
    assert cached > 0.8 * used.prompt_tokens
    assert timings["prompt_n"] + cached == used.prompt_tokens
    parent = spans.one("completed")
    assert attributes(parent)["gen_ai.usage.cache_read.input_tokens"] == cached
    phases = spans.phases(parent)
    assert calls.tokens(phases["kv_cache_hit"]) == cached
    assert calls.source(phases["kv_cache_hit"]) == "estimate", "llama.cpp counts the hit, it does not time it"
    assert calls.tokens(phases["prefill"]) == timings["prompt_n"]
    calls.assert_phase(phases["prefill"], told(chunks)["prefill"])
    assert seconds(phases["prefill"]) < told(cold)["prefill"]
    calls.keep(spans, "llama-cached")


def test_queue(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Six callers for two slots: the engine tells no queue, but the last ones' wait can lie nowhere else."""
    api = llama("sync")
    tracing.on()
    answers = calls.at_once(6, lambda _: calls.stream(api, calls.prompt(8)))
    said = {chunks[0].id: told(chunks) for chunks in answers}
    spans.check_all()
    parents = spans.parents()
    assert len(parents) == len(said) == 6
    waits: list[float] = []
    for parent in parents:
        phases, own = spans.phases(parent), said[attributes(parent)["gen_ai.response.id"]]
        calls.assert_phase(phases["prefill"], own["prefill"])
        waits.append(seconds(phases["queue"]))
    shortest_turn = min(own["prefill"] + own["decode"] for own in said.values())
    assert max(waits) > 1.5 * shortest_turn, (waits, "two turns come before the last callers'")
    calls.keep(spans, "llama-queue")


def test_blind(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Told to ignore what the engine reports, the client claims no split that it did not see."""
    api = llama("sync")
    tracing.on(server_timings=False)
    said = told(calls.stream(api, calls.prompt(20)))
    parent = spans.one("completed")
    calls.assert_blind(spans, parent)
    assert seconds(spans.phases(parent)["queue_prefill"]) >= said["prefill"] - 0.002, "what it saw holds the engine's"
    calls.keep(spans, "llama-blind")


def test_learned_split(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """Blind, but with the route's history: after 30 calls the prefill is estimated, and the engine says how well."""
    api = llama("sync")
    tracing.on(server_timings=False)
    found = calls.learned_split(api, spans, told)
    assert len(found) >= 20
    assert calls.report_split("llama", found) < 0.5


def test_stream_without_usage(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """llama.cpp sends its timings unasked, and counts with them: the phases are whole without a usage chunk."""
    api = llama("sync")
    tracing.on()
    chunks = calls.stream(api, calls.prompt(), stream_options=openai.omit)
    assert all(chunk.usage is None for chunk in chunks), "the request was left as it was"
    phases = spans.phases(spans.one("completed"))
    calls.assert_phase(phases["prefill"], told(chunks)["prefill"])


def test_progress_chunks_are_no_tokens(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """With return_progress the server streams during the prefill: those chunks end no phase."""
    api = llama("sync")
    tracing.on()
    body = {"ignore_eos": True, "return_progress": True}
    chunks = calls.stream(api, calls.prompt(60), extra_body=body)
    assert any((chunk.model_extra or {}).get("prompt_progress") for chunk in chunks)
    phases = spans.phases(spans.one("completed"))
    said = told(chunks)
    calls.assert_phase(phases["prefill"], said["prefill"])
    calls.assert_decode_seen(phases["decode"], said["decode"])
    assert seconds(phases["decode"]) < said["decode"] + 0.5 * said["prefill"]


def test_closed_early(llama: Callable[[str], Sync], kind: str, tracing: Tracing, spans: Spans) -> None:
    """A stream that is left after six chunks has no usage and no timings: what was seen is what is said."""
    api = llama(kind)
    tracing.on()
    opened = api.create(**calls.asked(calls.prompt(), stream=True, stream_options=calls.USAGE, max_tokens=400))
    api.take(opened, 6)
    api.close(opened)
    parent = spans.one(("closed_early", "abandoned"))
    assert list(spans.phases(parent)) == calls.MERGED
    assert "gen_ai.usage.output_tokens" not in attributes(parent)


def test_prompt_too_long(llama: Callable[[str], Sync], tracing: Tracing, spans: Spans) -> None:
    """llama.cpp's own refusal: the client's exception, and its status as the span's error type."""
    api = llama("sync")
    tracing.on()
    with pytest.raises(openai.BadRequestError):
        calls.answer(api, calls.prompt(400))
    assert attributes(spans.one("error"))["error.type"] == "400"
