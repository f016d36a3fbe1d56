"""The words of the span contract as trace files have them: those of every schema version that readers know.

What this llmtrace writes is said in ``emit.names`` and ``phases.model``; a file may be older than it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmtrace.phases.model import DECODE, KV_CACHE_HIT, NETWORK, OPAQUE, PREFILL, QUEUE, QUEUE_PREFILL

VERSIONS: Final = (1, 2)
"""Schema versions that are read."""

GATEWAY: Final = "gateway"
UNATTRIBUTED: Final = "unattributed"
"""Since version 2: what nobody accounts for. Version 1 counted it as network."""
PHASES: Final = (
    NETWORK, GATEWAY, UNATTRIBUTED, QUEUE, KV_CACHE_HIT, PREFILL, DECODE, QUEUE_PREFILL, OPAQUE,
)  # fmt: skip
"""In the order in which a call goes through them; then those that could not be told apart."""
MERGED: Final = (QUEUE_PREFILL, OPAQUE)
OVERHEAD: Final = "network + unattributed"
"""Both as one figure, where calls of version 1 are compared with later ones."""
OVERHEAD_NOTE: Final = (
    "network and unattributed are one figure here: some of the calls are of schema version 1, whose network includes "
    "what is unattributed since"
)


def figures(mixed: bool) -> dict[str, tuple[str, ...]]:
    """What is shown of the phases, in order, and which phases each is the sum of.

    ``mixed``: calls of version 1 stand beside later ones, so that their network alone must not be compared.
    """
    if not mixed:
        return {phase: (phase,) for phase in PHASES}
    others = {phase: (phase,) for phase in PHASES if phase not in (NETWORK, UNATTRIBUTED)}
    return {OVERHEAD: (NETWORK, UNATTRIBUTED), **others}


def are_mixed(versions: Iterable[int]) -> bool:
    """Whether calls of version 1 stand beside later ones."""
    met = set(versions)
    return 1 in met and len(met) > 1


CALL_SPAN: Final = "llm.call"
"""Since version 2: a call beneath another instrumentation's LLM span whose object was not at hand. That one has the
model and the usage, this one what is llmtrace's own; together they are one call."""
LLM_OPERATIONS: Final = (
    "chat", "text_completion", "completion", "generate_content", "embeddings", "embedding", "rerank", "llm",
)  # fmt: skip
"""What an LLM call's operation may be, in lower case: the GenAI conventions' names and those of two other tracers."""

DETAILS: Final = "llmtrace.call.details"
"""The event of version 1 with the attributes that were too many for the call's span."""
DIAGNOSIS: Final = "llmtrace.diagnosis"
"""The call's causes, and the name of the events with their evidence. Those lie on the call's span in version 1, on the
span of the guilty phase since."""
FIRST_CAUSE: Final = "llmtrace.diagnosis.cause"

ADOPTED: Final = "llmtrace.call.adopted"
CALL_DURATION: Final = "llmtrace.call.duration"
"""Seconds. An adopted span, which is another instrumentation's, keeps its own times; this is what phases add up to."""
CALL_START: Final = "llmtrace.call.start_time_unix_nano"
CALL_STREAMING: Final = "llmtrace.call.streaming"

UNCERTAINTY_LOW: Final = "llmtrace.phase.uncertainty.low"
"""Seconds by which a phase may have been shorter, at 90 %; with ``.high``, by which it may have been longer."""
UNCERTAINTY_HIGH: Final = "llmtrace.phase.uncertainty.high"
MERGED_BECAUSE: Final = "llmtrace.phase.merged_because"
MERGED_DETAIL: Final = "llmtrace.phase.merged_because.detail"

REASONS: Final = {
    "no_usage": ("nobody told how many tokens there were", "usage in the answer (stream_options.include_usage)"),
    "few_calls": ("the route has too few calls yet", "more calls, or a saved baseline"),
    "narrow_spread": ("the route's calls are too alike", "calls with shorter and with longer prompts"),
    "buffered": ("the stream was held back and came at once", "a proxy that passes chunks on"),
    "no_stream": ("the answer came whole", "streaming"),
    "cut_short": ("the call ended before its first token, or before its usage", "nothing: it is so"),
    "ambiguous": ("what is known of the call fits several splits", "an engine that reports its timings"),
}
"""Why phases are merged: what that means, and what would help."""
