"""Reading fields off what a client hands out: objects, mappings, or something malformed. Never raises for bad data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def get(source: Any, name: str) -> Any:
    """``source``'s field, whether it is a mapping or an object with known and extra fields; None if it has none."""
    if source is None:
        return None
    known: Any = getattr(source, "__dict__", None)
    if known is not None:  # an object of the client's: the common case, and asking for Mapping is slow
        if name in known:
            return known[name]
        extra = getattr(source, "__pydantic_extra__", None)
        if extra:
            return extra.get(name)
    return source.get(name) if isinstance(source, Mapping) else None


def fields(source: Any) -> Mapping[str, Any]:
    """All fields of ``source``, known and extra, as a mapping."""
    known: Any = getattr(source, "__dict__", None)
    if known is None or isinstance(source, Mapping):
        return source if isinstance(source, Mapping) else {}
    extra: Any = getattr(source, "__pydantic_extra__", None)
    return {**known, **extra} if extra else known


def extras(source: Any) -> Mapping[str, Any]:
    """The fields that the client library does not model itself; all fields for a plain mapping."""
    if isinstance(source, Mapping):
        return source
    return getattr(source, "__pydantic_extra__", None) or {}


def items(value: Any) -> Sequence[Any]:
    """``value`` if it is a list or tuple, else nothing."""
    return value if isinstance(value, (list, tuple)) else ()


def text(value: Any) -> str | None:
    """``value`` if it is a non-empty string."""
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """``value`` if it is a count: an int (no bool), zero or more."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def number(value: Any) -> float | None:
    """``value`` if it is a number that a span can carry."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
