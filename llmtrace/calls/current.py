"""Which call is being made right now, for the hooks on HTTP libraries; set only while the client's request runs."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.calls.own_requests import Own
from llmtrace.emit.attached import Attached
from llmtrace.observe import internal_errors
from llmtrace.observe.call import Call


class Current:
    """The call being made."""

    __slots__ = ("_attached", "call", "over", "own", "propagate")

    def __init__(self, call: Call | Span, propagate: str, own: Own | None = None) -> None:
        self.call = call
        """Its bare span where nothing is recorded of it (unsampled, no metrics)."""
        self.propagate = propagate
        """The setting of that name: to which hosts ``traceparent`` is sent."""
        self.over = False
        """The client's request has come back. A task that was started within it keeps its context, and this."""
        self.own = Own() if own is None else own
        """Which requests are the call's own."""
        self._attached: Attached | None = None


_current: ContextVar[Current | None] = ContextVar("llmtrace_call", default=None)


def being_made() -> Current | None:
    """The call being made; None once its request has come back, also in tasks that were started within it."""
    current = _current.get()
    if current is None or current.over or (isinstance(current.call, Call) and not current.call.is_open):
        return None
    return current


def may_begin() -> bool:
    """Whether a call that an application makes now is one to trace: not within another one, nor while OpenTelemetry's
    instrumentations are suppressed."""
    # An empty context, which a program without spans of its own has, suppresses nothing.
    return being_made() is None and (not otel.get_current() or is_instrumentation_enabled())


class Beside:
    """While it lasts, no call is being made: what is sent is the application's own affair. Never raises."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _current.set(None)

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(ValueError, RuntimeError):  # in another context nothing was set
            _current.reset(self._token)


RESPONSE_KEY = "llmtrace.call"
"""Where an httpx response's ``extensions`` hold its call."""


class Making(Current):
    """Makes a call (unsampled: its bare span) the current one while the client's request runs. Never raises."""

    __slots__ = ()

    def __enter__(self) -> None:
        call = self.call
        try:
            span = call.state.span if isinstance(call, Call) else call
            self._attached = Attached(set_span_in_context(span), _current, self)
        except Exception as error:
            internal_errors.note("making a call current", error)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self.over = True
        call = self.call
        if isinstance(call, Call) and call.state is not None and _current.get() is not self:
            call.state.over_http = False  # it went on in another context, in which its requests were not seen
        if self._attached is None or (kind is GeneratorExit and _current.get() is not self):
            return  # dropped while suspended, in another context: there is nothing to give back here
        try:
            self._attached.detach()
        except Exception as ours:
            internal_errors.note("giving back the context", ours)
