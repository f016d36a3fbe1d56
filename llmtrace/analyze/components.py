"""The components of a request: what each of its spans is a part of, ours or not. All reports take them from here.

A component is a kind (``tool``), or a kind and a name (``tool/search``); what has no kind goes by the name of its span,
in which numbers and ids are ``#``. A span is told by OpenTelemetry's attributes (GenAI, database, messaging, RPC,
HTTP), by OpenInference's and Traceloop's kinds, or by the steps and tasks of ``llmtrace.tasks``; a user's own patterns
come first.

What lies beneath a part of the work (a tool, a retrieval, an LLM call) and has no kind of its own is that part's: the
query of a retrieval, the request that a call sent. An LLM call is named for who made it, the nearest agent or step
above it: ``model/planner``. One inside a guardrail, an evaluation, a tool is that part's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import ibis

from llmtrace.analyze import tables
from llmtrace.analyze.expressions import chosen, first, nothing, when
from llmtrace.analyze.statements import name_of
from llmtrace.emit import names
from llmtrace.phases.objectives import regex

MODEL: Final = "model"
EMBEDDINGS: Final = "embeddings"
REPAIR: Final = "repair"
RERANK: Final = "rerank"
TOOL: Final = "tool"
AGENT: Final = "agent"
PHASE: Final = "phase"
ATTEMPT: Final = "attempt"
MAPPED: Final = "mapped"
STEP: Final = "step"
TASK: Final = "task"
SERVER: Final = "server"
SPAN: Final = "span"
_CALLS: Final = (MODEL, EMBEDDINGS, RERANK)
_PARTS: Final = (
    RERANK, "retrieval", TOOL, "guardrail", "evaluation", "human_review", REPAIR, MAPPED,
)  # fmt: skip
"""Kinds that what lies beneath them belongs to, LLM calls too."""
WHOLE: Final = frozenset((*_CALLS, *_PARTS))
"""Kinds that what lies beneath them belongs to, if it has no kind of its own."""
_WIRES: Final = ("database", "messaging", "rpc", "http")
_WITHIN: Final = frozenset((*_WIRES, SPAN, SERVER))
_WITHIN_CALL: Final = _WITHIN | {*_CALLS, STEP}
_PLAIN: Final = (MAPPED, STEP, TASK, SERVER, SPAN)
"""Kinds that go by their name alone."""
_OPERATIONS: Final = {
    TOOL: ("execute_tool", "tool"),
    AGENT: ("invoke_agent", "create_agent", "agent"),
    "retrieval": ("retrieval", "retriever"),
    RERANK: ("reranker",),
    "guardrail": ("guardrail",),
    "evaluation": ("evaluator", "evaluation"),
    STEP: ("chain", "workflow", "task", "invoke_workflow", "plan"),
}
"""What ``gen_ai.operation.name``, ``openinference.span.kind`` or ``traceloop.span.kind`` say, in lower case."""
_IDS: Final = r"[0-9a-fA-F-]{16,}|[0-9]{3,}|\b[0-9]+\b"
_KIND_IN_NAME: Final = (
    "^(retrieval|rerank|tool|guardrail|evaluation|human_review|repair|execute_tool|invoke_agent|create_agent) "
)
_LONGEST: Final = 60
_FURTHER: Final = 64
"""The most steps up from a call to who made it."""

Mapping = tuple[tuple[str, str], ...]
"""A user's own components: patterns of span names, and what they are."""


class Place(NamedTuple):
    """The component that a span is a part of, and its kind."""

    kind: str
    component: str


def parse(text: str) -> Mapping:
    """The mapping that ``judge*=evaluation,plan*=model/planner`` says.

    Raises:
        ValueError: a part of it is no pattern with a component.
    """
    pairs = [part.rpartition("=")[::2] for part in text.split(",") if part.strip()]
    mapping = tuple((pattern.strip(), component.strip()) for pattern, component in pairs)
    if not mapping or not all(pattern and component for pattern, component in mapping):
        raise ValueError("patterns of span names with a component each: judge*=evaluation,plan*=model/planner")
    return mapping


