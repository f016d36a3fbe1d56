"""How wide a route's intervals have to be, by the calls whose engine told what the estimate had to guess.

Of each graded call it is kept how far off the estimate was, in sides of its own interval. Widened (or narrowed) by
their 90 % quantile, the intervals hold nine of ten such calls.

Source: split conformal prediction, Lei et al., JASA 113 (2018).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_KEPT = 40
_ENOUGH = 12
"""As many as the noise is calibrated by (``expectation``)."""
_LEAST_SIDE = 1e-3
"""No clock and no network tells a shorter side from none, s."""
_NARROWEST, _WIDEST = 0.5, 4.0
"""The few calls that a route keeps do not move an interval further."""


class Calibration:
    """The last graded calls of a route."""

    __slots__ = ("_cells", "_next", "factor")

    def __init__(self) -> None:
        self._cells = array("f")
        self._next = 0
        self.factor = 1.0
        """What an interval's sides are to be multiplied by."""

    def learn(self, error: float, low: float, high: float) -> None:
        """A call whose estimate was ``error`` s too long (below 0: too short), with an interval that ends ``low`` s
        below it and ``high`` s above it."""
        off = abs(error) / max(_LEAST_SIDE, low if error > 0 else high)
        off *= self.factor  # the interval was calibrated already
        if len(self._cells) < _KEPT:
            self._cells.append(off)
        else:
            self._cells[self._next] = off
            self._next = (self._next + 1) % _KEPT
        self._reckon()

    def news(self) -> list[float]:
        """What a file should hold: how far off each of them was."""
        return [float(f"{cell:.4g}") for cell in self._cells]

    def recall(self, graded: Sequence[float]) -> None:
        """Begin with what a file holds."""
        self._cells = array("f", graded[-_KEPT:])
        self._next = 0
        self._reckon()

    def _reckon(self) -> None:
        if len(self._cells) >= _ENOUGH:
            ordered = sorted(self._cells)
            at = min(len(ordered) - 1, int(0.9 * (len(ordered) + 1)))
            self.factor = min(_WIDEST, max(_NARROWEST, ordered[at]))
