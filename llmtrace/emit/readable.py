"""A call's span that a person can read: what is least needed on it goes into one event when there is too much."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llmtrace.emit import names

_STAY = {
    names.REQUEST_MODEL,
    names.REQUEST_STREAM,
    "gen_ai.request.choice.count",  # without them the tokens that an answer may cost cannot be told
    "gen_ai.request.max_tokens",
}
_WANTED = ("gen_ai.request.seed", "gen_ai.output.type")
"""Options that the conventions want where they are set."""
_OPTIONS = (
    "gen_ai.request.",
    "gen_ai.output.type",
    "gen_ai.embeddings.dimension.count",
    "openai.request.",
    "anthropic.request.",
    "anthropic.thinking.",
)
_KEPT = _STAY.union(_WANTED)
_DETAILS = (
    # Least needed first: what the phases or the route's fingerprint tell too, then what tells how something is known.
    "openai.response.",
    "anthropic.",
    names.CHUNKS,
    names.ANCHOR,
    names.PROCESSING_TIME,
    names.TOKENIZER_BASIS,
    names.TOKENIZER_FINGERPRINT,
    names.ADAPTERS_MERGED,
    names.ADAPTER_RANKS,
    names.GENERATE_BEAMS,
    names.GENERATE_ROWS,
    names.MODEL_QUANTIZATION,
    names.MODEL_DTYPE,
    names.TIME_TO_FIRST_CHUNK,
    names.EXPECTED_TOKENS,
    names.RESPONSE_ID,
    names.CONFIDENCE,  # each verdict's own event has it too
    names.FINISH_REASONS,
    *_WANTED,
)


def overflow(found: dict[str, Any], there: Collection[str], most: int) -> Mapping[str, Any]:
    """Take out of ``found`` what goes into an event, so that with those ``there`` already at most ``most`` remain.

    The options of the request go first, and all of them together: whoever looks for them finds them in one place.
    Then details, one kind after the other, until the rest fits, and at the very last the options that the conventions
    want. What is none of these stays, even if that is more.
    """
    beyond = len(found.keys() | there) - most
    if beyond <= 0:
        return {}
    moved = {name: found.pop(name) for name in list(found) if name.startswith(_OPTIONS) and name not in _KEPT}
    for start in _DETAILS:
        if len(moved) >= beyond:
            break
        moved.update({name: found.pop(name) for name in list(found) if name.startswith(start)})
    return moved
