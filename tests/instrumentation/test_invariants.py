"""The span contract (DESIGN.md, section 2): golden trees, and the invariants over calls drawn at random."""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import openai
import pytest

from tests.support import replay as play
from tests.support.apis import LOST, Sync
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay, openai_stream
from tests.support.spans import (
    SECRETS,
    Spans,
    assert_golden,
    attributes,
    outcome,
    seconds,
    shape,
)

# Golden trees: the same for both clients.


@pytest.mark.usefixtures("traced")
class TestGolden:
    @pytest.fixture
    def make_api(self, make_api: Any, clock: Clock) -> Any:
        """Clients whose answers all take the same times, so that no name in a tree hangs on the machine."""

        def make(kind: str, **settings: Any) -> Sync:
            made = make_api(kind, **settings)
            pace(made, clock, [0.04, *[0.004] * 12])
            return made

        return make

    def test_streamed(self, api: Sync, replay: Replay, spans: Spans) -> None:
        replay.play(openai_stream(usage=play.USAGE, ttft=0.02, itl=0.004))
        api.drain(api.stream(temperature=0.5, max_tokens=50, stream_options={"include_usage": True}))
        assert_golden("streamed", shape(spans, spans.one("completed")))

    def test_streamed_server_timings(self, api: Sync, replay: Replay, spans: Spans) -> None:
        script = openai_stream(usage=play.USAGE, last={"metrics": play.VLLM_METRICS}, ttft=0.03, itl=0.003)
        replay.play(script)
        api.drain(api.stream())
        span = spans.one("completed")
        assert_golden("streamed_server_timings", shape(spans, span))
        phases = spans.phases(span)
        assert {n: attributes(p)["llmtrace.phase.source"] for n, p in phases.items()} == {
            "network": "client",
            "unattributed": "client",
            "queue": "server",
            "kv_cache_hit": "estimate",
            "prefill": "server",
            "decode": "client",
        }
        assert seconds(phases["queue"]) == pytest.approx(0.008, abs=2e-6)
        assert seconds(phases["prefill"]) + seconds(phases["kv_cache_hit"]) == pytest.approx(0.009, abs=2e-6)

    def test_whole(self, api: Sync, replay: Replay, spans: Spans) -> None:
        replay.play(play.openai_body())
        api.create()
        assert_golden("whole", shape(spans, spans.one("completed")))

    def test_whole_server_timings(self, api: Sync, replay: Replay, spans: Spans) -> None:
        script = play.openai_body(metrics=play.VLLM_METRICS)
        script.before = 0.04
        replay.play(script)
        api.create()
        span = spans.one("completed")
        assert_golden("whole_server_timings", shape(spans, span))
        assert seconds(spans.phases(span)["decode"]) == pytest.approx(0.012, abs=2e-6)

    def test_reasoning(self, api: Sync, replay: Replay, spans: Spans) -> None:
        usage = play.USAGE | {"completion_tokens_details": {"reasoning_tokens": 2}}
        thoughts = [play.chunk({"reasoning_content": text}) for text in ("hm", " so")]
        replay.play(play.events_script(*thoughts, *play.openai_chunks(("a", "b"), usage, role=False), itl=0.004))
        api.drain(api.stream())
        assert_golden("reasoning", shape(spans, spans.one("completed")))

    def test_closed_early(self, api: Sync, replay: Replay, spans: Spans) -> None:
        replay.play(openai_stream(itl=0.004))
        stream = api.stream()
        api.take(stream, 4)
        api.close(stream)
        assert_golden("closed_early", shape(spans, spans.one("closed_early")))

    def test_error(self, api: Sync, replay: Replay, spans: Spans) -> None:
        replay.play(play.server_error())
        with pytest.raises(openai.InternalServerError):
            api.create()
        assert_golden("error", shape(spans, spans.one("error")))

    def test_error_mid_stream(self, api: Sync, replay: Replay, spans: Spans) -> None:
        script = play.error_event()
        script.parts = [(0.003, data) for _, data in script.parts]
        replay.play(script)
        with pytest.raises(openai.APIError):
            api.drain(api.stream())
        assert_golden("error_mid_stream", shape(spans, spans.one("error")))

    def test_retries(self, kind: str, make_api: Any, replay: Replay, spans: Spans) -> None:
        replay.play(play.too_many(), play.too_many(), openai_stream(usage=play.USAGE, ttft=0.02, itl=0.004))
        api = make_api(kind, max_retries=2)
        api.drain(api.stream())
        assert_golden("retries", shape(spans, spans.one("completed")))


# Settings that change what is told.


