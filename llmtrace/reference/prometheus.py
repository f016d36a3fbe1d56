"""The server's numbers as Prometheus text; names follow vLLM's, with a prefix of our own."""

from __future__ import annotations

from collections.abc import Mapping

from llmtrace.reference.adapters import Adapters
from llmtrace.reference.conflicts import Conflict
from llmtrace.reference.scheduler import Scheduler

__all__ = ["CONTENT_TYPE", "render", "render_adapters"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "llmtrace:"
_PHASES = ("queue", "adapter_swap", "kv_cache_hit", "prefill", "decode")


def render(scheduler: Scheduler) -> str:
    """The text of one scrape."""
    out = _Text()
    counters = scheduler.counters
    out.one("num_requests_waiting", "gauge", "Requests in the queue.", scheduler.waiting)
    out.one("num_requests_running", "gauge", "Requests that hold a slot.", scheduler.running)
    out.one("num_requests_max_running", "gauge", "Slots.", scheduler.max_running)
    runner = scheduler.runner
    out.one("num_preemptions_total", "counter", "Requests that lost their place in the cache.", runner.preemptions)
    out.one(
        "device_busy_seconds_total",
        "counter",
        "Seconds from each step's launch to its end on the device; gaps between its kernels count.",
        runner.busy,
    )
    out.many("step_seconds_total", "Seconds of the loop's steps, by what was in them.", "kind", runner.works)
    out.one("graph_captures_total", "counter", "CUDA graphs captured in the middle of serving.", runner.captures)
    out.one(
        "graph_capture_failures_total",
        "counter",
        "CUDA graphs that could not be captured; after the first there are none.",
        runner.failed_captures,
    )
    out.one("model_load_seconds", "gauge", "Seconds that the model took to load.", runner.loaded.load_seconds)
    adapters = {} if runner.adapters is None else runner.adapters.load_seconds
    out.many("adapter_load_seconds", "Seconds that each adapter took to load.", "adapter", adapters, "gauge")
    out.one("iterations_total", "counter", "Steps of the loop.", counters.steps)
    out.one("kv_cache_used_tokens", "gauge", "Tokens of the cache for keys and values in use.", runner.used_tokens)
    out.one("kv_cache_max_tokens", "gauge", "Tokens that it has room for.", runner.most_tokens)
    out.one(
        "prefill_others_time_seconds_total",
        "counter",
        "Of ended requests' prefill, the time that went into other requests' tokens.",
        counters.prefill_others,
    )
    out.one(
        "decode_others_time_seconds_total",
        "counter",
        "Of ended requests' decode, the time that went into other requests' prompts.",
        counters.decode_others,
    )
    out.many(
        "request_success_total",
        "Requests that completed, by finish reason.",
        "finished_reason",
        counters.finish_reasons,
    )
    out.many("requests_total", "Requests that ended, by outcome.", "outcome", counters.outcomes)
    out.one("requests_rejected_total", "counter", "Requests refused because the queue was full.", counters.rejected)
    out.one("prompt_tokens_total", "counter", "Prompt tokens of ended requests.", counters.prompt_tokens)
    out.one("generation_tokens_total", "counter", "Output tokens of ended requests.", counters.output_tokens)
    out.one(
        "generation_tokens_after_cancel_total",
        "counter",
        "Output tokens computed for a request after it had been cancelled.",
        counters.tokens_after_cancel,
    )
    cache = runner.prefix_cache
    if cache is not None:
        cache_counters = cache.counters
        out.one("prefix_cache_queries_total", "counter", "Prompt tokens looked up.", cache_counters.queries)
        out.one("prefix_cache_hits_total", "counter", "Prompt tokens served from the cache.", cache_counters.hits)
        out.one("prefix_cache_misses_total", "counter", "Prompt tokens that had to be computed.", cache_counters.misses)
        out.one("prefix_cache_evictions_total", "counter", "Blocks dropped to make room.", cache_counters.evictions)
        out.one("prefix_cache_expired_total", "counter", "Blocks dropped as long unused.", cache_counters.expired)
        out.one("prefix_cache_blocks", "gauge", f"Blocks held, of {cache.block} tokens.", cache_counters.blocks)
        out.one("prefix_cache_bytes", "gauge", "Bytes held.", cache_counters.nbytes)
        out.one("prefix_cache_max_bytes", "gauge", "Bytes that may be held.", cache.max_bytes)
    for phase in _PHASES:
        name = f"request_{phase}_time_seconds"
        out.head(name, "summary", f"Time of ended requests in the phase {phase}.")
        out.line(f"{name}_sum", counters.phase_seconds.get(phase, 0.0))
        out.line(f"{name}_count", counters.phase_counts.get(phase, 0))
    return out.text()


def render_adapters(adapters: Adapters, conflicts: Mapping[str, Conflict]) -> str:
    """What belongs to adapters: requests by adapter, and how those of each known composition conflict."""
    out = _Text()
    out.many("adapter_requests_total", "Requests taken in, by adapter or composition.", "adapter", adapters.requests)
    worst = {name: found for name, conflict in conflicts.items() if (found := conflict.worst) is not None}
    for metric, says, values in (
        ("composition_cosine", "Cosine of its adapters' changes", {name: one.cosine for name, one in worst.items()}),
        ("composition_signs_differ", "Weights whose signs differ", {name: one.signs for name, one in worst.items()}),
    ):
        out.many(metric, f"{says}, of the two that pull apart most.", "composition", values, "gauge")
    return out.text()


class _Text:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def head(self, name: str, kind: str, says: str) -> None:
        self._lines += [f"# HELP {_PREFIX}{name} {says}", f"# TYPE {_PREFIX}{name} {kind}"]

    def line(self, name: str, value: float) -> None:
        self._lines.append(f"{_PREFIX}{name} {value!r}")

    def one(self, name: str, kind: str, says: str, value: float) -> None:
        self.head(name, kind, says)
        self.line(name, value)

    def many(self, name: str, says: str, label: str, values: Mapping[str, float], kind: str = "counter") -> None:
        self.head(name, kind, says)
        for key, value in sorted(dict(values).items()):
            words = str(key).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            self.line(f'{name}{{{label}="{words}"}}', value)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
