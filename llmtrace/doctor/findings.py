"""What is found: one line each, and how a value from outside may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Mark = Literal["ok", "note", "missing", "broken"]

_SAFE_VALUE = re.compile(r"[\w.,:;%+\- /*]{1,60}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: a mark, the subject, the finding, and the command that mends it."""

    mark: Mark
    name: str
    detail: str = ""
    fix: str = ""


def plain(value: str) -> str:
    """``value`` if it looks like a plain word or number; anything else might be a secret or steer the terminal."""
    return value if _SAFE_VALUE.fullmatch(value) else "set (value not shown)"


def one_line(error: BaseException) -> str:
    """What an exception says, cut to a line."""
    return " ".join(str(error).split())[:120]


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
