"""What calls to real servers showed: kinds of wrong verdicts, each with numbers as they were seen."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis import verdict as causes
from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.diagnosis.verdict import Verdict

SHARED = 768


class Application:
    """Calls of one route: 250 prompt tokens of their own behind 768 that are cached, 0.15 s until the first token."""

    def __init__(self, scatter: float = 0.1) -> None:
        self.draw = random.Random(7)
        self.scatter = scatter
        self._diagnoser = Diagnoser()
        self._number = 0

    def call(self, *, late: float = 0.0, own: int | None = None, cached: int = SHARED, **facts: Any) -> list[Verdict]:
        """The verdicts on the next call. ``late``: s longer until the first token."""
        self._number += 1
        begin = self._number * 10**10
        own = self.draw.randint(60, 240) if own is None else own
        wait = (0.1 + 2e-4 * (own + SHARED - cached)) * self.draw.lognormvariate(0, self.scatter) + late
        seen = Symptoms(begin, begin + 2 * 10**9, wait=wait, input_tokens=own + SHARED, cached_tokens=cached, tokens=20)
        seen.headers, seen.decode = 0.004, 0.2 * self.draw.lognormvariate(0, 0.05)
        for name, value in facts.items():
            setattr(seen, name, value)
        return self._diagnoser.judge("route", seen)

    def warm(self, calls: int = 70, **facts: Any) -> None:
        assert sum(len(self.call(**facts)) for _ in range(calls)) == 0


def names(verdicts: list[Verdict]) -> list[str]:
    return [verdict.cause for verdict in verdicts]


def test_a_small_queue_is_named_though_nobody_estimates_it() -> None:
    application = Application()
    application.warm()
    named = [names(application.call(late=0.06)) for _ in range(8)]
    assert sum(causes.QUEUEING in each for each in named) >= 4
    assert not any(names(application.call()) for _ in range(20))


def test_an_estimate_that_is_new_takes_no_wait_away() -> None:
    application = Application()
    application.warm()
    named = [names(application.call(late=0.5, queue=0.5)) for _ in range(8)]
    assert sum(each == [causes.QUEUEING] for each in named) >= 6


def test_a_surge_is_no_queue_besides() -> None:
    application = Application(scatter=0.3)
    application.warm()
    named = [names(application.call(own=2200, late=0.4)) for _ in range(8)]
    assert named == [[causes.PREFILL_SURGE]] * 8


def test_a_lost_cache_is_named_though_waits_scatter() -> None:
    application = Application(scatter=0.25)
    application.warm()
    named = [names(application.call(cached=0)) for _ in range(8)]
    assert sum(causes.COLD_KV_CACHE in each for each in named) >= 5


def test_a_late_answer_makes_no_round_trip_and_no_other_route() -> None:
    application = Application()
    quick: dict[str, Any] = {"headers": None, "rtt": 0.0001}
    for _ in range(70):
        assert not application.call(late=-0.1, **quick)
    named = [names(application.call(late=0.3, headers=None, rtt=0.035)) for _ in range(12)]
    assert sum(each == [causes.QUEUEING] for each in named) >= 9
    assert {cause for each in named for cause in each} == {causes.QUEUEING}


BURSTS: dict[str, Any] = {"gap": 3e-5, "mean_gap": 0.01, "behind_headers": 24}
AT_ONCE: dict[str, Any] = {"buffered": True, "wait": None, "decode": None, "silence": 0.3}


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        ({**BURSTS, "segments": 3}, 3),  # a proxy gathered them: one such stream may be chance
        ({**BURSTS, "segments": 24}, 1),  # they came one by one, to a process that got no core
        ({**BURSTS, "segments": None}, 1),  # nobody knows
        ({**AT_ONCE, "behind_headers": 24, "segments": 5}, 3),
        ({**AT_ONCE, "behind_headers": 24, "segments": 24}, 1),
        ({**AT_ONCE, "unread": 0.0}, 3),  # all of it came as the client looked
        ({**AT_ONCE, "unread": 0.012}, 1),  # or had lain there
    ],
)
def test_chunks_that_lay_ready_are_a_proxys_where_it_gathered_them(seen: dict[str, Any], named: int) -> None:
    application = Application()
    application.warm(gap=0.01, mean_gap=0.01)
    came = [names(application.call(**seen)) for _ in range(4)]
    assert came == [[]] * (4 - named) + [[causes.BUFFERED_STREAM]] * named


def test_a_few_long_stalls_are_no_bursts() -> None:
    application = Application()
    application.warm(gap=0.01, mean_gap=0.01)
    named = [names(application.call(gap=0.008, mean_gap=0.03)) for _ in range(4)]
    assert not any(causes.BUFFERED_STREAM in each for each in named)


@pytest.mark.parametrize("turns", [True, False])
def test_of_two_upstreams_the_slow_one_is_named_and_the_route_has_not_changed(turns: bool) -> None:
    application = Application()
    who = ("alpha", "beta")

    def next_one(number: int) -> str:
        return who[number % 2] if turns else application.draw.choice(who)

    for number in range(120):
        application.call(upstream=next_one(number))
    slow: list[list[Verdict]] = []
    for number in range(40):
        upstream = next_one(number)
        verdicts = application.call(upstream=upstream, late=0.4 * (upstream == "beta"))
        if upstream == "beta":
            slow.append(verdicts)
        else:
            assert not verdicts
    assert {cause for verdicts in slow for cause in names(verdicts)} == {causes.QUEUEING}
    assert sum(bool(verdicts) for verdicts in slow) >= 0.8 * len(slow)
    assert all("at beta" in (verdict.reason or "") for verdicts in slow for verdict in verdicts)


def far_away(application: Application, delay: float = 0.0, late: float = 0.0) -> list[str]:
    """A call over 0.09 s of way: its headers come late in the wait, and before the prefill."""
    way = application.draw.choice((0.065, 0.095)) + delay
    return names(application.call(late=way + late - 0.08, headers=way))


def test_far_away_headers_show_the_way_and_what_it_took_is_no_queue() -> None:
    application = Application(scatter=0.03)
    assert not any(far_away(application) for _ in range(100))
    assert [far_away(application, delay=0.06) for _ in range(8)].count([causes.NETWORK]) >= 5
    assert not any(far_away(application) for _ in range(8))
    assert [far_away(application, late=0.03) for _ in range(8)].count([causes.QUEUEING]) >= 4


def test_a_prompt_that_is_as_much_slower_as_its_tokens_did_not_wait() -> None:
    application = Application(scatter=0.03)
    application.warm(100)
    slow: dict[str, Any] = {"late": 0.04, "decode": 0.3}
    named = [names(application.call(**slow)) for _ in range(8)]
    assert sum(causes.NOISY_NEIGHBOR in each for each in named) >= 4
    assert not any(causes.QUEUEING in each for each in named)
    application = Application(scatter=0.03)
    application.warm(100)
    assert sum(causes.QUEUEING in names(application.call(late=0.04)) for _ in range(8)) >= 4


def test_one_pause_among_tokens_as_fast_as_ever_is_no_neighbour_unless_it_doubles_the_time() -> None:
    even: dict[str, Any] = {"gap": 0.01, "mean_gap": 0.01}
    application = Application(scatter=0.03)
    application.warm(100, **even)
    for _ in range(4):
        application.call(decode=0.24, gap=0.012, mean_gap=0.012)  # somewhat slower
    assert not application.call(decode=0.3, gap=0.01, mean_gap=0.0158)
    assert names(application.call(decode=0.6, gap=0.01, mean_gap=0.0316)) == [causes.NOISY_NEIGHBOR]


def test_a_few_prompts_far_longer_than_all_others_do_not_bend_the_line() -> None:
    application = Application(scatter=0.03)
    application.warm()
    for _ in range(6):
        application.call(own=2400, late=0.5)  # each of their tokens costs twice as much
    assert not any(names(application.call()) for _ in range(60))
    assert sum(causes.QUEUEING in names(application.call(own=220, late=0.03)) for _ in range(8)) >= 4
