"""Calls judged by their objectives, in ibis expressions: what each was over its targets, and who is charged for it.

The targets come from the command, else from the spans, which have those of the settings. The rules are those of
``phases.objectives``, the floors those of ``report floor``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmtrace.analyze.contract import FAILED
from llmtrace.analyze.expressions import count_of, first, least, most, nothing, when
from llmtrace.analyze.reports.floor import filling_floor, floors, usable
from llmtrace.phases.model import (
    DECODE,
    GATEWAY,
    MODEL_LOAD,
    NETWORK,
    OPAQUE,
    PREFILL,
    QUEUE,
    QUEUE_PREFILL,
    UNATTRIBUTED,
)
from llmtrace.phases.objectives import APPLICATION, FLOOR, ITL, TOTAL, TTFT, UNKNOWN, Patterns, regex

EARLY: Final = (NETWORK, GATEWAY, UNATTRIBUTED, MODEL_LOAD, QUEUE, PREFILL, QUEUE_PREFILL)
"""Phases before the first token that can take longer than they need."""
LATE: Final = (DECODE, APPLICATION)
CHARGED: Final = (*EARLY, *LATE, OPAQUE, FLOOR, UNKNOWN)
_PARTS: Final = {TTFT: EARLY, ITL: LATE, TOTAL: (*EARLY, *LATE, OPAQUE)}


def judged(calls: Any, objectives: Mapping[str, Patterns]) -> Any:
    """The calls that have a target and could be judged, one row each.

    ``failed``, ``met``; for each objective ``t_<objective>`` (its target, s), ``over_<objective>`` (s beyond it, of ITL
    over all tokens; 0 where it was met, null where it could not be judged); ``c_<phase>``: s charged to the phase.
    """
    calls = calls.filter(calls.outcome.notnull())
    aimed = calls.mutate(
        **{f"t_{name}": first(_target(calls, objectives.get(name, ())), calls[f"slo_{name}"]) for name in _PARTS},
        failed=calls.outcome.isin(FAILED),
        ended=calls.outcome == "completed",
        steps=most(calls.decoded_tokens.fill_null(0) - 1, 0),
        application=least(calls.wait.fill_null(0.0), calls.s_decode),
    )
    aimed = aimed.filter(aimed.t_ttft.notnull() | aimed.t_itl.notnull() | aimed.t_total.notnull())
    itl = when((aimed.steps > 0) & (aimed.s_decode > 0), aimed.s_decode / most(aimed.steps, 1))
    waited = first(aimed.ttft, when(aimed.cancel_phase.notnull(), aimed.duration))  # a stream that was cut short
    aimed = aimed.mutate(
        over_ttft=_over(aimed, waited, aimed.t_ttft, aimed.ttft.notnull()),
        over_itl=_over(aimed, itl, aimed.t_itl, True) * aimed.steps,
        over_total=_over(aimed, aimed.duration, aimed.t_total, aimed.ended),
    )
    decided = aimed.over_ttft.notnull() | aimed.over_itl.notnull() | aimed.over_total.notnull()
    late = (aimed.over_ttft > 0).fill_null(False) | (aimed.over_itl > 0).fill_null(False)
    late = late | (aimed.over_total > 0).fill_null(False)
    # A call that the application left has met its objectives only as far as all of them were past.
    still_open = aimed.t_ttft.notnull() & aimed.over_ttft.isnull()
    for name in (ITL, TOTAL):
        still_open = still_open | (aimed[f"t_{name}"].notnull() & aimed[f"over_{name}"].isnull())
    known = aimed.failed | late | (decided & (aimed.ended | ~still_open))
    aimed = aimed.mutate(met=~(aimed.failed | late)).filter(known)
    return _charged(aimed, floors(usable(calls)))


def counted(rows: Any) -> dict[str, Any]:
    """What to aggregate of judged calls: how many, how many met, and what the rest missed."""
    return {
        "calls": rows.count(),
        "met": count_of(rows.met),
        "failed": count_of(rows.failed),
        **{f"missed_{name}": count_of((rows[f"over_{name}"] > 0).fill_null(False)) for name in _PARTS},
        **{f"c_{name}": rows[f"c_{name}"].sum() for name in CHARGED},
    }


def _target(calls: Any, patterns: Patterns) -> Any:
    """The target of the first pattern that matches, null where none does; as ``objectives.target_of``."""
    cases = [
        ((calls.route if " " in pattern else calls.request_model.fill_null("")).re_search(regex(pattern)), seconds)
        for pattern, seconds in patterns
    ]
    target = nothing().cast("float64")
    for matches, seconds in reversed(cases):
        target = when(matches, seconds, target)
    return target


def _over(calls: Any, value: Any, target: Any, final: Any) -> Any:
    """How far ``value`` is beyond ``target``; null where that is not decided: no target, no value, or not ``final``."""
    late = value > target
    return when(calls.failed, nothing(), when(late, value - target, when(final, value * 0.0 + target * 0.0)))


def _charged(calls: Any, floor: Any) -> Any:
    floor = floor.rename(floor_route="route")
    joined = calls.left_join(floor, [("route", "floor_route")])
    parts = _beyond(joined)
    columns: dict[str, Any] = {f"c_{name}": 0.0 for name in CHARGED}
    known = joined.n.notnull()
    for objective, members in _PARTS.items():
        excess = most(joined[f"over_{objective}"].fill_null(0.0), 0.0)
        whole = sum((parts[name] for name in members[1:]), parts[members[0]])
        share = when(whole > 0, least(excess / most(whole, 1e-12), 1.0), 0.0)
        for name in members:
            columns[f"c_{name}"] = columns[f"c_{name}"] + when(known, parts[name] * share, 0.0)
        columns[f"c_{FLOOR}"] = columns[f"c_{FLOOR}"] + when(known, excess - whole * share, 0.0)
        columns[f"c_{UNKNOWN}"] = columns[f"c_{UNKNOWN}"] + when(known, 0.0, excess)
    return joined.mutate(**columns)


def _beyond(joined: Any) -> dict[str, Any]:
    """What each phase took beyond its floor, s."""
    filling = filling_floor(joined)
    making = joined.s_decode - joined.application
    beyond = {name: most(joined[f"s_{name}"] - joined[f"f_{name}"].fill_null(0.0), 0.0) for name in EARLY[:3]}
    for name in (MODEL_LOAD, QUEUE):  # what could be none at all
        beyond[name] = joined[f"s_{name}"]
    for name in (PREFILL, QUEUE_PREFILL):
        beyond[name] = most(joined[f"s_{name}"] - filling, 0.0)
    beyond[DECODE] = most(making - joined.f_itl.fill_null(0.0) * joined.steps, 0.0)
    beyond[APPLICATION] = joined.application
    beyond[OPAQUE] = joined.s_opaque
    return beyond
