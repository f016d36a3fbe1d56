"""llmtrace: where each LLM call's time went, phase by phase, and how that is known.

import llmtrace
llmtrace.instrument("openai")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtrace.errors import LlmtraceError
from llmtrace.version import VERSION as __version__

if TYPE_CHECKING:
    from llmtrace.instrumentation.identity import model_resource
    from llmtrace.instrumentation.switch import instrument, uninstrument
    from llmtrace.launch.configure import configure
    from llmtrace.tasks.units import carrier, resume, step, task

__all__ = [
    "LlmtraceError",
    "__version__",
    "carrier",
    "configure",
    "instrument",
    "model_resource",
    "resume",
    "step",
    "task",
    "uninstrument",
]


def __getattr__(name: str) -> Any:
    """Import what is first asked for: the commands need none of it, and tasks and steps import OpenTelemetry's API."""
    if name in ("instrument", "uninstrument"):
        from llmtrace.instrumentation import switch

        return getattr(switch, name)
    if name in ("carrier", "resume", "step", "task"):
        from llmtrace.tasks import units

        return getattr(units, name)
    if name == "model_resource":
        from llmtrace.instrumentation.identity import model_resource

        return model_resource
    if name == "configure":
        from llmtrace.launch.configure import configure

        return configure
    raise AttributeError(f"module 'llmtrace' has no attribute {name!r}")
