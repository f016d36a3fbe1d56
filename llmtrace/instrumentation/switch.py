"""Switching tracing on and off: the only package that patches."""

from __future__ import annotations

import difflib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from llmtrace.errors import LlmtraceError
from llmtrace.version import install_hint

if TYPE_CHECKING:
    from llmtrace.providers import Client


def instrument(*clients: str, tracer_provider: Any = None, meter_provider: Any = None, **settings: Any) -> None:
    """Trace the named client libraries, or all supported ones that are installed.

    Args:
        clients: names of client libraries, for instance ``"openai"``.
        tracer_provider: the OpenTelemetry TracerProvider to use; the global one by default.
        meter_provider: the MeterProvider to use; the global one by default.
        settings: see ``llmtrace.config.Settings``; what is not given comes from the environment.

    Raises:
        LlmtraceError: an unknown client or setting, or a named client that is not installed or too old.
    """
    from llmtrace.config import settings as check
    from llmtrace.instrumentation.instrumentors import INSTRUMENTORS

    check(settings)
    wanted = clients or tuple(INSTRUMENTORS)
    for name in wanted:
        if name not in INSTRUMENTORS:
            close = difflib.get_close_matches(name, INSTRUMENTORS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LlmtraceError(f"unknown client {name!r}.{hint} Known clients: {', '.join(INSTRUMENTORS)}.")
    for name in wanted:
        instrumentor = INSTRUMENTORS[name]()
        if clients:  # of all of them, those that the program never imports need no looking at
            _require(instrumentor.client)
            if (conflict := instrumentor.unsupported()) is not None:
                raise LlmtraceError(f"{name} is not supported in this version: {conflict}")
        if not instrumentor.is_instrumented_by_opentelemetry:
            given = {"tracer_provider": tracer_provider, "meter_provider": meter_provider, **settings}
            instrumentor.instrument(skip_dep_check=True, **given)


def uninstrument(*clients: str) -> None:
    """Take tracing out of the named client libraries, or of all; their functions are the very ones from before.

    Raises:
        LlmtraceError: an unknown client.
    """
    from llmtrace.instrumentation.instrumentors import INSTRUMENTORS

    for name in clients or tuple(INSTRUMENTORS):
        if name not in INSTRUMENTORS:
            raise LlmtraceError(f"unknown client {name!r}. Known clients: {', '.join(INSTRUMENTORS)}.")
        instrumentor = INSTRUMENTORS[name]()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _require(client: Client) -> None:
    try:
        importlib.metadata.distribution(client.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise LlmtraceError(f"{client.name} is not installed: {install_hint(client.name)}") from None
