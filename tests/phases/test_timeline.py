"""Observation -> phases: the order of truth, and the invariants for whatever numbers a server sends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.estimate.sample import sample_of
from llmtrace.observe.answer import ServerTimings, Usage
from llmtrace.phases.merged import WHOLE_ANSWER
from llmtrace.phases.model import PHASES, REASONS, SOURCES, Estimate, Phase, Unknown
from llmtrace.phases.observation import Observation
from llmtrace.phases.stagger import call_start
from llmtrace.phases.timeline import split
from llmtrace.phases.wire import wire_of
from tests.support.effort import examples

MS = 1_000_000
SHIFT = 1e-6
"""Starts are moved by less than this, s."""


def named(phases: list[Phase]) -> dict[str, Phase]:
    return {phase.name: phase for phase in phases}


def names(phases: list[Phase]) -> list[str]:
    return [phase.name for phase in phases]


def near(seconds: float) -> object:
    """As long as ``seconds``, but for the shifts of its two ends."""
    return pytest.approx(seconds, rel=0, abs=2 * SHIFT)


def streamed(**given: object) -> Observation:
    """A streamed call of 1 s: sent from 8 to 10 ms, headers at 20 ms, first token at 400 ms, round trip 8 ms."""
    seen = Observation(
        start=0,
        end=1000 * MS,
        streaming=True,
        attempted=True,
        sending=8 * MS,
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


def whole(**given: object) -> Observation:
    """A call of 1 s that was not streamed: sent at 5 ms, round trip 10 ms."""
    seen = Observation(0, 1000 * MS, False, attempted=True, sent=5 * MS, headers=990 * MS, rtt=0.01)
    for name, value in given.items():
        setattr(seen, name, value)
    return seen


# --- whole answers, by the estimate ---------------------------------------------------------------------------------
def test_a_whole_answer_is_split_by_the_estimate() -> None:
    estimate = Estimate(
        prefill=0.2, queue=0.1, step_wait=0.05, admission=0.01, queue_low=0.1, queue_high=0.2, prefill_low=0.05,
        prefill_high=0.06, decode=0.62, decode_low=0.3, decode_high=0.1,
    )  # fmt: skip
    phases, complaint = split(whole(usage=Usage(1000, 61, 200)), estimate)
    assert complaint is None
    assert names(phases) == ["network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"]
    by = named(phases)
    left = 1.0 - by["network"].duration - by["unattributed"].duration
    assert by["queue"].duration == near(0.15 * left / 0.97)
    assert by["decode"].duration == near(0.62 * left / 0.97)
    assert (by["queue"].uncertainty_low, by["queue"].uncertainty_high) == (0.1, 0.2)
    assert (by["decode"].uncertainty_low, by["decode"].uncertainty_high) == (0.3, 0.1)
    assert {by[name].source for name in ("queue", "prefill", "decode")} == {"estimate"}
    assert by["decode"].tokens == 61


def test_where_the_server_tells_its_total_the_estimate_splits_that() -> None:
    estimate = Estimate(prefill=0.2, queue=0.1, decode=0.5)
    seen = whole(usage=Usage(1000, 61, 0), server=ServerTimings("openai", total=0.4))
    by = named(split(seen, estimate)[0])
    assert by["queue"].duration + by["prefill"].duration + by["decode"].duration == near(0.4)
    assert by["prefill"].duration == near(0.1)


def test_an_estimate_without_an_answer_splits_no_whole_call() -> None:
    assert "opaque" in names(split(whole(usage=Usage(1000, 61, 0)), Estimate(prefill=0.2, queue=0.1))[0])


# --- what was measured as wire, and what nobody accounts for -------------------------------------------------------
def test_without_server_or_history_the_wait_is_one_merged_phase() -> None:
    phases, complaint = split(streamed())
    assert names(phases) == ["network", "unattributed", "queue_prefill", "decode"]
    assert complaint is None
    network, unattributed, wait, decode = phases
    assert network.duration == near(0.010)  # 2 ms of bytes out, and a round trip
    assert (network.uncertainty_low, network.uncertainty_high) == (0.002, 0.004)  # bytes out; half a round trip
    assert network.uncertainty == 0.004, "the wider side"
    assert unattributed.duration == near(0.008)  # until the first byte went out
    assert (unattributed.uncertainty_low, unattributed.uncertainty_high) == (0.0, 0.002)
    assert wait.duration == near(0.400 - 0.010 - 0.008)
    assert (wait.source, wait.end) == ("client", decode.start)
    assert (decode.tokens, decode.end) == (61, 1000 * MS)
    assert decode.per_token == near(0.01)


def test_loopback_is_no_network_of_many_milliseconds() -> None:
    """Connect 0.17 ms, round trip 5 us: the 13 ms around them are the client's and the server's own work."""
    seen = streamed(
        connect_start=9_000_000, connect_end=9_170_000, sending=9_300_000, sent=9_400_000, rtt=5e-6, headers=14 * MS
    )
    for server in (None, ServerTimings("vllm", queue=0.1, prefill=0.286, decode=0.58)):
        seen.server = server
        by = named(split(seen)[0])
        assert by["network"].duration == near(170e-6 + 100e-6 + 5e-6)
        # Sure are two round trips, one of them the connect's: all else may have been the client's own work.
        assert by["network"].uncertainty_low == pytest.approx(265e-6)
        assert by["network"].uncertainty_high == 2.5e-6
        assert by["unattributed"].duration > 0.009
        assert by["unattributed"].source == "client"


def test_a_handshake_is_network_and_what_lies_between_is_not() -> None:
    seen = streamed(
        connect_start=1 * MS, connect_end=4 * MS, tls_start=5 * MS, tls_end=7 * MS, sending=8 * MS, sent=10 * MS
    )
    by = named(split(seen)[0])
    assert by["network"].duration == near(0.003 + 0.002 + 0.002 + 0.008)
    assert by["unattributed"].duration == near(0.001 + 0.001 + 0.001)


def test_of_a_handshake_the_round_trips_are_sure() -> None:
    """Far away: connect takes one, TLS 1.2 two; what they take beyond that may be the client's or the peer's work."""
    seen = streamed(
        rtt=0.02,
        connect_start=0,
        connect_end=21 * MS,
        tls_start=22 * MS,
        tls_end=67 * MS,
        sending=68 * MS,
        sent=69 * MS,
    )
    network = named(split(seen)[0])["network"]
    assert network.duration == near(0.021 + 0.045 + 0.001 + 0.020)
    assert network.uncertainty_low == pytest.approx(0.001 + 0.005 + 0.001)
    assert network.uncertainty_high == 0.01


def test_without_any_fact_of_the_wire_there_is_no_network() -> None:
    phases, _ = split(streamed(rtt=None, sending=None))
    assert names(phases) == ["unattributed", "queue_prefill", "decode"]
    assert phases[0].duration == near(0.010), "until the request was out"
    assert phases[0].uncertainty is None
    phases, _ = split(streamed(rtt=None, sending=None, sent=None))
    assert names(phases) == ["queue_prefill", "decode"]


def test_never_connected_is_network_as_far_as_it_tried() -> None:
    seen = Observation(0, 30 * MS, True, attempted=True, connect_start=2 * MS)
    phases, _ = split(seen)
    assert names(phases) == ["network", "unattributed"]
    assert phases[0].duration == near(0.028)
    assert phases[0].uncertainty == 0.0, "it waited for nothing else"
    seen.connect_end, seen.tls_start = 5 * MS, 6 * MS
    assert split(seen)[0][0].duration == near(0.003 + 0.024)


def test_a_request_that_could_not_be_sent_waited_for_the_wire() -> None:
    seen = Observation(0, 30 * MS, True, attempted=True, connect_start=1 * MS, connect_end=2 * MS, sending=10 * MS)
    assert split(seen)[0][0].duration == near(0.021)


def test_never_begun_to_connect_is_nobodys() -> None:
    """Waiting for a place in the client's connection pool, say."""
    assert names(split(Observation(0, 30 * MS, True, attempted=True))[0]) == ["unattributed"]


