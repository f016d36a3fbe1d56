"""The simpler methods on calls that were made up so that the right answer is known."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.evaluation.phases import methods, scoring
from tests.evaluation.phases.measured import Claim, Measured, Truth

ADMITTED = 0.004


def made_up(queued_share: float, seed: int = 1, count: int = 300) -> list[Measured]:
    """Calls whose prefill is 5 ms + 0.1 ms a token; some wait for 30 to 100 ms before."""
    draw = random.Random(seed)
    found: list[Measured] = []
    for number in range(count):
        tokens = round(32 * 64 ** draw.random())
        prefill = 0.005 + 0.0001 * tokens
        queue = draw.uniform(0.03, 0.1) if draw.random() < queued_share else 0.0
        first = ADMITTED + queue + prefill
        found.append(
            Measured(
                cell="made up",
                began=float(number),
                warm=True,
                sent=0.001,
                headers=ADMITTED,
                event=first,
                first=first,
                end=first + 0.1,
                rtt=0.0002,
                prompt=tokens + 10,
                cached=10,
                output=8 + number % 16,
                truth=Truth(queue, prefill, 0.1),
                claim=Claim(0.0, queue, prefill, 0.1),
            )
        )
    return found


def whole(calls: list[Measured]) -> list[Measured]:
    """The same calls not streamed; each output token takes 10 ms."""
    return [replace(call, first=None, end=(call.first or 0.0) + 0.01 * call.output) for call in calls]


def error(calls: list[Measured], claims: list[Claim], phase: str) -> float:
    errors = scoring.errors(list(zip(calls, claims, strict=True)), phase)
    assert errors is not None
    return errors.share


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("streamed", [True, False])
def test_the_pieces_add_up(name: str, streamed: bool) -> None:
    calls = made_up(0.3) if streamed else whole(made_up(0.3))
    for call, claim in zip(calls, methods.METHODS[name](calls, True), strict=True):
        if name == methods.BY_HEADERS and not streamed:
            assert (claim.queue, claim.prefill) == (None, None), "a whole answer's headers tell nothing"
            continue
        assert claim.queue is not None
        assert claim.prefill is not None
        assert claim.decode is not None
        assert min(claim.network, claim.queue, claim.prefill, claim.decode) >= 0
        assert claim.network + claim.queue + claim.prefill + claim.decode == pytest.approx(call.end)


def test_the_envelope_finds_the_edge_below_the_queue() -> None:
    calls = made_up(0.4)
    claims = methods.envelope(calls, True)
    assert error(calls, claims, "queue") < 0.01
    assert error(calls, claims, "prefill") < 0.01


def test_the_envelope_so_far_knows_no_later_calls() -> None:
    calls = made_up(0.4)
    claims = methods.envelope_so_far(calls, True)
    assert methods.envelope_so_far(calls[:200], True) == claims[:200]
    assert methods.envelope(calls[:200], True) != methods.envelope(calls, True)[:200]
    assert error(calls[100:], claims[100:], "queue") < 0.01


def test_least_squares_is_biased_by_the_queue() -> None:
    calls = made_up(0.4)
    assert error(calls, methods.least_squares(calls, True), "prefill") > 0.1
    calm = made_up(0.0)
    assert error(calm, methods.least_squares(calm, True), "prefill") < 0.01


def test_all_prefill_misses_the_whole_queue() -> None:
    calls = made_up(0.4)
    claims = methods.all_prefill(calls, True)
    assert all(claim.queue == 0 for claim in claims)
    assert claims[0].prefill == pytest.approx(calls[0].scale - 0.001 - 0.0001)


def test_no_queue_gives_what_is_above_the_curve_to_nobody() -> None:
    calls = made_up(0.4)
    claims, curve = methods.no_queue(calls, True), methods.least_squares(calls, True)
    assert all(claim.queue == 0 for claim in claims)
    assert [claim.prefill for claim in claims] == [claim.prefill for claim in curve]


def test_a_whole_answer_is_told_apart_by_its_output() -> None:
    calls = whole(made_up(0.0))
    claims = methods.envelope(calls, True)
    for call, claim in zip(calls, claims, strict=True):
        assert claim.decode == pytest.approx(0.01 * call.output, rel=0.02)


def test_by_headers() -> None:
    call = made_up(0.0, count=1)[0]
    claim = methods.by_headers([call], True)[0]
    assert claim.queue == pytest.approx(ADMITTED - 0.001 - 0.0002)
    assert claim.prefill == pytest.approx(call.scale - ADMITTED)
    unseen = methods.by_headers([replace(call, headers=None)], True)[0]
    assert unseen.queue == pytest.approx(0, abs=1e-3)
