"""Observation -> phases: the order of truth, and the invariants for whatever numbers a server sends."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.estimate.baselines import Estimate
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.model import PHASES, SOURCES, Phase
from llmtrace.phases.timeline import Observation, split

MS = 1_000_000


def named(phases: list[Phase]) -> dict[str, Phase]:
    return {phase.name: phase for phase in phases}


def streamed(**given: object) -> Observation:
    """A streamed call of 1 s: sent at 10 ms, headers at 20 ms, first token at 400 ms, round trip 8 ms."""
    seen = Observation(
        start=0,
        end=1000 * MS,
        streaming=True,
        attempted=True,
        sent=10 * MS,
        headers=20 * MS,
        rtt=0.008,
        first_token=400 * MS,
        first_output=400 * MS,
        last_chunk=990 * MS,
        chunks=60,
        usage=Usage(input_tokens=1000, output_tokens=61, cached_tokens=0),
    )
    for name, value in given.items():
        setattr(seen, name, value)
    return seen


def test_without_server_or_history_the_wait_is_one_merged_phase() -> None:
    phases, complaint = split(streamed())
    assert [phase.name for phase in phases] == ["network", "queue_prefill", "decode"]
    assert complaint is None
    network, wait, decode = phases
    assert network.end == 14 * MS  # bytes out plus half a round trip
    assert (wait.start, wait.end, wait.source) == (14 * MS, 400 * MS, "client")
    assert (decode.tokens, decode.per_token) == (61, 0.6 / 60)


def test_server_numbers_are_kept_exactly_and_the_rest_is_network() -> None:
    said = ServerTimings("vllm", queue=0.1, prefill=0.25, decode=0.58)
    phases, complaint = split(streamed(server=said))
    by = named(phases)
    assert [phase.name for phase in phases] == ["network", "queue", "prefill", "decode"]
    assert complaint is None
    assert (by["queue"].duration, by["prefill"].duration) == (0.1, 0.25)
    assert by["queue"].source == by["prefill"].source == "server"
    assert by["queue"].uncertainty is None
    assert by["network"].end == 50 * MS
    # 50 ms outside the engine, of which the client saw 10 ms of sending and 8 ms of round trip.
    assert math.isclose(by["network"].uncertainty or 0, 0.032)
    assert by["decode"].source == "client"
    assert by["decode"].server_duration == 0.58
    assert by["prefill"].per_token == 0.25 / 1000


def test_device_timings_say_so_and_the_cache_copy_is_a_phase() -> None:
    said = ServerTimings("ref", queue=0.1, kv_cache_hit=0.05, prefill=0.2, decode=0.58, cached_tokens=600, device=True)
    seen = streamed(server=said, usage=Usage(1000, 61, 600))
    phases, _ = split(seen)
    assert [phase.name for phase in phases] == ["network", "queue", "kv_cache_hit", "prefill", "decode"]
    by = named(phases)
    assert by["kv_cache_hit"].source == "device"
    assert by["kv_cache_hit"].tokens == 600
    assert by["prefill"].tokens == 400


def test_a_hit_whose_time_nobody_told_is_marked_and_bounded_by_prefill() -> None:
    phases, _ = split(streamed(server=ServerTimings("vllm", queue=0.1, prefill=0.25), usage=Usage(1000, 61, 600)))
    hit = named(phases)["kv_cache_hit"]
    assert hit.start == hit.end
    assert (hit.source, hit.uncertainty, hit.tokens) == ("estimate", 0.25, 600)


def test_no_queue_told_then_the_rest_of_the_wait_is_the_queue_seen_by_the_client() -> None:
    phases, _ = split(streamed(server=ServerTimings("llama.cpp", prefill=0.25, decode=0.58)))
    by = named(phases)
    assert by["network"].end == 18 * MS
    assert by["queue"].source == "client"
    assert math.isclose(by["queue"].duration, 0.132)
    assert by["queue"].uncertainty is not None


def test_ttft_alone_stays_merged_but_is_the_servers() -> None:
    phases, _ = split(streamed(server=ServerTimings("sambanova", ttft=0.35, total=0.9)))
    by = named(phases)
    assert by["queue_prefill"].source == "server"
    assert by["queue_prefill"].duration == 0.35


def test_an_estimate_splits_and_carries_its_uncertainty() -> None:
    network = named(split(streamed())[0])["network"].duration
    estimate = Estimate(
        prefill=0.2, queue=0.15, step_wait=0.02, admission=0.01, uncertainty=0.02, queue_uncertainty=0.03
    )
    by = named(split(streamed(), estimate)[0])
    assert by["network"].source == by["queue"].source == by["prefill"].source == "estimate"
    assert math.isclose(by["network"].duration, network + 0.01)
    assert math.isclose(by["queue"].duration, 0.17)
    assert (by["queue"].uncertainty, by["prefill"].uncertainty) == (0.03, 0.02)


def test_not_streamed_with_all_server_phases() -> None:
    said = ServerTimings("groq", queue=0.1, prefill=0.2, decode=0.6)
    seen = Observation(0, 1000 * MS, False, attempted=True, sent=5 * MS, headers=990 * MS, rtt=0.01, server=said)
    phases, _ = split(seen)
    assert [(phase.name, phase.source) for phase in phases] == [
        ("network", "client"),
        ("queue", "server"),
        ("prefill", "server"),
        ("decode", "server"),
    ]
    assert named(phases)["decode"].duration == 0.6


def test_not_streamed_and_nothing_told_is_opaque() -> None:
    seen = Observation(0, 1000 * MS, False, attempted=True, sent=5 * MS, headers=990 * MS, rtt=0.01)
    assert [phase.name for phase in split(seen)[0]] == ["network", "opaque"]


def test_a_buffered_stream_is_opaque_unless_the_server_tells() -> None:
    seen = streamed(first_token=980 * MS, first_output=980 * MS, last_chunk=981 * MS, end=982 * MS)
    assert [phase.name for phase in split(seen)[0]] == ["network", "opaque"]
    seen.server = ServerTimings("vllm", queue=0.1, prefill=0.2, decode=0.6)
    phases, _ = split(seen)
    assert named(phases)["decode"].source == "server"
    assert named(phases)["decode"].duration == 0.6


def test_never_connected_is_all_network() -> None:
    seen = Observation(0, 30 * MS, True, attempted=True)
    assert [phase.name for phase in split(seen)[0]] == ["network"]


def test_cut_off_before_the_first_token_was_still_waiting() -> None:
    seen = streamed(first_token=None, first_output=None, last_chunk=None, chunks=0)
    assert [phase.name for phase in split(seen)[0]] == ["network", "queue_prefill"]


def test_never_read_says_nothing_of_the_wait() -> None:
    seen = streamed(first_token=None, first_output=None, last_chunk=None, chunks=0, waited=False)
    assert [phase.name for phase in split(seen)[0]] == ["network", "opaque"]


def test_reasoning_is_decode_and_both_parts_are_shown() -> None:
    phases, _ = split(streamed(first_reasoning=400 * MS, first_output=700 * MS))
    decode = named(phases)["decode"]
    assert [(part.name, part.start, part.end) for part in decode.parts] == [
        ("reasoning", 400 * MS, 700 * MS),
        ("output", 700 * MS, 1000 * MS),
    ]


def test_numbers_longer_than_the_call_are_refused_with_a_reason() -> None:
    phases, complaint = split(streamed(server=ServerTimings("x", queue=5.0, prefill=0.2, decode=0.5)))
    assert complaint == "queue is longer than the call"
    assert named(phases)["prefill"].duration == 0.2
    phases, complaint = split(streamed(server=ServerTimings("x", queue=0.7, prefill=0.7, decode=0.5)))
    assert complaint == "the phases are longer than the call together"
    assert [phase.name for phase in phases] == ["network", "queue_prefill", "decode"]


def test_numbers_a_little_too_long_are_scaled_to_fit() -> None:
    phases, complaint = split(streamed(server=ServerTimings("x", queue=0.2, prefill=0.201)))
    assert complaint is None
    by = named(phases)
    assert by["network"].duration == 0
    assert by["queue"].duration + by["prefill"].duration == 0.4


moment = st.one_of(st.none(), st.integers(-(10**12), 10**12))
absurd = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 2),
    st.sampled_from([0.0, -1.0, 1e300, 5e-324]),
)
tokens = st.one_of(st.none(), st.integers(0, 10**7))
servers = st.one_of(
    st.none(),
    st.builds(
        ServerTimings,
        st.just("any"),
        queue=absurd,
        kv_cache_hit=absurd,
        prefill=absurd,
        decode=absurd,
        ttft=absurd,
        total=absurd,
        cached_tokens=tokens,
        device=st.booleans(),
    ),
)
observations = st.builds(
    Observation,
    start=st.integers(-(10**9), 10**9),
    end=st.integers(-(10**9), 10**10),
    streaming=st.booleans(),
    attempted=st.booleans(),
    sent=moment,
    headers=moment,
    rtt=st.one_of(st.none(), st.floats(0, 100)),
    first_token=moment,
    first_token_error=st.one_of(st.none(), st.floats(0, 10)),
    first_reasoning=moment,
    first_output=moment,
    last_chunk=moment,
    chunks=st.integers(0, 1000),
    waited=st.booleans(),
    consumer_wait=st.floats(0, 100),
    usage=st.one_of(st.none(), st.builds(Usage, tokens, tokens, tokens)),
    server=servers,
)
estimates = st.one_of(
    st.none(),
    st.builds(
        Estimate,
        prefill=st.floats(0, 100),
        queue=st.floats(0, 100),
        step_wait=st.floats(0, 100),
        admission=st.floats(0, 100),
        per_token=st.floats(0, 1),
        uncertainty=st.floats(0, 10),
        queue_uncertainty=st.floats(0, 10),
        calls=st.just(40),
    ),
)


@settings(max_examples=400, deadline=None)
@given(observations, estimates)
def test_phases_always_fill_the_call_exactly(seen: Observation, estimate: Estimate | None) -> None:
    phases, _ = split(seen, estimate)
    assert phases
    assert phases[0].start == seen.start
    assert phases[-1].end == seen.end
    for before, after in itertools.pairwise(phases):
        assert before.end == after.start
    for phase in phases:
        assert phase.start <= phase.end
        assert phase.name in PHASES
        assert phase.source in SOURCES
        for part in phase.parts:
            assert phase.start <= part.start <= part.end <= phase.end
        for number in (phase.uncertainty, phase.per_token, phase.server_duration, phase.time_saved):
            assert number is None or (math.isfinite(number) and number >= 0)
    assert sum(phase.end - phase.start for phase in phases) == seen.end - seen.start


@settings(max_examples=200, deadline=None)
@given(observations)
def test_no_server_source_without_a_server_number(seen: Observation) -> None:
    seen.server = None
    for phase in split(seen)[0]:
        assert phase.source == "client"
        assert phase.name not in ("queue", "prefill", "kv_cache_hit")


@settings(max_examples=200, deadline=None)
@given(observations)
def test_what_the_server_is_said_to_have_measured_is_what_it_said(seen: Observation) -> None:
    phases, _ = split(seen)
    window = (seen.end - seen.start) / 1e9
    for phase in phases:
        if phase.source in ("server", "device") and phase.name in ("queue", "kv_cache_hit", "prefill"):
            assert seen.server is not None
            said = getattr(seen.server, phase.name)
            assert said is not None
            assert abs(phase.duration - said) <= 0.02 * window + 0.004
