"""Turns calls that llmtrace has ended into measured ones: its phases as the claim, the engine's own as the truth."""

from __future__ import annotations

import threading
import time

from opentelemetry.trace import format_trace_id

from llmtrace.calls.result import Result
from llmtrace.observe.answer import ServerTimings
from llmtrace.phases.model import (
    DECODE,
    GATEWAY,
    KV_CACHE_HIT,
    NETWORK,
    PREFILL,
    QUEUE,
    QUEUE_PREFILL,
    UNATTRIBUTED,
)
from tests.evaluation.phases.measured import Claim, Measured, Truth


class Listener:
    """Collects ended calls; put it into ``llmtrace.calls.tracer.listeners``."""

    def __init__(self, cell: str, warm: bool, *, whole_queue: bool, after: int = 0) -> None:
        """``whole_queue``: this engine's queue begins with the request's arrival, see ``claim``.

        ``after``: so many calls at first are warm-up, whatever ``warm`` says.
        """
        self.cell = cell
        self.warm = warm
        self.after = after
        self.calls: list[Measured] = []
        self.traces: list[str] = []
        """Trace id of each call."""
        self.starts: list[int] = []
        """When each call began, on llmtrace's clock, ns."""
        self.failed = 0
        self.whole_queue = whole_queue
        self._lock = threading.Lock()

    def __call__(self, ended: Result) -> None:
        """Take in one ended call; one without a first token or without the engine's word only counts as failed."""
        told = ended.answer.timings
        usage = ended.answer.usage
        if told is None or told.prefill is None or ended.seen.first_token is None or usage.input_tokens is None:
            with self._lock:
                self.failed += 1
            return
        with self._lock:
            warm = self.warm and len(self.calls) >= self.after
            self.calls.append(measured(ended, told, self.cell, warm, self.whole_queue))
            self.traces.append(format_trace_id(ended.state.span.get_span_context().trace_id))
            self.starts.append(ended.call.start)


def measured(ended: Result, told: ServerTimings, cell: str, warm: bool, whole_queue: bool) -> Measured:
    """One call as data."""
    call, seen, usage = ended.call, ended.seen, ended.answer.usage
    start = call.start
    assert seen.first_token is not None
    assert usage.input_tokens is not None

    def since(moment: int | None) -> float | None:
        return None if moment is None else (moment - start) / 1e9

    return Measured(
        cell=cell,
        began=time.monotonic() - (time.perf_counter_ns() - start) / 1e9,
        warm=warm,
        sent=since(seen.sent),
        headers=since(seen.headers),
        event=since(call.first_chunk),
        first=(seen.first_token - start) / 1e9,
        end=(seen.end - start) / 1e9,
        rtt=seen.rtt,
        prompt=usage.input_tokens,
        cached=usage.cached_tokens or 0,
        output=usage.output_tokens or 0,
        truth=Truth(
            queue=told.queue,
            prefill=None if told.prefill is None else told.prefill + (told.kv_cache_hit or 0.0),
            decode=told.decode,
        ),
        claim=claim(ended, whole_queue),
    )


def claim(ended: Result, whole_queue: bool) -> Claim:
    """What the phases say, with queue and network as this engine defines them.

    The network of the truth is all that lies in front of the engine's queue: ``llm.network`` and ``llm.unattributed``.
    ``llm.queue`` holds the wait for the step that was running, and ``llm.unattributed`` what lies between the request's
    arrival and the scheduler (HTTP, tokenising); both parts stand on the spans too.
    ``whole_queue``: the engine counts the step, and the way in but not the way back, which the client cannot tell
    apart: half of it; else it counts neither.
    """
    lengths: dict[str, float] = {}
    for phase in ended.phases:
        lengths[phase.name] = lengths.get(phase.name, 0.0) + phase.duration
    network = sum(lengths.get(name, 0.0) for name in (NETWORK, GATEWAY, UNATTRIBUTED))
    decode = lengths.get(DECODE)
    if QUEUE_PREFILL in lengths or PREFILL not in lengths:
        return Claim(network, None, None, decode)
    halves = {phase.name: phase.uncertainty for phase in ended.phases}
    estimate, queue = ended.estimate, lengths.get(QUEUE, 0.0)
    if whole_queue:
        way_in = min(network, getattr(estimate, "admission", 0.0)) / 2
        network, queue = network - way_in, queue + way_in
    else:
        queue = max(0.0, queue - getattr(estimate, "step_wait", 0.0))
    whole = halves.get(PREFILL)
    return Claim(
        network=network,
        queue=queue,
        prefill=lengths[PREFILL] + lengths.get(KV_CACHE_HIT, 0.0),
        decode=decode,
        queue_half=halves.get(QUEUE, whole),
        prefill_half=whole,
        lower_bound=bool(getattr(estimate, "lower_bound", False)),
    )
