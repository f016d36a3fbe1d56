"""The hooks that all instrumented clients share (HTTP libraries, SDK, asyncio): put in once, while any client is on or
any of its calls is under way.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation import aiohttp_urllib3, http, langchain, lifecycle
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import run_queue
from llmtrace.observe.call import Call
from llmtrace.observe.process import Lock
from llmtrace.tasks import units

_log = logging.getLogger("llmtrace")
_lock = Lock()
_tracers: list[CallTracer] = []
_patches: Patches | None = None


def join(tracer: CallTracer) -> None:
    """Register ``tracer``; the first one puts the hooks in."""
    global _patches
    with _lock:
        _tracers.append(tracer)
        units.use_meters(tracer.services.telemetry.meters)
        if tracer.services.tracer_provider is not None:
            units.use_provider(tracer.services.tracer_provider)  # a task's spans go where its calls' go
        if _patches is None:
            _patches = Patches()
            http.patch(_patches)
            aiohttp_urllib3.patch(_patches)
            lifecycle.patch(_patches, flush, _feeds)
            langchain.patch(_patches)


def leave(tracer: CallTracer) -> None:
    """Unregister ``tracer``, which begins no more calls. Once its calls under way have ended, and no other client is
    on, the hooks are taken out.
    """
    with _lock:
        units.leave_meters(tracer.services.telemetry.meters)
        if tracer.services.tracer_provider is not None:
            units.leave_provider(tracer.services.tracer_provider)
    tracer.in_use.when_free(partial(_gone, tracer))


def _gone(tracer: CallTracer) -> None:
    global _patches
    with _lock:
        _tracers.remove(tracer)
        if not _tracers and _patches is not None:
            _patches.undo()
            _patches = None
            run_queue.forget()


def _feeds(call: Call, provider: Any) -> bool:
    """Whether what ``call`` will say may go to ``provider``, one of the SDK's of spans or of metrics."""
    for tracer in list(_tracers):
        if call in tracer.in_use:
            return tracer.services.telemetry.may_go_to(provider)
    return True


def flush(seconds: float) -> None:
    """Force-flush the providers in use, within ``seconds`` for all of them together.

    Takes no lock: this process may be ending while another thread holds ours.
    """
    until = time.monotonic() + seconds
    providers: dict[int, Any] = {
        id(provider_in_use): provider_in_use
        for tracer in list(_tracers)
        for provider_in_use in tracer.services.providers()
    }
    for provider in providers.values():
        force_flush = getattr(provider, "force_flush", None)  # OpenTelemetry's API alone has none
        if force_flush is None:
            continue
        try:
            force_flush(int(max(0.0, until - time.monotonic()) * 1000))
        except Exception as error:
            _log.warning("the last telemetry was not exported: %s", type(error).__name__)
