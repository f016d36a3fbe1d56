"""Engines shared with strangers, conversations, calls without usage, images, another engine: errors and intervals hold.

``recorded`` plays runs whose truth a server told; the client's headers are put back from what llmtrace said of them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from llmtrace.estimate.baselines import Baselines
from llmtrace.estimate.sample import Sample
from llmtrace.phases.model import Estimate
from tests.support.effort import seeds
from tests.support.engine_sim import Engine, Simulated
from tests.support.replay import shared_folder

ENGINE = Engine(slots=4, step=0.004, per_token=1e-4, per_stream=0.0008, budget=512, admission=0.004, hop=0.003)
IMAGE_S = 0.25
_ZERO, _SLACK_S = 10**12, 1e-3
_WARM = 30
_GUESSED_CHARS = 0.25


@dataclass
class Seen:
    """One call: what its client saw, and the truth. Seconds on one clock."""

    sent: float
    headers: float | None
    first: float
    end: float
    uncached: int
    cached: int
    output: int
    queue: float
    """With the wait for the step that ran, where ``whole_queue``."""
    prefill: float
    media: int = 0


def follow(calls: Sequence[Seen], known: Baselines | None = None) -> list[Estimate | None]:
    """The estimate of each call, from nothing but what had been seen by its end."""
    known, made = known or Baselines(background=False), list[Estimate | None]([None] * len(calls))
    moments = sorted(
        (moment, order, number)
        for number, call in enumerate(calls)
        for moment, order in ((call.sent, 2), (call.first, 1), (call.end, 0))
    )
    flying = {}
    for moment, order, number in moments:
        call, at = calls[number], _ZERO + round(moment * 1e9)
        if order == 2:
            flying[number] = known.begin("route", at, 4 * (call.uncached + call.cached))
        elif order == 1:
            flying[number].first_token_came(at)
        else:
            start, first = _ZERO + round(call.sent * 1e9), _ZERO + round(call.first * 1e9)
            headers = None if call.headers is None else _ZERO + round(call.headers * 1e9)
            sample = Sample(start, first, at, call.uncached, call.cached, headers, tokens=call.output, media=call.media)
            estimate = known.end("route", flying.pop(number), at, sample)
            made[number] = estimate if isinstance(estimate, Estimate) else None
    return made


@dataclass
class Grade:
    """How right the estimates of some calls were."""

    split: float
    queue: float
    """Mean absolute error over the mean time to the first token."""
    covered: float
    """Share of true queues inside the 90 % interval."""
    width: float
    """Mean half width over mean absolute error."""


def grade(calls: Sequence[Seen], made: Sequence[Estimate | None], *, whole_queue: bool = True) -> Grade:
    """``whole_queue``: the true queue holds the wait for the step that ran when the call came."""
    told = [(call, one) for call, one in zip(calls, made, strict=True) if one is not None]
    off = inside = width = 0.0
    for call, one in told:
        queue = one.queue + one.step_wait
        low, high = one.queue_low or 0.0, one.queue_high or 0.0
        inside += queue - low - _SLACK_S <= call.queue <= queue + high + _SLACK_S
        off += abs((queue if whole_queue else one.queue) - call.queue)
        width += (low + high) / 2
    ttft = sum(call.first - call.sent for call, _ in told)
    return Grade(len(told) / len(calls), off / ttft, inside / len(told), width / max(off, 1e-9))


Draw = Callable[[random.Random], tuple[int, int, int]]
"""Uncached, cached, images of one prompt."""


def plain(draw: random.Random) -> tuple[int, int, int]:
    return int(math.exp(draw.uniform(math.log(24), math.log(1800)))), 0, 0


def with_images(draw: random.Random) -> tuple[int, int, int]:
    return int(math.exp(draw.uniform(math.log(24), math.log(1800)))), 0, int(draw.random() < 0.3)


class Chat:
    """Six conversations that grow: each turn resends all before it."""

    def __init__(self) -> None:
        self.sizes = [0] * 6

    def __call__(self, draw: random.Random) -> tuple[int, int, int]:
        at, new = draw.randrange(6), int(math.exp(draw.uniform(3.0, 6.0)))
        before = self.sizes[at] if self.sizes[at] + new < 1800 else 0
        self.sizes[at] = before + new
        cached = before // 16 * 16
        return before + new - cached, cached, 0


def simulated(seed: int, calls: int, rate: float, draw_prompt: Draw = plain, tenants: int = 1) -> list[Seen]:
    """``calls`` of this client's, at ``rate`` a second together with those of the other ``tenants``."""
    draw = random.Random(seed)
    made, prompts, at = list[Simulated](), list[tuple[int, int, int]](), 0.0
    for _ in range(calls * tenants):
        at += draw.expovariate(rate)
        uncached, cached, images = draw_prompt(draw)
        cost = uncached + cached // 20 + round(images * IMAGE_S / ENGINE.per_token)
        call = Simulated(at, max(1, cost), draw.choice((8, 16, 32)), seen=draw.random() * tenants < 1)
        made.append(call)
        prompts.append((uncached, cached, images))
    ENGINE.run(made, seed)
    return [
        Seen(
            call.sent, call.headers, call.first, call.end, uncached, cached, call.output,
            call.queue + call.noticed - call.arrived, call.prefill, images,
        )
        for call, (uncached, cached, images) in zip(made, prompts, strict=True)
        if call.seen
    ]  # fmt: skip


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize(("tenants", "rate"), [(5, 8), (5, 12), (20, 8), (20, 12)])
def test_the_queue_that_strangers_make_is_told_with_an_interval_that_holds(
    tenants: int, rate: float, seed: int
) -> None:
    calls = simulated(seed, 160, rate, tenants=tenants)
    found = grade(calls[_WARM:], follow(calls)[_WARM:])
    assert found.split >= 0.9
    assert found.queue <= 0.10
    assert found.covered >= 0.80
    # One of twenty sees next to nothing of the engine's load: there, an interval has to hold, not to be narrow.
    assert found.width <= (2.5 if tenants == 5 else 3.0)


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("tenants", [1, 5])
def test_conversations_are_split_though_most_of_each_prompt_is_cached(tenants: int, seed: int) -> None:
    calls = simulated(seed, 160, 10, Chat(), tenants)
    found = grade(calls[_WARM:], follow(calls)[_WARM:])
    assert found.split >= 0.8
    assert found.queue <= 0.08
    assert found.covered >= 0.82


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("tenants", [1, 5])
def test_an_images_prefill_is_no_queue(tenants: int, seed: int) -> None:
    calls = simulated(seed, 200, 4, with_images, tenants)
    found = grade(calls[_WARM:], follow(calls)[_WARM:])
    assert found.queue <= 0.08
    assert found.covered >= 0.80
    blind = [replace(call, media=0) for call in calls]
    assert grade(blind[_WARM:], follow(blind)[_WARM:]).queue > 2 * found.queue, "because it is told of the images"


