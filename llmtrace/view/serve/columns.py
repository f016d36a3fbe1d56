"""The tables of the store: spans as the reports' table has them and whole, calls made of them, and one row a trace."""

from __future__ import annotations

from typing import Final

from llmtrace.analyze import schema, whole_span
from llmtrace.analyze.schema import Column
from llmtrace.emit import names
from llmtrace.phases.model import PHASES
from llmtrace.tasks.prices import MODALITIES

VERSION: Final = 6
"""The version of the store's tables. A newer store is not opened; an older one is upgraded to this version."""

SINCE_2: Final = (
    "schema_version", "adopted", "call_start_ns", "call_duration", "uncertainty_low", "uncertainty_high",
    "merged_because", "merged_detail", "cost_usd",
)  # fmt: skip
"""Columns of spans that version 1 of the store did not have."""
SINCE_3: Final = ("engine_span", "fingerprint", "response_id")
"""Those that version 2 did not have."""
SINCE_4: Final = ("port",)
"""Those that version 3 did not have."""
SINCE_6: Final = tuple(f"{kind}_{what}_tokens" for kind in MODALITIES for what in ("input", "output", "cached"))
"""Those that version 5 did not have."""
_ASKED: Final = {
    "operation", "provider", "request_model", "response_model", "address", "input_tokens", "output_tokens",
    "cached_tokens", "cache_write_tokens", "error_type", "outcome", "ttft", "diagnosis", "phase", "source",
    "uncertainty", "itl_p50", "consumer_wait", "task_id", "task_name", *SINCE_2, *SINCE_3,
    *SINCE_4, *SINCE_6,
}  # fmt: skip
TAKEN: Final = (
    *schema.FIXED,
    *(column for column in schema.FROM_ATTRIBUTES if column.name in _ASKED),
    Column("streamed", "bool", (names.REQUEST_STREAM, names.CALL_STREAMING, "llm.is_streaming")),
    Column("confidence", "text", (names.CONFIDENCE,)),
)
"""The columns of spans that the reports' expressions for calls read; no others, since every column costs time in every
commit. Beside them a span is kept whole (``whole_span.COLUMNS``)."""

_SQL: Final = {"text": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
IDS: Final = {"trace_id": "UUID", "span_id": "UBIGINT", "parent_id": "UBIGINT"}
"""Ids as numbers: half the room and a fraction of the time of text."""
TYPES: Final = {column.name: IDS.get(column.name, _SQL[column.kind]) for column in (*TAKEN, *whole_span.COLUMNS)}

CALL_TYPES: Final = {
    "trace_id": "UUID",
    "span_id": "UBIGINT",
    "name": "VARCHAR",
    "service": "VARCHAR",
    "provider": "VARCHAR",
    "model": "VARCHAR",
    "answered_model": "VARCHAR",
    "upstream": "VARCHAR",
    "route": "VARCHAR",
    "operation": "VARCHAR",
    "start_us": "BIGINT",
    "duration_s": "DOUBLE",
    "ttft_s": "DOUBLE",
    "outcome": "VARCHAR",
    "status": "VARCHAR",
    "error_type": "VARCHAR",
    "causes": "VARCHAR[]",
    "confidence": "VARCHAR",
    "phases": "VARCHAR",
    "input_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cost_usd": "DOUBLE",
    "attempts": "INTEGER",
    "streamed": "BOOLEAN",
    "task": "VARCHAR",
    "schema_version": "INTEGER",
    **{f"s_{phase}": "DOUBLE" for phase in PHASES},
    **{f"source_{phase}": "VARCHAR" for phase in PHASES},
    **{f"uncertainty_{phase}": "DOUBLE" for phase in PHASES},
}
"""``upstream`` is who answered behind a gateway, ``schema_version`` that of the span contract. ``phases`` is JSON;
``s_PHASE``, ``source_PHASE`` and ``uncertainty_PHASE`` are a phase's seconds, how they are known and how surely, absent
where the call has no such phase."""

INBOX_TYPES: Final = {"id": "BIGINT", "protobuf": "BOOLEAN", "body": "BLOB"}
"""Bodies as they came, acknowledged and not yet among the spans: to commit one costs a tenth of what its spans cost."""

TRACE_TYPES: Final = {"trace_id": "UUID", "start_ns": "BIGINT", "end_ns": "BIGINT", "spans": "BIGINT"}


def create(table: str, types: dict[str, str]) -> str:
    """The statement that makes a table if it does not exist."""
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(f'{name} {kind}' for name, kind in types.items())})"
