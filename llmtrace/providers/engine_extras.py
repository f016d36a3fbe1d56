"""What engines tell beside their timings: speculative decoding, the tiers of their cache, how long their queue was.

``fields`` are a body's (or a stream's last chunks') top-level fields. Nothing here raises for odd values: what is no
count is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmtrace.observe.answer import Answer, Speculation
from llmtrace.observe.internal_errors import note
from llmtrace.providers.safe import count, get, items
from llmtrace.providers.timings import read_timings

TIERS: Final = ("device", "host", "storage")
"""Where SGLang's cached tokens lay: in the accelerator's memory, the machine's, or beyond."""
_VLLM: Final = ("num_draft_tokens", "num_accepted_draft_tokens", "num_spec_steps")
_LLAMA_CPP: Final = ("draft_n", "draft_n_accepted", "")
_SGLANG: Final = (
    ("spec_num_proposed_drafts", "spec_num_correct_drafts", "spec_verify_ct"),
    ("spec_draft_token_num", "spec_accept_token_num", "spec_verify_ct"),
)
"""Where tokens proposed, tokens taken over and, but for llama.cpp, steps stand."""
_PLACES: Final = frozenset({"metrics", "timings", "nvext", "sglext", "meta_info", "choices"})


def add_engine(
    answer: Answer, fields: Mapping[str, Any], usage: Mapping[str, Any], headers: Mapping[str, str] | None
) -> None:
    """Put what the engine tells of its own work into ``answer``: its timings, and what stands beside them."""
    answer.timings = read_timings(fields, usage, headers)
    if _PLACES.isdisjoint(fields):
        return
    try:
        answer.speculation = _speculation(fields)
        # Dynamo lib/llm/src/protocols/common/timing.rs: requests in the router's queue when this one was routed. Its
        # traces have the same number without the first word.
        timing = get(fields.get("nvext"), "timing")
        depths = (count(get(timing, name)) for name in ("router_queue_depth", "queue_depth"))
        answer.queue_depth = next((depth for depth in depths if depth is not None), None)
        tiers = _tiers(fields)
        if tiers:
            answer.cached_by_tier = tiers
            if answer.usage.cached_tokens is None:
                answer.usage.cached_tokens = sum(tiers.values())
    except Exception as error:  # somebody's model that raises when it is read
        note("reading what an engine tells", error)


def _speculation(fields: Mapping[str, Any]) -> Speculation | None:
    """Speculative decoding, as the first of three engines tells it.

    vLLM (docs/features/speculative_decoding/acceptance_metrics.md) and SGLang (managers/tokenizer_manager.py,
    ``meta_info``, whose names changed once) count the steps that verified a draft. llama.cpp (tools/server,
    ``timings``) counts tokens only: each of its steps makes one token itself, so that the steps are the tokens that no
    draft brought.
    """
    timings = fields.get("timings")
    predicted, taken = count(get(timings, "predicted_n")), count(get(timings, "draft_n_accepted"))
    steps = predicted - taken if predicted is not None and taken is not None else None
    told = [(get(fields.get("metrics"), "speculative_decoding"), *_VLLM), (timings, *_LLAMA_CPP)]
    told += [(meta, *names) for meta in _metas(fields) for names in _SGLANG]
    for counts, drafted_name, accepted_name, steps_name in told:
        drafted, accepted = count(get(counts, drafted_name)), count(get(counts, accepted_name))
        if drafted is None and accepted is None:
            continue
        if drafted is None or accepted is None or accepted > drafted:
            return None
        steps = count(get(counts, steps_name)) if steps_name else steps
        return Speculation(drafted, accepted, steps if steps is not None and steps > 0 else None)
    return None


def _metas(fields: Mapping[str, Any]) -> list[Any]:
    """The places of SGLang's ``meta_info``: of the answer, of the first of several, of the first choice."""
    meta, choices = fields.get("meta_info"), items(fields.get("choices"))
    first_meta, first_choice = next(iter(items(meta)), None), next(iter(choices), None)
    return [meta, first_meta, get(first_choice, "meta_info")]


def _tiers(fields: Mapping[str, Any]) -> dict[str, int]:
    """sglang srt: ``sglext`` of the body or of a chunk of its own (request: return_cached_tokens_details), else
    ``meta_info``."""
    for source in (fields.get("sglext"), *_metas(fields)):
        details = get(source, "cached_tokens_details")
        if details is None:
            continue
        tiers = {tier: tokens for tier in TIERS if (tokens := count(get(details, tier))) is not None}
        if tiers:
            return tiers
    return {}
