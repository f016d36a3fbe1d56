"""What is to be asked: the steps in the order in which they are worth most, their calls and what they cost at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmtrace.observe.answer import Usage
from llmtrace.tasks.prices import Price

GREET, CURVE, CACHE, ANSWERS, BESIDE, BURST, LIFE = "greet", "curve", "cache", "answers", "beside", "burst", "life"
"""The steps: how tokens are counted, a prompt's cost, the prefix cache, long answers, a long prompt beside a stream,
many calls at once, how long prefixes are kept."""

SIZES, ROUNDS = 12, 2
SHORTEST = 32
BRANCHES, HALVINGS = 8, 4
CONTEXTS = 4
BESIDE_SIZES = (1.0, 0.87, 0.71, 0.58)
"""Of the longest prompt: lengths whose numbers of chunks differ."""
BESIDE_ANSWER = 192
ANSWER = 24
BURSTS = (24, 72)
"""Tokens of the answers of the two bursts: a limit shows in both, a slow beginning only in the first."""
FIRST_IDLES = 7
LATER_IDLES = 3
LATER_ROUNDS = 2
CACHED_PROMPT = 0.8
"""Of the longest prompt, the one whose beginning is sent again."""
LEAST_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Options:
    """What the user settled."""

    longest: int = 3000
    """Tokens of the longest prompt."""
    at_once: int = 16
    """Calls of a burst; 0: none."""
    life_s: float | None = None
    """The most time for finding how long prefixes are kept, s; None: not asked."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step's calls, and its tokens as planned."""

    name: str
    calls: int
    prompt_tokens: int
    answer_tokens: int

    def cost(self, price: Price) -> float:
        """USD, at most: nothing is taken to be cached."""
        return price.of(Usage(input_tokens=self.prompt_tokens, output_tokens=self.answer_tokens))


def sizes(longest: int, count: int = SIZES) -> list[int]:
    """Prompt lengths at equal ratios from the shortest to the longest."""
    ratio = longest / SHORTEST
    return [round(SHORTEST * ratio ** (i / (count - 1))) for i in range(count)]


def steps(options: Options, least: int) -> list[Step]:
    """All steps. ``least``: tokens of a short answer."""
    longest = options.longest
    lengths, contexts = sizes(longest), sizes(longest, CONTEXTS)
    kept = round(CACHED_PROMPT * longest)
    tried = 1 + BRANCHES + HALVINGS
    beside = len(BESIDE_SIZES)
    planned = [
        Step(GREET, 2, 400, 2 * least),
        Step(CURVE, SIZES * ROUNDS, ROUNDS * sum(lengths), SIZES * ROUNDS * least),
        Step(CACHE, tried, round(0.65 * tried * kept), tried * least),
        Step(ANSWERS, CONTEXTS * ROUNDS, ROUNDS * sum(contexts), CONTEXTS * ROUNDS * ANSWER),
        Step(BESIDE, 2 * beside, round(sum(BESIDE_SIZES) * longest) + 64 * beside, beside * (BESIDE_ANSWER + least)),
    ]
    if options.at_once > 1:
        answers = options.at_once * sum(BURSTS)
        planned.append(Step(BURST, 2 * options.at_once, 2 * options.at_once * SHORTEST * 2, round(1.25 * answers)))
    if options.life_s is not None:
        calls = 2 * (FIRST_IDLES + LATER_ROUNDS * LATER_IDLES)
        planned.append(Step(LIFE, calls, calls * life_prompt(longest), calls * least))
    return planned


def life_prompt(longest: int) -> int:
    """Tokens of the prompts that are let lie: enough for the shortest prefix that providers keep, where there is
    room."""
    return min(longest, max(1400, longest // 3))


def affordable(planned: list[Step], price: Price, budget: float) -> tuple[list[Step], list[Step]]:
    """The steps that the budget (USD) pays for, in order, and those that it does not."""
    kept: list[Step] = []
    left_out: list[Step] = []
    rest = budget
    for step in planned:
        cost = step.cost(price)
        if cost <= rest and not left_out:
            kept.append(step)
            rest -= cost
        else:
            left_out.append(step)
    return kept, left_out


def total(planned: list[Step], price: Price | None) -> Mapping[str, float]:
    """Calls, tokens and USD of the steps together (``usd``: not a number where there is no price)."""
    return {
        "calls": sum(step.calls for step in planned),
        "prompt_tokens": sum(step.prompt_tokens for step in planned),
        "answer_tokens": sum(step.answer_tokens for step in planned),
        "usd": math.nan if price is None else sum(step.cost(price) for step in planned),
    }