def test_what_a_gateway_tells_is_a_phase() -> None:
    phases, _ = split(streamed(gateway=0.05))
    assert names(phases) == ["network", "gateway", "unattributed", "queue_prefill", "decode"]
    by = named(phases)
    assert (by["gateway"].source, by["gateway"].duration) == ("server", near(0.05))
    assert by["queue_prefill"].duration == near(0.400 - 0.010 - 0.05 - 0.008)
    by = named(split(streamed(gateway=0.05, server=ServerTimings("vllm", queue=0.1, prefill=0.2)))[0])
    assert by["gateway"].duration == near(0.05)
    assert by["unattributed"].duration == near(0.1 - 0.01 - 0.05)


@pytest.mark.parametrize("gateway", [-1.0, math.nan, math.inf, 2.0])
def test_what_a_gateway_cannot_mean_is_no_phase(gateway: float) -> None:
    assert "gateway" not in names(split(streamed(gateway=gateway))[0])


# --- server timings ------------------------------------------------------------------------------------------------
def test_server_numbers_are_kept_and_the_rest_is_nobodys() -> None:
    told = ServerTimings("vllm", queue=0.1, prefill=0.25, decode=0.58)
    phases, complaint = split(streamed(server=told))
    by = named(phases)
    assert names(phases) == ["network", "unattributed", "queue", "prefill", "decode"]
    assert complaint is None
    assert (by["queue"].duration, by["prefill"].duration) == (near(0.1), near(0.25))
    assert by["queue"].source == by["prefill"].source == "server"
    assert by["queue"].uncertainty is None
    # 50 ms outside the engine: 2 ms of sending and 8 ms of round trip, and 40 ms of which nothing is known.
    assert by["network"].duration == near(0.010)
    assert by["unattributed"].duration == near(0.040)
    assert (by["network"].uncertainty_low, by["network"].uncertainty_high) == (0.002, 0.004)
    assert (by["unattributed"].uncertainty_low, by["unattributed"].uncertainty_high) == (0.004, 0.002), "the reverse"
    assert by["decode"].source == "client"
    assert by["decode"].server_duration == 0.58
    assert by["prefill"].per_token == by["prefill"].duration / 1000


