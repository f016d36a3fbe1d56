"""Recorded calls played through llmtrace's own engine, moment by moment, on a clock of their own.

Everything from the beginning of a call to its phases is the product's code; only the client library and the wire are
left out, and time is the recording's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from llmtrace.calls import tracer
from llmtrace.calls.result import Result
from llmtrace.calls.tracer import CallTracer
from llmtrace.config import settings
from llmtrace.observe.call import COMPLETED, Call
from llmtrace.observe.transport import Attempt
from llmtrace.providers.openai import CHAT, OPENAI
from tests.evaluation.common.clock import START, Clock
from tests.evaluation.phases.listen import claim
from tests.evaluation.phases.measured import Claim, Measured, Truth

_TO_SEND, _RTT = 0.0004, 0.00005
_CHARS_PER_TOKEN = 3


class _Client:
    _base_url = SimpleNamespace(host="127.0.0.1", port=8000, scheme="http")


def read(path: Path) -> list[dict[str, Any]]:
    """One row per call, in the order of their sending."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return sorted(rows, key=lambda row: row["sent_s"])


def play(rows: Sequence[dict[str, Any]], cell: str, warm_up: int) -> list[Measured]:
    """The calls as llmtrace judged them, blind, each with the engine's truth."""
    said: dict[int, Claim] = {}
    open_calls: dict[int, Call] = {}
    clock = Clock()

    def listen(ended: Result) -> None:
        number = next(number for number, call in open_calls.items() if call is ended.call)
        said[number] = claim(ended, whole_queue=False)

    moments: list[tuple[float, int, int]] = []
    for number, row in enumerate(rows):
        moments += [(row["sent_s"], 0, number), (row["headers_s"], 1, number), (row["first_event_s"], 2, number)]
        moments += [(row["first_content_s"], 3, number), (row["last_content_s"], 4, number)]
    made = CallTracer(settings({"server_timings": False}, {}), TracerProvider())
    client = _Client()
    tracer.listeners.append(listen)
    try:
        with clock.installed():
            for at, what, number in sorted(moments):
                clock.at = START + int(at * 1e9)
                if what == 0:
                    open_calls[number] = _begin(made, client, rows[number], clock.at)
                else:
                    _go_on(open_calls[number], what, rows[number], clock.at)
                if what == 4:
                    made.services.baselines.settle()  # fits run beside the application; here nobody waits for them
                    del open_calls[number]
    finally:
        tracer.listeners.remove(listen)
    return [_measured(row, said[number], cell, number >= warm_up) for number, row in enumerate(rows)]


def _begin(made: CallTracer, client: _Client, row: dict[str, Any], at: int) -> Call:
    # Each prompt of its own, unless the recording says what it was.
    content = row.get("text") or str(at).ljust(_CHARS_PER_TOKEN * row["prompt_tokens"], "x")
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": content}]}
    call = made.begin(OPENAI, CHAT, client, body)
    assert isinstance(call, Call)
    attempt = Attempt(at)
    attempt.sent, attempt.rtt = at + int(_TO_SEND * 1e9), _RTT
    call.attempts.append(attempt)
    return call


def _go_on(call: Call, what: int, row: dict[str, Any], at: int) -> None:
    if what == 1:
        call.attempts[-1].headers_at = call.returned = at
        return
    block = call.chunk_timing.block
    asked = block[-1] if block else call.returned or at
    if what == 2:
        block += [asked, at]
        call.look({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, at)
    elif what == 3:
        block += [asked, at]
        call.look({"choices": [{"index": 0, "delta": {"content": "x"}}]}, at)
    else:
        chunks = row["content_chunks"] - 1
        for step in range(1, chunks + 1):
            came = asked + (at - asked) * step // chunks
            block += [block[-1], came]
        call.recent.append(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": row["prompt_tokens"],
                    "completion_tokens": row["completion_tokens"],
                    "prompt_tokens_details": {"cached_tokens": row["cached_tokens"]},
                },
            }
        )
        call.finish(COMPLETED, at)


def _measured(row: dict[str, Any], said: Claim, cell: str, warm: bool) -> Measured:
    start, truth = row["sent_s"], row["truth"]
    return Measured(
        cell=cell,
        began=start,
        warm=warm,
        sent=_TO_SEND,
        headers=row["headers_s"] - start,
        event=row["first_event_s"] - start,
        first=row["first_content_s"] - start,
        end=row["last_content_s"] - start,
        rtt=_RTT,
        prompt=row["prompt_tokens"],
        cached=row["cached_tokens"],
        output=row["completion_tokens"],
        truth=Truth(queue=truth["queue_ms"] / 1e3, prefill=truth["prefill_ms"] / 1e3, decode=truth["decode_ms"] / 1e3),
        claim=replace(said),
    )
