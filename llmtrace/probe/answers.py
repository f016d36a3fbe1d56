"""One call as the probe sees it, and the ways in which a call is refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Live:
    """A running stream that another thread looks at, and may end."""

    moments: list[float] = field(default_factory=list[float])
    """When each chunk with output came, monotonic s."""
    stop: threading.Event = field(default_factory=threading.Event)
    most: int | None = None
    """Close it once so many chunks with output have come; None: read on."""

    @property
    def done(self) -> bool:
        """Whether it is to be closed now."""
        return self.stop.is_set() or (self.most is not None and len(self.moments) >= self.most)


@dataclass(slots=True, kw_only=True)
class Answer:
    """A call that was answered. Moments are monotonic s; tokens are the provider's own counts, None where not told."""

    sent: float
    end: float
    moments: list[float]
    """When each chunk with output came."""
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    text: str = ""
    id: str = ""
    """The provider's own name of the answer."""
    logprob: float | None = None
    """Of the first token, natural logarithm; None where not offered."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """In lower case."""

    @property
    def first(self) -> float:
        """When the first output came; the call's end where it had none that showed."""
        return self.moments[0] if self.moments else self.end

    @property
    def ttft(self) -> float:
        """From sending to the first output, s."""
        return self.first - self.sent

    @property
    def seconds_per_token(self) -> float | None:
        """Between output tokens; None with fewer than four chunks.

        Where each chunk is a token it is the middle gap, which a hiccup does not move.
        """
        chunks = len(self.moments)
        if chunks < 4:
            return None
        tokens = self.output_tokens or chunks
        if abs(tokens - chunks) <= max(2, tokens // 8):
            gaps = sorted(b - a for a, b in zip(self.moments, self.moments[1:], strict=False))
            return gaps[len(gaps) // 2]
        return (self.moments[-1] - self.moments[0]) / max(1, tokens - 1)


class Refusal(Exception):
    """The provider did not answer: one line that says what it said. ``status``: HTTP's, None without one."""

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """s, where told."""


class TooLong(Refusal):
    """The prompt does not fit the model's context."""


class TooShort(Refusal):
    """The provider does not give so short an answer: the client asks for a longer one from now on."""


class Exhausted(Exception):
    """The next call might pass the budget: it was not sent."""
