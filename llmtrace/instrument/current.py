"""Which call is being made right now, for the transport hooks; set only while the client's request runs.

A call that nothing is recorded of (unsampled, no metrics) is there as its bare span.
"""

from __future__ import annotations

from contextvars import ContextVar

from opentelemetry.trace import Span

from llmtrace.observe.call import Call

current: ContextVar[Call | Span | None] = ContextVar("llmtrace_call", default=None)

RESPONSE_KEY = "llmtrace.call"
"""Where an httpx response's ``extensions`` hold its call."""
