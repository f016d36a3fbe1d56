"""Runs checks in a process of their own, each within its time, and goes on after one that fails, hangs or dies.

The child writes a line of JSON as it begins a check (`{"check": ..., "begun": true}`) and one as it ends it. A device
that has failed fails whatever comes after it in the same process, so a child ends with its first failure, and another
one takes the rest.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["START_LIMIT", "watch"]

START_LIMIT = 90.0
"""Seconds until a child has begun its first check: it imports torch, and opens the device."""
_POLL = 0.1

Row = dict[str, Any]


def watch(
    limits: Mapping[str, float],
    start: Callable[[list[str], Path], subprocess.Popen[bytes]],
    news: Callable[[Row], None],
    *,
    whole: float,
) -> None:
    """Have every check done that `limits` names, in that order, each in so many seconds, all in `whole`.

    `start` starts a child for the checks that are left, which writes its lines to the file. `news` is called with the
    row of each check as it comes; one that did not end by itself is a row too, with the verdict `failed` and why.
    """
    end = time.monotonic() + whole
    left = list(limits)
    while left:
        if time.monotonic() >= end:
            for name in left:
                news(_failed(name, 0.0, f"not begun: the {whole:g} s for all of them were over"))
            return
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "rows"
            lines.touch()
            child = start(list(left), lines)
            try:
                _follow(child, lines, left, limits, news, end)
            finally:
                child.kill()
                child.wait()


def _follow(
    child: subprocess.Popen[bytes],
    lines: Path,
    left: list[str],
    limits: Mapping[str, float],
    news: Callable[[Row], None],
    end: float,
) -> None:
    """Pass the child's rows on until it has ended; where it does not, or dies, its check has failed."""
    begun: str | None = None
    rows = 0
    since, limit = time.monotonic(), START_LIMIT
    with lines.open() as file:
        text = ""
        while True:
            ended = child.poll() is not None  # before the file is read, so that nothing comes behind it
            text += file.read()
            *whole, text = text.split("\n")
            for row in map(json.loads, whole):
                since = time.monotonic()
                if row.get("begun"):
                    begun, limit = row["check"], limits[row["check"]]
                else:
                    begun, limit, rows = None, START_LIMIT, rows + 1
                    left.remove(row["check"])
                    news(row)
            seconds = time.monotonic() - since
            if ended and begun is None and (rows or not left):
                return
            if ended:
                why = f"its process ended with {child.returncode}"
            elif time.monotonic() > end:
                why = "the time for all checks was over"
            elif seconds > limit:
                why = f"not done in {limit:g} s"
            else:
                time.sleep(_POLL)
                continue
            if begun is None:
                why = f"not begun: {why}"
            name = begun or left[0]
            left.remove(name)
            news(_failed(name, seconds, why))
            return


def _failed(name: str, seconds: float, why: str) -> Row:
    return {"check": name, "figure": None, "verdict": "failed", "error": why, "seconds": round(seconds, 3)}
