"""The engines that report timings of their own: each with its fields, their unit and intervals, and where that stands.

The intervals are the trap: one engine's "time to first token" starts at arrival, another's when the request was
scheduled, and one's "total" leaves the queue out. UNVERIFIED stands where no source confirms something. An engine is
claimed by a mark of its own: a place in the body that only it uses, or fields that only it sends. Two of its fields
have to be there, unless its place or its names are nobody else's (``fewest=1``).
docs/providers/openai-compatible.md says how to switch them on.

Left out on purpose: Ollama's OpenAI endpoint (its own API has them), Together, DeepSeek, Mistral, xAI (no timings in
them), the LiteLLM proxy's totals (the proxy's, not the engine's).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmtrace.observe.answer import ServerTimings
from llmtrace.providers.engine_fields import MS, NS, Engine, S

_SAME: Final = 0.0015
"""Seconds: what two sums of whole milliseconds may differ by."""

# ---- hosted, and large servers ---------------------------------------------------------------------------------------

# groq SDK types/completion_usage.py. `usage` of a body (of a stream: only with include_usage) and `x_groq.usage` of a
# stream's last chunk, without opting in. Float s. `queue_time` waiting, `prompt_time` prefill, `completion_time`
# decode; `total_time` is prompt + completion WITHOUT the queue, hence the sum here. Every body recorded in 2024 and
# 2025 has a completion_time of exactly its token count over a whole number (1200, 750, 550, ...): a rate, it seems, not
# a clock. Bodies of 2026 do not.
GROQ = Engine(
    "groq",
    S,
    queue="queue_time",
    prefill="prompt_time",
    decode="completion_time",
    total="queue_time + total_time",
    own=("prompt_time", "completion_time"),
)
GROQ_BY_USAGE = replace(GROQ, all_of=("queue_time",))
"""Without ``x_groq`` beside it, the usage has to name the queue: TabbyAPI's has the other three as well."""

# cerebras_cloud_sdk types/chat/chat_completion.py. `time_info` beside `usage`. Float s. `total_time` is wider than the
# sum of the three (0.0222 against 0.0068 in the documented sample): server time that no phase owns. In a stream on the
# last chunk: UNVERIFIED.
CEREBRAS = Engine(
    "cerebras",
    S,
    queue="queue_time",
    prefill="prompt_time",
    decode="completion_time",
    total="total_time",
)

# docs.fireworks.ai, fireworks-ai SDK (`dict[str, str]`). `perf_metrics` of the body or of the chunk with finish_reason
# (request: perf_metrics_in_response), else headers `fireworks-` + key, of which a stream has only the first token's.
# Text holding float s (said of two keys; the other durations' unit: UNVERIFIED, their SDK reads them alike).
# `server-time-to-first-token` and `server-processing-time` start at arrival; the `-duration` keys exist on dedicated
# deployments only. Waiting for and being in the tokenizer are before the scheduler took the prompt: queue. The
# generation queue lies between prefill and decode; on which side of the first token is UNVERIFIED, so decode is first
# token to end by the two times that are defined, and `generation-duration` alone only where those are missing.
FIREWORKS = Engine(
    "fireworks",
    S,
    fewest=1,
    queue="prefill-queue-duration + tokenizer-queue-duration? + tokenizer-duration?",
    prefill="prefill-duration",
    decode="server-processing-time - server-time-to-first-token | generation-duration",
    ttft="server-time-to-first-token",
    total="server-processing-time",
    cached_tokens="cached-prompt-tokens",
)

# vLLM docs/features/per_request_metrics.md. `metrics` of the body or of the stream's last (usage) chunk. Float ms.
# `time_to_first_token_ms` runs from SCHEDULED to the first token: it is the prefill, without the queue;
# `generation_time_ms` first to last token. (vLLM's span attribute of nearly the same name starts at arrival.)
VLLM = Engine(
    "vllm",
    MS,
    queue="queue_time_ms",
    kv_cache_hit="kv_cache_hit_time_ms",
    prefill="time_to_first_token_ms - kv_cache_hit_time_ms?",
    decode="generation_time_ms",
    own=("queue_time_ms", "mean_itl_ms"),
)

