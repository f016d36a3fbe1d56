"""Reading fields off what a client hands out: objects, mappings, or something malformed. Never raises for bad data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llmtrace import conventions
from llmtrace.observe.answer import Answer

_NO_MODEL: Any = object()
_MOST: Final = 2**63 - 1
"""The highest count that fits the 64 bits which a span or a metric has for it."""


def get(source: Any, name: str) -> Any:
    """``source``'s field, whether it is a mapping or an object with known and extra fields; None if it has none."""
    if source is None:
        return None
    if type(source) is dict:
        return source.get(name)
    try:
        own = source.__dict__
        if name in own:  # an object of the client's: the common case
            return own[name]
        extra: Any = getattr(source, "__pydantic_extra__", _NO_MODEL)
        if extra is not _NO_MODEL:  # asked first: asking for Mapping is slow
            return extra.get(name) if type(extra) is dict else None  # of a class of pydantic's it is no value
    except (AttributeError, TypeError):
        pass
    return source.get(name) if isinstance(source, Mapping) else None


def fields(source: Any) -> Mapping[str, Any]:
    """All fields of ``source``, known and extra, as a mapping."""
    if type(source) is dict:
        return source
    extra: Any = getattr(source, "__pydantic_extra__", _NO_MODEL)
    if extra is not _NO_MODEL:  # asked first: asking for Mapping is slow
        if isinstance(source, type):
            return {}  # a class, which has no values
        return {**source.__dict__, **extra} if extra else source.__dict__
    return source if isinstance(source, Mapping) else getattr(source, "__dict__", {})


def is_model(value: Any) -> bool:
    """Whether ``value`` is an object of one of pydantic's classes, by which clients declare what they send and get."""
    return not isinstance(value, type) and hasattr(value, "__pydantic_fields_set__")


def extras(source: Any) -> Mapping[str, Any]:
    """The fields that the client library does not model itself; all fields for a plain mapping."""
    extra: Any = getattr(source, "__pydantic_extra__", _NO_MODEL)
    if extra is not _NO_MODEL:
        return extra if type(extra) is dict else {}
    return source if isinstance(source, Mapping) else {}


def items(value: Any) -> Sequence[Any]:
    """``value`` if it is a list or tuple, else nothing."""
    return value if isinstance(value, (list, tuple)) else ()


def text(value: Any) -> str | None:
    """``value`` if it is a non-empty string; of an enumeration's member that is one too, the plain string."""
    if type(value) is str:
        return value or None
    return str.__str__(value) or None if isinstance(value, str) else None


def count(value: Any) -> int | None:
    """``value`` if it is a count: an int (no bool) or a whole float, as some APIs count in, from zero to 64 bits."""
    if value is None:
        return None
    if isinstance(value, float):
        return int(value) if 0 <= value < _MOST and value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def number(value: Any) -> float | None:
    """``value`` if it is a number that a span can carry."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an int of hundreds of digits
        return None


def integer(value: Any) -> int | None:
    """``value`` if it is an int (no bool)."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_SAMPLING: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": (conventions.TEMPERATURE, number),
    "top_p": (conventions.TOP_P, number),
    "top_k": (conventions.TOP_K, count),
    "frequency_penalty": (conventions.FREQUENCY_PENALTY, number),
    "presence_penalty": (conventions.PRESENCE_PENALTY, number),
    "max_tokens": (conventions.MAX_TOKENS, count),
    "seed": (conventions.SEED, integer),
}
"""The parameters that most APIs have, by the conventions' names, which are most APIs' too: attribute, and reader."""


def sampling(source: Any, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes that ``source`` sets: sampling, limits, stop sequences.

    ``names``: what this API calls otherwise, and the conventions' name for it: ``{"p": "top_p"}``.
    """
    given = fields(source)
    found: dict[str, Any] = {}
    for name in given:
        if name in _SAMPLING:
            attribute, accept = _SAMPLING[name]
            if (value := accept(given[name])) is not None:
                found[attribute] = value
    for theirs, name in (names or {}).items():
        if theirs in given:
            attribute, accept = _SAMPLING[name]
            if (value := accept(given[theirs])) is not None:
                found[attribute] = value
    stop = given.get("stop", given.get("stop_sequences"))
    if stops := [stop] if isinstance(stop, str) else [each for each in items(stop) if isinstance(each, str)]:
        found[conventions.STOP_SEQUENCES] = stops
    return found


_MODALITIES = tuple((modality, f"{modality}_tokens") for modality in ("text", "image", "audio"))


def by_modality(details: Any) -> dict[str, int]:
    """The tokens of each modality that the details of a usage in OpenAI's shape tell: ``audio_tokens`` and its like."""
    told: dict[str, int] = {}
    if details is not None:
        for modality, field in _MODALITIES:
            if tokens := count(get(details, field)):
                told[modality] = tokens
    return told


def set_finish_reasons(answer: Answer, reasons: Mapping[int, str]) -> None:
    """Put the finish reasons of choices, by their positions, into ``answer``."""
    answer.ended = tuple(sorted(reasons))
    answer.finish_reasons = tuple(reasons[position] for position in answer.ended)


def parsed(body: Any) -> Mapping[str, Any]:
    """The JSON object in ``body``, text or bytes; nothing where there is none."""
    if not isinstance(body, (str, bytes, bytearray)):
        return {}
    try:
        found: Any = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
