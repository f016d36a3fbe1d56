"""What a request asks for: its parameters read and checked, and its filters as SQL over ``calls``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmtrace.view.serve.bodies import RefusedError

LISTS: Final = ("service", "route", "provider", "model", "outcome", "cause")
"""Filters that may be given several times: any of the values. They are the facets too."""
NUMBERS: Final = ("since_us", "until_us", "slower_s")
KNOWN: Final = (*LISTS, *NUMBERS, "q")
_LONGEST: Final = 500
_MOST: Final = 100
_HEX: Final = re.compile(r"[0-9a-f]{4,32}")

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Filters:
    """The calls that are asked for."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    q: str = ""

    def where(self, without: str = "") -> tuple[str, list[Any]]:
        """A condition and its values; ``without`` leaves a list out."""
        parts: list[str] = ["true"]
        values: list[Any] = []
        for name, wanted in self.lists.items():
            if name == without:
                continue
            if name == "cause":
                parts.append("list_has_any(causes, ?::VARCHAR[])")
                values.append(list(wanted))
            else:
                parts.append(f"{name} IN ({', '.join('?' * len(wanted))})")
                values.extend(wanted)
        for name, condition in _CONDITIONS.items():
            if name in self.numbers:
                parts.append(condition)
                values.append(self.numbers[name])
        if self.q:
            self._text(parts, values)
        return " AND ".join(parts), values

    def _text(self, parts: list[str], values: list[Any]) -> None:
        either = [f"contains(lower({column}), ?)" for column in ("name", "model", "answered_model", "task")]
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
    """A parameter that there is not."""
    told = ", ".join(known)
    return RefusedError(400, f"unknown parameter {name[:60]!r}: " + (f"there are {told}" if told else "there are none"))


def number(name: str, value: str) -> float:
    """A parameter's number. Raises RefusedError (400)."""
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not abs(found) < 1e18:
        raise RefusedError(400, f"{name} is no number: {value[:40]!r}")
    return found


def count(name: str, value: str | None, default: int, most: int, least: int = 1) -> int:
    """A whole number within bounds. Raises RefusedError (400)."""
    if value is None:
        return default
    try:
        found = int(value)
    except ValueError:
        found = least - 1
    if not least <= found <= most:
        raise RefusedError(400, f"{name} is a whole number from {least} to {most}, not {value[:40]!r}")
    return found