# Our own server (llmtrace.reference): vLLM's shape, and the time of copying the cached prefix, which lies INSIDE
# time_to_first_token_ms, under a key of its own.
REFERENCE = replace(
    VLLM,
    name="llmtrace-reference",
    mark=("engine", "llmtrace-reference"),
    on_device=("timed_by", "cuda"),
    grammar_compile="grammar_compile_time_ms",
    grammar_mask="grammar_mask_time_ms",
)

# llama.cpp tools/server (result_timings). `timings` of the body or the last chunk. Float ms. No queue: waiting for a
# slot is not told. `prompt_n` leaves the cached tokens (`cache_n`) out.
LLAMA_CPP = Engine(
    "llama.cpp",
    MS,
    prefill="prompt_ms",
    decode="predicted_ms",
    cached_tokens="cache_n",
    beside=("prompt_n", "predicted_n"),
)

# ollama-python _types.py, ollama server/routes.go. Top level of a whole answer or of a stream's last line. Whole ns.
# `total_duration` starts when the handler takes the request up, `load_duration` with it: waiting for the scheduler and
# loading the model. Waiting for a free slot, templating and tokenising come after that and are in no field; they are
# what the total has over the others. So the queue is that difference: everything before the prompt is evaluated, and a
# few ms of writing the answer out. Nothing is told of the cache.
OLLAMA = Engine(
    "ollama",
    NS,
    queue="total_duration - prompt_eval_duration - eval_duration | load_duration",
    prefill="prompt_eval_duration",
    decode="eval_duration",
    total="total_duration",
    model_load="load_duration",
)

# sambanova SDK types/chat/chat_completion_stream_response.py. In `usage` (a stream's last chunk; whether that needs
# include_usage: UNVERIFIED). Float s. Neither queue nor prefill apart; `start_time` and `end_time` are the server's
# wall clock.
SAMBANOVA = Engine(
    "sambanova",
    S,
    own=("total_latency",),
    decode="total_latency - time_to_first_token",
    ttft="time_to_first_token",
    total="total_latency",
)

# Dynamo lib/llm/src/protocols/common/timing.rs. `nvext.timing` (request: nvext.extra_fields; of a stream on the chunk
# with the finish reason). Float ms, what is unknown is absent. The wait starts when the frontend received the
# request, so it holds tokenising and routing; `prefill_time_ms` ends with the first token; ttft and total start at the
# receipt. `kv_hit_rate` counts blocks, not tokens, and is not read.
DYNAMO = Engine(
    "dynamo",
    MS,
    fewest=1,
    queue="prefill_wait_time_ms | ttft_ms - prefill_time_ms",
    prefill="prefill_time_ms | ttft_ms - prefill_wait_time_ms",
    decode="total_time_ms - ttft_ms | total_time_ms - prefill_wait_time_ms - prefill_time_ms",
    ttft="ttft_ms",
    total="total_time_ms",
)

# TensorRT-LLM tensorrt_llm/serve (merged to main: UNVERIFIED). `Server-Timing` response header, or the same text under
# that key in a stream's trailing `trtllm.perf_metrics` event (after [DONE]). ms. All start at arrival: ttft INCLUDES
# the queue. Disaggregated: disagg_queue ends at the dispatch to the context server, whose own queue comes after; which
# first token gen_ttft means is UNVERIFIED, so no decode there.
TENSORRT_LLM = Engine(
    "tensorrt-llm",
    MS,
    queue="server_queue | disagg_queue + ctx_queue",
    prefill="server_ttft - server_queue | ctx_ttft - ctx_queue",
    decode="server_e2e - server_ttft",
    ttft="server_ttft | disagg_ttft",
    total="server_e2e",
    beside=("server_kv_transfer", "gen_ttft"),
)

# TGI router/src/server.rs. Response headers of /generate (of chat completions, and of streams: UNVERIFIED). Whole ms.
# Validation (tokenising) runs from receipt to queued. `x-inference-time` is prefill and decode in one, so neither is
# known. `x-compute-time` is not read: the same total, but in s here and in ms in the LoRAX fork.
TGI = Engine("tgi", MS, queue="x-queue-time + x-validation-time?", total="x-total-time")
TGI_SIGNATURE: Final = ("x-queue-time", "x-inference-time", "x-total-time")

