"""Which phase a verdict is about: every cause and quantity that the diagnosis knows, over the trees that there are."""

from __future__ import annotations

import pytest

from llmtrace.diagnosis.guilty import guilty_phase
from llmtrace.diagnosis.verdict import (
    BUFFERED_STREAM,
    CAUSES,
    COLD_KV_CACHE,
    MODEL_SWAP,
    NETWORK,
    NOISY_NEIGHBOR,
    PREFILL_SURGE,
    QUEUEING,
    REPETITION_LOOP,
    RETRY_STORM,
    ROUTE_CHANGE,
    SLOW_CONSUMER,
    TOLD_CAUSES,
    Verdict,
)
from llmtrace.phases.model import CLIENT, PHASES, Phase

MS = 1_000_000


def tree(*lengths: tuple[str, int]) -> list[Phase]:
    """Phases of so many ms each."""
    at, phases = 0, list[Phase]()
    for name, length in lengths:
        phases.append(Phase(name, at, at + length * MS, CLIENT))
        at += length * MS
    return phases


SPLIT = tree(("network", 2), ("unattributed", 20), ("queue", 30), ("kv_cache_hit", 0), ("prefill", 60), ("decode", 200))
MERGED = tree(("network", 2), ("unattributed", 20), ("queue_prefill", 90), ("decode", 200))
WHOLE = tree(("network", 2), ("unattributed", 20), ("opaque", 290))


@pytest.mark.parametrize(
    ("cause", "quantity", "split", "merged", "whole"),
    [
        (QUEUEING, "queue", "queue", "queue_prefill", "opaque"),
        (QUEUEING, "wait", "queue", "queue_prefill", "opaque"),
        (QUEUEING, "wait_beyond_prefill", "queue", "queue_prefill", "opaque"),
        (PREFILL_SURGE, "fresh_tokens", "prefill", "queue_prefill", "opaque"),
        (COLD_KV_CACHE, "cached_tokens", "prefill", "queue_prefill", "opaque"),
        (NOISY_NEIGHBOR, "prefill", "prefill", "queue_prefill", "opaque"),
        (NOISY_NEIGHBOR, "time_per_token", "decode", "decode", "opaque"),
        (SLOW_CONSUMER, "consumer_wait", "decode", "decode", "opaque"),
        (REPETITION_LOOP, "rounds", "decode", "decode", "opaque"),
        (BUFFERED_STREAM, "time_to_first_token", "decode", "queue_prefill", "opaque"),
        (BUFFERED_STREAM, "chunk_evenness", "decode", "decode", "opaque"),
        (MODEL_SWAP, "model", None, None, None),
        (MODEL_SWAP, "fingerprint", None, None, None),
        (ROUTE_CHANGE, "calls_since", None, None, None),
        (RETRY_STORM, "attempts", None, None, None),
    ],
)
def test_each_cause_has_its_phase(
    cause: str, quantity: str, split: str | None, merged: str | None, whole: str | None
) -> None:
    for phases, name in ((SPLIT, split), (MERGED, merged), (WHOLE, whole)):
        guilty = guilty_phase(Verdict(cause, 0.9, quantity, 1.0), phases)
        assert (guilty and guilty.name) == name


@pytest.mark.parametrize(
    ("quantity", "excess", "name"),
    [
        ("connection_setup", 0.002, "network"),
        ("connection_setup", 0.03, "unattributed"),
        ("round_trip", 0.001, "network"),
        ("round_trip", 0.025, "unattributed"),
        ("wait_outside_server", 0.015, "unattributed"),
        ("time_to_headers", 0.01, "unattributed"),
    ],
)
def test_of_the_way_the_phase_that_had_room_for_it(quantity: str, excess: float, name: str) -> None:
    guilty = guilty_phase(Verdict(NETWORK, 0.9, quantity, 1.0, 0.0, excess), SPLIT)
    assert guilty is not None
    assert guilty.name == name


def test_headers_that_are_late_in_a_merged_wait_are_in_that_wait() -> None:
    guilty = guilty_phase(Verdict(NETWORK, 0.9, "time_to_headers", 1.0, 0.0, 0.08), MERGED)
    assert guilty is not None
    assert guilty.name == "queue_prefill"


def test_what_has_room_nowhere_is_in_the_longest() -> None:
    guilty = guilty_phase(Verdict(NETWORK, 0.9, "round_trip", 1.0, 0.0, 10.0), WHOLE)
    assert guilty is not None
    assert guilty.name == "opaque"


def test_its_middle_is_inside_it() -> None:
    for phase in SPLIT:
        assert phase.start <= phase.middle <= phase.end
        assert phase.duration == 0 or phase.start < phase.middle < phase.end


def test_every_cause_was_thought_of() -> None:
    everything = tree(*((name, 10) for name in PHASES))
    of_the_call = {MODEL_SWAP, ROUTE_CHANGE, RETRY_STORM}
    for cause in (*CAUSES, *TOLD_CAUSES):
        guilty = guilty_phase(Verdict(cause, 0.9, "anything", 1.0), everything)
        assert (guilty is None) == (cause in of_the_call), cause
        assert guilty_phase(Verdict(cause, 0.9, "anything", 1.0), []) is None