def is_of(component: str, asked: str) -> bool:
    """Whether ``component`` is the one ``asked`` for: by its kind, by its name, or by both."""
    return component == asked or asked in component.split("/", 1)


def group(component: Any) -> Any:
    """A component's kind, in an expression; of one that goes by its name alone, that name."""
    return component.split("/")[0]


def described(spans: Any, mapping: Mapping = ()) -> Any:
    """``spans`` with what each says of itself: ``own_kind``, ``own_name`` and the component of both, ``own``."""
    is_call = tables.is_call(spans)
    operation = first(spans.operation.lower(), "")
    is_mapped, mapped = _mapped(spans, mapping)
    cases = [
        (spans.phase.notnull(), PHASE),
        (spans["name"] == names.ATTEMPT, ATTEMPT),
        (is_mapped, MAPPED),
        (is_call & operation.isin(("embeddings", "embedding")), EMBEDDINGS),
        (is_call & (operation == "rerank"), RERANK),
        (is_call | spans.engine_span.notnull(), MODEL),
        (spans.task_name.notnull(), TASK),
        (spans.step_kind.notnull(), when(spans.step_kind == "other", STEP, spans.step_kind)),
        *((operation.isin(words), kind) for kind, words in _OPERATIONS.items()),
        (spans.db_system.notnull(), "database"),
        (spans.kind.isin(("server", "consumer")), SERVER),
        (spans.messaging_system.notnull(), "messaging"),
        (spans.rpc_system.notnull(), "rpc"),
        (spans.http_method.notnull(), "http"),
    ]
    # Column by column: an expression that stands in another one is written out there as often as it is used.
    known = spans.mutate(own_kind=chosen(cases, SPAN), mapped_to=mapped)
    named = ~known.own_kind.isin((PHASE, ATTEMPT, MAPPED, *_CALLS, *_WIRES))
    known = known.mutate(by_name=when(named, known["name"].substr(0, _LONGEST).re_replace(_IDS, "#")))
    short = known.by_name.re_replace(_KIND_IN_NAME, "")
    name = chosen(
        [
            (known.own_kind == MAPPED, known.mapped_to),
            (known.own_kind.isin(_CALLS), known.agent_name),
            (known.own_kind == TOOL, first(known.tool_name, known.entity_name, short)),
            (known.own_kind == AGENT, first(known.agent_name, known.entity_name, short)),
            (known.own_kind == "database", known.db_system),
            (known.own_kind == "messaging", known.messaging_system),
            (known.own_kind == "rpc", known.rpc_system),
            (known.own_kind == "http", known.address),
            (known.own_kind == STEP, first(known.entity_name, known.by_name)),
            (known.own_kind.isin((TASK, SERVER, SPAN)), known.by_name),
        ],
        short,
    )
    known = known.mutate(own_name=name).drop("mapped_to", "by_name")
    plain = known.own_kind.isin(_PLAIN)
    text = chosen(
        [(plain, first(known.own_name, known.own_kind)), (known.own_name.isnull(), known.own_kind)],
        known.own_kind + "/" + known.own_name,
    )
    return known.mutate(own=text)


def _mapped(spans: Any, mapping: Mapping) -> tuple[Any, Any]:
    cases = [(spans["name"].re_search(regex(pattern)), component) for pattern, component in mapping]
    if not cases:
        return spans["name"].isnull() & spans["name"].notnull(), nothing().cast("string")
    return chosen([(condition, True) for condition, _ in cases], False), chosen(cases, nothing())


# LLM calls: who made them


