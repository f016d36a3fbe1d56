"""Engines that tell of their own work, each by a body of its own shape, through the real client: whole and streamed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support import replay as play
from tests.support.spans import attributes

if TYPE_CHECKING:
    import openai

    from tests.conftest import Tracing
    from tests.support.replay import Replay
    from tests.support.spans import Spans

pytestmark = pytest.mark.usefixtures("traced")
MESSAGES: Any = [{"role": "user", "content": "hello"}]


class Told(NamedTuple):
    """What one engine sends beside the answer, and the lengths (s) of the phases that come of it."""

    fields: dict[str, Any]
    usage: dict[str, Any]
    phases: dict[str, float]
    merged: bool = False
    """The first token's time is all that is told before decode."""
    total: bool = False
    """Of decode nothing is told but the total."""


NIM = {
    "type": "NIM LLM Model Stats",
    "version": "0.1.0",
    "llm_input_token_length": 12,
    "llm_output_token_length": 6,
    "generation_time_in_ms": 14.0,
    "time_in_queue_in_ms": 1.5,
    "response_tokens": {
        "response_token_length": 6,
        "time_to_first_token_in_ms": 10.0,
        "token_to_token_time_in_ms": 0.8,
        "tokens_per_second": 428.5,
    },
}
LM_STUDIO = {
    "tokens_per_second": 1500.0,
    "time_to_first_token": 0.011,
    "generation_time": 0.004,
    "stop_reason": "eosFound",
}
OMLX = {
    "cached_tokens": 4,
    "model_load_duration": 0.001,
    "time_to_first_token": 0.014,
    "total_time": 0.018,
    "prompt_eval_duration": 0.01,
    "generation_duration": 0.004,
    "prompt_tokens_per_second": 800.0,
    "generation_tokens_per_second": 1500.0,
}
MISTRAL_RS = {
    "avg_tok_per_sec": 1000.0,
    "avg_prompt_tok_per_sec": 1200.0,
    "avg_compl_tok_per_sec": 1500.0,
    "total_time_sec": 0.02,
    "total_prompt_time_sec": 0.01,
    "total_completion_time_sec": 0.004,
}
TABBYAPI = {
    "prompt_time": 0.01,
    "prompt_tokens_per_sec": 1200.0,
    "completion_time": 0.004,
    "completion_tokens_per_sec": "Indeterminate",
    "total_time": 0.02,
}
FASTFLOWLM = {
    "load_duration": 1.9,
    "prefill_duration_ttft": 0.01,
    "decoding_duration": 0.004,
    "prefill_speed_tps": 1200.0,
    "decoding_speed_tps": 1500.0,
    "kv_token_occupancy_rate_percentage": 0.4,
}
MLC = {
    "prompt_tokens": 12,
    "completion_tokens": 6,
    "prefill_tokens": 12,
    "decode_tokens": 5,
    "jump_forward_tokens": 0,
    "prefill_tokens_per_s": 1090.9,
    "decode_tokens_per_s": 1250.0,
    "end_to_end_latency_s": 0.015,
    "ttft_s": 0.011,
    "inter_token_latency_s": 0.0025,
}
WEBLLM = {
    "e2e_latency_s": 0.015,
    "prefill_tokens_per_s": 1090.9,
    "decode_tokens_per_s": 1250.0,
    "time_to_first_token_s": 0.011,
    "time_per_output_token_s": 0.0007,
}
LLAMA_SHAPED = {
    "cache_n": 4, "prompt_n": 8, "prompt_ms": 9.0, "predicted_n": 6, "predicted_ms": 4.0,
    "prompt_per_token_ms": 1.1, "prompt_per_second": 888.8, "predicted_per_token_ms": 0.6,
}  # fmt: skip
DYNAMO = {
    "request_received_ms": 1777312800000, "prefill_wait_time_ms": 3.0, "prefill_time_ms": 9.0, "ttft_ms": 12.0,
    "total_time_ms": 16.0, "kv_hit_rate": 0.875, "router_queue_depth": 7,
}  # fmt: skip

ENGINES = {
    "nim": Told({"stats": NIM}, {}, {"queue_prefill": 0.010}, merged=True),
    "lm-studio": Told({"stats": LM_STUDIO}, {}, {"queue_prefill": 0.011}, merged=True),
    "localai": Told(
        {}, {"timing_prompt_processing": 10.0, "timing_token_generation": 4.0}, {"prefill": 0.010, "decode": 0.004}
    ),
    "omlx": Told({}, OMLX, {"prefill": 0.010, "decode": 0.004}),
    "mistral.rs": Told({}, MISTRAL_RS, {"prefill": 0.010, "decode": 0.004}),
    "tabbyapi": Told({}, TABBYAPI, {"queue": 0.006, "prefill": 0.010, "decode": 0.004}),
    "fastflowlm": Told({}, FASTFLOWLM, {"prefill": 0.010, "decode": 0.004}),
    "mlc": Told({}, {"extra": MLC}, {"queue_prefill": 0.011}, merged=True),
    "webllm": Told({}, {"extra": WEBLLM}, {"prefill": 0.011}, total=True),
    "dynamo": Told({"nvext": {"timing": DYNAMO}}, {}, {"queue": 0.003, "prefill": 0.009, "decode": 0.004}),
}


