"""Failures inside llmtrace are counted here and logged once. The application's call goes on unchanged."""

from __future__ import annotations

import logging
from collections import Counter

_log = logging.getLogger("llmtrace")

counts: Counter[str] = Counter()
"""Failures by place; exported as the metric ``llmtrace.errors``."""


def note(where: str, error: BaseException) -> None:
    """Count a failure of ours at ``where``; the first at each place is logged with its traceback. Never raises."""
    counts[where] += 1
    if counts[where] == 1:
        try:
            _log.warning("llmtrace failed in %s; the call goes on without it (logged once)", where, exc_info=error)
        except Exception:  # a broken logging set-up must not reach the application
            return
