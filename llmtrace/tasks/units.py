"""Units of work that calls belong to: a task that is resolved or not, and the steps on its way.

Both are spans. The task's id and the kind of the step under way travel as baggage, so that calls made in it are marked
with them, in this process and in every one that the baggage reaches.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry import trace as trace_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmtrace.emit import later, names
from llmtrace.emit.attached import Attached
from llmtrace.emit.metrics import Meters
from llmtrace.emit.tracers import Tracers
from llmtrace.emit.values import safe_attributes, text
from llmtrace.errors import LlmtraceError, did_you_mean
from llmtrace.observe import internal_errors
from llmtrace.observe.clock import now
from llmtrace.observe.in_use import InUse, in_use
from llmtrace.observe.process import Lock

KINDS: Final = ("retrieval", "rerank", "tool", "guardrail", "evaluation", "human_review", "repair", "other")
_OPERATIONS = {"retrieval": "retrieval", "tool": names.EXECUTE_TOOL}
"""Kinds for which the GenAI conventions have an operation."""
_MARKS = (names.TASK_ID, names.STEP_KIND)
_PROPAGATORS = (TraceContextTextMapPropagator(), W3CBaggagePropagator())

_unit: ContextVar[Any] = ContextVar("llmtrace_unit", default=None)
"""The task, step or resumption under way: marks the ``contextvars.Context`` in which it has to be given back."""
T = TypeVar("T")
_providers: list[trace_api.TracerProvider] = []
"""Where the spans go: the last provider given to ``llmtrace.instrument`` that is still in use, else the global one."""
_tracers = Tracers()
_meters: list[Callable[[], Meters | None]] = []
"""Give the instruments of the clients that are traced, the last one's last; None where there is no MeterProvider."""
_live: WeakValueDictionary[str, Task] = WeakValueDictionary()


def use_provider(provider: trace_api.TracerProvider) -> None:
    """Send the spans of tasks and steps that begin from now on to ``provider``, where their calls' spans go."""
    _providers.append(provider)


def leave_provider(provider: trace_api.TracerProvider) -> None:
    """Undo one ``use_provider(provider)``."""
    for position in reversed(range(len(_providers))):
        if _providers[position] is provider:
            del _providers[position]
            return


def use_meters(meters: Callable[[], Meters | None]) -> None:
    """Record how long tools take with the instruments that ``meters`` gives, where it gives some."""
    _meters.append(meters)


def leave_meters(meters: Callable[[], Meters | None]) -> None:
    """Undo one ``use_meters(meters)``."""
    if meters in _meters:
        _meters.remove(meters)


def _provider() -> trace_api.TracerProvider:
    return _providers[-1] if _providers else trace_api.get_tracer_provider()


def baggage_attributes() -> dict[str, Any]:
    """The attributes that mark a call which begins now: its task's id and the kind of the step around it."""
    carried = baggage.get_all()
    if not carried:
        return {}
    return {name: carried[name] for name in _MARKS if name in carried}


def spent(marked: Mapping[str, Any], usd: float) -> None:
    """Add ``usd`` to the task in ``marked``, if the task lives in this process. ``marked``: a call's attributes."""
    task = _live.get(str(marked.get(names.TASK_ID)))
    if task is not None:
        with suppress(LlmtraceError):  # no amount: what ends here, a call or a step, has nobody to tell
            task.add_cost(usd)


def repaired(marked: Mapping[str, Any]) -> None:
    """Count a call that repairs an answer, for the task in ``marked``, if the task lives in this process."""
    task = _live.get(str(marked.get(names.TASK_ID)))
    if task is not None:
        task.add_repair()


def has_budget(marked: Mapping[str, Any]) -> bool:
    """Whether the task in ``marked``, a call's attributes, lives in this process and has a budget."""
    task = _live.get(str(marked.get(names.TASK_ID)))
    return task is not None and task.budget is not None


