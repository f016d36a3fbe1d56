"""llmtrace: where each LLM call's time went, phase by phase, and how that is known.

import llmtrace
llmtrace.instrument("openai")
"""

from __future__ import annotations

from llmtrace.errors import LlmtraceError
from llmtrace.instrument import instrument, uninstrument
from llmtrace.version import VERSION as __version__

__all__ = ["LlmtraceError", "__version__", "instrument", "uninstrument"]
