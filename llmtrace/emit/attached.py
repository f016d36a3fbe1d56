"""An OpenTelemetry context that is current for a while, given back without ever failing."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context


class Attached:
    """Makes ``context`` the current one, and ``value`` that of ``variable``, until ``detach``.

    Code may go on in another ``contextvars.Context`` than the one it began in: a coroutine that one loop begins and
    another ends, a generator that is closed by the garbage collector. What was set is then not there to be given back;
    OpenTelemetry's own ``detach`` would write an error into the application's log.
    """

    __slots__ = ("_mine", "_theirs", "_variable")

    def __init__(self, context: Context, variable: ContextVar[Any], value: Any) -> None:
        self._variable = variable
        self._mine = variable.set(value)
        self._theirs = otel.attach(context)

    def detach(self) -> None:
        """Give back what was current before, in this same context; elsewhere do nothing."""
        try:
            self._variable.reset(self._mine)
        except (ValueError, RuntimeError):
            return
        otel.detach(self._theirs)
