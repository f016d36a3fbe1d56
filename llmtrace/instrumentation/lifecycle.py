"""Hooks on the OpenTelemetry SDK's flush and shutdown, and on asyncio's timeouts."""

from __future__ import annotations

import asyncio
import asyncio.tasks
import sys
import weakref
from collections.abc import Sequence
from typing import Any

from llmtrace.calls import finalizers
from llmtrace.calls.engine import Engine
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors, stream


def patch(patches: Patches, engines: Sequence[Engine]) -> None:
    """End open calls when a TracerProvider flushes or shuts down, and note which tasks a timeout cancels."""

    def before(action: Any) -> Any:
        def hook(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                if any(instance is engine.tracer_provider for engine in engines):
                    action()
            except Exception as error:
                internal_errors.note("flushing", error)
            return wrapped(*args, **kwargs)

        return hook

    def hook_provider(module: Any) -> None:
        patches.wrap(module, "TracerProvider.force_flush", before(finalizers.flush))
        patches.wrap(module, "TracerProvider.shutdown", before(finalizers.shutdown))

    patches.when_imported("opentelemetry.sdk.trace", hook_provider)
    finalizers.at_exit(finalizers.shutdown)
    _watch_timeouts(patches)


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