# sglang managers/tokenizer_manager.py. `meta_info` of a choice (return_meta_info, not streamed). Float s, and unix s
# for `*_ts`, `forward_entry_time`, `prefill_finished_time`. The queue is the scheduler's; first_token_latency and
# e2e_latency start at receipt. Without --enable-metrics only e2e_latency is there.
SGLANG = Engine(
    "sglang",
    S,
    fewest=1,
    queue="queue_time",
    prefill="prefill_finished_time@ - forward_entry_time@",
    decode="request_finished_ts@ - prefill_finished_time@ | e2e_latency - first_token_latency",
    ttft="first_token_latency",
    total="e2e_latency",
    cached_tokens="cached_tokens",
)

# openrouter SDK components/openroutermetadata.py. Whole ms from handing the request to the provider behind it until
# that one's body ended (request: header X-OpenRouter-Metadata). No phase, only that total.
OPENROUTER = Engine("openrouter", MS, total="generation_time", fewest=1)

# botocore's bedrock-runtime service model (latencyMs of Converse, "latency of the call") and the metrics in the last
# chunk of an InvokeModel stream, or the header of a whole answer. Whole ms. The first byte's latency is queue and
# prefill in one. Where the server's clock starts is not said; the network is not in it.
BEDROCK = Engine(
    "bedrock",
    MS,
    fewest=1,
    decode="invocationLatency - firstByteLatency",
    ttft="firstByteLatency",
    total="invocationLatency | latencyMs | x-amzn-bedrock-invocation-latency",
)

# ---- engines of one's own machine ------------------------------------------------------------------------------------

# docs.nvidia.com NIM "Per-Request Metrics (Experimental)". `stats` of the body or of a chunk. Float ms. The queue is
# told where vLLM runs beneath. The first token's time is "from processing start": on which side of the queue that lies
# is UNVERIFIED, so prefill is not told apart. `generation_time_in_ms` is all processing, from the same start.
NIM = Engine(
    "nim",
    MS,
    queue="time_in_queue_in_ms",
    ttft="time_to_first_token_in_ms",
    decode="generation_time_in_ms - time_to_first_token_in_ms",
    total="generation_time_in_ms",
    mark=("type", "NIM LLM Model Stats"),
)

# github.com/lmstudio-ai/docs, REST API v0. `stats` of the body (of a stream's last chunk: UNVERIFIED). Float s. In both
# documented bodies tokens_per_second is the count over `generation_time`: that is decode, without the first token's
# time. Where the latter starts is UNVERIFIED.
LM_STUDIO = Engine(
    "lm-studio",
    S,
    ttft="time_to_first_token",
    decode="generation_time",
    all_of=("tokens_per_second", "time_to_first_token", "stop_reason"),
)

# LocalAI README, core/schema/openai.go, backend/cpp/llama (prompt_ms, predicted_ms). `usage`, of the request's header
# Extra-Usage. Float ms; a zero is left out (a prompt that lay in the cache whole), so that one field may be alone. No
# queue.
LOCALAI = Engine(
    "localai",
    MS,
    fewest=1,
    prefill="timing_prompt_processing",
    decode="timing_token_generation",
    own=("timing_prompt_processing", "timing_token_generation"),
)


def _omlx(timings: ServerTimings) -> None:
    """Where the prompt's time is the first token's, the wait may be in it: then they are not told apart."""
    if timings.prefill is not None and timings.ttft is not None:
        first = timings.ttft - (timings.model_load or 0.0)
        if first - timings.prefill < _SAME:
            timings.prefill = None