def ask(client: openai.OpenAI, streaming: bool) -> None:
    if not streaming:
        client.chat.completions.create(model="a-model", messages=MESSAGES)
        return
    options: Any = {"include_usage": True}
    for _ in client.chat.completions.create(model="a-model", messages=MESSAGES, stream=True, stream_options=options):
        pass


def script(told: Told, streaming: bool) -> play.Script:
    usage = play.USAGE | told.usage
    if streaming:
        return play.openai_stream(usage=usage, ttft=0.04, itl=0.002, last=told.fields)
    return play.json_answer(play.completion(usage=usage, **told.fields), before=0.05)


def lengths(spans: Spans, call: Any, source: str = "server") -> dict[str, float]:
    """The phases with that source, in s."""
    return {
        name: (phase.end_time - phase.start_time) / 1e9
        for name, phase in spans.phases(call).items()
        if attributes(phase)["llmtrace.phase.source"] == source
    }


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_tells_its_phases(
    engine: str, streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    told = ENGINES[engine]
    replay.serve(script(told, streaming))
    ask(client, streaming)
    call = spans.one("completed")
    assert attributes(call)["llmtrace.server.engine"] == engine
    found = lengths(spans, call)
    if (told.merged or told.total) and not streaming:
        # Of a whole answer only the total is of use: where in it the first token came is not laid out.
        assert set(found) <= {"opaque"}
        return
    expected = {name: length for name, length in told.phases.items() if not (streaming and name == "decode")}
    assert found == pytest.approx(expected, abs=1e-5)
    if streaming and "decode" in told.phases:
        decode = attributes(spans.phases(call)["decode"])
        assert decode["llmtrace.phase.source"] == "client"
        assert decode["llmtrace.phase.server_duration"] == pytest.approx(told.phases["decode"])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_async_stream_says_the_same(engine: str, replay: Replay, spans: Spans) -> None:
    import openai

    async def ask_async() -> None:
        async with openai.AsyncOpenAI(api_key="x", base_url=replay.base_url, max_retries=0) as client:
            options: Any = {"include_usage": True}
            stream = await client.chat.completions.create(
                model="a-model", messages=MESSAGES, stream=True, stream_options=options
            )
            async for _ in stream:
                pass

    replay.serve(script(ENGINES[engine], True))
    asyncio.run(ask_async())
    assert attributes(spans.one("completed"))["llmtrace.server.engine"] == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_blind_says_nothing_of_any(
    engine: str, traced: Tracing, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    traced.off()
    traced.on(server_timings=False)
    replay.serve(script(ENGINES[engine], True))
    ask(client, True)
    call = spans.one("completed")
    assert not lengths(spans, call)
    assert not {"llmtrace.server.engine", "llmtrace.queue.depth"} & set(attributes(call))


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        ({"stats": {"time_to_first_token": 0.01, "generation_time": 0.004}}, {}),
        ({"stats": {**NIM, "type": "Other Model Stats"}}, {}),
        ({"stats": [NIM]}, {}),
        ({"metrics": {"time_to_first_token_ms": 9.0, "generation_time_ms": 4.0}}, {}),
        ({}, {"time_to_first_token": 0.01, "total_time": 0.02}),
        ({}, {"prompt_time": 0.01, "completion_time": 0.004, "total_time": 0.014}),
        ({}, {"queue_time": 0.01, "total_time": 0.02}),
        ({}, {"completion_tokens_per_sec": 1500.0, "total_tokens_per_sec": 9.0}),
        ({}, {"extra": {"prefill_tokens_per_s": 1090.9, "decode_tokens_per_s": 1250.0}}),
        ({}, {"total_time_sec": 0.02, "total_completion_time_sec": 0.004}),
        ({}, {"extra": "e2e_latency_s"}),
    ],
)
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_fields_that_are_nobodys_own_claim_no_engine(
    streaming: bool, fields: Any, usage: Any, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(script(Told(fields, usage, {}), streaming))
    ask(client, streaming)
    assert "llmtrace.server.engine" not in attributes(spans.one("completed"))


REFERENCE = {
    "queue_time_ms": 6.0,
    "time_to_first_token_ms": 9.0,
    "generation_time_ms": 4.0,
    "mean_itl_ms": 0.8,
    "engine": "llmtrace-reference",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("fields", "usage", "expected"),
    [
        (
            {"metrics": REFERENCE | {"grammar_compile_time_ms": 2.5, "grammar_mask_time_ms": 1.5}},
            {},
            {"llmtrace.grammar.compile_duration": 0.0025, "llmtrace.grammar.mask_duration": 0.0015},
        ),
        (
            {},
            {"extra": {"time_to_first_token_s": 0.01, "e2e_latency_s": 0.014, "grammar_init_s": 0.003}},
            {"llmtrace.grammar.compile_duration": 0.003},
        ),
        ({"metrics": REFERENCE}, {}, {}),
    ],
)
def test_a_grammars_times_are_on_the_call(
    streaming: bool, fields: Any, usage: Any, expected: Any, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(script(Told(fields, usage, {}), streaming))
    ask(client, streaming)
    seen = attributes(spans.one("completed"))
    assert {name: value for name, value in seen.items() if "grammar" in name} == pytest.approx(expected)


def test_tabbyapi_with_llama_cpps_timings_is_tabbyapi(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(script(Told({"timings": LLAMA_SHAPED}, TABBYAPI, {}), False))
    ask(client, False)
    call = spans.one("completed")
    assert attributes(call)["llmtrace.server.engine"] == "tabbyapi"
    assert lengths(spans, call) == pytest.approx({"queue": 0.006, "prefill": 0.009, "decode": 0.004}, abs=1e-5)


def test_mistral_rs_of_old_counted_the_wait_as_prompt(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    old = MISTRAL_RS | {"total_prompt_time_sec": 0.016}
    replay.serve(script(Told({}, old, {}), True))
    ask(client, True)
    assert lengths(spans, spans.one("completed")) == pytest.approx({"queue_prefill": 0.016}, abs=1e-5)


@pytest.mark.parametrize("name", ["router_queue_depth", "queue_depth"])
def test_how_many_waited_before_dynamos_router(name: str, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    timing = {each: value for each, value in DYNAMO.items() if each != "router_queue_depth"} | {name: 7}
    replay.serve(script(Told({"nvext": {"timing": timing}}, {}, {}), True))
    ask(client, True)
    assert attributes(spans.phases(spans.one("completed"))["queue"])["llmtrace.queue.depth"] == 7


def test_dynamos_timing_on_the_chunk_before_the_usage(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    """As it streams: its workers first, the timing with the finish reason, the usage last. One server has no queue."""
    workers = {"worker_id": {"prefill_worker_id": 1, "prefill_dp_rank": 0, "decode_worker_id": 1, "decode_dp_rank": 0}}
    timing = {"ttft_ms": 19.66, "total_time_ms": 35.87, "kv_hit_rate": 0.33, "router_queue_depth": 0}
    chunks = play.openai_chunks(["a", "b", "c"], play.USAGE)
    last = max(place for place, each in enumerate(chunks) if each["choices"])
    chunks[0] |= {"nvext": workers}
    chunks[last] |= {"nvext": workers | {"timing": {"request_received_ms": 1787192456979} | timing}}
    replay.serve(play.events_script(*chunks, ttft=0.04))
    ask(client, True)
    call = spans.one("completed")
    assert lengths(spans, call) == pytest.approx({"queue_prefill": 0.01966}, abs=1e-5)
    assert attributes(call)["llmtrace.queue.depth"] == 0


@pytest.mark.parametrize(
    ("engine", "usage", "phase"),
    [
        ("localai", {"timing_token_generation": 4.0}, "opaque"),
        ("localai", {"timing_prompt_processing": 10.0}, "prefill"),
        ("fastflowlm", {"prefill_duration_ttft": 0.010, "decoding_speed_tps": 1500.0}, "prefill"),
    ],
)
def test_a_name_that_is_nobody_elses_is_enough(
    engine: str, usage: Any, phase: str, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(script(Told({}, usage, {}), True))
    ask(client, True)
    call = spans.one("completed")
    assert attributes(call)["llmtrace.server.engine"] == engine
    if phase == "prefill":
        assert lengths(spans, call) == pytest.approx({"prefill": 0.010}, abs=1e-5)


def test_omlx_that_loaded_the_model_first(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    ticking = OMLX | {"model_load_duration": 0.2, "prompt_eval_duration": 0.01, "time_to_first_token": 0.01}
    replay.serve(play.openai_stream(usage=play.USAGE | ticking, ttft=0.3, itl=0.002))
    ask(client, True)
    call = spans.one("completed")
    assert lengths(spans, call) == pytest.approx({"model_load": 0.2, "queue_prefill": 0.01}, abs=1e-5)
    assert attributes(call)["llmtrace.server.model_load"] == 0.2


def test_omlx_tells_the_load_of_a_whole_answer(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    usage = play.USAGE | {"model_load_duration": 0.2, "total_time": 0.05}
    replay.serve(play.json_answer(play.completion(usage=usage), before=0.3))
    ask(client, False)
    call = spans.one("completed")
    assert attributes(call)["llmtrace.server.engine"] == "omlx"
    assert lengths(spans, call) == pytest.approx({"model_load": 0.2, "opaque": 0.05}, abs=1e-5)


VLLM = {
    "time_to_first_token_ms": 9.0, "generation_time_ms": 4.0, "queue_time_ms": 1.0, "mean_itl_ms": 0.8,
    "tokens_per_second": 1500.0,
}  # fmt: skip
SPECULATIVE = {
    "mean_acceptance_length": 2.5, "draft_acceptance_rate": 0.5, "acceptance_histogram": [1, 1, 1, 1],
    "num_spec_steps": 4, "num_accepted_draft_tokens": 6, "num_draft_tokens": 12, "num_spec_tokens": 3,
}  # fmt: skip
SGLANG = {
    "queue_time": 0.001, "forward_entry_time": 1719000000.100, "prefill_finished_time": 1719000000.109,
    "request_finished_ts": 1719000000.113, "e2e_latency": 0.015, "spec_verify_ct": 4,
}  # fmt: skip
DRAFTED = LLAMA_SHAPED | {"predicted_n": 25, "draft_n": 16, "draft_n_accepted": 15}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metrics": VLLM | {"speculative_decoding": SPECULATIVE}}, (12, 6, 1.5)),
        ({"timings": DRAFTED}, (16, 15, 1.5)),
        ({"meta_info": SGLANG | {"spec_draft_token_num": 12, "spec_accept_token_num": 6}}, (12, 6, 1.5)),
        ({"meta_info": SGLANG | {"spec_num_proposed_drafts": 12, "spec_num_correct_drafts": 6}}, (12, 6, 1.5)),
    ],
    ids=["vllm", "llama.cpp", "sglang", "sglang, newer"],
)
def test_speculative_decoding(
    fields: Any, expected: Any, streaming: bool, client: openai.OpenAI, replay: Replay, spans: Spans
) -> None:
    replay.serve(script(Told(fields, {}, {}), streaming))
    ask(client, streaming)
    decode = attributes(spans.phases(spans.one("completed"))["decode"])
    names = ("draft_tokens", "draft_tokens_accepted", "accepted_per_step")
    assert tuple(decode[f"llmtrace.decode.{name}"] for name in names) == expected


def test_vllm_that_tells_of_drafts_alone(client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(script(Told({"metrics": {"speculative_decoding": SPECULATIVE}}, {}, {}), True))
    ask(client, True)
    call = spans.one("completed")
    assert attributes(spans.phases(call)["decode"])["llmtrace.decode.accepted_per_step"] == 1.5
    assert "llmtrace.server.engine" not in attributes(call), "no timings came"


@pytest.mark.parametrize(
    "odd",
    [None, [], {}, "x", {"num_draft_tokens": -1, "num_accepted_draft_tokens": 2}, {"num_draft_tokens": "12"},
     {"num_draft_tokens": 2, "num_accepted_draft_tokens": 3, "num_spec_steps": 1}, {"num_draft_tokens": True}],
)  # fmt: skip
def test_drafts_that_cannot_be(odd: Any, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    replay.serve(script(Told({"metrics": VLLM | {"speculative_decoding": odd}}, {}, {}), False))
    ask(client, False)
    decode = attributes(spans.phases(spans.one("completed"))["decode"])
    assert "llmtrace.decode.draft_tokens" not in decode


@pytest.mark.parametrize("reported", [True, False], ids=["usage", "tiers alone"])
def test_the_tiers_of_sglangs_cache(reported: bool, client: openai.OpenAI, replay: Replay, spans: Spans) -> None:
    tiers = {"cached_tokens_details": {"device": 6, "host": 2, "storage_backend": "file"}}
    usage = play.USAGE | {"prompt_tokens_details": {"cached_tokens": 8} if reported else None}
    chunks = play.openai_chunks(["a", "b", "c"], usage)
    chunks.insert(-1, play.chunk(None) | {"sglext": tiers})
    metrics = {"metrics": VLLM}  # so that the phases are told apart
    replay.serve(play.events_script(*(chunk | metrics for chunk in chunks), ttft=0.04))
    ask(client, True)
    call = spans.one("completed")
    assert attributes(call)["gen_ai.usage.cache_read.input_tokens"] == 8
    hit = attributes(spans.phases(call)["kv_cache_hit"])
    assert (hit["llmtrace.kv_cache.tier.device"], hit["llmtrace.kv_cache.tier.host"]) == (6, 2)
    assert "llmtrace.kv_cache.tier.storage" not in hit
