"""The critical path: by hand on small requests, and its invariants on any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.analyze import parts
from llmtrace.analyze.critical import Label, Path, Request, path, requests


def row(span: str, parent: str | None, start: int, end: int, kind: str = "span", **more: Any) -> tuple[Any, ...]:
    """A row of ``critical.COLUMNS``; a call is one that ``component`` is given of."""
    own = more.get("own", span if kind == "span" else kind)
    return (
        "t", span, parent, start, end, kind if kind in ("prefill", "decode", "queue") else None,
        "phase" if kind in ("prefill", "decode", "queue") else kind, own, more.get("component"), more.get("task"),
        more.get("failed", False), more.get("attempts", 1), more.get("repaired", False), more.get("tokens", 0),
        more.get("cost", 0.0),
    )  # fmt: skip


def one(rows: list[tuple[Any, ...]]) -> Request:
    (request,) = requests(rows)
    return request


def spent(rows: list[tuple[Any, ...]], factors: Mapping[str, float] | None = None) -> dict[str, float]:
    """What the only request waited for, by component, of calls by phase."""
    walked = path(one(rows).root, factors)
    return {
        label.part if label.component.startswith("model") else label.component: n for label, n in walked.spent.items()
    }


def test_what_was_waited_for() -> None:
    rows = [
        row("root", None, 0, 100),
        row("short", "root", 10, 50, "guardrail"),
        row("long", "root", 10, 80, "retrieval"),
        row("tool", "root", 85, 95, "tool"),
    ]
    assert spent(rows) == {"root": 20, "retrieval": 70, "tool": 10}


def test_one_after_the_other_and_children_that_outlive_their_parent() -> None:
    rows = [
        row("root", None, 0, 100, "model", component="model"),
        row("a", "root", 0, 40, "prefill"),
        row("b", "root", 30, 120, "decode"),
    ]
    assert spent(rows) == {"prefill": 30, "decode": 70}


def test_a_branch_beside_comes_to_light_when_the_longer_one_is_gone() -> None:
    rows = [
        row("root", None, 0, 100),
        row("long", "root", 0, 80, "retrieval"),
        row("short", "root", 0, 50, "guardrail"),
        row("after", "root", 80, 100, "tool"),
    ]
    assert spent(rows, {"guardrail": 0}) == spent(rows), "nothing waited for it"
    assert spent(rows, {"retrieval": 0}) == {"guardrail": 50, "tool": 20}
    assert spent(rows, {"retrieval": 0.5, "tool": 2}) == {"guardrail": 50, "tool": 40}


def test_retries_count_with_their_backoff_and_the_answer_without() -> None:
    # 0.5 s lost, 1.0 s of backoff, then an attempt of 1.5 s that answered: 1.5 s is all that retries can give back.
    rows = [
        row("call", None, 0, 3000, "model", component="model", attempts=2),
        row("first", "call", 0, 500, "attempt"),
        row("refused", "first", 100, 500, "queue"),
        row("second", "call", 1500, 3000, "attempt"),
        row("answer", "second", 2000, 3000, "decode"),
    ]
    assert spent(rows) == {"retry": 1500, "call": 500, "decode": 1000}
    assert sum(spent(rows, {"retry": 0}).values()) == 1500
    assert one(rows).root.retries == 1


def test_one_attempt_is_no_retry_and_a_lost_parent_makes_a_root() -> None:
    rows = [
        row("call", None, 0, 50, "model", component="model"),
        row("first", "call", 0, 20, "attempt"),
        row("lost", "gone", 0, 7, "tool"),
    ]
    call, lost = (path(request.root) for request in requests(rows))
    assert call.spent == {Label("model", "call"): 50}
    assert lost.spent == {Label("tool", "tool"): 7}


def test_what_failed_and_was_made_again_is_a_retry_and_what_failed_last_is_none() -> None:
    rows = [
        row("root", None, 0, 100),
        row("first", "root", 0, 20, "tool", own="tool/search", failed=True),
        row("again", "root", 20, 40, "tool", own="tool/search", failed=True),
        row("other", "root", 40, 60, "tool", own="tool/book"),
    ]
    tally = parts.of([one(rows)], 1.0).by_trace["t"]
    assert tally["tool/search"] == {
        parts.WAITED: 40e-9,
        parts.EACH: 20e-9,
        parts.RUNS: 2,
        parts.ERRORS: 2,
        parts.RETRIES: 1,
    }
    assert parts.RETRIES not in tally["tool/book"]


def test_what_lies_beneath_a_part_is_that_parts_and_a_call_is_its_own() -> None:
    rows = [
        row("root", None, 0, 100, "agent", own="agent/planner"),
        row("find", "root", 0, 40, "retrieval"),
        row("query", "find", 10, 30, "database", own="database/postgresql"),
        row("call", "root", 40, 90, "model", component="model/planner"),
        row("sent", "call", 40, 90, "http", own="http/api.openai.com"),
    ]
    assert path(one(rows).root).spent == {
        Label("retrieval", "retrieval"): 40, Label("model/planner", "call"): 50,
        Label("agent/planner", "agent/planner"): 10,
    }  # fmt: skip


def test_a_change_holds_for_all_that_lies_beneath() -> None:
    rows = [
        row("root", None, 0, 100),
        row("planner", "root", 0, 80, "agent", own="agent/planner"),
        row("search", "planner", 10, 60, "tool"),
    ]
    halved = path(one(rows).root, {"agent": 0.5, "planner": 1.0})
    assert halved.whole == 60
    assert halved.of_asked == 40


# Whatever the tree

KINDS = ("span", "tool", "retrieval", "guardrail", "prefill", "attempt", "model")
SPANS = st.lists(
    st.tuples(
        st.integers(-1, 12), st.integers(0, 1000), st.integers(-50, 1000), st.sampled_from(KINDS), st.booleans(),
        st.integers(0, 3),
    ),
    max_size=13,
)  # fmt: skip
FACTORS = st.dictionaries(
    st.sampled_from(("tool", "retrieval", "model", "prefill", "call", "retry")), st.floats(0, 1), max_size=3
)
Drawn = list[tuple[int, int, int, str, bool, int]]


def rows_of(drawn: Drawn) -> list[tuple[Any, ...]]:
    """Most spans lie beneath an earlier one; some are roots, some have parents that are missing, or make a circle."""
    rows: list[tuple[Any, ...]] = []
    for number, (above, start, length, kind, failed, count) in enumerate(drawn):
        parent = None if above < 0 else f"s{above % number}" if number and above < 10 else f"s{above}"
        more: dict[str, Any] = {"component": "model"} if kind == "model" else {}
        rows.append(
            row(
                f"s{number}", parent, start, start + length, kind, failed=failed, tokens=count, cost=float(count),
                attempts=max(1, count), **more,
            )
        )  # fmt: skip
    return rows


def walked(drawn: Drawn, factors: Mapping[str, float] | None = None) -> list[Path]:
    return [path(request.root, factors) for request in requests(rows_of(drawn))]


@given(SPANS, FACTORS)
def test_parts_add_up_to_the_whole_request(drawn: Drawn, factors: dict[str, float]) -> None:
    for request, one_path in zip(requests(rows_of(drawn)), walked(drawn), strict=True):
        assert one_path.whole == request.root.end - request.root.start
        assert sum(one_path.spent.values()) == one_path.whole
        assert all(length > 0 for length in one_path.spent.values())
    for one_path in walked(drawn, factors):
        assert sum(one_path.spent.values()) == pytest.approx(one_path.whole, abs=1e-6)
        assert all(length > 0 for length in one_path.spent.values())


@given(SPANS, FACTORS)
def test_a_faster_part_gains_at_most_what_was_waited_for_it_and_never_costs(
    drawn: Drawn, factors: dict[str, float]
) -> None:
    for asked, factor in factors.items():
        changes = [walked(drawn, {asked: each}) for each in (1.0, factor, 0.0)]
        for plain, now, then, without in zip(walked(drawn), *changes, strict=True):
            assert (now.whole, now.spent) == (plain.whole, plain.spent)
            assert sum(length for label, length in now.spent.items() if label.is_of(asked)) <= now.of_asked
            assert without.whole - 1e-6 <= then.whole <= now.whole + 1e-6
            assert now.whole - then.whole <= now.of_asked * (1 - factor) + 1e-6


@given(SPANS)
def test_every_span_counts_for_exactly_one_component(drawn: Drawn) -> None:
    trees = requests(rows_of(drawn))
    sums = parts.of(trees, 1.0).sums()
    members = [member for request in trees for member in _beneath(request.root)]
    for figure, of_all in (
        (parts.TOKENS, sum(member.tokens for member in members)),
        (parts.COST, sum(member.cost for member in members)),
        (parts.ERRORS, sum(member.failed for member in members if member.is_run)),
        (parts.WAITED, pytest.approx(sum(request.root.end - request.root.start for request in trees) / 1e9)),
    ):
        assert sum(figures.get(figure, 0) for figures in sums.values()) == of_all


def _beneath(root: Any) -> list[Any]:
    members = [root]
    for member in members:
        members.extend(member.children)
    return members
