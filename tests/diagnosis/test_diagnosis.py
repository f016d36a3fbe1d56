"""The diagnosis by itself: the golden slow turn, singles, pairs, and silence."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import replace

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.history import REFRESH, WINDOW, Changes, Level, Line
from llmtrace.diagnosis.models import same_model
from llmtrace.diagnosis.repetition import repetition
from llmtrace.diagnosis.symptoms import Symptoms, symptoms_of
from llmtrace.observe.answer import Usage
from llmtrace.phases.observation import Observation
from tests.evaluation.diagnosis.traffic import Faults, Traffic, both, draw_habits, single


def turn(number: int, cached: int, wait: float) -> Symptoms:
    begin = number * 20_000_000_000
    return Symptoms(begin, begin + 5_000_000_000, wait=wait, input_tokens=28_000, cached_tokens=cached, tokens=40)


def test_the_slow_turn_is_a_cold_cache_with_its_prefill_rate() -> None:
    diagnoser = Diagnoser()
    for number in range(11):
        assert diagnoser.judge("route", turn(number, 27_800, 0.8)) == []
    (verdict,) = diagnoser.judge("route", turn(11, 0, 3.4))
    assert verdict.cause == causes.COLD_KV_CACHE
    assert verdict.per_token == pytest.approx(94e-6, rel=0.02)
    assert verdict.observed == 0


def episode(cause: list[str], seed: int) -> Counter[str]:
    """How often each cause was named over an episode of twelve calls, after ninety calm ones."""
    draw = random.Random(seed)
    habits = draw_habits(draw, told=False)
    habits.shared, habits.early_headers = 16_000, True
    habits.rtt = 0.02
    traffic, diagnoser = Traffic(habits, draw), Diagnoser()
    for _ in range(90):
        diagnoser.judge("route", traffic.call(Faults()).facts)
    faults = Faults()
    for name in cause:
        faults = both(faults, single(name, draw, habits))
    if faults.moved is not None:
        traffic.move(faults.moved)
    return Counter(verdict.cause for _ in range(12) for verdict in diagnoser.judge("route", traffic.call(faults).facts))


@pytest.mark.parametrize("cause", causes.CAUSES)
def test_a_single_cause_is_named(cause: str) -> None:
    right = sum(
        episode([cause], seed).most_common(1)[:1] != [] and episode([cause], seed)[cause] >= 6 for seed in range(3)
    )
    assert right >= 2


@pytest.mark.parametrize(
    "pair",
    [
        (causes.PREFILL_SURGE, causes.NOISY_NEIGHBOR),
        (causes.COLD_KV_CACHE, causes.SLOW_CONSUMER),
        (causes.RETRY_STORM, causes.QUEUEING),
    ],
    ids=" and ".join,
)
def test_both_of_a_pair_are_named(pair: tuple[str, str]) -> None:
    assert sum(min(episode(list(pair), seed)[cause] for cause in pair) >= 6 for seed in range(3)) >= 2


def test_an_answer_without_the_usual_hidden_reasoning_is_no_slower() -> None:
    """Its tokens came at the pace of all others: reasoning that no stream showed was none of them."""
    diagnoser, draw, step = Diagnoser(), random.Random(5), 10_000_000
    for number in range(80):
        hidden = 0 if number % 40 == 39 else draw.randint(400, 800)
        begin = number * 20_000_000_000
        gaps = [round(step * draw.uniform(0.9, 1.1)) for _ in range(40)]
        first = begin + 300_000_000
        last = first + sum(gaps)
        seen = Observation(begin, last, True, first_token=first, last_chunk=last, chunks=41, gaps=gaps)
        seen.usage = Usage(500, 41 + hidden, 0, reasoning_tokens=hidden)
        assert diagnoser.judge("route", symptoms_of(seen, gaps)) == [], number


@pytest.mark.parametrize("bimodal", [False, True])
def test_calm_traffic_is_silent(bimodal: bool) -> None:
    named = 0
    for seed in range(4):
        draw = random.Random(seed)
        traffic, diagnoser = Traffic(draw_habits(draw, bimodal=bimodal), draw), Diagnoser()
        named += sum(len(diagnoser.judge("route", traffic.call(Faults()).facts)) for _ in range(150))
    assert named <= 3


def test_a_level_has_room_for_a_second_mode_and_learns_no_incident() -> None:
    level = Level(0.01)
    draw = random.Random(1)
    for _ in range(200):
        value = draw.gauss(0.1, 0.005) + (0.35 if draw.random() < 0.14 else 0)
        score = level.score(value)
        level.learn(value, level.beyond(score))
    assert level.score(0.45) < 1 < level.score(0.8)
    before = level.mid, level.room
    for _ in range(20):
        level.learn(2.0, True)
    level.learn(0.1, False)
    assert level.score(2.0) > 1
    assert (level.mid, level.room) == pytest.approx(before, rel=0.2)


def test_a_level_takes_in_a_new_regime() -> None:
    level = Level(0.01)
    for _ in range(60):
        level.learn(0.1, False)
    for _ in range(48):
        level.learn(0.5, level.beyond(level.score(0.5)))
    assert level.mid == 0.5


def test_a_line_finds_the_slope_and_none_without_spread() -> None:
    draw = random.Random(2)
    line, flat = Line(0.01, 0.25), Line(0.01, 0.25)
    for _ in range(100):
        tokens = draw.uniform(200, 3000)
        line.learn((tokens, 0.1 + 1e-4 * tokens + draw.gauss(0, 0.002)), False)
        flat.learn((500.0, draw.gauss(0.2, 0.01)), False)
    assert line.slope == pytest.approx(1e-4, rel=0.05)
    assert line.usual(1000) == pytest.approx(0.2, rel=0.05)
    assert flat.slope == 0


def test_memory_is_bounded() -> None:
    diagnoser = Diagnoser(routes=4)
    for number in range(40):
        diagnoser.judge(number % 10, turn(number, 100, 0.5))
    assert len(diagnoser) == 4
    level = Level(0.1)
    for number in range(2000):
        level.learn(float(number % 7), number % 3 == 0)
    assert level.count < WINDOW + REFRESH


def test_threads_may_judge_at_once() -> None:
    diagnoser, failures = Diagnoser(), list[BaseException]()

    def work() -> None:
        try:
            for number in range(200):
                diagnoser.judge("route", turn(number, 27_800, 0.8))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-mini", "gpt-4o", False),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet-20241022", True),
        ("models/gemini-1.5-pro", "gemini-1.5-pro-002", True),
        ("deepseek-v2", "deepseek-v3", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct-Turbo", False),
        ("openrouter/auto", "anthropic/claude-sonnet-4", True),
    ],
)
def test_the_same_model_in_other_words(asked: str, answered: str, same: bool) -> None:
    assert same_model(asked, answered) is same


def test_repetition() -> None:
    loop = repetition(["and ", "then ", "the river ", "turned. "] * 12)
    assert loop is not None
    assert loop.period == len("and then the river turned. ")
    assert loop.rounds >= 3
    assert repetition([f"item {number}, " for number in range(40)]) is None
    assert repetition(["short "] * 3) is None
    assert repetition([]) is None


def test_flapping_names_surprise_nobody() -> None:
    names = Changes()
    draw = random.Random(3)
    for _ in range(200):
        names.learn(draw.choice("abc"))
    assert max(names.surprise(name) for name in "abc") < 1
    assert names.surprise("new") > 3


@pytest.mark.parametrize("told", [0, None])
def test_a_cold_cache_is_named_though_the_first_call_had_no_hit(told: int | None) -> None:
    diagnoser = Diagnoser()
    for number in range(12):
        assert diagnoser.judge("route", turn(number, 27_800 if number else 0, 0.8 if number else 3.4)) == []
    cold = turn(12, 0, 3.4)
    cold.cached_tokens = told  # some servers leave the count out where nothing was cached
    assert [verdict.cause for verdict in diagnoser.judge("route", cold)] == [causes.COLD_KV_CACHE]


def test_a_network_of_two_modes_is_silent_from_its_first_visit_on() -> None:
    draw = random.Random(5)
    diagnoser = Diagnoser()
    for number in range(400):
        slow = number > 31 and draw.random() < 0.14
        begin = number * 10**9
        wait = 0.3 + draw.uniform(0, 0.01) + 0.35 * slow
        facts = Symptoms(begin, begin + 10**8, wait=wait, input_tokens=100, headers=wait - 0.2)
        verdicts = diagnoser.judge("route", facts)
        assert verdicts == [] or (number < 64 and slow), (number, verdicts)


def test_bursts_are_seen_through_an_application_that_takes_a_moment_with_each_chunk() -> None:
    draw = random.Random(77)
    habits = draw_habits(draw, told=False)
    habits.hold = 0.0005
    traffic, diagnoser = Traffic(habits, draw), Diagnoser()
    for _ in range(90):
        diagnoser.judge("route", traffic.call(Faults()).facts)
    named = Counter(
        v.cause for _ in range(8) for v in diagnoser.judge("route", traffic.call(Faults(buffered="bursts")).facts)
    )
    assert named[causes.BUFFERED_STREAM] == 7, "one such call is chance: the application got no core"


def test_headers_that_were_held_back_with_the_stream_are_no_network() -> None:
    draw = random.Random(3)
    habits = draw_habits(draw, told=False)
    habits.early_headers = True
    traffic, diagnoser = Traffic(habits, draw), Diagnoser()
    for _ in range(90):
        diagnoser.judge("route", traffic.call(Faults()).facts)
    for number in range(4):
        made = traffic.call(Faults(buffered="whole"))
        held = symptoms_of(replace(made.seen, headers=made.seen.first_token), made.gaps)
        held.unread = 0.0
        named = [v.cause for v in diagnoser.judge("route", held)]
        assert named == ([causes.BUFFERED_STREAM] if number else [])
    for _ in range(4):
        facts = traffic.call(Faults(buffered="bursts")).facts
        facts.headers = facts.wait
        assert [v.cause for v in diagnoser.judge("route", facts)] == [causes.BUFFERED_STREAM]
