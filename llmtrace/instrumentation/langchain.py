"""LangChain beside another instrumentation with a span for each run of a model: finds the run of each request.

Traceloop's and OpenInference's instrumentations of LangChain do not make these spans current, so a client beneath
cannot see them. What leads to them is the run's id, which LangChain gives out as it starts a run: it is noted in the
context in which the request will be made.

It is read off what the callback managers return. A callback handler of ours would do as well, but be seen: it would
stand in every list of handlers, and once one handler is inline, ``AsyncCallbackManager.on_llm_start`` passes over all
that are not (langchain-core 1.8).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.trace import Span

from llmtrace.calls.adoption import Run, framework_runs
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors

_MANAGERS = "langchain_core.callbacks.manager"
_TRACELOOP = "opentelemetry.instrumentation.langchain.callback_handler"
_OPENINFERENCE = "openinference.instrumentation.langchain"
_STARTS = ("on_chat_model_start", "on_llm_start")

SpanOf = Callable[[Any], Span | None]
"""The span of the run with an id; None where there is none, and once the run is over."""


def patch(patches: Patches) -> None:
    """Note LangChain's runs from when one of the instrumentations is imported; before that, leave LangChain alone."""

    def start(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run_start = _note_start(instance, kwargs)
        managers = wrapped(*args, **kwargs)
        if run_start is not None:
            run_start.note_runs(managers)
        return managers

    async def astarted(run_start: _Start, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        managers = await wrapped(*args, **kwargs)
        run_start.note_runs(managers)
        return managers

    def astart(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run_start = _note_start(instance, kwargs)  # here, and not in the task that LangChain may make of it
        return wrapped(*args, **kwargs) if run_start is None else astarted(run_start, wrapped, args, kwargs)

    def hook(managers: Any) -> None:
        for owner, hook_start in (("CallbackManager", start), ("AsyncCallbackManager", astart)):
            for name in _STARTS:
                if not patches.holds(getattr(managers, owner, None), name):
                    patches.wrap(managers, f"{owner}.{name}", hook_start)

    for module in (_TRACELOOP, _OPENINFERENCE):
        patches.when_imported(module, lambda imported: patches.when_imported(_MANAGERS, hook))


class _Run:
    """One run, and the instrumentations that may have a span for it."""

    __slots__ = ("_id", "_sources", "models")

    def __init__(self, run_id: Any, sources: Sequence[SpanOf], models: Sequence[str]) -> None:
        self._id = run_id
        self._sources = sources
        self.models = models

    def span(self) -> Span | None:
        """The span of the run, until the run is over; None afterwards."""
        for source in self._sources:
            span = source(self._id)
            if span is not None:
                return span
        return None


class _Start:
    """One start of runs: a chat model's starts all of a request's at once, a text model's each by itself."""

    def __init__(self, sources: Sequence[SpanOf], models: Sequence[str]) -> None:
        self._sources = sources
        self._models = models
        self.runs: Sequence[_Run] = ()

    def note_runs(self, managers: Sequence[Any]) -> None:
        """Note the runs that LangChain has started: each of ``managers`` is for one of them."""
        try:
            self.runs = [_Run(manager.run_id, self._sources, self._models) for manager in managers]
        except Exception as error:
            internal_errors.note("noting a run of LangChain's", error)


class _Batch:
    """The runs that LangChain starts for one request of the application, which may be a batch."""

    def __init__(self, size: int, parent: Any) -> None:
        self.size = size
        self.parent = parent
        self._starts: list[_Start] = []

    def add(self, start: _Start) -> None:
        """Add one more start."""
        self._starts.append(start)

    def is_incomplete(self) -> bool:
        """Whether more starts are to come. Each start counts for one run at least."""
        return sum(max(1, len(start.runs)) for start in self._starts) < self.size

    def __iter__(self) -> Iterator[Run]:
        for start in self._starts:
            yield from start.runs


def _note_start(manager: Any, kwargs: dict[str, Any]) -> _Start | None:
    """Note in this context the runs that ``manager`` is about to start; None where nobody has spans for them."""
    try:
        batch: Any = framework_runs.get()
        sources = _sources(manager.handlers)
        if not sources:
            if batch:
                framework_runs.set(())
            return None
        start = _Start(sources, _models(kwargs.get("invocation_params")))
        size, parent = kwargs.get("batch_size") or 1, manager.parent_run_id
        if not (isinstance(batch, _Batch) and (batch.size, batch.parent) == (size, parent) and batch.is_incomplete()):
            batch = _Batch(size, parent)
            framework_runs.set(batch)
        batch.add(start)
        return start
    except Exception as error:
        internal_errors.note("noting a run of LangChain's", error)
        return None


def _sources(handlers: Sequence[Any]) -> list[SpanOf]:
    sources: list[SpanOf] = []
    traceloop = getattr(sys.modules.get(_TRACELOOP), "TraceloopCallbackHandler", None)
    if traceloop is not None:
        sources += [_traceloop(handler) for handler in handlers if isinstance(handler, traceloop)]
    openinference = getattr(sys.modules.get(_OPENINFERENCE), "LangChainInstrumentor", None)
    if openinference is not None and openinference().is_instrumented_by_opentelemetry:
        sources.append(openinference().get_span)
    return sources


def _traceloop(handler: Any) -> SpanOf:
    def span_of(run_id: Any) -> Span | None:
        holder = handler.spans.get(run_id)
        return None if holder is None else holder.span

    return span_of


def _models(params: Any) -> list[str]:
    """The names that a chat model's parameters have for the model; LangChain's clients differ in where they put it."""
    if not isinstance(params, dict):
        return []
    return [name for key in ("model", "model_name") if isinstance(name := params.get(key), str) and name]
