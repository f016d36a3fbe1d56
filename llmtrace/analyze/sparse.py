"""A column that few spans fill."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Sparse:
    """The rows that have a value, and the values; where a row stands several times, the last value counts."""

    __slots__ = ("rank", "rows", "values")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.values: list[Any] = []
        self.rank = 0
        """Of the attribute that filled the last row by itself: of several, the one of the lowest rank counts."""

    def extend(self, rows: Iterable[int], values: Iterable[Any]) -> None:
        """Fill ``rows``, whatever they are filled with."""
        self.rows += rows
        self.values += values

    def put(self, row: int, value: Any, rank: int) -> None:
        """Fill ``row``; where an attribute has filled it just now, only one of its ``rank`` or better replaces it."""
        if self.rows and self.rows[-1] == row:
            if rank <= self.rank:
                self.values[-1] = value
                self.rank = rank
            return
        self.rows.append(row)
        self.values.append(value)
        self.rank = rank

    def fill(self, row: int, value: Any) -> None:
        """Fill ``row`` unless it was filled just now."""
        if not self.rows or self.rows[-1] != row:
            self.rows.append(row)
            self.values.append(value)

    def cut(self, length: int) -> None:
        """Empty the rows after the first ``length``, which were filled last."""
        while self.rows and self.rows[-1] >= length:
            self.rows.pop()
            self.values.pop()