def test_where_the_server_leaves_no_room_the_network_gives_way() -> None:
    by = named(split(streamed(server=ServerTimings("vllm", queue=0.1, prefill=0.297)))[0])
    assert by["network"].duration == near(0.003)
    assert "unattributed" not in by
    assert (by["queue"].duration, by["prefill"].duration) == (near(0.1), near(0.297))


def test_device_timings_say_so_and_the_cache_copy_is_a_phase() -> None:
    told = ServerTimings("ref", queue=0.1, kv_cache_hit=0.05, prefill=0.2, decode=0.58, cached_tokens=600, device=True)
    seen = streamed(server=told, usage=Usage(1000, 61, 600))
    phases, _ = split(seen)
    assert names(phases) == ["network", "unattributed", "queue", "kv_cache_hit", "prefill", "decode"]
    by = named(phases)
    assert by["kv_cache_hit"].source == "device"
    assert by["kv_cache_hit"].tokens == 600
    assert by["prefill"].tokens == 400


def test_a_hit_whose_time_nobody_told_is_marked_and_bounded_by_prefill() -> None:
    phases, _ = split(streamed(server=ServerTimings("vllm", queue=0.1, prefill=0.25), usage=Usage(1000, 61, 600)))
    hit = named(phases)["kv_cache_hit"]
    assert hit.start == hit.end
    assert (hit.source, hit.uncertainty, hit.tokens) == ("estimate", 0.25, 600)
    assert (hit.uncertainty_low, hit.uncertainty_high) == (0.0, 0.25)