def of_calls(spans: Any, calls: Any, mapping: Mapping, make: Callable[..., Any]) -> Any:
    """The component of each call: ``call_trace``, ``call_span``, ``component``.

    ``make``: as ``statements.Statements.make``, but None where the table that is made has no rows.
    """
    key = (name_of(calls), mapping)
    lines = make(partial(_lines, spans, calls, mapping), "makers", *key)
    reached: list[Any] = []
    step: Any = None
    for _ in range(_FURTHER if lines is not None else 0):
        step = make(partial(_above, lines, calls, step), "maker", *key, name_of(lines), name_of(step))
        if step is None:
            break
        reached.append(step)
    return make(lambda: _decided(calls, reached, mapping), "components", *key, *map(name_of, reached))


def _lines(spans: Any, calls: Any, mapping: Mapping) -> Any:
    """The spans that may be above a call, and what each says of itself."""
    below = calls.filter(calls.parent_id.notnull()).select(near_trace="trace_id").distinct()
    near = described(spans.filter(spans.phase.isnull()).semi_join(below, [("trace_id", "near_trace")]), mapping)
    role = when(near.own_kind.isin((AGENT, STEP)) | ((near.own_kind == SPAN) & near.parent_id.notnull()), near.own_name)
    part = when(near.own_kind.isin(_PARTS) & ~tables.is_call(near), near.own)
    return near.select(at_trace="trace_id", at_span="span_id", at_parent="parent_id", at_role=role, at_part=part)


def _above(lines: Any, calls: Any, step: Any | None) -> Any:
    """One step up: from the calls, or from those spans above them that were reached before and decide nothing."""
    if step is None:
        lower = calls.filter(calls.parent_id.notnull()).select(
            call_trace="trace_id", call_span="span_id", at="parent_id"
        )
    else:
        lower = step.filter(step.role.isnull() & step.part.isnull() & step.further.notnull())
        lower = lower.select("call_trace", "call_span", at="further")
    met = lower.inner_join(lines, [("call_trace", "at_trace"), ("at", "at_span")])
    return met.select("call_trace", "call_span", role="at_role", part="at_part", further="at_parent")


def _decided(calls: Any, reached: Sequence[Any], mapping: Mapping) -> Any:
    joined = described(calls, mapping)
    if reached:
        ways = ibis.union(*reached) if len(reached) > 1 else reached[0]
        ways = ways.filter(ways.role.notnull() | ways.part.notnull())
        ways = ways.select(way_trace="call_trace", way_span="call_span", role="role", part="part")
        joined = joined.left_join(ways, [("trace_id", "way_trace"), ("span_id", "way_span")])
    else:
        joined = joined.mutate(role=nothing().cast("string"), part=nothing().cast("string"))
    role = first(joined.own_name, joined.role)
    repairs = (joined.repairs.fill_null(0) > 0) | (first(joined.step_kind, "") == REPAIR)
    step_kind = when(joined.step_kind != "other", joined.step_kind)
    component = chosen(
        [
            (joined.own_kind == MAPPED, joined.own_name),
            (repairs, when(role.isnull(), REPAIR, REPAIR + "/" + role)),
            (step_kind.notnull() & first(joined.part.startswith(step_kind), False), joined.part),
            (step_kind.notnull(), step_kind),
            (joined.part.notnull(), joined.part),
            (joined.own_kind.isin((EMBEDDINGS, RERANK)), joined.own_kind),
            (role.notnull(), MODEL + "/" + role),
        ],
        MODEL,
    )
    return joined.select(call_trace="trace_id", call_span="span_id", component=component)


# The spans between them


def place(kind: str, own: str, call: str | None, above: Place | None) -> Place:
    """What a span is a part of.

    Args:
        kind: what it says of itself.
        own: the component that this makes.
        call: the component that ``of_calls`` gives, where it is a call.
        above: what the span above it is a part of.
    """
    if call is not None:
        return Place(MODEL, call)
    if above is not None:
        within = _WITHIN_CALL if above.kind == MODEL else _WITHIN if above.kind in WHOLE else ()
        if kind in (PHASE, ATTEMPT) or kind in within:
            return above
    elif kind in (PHASE, ATTEMPT):
        return Place(MODEL, MODEL)
    return Place(kind, own)