class _Unit:
    """A span that is current while its block runs, in ``with`` and in ``async with``."""

    def __init__(self, title: str, attributes: dict[str, Any], carried: dict[str, str]) -> None:
        self._title, self._carried = text(title), carried
        self._attributes: dict[str, Any] = {**safe_attributes(attributes)}
        self._attached: Attached | None = None
        self._context: Context | None = None
        self._began = 0
        self._in_use: tuple[InUse, object] | None = None
        """The provider's, and what stands there for this unit, which may be dropped without an end."""
        self._instruments: Callable[[], Meters | None] | None = None
        self.span: Span = trace_api.INVALID_SPAN
        """The OpenTelemetry span, for attributes of your own."""

    def _begin(self) -> None:
        try:
            parent = _inherited()
            task_id = baggage.get_baggage(names.TASK_ID, parent)
            if task_id is not None:
                self._attributes.setdefault(names.TASK_ID, task_id)
            self._began = now()
            provider = _provider()
            under_way, token = self._in_use = in_use(provider), object()
            under_way.begin(token)
            self._instruments = _meters[-1] if _meters else None
            self.span = _tracers.of(provider).start_span(self._title, context=parent, attributes=self._attributes)
            context = set_span_in_context(self.span, parent)
            for name, value in self._carried.items():
                context = baggage.set_baggage(name, value, context)
            self._context = context
            self._attached = Attached(context, _unit, self)
        except Exception as error:
            internal_errors.note("beginning a task", error)

    def _finish(self, error: BaseException | None) -> None:
        try:
            if self._attached is not None:
                self._attached.detach()
                self._attached = None
            if isinstance(error, Exception):
                # The message stays out: it may quote what the task is about.
                self.span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                self.span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
            self._close(error)
            self.span.end()
        except Exception as ours:
            internal_errors.note("ending a task", ours)
        finally:
            if self._in_use is not None:
                under_way, token = self._in_use
                under_way.end(token)

    def _close(self, error: BaseException | None) -> None:
        """Set the last attributes of the span."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(error)

    def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call ``function`` inside this unit, on whatever thread this is: ``executor.submit(t.run, work, item)``."""
        attached = None if self._context is None else Attached(self._context, _unit, self)
        try:
            return function(*args, **kwargs)
        finally:
            if attached is not None:
                attached.detach()

    def carrier(self) -> dict[str, str]:
        """The headers that another process needs to go on inside this unit: ``traceparent`` and ``baggage``.

        Give it to ``llmtrace.resume`` there, or set both in upper case in a child process's environment.
        """
        return carrier(self._context)


class Task(_Unit):
    """A unit of work that is resolved or not. Made by ``llmtrace.task``."""

    def __init__(self, name: str, id: str | None, budget: float | None) -> None:
        self.name = name
        # As it can be exported and sent: whoever propagates baggage would fail at anything else.
        self.id = text(str(id)) if id is not None else uuid.uuid4().hex[:16]
        self.budget = budget
        """USD that the task may cost; None: no limit. Nothing is stopped at the limit: ``over_budget`` tells."""
        self._resolved: bool | None = None
        self._spent = 0.0
        self._repairs = 0
        self._lock = Lock()
        attributes: dict[str, Any] = {names.TASK_NAME: name, names.TASK_ID: self.id}
        if budget is not None:
            attributes[names.TASK_BUDGET] = budget
        super().__init__(f"task {name}", attributes, {names.TASK_ID: self.id})

    def __enter__(self) -> Task:
        self._begin()
        _live[self.id] = self
        return self

    async def __aenter__(self) -> Task:
        return self.__enter__()

    def resolved(self, resolved: bool = True) -> None:
        """Say whether the task reached its aim. The last value counts."""
        self._resolved = resolved

    def add_cost(self, usd: float) -> None:
        """Add ``usd`` that something beyond calls and steps cost.

        Raises:
            LlmtraceError: it is no amount in USD, or more than a number can hold with what was spent before.
        """
        dollars = _dollars(usd, "usd")
        with self._lock:
            self._spent = _dollars(self._spent + dollars, f"usd is {usd!r}, and the task's sum with it")

    def add_repair(self) -> None:
        """Count one call that asked again because an answer did not pass a check."""
        with self._lock:
            self._repairs += 1

    @property
    def repairs(self) -> int:
        """Calls so far in this process that asked again because an answer did not pass a check."""
        return self._repairs

    @property
    def spent(self) -> float:
        """USD so far in this process: steps, and (where there is a budget) calls whose tokens and price are known."""
        return self._spent

    @property
    def over_budget(self) -> bool:
        """Whether more than the budget has been spent."""
        return self.budget is not None and self._spent > self.budget

    def _close(self, error: BaseException | None) -> None:
        _live.pop(self.id, None)
        resolved = self._resolved
        if resolved is not None or error is not None:
            self.span.set_attribute(names.TASK_RESOLVED, bool(resolved) and not isinstance(error, Exception))
        if self._spent:
            self.span.set_attribute(names.TASK_SPENT, self._spent)
        if self._repairs:
            self.span.set_attribute(names.TASK_REPAIRS, self._repairs)


