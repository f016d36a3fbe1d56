"""Makes calls from spans, by the reports' own expressions (``analyze.tables``) as one SQL statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtrace.analyze import contract
from llmtrace.emit import names
from llmtrace.phases.model import PHASES
from llmtrace.tasks.prices import Priced
from llmtrace.view.serve.columns import CALL_TYPES, IDS, TAKEN


def calls_sql(prices: Sequence[Priced], paired: bool, engines: bool) -> str:
    """The statement that appends the calls of ``touched`` to ``calls``.

    ``prices``: the prices of the models that answered; ``paired``: whether some of the calls are in two spans;
    ``engines``: whether there are engines' own spans.
    """
    import ibis

    from llmtrace.analyze import nesting, tables

    kinds = {"text": "string", "int": "int64", "float": "float64", "bool": "boolean"}
    own = {"UUID": "uuid", "UBIGINT": "uint64"}
    types = {column.name: own[IDS[column.name]] if column.name in IDS else kinds[column.kind] for column in TAKEN}
    touched: Any = ibis.table(types, name="touched")
    owned: Any = None
    before = ""
    if engines:
        owned = ibis.table(tables.owners(touched).schema(), name="owned")
        before = f"owned AS MATERIALIZED ({ibis.to_sql(tables.owners(touched), dialect='duckdb')}), "
    outer = nesting.outer(touched, tables.is_call)
    calls = ibis.to_sql(tables.calls(touched, prices, paired, owned, outer), dialect="duckdb")
    phases = ibis.to_sql(tables.owned_phases(touched, engines=owned), dialect="duckdb")
    columns = {
        f"{name}_{phase}": f"{what} FILTER (p.phase = '{phase}')"
        for name, what in (("s", "sum(p.seconds)"), ("source", "max(p.source)"), ("uncertainty", "max(p.uncertainty)"))
        for phase in PHASES
    }
    parts = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    always = """'name': p.phase, 'start_s': (p.start_ns - c.began_ns) / 1e9, 'duration_s': p.seconds,
      'source': p.source, 'uncertainty_s': p.uncertainty"""
    # What few phases have is left out of the others: the list holds every call's.
    rarely = """'shorter_s': p.uncertainty_low, 'longer_s': p.uncertainty_high,
      'merged_because': p.merged_because, 'merged_detail': p.merged_detail"""
    who = ", ".join(f"nullif(regexp_extract(c.fingerprint, '(?:^|;){name}=([^;]*)', 1), '')" for name in contract.WHO)
    return f"""
WITH {before}c AS ({calls}), p AS ({phases}), parts AS (
  SELECT p.trace_id AS part_trace, p.owner AS part_of, {parts},
    to_json(list(CASE WHEN coalesce(p.uncertainty_low, p.uncertainty_high) IS NULL AND p.merged_because IS NULL
      THEN to_json({{{always}}}) ELSE to_json({{{always}, {rarely}}}) END ORDER BY p.start_ns, p.end_ns))::VARCHAR
      AS phases
  FROM p JOIN c ON p.trace_id = c.trace_id AND p.owner = c.span_id GROUP BY ALL
)
INSERT INTO calls ({", ".join(CALL_TYPES)})
SELECT c.trace_id, c.span_id, c.name, c.service, c.provider, coalesce(c.request_model, c.response_model),
  c.response_model,
  coalesce({who}),
  c.route, c.operation, c.start_ns // 1000, c.duration, c.ttft,
  coalesce(c.outcome, CASE WHEN c.status = 'error' THEN 'error' END), c.status, c.error_type,
  CASE WHEN c.diagnosis = '' THEN NULL ELSE string_split(c.diagnosis, ',') END, c.confidence, parts.phases,
  c.input_tokens, c.cached_tokens, c.output_tokens, c.cost, c.attempts, c.streamed, coalesce(c.task_name, c.task_id),
  c.schema_version,
  {", ".join(f"parts.{name}" for name in columns)}
FROM c LEFT JOIN parts ON parts.part_trace = c.trace_id AND parts.part_of = c.span_id"""


ASKED_SQL = """SELECT DISTINCT coalesce(provider, ''), coalesce(response_model, request_model, '')
FROM touched WHERE operation IS NOT NULL OR outcome IS NOT NULL"""
"""Asks which providers and models need prices."""
PAIRED_SQL = f"SELECT count(*) FILTER (name = '{names.CALL}'), count(engine_span) FROM touched"
"""Counts the calls that are in two spans, and engines' own spans."""
