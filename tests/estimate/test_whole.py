"""Whole answers, of which only the end is seen: split where the route's calls show how, silent where they do not."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from statistics import fmean

import pytest

from llmtrace.estimate.baselines import Baselines, InFlight
from llmtrace.estimate.curve import ANSWER, TERMS, Curve, answer_terms, terms
from llmtrace.estimate.expectation import Model
from llmtrace.estimate.sample import Sample
from llmtrace.phases.model import NARROW_SPREAD, Estimate, Unknown
from tests.evaluation.phases import replay, simulated
from tests.support.effort import seeds
from tests.support.engine_sim import Engine, Simulated, poisson

ENGINE = Engine(slots=4, step=0.004, per_token=1e-4, per_stream=0.0008, budget=512, admission=0.004, hop=0.003)
_ZERO = 10**12


def play(calls: Sequence[Simulated], streams: int = 0) -> list[Estimate | Unknown]:
    """What is said of each call, all of them whole answers but for the first ``streams``."""
    known, key = Baselines(background=False), "route"
    moments = sorted(
        (moment, order, number)
        for number, call in enumerate(calls)
        for moment, order in ((call.sent, 2), (call.first, 1), (call.end, 0))
        if order != 1 or number < streams
    )
    flying: dict[int, InFlight] = {}
    made: list[Estimate | Unknown] = []
    order_of: list[int] = []
    for moment, order, number in moments:
        call, at = calls[number], _ZERO + round(moment * 1e9)
        if order == 2:
            flying[number] = known.begin(key, at, 4 * call.uncached)
        elif order == 1:
            flying[number].first_token_came(at)
        else:
            start, whole = _ZERO + round(call.sent * 1e9), number >= streams
            first = at if whole else _ZERO + round(call.first * 1e9)
            headers = None if whole else _ZERO + round(call.headers * 1e9)
            sample = Sample(start, first, at, call.uncached, 0, headers, tokens=call.output, whole=whole)
            made.append(known.end(key, flying.pop(number), at, sample))
            order_of.append(number)
    back = {number: at for at, number in enumerate(order_of)}
    return [made[back[number]] for number in range(len(calls))]


def errors(calls: Sequence[Simulated], estimates: Sequence[Estimate | Unknown]) -> tuple[float, float, float, float]:
    """Share that was split, and mean error of queue, prefill and decode over the mean total, after 60 calls."""
    late = list(zip(calls, estimates, strict=True))[60:]
    told = [(call, one) for call, one in late if isinstance(one, Estimate)]
    total = sum(call.end - call.sent for call, _ in told)
    queue = sum(abs(one.queue + one.step_wait - (call.queue + call.noticed - call.arrived)) for call, one in told)
    prefill = sum(abs(one.prefill - call.prefill) for call, one in told)
    decode = sum(abs((one.decode or 0.0) - (call.end - call.first)) for call, one in told)
    return len(told) / len(late), queue / total, prefill / total, decode / total


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("rate", [4, 9])
def test_alone_whole_answers_are_split(rate: float, seed: int) -> None:
    calls = poisson(seed, 220, rate, longest=1800, outputs=(8, 16, 32, 64))
    ENGINE.run(calls, seed)
    share, queue, prefill, decode = errors(calls, play(calls))
    assert share >= 0.8
    assert queue <= 0.15
    assert prefill <= 0.10
    assert decode <= 0.20


def test_streams_of_the_route_teach_its_whole_answers() -> None:
    calls = poisson(5, 220, 9, longest=1800, outputs=(8, 16, 32, 64))
    ENGINE.run(calls, 5)
    _, queue, prefill, decode = errors(calls, play(calls, streams=50))
    assert max(queue, prefill, decode) <= 0.12


def test_the_parts_add_up_and_are_not_negative() -> None:
    calls = poisson(6, 160, 9, longest=1800, outputs=(8, 64))
    ENGINE.run(calls, 6)
    for call, one in zip(calls, play(calls), strict=True):
        if isinstance(one, Estimate):
            assert min(one.queue, one.step_wait, one.prefill, one.decode or 0.0) >= 0.0
            whole = one.admission + one.step_wait + one.queue + one.prefill + (one.decode or 0.0)
            assert whole == pytest.approx(call.end - call.sent, abs=1e-6)


def test_answers_of_one_length_do_not_show_what_a_token_takes() -> None:
    calls = poisson(7, 120, 3, longest=1800, outputs=(16,))
    ENGINE.run(calls, 7)
    last = play(calls)[-1]
    assert isinstance(last, Unknown)
    assert last.reason == NARROW_SPREAD
    assert "answers of different lengths" in last.detail


def test_what_the_prompt_is_too_long_by_the_answer_is_too_short_by() -> None:
    """Where the curve could as well give the time to the one as to the other, the sum is sure and neither part is."""
    doubt = array("d", bytes(8 * TERMS * TERMS))
    token, output = 1, ANSWER
    doubt[token * TERMS + token] = 1e-10
    doubt[output * TERMS + output] = 1e-8
    doubt[token * TERMS + output] = doubt[output * TERMS + token] = -1e-9
    model = Model(Curve(0.01, 1e-4, 0.0, 0.0, 0.1, 0.2, per_output=1e-3, knows_answers=True), 0.1, 0.001, doubt=doubt)
    prompt, answer, both = model.parts((*terms(1000, 0), *answer_terms(100, 0, 0)))
    assert (prompt, answer, both) == pytest.approx((1e-4, 1e-4, -1e-4))
    assert model.answer_sd((*terms(1000, 0), *answer_terms(100, 0, 0))) == pytest.approx(0.0, abs=1e-6)


def test_the_way_to_a_crowded_engine_does_not_grow_with_each_fit() -> None:
    cell = next(each for each in simulated.cells() if each.key.endswith("chunks of 256, 8 slots|whole 0.9"))
    calls = [call for call in replay.play(simulated.trips(cell, 2), cell.key, 100, replay.Place()) if call.warm]
    off = [(call.truth.queue or 0.0) - (call.claim.value("queue") or 0.0) for call in calls]
    assert fmean(off) < 0.08 * fmean(call.end for call in calls)  # or its waits would be told as the way, ever more
