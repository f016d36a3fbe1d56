"""What a trace's page begins with: one call in brief, its verdict in a sentence, and the sums over all calls."""

from __future__ import annotations

from typing import Any, Final

import orjson

from llmtrace.analyze import contract
from llmtrace.emit import names
from llmtrace.phases.model import DECODE
from llmtrace.view import calls

_CALLS: Final = """
SELECT span_id, name, outcome, status, error_type, duration_s, ttft_s, input_tokens, cached_tokens, output_tokens,
  cost_usd, s_decode, causes, phases
FROM calls WHERE trace_id = ?::UUID ORDER BY len(coalesce(causes, [])) > 0 DESC, duration_s DESC LIMIT 1"""
_SUMS: Final = """
SELECT count(*), count(*) FILTER (outcome <> 'completed'), sum(input_tokens), sum(output_tokens), sum(cost_usd)
FROM calls WHERE trace_id = ?::UUID"""
_SPANS: Final = """FROM spans s LEFT JOIN spans above
  ON above.trace_id = s.trace_id AND above.span_id = s.parent_id WHERE s.trace_id = ?::UUID"""
"""A trace's spans, each beside the one above it."""
# A verdict's event lies on the guilty phase, a child of the call or of its attempt; in version 1 on the call itself.
_EVIDENCE: Final = f"""
SELECT s.span_id, s.phase, s.events {_SPANS}
AND contains(s.events, ?) AND ? IN (s.span_id, s.parent_id, above.parent_id) LIMIT 20"""
_DECODED: Final = f"""
SELECT sum(try_cast(s.attributes->>'$."{names.TOKENS}"' AS BIGINT)) {_SPANS}
AND s.phase = '{DECODE}' AND ? IN (s.parent_id, above.parent_id)"""


def headline(cursor: Any, trace: str) -> dict[str, Any] | None:
    """The slowest call of those with a verdict, else the slowest of all; None where the trace has no call."""
    row = cursor.execute(_CALLS, [trace]).fetchone()
    if row is None:
        return None
    keys = [column[0] for column in cursor.description]
    call = dict(zip(keys, row, strict=True))
    number, failed, input_tokens, output_tokens, cost = cursor.execute(_SUMS, [trace]).fetchone()
    span_id, phases = call.pop("span_id"), orjson.loads(call.pop("phases") or "[]")
    (decoded,) = cursor.execute(_DECODED, [trace, span_id]).fetchone()
    output, decode = decoded or call["output_tokens"], call.pop("s_decode")
    return {
        **call,
        "span_id": f"{span_id:016x}",
        "tokens_per_s": (output - 1) / decode if decode and output and output > 1 else None,
        "merged": [
            {"phase": phase["name"], "because": because}
            for phase in phases
            if (because := contract.because(phase.get("merged_because"), phase.get("merged_detail"))) is not None
        ],
        "verdicts": _verdicts(cursor, trace, span_id, call.pop("causes") or []),
        "calls": number,
        "failed": failed,
        "all_input_tokens": input_tokens,
        "all_output_tokens": output_tokens,
        "all_cost_usd": cost,
    }


def _verdicts(cursor: Any, trace: str, span_id: int, causes: list[str]) -> list[dict[str, Any]]:
    """Each cause with its evidence as a sentence, and the span and phase that the evidence lies on."""
    if not causes:
        return []
    evidence: dict[str, tuple[int, str | None, dict[str, Any]]] = {}
    for at, phase, events in cursor.execute(_EVIDENCE, [trace, f'"{names.DIAGNOSIS}"', span_id]).fetchall():
        for event in orjson.loads(events):
            if event["name"] == names.DIAGNOSIS:
                evidence.setdefault(str(event["attributes"].get(names.CAUSE)), (at, phase, event["attributes"]))
    verdicts: list[dict[str, Any]] = []
    for cause in causes:
        at, phase, attributes = evidence.get(cause, (span_id, None, {}))
        verdicts.append(
            {"cause": cause, "why": calls.why(attributes), "span_id": f"{at:016x}", "phase": phase},
        )
    return verdicts
