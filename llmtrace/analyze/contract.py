"""The span contract as readers need it: files may be of any schema version, not only the one written now.

Names of attributes and spans are in ``emit.names``, phases and their order in ``phases.model``: version 2 has all those
of version 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmtrace.conventions import EVALUATION_EVENT
from llmtrace.phases import model
from llmtrace.phases.model import NETWORK, OPAQUE, PHASES, QUEUE_PREFILL, UNATTRIBUTED

VERSIONS: Final = (1, 2)
"""Schema versions that are read."""
FAILED: Final = ("error", "timed_out")
"""Outcomes of calls that failed."""
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
WORDS: Final = {
    "model_load": "model load",
    **{f"model_load.{part}": part.replace("_", " ") for part in model.LOAD_PARTS},
    "kv_cache_hit": "cache hit",
    "decode.reasoning": "reasoning",
    "decode.output": "output",
    QUEUE_PREFILL: "queue + prefill",
    OPAQUE: "not told apart",
    "retry": "retries",
}
"""What people read in place of a phase's name, wherever that is another word."""
DETAILS: Final = "llmtrace.call.details"
"""The event of version 1 with the attributes that were too many for the call's span."""
TELLING: Final = {DETAILS: "", EVALUATION_EVENT: "gen_ai.evaluation."}
"""Events whose attributes count as their span's own, as far as their names begin so; the last of several counts."""
REASONS: Final = {
    model.NO_USAGE: (
        "nobody told how many tokens there were",
        "ask for usage with stream_options (include_usage, or the setting request_usage)",
    ),
    model.FEW_CALLS: ("the route has too few calls yet", "more calls, or a saved baseline, would help"),
    model.NARROW_SPREAD: (
        "the route's prompts are too alike",
        "calls with shorter and with longer prompts would help, or a saved baseline",
    ),
    model.BUFFERED: (
        "the stream was held back and came at once",
        "a way that does not buffer would help, or server timings",
    ),
    model.NO_STREAM: ("nobody saw when the first token came", "streaming would show that, and so would server timings"),
    model.CUT_SHORT: (
        "the call ended before its first token, or nobody read it",
        "a call that is read until then shows more",
    ),
    model.AMBIGUOUS: ("what is known fits several splits", "an engine that reports its timings would help"),
}
"""For each reason why phases are merged: what it means, and what would help."""


WHO: Final = ("upstream", "deployment", "upstream_model")
"""What of ``llmtrace.route.fingerprint`` says who answered behind a gateway: the first that is there."""


def upstream(fingerprint: str | None) -> str | None:
    """Who answered behind a gateway, by ``llmtrace.route.fingerprint``; None where none told."""
    told = {name: value for name, _, value in (part.partition("=") for part in (fingerprint or "").split(";"))}
    return next((value for name in WHO if (value := told.get(name))), None)


def reasons(told: object) -> list[str]:
    """The words of ``llmtrace.phase.merged_because``: a text, a list, or a list as text with commas."""
    if isinstance(told, str):
        return [word for word in told.split(",") if word]
    return [str(word) for word in told] if isinstance(told, (list, tuple)) else []


def because(told: object, detail: object = None) -> str | None:
    """Why phases are merged, as the one sentence that all readers show; None where nothing is said of it.

    ``told`` and ``detail``: ``llmtrace.phase.merged_because`` and the detail beside it. The detail has the call's own
    figures and what would help; without it the reason's meaning and remedy stand there. The reason's word comes last.
    One that is not known is shown as it is.
    """
    words = reasons(told)
    known = ["; ".join(REASONS[word]) for word in words if word in REASONS]
    sentence = detail if isinstance(detail, str) and detail else "; ".join(known)
    named = ", ".join(words)
    return f"{sentence} ({named})" if sentence and named else sentence or named or None


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
