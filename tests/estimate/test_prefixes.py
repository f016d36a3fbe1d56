"""Expected cache hits: what began alike, by the provider's rules, as long as it lives."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtrace.estimate.prefixes import MARKS, Prefixes, Survival, expected

BEGINNING = "You are a careful assistant. " * 400


def test_the_common_beginning_is_found() -> None:
    known = Prefixes()
    first = known.look("r", [BEGINNING, "one"], 0.0)
    assert first.prefix is None
    known.computed(first, 1.0)
    second = known.look("r", [BEGINNING, "two"], 11.0)
    assert second.gap == 10.0
    tokens = second.size // 4
    found = expected(second, Survival(), "openai", tokens)
    assert found.tokens % 128 == 0
    assert 0.8 * len(BEGINNING) / 4 < found.tokens <= len(BEGINNING) / 4
    assert known.look("another", [BEGINNING, "two"], 11.0).prefix is None


def test_prompts_with_one_beginning_have_its_name() -> None:
    known = Prefixes()
    known.computed(known.look("r", [BEGINNING, "one"], 0.0), 0.0)
    names = [known.look("r", [BEGINNING, text], 1.0).prefix for text in ("two", "three")]
    assert names[0] is not None
    assert names[0] == names[1]
    assert known.look("r", ["Another beginning. " * 300], 1.0).prefix is None


def test_a_prompt_in_flight_is_in_no_cache_yet() -> None:
    known = Prefixes()
    known.look("r", [BEGINNING], 0.0)
    assert known.look("r", [BEGINNING], 1.0).prefix is None


def test_rules_of_the_providers() -> None:
    known = Prefixes()
    short = "word " * 300
    known.computed(known.look("r", [short], 0.0), 0.0)
    again = known.look("r", [short], 1.0)
    assert expected(again, Survival(), "openai", 300).tokens == 0
    assert expected(again, Survival(), "elsewhere", 300).tokens > 0
    asked = known.look("r", [BEGINNING * 2], 0.0, explicit=True)
    known.computed(asked, 0.0)
    asked = known.look("r", [BEGINNING * 2], 1.0, explicit=True)
    assert expected(asked, Survival(), "anthropic", 5000).tokens > 0
    asked.explicit = False
    assert expected(asked, Survival(), "anthropic", 5000).tokens == 0


def test_how_long_prefixes_live_is_learned() -> None:
    lived = Survival()
    assert lived.at(60) > 0.5 > lived.at(3600)
    for _ in range(20):
        lived.learn(60, False, 0)
        lived.learn(5, True, 256)
    assert lived.at(60) < 0.5 < lived.at(5)
    assert lived.at(600) < 0.5
    assert lived.block == 256


def test_memory_is_bounded_and_holds_no_text() -> None:
    known = Prefixes()
    for number in range(2000):
        known.computed(known.look("r", [f"{number} " * 3000], float(number)), float(number))
    assert len(known._seen) <= MARKS
    assert all(isinstance(mark, int) for mark in known._seen)
    other = Prefixes()
    assert not other._seen.keys() & known._seen.keys()
    assert other.look("r", [BEGINNING], 0.0).marks != known.look("r", [BEGINNING], 0.0).marks


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=900), max_size=8), st.lists(st.text(max_size=900), max_size=8), st.integers(1, 10**6))
def test_never_more_than_what_is_common(one: list[str], two: list[str], tokens: int) -> None:
    known = Prefixes()
    known.computed(known.look("r", one, 0.0), 0.0)
    found = known.look("r", two, 1.0)
    alike = 0
    for a, b in zip("\0".join(one) + "\0", "\0".join(two) + "\0", strict=False):
        if a != b:
            break
        alike += 1
    assert found.known <= alike
    assert 0 <= expected(found, Survival(), "elsewhere", tokens).tokens < max(1, tokens)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_looks_although_the_lock_was_held() -> None:
    prefixes = Prefixes()
    prefixes.computed(prefixes.look("r", ["x" * 1000], 0.0), 1.0)
    with prefixes._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a deadlock ends the child
            found = prefixes.look("r", ["x" * 1000], 2.0)
            os._exit(0 if found.prefix is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