# github.com/jundot/omlx omlx/api/openai_models.py, omlx/server.py. `usage` of the stream's usage chunk;
# of a whole answer there are the total and the load alone. Float s, in steps of 10 ms. The clocks of the others start
# once the model is there; its load is told from 1 s on, and of the queue there is no other word. The prompt's time is
# the first token's in every version that was read. SambaNova's has a `time_to_first_token` too.
OMLX = Engine(
    "omlx",
    S,
    queue="model_load_duration",
    prefill="prompt_eval_duration",
    decode="generation_duration",
    ttft="time_to_first_token + model_load_duration?",
    total="total_time + model_load_duration?",
    model_load="model_load_duration",
    own=("prompt_eval_duration", "generation_duration", "model_load_duration"),
    settle=_omlx,
)


def _mistral_rs(timings: ServerTimings) -> None:
    """Older versions count the wait into the prompt's time, which makes the two parts sum up to the whole."""
    prefill, decode, total = timings.prefill, timings.decode, timings.total
    if prefill is not None and decode is not None and total is not None and abs(total - prefill - decode) < _SAME:
        timings.prefill = None
    else:
        timings.ttft = None


# github.com/EricLBuehler/mistral.rs mistralrs-core/src/response.rs, sequence.rs. `usage` of the body or the stream's
# last chunk. Float s of whole ms. `total_time_sec` runs from the request's creation. The prompt's time was everything
# until the first token once, and is the prompt's own step now; decode's own steps are what the newest version counts.
MISTRAL_RS = Engine(
    "mistral.rs",
    S,
    prefill="total_prompt_time_sec",
    decode="total_completion_time_sec",
    ttft="total_time_sec - total_completion_time_sec",
    total="total_time_sec",
    own=("total_prompt_time_sec",),
    settle=_mistral_rs,
)

# github.com/theroyallab/tabbyAPI endpoints/OAI/types/common.py, backends/exllamav3/model.py. `usage` of the body or of
# the usage chunk. Float s, of older versions in steps of 10 ms. `total_time` is queue, prompt and completion. The rates
# may be text ("Indeterminate"). Newer versions send llama.cpp's `timings` beside it, which are finer.
TABBYAPI = Engine(
    "tabbyapi",
    S,
    queue="total_time - prompt_time - completion_time",
    prefill="prompt_time",
    decode="completion_time",
    total="total_time",
    own=("prompt_tokens_per_sec",),
)

# github.com/FastFlowLM/FastFlowLM, its REST handler and AutoModel (`prefill_duration` is timed around the engine's
# prefill alone). `usage`. Float s. No queue. `load_duration` is not read: of which load it is is UNVERIFIED.
FASTFLOWLM = Engine(
    "fastflowlm",
    S,
    fewest=1,
    prefill="prefill_duration_ttft",
    decode="decoding_duration",
    own=("prefill_duration_ttft",),
)

# github.com/mlc-ai/mlc-llm cpp/serve/metrics.h, metrics.cc. `usage.extra`. Float s. Both times start when the request
# was added to the engine: the wait is in the first token's, and its "prefill" is that same time.
MLC = Engine(
    "mlc",
    S,
    ttft="ttft_s",
    decode="end_to_end_latency_s - ttft_s",
    total="end_to_end_latency_s",
    all_of=("end_to_end_latency_s",),
)

# github.com/mlc-ai/web-llm src/engine.ts, src/llm_chat.ts. `usage.extra`. Float s. The total runs from the request's
# receipt, with the wait for the requests before it. The first token's time does not: it is the prefill's own, in which
# a grammar is compiled (`grammar_init_s`), so what the total has beyond it is not decode alone. Of n > 1 both are sums.
WEBLLM = Engine(
    "webllm",
    S,
    grammar_compile="grammar_init_s",
    prefill="time_to_first_token_s",
    total="e2e_latency_s",
    all_of=("e2e_latency_s",),
)

ENGINES: Final = (
    GROQ, CEREBRAS, FIREWORKS, VLLM, REFERENCE, LLAMA_CPP, OLLAMA, SAMBANOVA, DYNAMO, TENSORRT_LLM, TGI, SGLANG,
    OPENROUTER, BEDROCK, NIM, LM_STUDIO, LOCALAI, OMLX, MISTRAL_RS, TABBYAPI, FASTFLOWLM, MLC, WEBLLM,
)  # fmt: skip
