"""What is remembered of a route's calls: one row of numbers each, in two bytes a number.

A number is kept as its logarithm in steps of 0.05 %: no clock and no count of tokens is worth more, and a route's rows
take half the room of floats.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import exp, log

COLUMNS = 16
# Uncached, cached, others' tokens beside; seconds from readiness to the first token (whole answers: to the end); class;
# seconds per output token (whole answers: below 0); delays of headers, first event and first token; the waits until
# moments of the client's own traffic (below 0: none); output tokens after the first; others in flight while they came;
# others' uncached tokens computed meanwhile; images and the like in the prompt.
U, K, BESIDE, S, CLASS, PACE, HEAD, EVENT, TOTAL, M1, M2, M3, N, B, X, MEDIA = range(COLUMNS)
MOMENTS = 3
"""Moments of the client's own traffic that are remembered of each call: the last ones before it was taken up."""
WHOLE = -1.0
"""The pace of a whole answer."""

_STEP = 5e-4
_ONE, _ZERO, _BELOW = 32_768, 0, 65_535
"""The codes of 1, of 0, and of whatever is below it (-1). The others reach from 8e-8 to 1e7."""

Row = tuple[float, ...]


class Ring:
    """The last rows of a route."""

    __slots__ = ("_cells", "_most", "_next", "count")

    def __init__(self, most: int) -> None:
        self._cells = array("H")
        self._most = most
        self._next = 0
        self.count = 0

    def put(self, row: Sequence[float]) -> None:
        """Remember a row; beyond the most, the oldest one goes."""
        at = self._next * COLUMNS
        self._cells[at : at + COLUMNS] = pack((row,))
        self._next = (self._next + 1) % self._most
        self.count = min(self.count + 1, self._most)

    def last(self, number: int | None = None) -> list[Row]:
        """The last so many rows (None: all), oldest first."""
        turn = self._next * COLUMNS if self.count == self._most else 0
        cells = self._cells[turn:] + self._cells[:turn]
        return unpack(cells if number is None else cells[COLUMNS * (self.count - min(number, self.count)) :])

    def keep(self, number: int) -> None:
        """Forget all but the last so many rows."""
        kept = self.last(number)
        self._cells = pack(kept)
        self.count = len(kept)
        self._next = self.count % self._most


def pack(rows: Sequence[Sequence[float]]) -> array[int]:
    """Rows as codes, one after the other. What a number loses is lost once: packed again, it stays as it is."""
    return array("H", [int(cell) if at == CLASS else _code(cell) for row in rows for at, cell in enumerate(row)])


def unpack(cells: array[int]) -> list[Row]:
    """The rows that ``pack`` packed."""
    numbers = [0.0 if code == _ZERO else -1.0 if code == _BELOW else exp((code - _ONE) * _STEP) for code in cells]
    numbers[CLASS::COLUMNS] = map(float, cells[CLASS::COLUMNS])
    return [tuple(numbers[at : at + COLUMNS]) for at in range(0, len(numbers), COLUMNS)]


def _code(number: float) -> int:
    if number <= 0.0:
        return _ZERO if number == 0.0 else _BELOW
    return min(_BELOW - 1, max(_ZERO + 1, _ONE + round(log(number) / _STEP)))