def test_no_queue_told_then_the_rest_of_the_wait_is_the_queue_seen_by_the_client() -> None:
    phases, _ = split(streamed(server=ServerTimings("llama.cpp", prefill=0.25, decode=0.58)))
    assert names(phases) == ["network", "unattributed", "queue", "prefill", "decode"]
    by = named(phases)
    assert by["network"].duration == near(0.010)
    assert by["unattributed"].duration == near(0.008), "what the client did before the request was out"
    queue = by["queue"]
    assert queue.source == "client"
    assert queue.duration == near(0.400 - 0.018 - 0.25)
    assert queue.uncertainty == near(queue.duration), "it may all have been something else"
    assert queue.uncertainty_low == queue.duration
    assert queue.uncertainty_high == 0.0, "and there is nothing beyond it"


def test_no_queue_told_and_the_sending_not_seen_then_nobody_accounts_for_the_rest() -> None:
    seen = streamed(server=ServerTimings("llama.cpp", prefill=0.25, decode=0.58), sent=None, sending=None)
    assert names(split(seen)[0]) == ["network", "unattributed", "prefill", "decode"]


def test_ttft_alone_stays_merged_but_is_the_servers() -> None:
    phases, _ = split(streamed(server=ServerTimings("sambanova", ttft=0.35, total=0.9)))
    assert names(phases) == ["network", "unattributed", "queue_prefill", "decode"]
    wait = named(phases)["queue_prefill"]
    assert (wait.source, wait.duration) == ("server", near(0.35))
    assert wait.merged_because == "ambiguous"
    assert "not what that time was made of" in (wait.merged_detail or "")


@pytest.mark.parametrize(
    ("seen", "server", "expected"),
    [
        (streamed, {"ttft": 0.35, "total": 0.9}, {"model_load": 0.2, "queue_prefill": 0.15}),
        (streamed, {"prefill": 0.1, "decode": 0.5}, {"model_load": 0.2, "prefill": 0.1}),
        (whole, {"prefill": 0.1, "decode": 0.5}, {"model_load": 0.2, "prefill": 0.1, "decode": 0.5}),
        (whole, {"total": 0.9}, {"model_load": 0.2, "opaque": 0.7}),
    ],
)
def test_an_engine_that_tells_the_load_alone_tells_no_queue(
    seen: Callable[..., Observation], server: dict[str, float], expected: dict[str, float]
) -> None:
    phases, _ = split(seen(server=ServerTimings("omlx", queue=0.2, model_load=0.2, **server)))
    told = {phase.name: phase.duration for phase in phases if phase.source == "server"}
    assert told == {name: near(seconds) for name, seconds in expected.items()}
    assert "queue" not in names(phases)


def test_the_look_up_of_a_loaded_model_is_no_queue_either() -> None:
    phases, _ = split(streamed(server=ServerTimings("omlx", queue=0.01, model_load=0.01, prefill=0.1, decode=0.5)))
    assert named(phases)["queue"].source == "client"
    assert "model_load" not in names(phases)


def test_not_streamed_with_all_server_phases() -> None:
    phases, _ = split(whole(server=ServerTimings("groq", queue=0.1, prefill=0.2, decode=0.6)))
    assert [(phase.name, phase.source) for phase in phases] == [
        ("network", "client"),
        ("unattributed", "client"),
        ("queue", "server"),
        ("prefill", "server"),
        ("decode", "server"),
    ]
    assert named(phases)["decode"].duration == near(0.6)


