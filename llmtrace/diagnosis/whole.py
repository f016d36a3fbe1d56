"""Whether an answer in one piece came late, and whether its wait or its tokens were to blame, as far as that shows."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from statistics import pvariance
from typing import Final

from llmtrace.diagnosis.history import Habit
from llmtrace.diagnosis.verdict import LEAST_S

SHARE: Final = 0.1
"""No answer is called late that took less than this share longer than usual."""
FEW: Final = 3
"""Late answers before which nobody can tell what made them late."""
_CLEARER: Final = 0.3
"""One explanation's scatter by the other's, from which on it is the better one."""
_RIDGE: Final = 1e-3
"""Of each driver's spread: keeps drivers that never vary, or vary together, from blowing up the solution."""


class Plane(Habit["tuple[float, float, float]"]):
    """The habit of a time that grows with prompt tokens and with output tokens: least squares over the window, and the
    level of what is left, which grows with the time itself."""

    __slots__ = ("_fixed", "_per_output", "_per_prompt", "ref")

    def restart(self) -> None:
        """Forget everything."""
        super().restart()
        self._fixed = self._per_prompt = self._per_output = 0.0
        self.ref = 0.0
        """The usual time, s."""

    def usual(self, prompt: float, output: float) -> float:
        """What is usual for so many tokens, s."""
        return max(0.0, self.mid + self._fixed + self._per_prompt * prompt + self._per_output * output)

    def score(self, prompt: float, output: float, taken: float) -> float:
        """The distance of ``taken`` (s) from the usual, in rooms."""
        usual = self.usual(prompt, output)
        off = taken - usual
        scale = usual / self.ref if usual > self.ref > 0 else 1.0
        return off / ((self.room if off > 0 else self.below) * scale)

    def lateness(self, usual: float, taken: float) -> float:
        """How late an answer is that took ``taken`` s and not ``usual`` s, so that short and long ones can be ranked
        together: a long one scatters more than a short one, though less than by its length."""
        ref = self.ref or usual
        return (taken - usual) / sqrt(max(usual, ref) * ref)

    def _refresh(self) -> None:
        prompts, outputs, times = zip(*self.items, strict=True)
        count = len(times)
        means = [sum(values) / count for values in (prompts, outputs, times)]
        columns = zip((prompts, outputs, times), means, strict=True)
        p, n, t = ([value - mean for value in values] for values, mean in columns)
        pp, nn, pn = _product(p, p) * (1 + _RIDGE) + 1e-9, _product(n, n) * (1 + _RIDGE) + 1e-9, _product(p, n)
        pt, nt = _product(p, t), _product(n, t)
        whole = pp * nn - pn * pn
        a, b = (pt * nn - nt * pn) / whole, (nt * pp - pt * pn) / whole
        if a < 0:
            a, b = 0.0, max(0.0, nt / nn)
        elif b < 0:
            a, b = max(0.0, pt / pp), 0.0
        self._per_prompt, self._per_output = a, b
        self._fixed = means[2] - a * means[0] - b * means[1]
        self.ref = ref = sorted(times)[count // 2]
        least = max(ref, 1e-9)
        over = [
            (taken - usual) / max(1.0, usual / least)
            for prompt, output, taken in self.items
            for usual in (self._fixed + a * prompt + b * output,)
        ]
        self._limits(sorted(over), ref)


def _product(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def is_late(late: float, usual: float) -> bool:
    """Whether it is worth a word that an answer came ``late`` s later than ``usual`` s."""
    return late >= LEAST_S and late >= SHARE * usual


def slow_tokens(late: Sequence[tuple[float, int]]) -> bool | None:
    """Whether slow tokens made the last answers late; False: they waited; None: that does not show.

    ``late``: by how much each was, s, and how many tokens it had. A wait is as long for a short answer as for a long
    one.
    """
    if len(late) < FEW:
        return None
    waits = pvariance([log(seconds) for seconds, _ in late])
    tokens = pvariance([log(seconds / count) for seconds, count in late])
    if tokens < _CLEARER * waits:
        return True
    return False if waits < _CLEARER * tokens else None
