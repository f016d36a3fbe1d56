"""What the cache might have given: which loss is told of which history."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrace.estimate.losses import (
    BELOW_MINIMUM,
    EVICTED,
    IDLE,
    PREFIX_CHANGED,
    ROUTE_CHANGED,
    TEXTS,
    Loss,
    Texts,
    loss,
)
from llmtrace.estimate.prefixes import Prefixes, Survival, expected

SYSTEM, DOCUMENT, QUESTION = "You are an assistant. " * 100, "A long document. " * 200, "What does it say? " * 10
WHO = ("m-1", "fp", None)


class History:
    """Calls of one client, with four characters to the token."""

    def __init__(self) -> None:
        self.prefixes, self.survival, self.now = Prefixes(), Survival(), 0.0

    def call(self, texts: list[str], cached: int, **changes: Any) -> Loss | None:
        route, who = changes.get("route", "r"), changes.get("who", WHO)
        self.now += changes.get("gap", 10.0)
        prompt = self.prefixes.look(route, texts, self.now)
        tokens = prompt.size // 4
        told = expected(prompt, self.survival, "", tokens)
        assert prompt.lineage is not None
        lost = loss(prompt.lineage, prompt.size, told, who, tokens, cached, changes.get("least", 16))
        self.prefixes.computed(prompt, self.now, who)
        return lost


def test_a_new_prompt_and_one_that_goes_on_lose_nothing() -> None:
    history = History()
    assert history.call([SYSTEM, QUESTION], 0) is None
    assert history.call([SYSTEM, QUESTION, "An answer. " * 30, "And then? " * 20], len(SYSTEM + QUESTION) // 4) is None


def test_a_beginning_that_changed_costs_what_stands_behind_it() -> None:
    history = History()
    history.call(["It is 10:00. " + SYSTEM, DOCUMENT, QUESTION], 0)
    lost = history.call(["It is 10:05. " + SYSTEM, DOCUMENT, QUESTION], 0)
    assert lost is not None
    assert (lost.reason, lost.text, lost.near) == (PREFIX_CHANGED, 0, 0)
    assert lost.tokens == pytest.approx(len(DOCUMENT + QUESTION) / 4, rel=0.02)


def test_a_history_without_its_oldest_message_changed_there() -> None:
    history = History()
    history.call([SYSTEM, "first " * 50, DOCUMENT, QUESTION], 0)
    lost = history.call([SYSTEM, DOCUMENT, QUESTION, "new " * 50], len(SYSTEM) // 4)
    assert lost is not None
    assert (lost.reason, lost.text) == (PREFIX_CHANGED, 1)
    assert lost.near == pytest.approx(len(SYSTEM) / 4, abs=16)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, EVICTED),
        ({"gap": 100_000.0}, IDLE),
        ({"route": "other"}, ROUTE_CHANGED),
        ({"who": ("m-2", "fp", None)}, ROUTE_CHANGED),
        ({"who": (None, None, None)}, EVICTED),
    ],
)
def test_a_known_beginning_that_was_not_cached(changes: dict[str, Any], reason: str) -> None:
    history = History()
    history.call([SYSTEM, DOCUMENT], 0)
    lost = history.call([SYSTEM, DOCUMENT], 0, **changes)
    assert lost is not None
    assert lost.reason == reason
    assert lost.tokens == pytest.approx(len(SYSTEM + DOCUMENT) / 4, rel=0.1)


def test_two_routes_in_turn_each_have_a_cache_of_their_own() -> None:
    history = History()
    for route in "ab":
        history.call([SYSTEM, DOCUMENT], 0, route=route)
    assert history.call([SYSTEM, DOCUMENT], len(SYSTEM + DOCUMENT) // 4, route="a") is None


def test_a_prompt_below_the_least_that_is_cached() -> None:
    history, short = History(), "Be brief. " * 20
    history.call([short], 0, least=1024)
    lost = history.call([short], 0, least=1024)
    assert lost is None or lost.reason == BELOW_MINIMUM


def test_what_is_remembered_is_bounded() -> None:
    texts = Texts()
    for number in range(TEXTS + 100):
        texts.computed(texts.look("r", [f"text number {number}"]), WHO)
    assert len(texts._seen) <= 2 * TEXTS