@pytest.mark.parametrize("tenants", [1, 5])
def test_without_usage_it_is_hardly_less_right(tenants: int) -> None:
    """Characters a token spread by 10 % from prompt to prompt, and nobody tells the ratio."""
    draw = random.Random(5)
    calls = simulated(5, 200, 8, tenants=tenants)
    guessed = [
        replace(call, uncached=max(1, round(call.uncached * 3.3 * _GUESSED_CHARS * math.exp(draw.gauss(0, 0.1)))))
        for call in calls
    ]
    told, reckoned = grade(calls[_WARM:], follow(calls)[_WARM:]), grade(guessed[_WARM:], follow(guessed)[_WARM:])
    assert reckoned.split >= 0.8
    assert reckoned.queue <= 1.5 * told.queue + 0.01
    assert reckoned.covered >= 0.80


@pytest.mark.parametrize("seed", seeds(3))
def test_the_floor_outlasts_a_busy_hour(seed: int) -> None:
    """40 calls on a calm engine, then 150 that all wait behind others: the curve stays what it was."""
    draw = random.Random(seed)
    calls: list[Seen] = []
    for number in range(190):
        tokens = plain(draw)[0]
        queue = 0.0 if number < 40 else 0.5 + draw.expovariate(1.0)
        prefill = 0.008 + 1e-4 * tokens * math.exp(draw.gauss(0, 0.05))
        at = 20.0 * number
        first = at + 0.004 + queue + prefill
        calls.append(Seen(at, at + 0.004, first, first + 0.3, tokens, 0, 61, queue, prefill))
    found = grade(calls[60:], follow(calls)[60:])
    assert found.split >= 0.9, "a row of waits is odd at first, and merged until it has been looked at"
    assert found.queue <= 0.02
    assert found.covered >= 0.80


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_another_engine_is_noticed_and_settles_within_20_calls(factor: float) -> None:
    draw = random.Random(9)
    calls: list[Seen] = []
    for number in range(140):
        tokens = plain(draw)[0]
        prefill = (0.008 + 1e-4 * tokens) * math.exp(draw.gauss(0, 0.05)) * (factor if number >= 90 else 1.0)
        at = 20.0 * number
        first = at + 0.004 + prefill
        calls.append(Seen(at, at + 0.004, first, first + 0.3, tokens, 0, 61, 0.0, prefill))
    made = follow(calls)
    assert grade(calls[90:120], made[90:120]).covered >= 0.80
    late = grade(calls[110:], made[110:])
    assert late.queue <= 0.05
    assert late.covered >= 0.90


def recorded(name: str) -> list[Seen]:
    folder = shared_folder()
    assert folder is not None
    rows = [json.loads(line) for line in (folder / "shared_engine_runs" / f"{name}.jsonl").read_text().splitlines()]
    delays: list[float] = []
    calls: list[Seen] = []
    for row in rows:
        truth, usage, (network, half, source) = row["truth"], row["truth"]["usage"], row["phases"]["network"]
        start, cached = truth["start"], (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
        wire = network if source == "client" else 0.003
        if (
            source == "estimate"
        ):  # it held the headers' delay then, and the way beyond it with 1.645 x 0.4 of its length
            delays.append(max(wire, network - half / (1.645 * 0.4)))
        headers = start + (delays[-1] if delays else 0.008)
        first = start + truth["ttft"]
        calls.append(
            Seen(
                start + wire, headers if headers < first else None, first, truth["end"],
                usage["prompt_tokens"] - cached, cached, usage["completion_tokens"],
                truth["queue_time_ms"] / 1e3, truth["time_to_first_token_ms"] / 1e3,
            )
        )  # fmt: skip
    return calls


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "whole_queue", "most"),
    [
        ("alone_load70", True, 0.05),
        ("share30_load60", True, 0.10),
        ("share30_load90", True, 0.10),
        ("vllm_alone_load60", False, 0.05),
        ("vllm_share30_load60", False, 0.12),
        ("vllm_share30_load90", False, 0.12),
        ("vllm_share05_load70", False, 0.12),
        ("vllm_chat_alone_load60", False, 0.08),
        ("vllm_chat_share30_load60", False, 0.12),
    ],
)
def test_against_recorded_engines_that_are_shared(name: str, whole_queue: bool, most: float) -> None:
    calls = recorded(name)
    found = grade(calls[_WARM:], follow(calls)[_WARM:], whole_queue=whole_queue)
    assert found.split >= 0.8
    assert found.queue <= most
    assert found.covered >= (0.75 if whole_queue else 0.60), "vLLM's queue leaves out the step that ran"
