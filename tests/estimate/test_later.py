"""What a call teaches is learned behind the caller's back: never where it stands, never without bound."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from llmtrace.estimate import baselines as under_test
from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.route import Route
from llmtrace.estimate.sample import Sample
from llmtrace.phases.model import Estimate, Unknown

MS = 1_000_000
KEY = ("openai", "gateway", 443, "tiny", "chat")


def call(known: Baselines, at: int, tokens: int, work: float, upstream: str | None = None) -> Estimate | Unknown:
    """A stream that begins at ``at`` (ns) and gets its first token ``work`` s later."""
    first = at + int(work * 1e9)
    in_flight = known.begin(KEY, at, 4 * tokens)
    in_flight.first_token_came(first)
    sample = Sample(at, first, first + 50 * MS, tokens, headers=at + 5 * MS, tokens=10)
    return known.end(KEY, in_flight, sample.end, sample, upstream=upstream)


def test_the_caller_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    learn = Route.learn
    monkeypatch.setattr(
        Route, "learn", lambda route, lesson: (threads.append(threading.current_thread().name), learn(route, lesson))
    )
    known, draw = Baselines(), random.Random(1)
    for number in range(40):
        tokens = round(2 ** draw.uniform(5, 10))
        call(known, number * 1000 * MS, tokens, 0.01 + 1e-4 * tokens)
    assert set(threads) <= {"llmtrace-baseline"}
    assert known.settle()
    assert len(threads) == 40
    route = known.route(KEY)
    assert route is not None
    assert (route.points, route.curve is not None) == (40, True)


def test_what_comes_faster_than_the_thread_learns_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test.Fitter, "ask", lambda *_: None)
    known = Baselines()
    for number in range(2 * under_test._LATER):
        call(known, number * 1000 * MS, 100, 0.02)
    assert len(known._later) == under_test._LATER


@pytest.mark.parametrize("told", [True, False])
def test_each_upstream_of_a_gateway_has_a_curve_of_its_own(told: bool) -> None:
    """One takes three times as long over a prompt as the other, at random; nothing ever waits."""
    known, draw = Baselines(background=False), random.Random(2)
    off: list[float] = []
    for number in range(200):
        tokens, slow = round(2 ** draw.uniform(5, 10)), draw.random() < 0.5
        work = (0.01 + 1e-4 * tokens) * (3 if slow else 1) * draw.gauss(1, 0.03)
        made = call(known, number * 1000 * MS, tokens, work, ("slow" if slow else "fast") if told else None)
        if number >= 120 and isinstance(made, Estimate):
            off.append(made.queued / work)
    assert len(off) > 40
    mean = sum(off) / len(off)
    assert mean < 0.06 if told else mean > 0.15, "without the word of it, slow prompts look like a queue"


def test_one_upstream_is_no_reason_for_a_second_route() -> None:
    known = Baselines(background=False)
    for number in range(10):
        call(known, number * 1000 * MS, 100, 0.02, "only")
    assert known.route((*KEY, "upstream=only")) is None
    call(known, 10**13, 100, 0.02, "another")
    assert known.route((*KEY, "upstream=another")) is not None


def test_after_a_restart_intervals_are_as_they_were(tmp_path: Path) -> None:
    """What the last calls of a busy hour do not show any more comes from the file: the calm calls before it, and how
    the estimate was graded."""
    path, draw = tmp_path / "baseline.json", random.Random(3)
    before = Baselines(background=False, path=path)
    for number in range(160):
        tokens = round(2 ** draw.uniform(5, 10))
        wait = draw.expovariate(4) if number > 70 else 0.0
        call(before, number * 5000 * MS, tokens, (0.01 + 1e-4 * tokens) * draw.gauss(1, 0.05) + wait)
    for _ in range(20):
        before.graded(KEY, -0.02, 0.01, 0.01 * before._routes[KEY].calibration.factor)
    assert before.save()
    after = Baselines(background=False, path=path)
    was, now = before.route(KEY), after.route(KEY)
    assert was is not None
    assert now is not None
    assert was.model is not None
    assert now.model is not None
    assert len(now._calm) == len(was._calm) > 0
    assert now.calibration.factor == pytest.approx(was.calibration.factor, rel=1e-3)
    assert now.model.curve.cost(500) == pytest.approx(was.model.curve.cost(500), rel=0.1)
    assert now.model.noise == pytest.approx(was.model.noise, rel=0.5)
