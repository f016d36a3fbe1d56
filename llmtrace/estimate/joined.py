"""The last calls of a route that ended: which of them were beside an answer, and how long their prompts were."""

from __future__ import annotations

from array import array

KEPT = 48
_MOST = 2**63 - 1


class Ended:
    """Starts, ends (monotonic ns) and uncached tokens of the last calls."""

    __slots__ = ("_cells", "_next", "_used")

    def __init__(self) -> None:
        self._cells = array("q", bytes(8 * 3 * KEPT))
        self._next = self._used = 0

    def add(self, start: int, end: int, tokens: int) -> None:
        """A call has ended."""
        at = 3 * self._next
        self._cells[at], self._cells[at + 1], self._cells[at + 2] = start, end, min(tokens, _MOST)
        self._next = (self._next + 1) % KEPT
        self._used = min(self._used + 1, KEPT)

    def since(self, moment: int, start: int) -> tuple[int, int]:
        """Of the calls that ended after ``moment``: the tokens of those that had begun after ``start``, and how many
        had begun before it."""
        tokens = before = 0
        cells, at = self._cells, 3 * self._next
        for _ in range(self._used):
            at = (at or 3 * KEPT) - 3
            if cells[at + 1] <= moment:
                break
            if cells[at] > start:
                tokens += cells[at + 2]
            else:
                before += 1
        return tokens, before
