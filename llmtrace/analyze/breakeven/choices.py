"""What a machine makes of a workload: latencies, objectives met, how much it bears, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from llmtrace.analyze.breakeven.machine import Machine
from llmtrace.analyze.breakeven.queueing import Answered, Asked, Played, play
from llmtrace.analyze.breakeven.workload import DAY_S, MONTH_DAYS, Workload

FULL: Final = 0.8
"""The share of its time that a machine may compute where no objective says what it bears."""
_HALVINGS: Final = 7
JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Targets:
    """Objectives in s, and the share of calls that are to meet all of them."""

    ttft: float | None = None
    itl: float | None = None
    total: float | None = None
    share: float = 0.95

    def __bool__(self) -> bool:
        return any(target is not None for target in (self.ttft, self.itl, self.total))

    def met(self, ttft: float | None, total: float, output: int) -> bool:
        """Whether a call met them; one without a first token's time is judged by the others."""
        if self.ttft is not None and ttft is not None and ttft > self.ttft:
            return False
        if self.itl is not None and ttft is not None and output > 1 and (total - ttft) / (output - 1) > self.itl:
            return False
        return self.total is None or total <= self.total

    def words(self) -> str:
        named = (("TTFT", self.ttft), ("ITL", self.itl), ("total", self.total))
        return ", ".join(f"{name} {value:g} s" for name, value in named if value is not None)


@dataclass(frozen=True, slots=True)
class Prices:
    """What the machine costs, USD."""

    hour: float = 0.0
    kwh: float = 0.0


_Number = TypeVar("_Number", int, float)


def quantile(values: Sequence[_Number], rank: float) -> _Number:
    """A percentile, the value at or above it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(rank * len(ordered)))]


class Choice:
    """One machine under the workload."""

    def __init__(self, machine: Machine, workload: Workload, targets: Targets, prices: Prices) -> None:
        self.machine, self.workload, self.targets, self.prices = machine, workload, targets, prices

    @cached_property
    def played(self) -> Played:
        return play(self.machine, self.workload.requests)

    @cached_property
    def met(self) -> float:
        """The share of calls that met the targets."""
        return self._met(self.workload.requests, self.played.answers)

    def _met(self, requests: Sequence[Asked], answers: Sequence[Answered]) -> float:
        judged = zip(requests, answers, strict=True)
        return sum(self.targets.met(each.ttft, each.total, asked.output) for asked, each in judged) / len(answers)

    @cached_property
    def capacity(self) -> float:
        """Calls a day that one machine bears: within the targets, else computing ``FULL`` of its time. 0 for none."""
        if self.targets and not self._bears(1e-6):
            return 0.0
        low, high = 0.0, 1.0
        while self._bears(high) and high < 1e6:
            low, high = high, high * 4
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5 if low else high / 4
            low, high = (middle, high) if self._bears(middle) else (low, middle)
        return low * self.workload.per_day

    def _bears(self, factor: float) -> bool:
        requests = self.workload.faster(factor)
        played = play(self.machine, requests)
        if self.targets:
            return self._met(requests, played.answers) >= self.targets.share
        # Beyond what it can do the queue grows, and the last answer comes long after the last request.
        return played.busy <= FULL * requests[-1].at

    @cached_property
    def joules(self) -> float | None:
        """Energy of a mean call; None where it was not measured."""
        per_prompt, per_token = self.machine.joules_per_prompt_token, self.machine.joules_per_token
        if per_prompt is None or per_token is None:
            return None
        cached = sum(each.cached for each in self.workload.requests) / len(self.workload.requests)
        prompt, output = self.workload.tokens
        return max(0.0, prompt - cached) * per_prompt + output * per_token

    @property
    def energy_per_call(self) -> float:
        """USD of a mean call's energy; 0 where it is not known."""
        return (self.joules or 0.0) / JOULES_PER_KWH * self.prices.kwh

    def machines(self, per_day: float) -> int | None:
        """Machines for so many calls a day; None where none can."""
        if self.capacity <= 0:
            return None
        return max(1, -int(-per_day // self.capacity))

    def month(self, per_day: float) -> float | None:
        """USD a month for so many calls a day."""
        count = self.machines(per_day)
        if count is None:
            return None
        return MONTH_DAYS * (count * 24 * self.prices.hour + per_day * self.energy_per_call)

    @property
    def per_call(self) -> float | None:
        """USD of a call at the recorded pace."""
        month = self.month(self.workload.per_day)
        return None if month is None else month / MONTH_DAYS / self.workload.per_day

    def breaks_even(self, hosted: float) -> float | None:
        """Calls a day from which this is cheaper than ``hosted`` USD a call; None where it never is."""
        gain = hosted - self.energy_per_call
        if self.capacity <= 0 or gain <= 0:
            return None
        calls = 24 * self.prices.hour / gain
        return calls if calls <= self.capacity else None


@dataclass(frozen=True, slots=True)
class Routed:
    """What a router by prompt length makes of the workload: short prompts to the machine, the others to the route."""

    longest: int
    """The longest prompt that stays, tokens."""
    kept: float
    """The share of calls that stay."""
    ttft: list[float]
    total: list[float]
    met: float
    month: float


def route(choice: Choice, longest: int) -> Routed:
    """The workload with prompts of at most ``longest`` tokens on one machine."""
    workload = choice.workload
    stays = [each.prompt <= longest for each in workload.requests]
    own = [each for each, here in zip(workload.requests, stays, strict=True) if here]
    answers = iter(play(choice.machine, own).answers)
    ttft: list[float] = []
    total: list[float] = []
    met = 0
    paid = 0.0
    for number, here in enumerate(stays):
        if here:
            answer = next(answers)
            first, whole = answer.ttft, answer.total
        else:
            first, whole = workload.ttft[number], workload.total[number]
            paid += workload.cost[number]
        if first is not None:
            ttft.append(first)
        total.append(whole)
        met += choice.targets.met(first, whole, workload.requests[number].output)
    scale = DAY_S / workload.span * MONTH_DAYS
    machine = MONTH_DAYS * 24 * choice.prices.hour + len(own) * choice.energy_per_call * scale
    return Routed(
        longest, len(own) / len(stays), ttft, total, met / len(stays), paid * scale + (machine if own else 0.0)
    )
