"""What is installed, what is traced, where spans go, and what is missing: nothing secret is ever printed."""

from __future__ import annotations

from llmtrace.doctor.page import Report, examine, run

__all__ = ["Report", "examine", "run"]
