"""The span contract as readers need it: files may be of any schema version, not only the one written now.

Names of attributes and spans are in ``emit.names``, phases and their order in ``phases.model``: version 2 has all those
of version 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmtrace.phases import model
from llmtrace.phases.model import NETWORK, OPAQUE, PHASES, QUEUE_PREFILL, UNATTRIBUTED

VERSIONS: Final = (1, 2)
"""Schema versions that are read."""
MERGED: Final = (QUEUE_PREFILL, OPAQUE)
"""Phases that could not be told apart."""
OVERHEAD: Final = "network + unattributed"
"""One figure of both phases, for calls of version 1 beside later ones: version 1 counted unattributed as network."""
OVERHEAD_NOTE: Final = (
    "network and unattributed are one figure here: some of the calls are of schema version 1, whose network includes "
    "what is unattributed since"
)
LLM_OPERATIONS: Final = (
    "chat", "text_completion", "completion", "generate_content", "embeddings", "embedding", "rerank", "llm",
)  # fmt: skip
"""What an LLM call's operation may be, in lower case: the GenAI conventions' names and those of two other tracers."""
DETAILS: Final = "llmtrace.call.details"
"""The event of version 1 with the attributes that were too many for the call's span."""
REASONS: Final = {
    model.NO_USAGE: ("nobody told how many tokens there were", "usage in the answer (stream_options.include_usage)"),
    model.FEW_CALLS: ("the route has too few calls yet", "more calls, or a saved baseline"),
    model.NARROW_SPREAD: ("the route's prompts are too alike", "calls with shorter and with longer prompts"),
    model.BUFFERED: ("the stream was held back and came at once", "a way that does not buffer, or server timings"),
    model.NO_STREAM: ("nobody saw when the first token came", "streaming"),
    model.CUT_SHORT: ("the call ended before its first token, or nobody read it", ""),
    model.AMBIGUOUS: ("what is known fits several splits", "an engine that reports its timings"),
}
"""For each reason why phases are merged: what it means, and what would help."""


def figures(mixed: bool) -> dict[str, tuple[str, ...]]:
    """The figures that reports show, in order, each with the phases that it is the sum of.

    ``mixed``: calls of version 1 stand beside later ones, so that their network alone must not be compared.
    """
    if not mixed:
        return {phase: (phase,) for phase in PHASES}
    others = {phase: (phase,) for phase in PHASES if phase not in (NETWORK, UNATTRIBUTED)}
    return {OVERHEAD: (NETWORK, UNATTRIBUTED), **others}


def are_mixed(versions: Iterable[int]) -> bool:
    """Whether calls of version 1 stand beside later ones."""
    distinct = set(versions)
    return 1 in distinct and len(distinct) > 1
