"""Engines that compute parts of several prompts in one step: told by their first tokens, and held by the intervals."""

from __future__ import annotations

import pytest

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.mixture import Habits, Shape, Steps, posterior
from llmtrace.estimate.sharing import Sharing
from tests.estimate.test_shared_engines import Seen, follow, grade
from tests.support.effort import seeds
from tests.support.engine_sim import Engine, poisson


def alone(engine: Engine, seed: int, rate: float) -> list[Seen]:
    calls = poisson(seed, 170, rate, longest=2000, outputs=(8, 16, 32, 64))
    engine.run(calls, seed)
    return [
        Seen(c.sent, c.headers, c.first, c.end, c.uncached, 0, c.output, c.scheduled - c.arrived, c.prefill)
        for c in calls
    ]


@pytest.mark.parametrize("seed", seeds(3))
def test_a_step_that_prompts_share_is_found_and_in_the_interval(seed: int) -> None:
    engine = Engine(budget=512)
    known = Baselines(background=False)
    calls = alone(engine, seed, 16)
    graded = grade(calls[30:], follow(calls, known)[30:])
    route = known.route("route")
    assert route is not None
    assert 0.3 < route.sharing.step / (engine.step + 512 * engine.per_token) < 1.7
    assert graded.covered >= 0.65  # 0.57 to 0.81 where steps are not looked at
    assert graded.queue <= 0.15


@pytest.mark.parametrize("seed", seeds(3))
def test_whole_prompts_share_none(seed: int) -> None:
    known = Baselines(background=False)
    follow(alone(Engine(slots=4, budget=1 << 20), seed, 8), known)
    route = known.route("route")
    assert route is not None
    assert route.sharing.share == 0.0


def test_an_engine_that_turns_from_prompt_to_prompt_shares_none() -> None:
    sharing = Sharing()
    for _ in range(10):
        sharing.watch(gap=0.09, work=0.1, noise=0.002)  # a step of 20 ms, in which one ended and the other began
    assert sharing.share > 0.3
    assert sharing.step == pytest.approx(0.02, rel=0.2)
    for _ in range(60):
        sharing.watch(gap=0.02, work=0.3, noise=0.01)  # short prompts come and go while a long one is computed
    assert sharing.share < 0.3


def test_a_call_that_began_in_anothers_last_step_waited_until_that_step() -> None:
    steps = Steps(share=0.9, full=0.04, pace=0.01)
    wait = posterior(0.08, 0.1, 0.002, [0.1], Habits(own=0.8), Shape(), 0.0, steps)
    assert wait.low < wait.median < wait.high
    assert wait.median == pytest.approx(0.06, abs=0.011)
    assert posterior(0.08, 0.1, 0.002, [0.1], Habits(own=0.8), Shape(), 0.0).median > wait.median


def test_until_it_shows_a_busy_call_may_have_begun_a_step_earlier() -> None:
    sharing = Sharing()
    assert (sharing.share, sharing.doubt) == (0.0, 0.5), "as likely as not"
    for _ in range(12):
        sharing.watch(0.1, 0.1, 0.005)
    assert sharing.share == 0.0
    assert sharing.doubt < 0.3, "calls that came one whole prompt after another speak against it"
    habits = Habits(none=0.1, own=0.1, brief=0.1, long=0.6, stretched=0.1, scale=0.3)
    sure, unsure = (
        posterior(0.3, 0.02, 0.003, [], habits, Shape(), 0.0, steps) for steps in (None, Steps(0.5, 0.04, 0.04))
    )
    assert unsure.low < sure.low - 0.02
    assert unsure.high == pytest.approx(sure.high, abs=0.005)
