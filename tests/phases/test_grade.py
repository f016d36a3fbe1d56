"""The blind estimate beside what the engine told."""

from __future__ import annotations

import pytest

from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import Estimate, Phase, Unknown
from llmtrace.phases.observation import Observation
from llmtrace.phases.timeline import split

MS = 1_000_000
ESTIMATE = Estimate(prefill=0.2, queue=0.08, step_wait=0.02, uncertainty=0.05, queue_uncertainty=0.12)
US = pytest.approx


def seen(server: ServerTimings | None, **given: object) -> Observation:
    """A stream of 1 s with its first token at 400 ms."""
    made = Observation(
        0,
        1000 * MS,
        True,
        attempted=True,
        sent=10 * MS,
        headers=20 * MS,
        rtt=0.008,
        first_token=400 * MS,
        last_chunk=990 * MS,
        chunks=60,
        usage=Usage(1000, 61, 0),
        server=server,
    )
    for name, value in given.items():
        setattr(made, name, value)
    return made


def phases(
    server: ServerTimings | None, estimate: Estimate | Unknown | None = ESTIMATE, **given: object
) -> dict[str, Phase]:
    return {phase.name: phase for phase in split(seen(server, **given), estimate)[0]}


def test_queue_and_prefill_are_graded_and_stay_what_the_engine_told() -> None:
    found = phases(ServerTimings("vllm", queue=0.09, prefill=0.25, decode=0.5))
    for name, said, told, half in (("queue", 0.1, 0.09, 0.12), ("prefill", 0.2, 0.25, 0.05)):
        phase = found[name]
        assert (phase.source, phase.duration, phase.uncertainty) == ("server", US(told, abs=2e-6), None)
        assert phase.blind is not None
        assert phase.blind.duration == US(said)
        assert phase.blind.error == US(said - told, abs=2e-6)
        assert (phase.blind.low, phase.blind.high) == (US(min(half, said)), half), "shorter than nothing it cannot be"
    assert all(found[name].blind is None for name in found if name not in ("queue", "prefill"))


def test_a_cache_hit_that_the_engine_times_apart_is_part_of_what_prefill_is_compared_with() -> None:
    found = phases(
        ServerTimings("x", queue=0.0, kv_cache_hit=0.06, prefill=0.1, decode=0.5),
        usage=Usage(1000, 61, cached_tokens=500),
    )
    assert found["kv_cache_hit"].blind is None
    assert found["prefill"].blind is not None
    assert found["prefill"].blind.error == US(0.2 - 0.16, abs=3e-6)


def test_what_the_engine_does_not_tell_is_not_graded() -> None:
    found = phases(ServerTimings("llama.cpp", prefill=0.25, decode=0.5))
    assert (found["queue"].source, found["queue"].blind) == ("client", None), "a remainder is no truth"
    assert found["prefill"].blind is not None
    for told in (ServerTimings("x", ttft=0.3), ServerTimings("x", total=0.9), None):
        assert all(phase.blind is None for phase in phases(told).values())


@pytest.mark.parametrize("estimate", [None, Unknown("few_calls", "12 of 30")])
def test_without_an_estimate_nothing_is_graded(estimate: Unknown | None) -> None:
    found = phases(ServerTimings("vllm", queue=0.09, prefill=0.25, decode=0.5), estimate)
    assert all(phase.blind is None for phase in found.values())


def test_where_the_first_token_was_read_late_the_estimate_is_that_much_less_sure() -> None:
    found = phases(ServerTimings("vllm", queue=0.09, prefill=0.25, decode=0.5), first_token_error=0.03)
    assert found["prefill"].blind is not None
    assert found["prefill"].blind.high == US(0.08)
