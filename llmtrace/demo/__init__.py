"""``llmtrace demo``: a real model, the real client, every phase shown, and beside it what the client alone infers."""

from __future__ import annotations

from llmtrace.demo.run import run

__all__ = ["run"]