def test_numbers_longer_than_the_call_are_refused_with_a_reason() -> None:
    phases, complaint = split(streamed(server=ServerTimings("x", queue=5.0, prefill=0.2, decode=0.5)))
    assert complaint == "queue is longer than the call"
    assert named(phases)["prefill"].duration == near(0.2)
    phases, complaint = split(streamed(server=ServerTimings("x", queue=0.7, prefill=0.7, decode=0.5)))
    assert complaint == "the phases are longer than the call together"
    assert names(phases) == ["network", "unattributed", "queue_prefill", "decode"]


def test_numbers_a_little_too_long_are_scaled_to_fit() -> None:
    phases, complaint = split(streamed(server=ServerTimings("x", queue=0.2, prefill=0.201)))
    assert complaint is None
    by = named(phases)
    assert by["network"].duration == 0
    assert by["queue"].duration + by["prefill"].duration == near(0.4)


# --- the estimate --------------------------------------------------------------------------------------------------
def test_where_an_engine_leaves_the_running_step_out_of_its_queue_it_stands_unattributed() -> None:
    estimate = Estimate(prefill=0.2, queue=0.15, step_wait=0.02, admission=0.01, queue_low=0.01, queue_high=0.02)
    by = named(split(streamed(), estimate)[0])
    estimate.step_apart = True
    apart = named(split(streamed(), estimate)[0])
    assert by["queue"].duration == near(0.17)
    assert apart["queue"].duration == near(0.15)
    assert apart["unattributed"].duration == near(by["unattributed"].duration + 0.02)
    assert apart["prefill"].duration == near(by["prefill"].duration)
    told, _ = split(streamed(server=ServerTimings("vllm", queue=0.15, prefill=0.2)), estimate)
    queue = named(told)["queue"]
    assert queue.blind is not None
    assert queue.blind.error == near(0.0), "the estimate and the engine mean the same"


def test_an_estimate_splits_and_carries_its_uncertainty() -> None:
    estimate = Estimate(
        prefill=0.2,
        queue=0.15,
        step_wait=0.02,
        admission=0.01,
        admission_uncertainty=0.003,
        uncertainty=0.02,
        queue_uncertainty=0.03,
    )
    phases, _ = split(streamed(), estimate)
    assert names(phases) == ["network", "unattributed", "queue", "prefill", "decode"]
    by = named(phases)
    assert by["network"].source == "client"
    assert by["network"].duration == near(0.010)
    unattributed = by["unattributed"]
    assert unattributed.source == by["queue"].source == by["prefill"].source == "estimate"
    # The headers' delay holds their way back: 10 ms less half a round trip.
    assert unattributed.admission == near(0.006)
    assert unattributed.duration == near(0.008 + 0.006)
    assert unattributed.uncertainty_low == 0.003, "the admission's"
    assert unattributed.uncertainty_high == 0.005, "and the wire's, of which part may be the client's own work"
    assert by["queue"].duration == near(0.17)
    assert (by["queue"].uncertainty, by["prefill"].uncertainty) == (0.03, 0.02)
    assert by["queue"].uncertainty_low is None, "it is as uncertain on both sides"


def test_a_queue_cannot_have_been_shorter_than_none() -> None:
    queue = named(split(streamed(), Estimate(prefill=0.3, queue=0.004, queue_uncertainty=0.03))[0])["queue"]
    assert (queue.uncertainty, queue.uncertainty_high) == (0.03, 0.03)
    assert queue.uncertainty_low == queue.duration == near(0.004)


def test_an_estimate_that_is_too_long_ends_at_the_first_token() -> None:
    by = named(split(streamed(), Estimate(prefill=0.3, queue=5.0, admission=7.0))[0])
    assert by["network"].duration == near(0.010)
    assert by["decode"].duration == near(0.6)


# --- merged, and why ------------------------------------------------------------------------------------------------
def test_not_streamed_and_nothing_told_is_opaque() -> None:
    phases, _ = split(whole())
    assert names(phases) == ["network", "unattributed", "opaque"]
    assert phases[-1].merged_because == "no_stream"
    phases, _ = split(whole(server=ServerTimings("x", total=0.9)))
    assert phases[-1].duration == near(0.9)
    assert (phases[-1].merged_because, phases[-1].source) == ("no_stream", "server")


