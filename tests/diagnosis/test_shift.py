"""Small effects that stay: ranks that add up, answers in one piece, and how sure a verdict is."""

from __future__ import annotations

import random

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.shift import LEAST, REGIME, WINDOW, Shift
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import CAUSES, LATENESS, Verdict, sure
from llmtrace.diagnosis.whole import Plane, slow_tokens


def test_values_alike_raise_few_alarms_whatever_their_distribution() -> None:
    draw, shift = random.Random(1), Shift()
    drawn = [draw.paretovariate(1.2) if draw.random() < 0.3 else 0.0 for _ in range(20_000)]
    assert sum(shift.high(value) for value in drawn) <= 10


def test_three_values_above_all_before_are_enough_and_one_is_not() -> None:
    draw, shift = random.Random(2), Shift()
    for _ in range(WINDOW):
        shift.high(draw.random())
    assert [shift.high(1.5) for _ in range(4)] == [False, False, True, True]
    assert not shift.high(0.5)
    assert not any(shift.high(draw.random()) for _ in range(40)), "it ends with the incident"
    assert [shift.high(1.5) for _ in range(4)] == [False, False, True, True], "which was not learned"


def test_an_incident_is_over_with_the_first_value_that_is_as_usual() -> None:
    draw, shift = random.Random(4), Shift()
    for _ in range(WINDOW):
        shift.high(draw.random())
    assert [shift.high(1.5) for _ in range(8)][-1]
    assert not shift.high(0.5)
    assert not any(shift.high(value) for value in (0.97, 0.99, 0.98)), "of which no three are an incident"


def test_what_stays_becomes_the_usual() -> None:
    draw, shift = random.Random(3), Shift()
    for _ in range(60):
        shift.high(draw.random())
    for _ in range(REGIME):
        shift.high(1.5 + draw.random())
    assert not any(shift.high(1.5 + draw.random()) for _ in range(30))


def test_nothing_is_said_of_few_values() -> None:
    shift = Shift()
    assert not any(shift.high(float(number)) for number in range(LEAST))


def whole(number: int, prompt: int, output: int, taken: float) -> Symptoms:
    begin = number * 20_000_000_000
    return Symptoms(begin, begin + int(taken * 1e9), whole=True, input_tokens=prompt, cached_tokens=0, tokens=output)


def answers(draw: random.Random, late: float = 0.0, slower: float = 1.0) -> tuple[int, int, float]:
    prompt, output = draw.randint(60, 900), draw.choice((8, 20, 60))
    prefill, decode = 0.05 + 2e-4 * prompt, 0.01 * output * slower
    return prompt, output, late + (prefill + decode) * draw.uniform(0.95, 1.05)


@pytest.mark.parametrize(
    ("late", "slower", "cause"), [(0.4, 1.0, causes.QUEUEING), (0.0, 2.0, causes.NOISY_NEIGHBOR), (0.0, 1.0, None)]
)
def test_several_whole_answers_show_whether_they_waited_or_their_tokens_were_slow(
    late: float, slower: float, cause: str | None
) -> None:
    draw, diagnoser = random.Random(4), Diagnoser()
    for number in range(70):
        assert diagnoser.judge("route", whole(number, *answers(draw))) == []
    named = [diagnoser.judge("route", whole(100 + number, *answers(draw, late, slower))) for number in range(8)]
    if cause is None:
        assert not any(named)
        return
    assert all(verdicts and verdicts[0].cause == cause for verdicts in named[4:])
    first = next(verdicts for verdicts in named if verdicts)
    assert first[0].quantity == LATENESS
    assert "does not show which" in (first[0].reason or "")


def test_a_plane_knows_what_prompts_and_answers_cost_and_bears_ones_that_are_all_alike() -> None:
    draw, plane, flat = random.Random(5), Plane(0.01), Plane(0.01)
    for _ in range(100):
        prompt, output = draw.uniform(10, 1000), draw.uniform(5, 50)
        plane.learn((prompt, output, 0.1 + 1e-3 * prompt + 0.02 * output), False)
        flat.learn((100.0, 10.0, 0.5), False)
    assert plane.usual(500, 20) == pytest.approx(0.1 + 0.5 + 0.4, rel=0.02)
    assert flat.usual(100, 10) == pytest.approx(0.5)
    assert flat.score(100, 10, 0.8) > 1


def test_late_answers_of_one_length_do_not_show_why() -> None:
    assert slow_tokens([(0.4, 20)] * 6) is None
    assert slow_tokens([(0.4, 8), (0.4, 60)]) is None
    assert slow_tokens([(0.4, 8), (0.41, 60), (0.39, 20)]) is False
    assert slow_tokens([(0.08, 8), (0.61, 60), (0.2, 20)]) is True


@pytest.mark.parametrize("cause", CAUSES)
def test_confidence_rises_with_the_evidence_and_with_the_calls_that_agree(cause: str) -> None:
    weak, strong = Verdict(cause, 1.0, "anything", 1.0), Verdict(cause, 4.0, "anything", 1.0)
    assert 0 < sure(weak, 0) < sure(strong, 0) <= 0.99
    assert sure(weak, 0) <= sure(weak, 1) <= sure(weak, 3) == sure(weak, 8)


def test_a_slow_decode_is_told_when_the_next_one_agrees() -> None:
    draw, diagnoser = random.Random(6), Diagnoser()

    def call(number: int, each: float) -> Symptoms:
        begin = number * 10**10
        decode = each * 39 * draw.uniform(0.95, 1.05)
        return Symptoms(begin, begin + 2 * 10**9, wait=0.2, input_tokens=300, tokens=40, decode=decode, reading=decode)

    for number in range(70):
        assert diagnoser.judge("route", call(number, 0.01)) == []
    assert diagnoser.judge("route", call(100, 0.016)) == [], "a lone one is mostly chance"
    later = [diagnoser.judge("route", call(101 + number, 0.016)) for number in range(4)]
    sure_of = [verdicts[0].confidence for verdicts in later]
    assert max(sure_of[:2]) < min(sure_of[2:])
    assert sure_of[-1] > 0.9


def test_a_long_answer_that_is_late_by_the_same_share_is_later_than_a_short_one() -> None:
    plane, draw = Plane(0.02, 0.25), random.Random(3)
    for _ in range(40):
        prompt, output = draw.uniform(100, 900), draw.uniform(5, 60)
        plane.take((prompt, output, 0.05 + 2e-4 * prompt + 0.01 * output))
    short, long = plane.ref, 4 * plane.ref
    assert plane.lateness(long, 1.5 * long) == pytest.approx(2 * plane.lateness(short, 1.5 * short))
    assert plane.lateness(short / 4, short / 4 + 0.1) == pytest.approx(plane.lateness(short, short + 0.1)), (
        "below the usual time a second is a second"
    )
