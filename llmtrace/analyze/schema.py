"""The table of spans that every report reads: one row a span, one column per attribute that some report asks for.

The table is plain (text, integers, floats, booleans), so that any engine that ibis knows can hold it. Lists are text,
their members joined by commas. Names of other tracers' attributes stand behind ours and the conventions'. What
version 1 of the span contract moved off a call's span into an event counts as the span's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from llmtrace.analyze.engine_spans import ENGINE_SPAN
from llmtrace.emit import names
from llmtrace.tasks.prices import MODALITIES

Kind = Literal["text", "int", "float", "bool"]

VERSION: Final = 13
"""Changes with the columns: tables cached by an older version are made anew."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, the attributes of a span that fill it, and else those of its resource, best first."""

    name: str
    kind: Kind
    attributes: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()


FIXED: Final = (
    Column("trace_id", "text"),
    Column("span_id", "text"),
    Column("parent_id", "text"),
    Column("name", "text"),
    Column("kind", "text"),
    Column("start_ns", "int"),
    Column("end_ns", "int"),
    Column("status", "text"),
    Column("service", "text"),
)
"""The columns of every span: ids in lower-case hex, times in ns since the epoch, kind and status in OTLP's words."""

FROM_ATTRIBUTES: Final = (
    # the call
    Column(
        "operation",
        "text",
        (names.OPERATION, "llm.request.type", "openinference.span.kind", "traceloop.span.kind"),
    ),
    Column("provider", "text", (names.PROVIDER, "gen_ai.system", "llm.provider", "llm.system")),
    Column("request_model", "text", (names.REQUEST_MODEL, "llm.model_name", "llm.request.model")),
    Column("response_model", "text", (names.RESPONSE_MODEL, "llm.response.model")),
    Column("response_id", "text", (names.RESPONSE_ID,)),
    Column("address", "text", (names.SERVER_ADDRESS,)),
    Column("port", "int", (names.SERVER_PORT,)),
    Column("input_tokens", "int", (names.INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")),
    Column(
        "output_tokens", "int", (names.OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion")
    ),
    Column(
        "cached_tokens",
        "int",
        (names.CACHE_READ_TOKENS, "gen_ai.usage.cached_tokens", "llm.token_count.prompt_details.cache_read"),
    ),
    Column("cache_write_tokens", "int", (names.CACHE_WRITE_TOKENS, "llm.token_count.prompt_details.cache_write")),
    Column("reasoning_tokens", "int", (names.REASONING_TOKENS, "llm.token_count.completion_details.reasoning")),
    *(
        Column(f"{kind}_{what}_tokens", "int", (by_modality[kind],))
        for kind in MODALITIES
        for what, by_modality in (
            ("input", names.INPUT_BY_MODALITY),
            ("output", names.OUTPUT_BY_MODALITY),
            ("cached", names.CACHE_READ_BY_MODALITY),
        )
    ),
    Column("max_tokens", "int", ("gen_ai.request.max_tokens",)),
    Column("error_type", "text", (names.ERROR_TYPE,)),
    Column("schema_version", "int", (names.SCHEMA,)),
    Column("outcome", "text", (names.OUTCOME,)),
    Column("ttft", "float", (names.TTFT, names.TIME_TO_FIRST_CHUNK)),
    Column("fingerprint", "text", (names.ROUTE,)),
    Column("adopted", "bool", (names.CALL_ADOPTED,)),
    Column("call_start_ns", "int", (names.CALL_START,)),
    Column("call_duration", "float", (names.CALL_DURATION,)),
    Column("diagnosis", "text", (names.DIAGNOSIS, names.CAUSE)),
    Column("cancel_cause", "text", (names.CANCEL_CAUSE,)),
    Column("cancel_phase", "text", (names.CANCEL_PHASE,)),
    Column("time_to_close", "float", (names.TIME_TO_CLOSE,)),
    Column("billed_tokens", "int", (names.BILLED_TOKENS,)),
    Column("billed_lower", "int", (names.BILLED_LOWER,)),
    Column("billed_upper", "int", (names.BILLED_UPPER,)),
    Column("billed_output", "int", (names.BILLED_OUTPUT,)),
    Column("billed_usd", "float", (names.BILLED_USD,)),
    Column("billed_by", "text", (names.BILLED_BY,)),
    Column("delivered_tokens", "int", (names.DELIVERED_TOKENS,)),
    Column("delivered_basis", "text", (names.DELIVERED_BASIS,)),
    Column("lost_tokens", "int", (names.LOST_TOKENS,)),
    Column("lost_because", "text", (names.LOST_BECAUSE,)),
    Column("lost_time", "float", (names.LOST_TIME,)),
    Column("changed_at", "text", (names.CHANGED_AT,)),
    Column("changed_token", "int", (names.CHANGED_TOKEN,)),
    Column("cache_miss", "text", ("openai.response.cache_miss_reason", "anthropic.response.cache_miss_reason")),
    Column("engine_span", "text", (ENGINE_SPAN,)),
    Column("slo_ttft", "float", (names.SLO_TTFT,)),
    Column("slo_itl", "float", (names.SLO_ITL,)),
    Column("slo_total", "float", (names.SLO_TOTAL,)),
    Column("finish", "text", (names.FINISH_REASONS,)),
    # who served it
    Column("weights", "text", (names.MODEL_FINGERPRINT, names.SYSTEM_FINGERPRINT), (names.MODEL_FINGERPRINT,)),
    Column(
        "model_format",
        "text",
        (names.MODEL_QUANTIZATION, names.MODEL_FORMAT, names.MODEL_DTYPE),
        (names.MODEL_FORMAT, names.MODEL_QUANTIZATION, names.MODEL_DTYPE),
    ),
    Column("app_version", "text", (), (names.SERVICE_VERSION,)),
    Column("device", "text", (), (names.DEVICE_NAME, "device.model.identifier")),
    Column("instance", "text", (), (names.SERVICE_INSTANCE, "app.installation.id", "device.id", names.HOST_NAME)),
    # a phase or an attempt
    Column("phase", "text", (names.PHASE,)),
    Column("source", "text", (names.SOURCE,)),
    Column("uncertainty", "float", (names.UNCERTAINTY,)),
    Column("uncertainty_low", "float", (names.UNCERTAINTY_LOW,)),
    Column("uncertainty_high", "float", (names.UNCERTAINTY_HIGH,)),
    Column("merged_because", "text", (names.MERGED_BECAUSE,)),
    Column("merged_detail", "text", (names.MERGED_DETAIL,)),
    Column("estimate_duration", "float", (names.ESTIMATE_DURATION,)),
    Column("estimate_uncertainty", "float", (names.ESTIMATE_UNCERTAINTY,)),
    Column("estimate_low", "float", (names.ESTIMATE_LOW,)),
    Column("estimate_high", "float", (names.ESTIMATE_HIGH,)),
    Column("estimate_error", "float", (names.ESTIMATE_ERROR,)),
    Column("phase_tokens", "int", (names.TOKENS,)),
    Column("time_saved", "float", (names.TIME_SAVED,)),
    Column("itl_p50", "float", (names.ITL_P50,)),
    Column("stall_duration", "float", (names.STALL_DURATION,)),
    Column("consumer_wait", "float", (names.CONSUMER_WAIT,)),
    Column("status_code", "int", (names.STATUS_CODE, "http.status_code")),
    # tasks and steps
    Column("task_id", "text", (names.TASK_ID,)),
    Column("task_name", "text", (names.TASK_NAME,)),
    Column("task_resolved", "bool", (names.TASK_RESOLVED,)),
    Column("task_budget", "float", (names.TASK_BUDGET,)),
    Column("step_kind", "text", (names.STEP_KIND,)),
    Column("repairs", "int", (names.REPAIRS,)),
    Column("cost_usd", "float", (names.COST,)),
    # what else a request is made of
    Column("tool_name", "text", (names.TOOL_NAME, "tool.name")),
    Column("agent_name", "text", (names.AGENT_NAME, "agent.name")),
    Column("entity_name", "text", ("traceloop.entity.name", names.WORKFLOW_NAME)),
    Column("db_system", "text", ("db.system.name", "db.system")),
    Column("messaging_system", "text", ("messaging.system",)),
    Column("rpc_system", "text", ("rpc.system.name", "rpc.system")),
    Column("http_method", "text", ("http.request.method", "http.method")),
    Column("score", "float", (names.SCORE,)),
    Column("score_name", "text", (names.SCORE_NAME,)),
)

COLUMNS: Final = (*FIXED, *FROM_ATTRIBUTES)
_NUMBERS: Final = ("int", "float")
_NEWER = (
    "estimate_", "slo_", "lost_", "changed_", "engine_span", "port", "repairs", "cache_miss", "billed_output",
    "billed_usd", "billed_by", "finish", "weights", "model_format", "app_version", "device", "instance", "tool_name",
    "agent_name", "entity_name", "db_system", "messaging_system", "rpc_system", "http_method", "score",
    *(f"{kind}_" for kind in MODALITIES),
)  # fmt: skip
SINCE_4: Final = frozenset(column.name for column in FROM_ATTRIBUTES if column.name.startswith(_NEWER))
"""Columns that a table may lack which an older llmtrace made: nothing stands there."""


def with_extra(attributes: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns, and further ones of numbers for attributes that a user named (a quality score, say)."""
    return (*COLUMNS, *(Column(name, "float", (name,)) for name in attributes))


def extra(attributes: Iterable[str | None]) -> tuple[str, ...]:
    """Those of the attributes that a user named that are no column of numbers already."""
    own = {name for column in FROM_ATTRIBUTES if column.kind in _NUMBERS for name in column.attributes[:1]}
    return tuple(dict.fromkeys(name for name in attributes if name is not None and name not in own))


def column_of(attribute: str) -> str:
    """The column that an attribute fills which a user named."""
    of_numbers = (column for column in FROM_ATTRIBUTES if column.kind in _NUMBERS)
    return next((column.name for column in of_numbers if column.attributes[:1] == (attribute,)), attribute)