def test_a_buffered_stream_is_opaque_unless_the_server_tells() -> None:
    seen = streamed(first_token=980 * MS, first_output=980 * MS, last_chunk=981 * MS, end=982 * MS)
    phases, _ = split(seen)
    assert names(phases) == ["network", "unattributed", "opaque"]
    assert phases[-1].merged_because == "buffered"
    assert "60 chunks came within 1 ms after 980 ms of silence" in (phases[-1].merged_detail or "")
    seen.server = ServerTimings("vllm", queue=0.1, prefill=0.2, decode=0.6)
    phases, _ = split(seen)
    assert named(phases)["decode"].source == "server"
    assert named(phases)["decode"].duration == near(0.6)


def test_cut_off_before_the_first_token_was_still_waiting() -> None:
    phases, _ = split(streamed(first_token=None, first_output=None, last_chunk=None, chunks=0))
    assert names(phases) == ["network", "unattributed", "queue_prefill"]
    assert phases[-1].merged_because == "cut_short"


def test_never_read_says_nothing_of_the_wait() -> None:
    seen = streamed(first_token=None, first_output=None, last_chunk=None, chunks=0, waited=False)
    phases, _ = split(seen)
    assert names(phases) == ["network", "unattributed", "opaque"]
    assert phases[-1].merged_because == "cut_short"
    assert "nobody read" in (phases[-1].merged_detail or "")


@pytest.mark.parametrize("usage", [None, Usage(None, 60)])
def test_without_counted_prompt_tokens_nor_a_prompt_nothing_can_be_told_apart(usage: Usage | None) -> None:
    seen = streamed(usage=usage)
    why = sample_of(seen, None, None)
    assert isinstance(why, Unknown)
    wait = named(split(seen, why)[0])["queue_prefill"]
    assert wait.merged_because == "no_usage"
    assert "include_usage" in (wait.merged_detail or "")


@pytest.mark.parametrize("usage", [None, Usage(None, 60)])
def test_without_counted_prompt_tokens_an_estimate_is_used_all_the_same(usage: Usage | None) -> None:
    phases = named(split(streamed(usage=usage), Estimate(prefill=0.1, queue=0.05))[0])
    assert phases["prefill"].source == "estimate"
    assert phases["prefill"].tokens is None, "reckoned tokens are not told as if they had been counted"


def test_hidden_reasoning_is_ambiguous() -> None:
    wait = named(split(streamed(usage=Usage(1000, 61, 0, reasoning_tokens=20)))[0])["queue_prefill"]
    assert wait.merged_because == "ambiguous"
    assert "reasoned" in (wait.merged_detail or "")


def test_the_time_per_token_is_that_of_the_tokens_which_the_stream_shows() -> None:
    """Hidden reasoning, and a summary of the history, were made before the first token."""
    hidden = Usage(1000, 561, 0, reasoning_tokens=500)
    assert named(split(streamed(usage=hidden))[0])["decode"].per_token == near(0.01)
    assert named(split(streamed(usage=hidden))[0])["decode"].tokens == 61
    shown = split(streamed(usage=hidden, first_reasoning=400 * MS, first_output=600 * MS))[0]
    assert named(shown)["decode"].tokens == 561
    summed_up = split(streamed(usage=Usage(1000, 561, 0, summary_tokens=500)))[0]
    assert named(summed_up)["decode"].per_token == near(0.01)
    assert "summed the history up" in (named(summed_up)["queue_prefill"].merged_detail or "")
    nothing = named(split(streamed(usage=Usage(1000, 500, 0, reasoning_tokens=500)))[0])["decode"]
    assert (nothing.tokens, nothing.per_token) == (0, None)


