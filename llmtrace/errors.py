"""The error that llmtrace raises to its users: one line that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class LlmtraceError(Exception):
    """A mistake that the caller can mend: an unknown setting, a missing extra, a broken file.

    Never raised from inside an instrumented call: there, whatever goes wrong on our side is counted and logged once.
    """


def did_you_mean(given: str, known: Iterable[str], mark: str = "") -> str:
    """A hint for a name that is not among the ``known`` ones: the nearest of them, or nothing.

    ``mark``: what stands around the name.
    """
    from difflib import get_close_matches  # here, since it is slow to import and hardly ever wanted

    close = get_close_matches(given, list(known), 1)
    return f" Did you mean {mark}{close[0]}{mark}?" if close else ""
