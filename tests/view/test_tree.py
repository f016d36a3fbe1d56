"""Spans to trees, also where the file holds only a part of them or nonsense."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.analyze.otlp import Span
from llmtrace.view import calls, tree


def span(name: str, parent: str | None = None, start: int = 0, trace: str = "t") -> Span:
    return Span(trace, name, parent, name, "internal", start, start + 10)


def drawn(trace: tree.Trace) -> list[str]:
    return ["  " * len(lasts) + node.span.name for node, lasts in tree.walk(trace.roots)]


def test_a_tree_by_start_time_whatever_the_order_in_the_file() -> None:
    spans = [
        span("root"),
        span("b", "root", 5),
        span("a", "root", 1),
        span("c", "b", 6),
        span("x", trace="u", start=-1),
    ]
    random.Random(1).shuffle(spans)
    first, second = tree.build(spans)
    assert drawn(first) == ["x"]
    assert drawn(second) == ["root", "  a", "  b", "    c"]
    assert (second.orphans, second.duplicates, second.cycles, second.spans) == (0, 0, 0, 4)
    assert [lasts for _, lasts in tree.walk(second.roots)] == [(), (False,), (True,), (True, True)]


def test_orphans_become_roots() -> None:
    (trace,) = tree.build([span("a", "gone"), span("b", "a"), span("c", "also gone", 3)])
    assert drawn(trace) == ["a", "  b", "c"]
    assert trace.orphans == 2
    assert "2 spans whose parent is not in the file" in next(tree.oddities(trace))


def test_the_same_span_twice_is_shown_once_and_a_different_one_beside_it() -> None:
    root, child = span("root"), span("a", "root", 1)
    (trace,) = tree.build([root, child, child, replace(child, name="other"), span("b", "a", 2)])
    assert drawn(trace) == ["root", "  a", "    b", "  other"]
    assert trace.duplicates == 2


def test_rings_are_cut_at_their_earliest_span() -> None:
    (trace,) = tree.build(
        [span("b", "a", 2), span("a", "c", 1), span("c", "b", 3), span("d", "c", 4), span("self", "self", 9)]
    )
    assert drawn(trace) == ["a", "  b", "    c", "      d", "self"]
    assert trace.cycles == 2
    assert any("2 rings" in line for line in tree.oddities(trace))


def test_a_twin_that_names_itself_as_its_parent() -> None:
    (trace,) = tree.build([span("a"), replace(span("a", "a"), name="twin")])
    assert drawn(trace) == ["a", "  twin"]


def test_a_chain_of_thousands() -> None:
    chain = [span("0")] + [span(str(n), str(n - 1), n) for n in range(1, 5000)]
    (trace,) = tree.build(reversed(chain))
    assert sum(1 for _ in tree.walk(trace.roots)) == 5000


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.none() | st.integers(0, 9), st.integers(0, 5), st.integers(0, 2)), max_size=20
    )
)
def test_nothing_is_lost_and_nothing_comes_twice(drafts: list[tuple[int, int | None, int, int]]) -> None:
    spans = [
        replace(span(str(own), None if parent is None else str(parent), start), name=f"{own} {kind}")
        for own, parent, start, kind in drafts
    ]
    traces = tree.build(spans)
    found = [node.span for trace in traces for node, _ in tree.walk(trace.roots)]
    assert len(found) == sum(trace.spans for trace in traces) == len(dict.fromkeys(map(repr, spans)))
    assert sorted(map(repr, found)) == sorted(set(map(repr, spans)))


def test_steps_are_no_calls() -> None:
    """A task's retrieval and tools name a GenAI operation, as the conventions have it, and ask no model."""
    steps = [
        replace(span(name, "task", start), attributes={"gen_ai.operation.name": name})
        for start, name in enumerate(("retrieval", "execute_tool", "chat"), 1)
    ]
    (trace,) = tree.build([span("task"), *steps])
    assert [call.span.name for call in calls.calls(trace.roots)] == ["chat"]
