"""Objectives: what a target is, whether a call met it, and who is charged for what it is over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.phases.objectives import FLOOR, UNKNOWN, Figures, Part, Targets, charge, judge, parse_objective, target_of

ROUTE = "openai gpt-4o @ api.openai.com"


def figures(**changes: Any) -> Figures:
    return Figures(**({"ttft": 0.5, "itl": 0.02, "total": 2.5, "steps": 100, "streaming": True} | changes))


PARTS = [
    Part("network", 0.05, 0.05, True),
    Part("queue", 0.3, 0.0, True),
    Part("prefill", 0.15, 0.05, True),
    Part("decode", 2.0, 1.5, False),
]


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (2.5, (("*", 2.5),)),
        ("2.5", (("*", 2.5),)),
        ("gpt-4o*=1.5, *=3", (("gpt-4o*", 1.5), ("*", 3.0))),
        ({"openai * @ *": 2}, (("openai * @ *", 2.0),)),
    ],
)
def test_a_target_is_a_number_or_patterns(value: Any, parsed: Any) -> None:
    assert parse_objective(value) == parsed


@pytest.mark.parametrize(
    "value", ["1,5", True, "", "x", "gpt=", "=2", "0", "-1", "inf", "nan", {}, {"a": "b"}, None, "a=1,,b=x"]
)
def test_what_is_no_target_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="seconds over 0"):
        parse_objective(value)


def test_the_first_pattern_that_matches_counts() -> None:
    patterns = parse_objective("gpt-4?=1,openai * @ api.*=2,*=3")
    assert target_of(patterns, "gpt-4o", ROUTE) == 1
    assert target_of(patterns, "gpt-4o-mini", "openai gpt-4o-mini @ api.openai.com") == 2
    assert target_of(patterns, None, "groq ? @ api.groq.com") == 3
    assert target_of(parse_objective("a.c=1"), "abc", ROUTE) is None, "a dot is a dot"


def test_each_phase_pays_for_what_it_took_beyond_its_floor() -> None:
    judgement = judge(figures(), Targets(ttft=0.2), PARTS)
    assert judgement.met is False
    (miss,) = judgement.misses
    assert miss.excess == pytest.approx(0.3)
    assert miss.charged == pytest.approx({"queue": 0.3 * 0.3 / 0.4, "prefill": 0.3 * 0.1 / 0.4})
    assert miss.blame == "queue"


def test_a_target_below_the_floor_is_nobodys_fault() -> None:
    (miss,) = judge(figures(), Targets(ttft=0.01), PARTS).misses
    assert miss.charged == pytest.approx({"queue": 0.3, "prefill": 0.1, FLOOR: 0.09})


def test_itl_is_over_all_tokens_and_decodes_own() -> None:
    (miss,) = judge(figures(), Targets(itl=0.017), PARTS).misses
    assert miss.excess == pytest.approx(0.3)
    assert miss.charged == pytest.approx({"decode": 0.3})


def test_without_a_floor_nobody_is_blamed() -> None:
    (miss,) = judge(figures(), Targets(total=1.0), PARTS, known=False).misses
    assert miss.charged == {UNKNOWN: pytest.approx(1.5)}


@pytest.mark.parametrize(
    ("changes", "targets", "met"),
    [
        ({}, Targets(1, 1, 10), True),
        ({"failed": True}, Targets(1, 1, 10), False),
        ({"ended": False}, Targets(ttft=1), True),
        ({"ended": False}, Targets(1, None, 10), None),
        ({"ended": False}, Targets(total=1), False),
        ({"ended": False, "ttft": None, "itl": None}, Targets(ttft=10), None),
        ({"ended": False, "ttft": None, "itl": None}, Targets(ttft=1), False),
        ({"streaming": False, "ttft": None}, Targets(ttft=0.1), None),
        ({"itl": None}, Targets(itl=0.001), None),
    ],
)
def test_only_what_was_decided_is_judged(changes: dict[str, Any], targets: Targets, met: bool | None) -> None:
    assert judge(figures(**changes), targets, PARTS).met is met


SECONDS = st.floats(0, 1e3)


@given(st.floats(1e-6, 1e3), st.lists(st.tuples(SECONDS, SECONDS), max_size=6), st.booleans())
def test_all_of_the_excess_is_charged_and_no_phase_pays_more_than_it_took(
    excess: float, lengths: list[tuple[float, float]], known: bool
) -> None:
    parts = [Part(f"p{number}", seconds, floor, True) for number, (seconds, floor) in enumerate(lengths)]
    charged = charge(excess, parts, known)
    assert sum(charged.values()) == pytest.approx(excess, abs=1e-8)
    beyond = {part.name: part.seconds - part.floor for part in parts}
    assert all(0 <= seconds <= beyond.get(name, excess) * (1 + 1e-9) + 1e-9 for name, seconds in charged.items())
