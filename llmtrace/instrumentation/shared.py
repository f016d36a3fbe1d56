"""What all instrumented clients share, in place once while any of them is on: the hooks on HTTP, SDK and asyncio."""

from __future__ import annotations

import threading

from llmtrace.calls.engine import Engine
from llmtrace.instrumentation import aiohttp_urllib3, http, lifecycle
from llmtrace.instrumentation.patching import Patches

_lock = threading.Lock()
_engines: list[Engine] = []
_patches: Patches | None = None


def join(engine: Engine) -> None:
    """Count ``engine`` in; the first one puts the hooks in."""
    global _patches
    with _lock:
        _engines.append(engine)
        if _patches is None:
            _patches = Patches()
            http.patch(_patches)
            aiohttp_urllib3.patch(_patches)
            lifecycle.patch(_patches, _engines)


def leave(engine: Engine) -> None:
    """Count ``engine`` out; the last one takes the hooks out."""
    global _patches
    with _lock:
        if engine in _engines:
            _engines.remove(engine)
        if not _engines and _patches is not None:
            _patches.undo()
            _patches = None
