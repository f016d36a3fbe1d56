"""Objectives set where the calls are made: on spans, in metrics, in the request's headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay, openai_body, openai_stream, server_error
from tests.support.spans import Metrics, Spans, attributes


def values(metrics: Metrics, name: str) -> dict[tuple[Any, ...], float]:
    """A counter's values by objective and what else the metric has of its own."""
    found: dict[tuple[Any, ...], float] = {}
    for point in metrics.points(name):
        labels = dict(point.attributes)
        key = tuple(v for k, v in sorted(labels.items()) if k.startswith("llmtrace."))
        found[key] = point.value
    return found


@pytest.fixture
def slow_one(make_api: Callable[..., Sync], clock: Clock) -> Sync:
    api = make_api("sync")
    pace(api, clock, [0.04, *[0.004] * 12])
    return api


def test_a_missed_objective_is_told_and_charged(
    tracing: Any, slow_one: Sync, replay: Replay, spans: Spans, metrics: Metrics
) -> None:
    tracing.on(slo_ttft="none*=1e-9,*=0.01", slo_total={"* @ 127.0.0.1:*": 60})
    replay.play(openai_stream(usage=play.USAGE))
    slow_one.drain(slow_one.stream(stream_options={"include_usage": True}))
    told = attributes(spans.one("completed"))
    assert (told["llmtrace.slo.ttft"], told["llmtrace.slo.total"]) == (0.01, 60.0)
    assert told["llmtrace.slo.met"] is False
    assert tuple(told["llmtrace.slo.missed"]) == ("ttft",)
    assert told["llmtrace.slo.excess"] == pytest.approx(told["llmtrace.call.ttft"] - 0.01)
    assert told["llmtrace.slo.blame"] == "unknown", "the route's first call has no floor to be measured by"
    assert values(metrics, "llmtrace.slo.calls") == {
        (False, "ttft"): 1,
        (True, "total"): 1,
        (False, "call"): 1,
    }
    ((labels, seconds),) = values(metrics, "llmtrace.slo.excess").items()
    assert seconds == pytest.approx(told["llmtrace.slo.excess"])
    assert {"unknown", "ttft"} <= set(labels)
    spans.check_all()


def test_once_the_route_is_known_the_slow_phase_is_charged(
    tracing: Any, make_api: Callable[..., Sync], clock: Clock, replay: Replay, spans: Spans
) -> None:
    tracing.on(slo_total=1.0)
    replay.serve(openai_stream(usage=play.USAGE))
    api = make_api("sync")
    for number in range(22):
        pace(api, clock, [0.04, *[2.0 if number == 21 else 0.004] * 12])
        api.drain(api.stream(stream_options={"include_usage": True}))
    told = [attributes(span) for span in spans.parents()]
    assert [each["llmtrace.slo.met"] for each in told] == [True] * 21 + [False]
    assert told[-1]["llmtrace.slo.blame"] == "decode"


def test_the_time_between_tokens_is_that_of_the_shown_ones(
    tracing: Any, slow_one: Sync, replay: Replay, spans: Spans
) -> None:
    """Five steps of 4 ms after the first token; what was thought before it and not shown makes none of them faster."""
    tracing.on(slo_itl=0.001)
    hidden = {"completion_tokens_details": {"reasoning_tokens": 1000}}
    replay.play(openai_stream(usage=play.USAGE | {"completion_tokens": 1006} | hidden))
    slow_one.drain(slow_one.stream(stream_options={"include_usage": True}))
    span = spans.one("completed")
    assert tuple(attributes(span)["llmtrace.slo.missed"]) == ("itl",)
    decode = attributes(spans.phases(span)["decode"])
    assert decode["llmtrace.phase.tokens"] == 6
    assert decode["llmtrace.phase.time_per_token"] > 0.003
    assert attributes(span)["gen_ai.usage.output_tokens"] == 1006


def test_a_failed_call_met_nothing_and_a_whole_answer_has_no_ttft(
    tracing: Any, api: Sync, replay: Replay, spans: Spans, metrics: Metrics
) -> None:
    tracing.on(slo_ttft=1e-6)
    replay.play(openai_body(), server_error())
    api.create()
    with pytest.raises(Exception, match="500"):
        api.create()
    whole, failed = (attributes(span) for span in spans.parents())
    assert "llmtrace.slo.met" not in whole
    assert failed["llmtrace.slo.met"] is False
    assert values(metrics, "llmtrace.slo.calls") == {(False, "call"): 1}


def test_headers_for_llm_d_go_with_every_request_but_over_nobodys_own(tracing: Any, api: Sync, replay: Replay) -> None:
    tracing.on(slo_ttft=0.5, slo_itl=0.02, slo_headers=True)
    replay.serve(openai_body())
    api.create()
    api.create(extra_headers={"X-SLO-TTFT-ms": "7"})
    first, second = ({k.lower(): v for k, v in request.headers.items()} for request in replay.requests)
    assert (first["x-slo-ttft-ms"], first["x-slo-tpot-ms"]) == ("500", "20")
    assert (second["x-slo-ttft-ms"], second["x-slo-tpot-ms"]) == ("7", "20")


def test_without_the_setting_no_header_is_sent(tracing: Any, api: Sync, replay: Replay) -> None:
    tracing.on(slo_ttft=0.5)
    replay.serve(openai_body())
    api.create()
    assert not [name for name in replay.last.headers if "slo" in name.lower()]
