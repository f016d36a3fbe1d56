"""Models that were loaded into this process, until the first call of each, which tells what it waited for."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span, SpanContext

from llmtrace.calls.result import Result
from llmtrace.diagnosis.cold_model import loaded_first
from llmtrace.emit import names
from llmtrace.observe import internal_errors
from llmtrace.observe.process import Lock


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load that has ended: its span, and how long it took in s."""

    span: SpanContext
    seconds: float


_lock = Lock()
_unused: weakref.WeakKeyDictionary[Any, Loaded] = weakref.WeakKeyDictionary()


def remember(model: Any, loaded: Loaded) -> None:
    """``model`` was loaded, or a further part of its load has ended; no call of it was made yet."""
    with _lock:
        before = _unused.get(model)
        seconds = loaded.seconds + (0.0 if before is None else before.seconds)
        _unused[model] = Loaded(loaded.span if before is None else before.span, seconds)


def is_unused(model: Any) -> bool:
    """Whether ``model`` was loaded and no call of it was made yet."""
    try:
        with _lock:
            return model in _unused
    except Exception as error:
        internal_errors.note("finding a model's load", error)
        return False


def first_call(model: Any, span: Span) -> Loaded | None:
    """The load of ``model`` if this is the first call of it; then ``span``, the call's, is linked to it."""
    try:
        if not _unused:
            return None
        with _lock:
            loaded = _unused.pop(model, None)
        if loaded is not None and span.is_recording():
            span.add_link(loaded.span, {names.LINK_KIND: "model_load"})
        return loaded
    except Exception as error:
        internal_errors.note("finding a model's load", error)
        return None


def diagnose(result: Result, loaded: Loaded) -> None:
    """Name the load as a cause of the first call's wait, where both are in one trace: whoever made the call waited for
    the model too."""
    if result.state.span.get_span_context().trace_id != loaded.span.trace_id:
        return
    call, first = result.call, result.seen.first_token
    wait = ((first or call.end or call.start) - call.start) / 1e9
    verdict = loaded_first(loaded.seconds, loaded.seconds + wait, "the model was loaded first, in the same trace")
    if verdict is not None:
        verdict.confidence = 0.99
        result.verdicts = [verdict, *result.verdicts]