def test_blind_mode_ignores_what_the_server_says(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    tracing.on(server_timings=False)
    replay.play(
        openai_stream(usage=play.USAGE, last={"metrics": play.VLLM_METRICS}, ttft=0.03, itl=0.003),
        play.openai_body(metrics=play.VLLM_METRICS),
    )
    api.drain(api.stream())
    api.create()
    streamed, whole = spans.parents()
    spans.check_all()
    assert set(spans.phases(streamed)) == {"network", "unattributed", "queue_prefill", "decode"}
    assert set(spans.phases(whole)) == {"network", "unattributed", "opaque"}
    for span in (streamed, whole):
        sources = {attributes(p)["llmtrace.phase.source"] for p in spans.phases(span).values()}
        assert sources == {"client"}
        assert attributes(span)["gen_ai.usage.cache_read.input_tokens"] == 16, "usage is no timing"


def test_content_only_where_it_is_asked_for(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    tracing.on(capture_content=True)
    replay.play(openai_stream(("one", " two")), play.openai_body("three"))
    api.drain(api.stream())
    api.create()
    for span, answer in zip(spans.parents(), ("one two", "three"), strict=True):
        spans.check(span, content=True)
        attrs = attributes(span)
        assert SECRETS[0] in attrs["gen_ai.input.messages"]
        assert answer in attrs["gen_ai.output.messages"]
        assert SECRETS[2] not in str(attrs), "never the key"


def test_usage_is_asked_for_only_where_it_is_set(tracing: Any, api: Sync, replay: Replay, spans: Spans) -> None:
    tracing.on(request_usage=True)
    replay.serve(openai_stream(usage=play.USAGE))
    api.drain(api.stream())
    api.drain(api.stream(stream_options={"include_usage": False}))
    asked, refused = (request.json["stream_options"] for request in replay.requests)
    assert asked == {"include_usage": True}
    assert refused == {"include_usage": False}
    spans.check_all()


# Calls drawn at random.


def a_script(draw: random.Random) -> play.Script:
    words = ["w"] * draw.randrange(0, 12)
    usage = draw.choice([None, play.USAGE])
    timings = draw.choice(
        [
            None,
            {"metrics": play.VLLM_METRICS},
            {"metrics": {k: draw.choice([-1, 0, 1e9, 3.0, "x", None]) for k in play.VLLM_METRICS}},
            {"timings": {"prompt_ms": draw.uniform(0, 30), "predicted_ms": draw.uniform(0, 30), "cache_n": 4}},
            {"time_info": {"queue_time": draw.uniform(0, 0.02), "prompt_time": 0.004, "completion_time": 0.01}},
            {"x_groq": {"usage": play.USAGE | {"queue_time": 0.001, "prompt_time": 0.002, "completion_time": 0.003}}},
        ]
    )
    script = openai_stream(
        words,
        usage,
        ttft=draw.choice([0.0, 0.004, 0.015]),
        itl=draw.choice([0.0, 0.0, 0.001, 0.003]),
        role=draw.random() < 0.7,
        last=timings,
    )
    script.before = draw.choice([0.0, 0.0, 0.01])
    if draw.random() < 0.3:
        script.parts = script.parts[: draw.randrange(0, len(script.parts) + 1)]
        script.after = draw.choice(["rst", "cut"])
    return script


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("seed", range(8))
def test_invariants_of_calls_drawn_at_random(kind: str, make_api: Any, replay: Replay, spans: Spans, seed: int) -> None:
    """Whatever the server does and wherever the reader stops: one span a call, phases to the nanosecond."""
    draw = random.Random(f"{kind} {seed}")
    api = make_api(kind, max_retries=2)
    calls = 4
    for _ in range(calls):
        streaming = draw.random() < 0.8
        answer = a_script(draw) if streaming else play.openai_body(metrics=draw.choice([None, play.VLLM_METRICS]))
        replay.play(*[play.too_many(3)] * draw.choice([0, 0, 0, 1, 2]), answer)
        try:
            stream = api.stream() if streaming else api.create()
            if not streaming:
                continue
            time.sleep(draw.choice([0, 0, 0.01]))
            end = draw.choice(["drain", "drain", "drop", "close", "with"])
            if end == "drain":
                api.drain(stream)
            elif end == "with":
                with api.entered(stream):
                    api.take(stream, draw.randrange(1, 8))
            else:
                if draw.random() < 0.8:
                    api.take(stream, draw.randrange(1, 8))
                if end == "close":
                    api.close(stream)
            del stream
        except LOST:
            pass
    gc.collect()
    api.collect()
    spans.flush()
    assert len(spans.parents()) == calls
    spans.check_all()
    ids = [span.context.span_id for span in spans.finished()]
    assert len(ids) == len(set(ids))
    roots = [span for span in spans.finished() if span.parent is None]
    assert len(roots) == calls, "no stray spans"


@pytest.mark.usefixtures("traced")
def test_a_long_stream(api: Sync, replay: Replay, spans: Spans) -> None:
    """Longer than any block or sample kept: counts stay exact."""
    words = ["w"] * 2500
    events = play.sse(*play.openai_chunks(words))
    parts = [(0.0, b"".join(events[i : i + 100])) for i in range(0, len(events), 100)]
    replay.play(play.Script(200, play.SSE_HEADERS, parts))
    assert len(api.drain(api.stream())) == 2502
    attrs = attributes(spans.one("completed"))
    assert attrs.get("llmtrace.stream.chunks", 2502) == 2502


@pytest.mark.usefixtures("traced")
def test_nothing_is_said_that_was_not_measured(api: Sync, replay: Replay, spans: Spans) -> None:
    """No usage, no server timings: no token counts, no rates, no split."""
    replay.play(openai_stream(itl=0.002), play.openai_body(usage=None))
    api.drain(api.stream())
    api.create()
    spans.check_all()
    for span in spans.parents():
        assert not [name for name in attributes(span) if name.startswith("gen_ai.usage")]
        for phase in spans.phases(span).values():
            attrs = attributes(phase)
            assert attrs["llmtrace.phase.source"] == "client"
            assert "llmtrace.phase.tokens" not in attrs
            assert "llmtrace.phase.time_per_token" not in attrs
        assert not {"queue", "prefill", "kv_cache_hit"} & set(spans.phases(span))
        assert outcome(span) == "completed"
