"""ibis's functions under the names that reports use, untyped: ibis tells no types that a checker could follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ibis

HOPS: Final = 8
"""The most steps up from a span where one statement takes them all."""


def when(condition: Any, then: Any, otherwise: Any = None) -> Any:
    """``then`` where ``condition`` holds, else ``otherwise``."""
    return ibis.ifelse(condition, then, otherwise)


def chosen(cases: Sequence[tuple[Any, Any]], otherwise: Any = None) -> Any:
    """The value of the first of ``cases`` (condition, value) whose condition holds."""
    for condition, value in reversed(cases):
        otherwise = when(condition, value, otherwise)
    return otherwise


def first(*values: Any) -> Any:
    """The first of the values that is not null."""
    return ibis.coalesce(*values)


def count_of(condition: Any) -> Any:
    """The number of rows for which ``condition`` holds."""
    return when(condition, 1, 0).sum()


def share_of(condition: Any) -> Any:
    """The share of rows that ``condition`` holds for, 0 to 1."""
    return when(condition, 1.0, 0.0).mean()


def least(*values: Any) -> Any:
    """The smallest of the values of a row."""
    return ibis.least(*values)


def most(*values: Any) -> Any:
    """The largest of the values of a row."""
    return ibis.greatest(*values)


def nothing() -> Any:
    """A null value."""
    return ibis.null()
