"""The estimator against engines whose truth is known: silent without evidence, right with it, bounded."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest

from llmtrace.estimate.baselines import ROUTES, Baselines
from llmtrace.estimate.concurrency import KEPT
from llmtrace.estimate.route import WINDOW
from llmtrace.estimate.sample import Sample
from llmtrace.phases.model import FEW_CALLS, NARROW_SPREAD, Estimate, Unknown
from tests.support.effort import seeds
from tests.support.engine_sim import Engine, Simulated, poisson
from tests.support.follow import Errors, Times, errors, follow
from tests.support.memory import size
from tests.support.replay import shared_folder


def as_seen(calls: list[Simulated]) -> list[Times]:
    return [Times(c.sent, c.headers, c.first, c.first, c.end, c.uncached, 0, c.output) for c in calls if c.seen]


def truth(calls: list[Simulated]) -> list[dict[str, float]]:
    return [{"queue": c.queue, "step_wait": c.noticed - c.arrived, "prefill": c.prefill} for c in calls if c.seen]


def measure(engine: Engine, calls: list[Simulated], seed: int) -> Errors:
    engine.run(calls, seed)
    seen = as_seen(calls)
    return errors(seen, follow(seen), truth(calls))


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("rate", [6, 20])
def test_with_free_slots_a_stretched_prefill_is_no_queue(rate: float, seed: int) -> None:
    found = measure(Engine(), poisson(seed, 250, rate), seed)
    assert found.calls >= 200
    assert found.queue <= 0.06
    assert found.prefill <= 0.08


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("rate", [12, 18])
def test_with_few_slots_the_queue_is_found(rate: float, seed: int) -> None:
    found = measure(Engine(slots=4), poisson(seed, 300, rate), seed)
    assert found.whole_queue <= 0.08
    assert found.prefill <= 0.08
    assert found.queued_relative is not None
    assert found.queued_relative <= 0.25


def bursty(seed: int, calls: int, rate: float) -> list[Simulated]:
    """The same calls, four at a time."""
    made = poisson(seed, calls, rate)
    for number, call in enumerate(made):
        call.sent = made[number - number % 4].sent + 0.002 * (number % 4)
    return made


@pytest.mark.parametrize("seed", seeds(3))
def test_the_queue_after_a_burst_is_found(seed: int) -> None:
    found = measure(Engine(slots=2, step=0.008, per_token=2e-4), bursty(seed, 240, 5), seed)
    assert found.queued_calls > 60
    assert found.whole_queue <= 0.05
    assert found.prefill <= 0.05
    assert found.queued_relative is not None
    assert found.queued_relative <= 0.1
    assert found.covered >= 0.8


@pytest.mark.parametrize("late", [0.0, 0.005])
def test_a_limit_shows_also_to_a_client_that_sees_ends_late(late: float) -> None:
    """For it, more calls seem to run at once than do: the end of one is read after the first token of the next."""
    calls = poisson(4, 240, 18)
    Engine(slots=4).run(calls, 4)
    seen = [replace(call, end=call.end + late) for call in as_seen(calls)]
    known = Baselines(background=False)
    follow(seen, known)
    route = known.route("route")
    assert route is not None
    assert route.limit == 4


def test_without_a_limit_none_shows() -> None:
    known = Baselines(background=False)
    for number, calls in enumerate((poisson(1, 250, 20), bursty(2, 250, 12))):
        Engine().run(calls, number)
        follow(as_seen(calls), known, number)
        route = known.route(number)
        assert route is not None
        assert route.limit is None


def test_too_few_calls_or_too_little_spread_say_nothing() -> None:
    calls = poisson(1, 30, 5)
    Engine().run(calls, 1)
    assert follow(as_seen(calls)) == [None] * 30
    same = poisson(1, 150, 5, shortest=500, longest=520)
    Engine().run(same, 1)
    assert follow(as_seen(same)) == [None] * 150


def alone(number: int, queued: float, seed: int) -> list[Times]:
    """Calls that never meet one another, on an engine that others keep busy: 10 ms + 0.1 ms a token, some queued."""
    draw = random.Random(seed)
    made: list[Times] = []
    for i in range(number):
        tokens = int(exp(draw.uniform(3.4, 7.6)))
        queue = 0.05 + draw.expovariate(5) if draw.random() < queued else 0.0
        at, wait = i * 10.0, 0.010 + 1e-4 * tokens + abs(draw.gauss(0, 0.002)) + queue
        made.append(Times(at, at + 0.004, at + wait, at + wait, at + wait + 0.5, tokens, 0, 101))
    return made


def test_a_queue_that_others_make_is_found_in_the_residual() -> None:
    calls = alone(200, 0.35, 3)
    for call, found in list(zip(calls, follow(calls), strict=True))[60:]:
        assert found is not None
        if call.first - call.sent > 0.010 + 1e-4 * call.uncached + 0.1 + 0.5 * 1e-4 * call.uncached:
            assert found.queue > 0.05
            assert found.prefill == pytest.approx(0.006 + 1e-4 * call.uncached, rel=0.3, abs=0.006)


def test_memory_is_bounded() -> None:
    known = Baselines(background=False)
    for number in range(ROUTES + 50):
        in_flight = known.begin(number, 0)
        known.end(number, in_flight, 10)
    assert len(known._routes) == ROUTES
    calls = poisson(2, 3 * WINDOW, 10)
    Engine(slots=4).run(calls, 2)
    follow(as_seen(calls), known, "busy")
    route = known.route("busy")
    assert route is not None
    assert route.points == WINDOW
    assert not route.traffic.open
    assert size(route) <= 24576
    assert KEPT <= 64


def test_the_fit_runs_elsewhere_and_survives_a_fork() -> None:
    known = Baselines()
    calls = poisson(4, 60, 6)
    Engine().run(calls, 4)
    follow(as_seen(calls), known)
    assert known.settle()
    route = known.route("route")
    assert route is not None
    assert route.curve is not None
    if not hasattr(os, "fork"):
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            inside = known.begin("route", 0)
            ended = known.end("route", inside, 10)
            again = follow(as_seen(calls), known, "another")
            known.settle()
            os.write(writing, json.dumps([isinstance(ended, Unknown), len(again)]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert json.loads(told.read()) == [True, 60]
    os.waitpid(child, 0)


def test_a_call_is_never_split_before_it_is_known_to_have_begun() -> None:
    known = Baselines(background=False)
    in_flight = known.begin("r", 100)
    ended = known.end("r", in_flight, 200, Sample(start=150, first=120, end=90, uncached=0))
    assert isinstance(ended, Unknown)


def _asked(known: Baselines, number: int, uncached: int, cached: int = 0, later: int = 0) -> Estimate | Unknown:
    """One call of a second each, alone on its route."""
    start = number * 2_000_000_000
    in_flight = known.begin("r", start)
    first = start + 10_000_000 + 100_000 * uncached + later
    return known.end("r", in_flight, first, Sample(start, first, first, uncached, cached))


def test_where_nothing_is_estimated_it_says_why_and_what_would_help() -> None:
    known = Baselines(background=False)
    said = [_asked(known, number, 1000) for number in range(31)]
    early, last = said[12], said[30]
    assert isinstance(early, Unknown)
    assert (early.reason, early.detail) == (
        FEW_CALLS,
        "12 of 30 calls on this route; 18 more, or a saved baseline, would tell queue and prefill apart",
    )
    assert isinstance(last, Unknown)
    assert last.reason == NARROW_SPREAD
    assert "spread by a factor of 1.0" in last.detail
    assert "a factor of 4 would" in last.detail


def test_a_prompt_from_the_cache_is_estimated_before_the_route_knows_what_that_costs() -> None:
    known = Baselines(background=False)
    for number in range(40):
        _asked(known, number, 100 + 50 * (number % 20))
    plain = _asked(known, 40, 10, later=20_000_000)
    cached = _asked(known, 41, 10, cached=2000, later=20_000_000)
    assert isinstance(plain, Estimate)
    assert isinstance(cached, Estimate)
    assert cached.prefill > plain.prefill + 0.002, "some of 20 ms may be what 2,000 cached tokens cost"


def test_what_was_learned_is_shared_through_a_file(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    calls = poisson(5, 80, 6)
    Engine().run(calls, 5)
    one, other = (Baselines(background=False, path=file) for _ in range(2))
    follow(as_seen(calls)[:40], one, ("a", "b", 1, None))
    follow(as_seen(calls)[40:], other, ("a", "b", 1, None))
    assert one.save()
    assert other.save()
    later = Baselines(background=False, path=file)
    route = later.route(("a", "b", 1, None))
    assert route is not None
    assert route.points == 80
    assert follow(as_seen(calls)[:3], later, ("a", "b", 1, None)) != [None] * 3
    assert one.save(), "nothing new is no failure"
    assert len(json.loads(file.read_text())["routes"][0]["rows"]) == 80


def _learn_and_save(file: Path, number: int) -> None:
    known = Baselines(background=False, path=file)
    calls = poisson(number, 10, 6)
    Engine().run(calls, number)
    follow(as_seen(calls), known, ("shared",))
    assert known.save()


def test_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_learn_and_save, args=(file, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    (route,) = json.loads(file.read_text())["routes"]
    assert len(route["rows"]) == 40
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "routes": [{"route": 3}, 4]}'])
def test_a_file_that_is_none_of_ours_is_no_trouble(tmp_path: Path, text: str) -> None:
    file = tmp_path / "learned.json"
    file.write_text(text)
    assert Baselines(background=False, path=file).route(("r",)) is None


def test_a_file_of_the_version_before_goes_on_being_read(tmp_path: Path) -> None:
    file, key = tmp_path / "learned.json", ("vllm", "h", 1, "m", "chat")
    rows = [
        [float(tokens), 0.0, 0.0, 0.01 + 1e-4 * tokens, float(number % 3), 0.005, 0.004, -1.0, 0.014 + 1e-4 * tokens]
        for number, tokens in enumerate(range(50, 2050, 50))
    ]
    file.write_text(json.dumps({"version": 1, "routes": [{"route": key, "used": time.time(), "rows": rows}]}))
    known = Baselines(background=False, path=file)
    route = known.route(key)
    assert route is not None
    assert route.curve is not None
    assert route.curve.per_token == pytest.approx(1e-4, rel=0.1)


def test_a_file_of_another_version_is_refused_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "learned.json"
    file.write_text(json.dumps({"version": 99, "routes": []}))
    assert Baselines(background=False, path=file).route(("r",)) is None
    assert "version 99" in caplog.text


def test_a_prior_bounds_the_slope_from_below() -> None:
    calls = poisson(6, 60, 6)
    Engine().run(calls, 6)
    known = Baselines(background=False, least_per_token=2e-4)
    follow(as_seen(calls), known)
    route = known.route("route")
    assert route is not None
    assert route.curve is not None
    assert route.curve.per_token >= 2e-4


def test_faster_hardware_is_noticed_within_a_few_calls() -> None:
    before, after = poisson(7, 120, 6), poisson(8, 40, 6)
    Engine(per_token=2e-4).run(before, 7)
    Engine(per_token=5e-5).run(after, 8)
    moved = [
        replace(c, sent=c.sent + 900, headers=c.headers + 900, event=None, first=c.first + 900, end=c.end + 900)
        for c in as_seen(after)
        if c.headers is not None
    ]
    known = Baselines(background=False)
    follow([*as_seen(before), *moved], known)
    route = known.route("route")
    assert route is not None
    assert route.curve is not None
    assert route.curve.per_token == pytest.approx(5e-5, rel=0.5)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["seqs4_rate4", "seqs4_rate12", "unlimited_rate4", "unlimited_rate18"])
def test_against_a_recorded_engine(name: str) -> None:
    folder = shared_folder()
    assert folder is not None
    rows = [json.loads(line) for line in (folder / "vllm_runs" / f"{name}.jsonl").read_text().splitlines()]
    calls = [
        Times(
            row["sent_s"],
            row["headers_s"],
            row["first_event_s"],
            row["first_content_s"],
            row["last_content_s"],
            row["prompt_tokens"] - row["cached_tokens"],
            row["cached_tokens"],
            row["completion_tokens"],
        )
        for row in rows
    ]
    true = [{"queue": r["truth"]["queue_ms"] / 1e3, "prefill": r["truth"]["prefill_ms"] / 1e3} for r in rows]
    found = errors(calls, follow(calls), true)
    assert found.queue <= 0.08
    assert found.prefill <= 0.10


def test_a_standing_queue_is_a_lower_bound() -> None:
    """Every call waits a little longer than before, whatever its length: a queue that does not empty, or another way
    there. The curve keeps its level, and what lies above it is called queue, at least so much."""
    before = alone(120, 0.0, 11)
    after = [
        replace(
            call, sent=call.sent + 2000, headers=call.headers + 2000, first=call.first + 2000.4,
            event=call.event + 2000.4, end=call.end + 2000.4,
        )
        for call in alone(120, 0.0, 12)
    ]  # fmt: skip
    found = follow(before + after)
    assert not any(each.lower_bound for each in found[40:120] if each is not None)
    late = [each for each in found[180:] if each is not None]
    assert len(late) == 60
    assert all(each.lower_bound for each in late)
    assert all(each.queue == pytest.approx(0.4, abs=0.1) for each in late)


def test_limit_and_survival_are_in_the_file_too(tmp_path: Path) -> None:
    file, key = tmp_path / "learned.json", ("vllm", "h", 1, "m", "chat")
    calls = poisson(3, 300, 18)
    Engine(slots=4).run(calls, 3)
    one, other = (Baselines(background=False, path=file) for _ in range(2))
    follow(as_seen(calls), one, key)
    mine = one.route(key)
    assert mine is not None
    assert mine.limit is not None
    for known, gap, hit in ((one, 3000.0, True), (other, 3000.0, True), (other, 5.0, True)):
        known.begin(key, 0)
        route = known.route(key)
        assert route is not None
        route.survival.learn(gap, hit, 48)
    assert one.save()
    assert other.save()
    later = Baselines(background=False, path=file).route(key)
    assert later is not None
    assert later.limit == mine.limit
    assert later.survival.block == 48
    (saved,) = json.loads(file.read_text())["routes"]
    assert sum(saved["survival"]) == pytest.approx(6.0, abs=0.1), "three hits of three tries, from two processes"
    assert later.survival.at(3000.0) > mine.survival.at(3000.0)


def test_a_limit_that_shows_no_more_goes_from_the_file(tmp_path: Path) -> None:
    file, key = tmp_path / "learned.json", ("vllm", "h", 1, "m", "chat")
    rows = [[100.0] * 9]
    file.write_text(
        json.dumps({"version": 1, "routes": [{"route": key, "used": time.time(), "rows": rows, "limit": 2}]})
    )
    known = Baselines(background=False, path=file)
    route = known.route(key)
    assert route is not None
    assert route.limit == 2
    calls = poisson(4, 200, 15)
    Engine().run(calls, 4)
    follow(as_seen(calls), known, key)
    assert route.limit is None
    assert known.save()
    assert not json.loads(file.read_text())["routes"][0]["limit"]


def test_a_save_that_fails_is_made_up_for(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    known = Baselines(background=False, path=blocked / "learned.json")
    known.begin("r", 0)
    known.begin(("r",), 0)
    route = known.route(("r",))
    assert route is not None
    route.survival.learn(5.0, True, 16)
    assert not known.save()
    known.path = tmp_path / "learned.json"
    assert known.save()
    assert sum(json.loads(known.path.read_text())["routes"][0]["survival"]) == 2.0


def test_what_is_known_of_a_provider_is_believed_at_first() -> None:
    known = Baselines(background=False)
    for key, before, name in (
        ("responses", (True, True), "first_token"),
        ("vllm", (True, False), "first_event"),
        ("llama.cpp", (False, False), "headers"),
    ):
        known.begin(key, 0, before=before)
        route = known.route(key)
        assert route is not None
        assert route.anchors.name == name


def test_a_belief_gives_way_to_data() -> None:
    known = Baselines(background=False)
    known.begin("r", 0, before=(False, False))
    calls = poisson(9, 150, 4)
    Engine().run(calls, 9)
    follow(as_seen(calls), known, "r")
    route = known.route("r")
    assert route is not None
    assert route.anchors.headers, "their delay does not grow with the prompt"
    assert route.anchors.name == "first_event"
