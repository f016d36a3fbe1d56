"""``llmtrace demo``: a real model, the real client, every phase shown, what the client alone could tell beside it."""

from __future__ import annotations

from llmtrace.demo.run import run

__all__ = ["run"]
