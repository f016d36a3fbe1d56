"""The folder for temporary files, asked for in one place."""

from __future__ import annotations

import tempfile

from llmtrace.errors import LlmtraceError


def folder() -> str:
    """The folder for temporary files.

    Raises:
        LlmtraceError: none can be written to, as on a disk that is read-only.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        raise LlmtraceError("no folder for temporary files can be written to: set TMPDIR to one that can") from None
