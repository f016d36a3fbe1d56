"""Failures inside llmtrace are counted here and logged once. The application's call goes on unchanged."""

from __future__ import annotations

import logging
from collections import Counter

_log = logging.getLogger("llmtrace")

counts: Counter[str] = Counter()
"""Failures by place; exported as the metric ``llmtrace.errors``."""


def note(where: str, error: BaseException) -> None:
    """Count a failure of ours at ``where``; the first at each place is logged with its traceback. Never raises."""
    if _is_first(where):
        _warn("llmtrace failed in %s; the call goes on without it (logged once)", where, exc_info=error)


def note_surroundings(where: str, error: OSError) -> None:
    """Count what a disk or a file did not let us do, which its owner can mend: one line without a traceback."""
    if _is_first(where):
        _warn("%s: %s (logged once; the calls go on without it)", where, error)


def _is_first(where: str) -> bool:
    counts[where] += 1
    return counts[where] == 1


def _warn(message: str, *arguments: object, exc_info: BaseException | None = None) -> None:
    try:
        _log.warning(message, *arguments, exc_info=exc_info)
    except Exception:  # a broken logging set-up must not reach the application
        return