class Step(_Unit):
    """A part of a task that is no LLM call. Made by ``llmtrace.step``."""

    def __init__(self, name: str, kind: str, cost_usd: float | None) -> None:
        self.name, self.kind, self.cost_usd = name, kind, cost_usd
        attributes: dict[str, Any] = {names.STEP_KIND: kind}
        if kind in _OPERATIONS:
            attributes[names.OPERATION] = _OPERATIONS[kind]
        if kind == "tool":
            attributes[names.TOOL_NAME] = name
        super().__init__(f"{kind} {name}" if kind != "other" else name, attributes, {names.STEP_KIND: kind})

    def __enter__(self) -> Step:
        self._begin()
        return self

    async def __aenter__(self) -> Step:
        return self.__enter__()

    def cost(self, usd: float) -> None:
        """Set the step's cost in USD, where it is known only afterwards."""
        self.cost_usd = _dollars(usd, "cost")

    def _close(self, error: BaseException | None) -> None:
        instruments = self._instruments
        if self.kind == "tool" and instruments is not None and (meters := instruments()) is not None:
            failure = type(error).__qualname__ if isinstance(error, Exception) else None
            seconds, context = (now() - self._began) / 1e9, set_span_in_context(self.span)
            later.soon(partial(meters.record_tool, text(str(self.name)), seconds, failure, context))
        if self.cost_usd is not None:
            self.span.set_attribute(names.COST, self.cost_usd)
            spent(self._attributes, self.cost_usd)


def task(name: str, *, id: str | None = None, budget: float | None = None) -> Task:
    """A unit of work, for ``with`` or ``async with``; calls and steps inside are its own.

    Args:
        name: what kind of work it is (``"resolve ticket"``): the same for every task of the kind, it names the span.
        id: which one it is; random where it is not given. It travels as baggage, so it should not be a secret.
        budget: USD that it may cost.

    Raises:
        LlmtraceError: an empty name, or a budget that is no amount.
    """
    if not name:
        raise LlmtraceError("a task needs a name: llmtrace.task('resolve ticket')")
    return Task(name, id, None if budget is None else _dollars(budget, "budget"))


def step(name: str, *, kind: str = "other", cost_usd: float | None = None) -> Step:
    """A part of a task that is no LLM call: a retrieval, a tool, a person's review; for ``with`` or ``async with``.

    Args:
        name: the step's name, which names the span.
        kind: retrieval, rerank, tool, guardrail, evaluation, human_review, repair or other.
        cost_usd: its cost in USD; ``.cost(usd)`` can set it later.

    Raises:
        LlmtraceError: an unknown kind, or a cost that is no amount.
    """
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise LlmtraceError(f"unknown kind of step {kind!r}.{hint} Known kinds: {', '.join(KINDS)}.")
    return Step(name, kind, None if cost_usd is None else _dollars(cost_usd, "cost_usd"))


def _dollars(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise LlmtraceError(f"{what} is {value!r}; it takes an amount in USD, zero or more")
    return float(value)


# From one process to another


def carrier(context: Context | None = None) -> dict[str, str]:
    """The headers that another process needs to go on here: ``traceparent``, ``tracestate``, ``baggage``."""
    headers: dict[str, str] = {}
    for propagator in _PROPAGATORS:
        propagator.inject(headers, context)
    return headers


class resume:
    """``with llmtrace.resume(carrier):`` goes on inside the unit whose ``carrier`` came from another process.

    Where a message has none (None, or nothing that can be read), what is current here stays current.
    """

    def __init__(self, carried: Mapping[str, str] | None) -> None:
        headers: Any = carried.items() if isinstance(carried, Mapping) else ()  # an older sender's message, say
        self._carried = {name.lower(): value for name, value in headers if isinstance(name, str)}
        self._attached: Attached | None = None

    def __enter__(self) -> None:
        try:
            self._attached = Attached(_extracted(self._carried, otel.get_current()), _unit, self)
        except Exception as error:
            internal_errors.note("resuming a task", error)

    def __exit__(self, *ended: object) -> None:
        if self._attached is not None:
            self._attached.detach()


def _inherited() -> Context:
    """The current context; in a process whose context is empty, the one that its environment carries."""
    current = otel.get_current()
    if trace_api.get_current_span(current).get_span_context().is_valid or baggage.get_all(current):
        return current
    carried = {name: os.environ[name.upper()] for name in ("traceparent", "tracestate", "baggage")
               if os.environ.get(name.upper())}  # fmt: skip
    return _extracted(carried, current) if carried else current


def _extracted(carried: Mapping[str, str], context: Context) -> Context:
    for propagator in _PROPAGATORS:
        context = propagator.extract(dict(carried), context)
    return context
