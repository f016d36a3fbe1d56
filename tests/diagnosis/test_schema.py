"""A schema that was compiled while the call waited: the server says so, and nothing else is named for that time."""

from __future__ import annotations

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.guilty import guilty_phase
from llmtrace.diagnosis.symptoms import Symptoms, symptoms_of
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import QUEUE, Phase
from llmtrace.phases.observation import Observation

MS = 1_000_000


def call(number: int, compiled: float | None, *, streaming: bool = True) -> Symptoms:
    """A call of 60 ms to the first token and 300 ms in all, and ``compiled`` s more where a schema was compiled."""
    start = number * 1_000 * MS
    more = round((compiled or 0.0) * 1e9)
    seen = Observation(start, start + 300 * MS + more, streaming=streaming)
    seen.sent, seen.headers = start + 1 * MS, start + 20 * MS + more
    seen.first_token = start + 60 * MS + more
    seen.last_chunk, seen.chunks = seen.end, 40
    seen.usage = Usage(input_tokens=500, output_tokens=40, cached_tokens=0)
    queue = 0.005 + (compiled or 0.0)
    seen.server = ServerTimings(
        "llmtrace-reference", queue=queue, prefill=0.05, decode=0.24, grammar_compile=compiled, grammar_mask=0.004
    )
    return symptoms_of(seen)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_compiled_schema_is_named_and_its_time_is_nobody_elses(streaming: bool) -> None:
    diagnoser = Diagnoser()
    for number in range(60):
        assert diagnoser.judge("route", call(number, 0.002 if number % 2 else None, streaming=streaming)) == []
    (verdict,) = diagnoser.judge("route", call(60, 0.4, streaming=streaming))
    assert verdict.cause == "cold_schema"
    assert verdict.observed == verdict.excess == 0.4
    assert verdict.confidence == 0.99, "the server says so"
    assert guilty_phase(verdict, [Phase(QUEUE, 0, 1, "server")]) is not None
    assert diagnoser.judge("route", call(61, None, streaming=streaming)) == [], "what came before has taught it nothing"


def test_one_that_took_little_of_the_wait_is_no_cause() -> None:
    diagnoser = Diagnoser()
    assert diagnoser.judge("route", call(0, 0.019)) == []
    (verdict,) = diagnoser.judge("route", call(1, 0.021))
    assert verdict.cause == "cold_schema"
