"""Every attribute, span and metric name that llmtrace writes. Names are an API: a test pins them.

The OpenTelemetry conventions' names come from ``llmtrace.conventions``; ``llmtrace.*`` exist only where they have none.
"""

from __future__ import annotations

from typing import Final

from llmtrace.conventions import *  # noqa: F403

# --- ours: the call -------------------------------------------------------------------------------------------
SCHEMA: Final = "llmtrace.schema_version"
OUTCOME: Final = "llmtrace.call.outcome"
TTFT: Final = "llmtrace.call.ttft"
ROUTE: Final = "llmtrace.route.fingerprint"
ENGINE: Final = "llmtrace.server.engine"
PROCESSING_TIME: Final = "llmtrace.server.processing_time"
ANCHOR: Final = "llmtrace.anchor"
MODEL_LOAD: Final = "llmtrace.server.model_load"
TIMINGS_REJECTED: Final = "llmtrace.server_timings.rejected"
CHUNKS: Final = "llmtrace.stream.chunks"
CANCEL_PHASE: Final = "llmtrace.cancellation.phase"
DELIVERED_TOKENS: Final = "llmtrace.cancellation.delivered_tokens"
DELIVERED_BASIS: Final = "llmtrace.cancellation.delivered_tokens.basis"
CANCEL_CAUSE: Final = "llmtrace.cancellation.cause"
TIME_TO_CLOSE: Final = "llmtrace.cancellation.time_to_close"
BILLED_TOKENS: Final = "llmtrace.cancellation.billed_tokens"
BILLED_LOWER: Final = "llmtrace.cancellation.billed_tokens.lower"
BILLED_UPPER: Final = "llmtrace.cancellation.billed_tokens.upper"

LINK_KIND: Final = "llmtrace.link.kind"

# --- ours: the diagnosis --------------------------------------------------------------------------------------
DIAGNOSIS: Final = "llmtrace.diagnosis"
"""The list of causes on the call's span, and the name of the event that each verdict's evidence is in."""
CONFIDENCE: Final = "llmtrace.diagnosis.confidence"
CAUSE: Final = "llmtrace.diagnosis.cause"
QUANTITY: Final = "llmtrace.diagnosis.quantity"
OBSERVED: Final = "llmtrace.diagnosis.observed"
EXPECTED: Final = "llmtrace.diagnosis.expected"
EXCESS: Final = "llmtrace.diagnosis.excess"
RATE: Final = "llmtrace.diagnosis.time_per_token"
REASON: Final = "llmtrace.diagnosis.reason"
HISTORY: Final = "llmtrace.diagnosis.history"

# --- ours: a model in this process ------------------------------------------------------------------------------
MODEL_FINGERPRINT: Final = "llmtrace.model.fingerprint"
MODEL_DTYPE: Final = "llmtrace.model.dtype"
MODEL_QUANTIZATION: Final = "llmtrace.model.quantization"
ADAPTERS: Final = "llmtrace.model.adapters"
ADAPTER_RANKS: Final = "llmtrace.model.adapters.rank"
ADAPTERS_MERGED: Final = "llmtrace.model.adapters.merged"
TOKENIZER_FINGERPRINT: Final = "llmtrace.tokenizer.fingerprint"
TOKENIZER_BASIS: Final = "llmtrace.tokenizer.basis"
GENERATE_MODE: Final = "llmtrace.generate.mode"
GENERATE_ROWS: Final = "llmtrace.generate.batch_size"
GENERATE_BEAMS: Final = "llmtrace.generate.beams"
GENERATE_STEPS: Final = "llmtrace.generate.steps"
GENERATE_SETUP: Final = "llmtrace.generate.setup"

