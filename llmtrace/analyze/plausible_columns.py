"""Makes null in columns what cannot be (``plausible``)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmtrace.analyze.plausible import BEYOND, PARTS

_compute: Any = pc  # its functions are made as it is imported: a checker sees none


def known_values(values: pa.Array, is_count: bool) -> tuple[pa.Array, int]:
    """A column's values with null for what no span measures, and how many those were.

    NaN and numbers beyond ``BEYOND`` are such: one of them, or its square, is all that is left of a sum.
    """
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return values, 0
    from_least = _compute.greater_equal(values, 0) if is_count else _compute.greater(values, -BEYOND)
    fits = _compute.and_(from_least, _compute.less(values, BEYOND))
    kept = _compute.if_else(fits, values, pa.scalar(None, values.type))
    return kept, kept.null_count if is_count else 0


def known_columns(columns: dict[str, Any]) -> int:
    """Make null what cannot be beside the other columns of its row; returns how many values those were."""
    odd = 0
    for part, whole in PARTS:
        if part in columns and whole in columns and columns[part].null_count < len(columns[part]):
            more = _compute.fill_null(_compute.greater(columns[part], columns[whole]), False)
            if count := _compute.sum(more).as_py():
                odd += count
                columns[part] = _compute.if_else(more, pa.scalar(None, columns[part].type), columns[part])
    start, end = columns["start_ns"], columns["end_ns"]
    before = _compute.less(end, start)
    if count := _compute.sum(before).as_py():
        odd += count
        columns["end_ns"] = _compute.if_else(before, start, end)  # as where there is no end
    return odd
