"""What happened to one request, and when: the truth that others are checked against."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Timings"]


@dataclass
class Timings:
    """Monotonic nanoseconds. A moment that never came (the request was cancelled before) is None."""

    arrived: int
    """The server had the whole request, before it parsed or tokenised it."""
    scheduled: int | None = None
    """The runner began with it: the end of the queue."""
    cache_done: int | None = None
    """Cached keys and values found and copied: the start of prefill. Equal to `scheduled` where nothing was cached."""
    tokens: list[int] = field(default_factory=list)
    """When each output token had been computed and chosen; the first ends prefill. Of all choices, where n > 1."""
    finished: int | None = None
    """The last token, or the moment when it was cancelled or failed."""
    cancelled: int | None = None
    """When it became known that nobody wants the answer any more."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were copied from the prefix cache."""
    timed_by: str = "host"
    """`cuda`: the device's events; `host`: the monotonic clock."""
    clock_error: int = 0
    """Half width of the mapping from device to host time, ns."""

    @property
    def output_tokens(self) -> int:
        return len(self.tokens)

    @property
    def first_token(self) -> int | None:
        return self.tokens[0] if self.tokens else None

    def phases(self) -> list[tuple[str, int, int, int]]:
        """(phase, start, end, tokens), ns: contiguous from `arrived` to `finished`, each as far as it came."""
        if self.finished is None:
            return []
        spans: list[tuple[str, int, int, int]] = []
        end = self.finished
        at = self.arrived

        def until(name: str, moment: int | None, tokens: int) -> None:
            nonlocal at
            stop = end if moment is None else min(max(moment, at), end)
            spans.append((name, at, stop, tokens))
            at = stop

        until("queue", self.scheduled, 0)
        if self.scheduled is None:
            return spans
        if self.cached_tokens:
            until("kv_cache_hit", self.cache_done, self.cached_tokens)
        if self.cache_done is None:
            return spans
        until("prefill", self.first_token, self.prompt_tokens - self.cached_tokens)
        if self.first_token is not None:
            until("decode", end, self.output_tokens)
        return spans

    def seconds(self) -> dict[str, float]:
        """Length of each phase that was entered, s."""
        return {name: (end - start) / 1e9 for name, start, end, _ in self.phases()}

    def metrics(self) -> dict[str, float | str | None]:
        """vLLM's per-request `metrics`, in ms, and beside them the cache phase and how all of it was timed.

        `time_to_first_token_ms` runs from scheduled to the first token; `kv_cache_hit_time_ms` lies inside it.
        """
        first, last = self.first_token, self.tokens[-1] if self.tokens else None
        scheduled, cached = self.scheduled, self.cache_done
        generation = _ms(first, last)
        gaps = self.output_tokens - 1
        return {
            "time_to_first_token_ms": _ms(scheduled, first),
            "generation_time_ms": generation,
            "queue_time_ms": _ms(self.arrived, scheduled),
            "mean_itl_ms": generation / gaps if generation is not None and gaps > 0 else None,
            "tokens_per_second": self.output_tokens / generation * 1e3 if generation and gaps > 0 else None,
            "kv_cache_hit_time_ms": _ms(scheduled, cached) if self.cached_tokens else 0.0,
            "timed_by": self.timed_by,
            "engine": "llmtrace-reference",
        }


def _ms(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None else max(0, end - start) / 1e6
