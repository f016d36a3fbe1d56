"""What a stream that was held back looks like, and what only looks like it: the pace decides, not the silence."""

from __future__ import annotations

import json

import pytest

from llmtrace.diagnosis.symptoms import symptoms_of
from llmtrace.phases.observation import Observation
from llmtrace.phases.timeline import split
from tests.support import replay as play
from tests.support.apis import Sync
from tests.support.clock import Clock
from tests.support.paced import pace
from tests.support.replay import Replay, openai_stream, shared_folder
from tests.support.spans import Spans

MS = 1_000_000


def stream(silence: float, gaps: list[int], held: float = 0.0) -> Observation:
    """A stream whose first token came after ``silence`` s, and each further chunk after one of ``gaps`` (ns)."""
    first = round(silence * 1e9)
    last = first + sum(gaps) + round(held * 1e9)
    return Observation(
        0, last, True, first_token=first, last_chunk=last, chunks=len(gaps) + 1, gaps=gaps, consumer_wait=held
    )


@pytest.mark.parametrize(
    ("silence", "gaps", "buffered"),
    [
        (0.3, [MS // 5] * 19, True),
        (0.3, [18 * MS, *[MS // 5] * 18], True),  # one moment without the processor
        (10.0, [9 * MS] * 7, False),  # a short answer after a long queue
        (60.0, [2 * MS] * 7, False),  # of a fast engine
        (10.0, [23 * MS] * 7, False),
        (3.0, [*[MS // 10] * 7, 40 * MS] * 4, False),  # in groups of eight tokens, each as it was made
        (0.04, [MS // 5] * 19, False),  # no silence
        (0.3, [MS // 5] * 6, False),  # too few chunks to tell
    ],
)
def test_what_lay_ready_was_held_back_and_what_came_step_by_step_was_not(
    silence: float, gaps: list[int], buffered: bool
) -> None:
    seen = stream(silence, gaps)
    assert seen.buffered is buffered
    assert symptoms_of(seen, gaps).buffered is buffered
    assert (split(seen)[0][-1].name == "opaque") is buffered


def test_a_held_back_stream_is_known_through_an_application_that_takes_a_moment_with_each_chunk() -> None:
    assert symptoms_of(stream(0.4, [MS // 5] * 19, held=0.02)).buffered
    assert not symptoms_of(stream(9.0, [9 * MS] * 7, held=0.02)).buffered


def test_a_long_wait_before_a_short_answer_keeps_its_phases(
    api: Sync, replay: Replay, spans: Spans, traced: object, clock: Clock
) -> None:
    pace(api, clock, [10.0, *[0.009] * 9])
    replay.play(openai_stream([f"w{n} " for n in range(8)], play.USAGE))
    api.drain(api.stream())
    call = spans.one("completed")
    assert {"queue_prefill", "decode"} <= set(spans.phases(call))
    assert "llmtrace.diagnosis" not in (call.attributes or {})


@pytest.mark.shared
def test_no_stream_of_an_engine_with_a_standing_queue_was_held_back() -> None:
    """Nothing lay between client and engine there; 25 of these 200 calls were once called buffered."""
    folder = shared_folder()
    assert folder is not None
    runs = folder / "shared_engine_runs" / "share30_load90.jsonl"
    if not runs.is_file():
        pytest.skip("the recorded runs are not there")
    calls = [json.loads(line)["truth"] for line in runs.read_text().splitlines()]
    assert len(calls) == 200
    for call in calls:
        tokens = call["usage"]["completion_tokens"]
        decode = round((call["end"] - call["start"] - call["ttft"]) * 1e9)
        seen = stream(call["ttft"], [decode // (tokens - 1)] * (tokens - 1))
        assert not seen.buffered, call
        assert not symptoms_of(seen).buffered
