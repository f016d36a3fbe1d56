"""Why phases are merged: one sentence, made in one place, with the figures and what would help."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrace.analyze import contract
from llmtrace.phases import merged, model
from llmtrace.phases.model import Unknown
from llmtrace.phases.observation import Observation

MS = 1_000_000
BURST = Observation(0, 902 * MS, True, first_token=900 * MS, last_chunk=902 * MS, chunks=20)
SAID = {
    **{name: value for name, value in vars(merged).items() if isinstance(value, Unknown)},
    "in_one_burst": merged.in_one_burst(BURST),
    "few_calls": merged.few_calls(12, 30),
    "narrow_spread": merged.narrow_spread(1.2, 4.0),
}


@pytest.mark.parametrize("name", SAID)
def test_each_reason_that_is_given_says_what_would_help(name: str) -> None:
    why = SAID[name]
    assert why.reason in model.REASONS
    states, _, remedy = why.detail.partition("; ")
    assert states
    assert remedy
    assert contract.because(why.reason, why.detail) == f"{why.detail} ({why.reason})"


def test_figures() -> None:
    assert SAID["few_calls"].detail.startswith("12 of 30 calls on this route; 18 more")
    assert "factor of 1.2" in SAID["narrow_spread"].detail
    assert "20 chunks came within 2 ms after 900 ms" in SAID["in_one_burst"].detail
    assert "stream_options" in SAID["USAGE_MISSING"].detail


@pytest.mark.parametrize("reason", model.REASONS)
def test_without_a_detail_the_meaning_and_the_remedy_of_each_reason_stand_there(reason: str) -> None:
    means, helps = contract.REASONS[reason]
    assert means
    assert helps
    assert contract.because(reason) == f"{means}; {helps} ({reason})"


@pytest.mark.parametrize(
    ("told", "detail", "sentence"),
    [
        ("new_one", None, "new_one"),
        ("new_one", "it was a Tuesday; wait", "it was a Tuesday; wait (new_one)"),
        ("few_calls,new_one", "12 of 30", "12 of 30 (few_calls, new_one)"),
        (["few_calls", "new_one"], "", f"{'; '.join(contract.REASONS['few_calls'])} (few_calls, new_one)"),
        ((), "12 of 30", "12 of 30"),
        (None, None, None),
        ("", "", None),
        (7, 8, None),
    ],
)
def test_whatever_a_file_says(told: Any, detail: Any, sentence: str | None) -> None:
    assert contract.because(told, detail) == sentence
