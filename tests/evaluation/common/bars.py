"""A figure beside the limits that it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.evaluation.common.tables import Table

FEWEST = 10
"""Calls below which a figure is no evidence, unless a bar says otherwise."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure and its limits; ``unit`` "%": the figure is a fraction."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    calls: int = 0
    """How many calls (or rounds) the figure was made of."""
    unit: str = "%"
    fewest: int = FEWEST

    @property
    def met(self) -> bool | None:
        """None where there was too little to tell."""
        if not math.isfinite(self.value) or self.calls < self.fewest:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def cells(self) -> list[str]:
        """The bar as a row: what, figure, limit, verdict, calls."""
        if self.least is not None and self.most is not None:
            limit = f"{self._number(self.least)} to {self._number(self.most)}"
        elif self.least is not None:
            limit = f">= {self._number(self.least)}"
        else:
            limit = "" if self.most is None else f"<= {self._number(self.most)}"
        return [self.what, self._number(self.value), limit, self.verdict(), str(self.calls)]

    def verdict(self) -> str:
        """Met, or missed and by how much."""
        if self.met is None:
            return f"no evidence (under {self.fewest} calls)" if self.calls < self.fewest else "no evidence"
        if self.met:
            return "met"
        above = self.most is not None and self.value > self.most
        off = self.value - self.most if above and self.most is not None else (self.least or 0.0) - self.value
        return f"**missed** by {self._number(off, 'points')}"

    def _number(self, value: float, word: str = "") -> str:
        if not math.isfinite(value):
            return "-"
        if self.unit == "%":
            return f"{value * 100:.1f} {word or '%'}"
        digits = 0 if abs(value) >= 100 else 2
        return f"{value:,.{digits}f}{self.unit}"


def table(bars: Sequence[Bar], title: str = "Figures beside their bars") -> Table:
    """All figures that have a limit."""
    return Table(title, ["what", "figure", "bar", "", "calls"], [bar.cells() for bar in bars])
