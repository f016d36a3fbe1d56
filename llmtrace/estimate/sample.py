"""One call as the estimate takes it in."""

from __future__ import annotations

from dataclasses import dataclass

from llmtrace.estimate.tokens import Tokens
from llmtrace.phases.merged import NO_TOKEN, USAGE_MISSING, why_unsplit
from llmtrace.phases.model import Unknown
from llmtrace.phases.observation import Observation


@dataclass(slots=True, eq=False, repr=False)
class Sample:
    """One call as the estimator needs it. Moments are monotonic ns, None where not seen."""

    start: int
    """When the request had arrived, as far as known; else when the call began."""
    first: int
    """First token; of a whole answer, its end."""
    end: int
    uncached: int
    """Prompt tokens that had to be computed."""
    cached: int = 0
    headers: int | None = None
    event: int | None = None
    """First event of the stream, be it without a token."""
    tokens: int = 0
    """Output tokens (0: not known)."""
    whole: bool = False
    """The answer came as a whole."""
    media: int = 0
    """Images and the like in the prompt."""
    exact: bool = True
    """The first token was seen as it came."""


def sample_of(seen: Observation, event: int | None, tokens: Tokens | None, media: int = 0) -> Sample | Unknown:
    """The call as the baselines take it in, or why it says nothing about queue and prefill.

    ``event``: the stream's first event, be it without a token; ``tokens``: told or reckoned, None where they cannot be;
    ``media``: images and the like in the prompt.
    """
    why = why_unsplit(seen)
    if why is not None:
        return why
    if seen.first_token is None and seen.streaming:
        return NO_TOKEN
    if tokens is None:
        return USAGE_MISSING
    arrived = seen.request_arrived
    if seen.first_token is None:
        # Where the server told how long it had the call, what is longer was not the engine's.
        start = seen.start if arrived is None else arrived
        total = seen.server.total if seen.server is not None else None
        end = seen.end if total is None else min(seen.end, start + max(0, int(total * 1e9)))
        return Sample(start, end, end, tokens.uncached, tokens.cached, tokens=tokens.output, whole=True, media=media)
    return Sample(
        start=seen.start if arrived is None else arrived,
        first=seen.first_token,
        end=seen.end if seen.last_chunk is None else seen.last_chunk,
        uncached=tokens.uncached,
        cached=tokens.cached,
        headers=seen.headers,
        event=event,
        tokens=tokens.output,
        media=media,
        exact=seen.first_token_error is None,
    )
