"""What a server makes ready while a call waits, a schema or the model: it says so, and that time is nobody else's."""

from __future__ import annotations

import pytest

from llmtrace.calls.verdict import Diagnoser
from llmtrace.diagnosis.guilty import guilty_phase
from llmtrace.diagnosis.symptoms import Symptoms, symptoms_of
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import MODEL_LOAD, QUEUE, Phase
from llmtrace.phases.observation import Observation

MS = 1_000_000


def call(number: int, prepared: float | None, *, streaming: bool = True, what: str = "grammar_compile") -> Symptoms:
    """A call of 60 ms to the first token and 300 ms in all, and ``prepared`` s more where something was made ready."""
    start = number * 1_000 * MS
    more = round((prepared or 0.0) * 1e9)
    seen = Observation(start, start + 300 * MS + more, streaming=streaming)
    seen.sent, seen.headers = start + 1 * MS, start + 20 * MS + more
    seen.first_token = start + 60 * MS + more
    seen.last_chunk, seen.chunks = seen.end, 40
    seen.usage = Usage(input_tokens=500, output_tokens=40, cached_tokens=0)
    queue = 0.005 + (prepared or 0.0)
    seen.server = ServerTimings("llmtrace-reference", queue=queue, prefill=0.05, decode=0.24, grammar_mask=0.004)
    setattr(seen.server, what, prepared)
    return symptoms_of(seen)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("what", "cause", "phase"),
    [("grammar_compile", "cold_schema", QUEUE), ("model_load", "cold_model", MODEL_LOAD)],
)
def test_it_is_named_and_its_time_is_nobody_elses(what: str, cause: str, phase: str, streaming: bool) -> None:
    diagnoser = Diagnoser()
    for number in range(60):
        usual = call(number, 0.002 if number % 2 else None, streaming=streaming, what=what)
        assert diagnoser.judge("route", usual) == []
    (verdict,) = diagnoser.judge("route", call(60, 0.4, streaming=streaming, what=what))
    assert verdict.cause == cause
    assert verdict.observed == verdict.excess == 0.4
    assert verdict.confidence == 0.99, "the server says so"
    phases = [Phase(QUEUE, 0, 1, "server"), Phase(MODEL_LOAD, 1, 2, "server")]
    guilty = guilty_phase(verdict, phases)
    assert guilty is not None
    assert guilty.name == phase
    assert diagnoser.judge("route", call(61, None, streaming=streaming)) == [], "what came before has taught it nothing"


def test_one_that_took_little_of_the_wait_is_no_cause() -> None:
    diagnoser = Diagnoser()
    assert diagnoser.judge("route", call(0, 0.019)) == []
    (verdict,) = diagnoser.judge("route", call(1, 0.021))
    assert verdict.cause == "cold_schema"
