"""A column that few spans fill."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Sparse:
    """The rows that have a value, and the values; where a row stands several times, the last value counts."""

    __slots__ = ("rows", "values")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.values: list[Any] = []

    def extend(self, rows: Iterable[int], values: Iterable[Any]) -> None:
        """Fill ``rows``, whatever they are filled with."""
        self.rows += rows
        self.values += values

    def put(self, row: int, value: Any, best: bool) -> None:
        """Fill ``row``; where another attribute has filled it just now, only the ``best`` one takes its place."""
        if self.rows and self.rows[-1] == row:
            if best:
                self.values[-1] = value
            return
        self.rows.append(row)
        self.values.append(value)

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