def test_an_engines_own_decode_holds_the_hidden_tokens_too() -> None:
    told = ServerTimings("e", queue=0.1, prefill=0.2, decode=0.6)
    decode = named(split(whole(usage=Usage(1000, 561, 0, reasoning_tokens=500), server=told))[0])["decode"]
    assert (decode.source, decode.tokens) == ("server", 561)


def test_what_the_estimate_says_of_itself_stands_on_the_phase() -> None:
    why = Unknown("few_calls", "12 of 30 calls on this route; 18 more, or a saved baseline, would help")
    wait = named(split(streamed(), why)[0])["queue_prefill"]
    assert (wait.merged_because, wait.merged_detail) == (why.reason, why.detail)
    assert named(split(streamed())[0])["queue_prefill"].merged_because == "ambiguous"
    assert named(split(whole(), why)[0])["opaque"].merged_because == WHOLE_ANSWER.reason


def test_reasoning_is_decode_and_both_parts_are_shown() -> None:
    phases, _ = split(streamed(first_reasoning=400 * MS, first_output=700 * MS))
    decode = named(phases)["decode"]
    reasoning, output = decode.parts
    assert (reasoning.name, output.name) == ("reasoning", "output")
    assert (reasoning.start, output.start, output.end) == (decode.start, reasoning.end, decode.end)
    assert abs(output.start - 700 * MS) < 1000


# --- whatever is said ------------------------------------------------------------------------------------------------
moment = st.one_of(st.none(), st.integers(-(10**12), 10**12), st.integers(0, 10**6), st.integers(0, 3_000))
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
        model_load=absurd,
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
    rtt=st.one_of(st.none(), st.floats(0, 100), st.sampled_from([math.nan, math.inf, -1.0, 5e-6])),
    first_token=moment,
    first_token_error=st.one_of(st.none(), st.floats(0, 10)),
    first_reasoning=moment,
    first_output=moment,
    last_chunk=moment,
    chunks=st.integers(0, 1000),
    waited=st.booleans(),
    consumer_wait=st.floats(0, 100),
    usage=st.one_of(st.none(), st.builds(Usage, tokens, tokens, tokens, tokens, tokens)),
    server=servers,
    gateway=absurd,
    connect_start=moment,
    connect_end=moment,
    tls_start=moment,
    tls_end=moment,
    sending=moment,
)
sides = st.one_of(st.none(), st.floats(0, 10))
estimates = st.one_of(
    st.none(),
    st.builds(Unknown, st.sampled_from(REASONS), st.just("because")),
    st.builds(
        Estimate,
        prefill=st.floats(0, 100),
        queue=st.floats(0, 100),
        step_wait=st.floats(0, 100),
        admission=st.floats(0, 100),
        admission_uncertainty=st.floats(0, 10),
        per_token=st.floats(0, 1),
        uncertainty=st.floats(0, 10),
        queue_uncertainty=st.floats(0, 10),
        queue_low=sides,
        queue_high=sides,
        prefill_low=sides,
        prefill_high=sides,
        decode=st.one_of(st.none(), st.floats(0, 100)),
        decode_low=st.floats(0, 10),
        decode_high=st.floats(0, 10),
        calls=st.just(40),
    ),
)


@settings(max_examples=examples(200), deadline=None)
@given(observations, estimates)
def test_phases_always_fill_the_call_exactly(seen: Observation, estimate: Estimate | Unknown | None) -> None:
    phases, _ = split(seen, estimate)
    assert phases
    assert phases[0].start == seen.start
    assert phases[-1].end == seen.end
    for before, after in itertools.pairwise(phases):
        assert before.end == after.start
    order = [PHASES.index(phase.name) for phase in phases if not phase.merged_because]
    assert order == sorted(set(order))
    for phase in phases:
        assert phase.start <= phase.end
        assert phase.name in PHASES
        assert phase.source in SOURCES
        at = phase.start
        for part in phase.parts:
            assert at == part.start <= part.end <= phase.end
            at = part.end
        numbers = (phase.uncertainty, phase.per_token, phase.server_duration, phase.time_saved, phase.admission)
        for number in (*numbers, phase.uncertainty_low, phase.uncertainty_high):
            assert number is None or (math.isfinite(number) and number >= 0)
    assert sum(phase.end - phase.start for phase in phases) == seen.end - seen.start


