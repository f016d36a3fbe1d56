"""Which call is being made right now, for the transport hooks; set only while the client's request runs."""

from __future__ import annotations

from contextvars import ContextVar

from llmtrace.observe.call import Call

current: ContextVar[Call | None] = ContextVar("llmtrace_call", default=None)

RESPONSE_KEY = "llmtrace.call"
"""Where an httpx response's ``extensions`` hold its call."""
