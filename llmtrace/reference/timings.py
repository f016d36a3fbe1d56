"""The times of one request: the truth that estimates are checked against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmtrace.reference.adapters import Adapter
    from llmtrace.reference.conflicts import Conflict

__all__ = ["Chunk", "Phase", "Timings"]


class Chunk(NamedTuple):
    """One piece of a prompt, and the step in which it was computed, from start to end."""

    start: int
    end: int
    tokens: int
    again: bool = False
    """Whether it had been computed before, and was lost when the request was preempted."""


class Phase(NamedTuple):
    """One phase of a request, ns."""

    name: str
    start: int
    end: int
    tokens: int
    host: int
    """Its duration in ns on the host's side, which differs where a device works asynchronously."""
    others: int
    """The part of it that went into other requests' tokens, in ns."""


@dataclass
class Timings:
    """The moments of one request in monotonic ns; None where the request ended before that moment."""

    arrived: int
    """When the server had the whole request, before it parsed or tokenised it."""
    taken_in: int | None = None
    """When the scheduler took it off the queue, between two steps. Its own work may begin later in the step."""
    scheduled: int | None = None
    """When its own work began: the end of the queue, which includes the wait for the running step."""
    swap_done: int | None = None
    """When its own adapter had been put in; None where it was in use already."""
    cache_done: int | None = None
    """When cached keys and values had been found: the start of prefill. Equal to `swap_done` or
    `scheduled` where nothing was cached."""
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    """The pieces of the prompt as they were computed."""
    tokens: list[int] = field(default_factory=list[int])
    """When each output token had been computed and chosen; the first ends prefill. Of all choices, where n > 1."""
    batch: list[int] = field(default_factory=list[int])
    """For each output token, how many requests had a part in the step that made it."""
    preempted: list[int] = field(default_factory=list[int])
    """When it lost its place in the cache to an older request; what it had computed was computed again later."""
    resumed: list[int] = field(default_factory=list[int])
    """For each of these, when its work began again."""
    finished: int | None = None
    """When the last token came, or when the request was cancelled or failed."""
    cancelled: int | None = None
    """When the server learned that the request was cancelled."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""
    adapter: Adapter | None = None
    """The adapter that it ran with; None: the base model."""
    conflict: Conflict | None = None
    """How its adapters get in each other's way, where it ran with several."""
    swaps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """When adapters were swapped for it, start and end: before its prompt and, where requests with another adapter
    run beside it, before later chunks and tokens too."""
    grammar: str | None = None
    """The kind of grammar that its answer must follow."""
    compile_ns: int = 0
    """Nanoseconds for compiling that grammar; inside the queue, which begins with the request's arrival."""
    mask_ns: int = 0
    """Nanoseconds for computing the allowed next tokens, over the whole answer; inside prefill and decode."""
    prefill_others: int = 0
    """The part of prefill that went into other requests' tokens, in ns."""
    decode_others: int = 0
    """The part of decode that went into other requests' prompts, in ns."""
    cost: int = 0
    """Of the steps that it had a part in, its share by tokens, in ns; all requests' costs add up to the steps."""
    host: dict[str, int] = field(default_factory=dict[str, int])
    """When the host got to `scheduled`, `cache_done`, `first_token` and `finished`; the same on the CPU."""
    launch_bound: float | None = None
    """Share of the steps whose pace the host set, not the device; None where the host is the device."""
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

    def phases(self) -> list[Phase]:
        """The phases, contiguous from `arrived` to `finished`, as far as the request came."""
        if self.finished is None:
            return []
        spans: list[Phase] = []
        end = self.finished
        at = host_at = self.arrived

        def until(name: str, moment: int | None, tokens: int, reached: str, others: int = 0) -> None:
            nonlocal at, host_at
            stop = end if moment is None else min(max(moment, at), end)
            host_stop = max(host_at, self.host.get(reached, stop) if moment is not None else stop)
            spans.append(Phase(name, at, stop, tokens, host_stop - host_at, min(others, stop - at)))
            at, host_at = stop, host_stop

        until("queue", self.scheduled, 0, "scheduled")
        if self.scheduled is None:
            return spans
        if self.swap_done is not None:
            until("adapter_swap", self.swap_done, 0, "swap_done")
        if self.cached_tokens:
            until("kv_cache_hit", self.cache_done, self.cached_tokens, "cache_done")
        if self.cache_done is None:
            return spans
        until("prefill", self.first_token, self.prompt_tokens - self.cached_tokens, "first_token", self.prefill_others)
        if self.first_token is not None:
            until("decode", end, self.output_tokens, "finished", self.decode_others)
        return spans

    def swapping(self, start: int, end: int) -> int:
        """The part of [start, end] that went into swapping adapters for this request, in ns."""
        return sum(max(0, min(end, stop) - max(start, began)) for began, stop in self.swaps)

    def seconds(self) -> dict[str, float]:
        """The duration of each phase that was entered, in seconds."""
        return {phase.name: (phase.end - phase.start) / 1e9 for phase in self.phases()}

    def metrics(self) -> dict[str, float | str | None]:
        """vLLM's per-request `metrics`, in ms, and beside them the cache phase and how all of it was timed.

        `time_to_first_token_ms` runs from scheduled to the first token; `kv_cache_hit_time_ms` and
        `prefill_others_time_ms` lie inside it, `grammar_compile_time_ms` and `adapter_check_time_ms` inside
        `queue_time_ms`, `decode_others_time_ms` inside `generation_time_ms`; `adapter_swap_time_ms` in both.
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
            "kv_cache_hit_time_ms": _ms(self.swap_done or scheduled, cached) if self.cached_tokens else 0.0,
            "prefill_others_time_ms": self.prefill_others / 1e6,
            "decode_others_time_ms": self.decode_others / 1e6,
            "cost_time_ms": self.cost / 1e6,
            **self._adapter_metrics(),
            **self._grammar_metrics(),
            "prefill_chunks": len(self.chunks),
            "preemptions": len(self.preempted),
            "mean_batch_size": sum(self.batch) / len(self.batch) if self.batch else None,
            "timed_by": self.timed_by,
            "engine": "llmtrace-reference",
        }

    def _adapter_metrics(self) -> dict[str, float | str | None]:
        if self.adapter is None and not self.swaps:
            return {}
        metrics: dict[str, float | str | None] = {
            "adapter": self.adapter.name if self.adapter is not None else None,
            "adapter_swaps": len(self.swaps),
            "adapter_swap_time_ms": sum(end - start for start, end in self.swaps) / 1e6,
        }
        if self.conflict is not None:
            worst = self.conflict.worst
            metrics["adapter_cosine"] = None if worst is None else worst.cosine
            metrics["adapter_signs_differ"] = None if worst is None else worst.signs
            metrics["adapter_check_time_ms"] = self.conflict.check_ns / 1e6
        return metrics

    def _grammar_metrics(self) -> dict[str, float | str | None]:
        if self.grammar is None:
            return {}
        return {
            "grammar_compile_time_ms": self.compile_ns / 1e6,
            "grammar_mask_time_ms": self.mask_ns / 1e6,
            "mean_mask_time_ms": self.mask_per_token / 1e6,
        }

    @property
    def mask_per_token(self) -> float:
        """The mean mask time over the output tokens, in ns."""
        return self.mask_ns / max(1, self.output_tokens)


def _ms(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None else max(0, end - start) / 1e6
