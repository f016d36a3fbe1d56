"""What an export says: records of single calls, and sums over stretches of time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

OPENROUTER, LITELLM, OPENAI, ANTHROPIC = "openrouter", "litellm", "openai", "anthropic"
NS: Final = 1_000_000_000
_MOST: Final = 1 << 53
"""No count of tokens is larger, and no float is exact beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One billed call. Times in ns since the epoch; None: not told."""

    source: str
    place: str
    """``FILE:LINE``."""
    ids: tuple[str, ...]
    """Names that its answer may have in a trace, its own first."""
    models: tuple[str, ...]
    start_ns: int | None
    end_ns: int | None
    input_tokens: int | None
    output_tokens: int
    usd: float | None
    hop: str
    """Who counted, and for whom: ``openrouter: Infermatic``."""

    @property
    def bill(self) -> str:
        """What was billed, in words."""
        into = "" if self.input_tokens is None else f"{self.input_tokens:,} input and "
        return f"{into}{self.output_tokens:,} output tokens" + ("" if self.usd is None else f" for ${self.usd:g}")


@dataclass(slots=True, kw_only=True)
class Bucket:
    """The sums of one provider and model over a stretch of time; ``model`` None: of all models."""

    source: str
    start_ns: int
    end_ns: int
    model: str | None
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int | None = None


@dataclass(slots=True)
class Exports:
    """All that was read, and each row that could not be."""

    records: list[Record] = field(default_factory=list[Record])
    buckets: dict[tuple[str, int, int, str | None], Bucket] = field(
        default_factory=dict[tuple[str, int, int, str | None], Bucket]
    )
    problems: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """``FILE:LINE`` and the reason."""
    repeated: int = 0
    """Records that were there already, under the same id."""
    contradicting: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """``FILE:LINE`` of those among them that say something else, and what."""
    _first: dict[tuple[str, str], Record] = field(default_factory=dict[tuple[str, str], Record])

    def add(self, record: Record) -> None:
        """Take a record in, once for each id."""
        name = (record.source, record.ids[0] if record.ids else record.place)
        first = self._first.setdefault(name, record)
        if first is record:
            self.records.append(record)
            return
        self.repeated += 1
        if record.bill != first.bill:
            self.contradicting.append(
                (record.place, f"it says {record.bill}, {first.place} said {first.bill} under its id: that one counts")
            )

    def sum_up(self, bucket: Bucket) -> None:
        """Take sums in: rows of one bucket and model, by key or project, are one."""
        key = (bucket.source, bucket.start_ns, bucket.end_ns, bucket.model)
        known = self.buckets.setdefault(key, bucket)
        if known is not bucket:
            known.input_tokens += bucket.input_tokens
            known.output_tokens += bucket.output_tokens
            if bucket.requests is not None:
                known.requests = (known.requests or 0) + bucket.requests


class Unreadable(ValueError):
    """A row says nothing that can be used; the message is why."""


def tokens(row: Mapping[str, Any], *names: str) -> int | None:
    """A count of tokens under the first name that has one.

    Raises:
        Unreadable: what stands there is no count.
    """
    for name in names:
        value = row.get(name)
        if value is None or value == "":
            continue
        number = _number(value)
        if number is None or number < 0 or number != int(number) or number > _MOST:
            raise Unreadable(f"{name} is {str(value)[:40]!r}, which is no count of tokens")
        return int(number)
    return None


def needed(row: Mapping[str, Any], *names: str) -> int:
    """A count that has to be there. Raises ``Unreadable`` where it is not."""
    value = tokens(row, *names)
    if value is None:
        raise Unreadable(f"it has no {names[0]}")
    return value


def usd(row: Mapping[str, Any], *names: str) -> float | None:
    """An amount in USD, None where there is none that can be used."""
    for name in names:
        number = _number(row.get(name))
        if number is not None and number >= 0:
            return number
    return None


def words(row: Mapping[str, Any], *names: str) -> str:
    """The first text that is there."""
    return next((value for name in names if isinstance(value := row.get(name), str) and value), "")


def some(values: Iterable[str]) -> tuple[str, ...]:
    """Those that are not empty, each once."""
    return tuple(dict.fromkeys(value for value in values if value))


def moment(value: Any) -> int | None:
    """ns since the epoch of a time that is written as seconds or as ISO 8601 (UTC where it names no zone).

    Raises:
        Unreadable: it is neither.
    """
    if value is None or value == "":
        return None
    number = _number(value)
    try:
        if number is not None:
            seconds = number / 1e3 if number > 1e11 else number  # from there on it is counted in ms
            datetime.fromtimestamp(seconds, timezone.utc)
            return round(seconds * 1e6) * 1000
        text = str(value).strip().replace("Z", "+00:00").replace(" UTC", "+00:00")
        when = datetime.fromisoformat(_fraction(text))
        when = when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)
        since = when - datetime(1970, 1, 1, tzinfo=timezone.utc)
        return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
    except (ValueError, OverflowError, OSError):
        raise Unreadable(f"{str(value)[:40]!r} is no time") from None


def _fraction(text: str) -> str:
    """A fraction of a second as Python 3.10 reads it: six digits."""
    head, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{head}.{digits[:6]:<06}{rest[len(digits) :]}" if point and digits else text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
