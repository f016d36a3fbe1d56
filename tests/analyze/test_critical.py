"""The critical path: by hand on small traces, and its invariants on any."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmtrace.analyze.critical import paths


def row(span: str, parent: str | None, start: int, end: int, phase: str | None = None, **more: Any) -> tuple[Any, ...]:
    said = {"name": span, "step_kind": None, "operation": None, **more}
    return ("t", span, parent, said["name"], start, end, phase, said["step_kind"], said["operation"], "unset", None)


def test_what_was_waited_for() -> None:
    rows = [
        row("root", None, 0, 100),
        row("short", "root", 10, 50, "prefill"),
        row("long", "root", 10, 80, "decode"),
        row("tool", "root", 85, 95, step_kind="tool"),
    ]
    (path,) = paths(rows)
    assert path.whole == 100
    assert path.spent == {"application": 20, "decode": 70, "tool": 10}


def test_one_after_the_other_and_children_that_outlive_their_parent() -> None:
    rows = [
        row("root", None, 0, 100, operation="chat"),
        row("a", "root", 0, 40, "prefill"),
        row("b", "root", 30, 120, "decode"),
    ]
    (path,) = paths(rows)
    assert path.spent == {"prefill": 30, "decode": 70}


def test_retries_count_with_their_backoff_and_the_answer_without() -> None:
    # 0.5 s lost, 1.0 s of backoff, then an attempt of 1.5 s that answered: 1.5 s is all that retries can give back.
    rows = [
        row("call", None, 0, 3000, operation="chat"),
        row("first", "call", 0, 500, name="llm.attempt"),
        row("refused", "first", 100, 500, "queue"),
        row("second", "call", 1500, 3000, name="llm.attempt"),
        row("decode", "second", 2000, 3000, "decode"),
    ]
    (path,) = paths(rows)
    assert path.spent == {"retry": 1500, "call": 500, "decode": 1000}


def test_one_attempt_is_no_retry_and_a_lost_parent_makes_a_root() -> None:
    rows = [
        row("call", None, 0, 50, operation="chat"),
        row("first", "call", 0, 20, name="llm.attempt"),
        row("lost", "gone", 0, 7, step_kind="tool"),
    ]
    call, lost = paths(rows)
    assert call.spent == {"call": 50}
    assert lost.spent == {"tool": 7}


SPANS = st.lists(
    st.tuples(st.integers(-1, 12), st.integers(0, 1000), st.integers(-50, 1000), st.sampled_from(["prefill", None])),
    max_size=13,
)


@given(SPANS)
def test_shares_add_up_to_the_root_whatever_the_tree(found: list[tuple[int, int, int, str | None]]) -> None:
    rows = [
        row(f"s{number}", None if parent < 0 else f"s{parent}", start, start + length, phase)
        for number, (parent, start, length, phase) in enumerate(found)
    ]
    for path in paths(rows):
        assert sum(path.spent.values()) == path.whole
        assert all(length > 0 for length in path.spent.values())
