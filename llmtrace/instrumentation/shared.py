"""What all instrumented clients share, in place once while any of them is on: the hooks on HTTP, SDK and asyncio."""

from __future__ import annotations

from llmtrace.calls.tracer import CallTracer
from llmtrace.instrumentation import aiohttp_urllib3, http, langchain, lifecycle
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe.process import Lock
from llmtrace.tasks import units

_lock = Lock()
_tracers: list[CallTracer] = []
_patches: Patches | None = None


def join(tracer: CallTracer) -> None:
    """Count ``tracer`` in; the first one puts the hooks in."""
    global _patches
    with _lock:
        _tracers.append(tracer)
        if tracer.services.tracer_provider is not None:
            units.use_provider(tracer.services.tracer_provider)  # a task's spans go where its calls' go
        if _patches is None:
            _patches = Patches()
            http.patch(_patches)
            aiohttp_urllib3.patch(_patches)
            lifecycle.patch(_patches)
            langchain.patch(_patches)


def leave(tracer: CallTracer) -> None:
    """Count ``tracer`` out; the last one takes the hooks out."""
    global _patches
    with _lock:
        if tracer in _tracers:
            _tracers.remove(tracer)
            if tracer.services.tracer_provider is not None:
                units.leave_provider(tracer.services.tracer_provider)
        if not _tracers and _patches is not None:
            _patches.undo()
            _patches = None
