"""Values of a span that cannot be: an end before the start, a count below 0, more of a part than of the whole.

They count as not known, wherever spans are read, and are counted for a note. What is an odd measurement is another
thing, and stays.
"""

from __future__ import annotations

import math
from typing import Any, Final

from llmtrace.analyze.schema import FROM_ATTRIBUTES
from llmtrace.tasks.prices import MODALITIES
from llmtrace.wording import plural

BEYOND: Final = 10**15
"""No tokens, seconds, USD or scores of a span are so many."""
_SIGNED: Final = frozenset({"estimate_error", "time_saved", "score"})
COUNTS: Final = frozenset(
    column.name
    for column in FROM_ATTRIBUTES
    if column.kind in ("int", "float") and column.name not in _SIGNED and not column.name.endswith("_ns")
)
"""The columns of numbers that are never below 0."""
WHOLE: Final = frozenset({"repairs"})
"""Those of them that say which one it was, where a fraction says nothing."""
PARTS: Final = (
    ("cached_tokens", "input_tokens"),
    ("cache_write_tokens", "input_tokens"),
    ("reasoning_tokens", "output_tokens"),
    *((f"{kind}_cached_tokens", f"{kind}_input_tokens") for kind in MODALITIES),
)
"""Columns of tokens, and those that they are a part of."""
_ATTRIBUTES: Final = {column.name: column.attributes for column in FROM_ATTRIBUTES}
_COUNTED: Final = frozenset(attribute for name in COUNTS for attribute in _ATTRIBUTES[name])
_WHOLE: Final = frozenset(attribute for name in WHOLE for attribute in _ATTRIBUTES[name])
_PARTS_OF_SPANS: Final = tuple((_ATTRIBUTES[part], _ATTRIBUTES[whole]) for part, whole in PARTS)


def note(odd: int) -> str:
    """The note on ``odd`` such values."""
    does = "counts" if odd == 1 else "count"
    return (
        f"{plural(odd, 'value')} that cannot be {does} as not known: a count below 0 or that is no number, an end "
        "before its start, more cached tokens than the prompt has"
    )


def known(attributes: dict[str, Any]) -> int:
    """Take what cannot be out of a span's attributes; returns how many those were."""
    odd = [
        name
        for name in _COUNTED.intersection(attributes)
        if not _is_count(attributes[name]) or (name in _WHOLE and whole(attributes[name]) is None)
    ]
    for name in odd:
        del attributes[name]
    more = 0
    for parts, wholes in _PARTS_OF_SPANS:
        total = next((attributes[name] for name in wholes if name in attributes), None)
        for name in parts:
            if total is not None and name in attributes and float(attributes[name]) > float(total):
                del attributes[name]
                more += 1
    return len(odd) + more


def whole(value: Any) -> int | None:
    """``value`` if it is a whole number of 0 or more, also as text; else None."""
    return int(float(value)) if _is_count(value) and float(value).is_integer() else None


def _is_count(value: Any) -> bool:
    """Whether ``value`` is a number, also as text, that a span can have measured."""
    if value is None or isinstance(value, bool):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return math.isfinite(number) and 0 <= number < BEYOND
