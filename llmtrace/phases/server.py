"""What a server says of itself, judged: impossible numbers are removed, with a reason."""

from __future__ import annotations

import math

from llmtrace.observe.answer import ServerTimings
from llmtrace.phases.observation import Observation

STEP_APART = frozenset({"vllm"})
"""Engines whose own "queue" begins once the step is over that ran when a call came: vLLM's engine core takes new
requests in between two steps, and counts from there. What a server tells is not changed, so on these that wait stands
in front of the queue, unattributed; and so it does where it is estimated."""
SLACK_SHARE = 0.02
SLACK_S = 0.002
"""Server numbers may exceed what the client saw by this share and time (rounding, clock rates) and are scaled to fit;
beyond it they contradict the client and are not used."""
LOADED_S = 0.1
"""Having the model ready takes Ollama some ms where it is loaded already; from this on it was loaded."""
HIDDEN_SHARE = 0.75
HIDDEN_S = 0.005
"""A stream delivered in less than this share of the decode time that the server reports was held back on the way."""


def most_in(window: float) -> float:
    """The longest that a server's numbers may be in a ``window`` of the client's, s."""
    return window * (1 + SLACK_SHARE) + SLACK_S


def plausible(seen: Observation) -> tuple[ServerTimings | None, str | None]:
    """The server's numbers with every impossible one removed, and the reason for the first that was."""
    timings = seen.server
    if timings is None:
        return None, None
    window = (seen.end - seen.start) / 1e9
    most = most_in(window)
    if _plainly_fits(timings, window):
        return timings, None
    complaint: str | None = None
    kept = ServerTimings(
        timings.engine,
        cached_tokens=timings.cached_tokens,
        model_load=timings.model_load,
        grammar_compile=timings.grammar_compile,
        grammar_mask=timings.grammar_mask,
        device=timings.device,
    )
    for name in ("queue", "kv_cache_hit", "prefill", "decode", "ttft", "total"):
        value = getattr(timings, name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            complaint = complaint or f"{name} is no duration"
        elif value > most:
            complaint = complaint or f"{name} is longer than the call"
        else:
            setattr(kept, name, float(value))
    before_decode = (kept.queue or 0.0) + (kept.kv_cache_hit or 0.0) + (kept.prefill or 0.0)
    if kept.prefill is not None and before_decode + (0.0 if seen.streaming else kept.decode or 0.0) > most:
        return None, complaint or "the phases are longer than the call together"
    if kept.prefill is None and kept.ttft is None and kept.total is None:
        return None, complaint or "no phase could be used"
    return kept, complaint


def _plainly_fits(timings: ServerTimings, window: float) -> bool:
    """The common case: all three phases told, as floats that fit the call together; no need to look closer."""
    if timings.ttft is not None or timings.kv_cache_hit is not None:
        return False
    queue, prefill, decode, total = timings.queue, timings.prefill, timings.decode, timings.total
    return (
        type(queue) is float
        and type(prefill) is float
        and type(decode) is float
        and queue >= 0
        and prefill >= 0
        and decode >= 0
        and queue + prefill + decode <= window
        and (total is None or (type(total) is float and 0 <= total <= window))
    )


def plausible_gateway(seen: Observation) -> float | None:
    """What a gateway says of itself, s; None where that is no duration, or longer than the call."""
    spent = seen.gateway
    if spent is None or not math.isfinite(spent) or not 0 <= spent <= (seen.end - seen.start) / 1e9:
        return None
    return spent


def load_of(server: ServerTimings) -> float:
    """How long the model was loaded for the call, s, as a part of its queue; 0 where it was loaded already."""
    load = server.model_load
    if load is None or not math.isfinite(load) or load < LOADED_S or server.queue is None:
        return 0.0
    return min(load, server.queue)


def held_back(seen: Observation, server: ServerTimings) -> bool:
    """Whether the client saw the tokens in a burst that the engine made over a longer time."""
    if not seen.streaming or seen.first_token is None or server.decode is None or server.prefill is None:
        return False
    window = (seen.end - seen.first_token) / 1e9
    whole = (server.queue or 0.0) + (server.kv_cache_hit or 0.0) + server.prefill + server.decode
    return window < HIDDEN_SHARE * server.decode - HIDDEN_S and whole <= most_in((seen.end - seen.start) / 1e9)
