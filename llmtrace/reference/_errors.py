"""The errors of the reference runner, for its users."""

from __future__ import annotations

from llmtrace.errors import LlmtraceError
from llmtrace.version import install_hint

__all__ = ["OutOfMemory", "RunnerError", "missing_extra"]


class RunnerError(LlmtraceError):
    """The runner cannot start or cannot take a request; the message is one line that says what to do."""


class OutOfMemory(RunnerError):
    """The device has no memory for this request; the message says what would fit."""


def missing_extra(error: ImportError) -> RunnerError:
    """The error for an import that only the `reference` extra brings."""
    name = (error.name or str(error)).partition(".")[0]
    return RunnerError(f"the reference runner needs {name}, which is not installed: {install_hint('reference')}")
