"""Routes whose calls were all alike: no spread to measure by, and still neither a crash nor a hair trigger."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.history import MIN_CALLS, Level, Line
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import BUFFERED_STREAM, NETWORK, NOISY_NEIGHBOR, QUEUEING, Verdict

SECOND = 10**9
STEADY = Symptoms(
    0,
    SECOND,
    wait=0.2,
    headers=0.05,
    setup=0.01,
    rtt=0.002,
    input_tokens=500,
    cached_tokens=0,
    expected_cached=0,
    decode=0.4,
    tokens=41,
    reading=0.4,
    gap=0.01,
    mean_gap=0.01,
    burst=0.01,
    asked="m",
    answered="m",
    fingerprint="fp",
)
seconds = st.sampled_from([0.0, 1e-9, 1e-6, 0.001, 0.02, 0.2, 3.0, 3600.0])
maybe = st.none() | seconds
counts = st.sampled_from([0, 1, 16, 17, 500, 128_000, 2**53])
alike = st.builds(
    Symptoms,
    begin=st.just(0),
    end=st.just(SECOND),
    wait=maybe,
    headers=maybe,
    setup=maybe,
    rtt=maybe,
    server_queue=maybe,
    server_prefill=maybe,
    input_tokens=st.none() | counts,
    cached_tokens=st.none() | counts,
    expected_cached=st.none() | counts,
    decode=maybe,
    tokens=counts,
    consumer_wait=seconds,
    reading=seconds,
    gap=maybe,
    mean_gap=maybe,
    burst=seconds,
    buffered=st.booleans(),
    attempts=st.sampled_from([1, 2, 5]),
    others_open=st.sampled_from([0, 1, 300]),
    fingerprint=st.sampled_from([None, "fp", "other"]),
)


def played(diagnoser: Diagnoser, symptoms: Symptoms, number: int) -> list[Verdict]:
    return diagnoser.judge("route", replace(symptoms, begin=number * SECOND, end=number * SECOND + SECOND // 2))


def calm(symptoms: Symptoms = STEADY, calls: int = 2 * MIN_CALLS) -> Diagnoser:
    diagnoser = Diagnoser()
    for number in range(calls):
        assert played(diagnoser, symptoms, number) == []
    return diagnoser


@given(usual=alike, then=st.lists(alike, min_size=1, max_size=8))
def test_whatever_follows_calls_that_were_all_alike_is_judged_in_numbers(usual: Symptoms, then: list[Symptoms]) -> None:
    diagnoser = Diagnoser()
    for number, symptoms in enumerate([*[usual] * (MIN_CALLS + 2), *then, usual]):
        for verdict in played(diagnoser, symptoms, number):
            assert 0 <= verdict.confidence <= 1
            for number_told in (verdict.observed, verdict.expected, verdict.excess, verdict.per_token):
                assert not isinstance(number_told, float) or math.isfinite(number_told), verdict


@given(value=seconds, then=seconds, x=counts)
def test_scores_are_numbers(value: float, then: float, x: int) -> None:
    level, line = Level(0.0), Line(0.0, 0.2)
    for _ in range(MIN_CALLS):
        level.learn(value, False)
        line.learn((float(x), value), False)
    for score in (level.score(then), line.score(float(x), then), line.score(2.0 * x + 1, then)):
        assert math.isfinite(score)
    assert level.score(value) == pytest.approx(0.0, abs=1e-3)


def test_a_call_like_all_others_and_one_that_differs_by_rounding_are_calm() -> None:
    diagnoser = calm()
    for number in range(100, 200):
        off = 1 + 1e-9 * (number % 7)
        wobble = replace(STEADY, wait=0.2 * off, decode=0.4 * off, headers=0.05 * off, rtt=0.002 * off)
        assert played(diagnoser, wobble, number) == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"wait": 0.6}, QUEUEING),
        ({"decode": 1.2, "reading": 1.2}, NOISY_NEIGHBOR),
        ({"wait": 0.5, "headers": 0.35}, NETWORK),
        ({"buffered": True, "segments": 2, "behind_headers": 20, "wait": None, "decode": None}, BUFFERED_STREAM),
    ],
)
def test_three_times_as_long_as_ever_before_is_found(change: dict[str, object], cause: str) -> None:
    diagnoser = calm()
    odd = replace(STEADY, **change)  # type: ignore[arg-type]
    causes = [verdict.cause for number in (100, 101) for verdict in played(diagnoser, odd, number)]
    assert causes.count(cause) >= 1
    assert set(causes) == {cause}


def test_streams_that_always_came_in_one_piece_have_no_pace_to_be_slower_than() -> None:
    diagnoser = calm(replace(STEADY, decode=0.0, reading=0.0, gap=None, mean_gap=None))
    assert played(diagnoser, replace(STEADY, decode=1.0, reading=1.0), 100) == []