@settings(max_examples=examples(100), deadline=None)
@given(observations, estimates)
def test_an_interval_has_two_sides_and_none_goes_below_zero(
    seen: Observation, estimate: Estimate | Unknown | None
) -> None:
    for phase in split(seen, estimate)[0]:
        low, high = phase.uncertainty_low, phase.uncertainty_high
        assert (low is None) == (high is None)
        if phase.uncertainty is None:
            assert low is None
        elif low is None or high is None:
            assert phase.uncertainty <= phase.duration
        else:
            assert low <= phase.duration
            assert max(low, high) == phase.uncertainty


@settings(max_examples=examples(100), deadline=None)
@given(observations, estimates)
def test_merged_phases_and_only_those_say_why(seen: Observation, estimate: Estimate | Unknown | None) -> None:
    for phase in split(seen, estimate)[0]:
        if phase.name in ("queue_prefill", "opaque"):
            assert phase.merged_because in REASONS
            assert phase.merged_detail
        else:
            assert phase.merged_because is phase.merged_detail is None


@settings(max_examples=examples(100), deadline=None)
@given(observations, estimates)
def test_nothing_is_network_that_was_not_measured_as_wire(
    seen: Observation, estimate: Estimate | Unknown | None
) -> None:
    phases = named(split(seen, estimate)[0])
    wire = wire_of(seen)
    assert ("network" in phases) == (wire.length is not None)
    if wire.length is not None:
        network = phases["network"]
        assert network.source == "client"
        assert network.duration <= wire.length + 2 * SHIFT
        assert network.uncertainty is not None
    if "gateway" in phases:
        assert seen.gateway is not None
        assert phases["gateway"].duration <= seen.gateway + 2 * SHIFT


@settings(max_examples=examples(100), deadline=None)
@given(observations, estimates)
def test_the_starts_fall_from_phase_to_phase(seen: Observation, estimate: Estimate | Unknown | None) -> None:
    """Of phases that last two microseconds and more; the shorter ones are ``test_stagger``'s."""
    seen.start = call_start(seen.start)
    phases, _ = split(seen, estimate)
    if any(0 < phase.end - phase.start < 2_000 for phase in phases):
        return
    lasting = [phase for phase in phases if phase.end > phase.start]
    for before, after in itertools.pairwise(lasting):
        assert before.start % 1000 > after.start % 1000
    for phase in lasting:
        assert all(part.start % 1000 <= phase.start % 1000 for part in phase.parts if part.start < phase.end)


@settings(max_examples=examples(50), deadline=None)
@given(observations)
def test_no_server_source_without_a_server_number(seen: Observation) -> None:
    seen.server = seen.gateway = None
    for phase in split(seen)[0]:
        assert phase.source == "client"
        assert phase.name not in ("queue", "prefill", "kv_cache_hit", "gateway")


@settings(max_examples=examples(100), deadline=None)
@given(observations)
def test_what_the_server_is_said_to_have_measured_is_what_it_said(seen: Observation) -> None:
    phases, _ = split(seen)
    window = (seen.end - seen.start) / 1e9
    loading = sum(phase.duration for phase in phases if phase.name == "model_load")
    for phase in phases:
        if phase.source in ("server", "device") and phase.name in ("queue", "kv_cache_hit", "prefill"):
            assert seen.server is not None
            told = getattr(seen.server, phase.name)
            assert told is not None
            as_told = phase.duration + (loading if phase.name == "queue" else 0.0)
            assert abs(as_told - told) <= 0.02 * window + 0.004
