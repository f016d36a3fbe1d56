"""Why phases are merged: a word for those who count, and a sentence with the figures for those who read."""

from __future__ import annotations

from functools import lru_cache

from llmtrace.phases.model import (
    AMBIGUOUS,
    BUFFERED,
    CUT_SHORT,
    FEW_CALLS,
    NARROW_SPREAD,
    NO_STREAM,
    NO_USAGE,
    Unknown,
)
from llmtrace.phases.observation import Observation

WHOLE_ANSWER = Unknown(NO_STREAM, "the call was not streamed; a stream would show when its first token came")
ONLY_TOTAL = Unknown(NO_STREAM, "the server tells its total time only; a stream would show when its first token came")
ONLY_FIRST_TOKEN = Unknown(
    AMBIGUOUS,
    "the server tells when the first token came, not what that time was made of; an engine that tells its queue or its "
    "prefill would",
)
NOBODY_READ = Unknown(
    CUT_SHORT, "nobody read the stream, so nobody saw when its first token came; reading it would show that"
)
NO_TOKEN = Unknown(CUT_SHORT, "the call ended before its first token came; a call that goes on until then shows more")
USAGE_MISSING = Unknown(
    NO_USAGE,
    "the provider counted no prompt tokens, and the prompt could not be read; ask for usage with stream_options "
    "(include_usage, or the setting request_usage)",
)
HIDDEN_REASONING = Unknown(
    AMBIGUOUS,
    "the model reasoned before its first token, and the stream does not show when it began; a stream that shows its "
    "reasoning would, and so would server timings",
)
SUMMED_UP = Unknown(
    AMBIGUOUS,
    "the provider summed the history up before it answered (compaction), and nobody says how long that took; a shorter "
    "history would tell queue and prefill apart",
)
NOT_ESTIMATED = Unknown(
    AMBIGUOUS, "nothing was estimated for this call, and the server tells no timings; server timings would help"
)
NOT_FITTED = Unknown(
    AMBIGUOUS, "there are enough calls on this route, but nothing has been fitted to them yet; the next calls will show"
)

STEPS_UNSEEN = Unknown(
    AMBIGUOUS,
    "the steps in which the model in this process makes its tokens were not seen; the library's own generate() shows "
    "them",
)
ANSWERS_ALIKE = Unknown(
    NARROW_SPREAD,
    "the calls on this route have not shown what an output token takes; answers of different lengths would, or some "
    "streamed calls",
)


def in_one_burst(seen: Observation) -> Unknown:
    """The stream came at once after a long silence."""
    first = seen.start if seen.first_token is None else seen.first_token
    last = first if seen.last_chunk is None else seen.last_chunk
    return Unknown(
        BUFFERED,
        f"{seen.chunks} chunks came within {max(0, last - first) / 1e6:.0f} ms after {(first - seen.start) / 1e6:.0f} "
        "ms of silence: something on the way held the stream back; a way that does not buffer, or server timings, "
        "would help",
    )


def few_calls(calls: int, least: int) -> Unknown:
    """The route has seen ``calls`` that can be learned from, of ``least`` that an estimate takes."""
    return Unknown(
        FEW_CALLS,
        f"{calls} of {least} calls on this route; {least - calls} more, or a saved baseline, would tell queue and "
        "prefill apart",
    )


@lru_cache(64)  # asked for at each call of such a route, and seldom shown
def narrow_spread(spread: float, least: float) -> Unknown:
    """The route's prompts are too alike. Both: uncached tokens, 90th over 10th percentile."""
    return Unknown(
        NARROW_SPREAD,
        f"the uncached tokens of this route's prompts spread by a factor of {spread:.1f} (90th over 10th percentile); "
        f"a factor of {least:g} would tell queue and prefill apart",
    )


def undecided(least: float, most: float, stretch: float, calls: int) -> Unknown:
    """Any wait from ``least`` to ``most`` s would explain the ``stretch``, by the route's last ``calls``."""
    return Unknown(
        AMBIGUOUS,
        f"by {calls} calls on this route, anything from {max(0.0, least) * 1e3:.0f} to {min(most, stretch) * 1e3:.0f} "
        f"of these {stretch * 1e3:.0f} ms may have been queue; calls at quieter times, or server timings, would help",
    )


def why_unsplit(seen: Observation) -> Unknown | None:
    """The reason, in the call itself, why queue and prefill cannot be told apart; None where there is none."""
    if not seen.streaming:
        return None if _answered(seen) else WHOLE_ANSWER
    if seen.first_token is None:
        return NO_TOKEN if seen.waited else NOBODY_READ
    if seen.buffered:
        return in_one_burst(seen)
    usage = seen.usage
    if usage is not None and usage.reasoning_tokens and seen.first_reasoning is None:
        return HIDDEN_REASONING
    return SUMMED_UP if usage is not None and usage.summary_tokens else None


def _answered(seen: Observation) -> bool:
    """Whether a whole answer came: its usage counts what it holds."""
    return seen.usage is not None and bool(seen.usage.output_tokens)
