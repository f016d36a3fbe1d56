"""Reads and checks a request's parameters, and turns its filters into SQL over ``calls``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmtrace.view.serve.bodies import RefusedError

LISTS: Final = ("service", "route", "provider", "model", "outcome", "cause")
"""Filters that may be given several times, to accept any of the values. They are the facets too."""
NUMBERS: Final = ("since_us", "until_us", "slower_s")
KNOWN: Final = (*LISTS, *NUMBERS, "q")
_LONGEST: Final = 500
_MOST: Final = 100
_HEX: Final = re.compile(r"[0-9a-f]{4,32}")

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Filters:
    """The conditions that a request sets on calls."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    q: str = ""

    def where(self, without: str = "") -> tuple[str, list[Any]]:
        """The SQL condition and its values; the list filter named ``without`` is left out."""
        parts: list[str] = ["true"]
        values: list[Any] = []
        for name, accepted in self.lists.items():
            if name == without:
                continue
            if name == "cause":
                parts.append("list_has_any(causes, ?::VARCHAR[])")
                values.append(list(accepted))
            else:
                parts.append(f"{name} IN ({', '.join('?' * len(accepted))})")
                values.extend(accepted)
        for name, condition in _CONDITIONS.items():
            if name in self.numbers:
                parts.append(condition)
                values.append(self.numbers[name])
        if self.q:
            self._text(parts, values)
        return " AND ".join(parts), values

    def _text(self, parts: list[str], values: list[Any]) -> None:
        either = [f"contains(lower({column}), ?)" for column in ("name", "model", "answered_model", "upstream", "task")]
        values.extend([self.q] * len(either))
        plain = self.q.removeprefix("0x").replace("-", "")
        if _HEX.fullmatch(plain):
            either.append("trace_id BETWEEN ?::UUID AND ?::UUID")
            values.extend((plain.ljust(32, "0"), plain.ljust(32, "f")))
            if len(plain) <= 16:
                either.append("span_id BETWEEN ? AND ?")
                values.extend((int(plain.ljust(16, "0"), 16), int(plain.ljust(16, "f"), 16)))
        parts.append(f"({' OR '.join(either)})")


_CONDITIONS: Final = {
    "since_us": "start_us >= ?",
    "until_us": "start_us <= ?",
    "slower_s": "duration_s >= ?",
}


def parse(pairs: Pairs, others: Iterable[str] = ()) -> tuple[Filters, dict[str, str]]:
    """The filters, and the parameters named in ``others``. Raises RefusedError (400), which names the known ones."""
    lists: dict[str, list[str]] = {}
    numbers: dict[str, float] = {}
    rest: dict[str, str] = {}
    q = ""
    for name, value in pairs:
        if len(value) > _LONGEST:
            raise RefusedError(400, f"{name} is longer than {_LONGEST} characters")
        if name in LISTS:
            lists.setdefault(name, []).append(value)
        elif name in NUMBERS:
            numbers[name] = number(name, value)
        elif name == "q":
            q = value.strip().lower()
        elif name in others:
            rest[name] = value
        else:
            raise unknown(name, (*KNOWN, *others))
    if any(len(values) > _MOST for values in lists.values()):
        raise RefusedError(400, f"more than {_MOST} values of one filter")
    return Filters({name: tuple(dict.fromkeys(values)) for name, values in lists.items()}, numbers, q), rest


def only(pairs: Pairs, known: Sequence[str]) -> dict[str, str]:
    """The parameters of an address that takes no filters. Raises RefusedError (400)."""
    for name, _ in pairs:
        if name not in known:
            raise unknown(name, known)
    return dict(pairs)


def unknown(name: str, known: Iterable[str]) -> RefusedError:
    """The error for an unknown parameter (400)."""
    known_names = ", ".join(known)
    return RefusedError(
        400, f"unknown parameter {name[:60]!r}: " + (f"there are {known_names}" if known_names else "there are none")
    )


def number(name: str, value: str) -> float:
    """The number in a parameter. Raises RefusedError (400)."""
    try:
        parsed = float(value)
    except ValueError:
        parsed = float("nan")
    if not abs(parsed) < 1e18:
        raise RefusedError(400, f"{name} is no number: {value[:40]!r}")
    return parsed


def count(name: str, value: str | None, default: int, most: int, least: int = 1) -> int:
    """The whole number in a parameter, within bounds. Raises RefusedError (400)."""
    if value is None:
        return default
    try:
        parsed = int(value)
    except ValueError:
        parsed = least - 1
    if not least <= parsed <= most:
        raise RefusedError(400, f"{name} is a whole number from {least} to {most}, not {value[:40]!r}")
    return parsed
