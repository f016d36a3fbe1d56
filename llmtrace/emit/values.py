"""The one gate through which every value passes on its way to OpenTelemetry: what comes out can be exported.

A provider may claim any count and name a model with anything; OTLP has 64 bits for a count and UTF-8 for a text. What
an exporter cannot encode it drops, with a traceback in the application's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.util.types import AttributeValue

_MOST = 2**63 - 1
_LEAST = -(2**63)


def text(value: str) -> str:
    """``value`` with each character that UTF-8 cannot encode (half of a surrogate pair) replaced by a question mark."""
    if value.isascii():
        return value
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()


def class_name(error: BaseException) -> str:
    """The exception's class with its module, as ``error.type`` and ``exception.type`` want it."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def safe(value: Any) -> AttributeValue | None:
    """``value`` as it can be exported; None where it cannot be: a count beyond 64 bits, a list of mixed types."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() else text(value)
    if kind is bool or kind is float:
        return value
    if kind is int:
        return value if _LEAST <= value <= _MOST else None
    if isinstance(value, str):
        return text(str.__str__(value))
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        return safe(int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (list, tuple)):
        cleaned = [safe(item) for item in value]
        if any(item is None or isinstance(item, (list, tuple)) for item in cleaned):
            return None
        return cleaned if len({type(item) for item in cleaned}) <= 1 else None  # pyright: ignore[reportReturnType]
    return None


def safe_attributes(attributes: Mapping[str, Any]) -> Mapping[str, AttributeValue]:
    """``attributes`` as they can be exported, without those that cannot be: the very mapping where all of them can."""
    cleaned: dict[str, AttributeValue] | None = None
    for name, value in attributes.items():
        kind = type(value)
        if kind is float or (kind is str and value.isascii()) or kind is bool:
            continue
        if kind is int and _LEAST <= value <= _MOST:
            continue
        usable = safe(value)
        if cleaned is None:
            cleaned = dict(attributes)
        if usable is None:
            del cleaned[name]
        else:
            cleaned[name] = usable
    return attributes if cleaned is None else cleaned


def safe_structure(value: Any) -> Any:
    """Nested mappings and lists with every text and number in them as it can be exported; None for what cannot be."""
    if isinstance(value, Mapping):
        return {text(str(name)): safe_structure(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [safe_structure(inner) for inner in value]
    return safe(value)