# --- ours: a phase --------------------------------------------------------------------------------------------
PHASE: Final = "llmtrace.phase"
SOURCE: Final = "llmtrace.phase.source"
PART: Final = "llmtrace.phase.part"
UNCERTAINTY: Final = "llmtrace.phase.uncertainty"
TOKENS: Final = "llmtrace.phase.tokens"
PER_TOKEN: Final = "llmtrace.phase.time_per_token"
SERVER_DURATION: Final = "llmtrace.phase.server_duration"
HOST_DURATION: Final = "llmtrace.phase.host_duration"
OTHERS_DURATION: Final = "llmtrace.phase.others_duration"
CLOCK_ERROR: Final = "llmtrace.clock.error"
EXPECTED_TOKENS: Final = "llmtrace.kv_cache.expected_tokens"
HIT_PROBABILITY: Final = "llmtrace.kv_cache.hit_probability"
PREFIX_PROBABILITY: Final = "llmtrace.kv_cache.prefix_probability"
TIME_SAVED: Final = "llmtrace.kv_cache.time_saved"
STEP_WAIT: Final = "llmtrace.queue.step_wait"
LOWER_BOUND: Final = "llmtrace.queue.lower_bound"
LIMIT: Final = "llmtrace.queue.concurrency_limit"
ADMISSION: Final = "llmtrace.network.admission"
ITL_P50: Final = "llmtrace.decode.itl.p50"
ITL_P99: Final = "llmtrace.decode.itl.p99"
ITL_MAX: Final = "llmtrace.decode.itl.max"
ITL_BASIS: Final = "llmtrace.decode.itl.basis"
GAP_P50: Final = "llmtrace.decode.chunk_gap.p50"
GAP_P99: Final = "llmtrace.decode.chunk_gap.p99"
GAP_MAX: Final = "llmtrace.decode.chunk_gap.max"
PATTERN: Final = "llmtrace.decode.pattern"
TOKENS_PER_CHUNK: Final = "llmtrace.decode.tokens_per_chunk"
STALL_COUNT: Final = "llmtrace.decode.stall.count"
STALL_DURATION: Final = "llmtrace.decode.stall.duration"
STALL_MADE_UP: Final = "llmtrace.decode.stall.made_up"
CONSUMER_WAIT: Final = "llmtrace.decode.consumer_wait"
NEW_CONNECTION: Final = "llmtrace.network.new_connection"
CONNECT: Final = "llmtrace.network.connect"
TLS: Final = "llmtrace.network.tls"
RTT: Final = "llmtrace.network.rtt"
HEADERS: Final = "llmtrace.network.time_to_headers"

# --- ours: the reference server's own spans -------------------------------------------------------------------
PREEMPTIONS: Final = "llmtrace.request.preemptions"
BATCH_SIZE: Final = "llmtrace.decode.batch_size"
LAUNCH_BOUND: Final = "llmtrace.gpu.launch_bound_ratio"
ADAPTER_ID: Final = "llmtrace.adapter.id"
ADAPTER_RANK: Final = "llmtrace.adapter.rank"
ADAPTER_MERGED: Final = "llmtrace.adapter.merged"
ADAPTER_SWAPS: Final = "llmtrace.adapter.swaps"
ADAPTER_SWAP: Final = "llmtrace.adapter.swap_duration"
GRAMMAR_KIND: Final = "llmtrace.grammar.kind"
GRAMMAR_COMPILE: Final = "llmtrace.grammar.compile_duration"
GRAMMAR_MASK: Final = "llmtrace.grammar.mask_duration"
GRAMMAR_MASK_PER_TOKEN: Final = "llmtrace.grammar.mask_per_token"
CHUNK_AGAIN: Final = "llmtrace.chunk.again"

# --- ours: tasks and steps -------------------------------------------------------------------------------------
TASK_NAME: Final = "llmtrace.task.name"
TASK_ID: Final = "llmtrace.task.id"
TASK_RESOLVED: Final = "llmtrace.task.resolved"
TASK_BUDGET: Final = "llmtrace.task.budget"
TASK_SPENT: Final = "llmtrace.task.spent"
STEP_KIND: Final = "llmtrace.step.kind"
COST: Final = "llmtrace.cost.usd"

# --- span names -----------------------------------------------------------------------------------------------
SPAN_PREFIX: Final = "llm."
ATTEMPT: Final = "llm.attempt"
PREFILL_CHUNK: Final = "llm.prefill.chunk"

# --- metrics --------------------------------------------------------------------------------------------------
M_PHASE: Final = "llmtrace.phase.duration"
M_DIAGNOSES: Final = "llmtrace.diagnoses"
M_ERRORS: Final = "llmtrace.errors"
WHERE: Final = "llmtrace.where"
