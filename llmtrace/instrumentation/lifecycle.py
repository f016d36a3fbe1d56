"""Hooks on the OpenTelemetry SDK's flush and shutdown, on the process's ends, and on asyncio's timeouts."""

from __future__ import annotations

import asyncio
import asyncio.tasks
import sys
import weakref
from collections.abc import Callable
from typing import Any

from llmtrace.calls import finalizers
from llmtrace.instrumentation import process_ends
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors, stream
from llmtrace.observe.call import Call
from llmtrace.observe.process import at_exit


def patch(patches: Patches, flush: Callable[[float], None], feeds: Callable[[Call, Any], bool]) -> None:
    """Hook flushes (they end dropped calls), shutdowns (they end the provider's open calls) and asyncio's timeouts.

    ``flush`` exports ended spans within the seconds that it is given; it serves ends of a process at which no provider
    is shut down. ``feeds`` says of a call whether what it will say may go to a provider of the SDK's.
    """

    def end_spans_of(provider: Any) -> None:
        # Spans have their provider's very resource, whatever stands before it; several providers may share one.
        resource = getattr(provider, "resource", None)
        if resource is None:
            return  # not the SDK's: which calls are its own cannot be told
        finalizers.end_open(
            lambda call: (
                getattr(_span_of(call), "resource", None) is resource and (_is_adopted(call) or feeds(call, provider))
            )
        )

    def end_values_of(provider: Any) -> None:
        finalizers.end_open(lambda call: _not_sampled(call) and feeds(call, provider))

    def hook_traces(module: Any) -> None:
        patches.wrap(module, "TracerProvider.force_flush", _before(lambda provider: finalizers.settle()))
        patches.wrap(module, "TracerProvider.shutdown", _before(end_spans_of))

    def hook_metrics(module: Any) -> None:
        patches.wrap(module, "MeterProvider.force_flush", _before(lambda provider: finalizers.settle()))
        patches.wrap(module, "MeterProvider.shutdown", _before(end_values_of))

    patches.when_imported("opentelemetry.sdk.trace", hook_traces)
    patches.when_imported("opentelemetry.sdk.metrics", hook_metrics)
    at_exit(finalizers.end_open)
    process_ends.watch(patches, flush)
    _watch_timeouts(patches)


def _before(action: Callable[[Any], None]) -> Any:
    def hook(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            action(instance)
        except Exception as error:
            internal_errors.note("flushing", error)
        return wrapped(*args, **kwargs)

    return hook


def _not_sampled(call: Call) -> bool:
    span = _span_of(call)
    return span is not None and not span.is_recording()


def _is_adopted(call: Call) -> bool:
    state = call.state
    return state is not None and state.adopted


def _span_of(call: Call) -> Any:
    """The span of a call; None once the call has ended, which another thread may do at any moment."""
    state = call.state
    return None if state is None else state.span


def _watch_timeouts(patches: Patches) -> None:
    """A deadline reaches a task as a plain cancellation; note the task just before, to tell the two apart."""
    expiring: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
    stream.timed_out_tasks = expiring

    def on_timeout(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task = getattr(instance, "_task", None)
        if task is not None:
            expiring.add(task)
        return wrapped(*args, **kwargs)

    def leave(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task = getattr(instance, "_task", None)
        if task is not None:
            expiring.discard(task)
        return wrapped(*args, **kwargs)

    def hook_timeouts(module: Any) -> None:
        patches.wrap(module, "Timeout._on_timeout", on_timeout)
        patches.wrap(module, "Timeout.__aexit__", leave)

    patches.when_imported("asyncio.timeouts", hook_timeouts)
    if sys.version_info >= (3, 12):
        return  # wait_for is made of the same timeouts there

    def cancel_and_wait(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task = args[0] if args else kwargs.get("fut")
        # wait_for cancels its inner task for a deadline, or, being cancelled itself, while handling an exception.
        if isinstance(task, asyncio.Task) and sys.exc_info()[0] is None:
            expiring.add(task)
        return wrapped(*args, **kwargs)

    patches.wrap(asyncio.tasks, "_cancel_and_wait", cancel_and_wait)
