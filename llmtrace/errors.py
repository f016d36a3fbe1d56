"""The error that llmtrace raises to its users: one line that says what is wrong and what to do."""

from __future__ import annotations


class LlmtraceError(Exception):
    """A mistake that the caller can mend: an unknown setting, a missing extra, a broken file.

    Never raised from inside an instrumented call: there, whatever goes wrong on our side is counted and logged once.
    """
