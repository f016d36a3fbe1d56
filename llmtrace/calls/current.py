"""Which call is being made right now, for the transport hooks; set only while the client's request runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

from opentelemetry import context as otel
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.observe.call import Call


class Current(NamedTuple):
    """The call being made."""

    call: Call | Span
    """Its bare span where nothing is recorded of it (unsampled, no metrics)."""
    propagate: str
    """The setting of that name: to which hosts ``traceparent`` is sent."""


current: ContextVar[Current | None] = ContextVar("llmtrace_call", default=None)


def being_made() -> Current | None:
    """The call being made, if it has not result: a task that was started within it goes on with its context."""
    being = current.get()
    if being is not None and isinstance(being.call, Call) and not being.call.is_open:
        return None
    return being


RESPONSE_KEY = "llmtrace.call"
"""Where an httpx response's ``extensions`` hold its call."""


class Making:
    """Makes a call (unsampled: its bare span) the current one while the client's request runs."""

    __slots__ = ("_current", "_mine", "_theirs")

    def __init__(self, call: Call | Span, propagate: str) -> None:
        self._current = Current(call, propagate)

    def __enter__(self) -> None:
        call = self._current.call
        self._mine = current.set(self._current)
        self._theirs = otel.attach(set_span_in_context(call.state.span if isinstance(call, Call) else call))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if kind is GeneratorExit:
            return  # dropped while suspended, perhaps in another context: there is nothing to give back here
        otel.detach(self._theirs)
        current.reset(self._mine)
